"""Does the label "induction" mean what it says? Silences heads of a trained model and looks at what
it can no longer do.

A head is silenced by zeroing the columns of ``o_proj`` that read it. Silencing the heads labelled
"induction" must hurt the loss on the later copies of repeated spans more than silencing as many
random other heads. Induction heads are built on heads in earlier blocks that are labelled
"previous_token": a random set that holds one of those silences the same circuit, so sets with and
without one are told apart.

    python benchmarks/ablation.py            # a few minutes; writes ablation.json and ablation.md
    beside this file
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    demo = train_demo(seed=options.seed, steps=options.steps)
    result = {"seed": options.seed, "steps": options.steps, **ablate(demo)}
    (HERE / "ablation.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "ablation.md").write_text(report(result))
    print(report(result))


def ablate(demo: TrainedDemo) -> dict[str, Any]:
    """Losses of the whole model, with the heads of each role silenced, and with as many random
    other heads as induction has."""
    final = head_roles(demo.series)[0][-1]
    heads = list(itertools.product(*map(range, final.shape)))
    of_role = {
        role.name: [head for head in heads if final[head] == index]
        for index, role in enumerate(ROLES)
    }
    induction = of_role["induction"]
    if not induction:
        raise SystemExit(
            "seed and steps gave no induction head; the highest score was "
            f"{demo.series.heads['induction'].max():.2f}"
        )
    sets = list(
        itertools.combinations([head for head in heads if head not in induction], len(induction))
    )
    random.Random(0).shuffle(sets)
    first_block = min(block for block, _ in induction)
    below = {head for head in of_role["previous_token"] if head[0] < first_block}
    of_others: dict[str, list[tuple[float, list[str]]]] = {"without": [], "with": []}
    for chosen in sets[:MOST_OTHER_SETS]:
        names = [head_name(*head) for head in chosen]
        of_others["with" if below & set(chosen) else "without"].append(
            (losses(demo, chosen)["later copies"], names)
        )
    silenced = {role: losses(demo, chosen) for role, chosen in of_role.items() if chosen}
    hurt = silenced["induction"]["later copies"]
    return {
        "roles": {role: [head_name(*head) for head in chosen] for role, chosen in of_role.items()},
        "whole model": losses(demo, []),
        "silenced by role": silenced,
        "each head alone": {head_name(*head): losses(demo, [head]) for head in heads},
        "previous-token heads below": [head_name(*head) for head in sorted(below)],
        "random sets": {
            which: summed_up(found, hurt) for which, found in of_others.items() if found
        },
    }


def summed_up(sets: list[tuple[float, list[str]]], hurt: float) -> dict[str, Any]:
    """Losses of some random sets, beside ``hurt``, that without the induction heads."""
    ordered = sorted(sets)
    return {
        "number": len(ordered),
        "median": ordered[len(ordered) // 2][0],
        "worst": ordered[-1],
        "hurt less than induction": sum(loss < hurt for loss, _ in ordered),
    }


def losses(demo: TrainedDemo, silenced: Sequence[Head]) -> dict[str, float]:
    """Nats per token on held-out text, and on the later copies of unseen repeated spans."""
    text, repeats = demo.mixture.validation_rows(64)
    model = without_heads(demo.model, silenced)
    with torch.no_grad():
        on_text, on_repeats = (
            F.cross_entropy(model(rows[:, :-1]).transpose(1, 2), rows[:, 1:], reduction="none")
            for rows in (text, repeats)
        )
    return {
        "text": round(on_text.mean().item(), 4),
        "later copies": round(on_repeats[second_copies(repeats)[:, 1:]].mean().item(), 4),
    }


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
        (
            "Written by `python benchmarks/ablation.py`: the demo's model (4 blocks x 4 heads), "
            f"seed {result['seed']},"
        ),
        (
            f"{result['steps']} steps. Loss in nats per token on 64 held-out rows each; later "
            "copies are the tokens of repeated random spans"
        ),
        "that can be predicted by looking back.",
        "",
        "| silenced | heads | later copies | text |",
        "|---|---|---|---|",
        f"| nothing | | {whole['later copies']:.3f} | {whole['text']:.3f} |",
    ]
    for role, loss in result["silenced by role"].items():
        lines.append(
            f"| all labelled {role} | {', '.join(result['roles'][role])} | "
            f"{loss['later copies']:.3f} | {loss['text']:.3f} |"
        )
    below = ", ".join(result["previous-token heads below"]) or "none"
    kinds = {
        "without": f"without a previous-token head below ({below})",
        "with": f"with a previous-token head below ({below})",
    }
    for which, found in others.items():
        lines.append(
            f"| {n_induction} random others {kinds[which]}: median of {found['number']} sets | | "
            f"{found['median']:.3f} | |"
        )
        lines.append(
            f"| {n_induction} random others {kinds[which]}: worst set | "
            f"{', '.join(found['worst'][1])} | {found['worst'][0]:.3f} | |"
        )
    lines += [
        "",
        (
            "*Below*: in a block before the first induction head, which is built on it; silencing "
            "it silences the same circuit."
        ),
        *(
            f"Silencing the {n_induction} induction heads hurts more than "
            f"{found['hurt less than induction']} of {found['number']} random "
            f"sets {kinds[which]}."
            for which, found in others.items()
        ),
        "",
        "Each head alone, later copies: "
        + ", ".join(
            f"{head} {loss['later copies']:.2f}" for head, loss in result["each head alone"].items()
        )
        + ".",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
