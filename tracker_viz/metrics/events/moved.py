"""Find which heads and blocks moved first while the loss jumped."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.series import ScoreSeries
from tracker_viz.types import HeadId

# A head has moved when its entropy, 0..1, is this far from before the jump; a block when the size
# of its residual stream has changed by this ratio.
HEAD_MOVES, BLOCK_MOVES = 0.1, 1.1
_NAMED = 2


def first_moved_heads(series: ScoreSeries, first: int, last: int) -> tuple[HeadId, ...]:
    """Return at most two heads that moved between the captures ``first`` and ``last``, those that
    moved at the earliest capture first, of equals those that moved most."""
    entropy = series.heads.get("entropy")
    if entropy is None:
        return ()
    change = np.abs(entropy[first + 1 : last + 1] - entropy[first])
    places = _first_moved(change.reshape(len(change), -1), HEAD_MOVES)
    n_heads = entropy.shape[2]
    return tuple((place // n_heads, place % n_heads) for place in places)


def first_moved_blocks(series: ScoreSeries, first: int, last: int) -> tuple[int, ...]:
    """Return at most two blocks, in that order."""
    rms = series.streams.get("rms")
    if rms is None:
        return ()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.abs(np.log(rms[first + 1 : last + 1] / rms[first]))
    change = np.nan_to_num(ratios, posinf=0.0).max(axis=2)
    return tuple(_first_moved(change, float(np.log(BLOCK_MOVES))))


def _first_moved(change: NDArray[np.float32], least: float) -> Iterable[int]:
    """Return numbers of the columns of ``change`` [capture, column] that reach ``least``."""
    has_moved = np.nan_to_num(change) > least
    columns = np.flatnonzero(has_moved.any(0))
    first = has_moved.argmax(0)
    most = np.nan_to_num(change).max(0, initial=0.0)
    ordered = sorted(columns.tolist(), key=lambda column: (first[column], -most[column]))
    return ordered[:_NAMED]
