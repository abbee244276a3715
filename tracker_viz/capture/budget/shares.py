"""Share out the bytes of a capture, and make weights fit theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.capture.weights.matrices import evenly_spaced

DEFAULT_MAX_MB = 10.0

BYTES = 2  # of a float16
# Attention's share where attention and weights do not both fit.
ATTENTION_SHARE = 0.6
# Set aside for a capture file's JSON header, token ids not included.
HEADER_BYTES = 64 * 1024
# A weight map of fewer rows and columns than this shows nothing.
_LEAST_SIDE = 8


def weight_side(shapes: Sequence[tuple[int, int]], nbytes: float) -> int:
    """Return the most rows, and columns, that a matrix may keep so that all of ``shapes`` together
    fit ``nbytes`` as float16; at least 8, even where that is too much."""
    largest = max((max(shape) for shape in shapes), default=1)
    low, high = _LEAST_SIDE, max(largest, _LEAST_SIDE)
    while low < high:
        side = (low + high + 1) // 2
        if sum(min(out, side) * min(into, side) for out, into in shapes) * BYTES <= nbytes:
            low = side
        else:
            high = side - 1
    return low


def weights_share(max_mb: float) -> float:
    """Return the bytes that ``Budget.fit`` leaves to weights however large the attention is."""
    # 0.9: a tenth is set aside for scores, which do not exist yet.
    return (1 - ATTENTION_SHARE) * (max_mb * 1e6 - HEADER_BYTES) * 0.9


def sample(matrix: NDArray[Any], side: int) -> NDArray[Any]:
    """Return evenly spaced rows and columns of a matrix, at most ``side`` of each."""
    rows, columns = (evenly_spaced(size, side) for size in matrix.shape)
    return matrix[np.ix_(rows, columns)]
