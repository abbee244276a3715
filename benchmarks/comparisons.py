"""Measure how far a comparison can be trusted, on sweeps whose truth is known.

    python benchmarks/comparisons.py                 # about ten minutes on two cores
    python benchmarks/comparisons.py --part seeds    # trains the demo, two seeds

chance: unrelated, permuted and early-stopped runs. tests: simulated sweeps without any effect and
with one. seeds: two seeds of the demo, and each without its induction heads. Writes comparisons.md
and comparisons.json beside this file.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

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

HERE = Path(__file__).resolve().parent
UNIFORM = {**dict.fromkeys(BEHAVIOR, 0.05), "entropy": 1.0}
N_STEPS, EVERY = 20, 10
HEADS = (4, 8, 16, 32, 64)
PARTS = ("chance", "tests", "seeds")


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
    """A run whose heads take random roles at random captures.

    Args:
        later: captures by which its heads turn later.
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
    """Unrelated runs as a share of chance; permuted and early-stopped copies."""
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
    permuted, stopped, wrong = [], [], 0
    for _ in range(20):
        run = random_run("whole", rng, n_blocks=4, n_heads=8)
        permuted.append(distance(*behaviors([run, shuffled_in_blocks(run, rng)])))
        early = stopped_at(run, int(rng.integers(4, N_STEPS)))
        pair = behaviors([run, early])
        stopped.append(distance(*pair))
        wrong += sum(first != second for first, second, _ in match_heads(*pair).pairs)
    return {
        "unrelated": shares,
        "permuted_max": max(permuted),
        "stopped_max": max(stopped),
        "stopped_matched_wrongly": wrong,
    }


def shuffled_in_blocks(run: ComparedRun, rng: np.random.Generator) -> ComparedRun:
    n_blocks, n_heads = run.series.shape
    order = np.stack([rng.permutation(n_heads) for _ in range(n_blocks)])
    heads = {
        name: np.take_along_axis(values, order[None], axis=2)
        for name, values in run.series.heads.items()
    }
    return replace(run, name="permuted", series=replace(run.series, heads=heads))


def stopped_at(run: ComparedRun, end: int) -> ComparedRun:
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
    """Runs of a sweep over settings of two values each, of which the first has the effects.

    Args:
        loss_effect: in standard deviations of the loss between runs.
        later: captures by which heads turn later.
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
    """The corrected p-value of the first line that ``compare`` prints, and its setting."""
    found = correlations(runs, run_table(runs))
    return (found[0].p_value, found[0].setting) if found else (1.0, "")


def tests_part(n_sweeps: int) -> dict[str, Any]:
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
    return {"sweeps": n_sweeps, "without_effect": without, "with_effect": with_effect}


def seeds_part(steps: int) -> dict[str, Any]:
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
    """The run with uniform attention in place of the heads that end as induction heads."""
    series = run.series
    induction = [role.name for role in ROLES].index("induction")
    is_lost = head_roles(series)[0][-1] == induction
    heads = {
        name: np.where(is_lost, np.float32(series.uniform.get(name, 0.0)), values)
        for name, values in series.heads.items()
    }
    return replace(run, name="erased", series=replace(series, heads=heads))


def report(found: dict[str, Any]) -> Iterator[str]:
    yield "# Comparisons: what they say where the truth is known"
    yield ""
    yield "Written by `python benchmarks/comparisons.py`."
    if "chance" in found:
        yield from _chance_report(found["chance"])
    if "tests" in found:
        yield from _tests_report(found["tests"])
    if "seeds" in found:
        yield from _seeds_report(found["seeds"])


def _chance_report(part: dict[str, Any]) -> Iterator[str]:
    yield from ("", "## Distances", "")
    yield "Unrelated runs (heads that take random roles at random steps) as a share of chance:"
    yield from ("", "| heads a block | mean of the pairs | sd |", "|---|---|---|")
    for n_heads, share in part["unrelated"].items():
        yield f"| {n_heads} | {share['mean']:.3f} | {share['sd']:.3f} |"
    yield ""
    yield (
        f"Copies whose heads are permuted within their blocks: at most {part['permuted_max']:g}. "
        f"Copies that were stopped early: at most {part['stopped_max']:g}, and "
        f"{part['stopped_matched_wrongly']} heads matched wrongly."
    )


def _tests_report(part: dict[str, Any]) -> Iterator[str]:
    yield from ("", "## Settings and outcomes", "")
    yield (
        f"Share of {part['sweeps']} simulated sweeps without any effect in which the first line "
        "that is printed has p < 0.05:"
    )
    yield from ("", "| runs | 1 setting | 2 settings | 5 settings |", "|---|---|---|---|")
    rows: dict[int, list[str]] = {}
    for each in part["without_effect"]:
        rows.setdefault(each["runs"], []).append(f"{each['significant']:.1%}")
    for n_runs, shares in rows.items():
        yield f"| {n_runs} | {' | '.join(shares)} |"
    yield ""
    yield "Share of sweeps of 30 runs in which a real effect is the first line, with p < 0.05:"
    yield from ("", "| effect between the two values of a setting | settings | found |")
    yield "|---|---|---|"
    for each in part["with_effect"]:
        effect = f"heads turn {EVERY * each['later']} steps later"
        if each["loss_effect"]:
            effect = f"the loss differs by {each['loss_effect']:g} standard deviation"
        yield f"| {effect} | {each['settings']} | {each['found']:.0%} |"


def _seeds_report(part: dict[str, Any]) -> Iterator[str]:
    yield from ("", "## The demo", "")
    yield (
        f"Two seeds: {part['seeds']:.3f} apart; shuffled heads {part['chance']:.3f}, of which "
        f"{part['percentile']:.1%} are as close. Without its induction heads a run is "
        f"{' and '.join(f'{value:.3f}' for value in part['erased'].values())} from itself."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, help="one of the parts; by default all")
    parser.add_argument("--sweeps", type=int, default=300, help="simulated sweeps of each kind")
    parser.add_argument("--steps", type=int, default=1000, help="of the demo's trainings")
    options = parser.parse_args()

    output = HERE / "comparisons.json"
    found = json.loads(output.read_text()) if output.is_file() else {}
    if options.part in (None, "chance"):
        found["chance"] = chance_part()
    if options.part in (None, "tests"):
        found["tests"] = tests_part(options.sweeps)
    if options.part in (None, "seeds"):
        found["seeds"] = seeds_part(options.steps)
    text = json.dumps(found, indent=1, default=float)
    output.write_text(text + "\n")
    lines = report(json.loads(text))
    (HERE / "comparisons.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
