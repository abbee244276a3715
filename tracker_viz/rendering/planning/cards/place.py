"""Place cards, each with its title, in a column, in a grid of their own or beside a mosaic."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.plan import Bar, Box, Heatmap, Readout
from tracker_viz.rendering.planning.boxes import cut_bottom, top_at
from tracker_viz.rendering.planning.cards.card import Card, score_cards
from tracker_viz.rendering.planning.cards.shape import (
    COLUMN,
    OWN_BAR,
    OWN_BAR_PX,
    Shape,
    cell_width,
    column_names,
    fit_cards,
    head_room_px,
    line_above_px,
    names_px,
    title_lines,
)
from tracker_viz.rendering.planning.plan_builder import (
    BAR_PITCH,
    TITLES,
    PlanBuilder,
    next_even,
    number_spacing,
)
from tracker_viz.rendering.sources import ScoreMap
from tracker_viz.rendering.text import text_width

log = logging.getLogger(__name__)

NO_ROOM = "layout %s: no room for the map of %s at %dx%d"
_NUMBER_ROW = 40  # at 1080p
_NUMBER_PITCH = 20  # at 1080p: from the number of a block to the next, which is as high


def place_scores(builder: PlanBuilder, names: Sequence[str], box: Box) -> None:
    """Place score maps in a column at the side of the picture, and below them the color bars of the
    whole picture."""
    cards = score_cards(builder, names)
    shared = [key for key in builder.scales if key == "score" or not key.startswith("scores.")]
    bars, gap = len(shared) * builder.px(BAR_PITCH), builder.px(10)
    maps, foot = cut_bottom(box, bars - gap, gap=2 * gap)
    place_score_cards(builder, cards, maps)
    builder.place_bars(replace(foot, height=bars))


def place_score_cards(builder: PlanBuilder, cards: Sequence[Card], box: Box) -> None:
    """Fill ``box`` with the scores, under a title above it: small maps or, of a model with a single
    head, numbers."""
    if all(card.source.shape == (1, 1) for card in cards):
        _place_numbers(builder, cards, box)
        # Numbers have no color, so that the scale needs no bar.
        builder.scales.pop("score", None)
        return
    place_cards(builder, cards, box)


def _place_numbers(builder: PlanBuilder, cards: Sequence[Card], box: Box) -> None:
    """Write the scores of a model with a single head as numbers: one cell of color says less."""
    px, size = builder.px, 22.0
    builder.heading("Scores", box.x, box.y - px(14), box.width)
    digit = text_width("0", size * builder.unit, bold=True, mono=True)
    for number, card in enumerate(cards):
        baseline = box.y + px(28) + number * px(_NUMBER_ROW)
        x = box.x
        if card.role:
            builder.square(x, baseline - px(15), px(15), builder.theme.roles[card.role])
            x += px(22)
        values = box.right - 6 * digit
        title, title_px = builder.shrunk(card.title, (size, 20.0), values - x - px(8), between=" (")
        builder.text(title, x, baseline, title_px)
        name = card.source.needs[0]
        assert isinstance(name, str)
        builder.readouts.append(Readout(name, values, baseline, size * builder.unit, 6))


def place_beside(builder: PlanBuilder, card: Card, mosaic: Box) -> int:
    """Place the card at the right of a mosaic whose rows are blocks, in the same rows; return its
    right edge."""
    rows, columns = card.source.shape
    x, cell_y = 2 * ((mosaic.right + builder.px(28)) // 2), -(-mosaic.height // rows)
    cell_x = _beside_cell_x(builder, card)
    box = Box(x, mosaic.y, cell_x * columns, cell_y * rows)
    builder.heading("Weights", x, mosaic.y - builder.px(32), box.width + builder.px(36))
    _name_columns(builder, card, box)
    name = f"weights · {card.title}"
    builder.heatmaps.append(Heatmap(name, card.source, box, card.scale, card.mask))
    return box.right


def place_column(builder: PlanBuilder, card: Card, box: Box) -> int:
    """Place the card by itself, as high as ``box``, with its own numbers of blocks.

    Return its right edge.
    """
    place_cards(builder, [card], box, own_bars=False)
    return builder.heatmaps[-1].box.right


def beside_foot(builder: PlanBuilder, card: Card) -> int:
    """Return the pixels that ``place_beside`` needs below the mosaic."""
    return names_px(builder, card) + builder.px(2)


def _beside_cell_x(builder: PlanBuilder, card: Card) -> int:
    return builder.even(44 if len(card.columns) <= 3 else 28)


def place_cards(
    builder: PlanBuilder, cards: Sequence[Card], box: Box, *, own_bars: bool = True
) -> int:
    """Fill ``box`` with the cards, under a title above it; return the bottom of the lowest one.

    ``own_bars``: a card whose color scale is its own has its color bar below it, instead of among
    those of the picture.
    """
    own = _scales_of_one_card(builder, cards) if own_bars else set()
    shape = fit_cards(builder, cards, box, own)
    if shape.is_cut:
        # The drawn row is one of repeats, which may go unsaid where there is no room.
        cards = [replace(card, title=card.title.removesuffix(" (repeats)")) for card in cards]
        shape = fit_cards(builder, cards, box, own)
    _write_heading(builder, cards, box)
    top = bottom = box.y
    for number, card in enumerate(cards):
        row, column = divmod(number, shape.across)
        if row and column == 0:
            top = bottom + shape.gap
        room = Box(box.x + column * shape.wide, top, shape.wide, 0)
        origin = _place_one(builder, card, room, shape, shape.heads[row])
        if card.scale in own:
            _place_own_bar(builder, card, origin, shape, box.right)
        bottom = max(bottom, origin.bottom + shape.feet[row])
    return bottom


def place_cards_that_fit(builder: PlanBuilder, cards: Sequence[Card], box: Box) -> int:
    """Fill ``box`` with as many of the cards as can be read there, and name the others in the log;
    return the bottom of the lowest one.

    Raises:
        LayoutError: not one of them fits.
    """
    for n in range(len(cards), 0, -1):
        shown = cards[:n]
        try:
            shape = fit_cards(builder, shown, box, _scales_of_one_card(builder, shown))
        except LayoutError:
            if n == 1:
                raise
            continue
        if not shape.is_cut or n == 1:
            break
    for card in cards[n:]:
        log.warning(NO_ROOM, builder.layout.name, card.title, builder.width, builder.height)
        if not any(card.scale == other.scale for other in shown):
            builder.scales.pop(card.scale, None)
    return place_cards(builder, shown, box)


def _scales_of_one_card(builder: PlanBuilder, cards: Sequence[Card]) -> set[str]:
    scales = [card.scale for card in cards]
    alone = {scale for scale in scales if scales.count(scale) == 1}
    return alone - {"score", *builder.barred}


def _write_heading(builder: PlanBuilder, cards: Sequence[Card], box: Box) -> None:
    title, columns = "Weights", set()
    for card in cards:
        columns.add(card.column_kind)
        if isinstance(card.source, ScoreMap):
            title = "Scores"
    axes = f"block ↓ {' or '.join(sorted(columns))} →"
    builder.heading(title, box.x, box.y - builder.px(14), box.width, axes)


def _place_own_bar(builder: PlanBuilder, card: Card, origin: Box, shape: Shape, right: int) -> None:
    """Place the color bar of a single card below it, no farther than to ``right``."""
    px = builder.px
    builder.barred.add(card.scale)
    below = origin.bottom + names_px(builder, card) + px(8)
    wide = max(origin.width, min(shape.wide - shape.label - px(16), px(OWN_BAR_PX)))
    bar = Box(min(origin.x, right - wide), below, wide, px(9))
    builder.bars.append(Bar(bar, card.scale, COLUMN * builder.unit, titled=False))


def place_below(builder: PlanBuilder, cards: Sequence[Card], above: int, area: Box) -> int:
    """Place the cards, if there are any, in ``area`` below everything that ends at ``above``.

    Return the bottom of the lowest part.
    """
    if not cards:
        return above
    y = next_even(above + builder.px(TITLES))
    has_own = any(card.scale.startswith("scores.") for card in cards)
    return place_cards(builder, cards, top_at(area, y), own_bars=has_own)


def row_height(builder: PlanBuilder, cards: Sequence[Card], map_px: int = 0) -> int:
    """Return the pixels that one row of cards needs whose maps are about ``map_px`` high, with
    names and color bars below them."""
    rows = max(card.source.shape[0] for card in cards)
    foot = max(names_px(builder, card) for card in cards)
    if any(card.scale != "score" for card in cards):
        foot += builder.px(OWN_BAR)
    return rows * max(2, map_px // rows) + head_room_px(builder, 2) + foot + builder.px(4)


def _column_px(card: Card, origin: Box) -> int:
    return origin.width // card.source.shape[1]


def _place_one(builder: PlanBuilder, card: Card, room: Box, shape: Shape, head_room: int) -> Box:
    """Place a card and its words at the left upper corner of ``room``; return the box of its
    map."""
    px = builder.px
    rows, columns = card.source.shape
    cell_x = cell_width(card, shape.columns, shape.cell_x, shape.cell_y)
    head_bottom = room.y + head_room
    x, y = next_even(room.x + shape.label), next_even(head_bottom)
    box = Box(x, y, cell_x * columns, shape.cell_y * rows)
    _write_title(builder, card, box.x, head_bottom, shape)
    for row in range(0, rows, number_spacing(shape.cell_y, px(_NUMBER_PITCH))):
        middle = box.y + (row + 0.5) * shape.cell_y
        builder.text_left_of(box.x - px(6), str(card.blocks[row]), middle, COLUMN)
    _name_columns(builder, card, box)
    name = f"{'weights' if card.columns else 'score'} · {card.title}"
    builder.heatmaps.append(Heatmap(name, card.source, box, card.scale, card.mask))
    return box


def _write_title(builder: PlanBuilder, card: Card, x: int, bottom: int, shape: Shape) -> None:
    """Write a card's title above ``bottom``."""
    px = builder.px
    size, n_lines = shape.title
    room = shape.title_room - px(8)
    if card.role:
        builder.square(x, bottom - px(24), px(14), builder.theme.roles[card.role])
        x += px(22)
        room -= px(22)
    lines = title_lines(builder, card, size, n_lines, room)
    for above, line in enumerate(reversed(lines)):
        builder.text_within(room, line, x, bottom - line_above_px(builder, above), size)


def _name_columns(builder: PlanBuilder, card: Card, box: Box) -> None:
    cell_x, px = _column_px(card, box), builder.px
    for column, name in enumerate(column_names(builder, card, cell_x)):
        if name:
            middle = box.x + (column + 0.5) * cell_x
            builder.text(name, middle, box.bottom + px(20), COLUMN, align="center")
