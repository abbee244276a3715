"""Place a model with too many heads for a map of each: mosaics of all, the heads that changed
most, scores, and a summary of the weights.

Which arrangement fills a picture depends on its shape and on the model's: a few are tried, and the
one that fills it best is taken.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.plan import Box, Heatmap
from tracker_viz.rendering.planning.boxes import (
    bottom_at,
    cut_bottom,
    cut_left,
    cut_right,
    cut_top,
    left_at,
    right_at,
    top_at,
)
from tracker_viz.rendering.planning.cards import (
    NO_ROOM,
    Card,
    beside_foot,
    place_below,
    place_beside,
    place_cards,
    place_column,
    row_height,
    weight_card,
)
from tracker_viz.rendering.planning.content import Heads, Matrices
from tracker_viz.rendering.planning.many_heads.mosaic import MOST_ZOOMS, place_mosaic, place_zooms
from tracker_viz.rendering.planning.many_heads.role_map import (
    place_role_map,
    shows_role_map,
    telling_heads,
)
from tracker_viz.rendering.planning.plan_builder import BAR_PITCH, TITLES, PlanBuilder, next_even
from tracker_viz.rendering.sources import CodedMap, Mosaic

log = logging.getLogger(__name__)

_COLUMN = 150  # at 1080p: a summary of the weights that stands between mosaics and zooms


@dataclass(frozen=True)
class _Parts:
    """Everything that has to be placed.

    Attributes:
        summary: of the weights, where the layout shows any.
        ranked: (row, column) of the heads, the most telling first.
    """

    heads: Sequence[Heads]
    summary: Card | None
    scores: Sequence[Card]
    ranked: Sequence[tuple[int, int]]
    n_zooms: int | None

    @property
    def cards(self) -> list[Card]:
        """Scores, and behind them the summary of the weights."""
        return [*self.scores, self.summary] if self.summary else [*self.scores]


def place_many_heads(
    builder: PlanBuilder,
    heads: Sequence[Heads],
    matrices: Sequence[Matrices],
    scores: Sequence[Card],
    n_zooms: int | None,
    area: Box,
) -> int:
    """Fill ``area``, under titles above it; return the bottom of the lowest part.

    Raises:
        LayoutError: no arrangement has room for all parts.
    """
    ranked = telling_heads(builder, heads[0], n_zooms or MOST_ZOOMS)
    summary = weight_card(builder, matrices[0]) if matrices else None
    parts = _Parts(heads, summary, scores, ranked, n_zooms)
    trials: list[tuple[PlanBuilder, int]] = []
    refused: LayoutError | None = None
    for arrange in _arrangements(builder, parts):
        trial = builder.attempt()
        try:
            trials.append((trial, arrange(trial, parts, area)))
        except LayoutError as error:
            refused = error
    if not trials:
        assert refused is not None
        raise refused
    # The trial that is taken holds everything that was placed before it, too.
    best, bottom = max(trials, key=lambda trial: _worth(trial[0]))
    builder.adopt(best)
    _warn_of_missing(builder, parts.cards)
    # A card without room leaves its scale behind, whose bar would explain nothing.
    used = {heatmap.scale for heatmap in builder.heatmaps}
    builder.scales = {key: scale for key, scale in builder.scales.items() if key in used}
    builder.bars = [bar for bar in builder.bars if bar.scale in builder.scales]
    return bottom


def _warn_of_missing(builder: PlanBuilder, cards: Sequence[Card]) -> None:
    placed = [heatmap.source for heatmap in builder.heatmaps]
    for card in cards:
        if not any(source is card.source for source in placed):
            log.warning(
                NO_ROOM,
                builder.layout.name,
                card.title,
                builder.width,
                builder.height,
            )


def _worth(builder: PlanBuilder) -> float:
    """Return how well the picture is filled: the sum of the roots of the pixels of mosaics, zooms
    and cards, so that all get some; less if a title is cut. Only for comparing arrangements."""
    pixels: dict[str, int] = {}
    for heatmap in builder.heatmaps:
        kind = _kind(heatmap)
        pixels[kind] = pixels.get(kind, 0) + heatmap.box.width * heatmap.box.height
    filled = sum(math.sqrt(each) for each in pixels.values())
    if any(label.text.endswith("…") for label in builder.labels):
        return filled * 0.8
    return filled


def _kind(heatmap: Heatmap) -> str:
    if isinstance(heatmap.source, Mosaic | CodedMap):
        return "mosaic"
    return "zoom" if heatmap.head else "card"


_Arrange = Callable[[PlanBuilder, _Parts, Box], int]


def _arrangements(builder: PlanBuilder, parts: _Parts) -> list[_Arrange]:
    if builder.is_narrow:
        return [
            *(partial(_in_columns, share=share) for share in (0.45, 0.58, 0.72)),
            _cards_below,
            partial(_in_rows, most_groups=1),
            partial(_in_rows, most_groups=8),
        ]
    shares = (0.76, 0.84)
    if len(parts.heads) == 1 or shows_role_map(builder):
        shares = (0.50, 0.56)
    return [partial(_in_columns, share=share) for share in shares]


def _in_columns(builder: PlanBuilder, parts: _Parts, area: Box, *, share: float) -> int:
    """Place mosaics at the left, as high as there is room; at the right the zooms, and below them
    scores and weights."""
    px = builder.px
    left, _ = cut_left(area, int(area.width * share))
    mosaics, cards = _mosaics(builder, parts, left)
    right = left_at(area, mosaics.right + px(40))
    # In a narrow picture the color bars have a row of their own.
    bars = 0 if builder.is_narrow else px(BAR_PITCH)
    below = bars + px(20)
    if cards:
        below = max(row_height(builder, cards) + px(TITLES) + bars, int(right.height * 0.43))
    zooms, _ = cut_top(right, max(right.height - below, right.height // 4))
    y = place_zooms(builder, parts.heads[0], parts.ranked, parts.n_zooms, zooms) + px(TITLES)
    room, _ = cut_bottom(top_at(right, y), bars + px(4))
    _place_cards_that_fit(builder, cards, room)
    if bars:
        _, foot = cut_bottom(right, bars)
        builder.place_bars(replace(foot, y=foot.y + px(4)))
    return right.bottom


def _place_cards_that_fit(builder: PlanBuilder, cards: list[Card], room: Box) -> None:
    """Place the cards, in a wide picture without the last ones where not all have room."""
    while cards:
        try:
            place_cards(builder, cards, room, own_bars=False)
            return
        except LayoutError:
            if builder.is_narrow:  # another arrangement may have the room
                raise
            cards.pop()


def _cards_below(builder: PlanBuilder, parts: _Parts, area: Box) -> int:
    """Place mosaics at the left and zooms at the right; below both, in the whole width, scores and
    weights."""
    above, _ = cut_bottom(area, _row_below(builder, parts))
    mosaics, cards = _mosaics(builder, parts, cut_left(above, int(0.58 * area.width))[0])
    room = left_at(above, mosaics.right + builder.px(40))
    bottom = place_zooms(builder, parts.heads[0], parts.ranked, parts.n_zooms, room)
    return place_below(builder, cards, max(bottom, mosaics.bottom), area)


def _in_rows(builder: PlanBuilder, parts: _Parts, area: Box, *, most_groups: int) -> int:
    """Place mosaics, zooms, and scores and weights, each in the whole width, below each other."""
    px = builder.px
    above, _ = cut_bottom(area, _row_below(builder, parts))
    beside = px(_COLUMN + 40) if parts.summary and parts.scores and len(parts.heads) == 1 else 0
    room, _ = cut_right(cut_top(above, int(0.72 * above.height))[0], beside)
    mosaics, cards = _mosaics(builder, parts, room, most_groups)
    room = top_at(above, next_even(mosaics.bottom + px(TITLES)))
    bottom = place_zooms(builder, parts.heads[0], parts.ranked, parts.n_zooms, room)
    return place_below(builder, cards, bottom, area)


def _mosaics(
    builder: PlanBuilder, parts: _Parts, area: Box, most_groups: int = 8
) -> tuple[Box, list[Card]]:
    """Place a mosaic for each row of the probe, and beside it the weights: in the same rows where
    it has one for each block, else in a column where no scores follow.

    Return the box of all these, by the weights wider than ``area`` may be, and the cards that are
    left.
    """
    px = builder.px
    summary = parts.summary if len(parts.heads) == 1 else None  # which may stand beside the mosaic
    has_same_rows = summary is not None and summary.blocks == parts.heads[0].block_numbers
    foot = beside_foot(builder, summary) if summary and has_same_rows else 0
    column = px(_COLUMN + 40) if summary and not parts.scores else 0
    if shows_role_map(builder):
        room, _ = cut_right(area, column)
        return _role_map_and_mixing(builder, parts, room, most_groups), parts.cards

    width = area.width
    if builder.is_narrow:
        width -= column + px(40)
    room = Box(area.x, area.y, width // len(parts.heads), area.height - foot)
    bottom = 0
    for heads in parts.heads:
        mosaic = place_mosaic(builder, heads, room, most_groups)
        bottom = max(bottom, mosaic.bottom)
        room = replace(room, x=mosaic.right + px(40))
    if summary and has_same_rows and len(builder.heatmaps) == 1:
        right = place_beside(builder, summary, mosaic)
        return right_at(bottom_at(area, bottom + foot), right), list(parts.scores)
    if summary and not parts.scores:
        beside = Box(mosaic.right + px(28), area.y, px(_COLUMN), area.height)
        right = place_column(builder, summary, beside)
        return right_at(area, right), []
    return right_at(bottom_at(area, bottom), mosaic.right), parts.cards


def _role_map_and_mixing(builder: PlanBuilder, parts: _Parts, area: Box, most_groups: int) -> Box:
    """Place the map of roles, and beside it a mosaic of what has none: mixing maps."""
    mixing = [heads for heads in parts.heads if heads.is_mixing][:1]
    box = place_role_map(builder, replace(area, width=area.width // (1 + len(mixing))))
    for heads in mixing:
        x = box.right + builder.px(40)
        room = Box(x, area.y, area.right - x, area.height)
        mosaic = place_mosaic(builder, heads, room, most_groups)
        bottom = max(box.bottom, mosaic.bottom)
        box = Box(box.x, box.y, mosaic.right - box.x, bottom - box.y)
    return box


def _row_below(builder: PlanBuilder, parts: _Parts) -> int:
    """Return the pixels that the scores need below everything, and the weights where these can not
    stand beside a mosaic."""
    cards = list(parts.scores)
    if parts.scores or len(parts.heads) > 1:
        cards = parts.cards
    if not cards:
        return 0
    return row_height(builder, cards, builder.px(100)) + builder.px(TITLES)
