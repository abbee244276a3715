"""Put several runs on one axis: training steps, tokens seen, or progress (0 at the start, 1 at each
run's own end).

``align`` chooses the capture of each run that is shown at each point of time: always a real one,
never one in between. ``shared_stretch`` and ``trajectories`` give the numbers for matching and
distances, which interpolate linearly between captures.
"""

from __future__ import annotations

import functools
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
# Padding and a shorter last batch change the tokens per step a little, in runs of the same batches.
_SAME_BATCHES = 0.05
# Runs are compared at the captures they have in common where these are this many, and this share
# of those that the run with fewer captures has.
_MIN_COMMON = 8
_MIN_COMMON_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Alignment:
    """The capture of each run at each point of time.

    Attributes:
        points: float64 [point], rising: steps, tokens, or progress 0..1.
        captures: int64 [run, point]: index into the run's captures, the last one at or before the
            point; ``NOT_YET`` before its first.
        ended: bool [run, point]: the run was over by then, and its last capture is shown.
    """

    axis: Axis
    points: NDArray[np.float64]
    captures: NDArray[np.int64]
    ended: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Stretch:
    """The part of an axis on which several runs can be compared.

    Attributes:
        points: float64 [point], evenly spaced from the first to the last place that all runs have.
        captures: for each run the indices of the captures that count: those that all runs have at
            the same places, or all of its own where too few are in common.
    """

    axis: Axis
    points: NDArray[np.float64]
    captures: tuple[NDArray[np.int64], ...]


def positions(series: ScoreSeries, axis: Axis) -> NDArray[np.float64]:
    """Return the place of each capture on ``axis``: float64 [capture], rising.

    Raises:
        ConfigError: an unknown axis, or ``tokens`` of a run that did not count them.
    """
    if axis not in AXES:
        raise ConfigError(unknown_name("axis", axis, AXES))
    steps = series.steps.astype(np.float64)
    if axis == "step":
        return steps
    if axis == "progress":
        return (steps - steps[0]) / max(steps[-1] - steps[0], 1.0)
    if not _counted_tokens(series):
        raise ConfigError(
            "a run did not record how many tokens it had seen; align by step or progress, or pass "
            "tokens_seen= to step()"
        )
    return series.tokens_seen


def comparable_axis(runs: Sequence[ComparedRun]) -> Axis:
    """Return the axis on which runs are at the same point of their training.

    Steps; tokens where the runs counted them and take different numbers per step; progress only
    where the runs have no step in common.
    """
    axis: Axis = "tokens" if _batches_differ(runs) else "step"
    first, last = _shared_ends(_all_positions(runs, axis))
    return axis if first <= last else "progress"


def align(
    runs: Sequence[ComparedRun], *, axis: Axis = "step", n_points: int | None = None
) -> Alignment:
    """Put runs side by side on one axis.

    Args:
        n_points: how many evenly spaced points; None: every point at which any run has a capture.
    """
    places = _all_positions(runs, axis)
    points = np.unique(np.concatenate(places))
    if n_points is not None:
        points = np.linspace(points[0], points[-1], n_points)

    captures, ended = [], []
    for each in places:
        captures.append(np.searchsorted(each, points, side="right") - 1)
        ended.append(points > each[-1])
    return Alignment(axis, points, np.stack(captures).astype(np.int64), np.stack(ended))


def shared_stretch(runs: Sequence[ComparedRun], *, axis: Axis, n_points: int) -> Stretch:
    """Return the part of an axis that all runs have.

    A run that was stopped early is compared up to there. Where enough captures are at the same
    places, only these count, so that a difference in schedule makes no difference in behavior.

    Raises:
        ConfigError: the runs have no part of the axis in common.
    """
    places = _all_positions(runs, axis)
    first, last = _shared_ends(places)
    if first > last:
        raise ConfigError(
            f"the runs have no {axis} in common: one begins at {first:g}, another ends at "
            f"{last:g}; align by progress"
        )

    common = functools.reduce(np.intersect1d, places)
    n_fewest = min(np.count_nonzero((each >= first) & (each <= last)) for each in places)
    has_enough = len(common) >= max(_MIN_COMMON, _MIN_COMMON_SHARE * n_fewest)
    if has_enough:
        first, last = common[0], common[-1]

    captures = []
    for each in places:
        # Between the captures that only one run has, the other would have to be guessed.
        counts = np.isin(each, common) if has_enough else np.ones(len(each), bool)
        captures.append(np.flatnonzero(counts))
    return Stretch(axis, np.linspace(first, last, n_points), tuple(captures))


def trajectories(
    series: ScoreSeries,
    scores: Sequence[str],
    *,
    axis: Axis,
    points: NDArray[np.float64],
    captures: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Return what every head did over time: float32 [block, head, point, score], straight lines
    between captures, held beyond the ends.

    NaN where there is no such head, or where a score was never finite.

    Args:
        captures: indices of the captures that count; None: all.
    """
    chosen = np.arange(series.n_captures) if captures is None else captures
    places = positions(series, axis)[chosen]
    paths = []
    for name in scores:
        values = series.heads[name][chosen]
        finite = np.isfinite(values)
        path = _interpolated(places, values, points)
        path[:, ~finite.any(0)] = np.nan

        # Straight lines go over a gap, which heads that were always measured do not have.
        has_gaps = finite.any(0) & ~finite.all(0)
        for block, head in np.argwhere(has_gaps):
            known = finite[:, block, head]
            path[:, block, head] = np.interp(points, places[known], values[known, block, head])
        paths.append(path)
    return np.stack(paths, axis=-1).transpose(1, 2, 0, 3)


def _interpolated(
    places: NDArray[np.float64], values: NDArray[np.float32], points: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return ``values`` [place, ...] at ``points``, for all heads at once: float32 [point, ...]."""
    after = np.clip(np.searchsorted(places, points), 1, max(len(places) - 1, 1))
    before, after = after - 1, np.minimum(after, len(places) - 1)
    span = places[after] - places[before]
    shares = np.clip((points - places[before]) / np.where(span > 0, span, 1.0), 0.0, 1.0)
    share = shares.astype(np.float32)[:, None, None]
    with np.errstate(invalid="ignore"):
        return values[before] + share * (values[after] - values[before])


def _all_positions(runs: Sequence[ComparedRun], axis: Axis) -> list[NDArray[np.float64]]:
    return [positions(run.series, axis) for run in runs]


def _shared_ends(places: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the first and the last place that all runs have; the first is the greater one where
    they have none."""
    first = max(float(each[0]) for each in places)
    last = min(float(each[-1]) for each in places)
    return first, last


def _batches_differ(runs: Sequence[ComparedRun]) -> bool:
    """Return whether all runs counted tokens, and saw different numbers of them per step."""
    rates = []
    for run in runs:
        if not _counted_tokens(run.series):
            return False
        if run.series.n_captures > 1:
            rates.append(_tokens_per_step(run.series))
    return bool(rates) and max(rates) - min(rates) > _SAME_BATCHES * max(rates)


def _counted_tokens(series: ScoreSeries) -> bool:
    tokens = series.tokens_seen
    return len(tokens) == series.n_captures and bool(np.isfinite(tokens).all())


def _tokens_per_step(series: ScoreSeries) -> float:
    """Return the mean between the first and the last capture."""
    tokens = series.tokens_seen
    return float(tokens[-1] - tokens[0]) / float(series.steps[-1] - series.steps[0])
