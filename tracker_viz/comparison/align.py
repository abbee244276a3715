"""Several runs on one axis: by training step, by tokens seen, or by progress (0 at the start, 1 at
each run's own end).

``align`` says which capture of each run is shown at each point of time: always a real one, never
one in between. ``trajectories`` gives numbers for matching and distances, where going straight from
one capture to the next is what is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison.runs import ComparedRun
from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.metrics import ScoreSeries

Axis = Literal["step", "tokens", "progress"]
AXES: tuple[Axis, ...] = get_args(Axis)
NOT_YET = -1


@dataclass(frozen=True, slots=True)
class Alignment:
    """Which capture of each run belongs to each point of time.

    Attributes:
        points: float64 [point], rising: steps, tokens, or progress 0..1.
        captures: int64 [run, point]: index into the run's captures, the last one at or before the
            point; ``NOT_YET`` before its first.
        ended: bool [run, point]: the run was over by then, and its last capture stands still.
    """

    axis: Axis
    points: NDArray[np.float64]
    captures: NDArray[np.int64]
    ended: NDArray[np.bool_]


def positions(series: ScoreSeries, axis: Axis) -> NDArray[np.float64]:
    """Where each capture of a run lies on ``axis``: float64 [capture], rising.

    Raises:
        ConfigError: unknown axis, or ``tokens`` of a run that did not count them.
    """
    if axis not in AXES:
        raise ConfigError(unknown_name("axis", axis, AXES))
    steps = series.steps.astype(np.float64)
    if axis == "step":
        return steps
    if axis == "progress":
        return (steps - steps[0]) / max(steps[-1] - steps[0], 1.0)
    tokens = series.tokens_seen
    if len(tokens) != len(steps) or np.isnan(tokens).any():
        raise ConfigError(
            "a run did not say how many tokens it had seen; align by step or progress, or pass "
            "tokens_seen= to step()"
        )
    return tokens


def align(
    runs: Sequence[ComparedRun], *, axis: Axis = "step", n_points: int | None = None
) -> Alignment:
    """Put runs side by side on one axis.

    Args:
        n_points: so many evenly spaced points; None: every point at which any run has a capture.
    """
    at = [positions(run.series, axis) for run in runs]
    if n_points is None:
        points = np.unique(np.concatenate(at))
    else:
        points = np.linspace(
            min(places[0] for places in at), max(places[-1] for places in at), n_points
        )
    captures = np.stack([np.searchsorted(places, points, side="right") - 1 for places in at])
    ended = np.stack([points > places[-1] for places in at])
    return Alignment(axis, points, captures.astype(np.int64), ended)


def trajectories(
    series: ScoreSeries,
    scores: Sequence[str],
    *,
    axis: Axis = "progress",
    points: NDArray[np.float64],
) -> NDArray[np.float32]:
    """What every head did over time: float32 [block, head, point, score], straight lines between
    captures, held beyond the ends.

    NaN where there is no such head, or where a score was never finite.
    """
    at = positions(series, axis)
    n_blocks, n_heads = series.shape
    paths = np.full((n_blocks, n_heads, len(points), len(scores)), np.nan, np.float32)
    for index, name in enumerate(scores):
        values = series.heads[name]
        for block, head in np.ndindex(n_blocks, n_heads):
            known = np.isfinite(values[:, block, head])
            if known.any():
                paths[block, head, :, index] = np.interp(
                    points, at[known], values[known, block, head]
                )
    return paths
