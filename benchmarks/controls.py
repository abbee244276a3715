"""Do the scores say "induction" where there is induction, and only there? Trains small models that
must and must not show it.

* A one-layer model cannot form an induction head (it takes a previous-token head in an earlier
  block: Elhage et al. 2021); its induction score must stay below 0.2, while the two-layer model's
  passes 0.5.
* The previous-token head must come before the induction head that is built on it, in at least 4 of
  5 seeds. Which comes first can be asked of the roles as they are labeled, or of the pair of heads
  alone, on the same row of the probe and at the same score; and it can be asked of the model
  instead: silence heads of the blocks below at the very onset, and see what is left of induction.

    python benchmarks/controls.py            # about ten minutes on one core; writes controls.json
    and controls.md beside this file
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_demo import TrainedDemo, train_demo

from tracker_viz.capture import Probe, Schedule, record
from tracker_viz.comparison import ComparedRun, distance_matrix
from tracker_viz.demo.model import Decoder
from tracker_viz.metrics import Role, Scorer, ScoreSeries, head_name, onsets, run_onsets
from tracker_viz.types import Capture

HERE = Path(__file__).parent
ONE_LAYER_LIMIT, TWO_LAYER_LIMIT, NEEDED_ORDER = 0.2, 0.5, 4
EVERY = 5
# Which comes first must not hang on where the line is drawn; 0.3 is the roles' own.
LEVELS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--one-layer-seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    logging.getLogger("tracker_viz").setLevel(
        logging.WARNING
    )  # every model with a head silenced would introduce itself
    jobs = [(1, seed) for seed in range(options.one_layer_seeds)] + [
        (2, seed) for seed in range(options.seeds)
    ]
    runs, two_layers = [], []
    for n_blocks, seed in jobs:
        started = time.perf_counter()
        demo = train_demo(n_blocks=n_blocks, seed=seed, steps=options.steps, every=EVERY)
        runs.append({"n_blocks": n_blocks, "seed": seed, "steps": options.steps, **observed(demo)})
        if n_blocks == 2:
            two_layers.append(ComparedRun(f"seed {seed}", demo.series, {"seed": seed}))
        print(json.dumps({**runs[-1], "seconds": round(time.perf_counter() - started)}), flush=True)
    write(runs, distances(two_layers))


def write(runs: list[dict[str, Any]], alike: dict[str, float]) -> None:
    kept = {"runs": runs, "verdicts": verdicts(runs), "order": order(runs), "distances": alike}
    (HERE / "controls.json").write_text(json.dumps(kept, indent=1) + "\n")
    (HERE / "controls.md").write_text(report(runs, alike))
    print(report(runs, alike))


def distances(runs: list[ComparedRun]) -> dict[str, float]:
    """Measure how alike the seeds' heads became, beside a run and itself, and beside heads that are
    paired at random."""
    matrix = distance_matrix(runs)
    pairs = np.triu_indices(len(runs), 1)
    return {
        "a run and itself": round(float(matrix.overall.diagonal().max()), 4),
        "two seeds, mean": round(float(matrix.overall[pairs].mean()), 4),
        "two seeds, least": round(float(matrix.overall[pairs].min()), 4),
        "two seeds, most": round(float(matrix.overall[pairs].max()), 4),
        "two seeds, heads paired at random within blocks": round(
            float(matrix.shuffled[pairs].mean()), 4
        ),
        "two seeds, heads paired at random within the model": round(
            float(distance_matrix(runs, scope="model").shuffled[pairs].mean()), 4
        ),
    }


def observed(demo: TrainedDemo) -> dict[str, Any]:
    """Return the highest value of each score, the first lasting onset of each role, and the heads
    that an induction head was built on."""
    series = demo.series
    seen: dict[str, Any] = {
        f"{name}_max": highest(series, name)
        for name in ("previous_token", "previous_token_repeated", "induction")
    }
    formed = run_onsets(series)
    for role in ("previous_token", "induction"):
        onset = formed[role]
        seen[f"{role}_onset"] = None
        if onset.formed and onset.head:
            seen[f"{role}_onset"] = [onset.step, head_name(*onset.head)]
    seen["loss_end"] = round(float(series.metrics["loss"][-1]), 3)
    carrier = formed["induction"].head
    if not formed["induction"].formed or not carrier or carrier[0] == 0:
        return seen
    # Only in the blocks before the induction head can the head be that it is built on.
    below = carrier[0]
    for name in ("previous_token", "previous_token_repeated"):
        seen[f"{name}_below_max"] = highest(series, name, below)
        seen[f"{name}_below_at"] = crossings(series, name, below)
    seen["induction_at"] = crossings(series, "induction", series.shape[0])
    assert demo.at_onset is not None, "a model in which a head had an onset was kept at it"
    seen["at_onset"] = dependence(demo.at_onset, demo.probe, below)
    seen["at_end"] = dependence(demo.model, demo.probe, below)
    return seen


def highest(series: ScoreSeries, name: str, n_blocks: int | None = None) -> float:
    return round(float(np.nanmax(series.heads[name][:, :n_blocks])), 3)


def first_onset(
    series: ScoreSeries, name: str, level: float, n_blocks: int | None = None
) -> tuple[int, tuple[int, int]] | None:
    """(step, head) of the first onset of a score at ``level``, by the evidence that a role needs,
    among the first ``n_blocks`` blocks."""
    found = onsets(series, (Role(name, enter=level, leave=level * 2 / 3),))
    return next(
        (
            (one.step, (one.block, one.head))
            for one in found
            if n_blocks is None or one.block < n_blocks
        ),
        None,
    )


def crossings(series: ScoreSeries, name: str, n_blocks: int) -> list[int | None]:
    """Step of the first onset at each of ``LEVELS``."""
    found = (first_onset(series, name, level, n_blocks) for level in LEVELS)
    return [onset and onset[0] for onset in found]


def dependence(model: Decoder, probe: Probe, below: int) -> dict[str, Any]:
    """The best induction score, whole and without heads of the blocks below: the best
    previous-token head, the others one by one, all."""
    whole = scores_of(model, probe, [])
    heads = [(block, head) for block in range(below) for head in range(whole["induction"].shape[1])]
    previous = max(heads, key=lambda head: whole["previous_token_repeated"][head])
    induction = {head: best(scores_of(model, probe, [head])["induction"]) for head in heads}
    return {
        "previous-token head": head_name(*previous),
        "its score": round(float(whole["previous_token_repeated"][previous]), 3),
        "induction": best(whole["induction"]),
        "without it": induction.pop(previous),
        "without another, least": min(induction.values()),
        "without all": best(scores_of(model, probe, heads)["induction"]),
    }


def scores_of(
    model: Decoder, probe: Probe, silenced: list[tuple[int, int]]
) -> dict[str, np.ndarray]:
    captures: list[Capture] = []
    record(
        without_heads(model, silenced),
        probe,
        Schedule.every(1),
        captures.append,
    ).close()
    scored = Scorer()(captures[0]).arrays
    return {
        name: scored[f"scores.head.{name}"] for name in ("previous_token_repeated", "induction")
    }


def best(scores: np.ndarray) -> float:
    return round(float(np.nanmax(scores)), 3)


def order(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """name -> level -> in how many seeds that score crosses it before, with (at the same capture)
    and after induction."""
    formed = [run for run in runs if "induction_at" in run]
    return {
        name: {
            str(level): sides([(run[name][index], run["induction_at"][index]) for run in formed])
            for index, level in enumerate(LEVELS)
        }
        for name in ("previous_token_below_at", "previous_token_repeated_below_at")
    }


def sides(steps: list[tuple[int | None, int | None]]) -> dict[str, int]:
    """On which side of the second step the first one lies, counted; a first that never was comes
    after."""
    reached = [
        (math.inf if one is None else one, other) for one, other in steps if other is not None
    ]
    return {
        "before": sum(one < other for one, other in reached),
        "with": sum(one == other for one, other in reached),
        "after": sum(one > other for one, other in reached),
    }


def verdicts(runs: list[dict[str, Any]]) -> dict[str, bool]:
    one, two = ([run for run in runs if run["n_blocks"] == n_blocks] for n_blocks in (1, 2))
    formed = [run for run in two if "at_onset" in run]
    roles = sides(
        [((run["previous_token_onset"] or [None])[0], run["induction_onset"][0]) for run in formed]
    )
    own = order(two)["previous_token_repeated_below_at"]["0.3"]
    needed = min(NEEDED_ORDER, len(two))
    built_on = [run for run in formed if run["at_onset"]["without all"] < ONE_LAYER_LIMIT]
    n = len(two)
    return {
        "one layer stays below 0.2": all(run["induction_max"] < ONE_LAYER_LIMIT for run in one),
        "two layers pass 0.5": all(run["induction_max"] > TWO_LAYER_LIMIT for run in two),
        "roles: a head is labeled previous token before one is labeled induction "
        f"({roles['before']} of {n} seeds, and at the same "
        f"capture in {roles['with']})": roles["before"] >= needed,
        "the pair: the previous-token head below has 0.3 among random tokens before the "
        f"induction head has ({own['before']} of {n} seeds, "
        f"and at the same capture in {own['with']})": own["before"] >= needed,
        (
            "the model: at its onset, without the heads below, induction is as low as a one-layer "
            f"model's ({len(built_on)} of {n} seeds)"
        ): len(built_on) >= needed,
    }


def report(runs: list[dict[str, Any]], alike: dict[str, float]) -> str:
    lines = [
        (
            "# Controls: what the induction score says of models that can and cannot form "
            "induction heads"
        ),
        "",
        (
            "Written by `python benchmarks/controls.py`: the demo's recipe, 4 heads a block, "
            f"{runs[0]['steps']} steps, scored every {EVERY}."
        ),
        (
            "The onset is that of the role's strongest head, as the product finds it (roles on "
            "evidence, `tracker_viz/metrics/onsets.py`),"
        ),
        (
            "scored on repeated random tokens with hidden rows of other periods. *Max* is over the "
            "whole probe, text and repeats;"
        ),
        (
            "*below* is the best head of the blocks before the induction head, where the "
            "previous-token head must be that it is built on,"
        ),
        "on repeats alone. Uniform attention scores 0.05 here, for all three.",
        "",
        (
            "| layers | seed | previous token: max | onset | below: max | reaches 0.3 | induction: "
            "max | onset | final loss |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    own = LEVELS.index(0.3)
    for run in runs:
        at = run.get("previous_token_repeated_below_at")
        cells = [
            run["n_blocks"],
            run["seed"],
            run["previous_token_max"],
            run["previous_token_onset"],
        ]
        cells += [run.get("previous_token_repeated_below_max", "–"), at[own] if at else "–"]
        lines.append(
            "| "
            + " | ".join(
                map(cell, [*cells, run["induction_max"], run["induction_onset"], run["loss_end"]])
            )
            + " |"
        )
    lines += [
        "",
        *(f"- {claim}: **{'yes' if holds else 'NO'}**" for claim, holds in verdicts(runs).items()),
        "",
    ]
    lines += [
        "## Which comes first?",
        "",
        (
            "In how many seeds the previous-token head below crosses a score before, at the same "
            "capture as, and after the induction head"
        ),
        f"({EVERY} steps lie between captures; by the evidence that a role needs):",
        "",
        "| score | " + " | ".join(map(str, LEVELS)) + " |",
        "|---" * (len(LEVELS) + 1) + "|",
    ]
    rows = {
        "previous_token_below_at": "over the whole probe",
        "previous_token_repeated_below_at": "among random tokens",
    }
    for name, found in order(runs).items():
        lines.append(
            f"| {rows[name]} | "
            + " | ".join(f"{n['before']} / {n['with']} / {n['after']}" for n in found.values())
            + " |"
        )
    lines += [
        "",
        (
            "And the best induction score with heads of the blocks below silenced: at the very "
            "capture at which it first has 0.3, and at the"
        ),
        "end.",
        "",
        (
            "| seed | when | previous-token head below | its score | induction | without that head "
            "| without another, least | without all |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        for when in ("at_onset", "at_end") if "at_onset" in run else ():
            lines.append(
                f"| {run['seed']} | {when.replace('_', ' ')} | "
                + " | ".join(map(cell, run[when].values()))
                + " |"
            )
    lines += [
        "",
        "## How alike are seeds?",
        "",
        "Specialisation distance between the two-layer models (`tracker_viz.comparison`, 0..1):",
        "",
    ]
    lines += [*(f"- {which}: {value}" for which, value in alike.items()), ""]
    return "\n".join(lines)


def cell(value: Any) -> str:
    return (
        "never"
        if value is None
        else f"{value[0]} ({value[1]})"
        if isinstance(value, list)
        else str(value)
    )


def without_heads(model: Decoder, silenced: Sequence[tuple[int, int]]) -> Decoder:
    """A copy of the model in which these (block, head) add nothing to the residual stream."""
    model = copy.deepcopy(model)
    width = model.config.head_dim
    with torch.no_grad():
        for block, head in silenced:
            own = slice(head * width, (head + 1) * width)
            model.blocks[block].attn.o_proj.weight[:, own] = 0  # type: ignore[union-attr, index]
    return model


if __name__ == "__main__":
    main()
