"""Check that the scores show induction where there is induction, and only there.

    python benchmarks/controls.py            # about ten minutes on one core

Trains small models that must, and must not, show it.

* A one-layer model cannot form an induction head, which needs a previous-token head in an earlier
  block (Elhage et al. 2021). Its induction score must stay below 0.2, while that of a two-layer
  model passes 0.5.
* The previous-token head must come before the induction head that is built on it, in at least 4 of
  5 seeds. This is checked in three ways: by the roles as they are labeled; by the pair of heads
  alone, on the same row of the probe and at the same score; and by ablation, which removes heads of
  the earlier blocks at the onset and measures what is left of induction.

Writes controls.json and controls.md beside this file.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from measuring import options_parser, table, wrapped, write_results
from train_demo import TrainedDemo, train_demo

from tracker_viz.capture import Probe, Schedule, record
from tracker_viz.comparison import ComparedRun, distance_matrix
from tracker_viz.demo.model import Decoder
from tracker_viz.metrics import Role, Scorer, ScoreSeries, head_name, onsets, run_onsets
from tracker_viz.types import Capture

ONE_LAYER_LIMIT, TWO_LAYER_LIMIT, NEEDED_ORDER = 0.2, 0.5, 4
EVERY = 5
ROLES_LEVEL = 0.3
# Which head comes first must not depend on where the line is.
LEVELS = (0.1, 0.15, 0.2, ROLES_LEVEL, 0.4, 0.5)
ORDERED = {
    "previous_token_below_at": "over the whole probe",
    "previous_token_repeated_below_at": "on repeated random tokens",
}
PAGE = """
# Controls: the induction score of models that can and cannot form induction heads

Measured by `python benchmarks/controls.py` with the demo's recipe, 4 heads a block, in {steps:,}
training steps. A model is scored every {every} steps. An onset is that of the role's strongest
head, as the package finds it (`tracker_viz/metrics/onsets.py`), on repeated random tokens with
hidden rows of other periods. *Max* is over the whole probe, text and repeats. *Below* is the best
head in the blocks before the induction head, on repeats alone: the previous-token head that
induction is built on must be there. Uniform attention scores 0.05 here, for all three.

{models}

{verdicts}

## Which comes first?

For several scores, the table counts the seeds in which the previous-token head below crosses the
score before the induction head does, at the same capture, and after it. Captures are {every} steps
apart. Crossing a score needs the same evidence as a role.

{order}

The next table has the best induction score with heads of the blocks below ablated, at the first
capture where it is {roles_level} and at the end.

{ablated}

## How alike are seeds?

Specialization distance between the two-layer models (`tracker_viz.comparison`, 0..1):

{distances}
"""


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--one-layer-seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    # Otherwise every model with an ablated head logs what was found in it.
    logging.getLogger("tracker_viz").setLevel(logging.WARNING)
    models = [(1, seed) for seed in range(options.one_layer_seeds)]
    models += [(2, seed) for seed in range(options.seeds)]
    runs, two_layers = [], []
    for n_blocks, seed in models:
        demo = train_demo(n_blocks=n_blocks, seed=seed, steps=options.steps, every=EVERY)
        runs.append({"n_blocks": n_blocks, "seed": seed, **observed(demo)})
        if n_blocks == 2:
            two_layers.append(ComparedRun(f"seed {seed}", demo.series, {"seed": seed}))
        print(json.dumps(runs[-1]), flush=True)
    found = {
        "steps": options.steps,
        "every": EVERY,
        "levels": LEVELS,
        "roles_level": ROLES_LEVEL,
        "runs": runs,
        "distances": distances(two_layers),
    }
    write_results("controls", found, report, options.output)


def distances(runs: list[ComparedRun]) -> dict[str, float]:
    """Return how alike the seeds' heads became, and how alike heads are that are paired at
    random."""
    matrix = distance_matrix(runs)
    pairs = np.triu_indices(len(runs), 1)
    within_model = distance_matrix(runs, scope="model").shuffled[pairs].mean()
    measured = {
        "a run and itself": matrix.overall.diagonal().max(),
        "two seeds, mean": matrix.overall[pairs].mean(),
        "two seeds, least": matrix.overall[pairs].min(),
        "two seeds, most": matrix.overall[pairs].max(),
        "two seeds, heads paired at random within blocks": matrix.shuffled[pairs].mean(),
        "two seeds, heads paired at random within the model": within_model,
    }
    return {name: round(float(value), 4) for name, value in measured.items()}


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
    # An induction head can only build on heads in the blocks before it.
    below = carrier[0]
    for name in ("previous_token", "previous_token_repeated"):
        seen[f"{name}_below_max"] = highest(series, name, below)
        seen[f"{name}_below_at"] = crossings(series, name, below)
    seen["induction_at"] = crossings(series, "induction", series.shape[0])
    assert demo.at_onset is not None, "train_demo keeps the model at its onset"
    seen["at_onset"] = dependence(demo.at_onset, demo.probe, below)
    seen["at_end"] = dependence(demo.model, demo.probe, below)
    return seen


def highest(series: ScoreSeries, name: str, n_blocks: int | None = None) -> float:
    """Return the highest value of a score in the first ``n_blocks`` blocks; None: in all."""
    return round(float(np.nanmax(series.heads[name][:, :n_blocks])), 3)


def first_onset(series: ScoreSeries, name: str, level: float, n_blocks: int) -> int | None:
    """Return the step of the first onset of a score at ``level`` in the first ``n_blocks`` blocks.

    It needs the same evidence as the onset of a role.
    """
    for onset in onsets(series, (Role(name, enter=level, leave=level * 2 / 3),)):
        if onset.block < n_blocks:
            return onset.step
    return None


def crossings(series: ScoreSeries, name: str, n_blocks: int) -> list[int | None]:
    """Return the step of the first onset at each of ``LEVELS``."""
    return [first_onset(series, name, level, n_blocks) for level in LEVELS]


def dependence(model: Decoder, probe: Probe, below: int) -> dict[str, Any]:
    """Return the best induction score of the whole model and without heads of the blocks below.

    Ablated are the best previous-token head, each of the others, and all of them.
    """
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
    model: Decoder, probe: Probe, ablated: list[tuple[int, int]]
) -> dict[str, np.ndarray]:
    """Return the scores [block, head] of a model without some of its heads."""
    captures: list[Capture] = []
    record(without_heads(model, ablated), probe, Schedule.every(1), captures.append).close()
    scored = Scorer()(captures[0]).arrays
    return {
        name: scored[f"scores.head.{name}"] for name in ("previous_token_repeated", "induction")
    }


def without_heads(model: Decoder, ablated: Sequence[tuple[int, int]]) -> Decoder:
    """Return a copy of the model in which these (block, head) add nothing to the residual."""
    model = copy.deepcopy(model)
    width = model.config.head_dim
    with torch.no_grad():
        for block, head in ablated:
            own = slice(head * width, (head + 1) * width)
            model.blocks[block].attn.o_proj.weight[:, own] = 0  # type: ignore[union-attr, index]
    return model


def best(scores: np.ndarray) -> float:
    return round(float(np.nanmax(scores)), 3)


# -- page


def report(found: dict[str, Any]) -> str:
    """Return the page of the results."""
    ablated = []
    for run in found["runs"]:
        for when in ("at_onset", "at_end"):
            if when in run:
                row = {"seed": run["seed"], "when": when.replace("_", " "), **run[when]}
                ablated.append(row)
    tables = {
        "models": table([model_row(run, found) for run in found["runs"]]),
        "order": table(order_rows(found)),
        "ablated": table(ablated, text=("when", "previous-token head")),
    }
    lists = {
        "verdicts": "\n".join(f"* {verdict}" for verdict in verdicts(found)),
        "distances": "\n".join(f"* {pair}: {is_}" for pair, is_ in found["distances"].items()),
    }
    return wrapped(PAGE.format(**(found | tables | lists)))


def model_row(run: dict[str, Any], found: dict[str, Any]) -> dict[str, object]:
    """Return the row of one model."""
    below_max = below_at = "–"
    if "at_onset" in run:
        below_max = run["previous_token_repeated_below_max"]
        own = found["levels"].index(found["roles_level"])
        below_at = run["previous_token_repeated_below_at"][own]
    return {
        "layers": run["n_blocks"],
        "seed": run["seed"],
        "previous token: max": run["previous_token_max"],
        "onset": onset_words(run["previous_token_onset"]),
        "below: max": below_max,
        f"reaches {found['roles_level']}": below_at,
        "induction: max": run["induction_max"],
        "induction: onset": onset_words(run["induction_onset"]),
        "final loss": run["loss_end"],
    }


def onset_words(onset: list[Any] | None) -> str:
    """Return the step of an onset, and the head."""
    if onset is None:
        return "never"
    step, head = onset
    return f"{step} ({head})"


def order_rows(found: dict[str, Any]) -> list[dict[str, object]]:
    """Return a row for each way to score the previous-token head, with a column for each level."""
    rows = []
    for name, words in ORDERED.items():
        row: dict[str, object] = {"score": words}
        for index, level in enumerate(found["levels"]):
            counts = order_of(found["runs"], name, index)
            row[str(level)] = f"{counts['before']} / {counts['with']} / {counts['after']}"
        rows.append(row)
    return rows


def order_of(runs: list[dict[str, Any]], name: str, level_index: int) -> dict[str, int]:
    """Count the seeds in which that score crosses a level before, with and after induction."""
    steps = []
    for run in runs:
        if "induction_at" in run:
            steps.append((run[name][level_index], run["induction_at"][level_index]))
    return sides(steps)


def sides(steps: list[tuple[int | None, int | None]]) -> dict[str, int]:
    """Count the pairs whose first step is before, with and after the second.

    A first step that never came counts as after; pairs without a second step are left out.
    """
    counts = {"before": 0, "with": 0, "after": 0}
    for one, other in steps:
        if other is None:
            continue
        if one is None or one > other:
            counts["after"] += 1
        elif one == other:
            counts["with"] += 1
        else:
            counts["before"] += 1
    return counts


def verdicts(found: dict[str, Any]) -> list[str]:
    """Return every claim, and whether it holds."""
    one_layer = [run for run in found["runs"] if run["n_blocks"] == 1]
    two_layers = [run for run in found["runs"] if run["n_blocks"] == 2]
    formed = [run for run in two_layers if "at_onset" in run]
    n, needed = len(two_layers), min(NEEDED_ORDER, len(two_layers))

    onsets = []
    for run in formed:
        previous_step, _ = run["previous_token_onset"] or (None, None)
        onsets.append((previous_step, run["induction_onset"][0]))
    roles = sides(onsets)
    own = found["levels"].index(found["roles_level"])
    pair = order_of(two_layers, "previous_token_repeated_below_at", own)
    built_on = [run for run in formed if run["at_onset"]["without all"] < ONE_LAYER_LIMIT]

    low = all(run["induction_max"] < ONE_LAYER_LIMIT for run in one_layer)
    high = all(run["induction_max"] > TWO_LAYER_LIMIT for run in two_layers)
    return [
        f"One-layer models stay below {ONE_LAYER_LIMIT}: {yes_or_no(low)}",
        f"Two-layer models pass {TWO_LAYER_LIMIT}: {yes_or_no(high)}",
        "By the roles, a head is labeled previous token before one is labeled induction "
        f"({roles['before']} of {n} seeds, and at the same capture in {roles['with']}): "
        f"{yes_or_no(roles['before'] >= needed)}",
        f"By the pair of heads, the previous-token head below scores {found['roles_level']} on "
        "repeated random tokens before the induction head does "
        f"({pair['before']} of {n} seeds, and at the same capture in {pair['with']}): "
        f"{yes_or_no(pair['before'] >= needed)}",
        "By ablation, induction at its onset is as low as in a one-layer model without the heads "
        f"below ({len(built_on)} of {n} seeds): {yes_or_no(len(built_on) >= needed)}",
    ]


def yes_or_no(holds: bool) -> str:
    if holds:
        return "**yes**"
    return "**NO**"


if __name__ == "__main__":
    main()
