"""Places a model with too many heads for a map of each: mosaics of all, the heads that changed
most, scores, and a summary of the weights.

Which arrangement fills a picture depends on its shape and on the model's: a few are tried, and the
one that fills it best is taken.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.cards import (
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
from tracker_viz.rendering.planning.mosaic import MOST_ZOOMS, place_mosaic, place_zooms
from tracker_viz.rendering.planning.plan_builder import TITLES, PlanBuilder, next_even
from tracker_viz.rendering.planning.role_map import place_role_map, shows_role_map, telling_heads
from tracker_viz.rendering.sources import CodedMap, Mosaic

log = logging.getLogger(__name__)

_BARS = 64  # at 1080p: a row of colour bars
_COLUMN = 150  # at 1080p: a summary of the weights that stands between mosaics and zooms


@dataclass(frozen=True)
class _Parts:
    """``summary``: of the weights, where the layout shows any; ``ranked``: (row, column) of the
    heads, the most telling first."""

    heads: Sequence[Heads]
    summary: Card | None
    scores: Sequence[Card]
    ranked: Sequence[tuple[int, int]]
    n_zooms: int | None


def place_many_heads(
    builder: PlanBuilder,
    heads: Sequence[Heads],
    matrices: Sequence[Matrices],
    scores: Sequence[Card],
    n_zooms: int | None,
    area: Box,
) -> int:
    """Fill ``area``; titles stand above it. Returns the bottom of the lowest part.

    Raises:
        LayoutError: no arrangement has room for all parts.
    """
    ranked = telling_heads(builder, heads[0], n_zooms or MOST_ZOOMS)
    parts = _Parts(
        heads, weight_card(builder, matrices[0]) if matrices else None, scores, ranked, n_zooms
    )
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
    best, bottom = max(trials, key=lambda trial: _worth(trial[0]))
    builder.adopt(best)
    for card in [*scores, *([parts.summary] if parts.summary else [])]:
        if not any(heatmap.source is card.source for heatmap in builder.heatmaps):
            log.warning(
                "layout %s: no room for the map of %s at %dx%d",
                builder.layout.name,
                card.title,
                builder.width,
                builder.height,
            )
    builder.scales = {
        key: scale
        for key, scale in builder.scales.items()
        if any(heatmap.scale == key for heatmap in builder.heatmaps)
    }
    builder.bars = [bar for bar in builder.bars if bar.scale in builder.scales]
    return bottom


def _worth(builder: PlanBuilder) -> float:
    """How well the picture is filled: roots of the pixels, so that mosaics, zooms and cards all get
    some; a title that is cut costs."""
    pixels: dict[str, int] = {}
    for heatmap in builder.heatmaps:
        kind = (
            "mosaic"
            if isinstance(heatmap.source, Mosaic | CodedMap)
            else "zoom"
            if heatmap.head
            else "card"
        )
        pixels[kind] = pixels.get(kind, 0) + heatmap.box.width * heatmap.box.height
    cut = any(label.text.endswith("…") for label in builder.labels)
    return sum(math.sqrt(each) for each in pixels.values()) * (0.8 if cut else 1.0)


_Arrange = Callable[[PlanBuilder, _Parts, Box], int]


def _arrangements(builder: PlanBuilder, parts: _Parts) -> list[_Arrange]:
    n_mosaics = len(parts.heads)
    if not builder.is_narrow:
        shares: tuple[float, ...] = (0.76, 0.84)
        if n_mosaics == 1 or shows_role_map(builder):
            shares = (0.50, 0.56)
        return [partial(_in_columns, share=share) for share in shares]
    columns: list[_Arrange] = [partial(_in_columns, share=share) for share in (0.45, 0.58, 0.72)]
    return [
        *columns,
        _cards_below,
        partial(_in_rows, most_groups=1),
        partial(_in_rows, most_groups=8),
    ]


def _in_columns(builder: PlanBuilder, parts: _Parts, area: Box, *, share: float) -> int:
    """Mosaics at the left, as high as there is room; at the right the zooms, and below them scores
    and weights."""
    px = builder.px
    mosaics, cards = _mosaics(
        builder, parts, Box(area.x, area.y, int(area.width * share), area.height)
    )
    right = Box(mosaics.right + px(40), area.y, area.right - mosaics.right - px(40), area.height)
    bars = (
        0 if builder.is_narrow else px(_BARS)
    )  # in a narrow picture they stand in a row of their own
    below = (
        max(row_height(builder, cards) + px(TITLES) + bars, int(right.height * 0.43))
        if cards
        else bars + px(20)
    )
    zooms = Box(right.x, right.y, right.width, max(right.height - below, right.height // 4))
    y = place_zooms(builder, parts.heads[0], parts.ranked, parts.n_zooms, zooms) + px(TITLES)
    while cards:
        try:
            place_cards(
                builder,
                cards,
                Box(right.x, y, right.width, right.bottom - y - bars - px(4)),
                own_bars=False,
            )
            break
        except LayoutError:
            if builder.is_narrow:  # where another arrangement may have the room
                raise
            cards.pop()
    if bars:
        builder.place_bars(Box(right.x, right.bottom - bars + px(4), right.width, bars))
    return right.bottom


def _cards_below(builder: PlanBuilder, parts: _Parts, area: Box) -> int:
    """Mosaics at the left and zooms at the right; below both, in the whole width, scores and
    weights."""
    below = _row_below(builder, parts)
    high = area.height - below
    mosaics, cards = _mosaics(builder, parts, Box(area.x, area.y, int(0.58 * area.width), high))
    x = mosaics.right + builder.px(40)
    bottom = place_zooms(
        builder, parts.heads[0], parts.ranked, parts.n_zooms, Box(x, area.y, area.right - x, high)
    )
    return place_below(builder, cards, max(bottom, mosaics.bottom), area)


def _in_rows(builder: PlanBuilder, parts: _Parts, area: Box, *, most_groups: int) -> int:
    """Mosaics, zooms, and scores and weights, each in the whole width, below each other."""
    px = builder.px
    high = area.height - _row_below(builder, parts)
    beside = px(_COLUMN + 40) if parts.summary and parts.scores and len(parts.heads) == 1 else 0
    mosaics, cards = _mosaics(
        builder, parts, Box(area.x, area.y, area.width - beside, int(0.72 * high)), most_groups
    )
    y = next_even(mosaics.bottom + px(TITLES))
    bottom = place_zooms(
        builder,
        parts.heads[0],
        parts.ranked,
        parts.n_zooms,
        Box(area.x, y, area.width, area.y + high - y),
    )
    return place_below(builder, cards, bottom, area)


def _mosaics(
    builder: PlanBuilder, parts: _Parts, area: Box, most_groups: int = 8
) -> tuple[Box, list[Card]]:
    """A mosaic for each row of the probe, and beside it the weights: in the same rows where it has
    one for each block, else in a column where no scores follow. Returns the box of all these, by
    the weights wider than ``area`` may be, and the cards that are left.
    """
    px, summary = builder.px, parts.summary
    beside = len(parts.heads) == 1 and summary is not None
    foot = beside_foot(builder, summary) if beside and summary else 0
    column = px(_COLUMN + 40) if beside and not parts.scores else 0
    x = bottom = 0
    if shows_role_map(builder):
        used = place_role_map(builder, Box(area.x, area.y, area.width - column, area.height))
        cards = [*parts.scores, *([summary] if summary else [])]
        return used, cards
    for number, group in enumerate(parts.heads):
        left = x + px(40) if number else area.x
        room = (
            (area.width - column - px(40)) // len(parts.heads)
            if builder.is_narrow
            else area.width // len(parts.heads)
        )
        mosaic = place_mosaic(
            builder, group, Box(left, area.y, room, area.height - foot), most_groups
        )
        x, bottom = mosaic.right, max(bottom, mosaic.bottom)
    if beside and summary and len(builder.heatmaps) == 1:
        return Box(
            area.x, area.y, place_beside(builder, summary, mosaic) - area.x, bottom + foot - area.y
        ), list(parts.scores)
    if beside and summary and not parts.scores:
        x = place_column(builder, summary, Box(x + px(28), area.y, px(_COLUMN), area.height))
        return Box(area.x, area.y, x - area.x, area.height), []
    return Box(area.x, area.y, x - area.x, bottom - area.y), [
        *parts.scores,
        *([summary] if summary else []),
    ]


def _row_below(builder: PlanBuilder, parts: _Parts) -> int:
    """Pixels that the scores need below everything, and the weights where these can not stand
    beside a mosaic."""
    cards = [
        *parts.scores,
        *([parts.summary] if parts.summary and (parts.scores or len(parts.heads) > 1) else []),
    ]
    return row_height(builder, cards, builder.px(100)) + builder.px(TITLES) if cards else 0
