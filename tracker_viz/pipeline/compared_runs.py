"""Scored runs -> what a picture of several runs is drawn from: which runs, which of their captures,
and these here.

Of a thousand runs a picture shows some, and of their captures those of at most so many points of
time: no more is pulled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison import (
    NOT_YET,
    Alignment,
    Axis,
    align,
    head_beside,
    matched_orders,
    order_by_index,
    positions,
    ranking,
)
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import first_onsets, head_roles
from tracker_viz.pipeline.scored_runs import ScoredRun, some
from tracker_viz.progress import progress_bar
from tracker_viz.trackers.download import Pulled, pull

if TYPE_CHECKING:
    from tracker_viz.rendering.compared_series import ComparedSeries, Timing

HeadOrder = Literal["index", "matched"]
# More points of time than this make no better video, only a longer one to draw.
MAX_POINTS = 300


def chosen_runs(runs: Sequence[ScoredRun], most: int) -> tuple[list[ScoredRun], list[str]]:
    """At most ``most`` of the runs, spread evenly from the lowest loss to the highest, in their own
    order; and what is to be said of it."""
    if len(runs) <= most:
        return list(runs), []
    losses = np.array([_last_loss(run) for run in runs])
    by_loss = np.argsort(losses, kind="stable")  # runs without a loss come last
    shown = sorted(by_loss[np.linspace(0, len(runs) - 1, most).round().astype(int)].tolist())
    note = f"Shown: {most} of the {len(runs):,} runs, evenly from the lowest loss to the highest; the table has them all."
    return [runs[index] for index in shown], [note]


def check_probes(runs: Sequence[ScoredRun], names: Mapping[str, str]) -> list[str]:
    """What is to be said of probes that hold other tokens.

    Args:
        names: run -> what it is called in messages.

    Raises:
        ConfigError: the probes are of different kinds, so that neither attention maps nor scores
            mean the same.
    """
    kinds = {names[run.compared.name]: _describe(run.probe) for run in runs}
    if len(set(kinds.values())) > 1:
        by_kind: dict[str, list[str]] = {}
        for name, kind in kinds.items():
            by_kind.setdefault(kind, []).append(name)
        found = "; ".join(f"{kind} in {some(members)}" for kind, members in by_kind.items())
        raise ConfigError(
            f"the runs were captured on different probes ({found}): their attention maps cannot "
            "stand side by side, and their scores "
            "do not measure the same. Compare runs of one probe, or capture anew with one probe= "
            "(from checkpoints: tracker-viz backfill)"
        )
    tokens = {
        tuple(tuple(row.get("tokens", ())) for row in run.probe.get("rows", ())) for run in runs
    }
    return (
        [
            "The probes hold different tokens: their maps have the same shape, but not the same words."
        ]
        if len(tokens) > 1
        else []
    )


def drawn_runs(
    runs: Sequence[ScoredRun],
    labels: Mapping[str, str],
    *,
    axis: Axis,
    order: HeadOrder,
    max_gb: float,
    cache: Path | None,
    progress: bool,
) -> tuple[list[ComparedSeries], Timing, list[str]]:
    """What a picture of the runs is drawn from, its captures pulled, and what is to be said of
    these.

    Args:
        max_gb: of captures that are pulled at most; fewer points of time are shown rather than
            exceed it.

    Raises:
        ConfigError: matched order of models that differ in depth, or a run of which no capture
            could be had.
    """
    from tracker_viz.rendering.compared_series import Timing

    compared = [run.compared for run in runs]
    orders = (
        matched_orders(compared)
        if order == "matched"
        else [order_by_index(run.series) for run in compared]
    )
    first = ranking(compared[0].series)
    alignment, notes = _affordable(align(compared, axis=axis), runs, max_gb)
    drawn, shown, damaged = [], [], []
    for run, pulled, captures, heads in zip(
        runs, _pulled(runs, alignment, cache, progress), alignment.captures, orders, strict=True
    ):
        series = run.compared.series
        ranked: tuple[tuple[int, int] | None, ...] = ranking(series)
        if order == "matched":
            beside = tuple(head_beside(head, orders[0], heads) for head in first)
            ranked = (*beside, *(head for head in ranked if head not in beside))
        have = [
            index
            for index, step in enumerate(series.steps.tolist())
            if step in {each.ref.step for each in pulled.captures}
        ]
        if not have:
            raise ConfigError(
                f"none of the captures of {labels[run.compared.name]} could be had: leave it out, "
                "or mend it (tracker-viz push)"
            )
        if gone := sorted({*run.damaged, *(ref.step for ref in pulled.damaged)}):
            damaged.append(f"{labels[run.compared.name]} (step {', '.join(map(str, gone))})")
        drawn.append(_series(run, pulled, have, labels[run.compared.name], ranked, heads, axis))
        # the last capture that is here, at or before the one that was meant
        shown.append(
            np.where(
                captures == NOT_YET, NOT_YET, np.searchsorted(have, captures, side="right") - 1
            )
        )
    if damaged:
        notes.append(f"Captures that could not be had: {some(damaged)}.")
    return drawn, Timing(alignment.axis, alignment.points, np.stack(shown), alignment.ended), notes


def _series(
    run: ScoredRun,
    pulled: Pulled,
    have: Sequence[int],
    label: str,
    ranked: Sequence[tuple[int, int] | None],
    heads: Mapping[int, tuple[int | None, ...]],
    axis: Axis,
) -> ComparedSeries:
    """``have``: which of the run's captures were pulled. Roles and onsets are those that all of its
    captures show."""
    from tracker_viz.rendering import Series
    from tracker_viz.rendering.compared_series import ComparedSeries

    series = run.compared.series
    places = positions(series, axis)
    at_step = dict(zip(series.steps.tolist(), places.tolist(), strict=True))
    return ComparedSeries(
        label=label,
        series=Series(pulled.captures, title=label),
        places=places[have],
        ranking=tuple(ranked),
        order=heads,
        roles=head_roles(series)[0][have],
        onsets={role: at_step[onset.step] for role, onset in first_onsets(series).items()},
    )


def _affordable(
    alignment: Alignment, runs: Sequence[ScoredRun], max_gb: float
) -> tuple[Alignment, list[str]]:
    """At most ``MAX_POINTS`` points, whose captures have at most ``max_gb`` together; the first and
    the last among them."""
    n_all, n_points = len(alignment.points), min(len(alignment.points), MAX_POINTS)
    while True:
        kept = np.linspace(0, n_all - 1, n_points).round().astype(int)
        thinned = replace(
            alignment,
            points=alignment.points[kept],
            captures=alignment.captures[:, kept],
            ended=alignment.ended[:, kept],
        )
        gb = (
            sum(
                run.captures[index].nbytes
                for run, needed in zip(runs, _needed(thinned), strict=True)
                for index in needed
            )
            / 1e9
        )
        if gb <= max_gb or n_points <= 2:
            break
        n_points = max(2, min(n_points - 1, int(n_points * max_gb / gb)))
    if n_points == n_all:
        return alignment, []
    why = (
        f"their captures have {gb:.1f} GB, and at most {max_gb:g} are pulled (max_gb)"
        if n_points < MAX_POINTS
        else "a video shows no more"
    )
    return thinned, [f"The video shows {n_points} of {n_all:,} points of time: {why}."]


def _needed(alignment: Alignment) -> list[list[int]]:
    """Of each run the captures that any point shows."""
    return [sorted(set(captures.tolist()) - {NOT_YET}) for captures in alignment.captures]


def _pulled(
    runs: Sequence[ScoredRun], alignment: Alignment, cache: Path | None, progress: bool
) -> list[Pulled]:
    needed = [
        [run.captures[index] for index in indices]
        for run, indices in zip(runs, _needed(alignment), strict=True)
    ]
    total, before, found = sum(map(len, needed)), 0, []
    with progress_bar("pulling", "captures", shown=progress, delay_s=0.5) as advance:
        for run, refs in zip(runs, needed, strict=True):
            found.append(
                pull(
                    run.run,
                    cache,
                    refs=refs,
                    progress=lambda done, _, before=before: advance(before + done, total),  # type: ignore[misc]
                )
            )
            before += len(refs)
    return found


def _last_loss(run: ScoredRun) -> float:
    losses: NDArray[Any] = run.compared.series.metrics.get("loss", np.zeros(0))
    known = losses[np.isfinite(losses)]
    return float(known[-1]) if known.size else float("nan")


def _describe(probe: Mapping[str, Any]) -> str:
    """``64 tokens: repeated (period 15), text``."""
    rows = [
        f"{row.get('kind', 'unknown')} (period {row['period']})"
        if row.get("period")
        else str(row.get("kind", "unknown"))
        for row in probe.get("rows", ())
    ]
    return f"{probe.get('length', 'unknown')} tokens: {', '.join(rows) or 'rows unknown'}"
