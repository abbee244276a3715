"""Runs of any trackers -> what the comparison computes with, and what a picture of several runs is drawn from.

Captures stream through: of each only its scores are read here, and of those only the numbers stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tracker_viz import capture_file
from tracker_viz.comparison import Alignment, Axis, ComparedRun, align, behaviours, in_order_of_settings, match_heads, positions
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import ROLES, ScoreSeries, first_onsets, head_roles, score_series
from tracker_viz.pipeline.pulling import pulled_captures
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.pull import Pulled
from tracker_viz.types import CaptureHeader

if TYPE_CHECKING:
    from tracker_viz.rendering.compared_series import ComparedSeries, Timing

Order = Literal["index", "matched"]
Head = tuple[int, int]
# More points of time than this make no better video, only a longer one to draw.
MAX_POINTS = 300


@dataclass(frozen=True, slots=True)
class PulledRun:
    """One run, its captures on this machine, and its scores in memory; ``header`` is that of its last capture."""

    run: Run
    pulled: Pulled
    compared: ComparedRun
    header: CaptureHeader


def pull_runs(opened: Sequence[Run], cache: Path | None, *, may_lack: bool, progress: bool) -> tuple[list[PulledRun], list[str]]:
    """Pull the captures of runs, and read their scores.

    Args:
        may_lack: leave runs without captures out, as jobs of a sweep that failed early are; else they are an error.

    Returns:
        The runs, and what is to be said of those left out.

    Raises:
        ConfigError: a run has no captures, or none with scores.
    """
    found, notes = [], []
    for run in opened:
        info = run.info()
        pulled = pulled_captures(run, cache, progress=progress)
        if not pulled.captures:
            if not may_lack:
                raise ConfigError(
                    f"{run.ref} ({info.name}, {info.state}) has no captures, so there is nothing to compare: leave it out, "
                    "or upload what waits in its spool (tracker-viz push)"
                )
            notes.append(f"Left out, without captures: {info.name} ({info.state}).")
            continue
        if pulled.damaged:
            steps = ", ".join(str(ref.step) for ref in sorted(pulled.damaged, key=lambda ref: ref.step))
            notes.append(f"Captures of {info.name} that could not be had: step {steps}.")
        paths = [capture.path for capture in pulled.captures]
        header = capture_file.read_header(paths[-1])
        names = {name for path in (paths[0], paths[-1]) for name in capture_file.read_header(path).arrays if name.startswith("scores.")}
        series = score_series(capture_file.read(path, names) for path in paths)
        found.append(PulledRun(run, pulled, ComparedRun(str(run.ref), series, info.config, info.state), header))
    return found, notes


def sorted_by_settings(runs: Sequence[PulledRun]) -> list[PulledRun]:
    by_name = {run.compared.name: run for run in runs}
    return [by_name[run.name] for run in in_order_of_settings([run.compared for run in runs])]


def check_probes(runs: Sequence[PulledRun], names: Mapping[str, str]) -> list[str]:
    """What is to be said of probes that hold other tokens.

    Args:
        names: run -> what it is called in messages.

    Raises:
        ConfigError: the probes are of different kinds, so that neither attention maps nor scores mean the same.
    """
    kinds = {names[run.compared.name]: _describe(run.header.probe) for run in runs}
    if len(set(kinds.values())) > 1:
        by_kind: dict[str, list[str]] = {}
        for name, kind in kinds.items():
            by_kind.setdefault(kind, []).append(name)
        found = "; ".join(f"{kind} in {_some(members)}" for kind, members in by_kind.items())
        raise ConfigError(
            f"the runs were captured on different probes ({found}): their attention maps cannot stand side by side, and their scores "
            "do not measure the same. Compare runs of one probe, or capture anew with one probe= (from checkpoints: tracker-viz backfill)"
        )
    tokens = {tuple(tuple(row.get("tokens", ())) for row in run.header.probe.get("rows", ())) for run in runs}
    return ["The probes hold different tokens: their maps have the same shape, but not the same words."] if len(tokens) > 1 else []


def drawn_runs(runs: Sequence[PulledRun], labels: Mapping[str, str], *, axis: Axis, order: Order) -> tuple[list[ComparedSeries], Timing]:
    """What a picture of the runs is drawn from.

    Raises:
        ConfigError: matched order of models that differ in depth.
    """
    from tracker_viz.rendering import Series
    from tracker_viz.rendering.compared_series import ComparedSeries, Timing

    compared = [run.compared for run in runs]
    timing = _thinned(align(compared, axis=axis))
    orders = matched_orders(compared) if order == "matched" else [_by_index(run.series) for run in compared]
    first = ranking(compared[0].series)
    drawn = []
    for run, heads in zip(runs, orders, strict=True):
        series = run.compared.series
        places = positions(series, axis)
        at_step = dict(zip(series.steps.tolist(), places.tolist(), strict=True))
        ranked: tuple[Head | None, ...] = ranking(series)
        if order == "matched":
            ranked = tuple(_beside(head, orders[0], heads) for head in first)
            ranked += tuple(head for head in ranking(series) if head not in ranked)
        drawn.append(
            ComparedSeries(
                label=labels[run.compared.name],
                series=Series(run.pulled.captures, title=labels[run.compared.name]),
                places=places,
                ranking=ranked,
                order=heads,
                roles=head_roles(series)[0],
                onsets={role: at_step[onset.step] for role, onset in first_onsets(series).items()},
            )
        )
    return drawn, Timing(timing.axis, timing.points, timing.captures, timing.ended)


def ranking(series: ScoreSeries) -> tuple[Head, ...]:
    """All heads of a run, the most specialised first, and of the heads with one role (or none) one in turn, so that all roles are seen."""
    held = head_roles(series)[0][-1]
    # without the index of specialisation a head counts by its highest score of any role
    scores = [series.heads[name][-1] for name in ("specialisation", *(role.name for role in ROLES)) if name in series.heads]
    strength = np.nan_to_num(scores[0] if "specialisation" in series.heads else np.nanmax(scores, axis=0), nan=-1.0)
    queues: dict[int, list[Head]] = {}
    for head in sorted(_heads(series), key=lambda head: (-float(strength[head]), head)):
        queues.setdefault(int(held[head]), []).append(head)
    # heads without a role come when all roles had their turn
    queued = [queues[role] for role in sorted(queues, key=lambda role: (role < 0, -float(strength[queues[role][0]])))]
    ranked: list[Head] = []
    while any(queued):
        ranked += [queue.pop(0) for queue in queued if queue]
    return tuple(ranked)


def matched_orders(runs: Sequence[ComparedRun]) -> list[Mapping[int, tuple[int | None, ...]]]:
    """For each run block -> its heads, each in the column of the first run's head whose behaviour it has; None: it has no such head.

    Heads that match none stand behind the others.

    Raises:
        ConfigError: the models differ in depth.
    """
    depths = {run.series.shape[0] for run in runs}
    if len(depths) > 1:
        blocks = " and ".join(map(str, sorted(depths)))
        raise ConfigError(f"order=matched puts heads side by side within their blocks; these models have {blocks} blocks: use order=index")
    found = behaviours(runs)
    orders: list[Mapping[int, tuple[int | None, ...]]] = [_by_index(runs[0].series)]
    for run, other in zip(runs[1:], found[1:], strict=True):
        partner = match_heads(found[0], other, scope="block").partner()
        order = {}
        for block, heads in _by_index(run.series).items():
            beside = [
                partner[block, head][1] if (block, head) in partner else None for head in orders[0].get(block, ()) if head is not None
            ]
            order[block] = (*beside, *(head for head in heads if head not in beside))
        orders.append(order)
    return orders


def _beside(head: Head, reference: Mapping[int, tuple[int | None, ...]], other: Mapping[int, tuple[int | None, ...]]) -> Head | None:
    block, number = head
    column = reference[block].index(number)
    partner = other[block][column] if column < len(other.get(block, ())) else None
    return None if partner is None else (block, partner)


def _by_index(series: ScoreSeries) -> Mapping[int, tuple[int | None, ...]]:
    order: dict[int, tuple[int | None, ...]] = {}
    for block, head in _heads(series):
        order[block] = (*order.get(block, ()), head)
    return order


def _heads(series: ScoreSeries) -> list[Head]:
    """The heads that have a score at the last capture."""
    there = np.isfinite(np.stack([scores[-1] for scores in series.heads.values()])).any(0)
    return [(int(block), int(head)) for block, head in np.argwhere(there)]


def _thinned(alignment: Alignment) -> Alignment:
    """At most ``MAX_POINTS`` points, the first and the last among them."""
    n_points = len(alignment.points)
    if n_points <= MAX_POINTS:
        return alignment
    kept = np.linspace(0, n_points - 1, MAX_POINTS).round().astype(int)
    return replace(alignment, points=alignment.points[kept], captures=alignment.captures[:, kept], ended=alignment.ended[:, kept])


def _describe(probe: Mapping[str, Any]) -> str:
    """``64 tokens: repeated (period 15), text``."""
    rows = [
        f"{row.get('kind', 'unknown')} (period {row['period']})" if row.get("period") else str(row.get("kind", "unknown"))
        for row in probe.get("rows", ())
    ]
    return f"{probe.get('length', 'unknown')} tokens: {', '.join(rows) or 'rows unknown'}"


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
