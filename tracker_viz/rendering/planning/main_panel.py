"""Place attention as large as it goes, and around it what accompanies it: scores, the weights that
changed most, and color bars.

The companions stand in a column at the right, or in an upright picture also in a band below. How
wide the column must be depends on the scores: some widths are tried, and the one that leaves most
to attention is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.plan import Box, Heatmap
from tracker_viz.rendering.planning.boxes import (
    bottom_at,
    cut_bottom,
    cut_left,
    cut_top,
    left_at,
    right_at,
    top_at,
)
from tracker_viz.rendering.planning.cards import Card, place_score_cards, row_height
from tracker_viz.rendering.planning.changed_matrices import (
    changed_matrices_px,
    place_changed_matrices,
)
from tracker_viz.rendering.planning.content import Heads, Matrices, add_weight_scale
from tracker_viz.rendering.planning.grid import LEAST_MAP_PX, fit_grid, place_grid
from tracker_viz.rendering.planning.plan_builder import (
    BAR_PITCH,
    BAR_WIDTH,
    TITLES,
    PlanBuilder,
    next_even,
)
from tracker_viz.rendering.sources import HeadMap, ScoreMap

_COLUMNS = (200, 240, 290, 350, 430, 520, 640)  # at 1080p: widths that are tried
_GAP = 34  # at 1080p: between attention and the column
_LEAST_HEIGHT = 620  # at 1080p: of a column; few blocks are no reason to squeeze it
_TITLE = 44  # at 1080p: above a part below another
_LEAST_CELL = 2  # at 1080p: smaller cells of scores cannot be told apart
_WEIGHTS_SHARE = 0.36  # of a column


@dataclass(frozen=True)
class _Parts:
    """Everything that has to be placed; ``cards`` of the scores."""

    heads: Sequence[Heads]
    matrices: Sequence[Matrices]
    cards: Sequence[Card]


@dataclass(frozen=True)
class _Trial:
    """One way to place attention and the scores, and the room that is left for weights and color
    bars; ``bottom``: of all of these."""

    builder: PlanBuilder
    weights: Box
    bars: Box | None
    bottom: int

    @property
    def worth(self) -> tuple[bool, int, int]:
        """Whether all can be read; the cells of a map; and the pixels of attention."""
        maps = [each for each in self.builder.heatmaps if isinstance(each.source, HeadMap)]
        is_read = all(_is_read(self.builder, heatmap) for heatmap in self.builder.heatmaps)
        is_cut = any(label.text.endswith("…") for label in self.builder.labels)
        cells = min(heatmap.source.shape[0] for heatmap in maps)
        pixels = sum(heatmap.box.width * heatmap.box.height for heatmap in maps)
        return is_read and not is_cut, cells, pixels

    @property
    def has_large_maps(self) -> bool:
        """Return whether maps of all heads tell more than a map of their roles would."""
        least = LEAST_MAP_PX * self.builder.unit
        for heatmap in self.builder.heatmaps:
            if isinstance(heatmap.source, HeadMap) and heatmap.box.height < least:
                return False
        return True


def place_main_panel(
    builder: PlanBuilder,
    heads: Sequence[Heads],
    matrices: Sequence[Matrices],
    cards: Sequence[Card],
    area: Box,
) -> int | None:
    """Fill ``area``, under titles above it; return the bottom of the lowest part, or None where a
    model has too many heads for a map of each."""
    parts = _Parts(heads, matrices, cards)
    for panel in matrices:
        add_weight_scale(builder, panel)
    trials: list[_Trial] = []
    for place in _ways(builder):
        trial = builder.attempt()
        try:
            trials.append(place(trial, parts, area))
        except LayoutError:  # the scores do not fit; in a wider column they may
            continue
    best = max(trials, key=lambda trial: trial.worth, default=None)
    if best is None or not best.has_large_maps:
        for panel in matrices:
            builder.scales.pop(panel.scale, None)
        return None
    builder.adopt(best.builder)
    _place_weights(builder, matrices, best.weights)
    if best.bars:
        builder.place_bars(best.bars)
    return best.bottom


_Place = Callable[[PlanBuilder, _Parts, Box], _Trial]


def _ways(builder: PlanBuilder) -> Iterator[_Place]:
    for width in _COLUMNS:
        yield partial(_with_column, column_px=builder.px(width))
    if builder.is_narrow:
        yield _with_band


def _is_read(builder: PlanBuilder, heatmap: Heatmap) -> bool:
    """Return whether the cells of a map of scores can be told apart; True of other maps."""
    if not isinstance(heatmap.source, ScoreMap):
        return True
    rows, columns = heatmap.source.shape
    least = builder.px(_LEAST_CELL)
    return min(heatmap.box.height // rows, heatmap.box.width // columns) >= least


def _with_column(builder: PlanBuilder, parts: _Parts, area: Box, *, column_px: int) -> _Trial:
    """Place attention at the left and the scores in a column at its right; the weights go below
    the scores or, where it leaves room, below attention."""
    px = builder.px
    right, bottom = _place_attention(builder, parts.heads, area, column_px + px(_GAP))
    column = left_at(area, right + px(_GAP))
    below = top_at(right_at(area, right), next_even(bottom + px(TITLES)))
    has_band = bool(parts.matrices) and below.height >= px(20) + changed_matrices_px(builder)
    if not has_band:
        least = min(area.bottom, area.y + px(_LEAST_HEIGHT))
        column = bottom_at(column, max(bottom, least))
    bars = None
    # In a wide picture the color bars may stand beside the timeline.
    if builder.is_narrow or column.width >= px(BAR_WIDTH):
        column, bars = cut_bottom(column, _bars_px(builder, column.width), gap=px(4))
    if has_band or not parts.matrices:
        scores, weights = column, below
    else:
        share = max(int(_WEIGHTS_SHARE * column.height), changed_matrices_px(builder) + px(_TITLE))
        scores, weights = cut_bottom(column, share)
        weights = top_at(weights, weights.y + px(_TITLE))
    place_score_cards(builder, parts.cards, scores)
    end = bars.bottom if bars else column.bottom
    return _Trial(builder, weights, bars, max(bottom, end))


def _with_band(builder: PlanBuilder, parts: _Parts, area: Box) -> _Trial:
    """Place attention in the whole width, and below it scores and weights: beside each other, or
    where there is more room below each other."""
    px = builder.px
    area, bars = cut_bottom(area, px(BAR_PITCH))
    least = row_height(builder, parts.cards, px(100)) + px(TITLES)
    _, bottom = _place_attention(builder, parts.heads, bottom_at(area, area.bottom - least), 0)
    band = top_at(area, next_even(bottom + px(TITLES)))
    if not parts.matrices:
        scores, weights = band, band
    elif band.height >= 2 * least:
        scores, weights = cut_top(band, int(0.56 * band.height), gap=px(TITLES))
    else:
        scores, weights = cut_left(band, int(0.64 * band.width), gap=px(24))
    place_score_cards(builder, parts.cards, scores)
    return _Trial(builder, weights, bars, bars.bottom)


def _place_attention(
    builder: PlanBuilder, heads: Sequence[Heads], area: Box, keep_right: int
) -> tuple[int, int]:
    """Place the maps of all heads; return (right, bottom)."""
    shape = fit_grid(builder, heads, (), area, keep_right)
    if not shape.map_px:
        raise LayoutError(f"layout {builder.layout.name!r}: maps of all heads do not fit")
    return place_grid(builder, heads, (), area, shape, keep_right)


def _bars_px(builder: PlanBuilder, width: int) -> int:
    """Return the height of the color bars at the foot of a column."""
    keys = [key for key in builder.scales if not key.startswith("scores.")]
    across = max(1, min(len(keys), width // builder.px(BAR_WIDTH)))
    return -(-len(keys) // across) * builder.px(BAR_PITCH)


def _place_weights(builder: PlanBuilder, matrices: Sequence[Matrices], box: Box) -> None:
    """Place the matrices of each panel that changed most, below each other."""
    if not matrices:
        return
    title = builder.px(_TITLE)
    height = (box.height + title) // len(matrices) - title
    for number, panel in enumerate(matrices):
        y = next_even(box.y + number * (height + title))
        place_changed_matrices(builder, panel, replace(box, y=y, height=height))
    used = {heatmap.scale for heatmap in builder.heatmaps}
    for panel in matrices:
        if panel.scale not in used:  # its bar would explain nothing
            builder.scales.pop(panel.scale, None)
