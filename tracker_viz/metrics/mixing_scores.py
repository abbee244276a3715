"""Score mixing maps: the matrices by which token mixers without a softmax mix their values.

Their entries have any sign and their rows any sum, so that no score of attention means anything
here, and no role is ever read off these. The scores say where the sizes of the entries are, |A|,
each row taken as shares of its own sum.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.head_measures import Floats
from tracker_viz.metrics.probe_rows import FIRST_QUERY

MIXING_NAME = re.compile(r"blocks\.(\d+)\.mixer\.mixing")


def mixing_previous_token(mixing: Floats) -> Floats:
    """Share of |A| that a token takes from the one before it: mean over rows i >= 2 of
    |A[i, i-1]| / sum_j |A[i, j]|. 0..1.

    Args:
        mixing: float32 [..., query, key], 0 above its diagonal.

    Returns:
        float32 [...]; rows of zeros do not count, NaN where every row is zero or one is not finite.
    """
    shares = _shares(mixing)
    return _over_rows(mixing, np.diagonal(shares, -1, -2, -1)[..., FIRST_QUERY - 1 :])


def mixing_current_token(mixing: Floats) -> Floats:
    """Share of |A| that a token takes from itself: mean over rows i >= 2 of |A[i, i]|
    / sum_j |A[i, j]|. 0..1; arguments and NaN as in ``mixing_previous_token``."""
    return _over_rows(mixing, np.diagonal(_shares(mixing), 0, -2, -1)[..., FIRST_QUERY:])


def mixing_memory(mixing: Floats) -> Floats:
    """How far back a token's mixture comes from, in tokens: mean over rows i >= 2 of
    sum_j |A[i, j]| (i - j) / sum_j |A[i, j]|. 0..length - 1; a decay that halves every n tokens
    gives about 1.4 n. Arguments and NaN as in ``mixing_previous_token``."""
    shares = _shares(mixing)[..., FIRST_QUERY:, :]
    place = np.arange(mixing.shape[-1], dtype=np.float32)
    back = place[FIRST_QUERY:, None] - place
    return _over_rows(mixing, (shares * back).sum(-1))


def mixing_negative(mixing: Floats) -> Floats:
    """Share of |A| with a negative sign: mean over rows i >= 2 of sum_j max(-A[i, j], 0)
    / sum_j |A[i, j]|. 0..1; arguments and NaN as in ``mixing_previous_token``."""
    negative = (_shares(mixing) * (mixing < 0)).sum(-1)
    return _over_rows(mixing, negative[..., FIRST_QUERY:])


MIXING_SCORES: Mapping[str, Callable[[Floats], Floats]] = {
    "previous_token": mixing_previous_token,
    "current_token": mixing_current_token,
    "memory": mixing_memory,
    "negative": mixing_negative,
}


def equal_mixing(length: int) -> dict[str, float]:
    """Return every score of a map whose entries are all equal, on rows of ``length`` tokens."""
    equal = np.tril(np.ones((length, length), np.float32))
    return {name: float(measure(equal)) for name, measure in MIXING_SCORES.items()}


def mixing_scores(maps: Mapping[int, NDArray[Any]], *, n_blocks: int) -> dict[str, Floats]:
    """Return score -> float32 [block, head], the mean over the rows of the probe; NaN where there
    is no such block or head.

    Args:
        maps: block -> [probe, head or channel, query, key].
        n_blocks: of the model, those without a mixing map too.
    """
    n_heads = max((each.shape[1] for each in maps.values()), default=0)
    scores = {
        name: np.full((n_blocks, n_heads), np.nan, np.float32) for name in MIXING_SCORES if maps
    }
    for block, mixing in maps.items():
        for name, measure in MIXING_SCORES.items():
            of_rows = measure(mixing.astype(np.float32))
            scores[name][block, : mixing.shape[1]] = of_rows.mean(0)
    return scores


def _shares(mixing: Floats) -> Floats:
    """Return |A| over the sum of its row; NaN in rows of zeros."""
    sizes = np.abs(mixing)
    totals = sizes.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Floats = sizes / totals
    return shares


def _over_rows(mixing: Floats, values: Floats) -> Floats:
    """Return the mean of ``values`` [..., query] over the rows that are not all zero; NaN where all
    are, or where the map has an entry that is not finite."""
    counted = np.isfinite(values)
    n_counted = counted.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(counted, values, 0.0).sum(-1) / n_counted
    is_whole = np.isfinite(mixing).all((-2, -1)) & (n_counted > 0)
    return np.where(is_whole, mean, np.nan).astype(np.float32)
