"""Fit cards into a room: how many stand side by side, with cells and titles as large as fits."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.cards.card import Card
from tracker_viz.rendering.planning.content import short_kind
from tracker_viz.rendering.planning.plan_builder import PlanBuilder

_SMALL, COLUMN = 20.0, 16.0
_TITLES = (
    (26.0, 1, 1.0),
    (22.0, 1, 0.97),
    (19.0, 1, 0.95),
    (16.0, 1, 0.92),
    (19.0, 2, 0.9),
    (16.0, 2, 0.85),
    (14.0, 2, 0.8),
    (14.0, 3, 0.7),
    (12.0, 2, 0.6),
    (12.0, 3, 0.5),
)
"""Sizes of titles, their lines, and how much a shape with such titles is worth. The first in which
all titles fit is taken."""
_CUT_WORTH = 0.1
_FEW_CARDS = 8
_AFTER_TITLE = 8  # at 1080p: between a title and the next one
OWN_BAR = 38  # at 1080p: below a map that has its own color bar


@dataclass(frozen=True)
class Shape:
    """Sizes and places of the maps.

    Attributes:
        across: maps in a row, each ``wide`` pixels from the next.
        columns: cells of the widest map, of ``cell_x`` x ``cell_y`` pixels.
        label: pixels left of a map for the numbers of blocks.
        feet: for each row of maps, the pixels below it for names and color bars.
        gap: between two rows.
        title: font size, and number of lines.
        is_cut: some title does not fit even so.
    """

    across: int
    columns: int
    label: int
    cell_x: int
    cell_y: int
    wide: int
    feet: tuple[int, ...]
    gap: int
    title: tuple[float, int]
    is_cut: bool

    @property
    def worth(self) -> float:
        """Size of the cells in square pixels; elongated ones count at most twice their short
        side."""
        return min(self.cell_x, 2 * self.cell_y) * min(self.cell_y, 2 * self.cell_x)


def fit_cards(builder: PlanBuilder, cards: Sequence[Card], box: Box, own: Collection[str]) -> Shape:
    """Return the shape with the largest cells and the largest titles.

    Raises:
        LayoutError: the maps do not fit, whatever stands beside what.
    """
    best, best_worth = None, 0.0
    for across in range(1, len(cards) + 1):
        shape, title_worth = _shape(builder, cards, box, own, across)
        worth = shape.worth * title_worth
        if min(shape.cell_x, shape.cell_y) > 0 and worth > best_worth:
            best, best_worth = shape, worth
    if best is None:
        rows, columns = _most_cells(cards)
        raise LayoutError(
            f"layout {builder.layout.name!r}: {len(cards)} score maps of {rows} x {columns} do not "
            f"fit into {box.width} x {box.height} pixels; name fewer scores, or choose a larger "
            "size"
        )
    return best


def _shape(
    builder: PlanBuilder, cards: Sequence[Card], box: Box, own: Collection[str], across: int
) -> tuple[Shape, float]:
    """Return the shape with ``across`` cards in a row, and how much its titles are worth; its cells
    have no size where it does not fit."""
    px = builder.px
    gap, between = px(26), px(16)
    rows, columns = _most_cells(cards)
    label = builder.text_width(str(rows - 1), number_size(rows)) + px(10)
    down = -(-len(cards) // across)
    wide = (box.width + gap) // across
    size, lines, title_worth = _title_form(builder, cards, wide - label - gap + px(_AFTER_TITLE))
    head_room = head_room_px(builder, lines)

    # First as if there were no names or bars around the maps; the loop subtracts their room.
    cell_x, cell_y = (wide - gap - label) // columns, max(1, box.height // (down * rows))
    # Twice, because narrower cells turn the names of columns, which then need more room below.
    for _ in range(2):
        needed = [_foot(builder, card, columns, cell_x, cell_y, own) for card in cards]
        feet = [max(needed[row * across : (row + 1) * across]) for row in range(down)]
        maps_px = box.height - sum(feet) - down * head_room - (down - 1) * between
        cell_y = maps_px // (down * rows)
        # Cells may be wide, most of all those of many blocks, but not stripes.
        cell_x, cell_y = min(cell_x, (3 if rows <= 24 else 6) * cell_y), min(cell_y, 2 * cell_x)
        cell_x, cell_y = _even_above_5(cell_x), _even_above_5(cell_y)

    spare = box.height - sum(feet) - down * (head_room + cell_y * rows)
    spread = min(max(between, spare // max(1, down - 1)), px(44))
    titles = max(_title_width(builder, card, size, lines) for card in cards)
    narrowest = label + max(cell_x * columns + gap, titles)
    wide = min(wide, narrowest + px(60))
    title = (size, lines)
    is_cut = title_worth == _CUT_WORTH
    shape = Shape(across, columns, label, cell_x, cell_y, wide, tuple(feet), spread, title, is_cut)
    return shape, title_worth


def _most_cells(cards: Sequence[Card]) -> tuple[int, int]:
    """Return the most rows and the most columns of any card."""
    shapes = [card.source.shape for card in cards]
    return max(rows for rows, _ in shapes), max(columns for _, columns in shapes)


def _foot(
    builder: PlanBuilder, card: Card, columns: int, cell_x: int, cell_y: int, own: Collection[str]
) -> int:
    """Return the pixels below a card: for the names of its columns, and for its own color bar."""
    below = names_px(builder, card, cell_width(card, columns, cell_x, cell_y))
    if card.scale in own:
        return below + builder.px(OWN_BAR)
    return below


def _even_above_5(pixels: int) -> int:
    return pixels // 2 * 2 if pixels > 5 else pixels


def cell_width(card: Card, columns: int, cell_x: int, cell_y: int) -> int:
    """Return how wide the cells of a card are: one of fewer columns than the others is as wide as
    they are, unless its cells would become stripes."""
    return max(1, min(cell_x * columns // card.source.shape[1], 9 * cell_y))


def _title_form(builder: PlanBuilder, cards: Sequence[Card], room: int) -> tuple[float, int, float]:
    """Return (font size, lines, worth) of the titles of cards that are ``room`` pixels wide."""
    # Many cards need their room for cells: titles that are read from afar are for a few.
    forms = _TITLES if len(cards) <= _FEW_CARDS else _TITLES[2:]
    for size, lines, worth in forms:
        if all(_title_width(builder, card, size, lines) <= room for card in cards):
            return size, lines, worth
    return (*_TITLES[-1][:2], _CUT_WORTH)


def _title_width(builder: PlanBuilder, card: Card, size: float, lines: int) -> int:
    texts = title_lines(builder, card, size, lines)
    widest = builder.widest(texts, size)
    return builder.px(22 if card.role else 0) + widest + builder.px(_AFTER_TITLE)


def title_lines(builder: PlanBuilder, card: Card, size: float, lines: int) -> list[str]:
    """Break a title into at most ``lines`` lines, as narrow as can be."""
    words = card.title.split()
    breaks = []
    for cut in itertools.combinations(range(1, len(words)), min(lines, len(words)) - 1):
        ends = itertools.pairwise([0, *cut, len(words)])
        breaks.append([" ".join(words[start:end]) for start, end in ends])
    return min(breaks, key=lambda lines: builder.widest(lines, size))


def number_size(rows: int) -> float:
    """Return the size of the numbers of blocks: smaller for many, whose cells need the room."""
    return _SMALL if rows <= 48 else 16.0


def head_room_px(builder: PlanBuilder, lines: int) -> int:
    return builder.px(28 + 20 * (lines - 1))


def names_px(builder: PlanBuilder, card: Card, cell_x: int) -> int:
    """Return the pixels below a map that the names of its columns need."""
    if not card.columns:
        return 0
    if not is_turned(builder, card, cell_x):
        return builder.px(22)
    return builder.widest(short_names(card), COLUMN) + builder.px(8)


def is_turned(builder: PlanBuilder, card: Card, cell_x: int) -> bool:
    """Return whether the names of two columns side by side are too wide, so that names are
    turned."""
    widths = [builder.text_width(name, COLUMN) for name in short_names(card)]
    for one, other in itertools.pairwise(widths):
        if (one + other) / 2 + builder.px(4) > cell_x:
            return True
    return False


def short_names(card: Card) -> list[str]:
    return [short_kind(name) for name in card.columns]
