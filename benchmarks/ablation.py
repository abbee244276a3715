"""Does the label "induction" mean what it says? Silences heads of a trained model and looks at what it can no longer do.

A head is silenced by zeroing the columns of ``o_proj`` that read it. Silencing the heads labelled "induction" must hurt the loss on
the later copies of repeated spans more than silencing as many random other heads. (Among those are the previous-token heads
on which induction heads are built: silencing one of them may hurt as much, and the report says how many random sets did.)

    python benchmarks/ablation.py            # a few minutes; writes ablation.json and ablation.md beside this file
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from train_demo import TrainedDemo, train_demo

from tracker_viz.demo.data import second_copies
from tracker_viz.demo.model import Decoder
from tracker_viz.metrics import ROLES, head_name, head_roles

HERE = Path(__file__).parent
Head = tuple[int, int]
MOST_OTHER_SETS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    demo = train_demo(seed=options.seed, steps=options.steps)
    result = {"seed": options.seed, "steps": options.steps, **ablate(demo)}
    (HERE / "ablation.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "ablation.md").write_text(report(result))
    print(report(result))


def ablate(demo: TrainedDemo) -> dict[str, Any]:
    """Losses of the whole model, with the heads of each role silenced, and with as many random other heads as induction has."""
    final = head_roles(demo.series)[0][-1]
    heads = list(itertools.product(*map(range, final.shape)))
    of_role = {role.name: [head for head in heads if final[head] == index] for index, role in enumerate(ROLES)}
    induction = of_role["induction"]
    if not induction:
        raise SystemExit(f"seed and steps gave no induction head; the highest score was {demo.series.heads['induction'].max():.2f}")
    sets = list(itertools.combinations([head for head in heads if head not in induction], len(induction)))
    random.Random(0).shuffle(sets)
    of_others = sorted((losses(demo, chosen)["later copies"], [head_name(*head) for head in chosen]) for chosen in sets[:MOST_OTHER_SETS])
    silenced = {role: losses(demo, chosen) for role, chosen in of_role.items() if chosen}
    hurt = silenced["induction"]["later copies"]
    return {
        "roles": {role: [head_name(*head) for head in chosen] for role, chosen in of_role.items()},
        "whole model": losses(demo, []),
        "silenced by role": silenced,
        "each head alone": {head_name(*head): losses(demo, [head]) for head in heads},
        "random sets": {
            "number": len(of_others),
            "mean": sum(loss for loss, _ in of_others) / len(of_others),
            "median": of_others[len(of_others) // 2][0],
            "worst": of_others[-1],
            "hurt less than induction": sum(loss < hurt for loss, _ in of_others),
        },
    }


def losses(demo: TrainedDemo, silenced: Sequence[Head]) -> dict[str, float]:
    """Nats per token on held-out text, and on the later copies of unseen repeated spans."""
    text, repeats = demo.mixture.validation_rows(64)
    model = without_heads(demo.model, silenced)
    with torch.no_grad():
        on_text, on_repeats = (
            F.cross_entropy(model(rows[:, :-1]).transpose(1, 2), rows[:, 1:], reduction="none") for rows in (text, repeats)
        )
    return {"text": round(on_text.mean().item(), 4), "later copies": round(on_repeats[second_copies(repeats)[:, 1:]].mean().item(), 4)}


def without_heads(model: Decoder, silenced: Sequence[Head]) -> Decoder:
    """A copy of the model in which these (block, head) add nothing to the residual stream."""
    model = copy.deepcopy(model)
    width = model.config.head_dim
    with torch.no_grad():
        for block, head in silenced:
            model.blocks[block].attn.o_proj.weight[:, head * width : (head + 1) * width] = 0  # type: ignore[union-attr, index]
    return model


def report(result: dict[str, Any]) -> str:
    whole, others = result["whole model"], result["random sets"]
    n_induction = len(result["roles"]["induction"])
    lines = [
        "# Ablation: what a model loses without the heads that carry a label",
        "",
        f"Written by `python benchmarks/ablation.py`: the demo's model (4 blocks x 4 heads), seed {result['seed']},",
        f"{result['steps']} steps. Loss in nats per token on 64 held-out rows each; later copies are the tokens of repeated random spans",
        "that can be predicted by looking back.",
        "",
        "| silenced | heads | later copies | text |",
        "|---|---|---|---|",
        f"| nothing | | {whole['later copies']:.3f} | {whole['text']:.3f} |",
    ]
    for role, loss in result["silenced by role"].items():
        lines.append(f"| all labelled {role} | {', '.join(result['roles'][role])} | {loss['later copies']:.3f} | {loss['text']:.3f} |")
    lines += [
        f"| {n_induction} random others, median of {others['number']} sets | | {others['median']:.3f} | |",
        f"| {n_induction} random others, worst set | {', '.join(others['worst'][1])} | {others['worst'][0]:.3f} | |",
        "",
        f"Silencing the {n_induction} induction heads hurts more than {others['hurt less than induction']} of {others['number']}",
        "random sets of as many other heads.",
        "",
        "Each head alone, later copies: "
        + ", ".join(f"{head} {loss['later copies']:.2f}" for head, loss in result["each head alone"].items())
        + ".",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
