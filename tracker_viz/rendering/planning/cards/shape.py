"""Fit cards into a room: how many stand side by side, with cells and titles as large as fits."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.cards.card import Card
from tracker_viz.rendering.planning.content import short_kind
from tracker_viz.rendering.planning.plan_builder import PlanBuilder, number_spacing
from tracker_viz.rendering.text import text_width

COLUMN = 20.0  # names of columns, and numbers of blocks
_LINE = 23  # at 1080p: from one line of a title to the next
_TITLES = (
    (26.0, 1, 1.0),
    (22.0, 1, 0.97),
    (20.0, 1, 0.95),
    (20.0, 2, 0.88),
    (20.0, 3, 0.7),
)
"""Sizes of titles, their lines, and how much a shape with such titles is worth. The first in which
all titles fit is taken."""
_CUT_WORTH = 0.1
_FEW_CARDS = 8
_AFTER_TITLE = 8  # at 1080p: between a title and the next one
# At 1080p: below a map that has its own color bar, and how wide the bar is, so that the numbers at
# both ends have room.
OWN_BAR, OWN_BAR_PX = 46, 156


@dataclass(frozen=True)
class Shape:
    """Sizes and places of the maps.

    Attributes:
        across: maps in a row, each ``wide`` pixels from the next.
        columns: cells of the widest map, of ``cell_x`` x ``cell_y`` pixels.
        label: pixels left of a map for the numbers of blocks.
        heads, feet: for each row of maps, the pixels above it for titles, and below it for names
            and color bars.
        gap: between two rows.
        title: font size, and most lines.
        title_room: pixels that a title may be wide.
        is_cut: some title, or the numbers of some color bar, do not fit even so.
    """

    across: int
    columns: int
    label: int
    cell_x: int
    cell_y: int
    wide: int
    heads: tuple[int, ...]
    feet: tuple[int, ...]
    gap: int
    title: tuple[float, int]
    title_room: int
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
    best, best_worth = None, (False, 0.0)
    for across in range(1, len(cards) + 1):
        shape, title_worth = _shape(builder, cards, box, own, across)
        worth = (not shape.is_cut, shape.worth * title_worth)
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
    last_block = max(max(card.blocks) for card in cards)
    label = builder.text_width(str(last_block), COLUMN) + px(10)
    down = -(-len(cards) // across)
    wide = (box.width + gap) // across
    title_room = wide - label - gap + px(_AFTER_TITLE)
    size, lines, title_worth = _title_form(builder, cards, title_room)
    bar_px = px(OWN_BAR_PX) + px(16) if own else 0
    if label + bar_px > wide:
        title_worth = _CUT_WORTH
    heads, feet = [], []
    for first in range(0, len(cards), across):
        in_row = cards[first : first + across]
        titles = [_lines_of(builder, card, size, lines, title_room) for card in in_row]
        heads.append(head_room_px(builder, max(map(len, titles))))
        feet.append(max(_foot(builder, card, own) for card in in_row))

    maps_px = box.height - sum(feet) - sum(heads) - (down - 1) * between
    cell_x, cell_y = (wide - gap - label) // columns, maps_px // (down * rows)
    cell_x, cell_y = min(cell_x, _most_wide(rows, columns) * cell_y), min(cell_y, 2 * cell_x)
    cell_x, cell_y = _even_above_5(cell_x), _even_above_5(cell_y)

    spare = box.height - sum(feet) - sum(heads) - down * cell_y * rows
    spread = min(max(between, spare // max(1, down - 1)), px(44))
    widest = max(_title_width(builder, card, size, lines, title_room) for card in cards)
    narrowest = label + max(cell_x * columns + gap, widest, bar_px)
    shape = Shape(
        across=across,
        columns=columns,
        label=label,
        cell_x=cell_x,
        cell_y=cell_y,
        wide=min(wide, narrowest + px(60)),
        heads=tuple(heads),
        feet=tuple(feet),
        gap=spread,
        title=(size, lines),
        title_room=title_room,
        is_cut=title_worth == _CUT_WORTH,
    )
    return shape, title_worth


def _most_wide(rows: int, columns: int) -> int:
    """Return how many times as wide as high cells may be: no stripes, unless the map has so many
    rows that it is hardly wider than high even so."""
    return max(3, 3 * rows // (2 * columns))


def _most_cells(cards: Sequence[Card]) -> tuple[int, int]:
    """Return the most rows and the most columns of any card."""
    shapes = [card.source.shape for card in cards]
    return max(rows for rows, _ in shapes), max(columns for _, columns in shapes)


def _foot(builder: PlanBuilder, card: Card, own: Collection[str]) -> int:
    """Return the pixels below a card: for the names of its columns, and for its own color bar."""
    below = names_px(builder, card)
    if card.scale in own:
        return below + builder.px(OWN_BAR)
    return below


def _even_above_5(pixels: int) -> int:
    return pixels // 2 * 2 if pixels > 5 else pixels


def cell_width(card: Card, columns: int, cell_x: int, cell_y: int) -> int:
    """Return how wide the cells of a card are: one of fewer columns than the others is as wide as
    they are, unless its cells would become stripes."""
    rows, own_columns = card.source.shape
    widest = max(9, _most_wide(rows, own_columns)) * cell_y
    return max(1, min(cell_x * columns // own_columns, widest))


def _title_form(builder: PlanBuilder, cards: Sequence[Card], room: int) -> tuple[float, int, float]:
    """Return (font size, lines, worth) of the titles of cards that are ``room`` pixels wide."""
    # Many cards need their room for cells: titles that are read from afar are for a few.
    forms = _TITLES if len(cards) <= _FEW_CARDS else _TITLES[2:]
    for size, lines, worth in forms:
        if all(_title_width(builder, card, size, lines, room) <= room for card in cards):
            return size, lines, worth
    return (*_TITLES[-1][:2], _CUT_WORTH)


def _title_width(builder: PlanBuilder, card: Card, size: float, lines: int, room: int) -> int:
    """Return the width of a title with what stands before and behind it."""
    texts = _lines_of(builder, card, size, lines, room)
    return _around_title(builder, card) + builder.widest(texts, size)


def _lines_of(builder: PlanBuilder, card: Card, size: float, lines: int, room: int) -> list[str]:
    return title_lines(builder, card, size, lines, room - _around_title(builder, card))


def _around_title(builder: PlanBuilder, card: Card) -> int:
    return builder.px(22 if card.role else 0) + builder.px(_AFTER_TITLE)


def title_lines(builder: PlanBuilder, card: Card, size: float, lines: int, room: int) -> list[str]:
    """Break a title into as few lines as ``room`` pixels ask for, at most ``lines``, and these as
    narrow as can be."""
    for n_lines in range(1, min(lines, len(card.title.split())) + 1):
        best, width = _narrowest(card.title, n_lines, size * builder.unit)
        if width <= room:
            break
    return list(best)


@lru_cache(maxsize=1 << 12)
def _narrowest(title: str, n_lines: int, size_px: float) -> tuple[tuple[str, ...], int]:
    """Break a title into ``n_lines``, as narrow as can be; return them and the width of the
    widest."""
    words = title.split()
    breaks = []
    for cut in itertools.combinations(range(1, len(words)), n_lines - 1):
        ends = itertools.pairwise([0, *cut, len(words)])
        texts = tuple(" ".join(words[start:end]) for start, end in ends)
        breaks.append((texts, max(text_width(text, size_px) for text in texts)))
    return min(breaks, key=lambda each: each[1])


def head_room_px(builder: PlanBuilder, lines: int) -> int:
    return builder.px(28 + _LINE * (lines - 1))


def line_above_px(builder: PlanBuilder, line: int) -> int:
    """Return how far above a map the baseline of its title's line is, the lowest being 0."""
    return builder.px(10 + _LINE * line)


def names_px(builder: PlanBuilder, card: Card) -> int:
    """Return the pixels below a map that the names of its columns need."""
    return builder.px(26) if card.columns else 0


def column_names(builder: PlanBuilder, card: Card, cell_x: int) -> list[str]:
    """Return the names of columns ``cell_x`` pixels wide, as far as they have room there: in short,
    else by their first letters, else only every second or fourth of them."""
    short = [short_kind(name) for name in card.columns]
    for names in (short, _beginnings(short)):
        widths = [builder.text_width(name, COLUMN) for name in names]
        pairs = itertools.pairwise(widths)
        if all((one + other) / 2 + builder.px(4) <= cell_x for one, other in pairs):
            return names
    spacing = number_spacing(cell_x, max(widths) + builder.px(4))
    return [name if place % spacing == 0 else "" for place, name in enumerate(names)]


def _beginnings(names: Sequence[str]) -> list[str]:
    """Return the shortest beginnings that tell names apart: ``gate`` -> ``g``, and ``out`` beside
    ``o`` -> ``ou``."""
    found: list[str] = []
    for name in names:
        others = [other for other in names if other != name and len(other) <= len(name)]
        length = 1
        while length < len(name) and (
            name[:length] in found or any(other.startswith(name[:length]) for other in others)
        ):
            length += 1
        found.append(name[:length])
    return found
