"""Say beside a color bar what the color of broken values means, where a run has any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tracker_viz.rendering.plan import Heatmap
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.sources import ScoreMap

_NAME, _TEXT = "NaN, Inf", 20.0


def explain_nonfinite(builder: PlanBuilder) -> None:
    """Shorten the first color bar of maps with values that are not finite, and write beside it
    which color these have."""
    broken = {heatmap.scale for heatmap in builder.heatmaps if _has_nonfinite(builder, heatmap)}
    if not broken:
        return
    titled = [number for number, bar in enumerate(builder.bars) if bar.titled]
    if not titled:
        return
    chosen = min(titled, key=lambda number: builder.bars[number].scale not in broken)

    px, bar = builder.px, builder.bars[chosen]
    text_px = builder.text_width(_NAME, _TEXT)
    right = bar.box.right
    box = replace(bar.box, width=bar.box.width - text_px - px(7) - px(15) - px(20))
    builder.bars[chosen] = replace(bar, box=box)
    builder.square(right - text_px - px(7) - px(15), box.y - px(1), px(15), builder.theme.nonfinite)
    builder.text(_NAME, right, box.bottom, _TEXT, align="right")


def _has_nonfinite(builder: PlanBuilder, heatmap: Heatmap) -> bool:
    """Return whether a capture has more such values than the map leaves empty."""
    series = builder.subject.runs[heatmap.run].series
    n_empty = 0
    if isinstance(heatmap.source, ScoreMap) and heatmap.mask is not None:
        n_empty = int(np.count_nonzero(heatmap.mask))
    for key in heatmap.source.needs:
        name = key if isinstance(key, str) else key[0]
        n_nonfinite = series.arrays[name].most_nonfinite
        if name in series.first.arrays and not heatmap.is_blank_at(0):
            n_nonfinite = max(n_nonfinite, series.first.arrays[name].n_nonfinite)
        if n_nonfinite > n_empty:
            return True
    return False
