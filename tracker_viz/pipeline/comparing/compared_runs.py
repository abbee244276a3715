"""Choose the runs, captures and order of heads that a picture of several runs shows, and pull these
captures.

A picture of a thousand runs shows some of them, and captures at a limited number of points of time:
no more is pulled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tracker_viz.comparison import (
    NOT_YET,
    Alignment,
    Axis,
    Order,
    align,
    final_loss,
    first_few,
    head_beside,
    matched_orders,
    order_by_index,
    positions,
    ranking,
    role_onsets,
)
from tracker_viz.errors import ConfigError
from tracker_viz.pipeline.comparing.scored_runs import ScoredRun
from tracker_viz.pipeline.options import ComparisonOptions
from tracker_viz.progress import progress_bar
from tracker_viz.trackers import Pulled, pull
from tracker_viz.types import HeadId

if TYPE_CHECKING:
    from tracker_viz.rendering import RunTrack, Timing

# With more points of time than this a video takes longer to draw and looks no better.
MAX_POINTS = 300


def chosen_runs(runs: Sequence[ScoredRun], most: int) -> tuple[list[ScoredRun], list[str]]:
    """Return at most ``most`` of the runs, spread evenly from the lowest loss to the highest, in
    their own order; and a note where some are left out."""
    if len(runs) <= most:
        return list(runs), []
    losses = np.array([final_loss(run.compared) for run in runs], np.float64)
    by_loss = np.argsort(losses, kind="stable")  # runs without a loss come last
    evenly = np.linspace(0, len(runs) - 1, most).round().astype(int)
    note = (
        f"Shown: {most} of the {len(runs):,} runs, evenly from the lowest loss to the highest; the "
        "table has them all."
    )
    return [runs[index] for index in sorted(by_loss[evenly].tolist())], [note]


def drawn_runs(
    runs: Sequence[ScoredRun],
    labels: Mapping[str, str],
    options: ComparisonOptions,
    *,
    axis: Axis,
    progress: bool,
) -> tuple[list[RunTrack], Timing, list[str]]:
    """Pull the captures of a picture of the runs; return its inputs, and notes for the user.

    Raises:
        ConfigError: matched order of models that differ in depth, or a run of which no capture
            could be pulled.
    """
    from tracker_viz.rendering import Timing

    compared = [run.compared for run in runs]
    is_matched = options.order == "matched"
    if is_matched:
        orders = matched_orders(compared, axis=axis)
    else:
        orders = [order_by_index(run.series) for run in compared]
    rankings = _rankings(runs, orders, matched=is_matched)
    alignment, notes = _affordable(align(compared, axis=axis), runs, options.max_gb)
    pulled = _pull(runs, alignment, options.cache, progress=progress)

    drawn, shown, damaged = [], [], []
    for index, run in enumerate(runs):
        label = labels[run.compared.name]
        have = _pulled_captures(run, pulled[index], label)
        drawn.append(_series(run, pulled[index], have, label, rankings[index], orders[index], axis))
        gone = sorted({*run.damaged, *(ref.step for ref in pulled[index].damaged)})
        if gone:
            damaged.append(f"{label} (step {', '.join(map(str, gone))})")

        # The last capture that could be pulled, at or before the one that was chosen.
        captures = alignment.captures[index]
        here = np.searchsorted(have, captures, side="right") - 1
        shown.append(np.where(captures == NOT_YET, NOT_YET, here))
    if damaged:
        notes.append(f"Captures that could not be pulled: {first_few(damaged)}.")
    return drawn, Timing(alignment.axis, alignment.points, np.stack(shown), alignment.ended), notes


def _pulled_captures(run: ScoredRun, pulled: Pulled, label: str) -> list[int]:
    """Return the indices of the run's captures that were pulled.

    Raises:
        ConfigError: none.
    """
    steps = [each.ref.step for each in pulled.captures]
    have = np.flatnonzero(np.isin(run.compared.series.steps, steps)).tolist()
    if not have:
        raise ConfigError(
            f"none of the captures of {label} could be pulled: leave it out, or upload what waits "
            "in its spool (tracker-viz push)"
        )
    return have


def _rankings(
    runs: Sequence[ScoredRun], orders: Sequence[Order], *, matched: bool
) -> list[tuple[HeadId | None, ...]]:
    """Return each run's heads, the most specialized first; in matched order those that stand beside
    the first run's heads, in its order, None where a run has no such head."""
    ranked = [ranking(run.compared.series) for run in runs]
    if not matched:
        return [*ranked]
    rankings: list[tuple[HeadId | None, ...]] = []
    for own, order in zip(ranked, orders, strict=True):
        beside = tuple(head_beside(head, orders[0], order) for head in ranked[0])
        rankings.append((*beside, *(head for head in own if head not in beside)))
    return rankings


def _series(
    run: ScoredRun,
    pulled: Pulled,
    have: Sequence[int],
    label: str,
    ranked: Sequence[HeadId | None],
    heads: Order,
    axis: Axis,
) -> RunTrack:
    """Return one run as it is drawn, with the roles and onsets that all of its captures show.

    Args:
        have: indices of the run's captures that were pulled.
    """
    from tracker_viz.rendering import RunTrack, Series, roles_in, row_kinds

    series = run.compared.series
    onsets = {}
    for role, onset in role_onsets(series, axis=axis).items():
        if onset.at is not None:
            onsets[role] = onset.at
    return RunTrack(
        label=label,
        series=Series(pulled.captures, title=label),
        places=positions(series, axis)[have],
        ranking=tuple(ranked),
        order=heads,
        roles=roles_in(series, row_kinds(run.probe)).at(have),
        onsets=onsets,
    )


def _affordable(
    alignment: Alignment, runs: Sequence[ScoredRun], max_gb: float
) -> tuple[Alignment, list[str]]:
    """Return at most ``MAX_POINTS`` points, whose captures have at most ``max_gb`` together, the
    first and the last among them; and a note where some are left out."""
    n_all, n_points = len(alignment.points), min(len(alignment.points), MAX_POINTS)
    thinned, gb = _thinned(alignment, n_points, runs)
    # Captures differ in size, so one step by the ratio may not be enough.
    while gb > max_gb and n_points > 2:
        n_points = max(2, min(n_points - 1, int(n_points * max_gb / gb)))
        thinned, gb = _thinned(alignment, n_points, runs)
    if n_points == n_all:
        return alignment, []

    why = "a video shows no more"
    if n_points < MAX_POINTS:
        why = f"their captures have {gb:.1f} GB, and at most {max_gb:g} are pulled (max_gb)"
    return thinned, [f"The video shows {n_points} of {n_all:,} points of time: {why}."]


def _thinned(
    alignment: Alignment, n_points: int, runs: Sequence[ScoredRun]
) -> tuple[Alignment, float]:
    """Return evenly chosen points, and the gigabytes of their captures."""
    kept = np.linspace(0, len(alignment.points) - 1, n_points).round().astype(int)
    thinned = replace(
        alignment,
        points=alignment.points[kept],
        captures=alignment.captures[:, kept],
        ended=alignment.ended[:, kept],
    )
    nbytes = 0
    for run, needed in zip(runs, _needed(thinned), strict=True):
        nbytes += sum(run.captures[index].nbytes for index in needed)
    return thinned, nbytes / 1e9


def _needed(alignment: Alignment) -> list[list[int]]:
    """Return for each run the captures that any point shows."""
    return [sorted(set(captures.tolist()) - {NOT_YET}) for captures in alignment.captures]


def _pull(
    runs: Sequence[ScoredRun], alignment: Alignment, cache: Path | None, *, progress: bool
) -> list[Pulled]:
    needed = []
    for run, indices in zip(runs, _needed(alignment), strict=True):
        needed.append([run.captures[index] for index in indices])

    total, before, found = sum(map(len, needed)), 0, []
    with progress_bar("pulling", "captures", shown=progress, delay_s=0.5) as advance:
        for run, refs in zip(runs, needed, strict=True):
            found.append(pull(run.run, cache, refs=refs, progress=_after(before, total, advance)))
            before += len(refs)
    return found


def _after(
    before: int, total: int, advance: Callable[[int, int], None]
) -> Callable[[int, int], None]:
    """Return a callback by which one run's progress moves the bar of all runs."""
    return lambda done, _: advance(before + done, total)
