"""Measure how far a comparison can be trusted, on sweeps whose outcome is known.

    python benchmarks/comparisons.py                 # about ten minutes on two cores
    python benchmarks/comparisons.py --part seeds    # trains the demo with two seeds

There are three parts. ``chance`` compares unrelated runs, and runs with copies that are permuted or
stopped early. ``tests`` simulates sweeps with an effect and without any. ``seeds`` compares two
seeds of the demo, and each with itself without its induction heads.

Writes comparisons.json and comparisons.md beside this file.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from measuring import options_parser, read_results, table, wrapped, write_results

from tracker_viz.comparison import (
    BEHAVIOR,
    ComparedRun,
    behaviors,
    correlations,
    distance,
    distance_matrix,
    match_heads,
    run_table,
)
from tracker_viz.metrics import ROLES, ScoreSeries, head_roles

UNIFORM = {**dict.fromkeys(BEHAVIOR, 0.05), "entropy": 1.0}
N_STEPS, EVERY = 20, 10
HEADS = (4, 8, 16, 32, 64)
PARTS = ("chance", "tests", "seeds")
TITLE = """
# Comparisons: what they say where the outcome is known

Measured by `python benchmarks/comparisons.py`.
"""
CHANCE = """
## Distances

Distances between unrelated runs, whose heads take random roles at random steps, as a share of
chance:

{unrelated}

The distance between a run and a copy whose heads are permuted within their blocks is at most
{permuted_max:g}. The distance to a copy that was stopped early is at most {stopped_max:g}, and
{stopped_matched_wrongly} heads are matched wrongly.
"""
TESTS = """
## Settings and outcomes

Share of {sweeps} simulated sweeps without any effect in which the first line that is printed has
p < 0.05:

{without}

Share of sweeps of 30 runs in which a real effect is the first line, with p < 0.05:

{effects}
"""
SEEDS = """
## The demo

Two seeds have a distance of {seeds:.3f}. With shuffled heads it is {chance:.3f}, and
{percentile:.1%} of the shuffles are as close. Without their induction heads, the runs have a
distance of {erased_words} from themselves.
"""


def random_run(
    name: str,
    rng: np.random.Generator,
    *,
    n_blocks: int = 2,
    n_heads: int = 4,
    config: dict[str, Any] | None = None,
    loss: float = 2.0,
    later: int = 0,
) -> ComparedRun:
    """Return a run whose heads take random roles at random captures.

    Args:
        later: how many captures later its heads turn.
    """
    captures = np.arange(N_STEPS)[:, None, None]
    heads = {}
    for score in BEHAVIOR:
        onset = rng.integers(3, 12, (n_blocks, n_heads)) + later
        top = rng.uniform(0.0, 0.9, (n_blocks, n_heads))
        heads[score] = (0.02 + top * (captures >= onset)).astype(np.float32)
    series = ScoreSeries(
        np.arange(N_STEPS) * EVERY,
        heads,
        uniform=UNIFORM,
        metrics={"loss": np.full(N_STEPS, loss)},
    )
    return ComparedRun(name, series, config or {})


def chance_part() -> dict[str, Any]:
    """Measure unrelated runs as a share of chance, and permuted and early-stopped copies."""
    shares = {}
    for n_heads in HEADS:
        rng = np.random.default_rng(n_heads)
        found = []
        for _ in range(6):
            runs = [random_run(name, rng, n_blocks=4, n_heads=n_heads) for name in "abcd"]
            matrix = distance_matrix(runs, n_shuffles=50)
            found += (matrix.overall / matrix.shuffled)[np.triu_indices(4, 1)].tolist()
        shares[n_heads] = {"mean": np.mean(found), "sd": np.std(found), "pairs": len(found)}
        print("unrelated runs,", n_heads, "heads a block:", shares[n_heads], flush=True)

    rng = np.random.default_rng(0)
    permuted, stopped, n_wrong = [], [], 0
    for _ in range(20):
        run = random_run("whole", rng, n_blocks=4, n_heads=8)
        permuted.append(distance(*behaviors([run, shuffled_in_blocks(run, rng)])))
        early = stopped_at(run, int(rng.integers(4, N_STEPS)))
        pair = behaviors([run, early])
        stopped.append(distance(*pair))
        n_wrong += sum(first != second for first, second, _ in match_heads(*pair).pairs)
    return {
        "unrelated": shares,
        "permuted_max": max(permuted),
        "stopped_max": max(stopped),
        "stopped_matched_wrongly": n_wrong,
    }


def shuffled_in_blocks(run: ComparedRun, rng: np.random.Generator) -> ComparedRun:
    """Return a run with its heads permuted within their blocks."""
    n_blocks, n_heads = run.series.shape
    order = np.stack([rng.permutation(n_heads) for _ in range(n_blocks)])
    heads = {
        name: np.take_along_axis(values, order[None], axis=2)
        for name, values in run.series.heads.items()
    }
    return replace(run, name="permuted", series=replace(run.series, heads=heads))


def stopped_at(run: ComparedRun, end: int) -> ComparedRun:
    """Return a run with its first ``end`` captures alone."""
    series = run.series
    early = replace(
        series,
        steps=series.steps[:end],
        heads={name: values[:end] for name, values in series.heads.items()},
        metrics={name: values[:end] for name, values in series.metrics.items()},
    )
    return replace(run, name="stopped", series=early)


def sweep_of(
    n_runs: int, n_settings: int, rng: np.random.Generator, *, loss_effect: float, later: int
) -> list[ComparedRun]:
    """Return the runs of a sweep over settings of two values each; the first setting has effects.

    Args:
        loss_effect: in standard deviations of the loss between runs.
        later: how many captures later heads turn.
    """
    settings = [rng.permutation(np.resize([0, 1], n_runs)) for _ in range(n_settings)]
    runs = []
    for index in range(n_runs):
        config: dict[str, Any] = {"seed": index}
        config |= {f"setting_{number}": int(each[index]) for number, each in enumerate(settings)}
        is_on = int(settings[0][index])
        loss = rng.normal(2.0, 0.1) + 0.1 * loss_effect * is_on
        run = random_run(str(index), rng, config=config, loss=loss, later=later * is_on)
        runs.append(run)
    return runs


def found_in(runs: Sequence[ComparedRun]) -> tuple[float, str]:
    """Return the corrected p-value of the first line that ``compare`` prints, and its setting."""
    found = correlations(runs, run_table(runs))
    if not found:
        return 1.0, ""
    return found[0].p_value, found[0].setting


def tests_part(n_sweeps: int) -> dict[str, Any]:
    """Count the sweeps in which an effect is found, where there is one and where there is none."""
    without = []
    for n_runs, n_settings in itertools.product((6, 8, 12, 30), (1, 2, 5)):
        rng = np.random.default_rng(100 * n_runs + n_settings)
        values = [
            found_in(sweep_of(n_runs, n_settings, rng, loss_effect=0, later=0))[0]
            for _ in range(n_sweeps)
        ]
        share = float(np.mean(np.array(values) < 0.05))
        without.append({"runs": n_runs, "settings": n_settings, "significant": share})
        print("no effect:", without[-1], flush=True)

    with_effect = []
    for n_settings, (loss_effect, later) in itertools.product((1, 2), ((1.0, 0), (0.0, 3))):
        rng = np.random.default_rng(7 + n_settings)
        found = [
            found_in(sweep_of(30, n_settings, rng, loss_effect=loss_effect, later=later))
            for _ in range(n_sweeps)
        ]
        share = np.mean([value < 0.05 and setting == "setting_0" for value, setting in found])
        described = {"settings": n_settings, "loss_effect": loss_effect, "later": later}
        with_effect.append(described | {"found": float(share)})
        print("effect:", with_effect[-1], flush=True)
    return {
        "sweeps": n_sweeps,
        "every": EVERY,
        "without_effect": without,
        "with_effect": with_effect,
    }


def seeds_part(steps: int) -> dict[str, Any]:
    """Compare two seeds of the demo, and each with itself without its induction heads."""
    from train_demo import train_demo

    runs = []
    for seed in (0, 1):
        trained = train_demo(seed=seed, steps=steps, every=10)
        runs.append(ComparedRun(f"seed {seed}", trained.series))
    matrix = distance_matrix(runs)
    erased = {run.name: distance(*behaviors([run, without_induction(run)])) for run in runs}
    return {
        "seeds": float(matrix.overall[0, 1]),
        "chance": float(matrix.shuffled[0, 1]),
        "percentile": float(matrix.percentile[0, 1]),
        "erased": erased,
    }


def without_induction(run: ComparedRun) -> ComparedRun:
    """Return the run with uniform attention in the heads that end as induction heads."""
    series = run.series
    induction = [role.name for role in ROLES].index("induction")
    is_lost = head_roles(series)[0][-1] == induction
    heads = {
        name: np.where(is_lost, np.float32(series.uniform.get(name, 0.0)), values)
        for name, values in series.heads.items()
    }
    return replace(run, name="erased", series=replace(series, heads=heads))


def report(found: dict[str, Any]) -> str:
    """Return the page of the parts that were measured."""
    text = TITLE
    if "chance" in found:
        text += chance_report(found["chance"])
    if "tests" in found:
        text += tests_report(found["tests"])
    if "seeds" in found:
        erased = " and ".join(f"{value:.3f}" for value in found["seeds"]["erased"].values())
        text += SEEDS.format(**found["seeds"], erased_words=erased)
    return wrapped(text)


def chance_report(part: dict[str, Any]) -> str:
    rows = []
    for n_heads, share in part["unrelated"].items():
        row = {
            "heads a block": n_heads,
            "mean of the pairs": f"{share['mean']:.3f}",
            "sd": f"{share['sd']:.3f}",
        }
        rows.append(row)
    return CHANCE.format(**(part | {"unrelated": table(rows)}))


def tests_report(part: dict[str, Any]) -> str:
    by_runs: dict[int, dict[str, object]] = {}
    for each in part["without_effect"]:
        row = by_runs.setdefault(each["runs"], {"runs": each["runs"]})
        row[f"settings: {each['settings']}"] = f"{each['significant']:.1%}"
    effects = []
    for each in part["with_effect"]:
        effect = f"heads turn {part['every'] * each['later']} steps later"
        if each["loss_effect"]:
            effect = f"the loss differs by {each['loss_effect']:g} standard deviation"
        row = {
            "effect between the two values of a setting": effect,
            "settings": each["settings"],
            "found": f"{each['found']:.0%}",
        }
        effects.append(row)
    without = table(list(by_runs.values()))
    return TESTS.format(sweeps=part["sweeps"], without=without, effects=table(effects))


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--part", choices=PARTS, help="one of the parts; by default all")
    parser.add_argument("--sweeps", type=int, default=300, help="simulated sweeps of each kind")
    parser.add_argument("--steps", type=int, default=1000, help="of the demo's training runs")
    options = parser.parse_args()

    found = read_results("comparisons", options.output)
    if options.part in (None, "chance"):
        found["chance"] = chance_part()
    if options.part in (None, "tests"):
        found["tests"] = tests_part(options.sweeps)
    if options.part in (None, "seeds"):
        found["seeds"] = seeds_part(options.steps)
    write_results("comparisons", found, report, options.output)


if __name__ == "__main__":
    main()
