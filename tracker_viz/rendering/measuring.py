"""Measure how large the drawn values become over a whole run, for the ends of color scales. Each
capture is read once for all scales."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_viz.cores import usable_cores
from tracker_viz.rendering.plan import Heatmap
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.sources import Moment, Source, needs_of

_MOST_THREADS = 8  # each holds two captures


@dataclass(frozen=True, slots=True)
class ValueRange:
    """Largest magnitudes that some boxes show: ``quantile``, the largest that any capture has, and
    ``maximum`` over all captures.

    No more than the quantile's share of any one capture lies beyond ``quantile``. Both are 0 where
    nothing is finite.
    """

    quantile: float
    maximum: float


def measure(
    series: Series, wanted: Mapping[str, tuple[float, Sequence[Heatmap]]]
) -> dict[str, ValueRange]:
    """Return the range of values that each group of boxes shows, exact, over every capture.

    Cells that a mask hides, and values that are not finite, do not count.

    Args:
        wanted: key -> (quantile 0..1, boxes).
    """
    if not wanted:
        return {}
    n_threads = min(usable_cores(), _MOST_THREADS, len(series))
    cuts = [len(series) * part // n_threads for part in range(n_threads + 1)]
    spans = [range(start, end) for start, end in itertools.pairwise(cuts)]
    with ThreadPoolExecutor(n_threads, thread_name_prefix="measure") as pool:
        parts = list(pool.map(lambda span: _measure_span(series, wanted, span), spans))
    whole = {}
    for key in wanted:
        reaches = [part[key] for part in parts]
        quantile = max(reach.quantile for reach in reaches)
        whole[key] = ValueRange(quantile, max(reach.maximum for reach in reaches))
    return whole


def _measure_span(
    series: Series, wanted: Mapping[str, tuple[float, Sequence[Heatmap]]], span: range
) -> dict[str, ValueRange]:
    sources: list[Source] = []
    for _, heatmaps in wanted.values():
        sources += [heatmap.source for heatmap in heatmaps]
    keys = needs_of(sources)
    first = series.read(0, needs_of(sources, "first"))
    previous = series.read(max(0, span.start - 1), needs_of(sources, "previous"))
    reached = dict.fromkeys(wanted, ValueRange(0.0, 0.0))
    for index in span:
        arrays = series.read(index, keys)
        moment = Moment(arrays, first, previous)
        for key, (quantile, heatmaps) in wanted.items():
            if heatmaps:
                shown = np.concatenate([_shown(heatmap, moment) for heatmap in heatmaps])
                reached[key] = _reach(shown, quantile, reached[key])
        previous = arrays
    return reached


def _shown(heatmap: Heatmap, moment: Moment) -> NDArray[np.float32]:
    values = np.abs(np.asarray(heatmap.source.values(moment), np.float32))
    if heatmap.mask is None:
        return values.reshape(-1)
    return values[~heatmap.mask]


def _reach(shown: NDArray[np.float32], quantile: float, before: ValueRange) -> ValueRange:
    finite = np.isfinite(shown)
    if not finite.all():
        shown = shown[finite]
    if not shown.size:
        return before
    maximum = max(before.maximum, float(shown.max()))
    # Counting is ten times faster than finding a quantile. With fewer values beyond it than its
    # share, the quantile cannot be larger.
    n_beyond = np.count_nonzero(shown > before.quantile)
    if n_beyond < math.floor((1.0 - quantile) * (shown.size - 1)):
        return ValueRange(before.quantile, maximum)
    return ValueRange(max(before.quantile, float(np.quantile(shown, quantile))), maximum)
