"""Place small maps [block, head] or [block, matrix]: scores, and summaries of the weights; each
with its title, as large as fits."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import LayoutError
from tracker_viz.metrics import role_label
from tracker_viz.rendering.plan import Bar, Box, Heatmap, Readout
from tracker_viz.rendering.planning.content import Matrices, short_kind
from tracker_viz.rendering.planning.plan_builder import (
    TITLES,
    Measured,
    PlanBuilder,
    next_even,
    number_spacing,
)
from tracker_viz.rendering.scales import bar_ticks
from tracker_viz.rendering.sources import ScoreMap, Source, WeightSummary
from tracker_viz.rendering.text import text_width

_SMALL, _COLUMN = 20.0, 16.0
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
_NUMBER_ROW = 40  # at 1080p
_AFTER_TITLE = 8  # at 1080p: between a title and the next one
_OWN_BAR = 38  # at 1080p: below a map that has its own color bar
_TELLING = {
    "head.distance": "distance looked back",
    "weight.distance": "distance from start",
    "weight.update": "update since last",
}


@dataclass(frozen=True)
class Card:
    """One small map.

    Attributes:
        columns: names of its columns; empty where these are heads.
        role: the role whose color stands before the title.
    """

    title: str
    source: Source
    scale: str
    columns: tuple[str, ...] = ()
    role: str = ""
    mask: NDArray[np.bool_] | None = None


def score_cards(builder: PlanBuilder, names: Sequence[str]) -> list[Card]:
    """Return the cards of score arrays: heads before matrices, roles first.

    Scores within 0..1 share one color scale; each other has its own.
    """
    first, last = builder.series.read_ends(names)
    cards = []
    for name in names:
        # Where a score is NaN from first to last, there is no such head, or no such matrix.
        absent = np.isnan(first[name]) & np.isnan(last[name])
        cards.append(_score_card(builder, name, absent))
    cards.sort(key=lambda card: (bool(card.columns), card.scale != "score", not card.role))
    return cards


def _score_card(builder: PlanBuilder, name: str, absent: NDArray[np.bool_]) -> Card:
    rows, columns = builder.series.require(name, builder.layout.name).shape
    score = name.removeprefix("scores.")
    title = _TELLING.get(score, role_label(name.rsplit(".", 1)[-1]))
    source, scale = ScoreMap(name, (rows, columns)), _scale_of(builder, name)
    if not score.startswith("head."):
        labels = builder.series.labels("projection", columns)
        return Card(title, source, scale, labels, mask=absent)
    role = score.removeprefix("head.")
    if role not in builder.roles.names:
        role = ""
    return Card(title, source, scale, role=role, mask=absent)


def weight_card(builder: PlanBuilder, matrices: Matrices) -> Card:
    """Return a card of how much every matrix changed, for models with too many blocks to show the
    matrices."""
    # A row for each block; None where the block has no such matrix.
    names = tuple(tuple(map(block.get, matrices.kinds)) for block in matrices.blocks)
    show = matrices.panel.show
    title = "weight size" if show == "value" else "weight change"
    since = {
        "value": "",
        "change": f" since step {builder.series.steps[0]:,}",
        "step": " since the previous capture",
    }[show]
    options = {"title": f"{title}{since} (RMS)", "cmap": builder.theme.magnitude, "minimum": 0.0}
    scale = Measured(
        "weights",
        1.0,
        lambda reach: {
            **options,
            "maximum": reach.maximum or 1.0,
            "reached": (0.0, reach.maximum),
        },
    )
    builder.add_scale("weights_summary", "weights", scale)
    absent = np.array([[name is None for name in row] for row in names])
    source = WeightSummary(names, show)
    return Card(title, source, "weights_summary", tuple(matrices.kinds), mask=absent)


def place_scores(builder: PlanBuilder, names: Sequence[str], box: Box) -> None:
    """Place score maps in a column at the side of the picture, and below them the color bars of the
    whole picture."""
    cards = score_cards(builder, names)
    if all(card.source.shape == (1, 1) for card in cards):
        _place_numbers(builder, cards, box)
        # Numbers have no color, so that the scale needs no bar.
        builder.scales.pop("score", None)
        below = box.y + len(cards) * builder.px(_NUMBER_ROW)
        builder.place_bars(Box(box.x, below, box.width, box.bottom - below))
        return
    shared = [key for key in builder.scales if key == "score" or not key.startswith("scores.")]
    bars, gap = len(shared) * builder.px(64), builder.px(10)
    place_cards(builder, cards, Box(box.x, box.y, box.width, box.height - bars - gap))
    builder.place_bars(Box(box.x, box.bottom - bars + gap, box.width, bars))


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
        builder.text_within(values - x - px(8), card.title, x, baseline, size)
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
    return _names_height(builder, card, _beside_cell_x(builder, card)) + builder.px(2)


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
    shape = _fit(builder, cards, box, own)
    _write_heading(builder, cards, box)
    top = bottom = box.y
    for number, card in enumerate(cards):
        row, column = divmod(number, shape.across)
        if row and column == 0:
            top = bottom + shape.gap
        room = Box(box.x + column * shape.wide, top, shape.wide, 0)
        origin = _place_one(builder, card, room, shape)
        if card.scale in own:
            _place_own_bar(builder, card, origin, shape, box.right)
        bottom = max(bottom, origin.bottom + shape.feet[row])
    return bottom


def _scales_of_one_card(builder: PlanBuilder, cards: Sequence[Card]) -> set[str]:
    scales = [card.scale for card in cards]
    alone = {scale for scale in scales if scales.count(scale) == 1}
    return alone - {"score", *builder.barred}


def _write_heading(builder: PlanBuilder, cards: Sequence[Card], box: Box) -> None:
    title, columns = "Weights", set()
    for card in cards:
        columns.add("matrix" if card.columns else "head")
        if isinstance(card.source, ScoreMap):
            title = "Scores"
    axes = f"block ↓ {' or '.join(sorted(columns))} →"
    builder.heading(title, box.x, box.y - builder.px(14), box.width, axes)


def _place_own_bar(
    builder: PlanBuilder, card: Card, origin: Box, shape: _Shape, right: int
) -> None:
    """Place the color bar of a single card below it, no farther than to ``right``."""
    px = builder.px
    builder.barred.add(card.scale)
    below = origin.bottom + _names_height(builder, card, _column_px(card, origin)) + px(8)
    wide = max(origin.width, min(shape.wide - shape.label - px(16), px(110)))
    bar = Box(min(origin.x, right - wide), below, wide, px(9))
    font_px = _bar_font(builder, card, bar.width) * builder.unit
    builder.bars.append(Bar(bar, card.scale, font_px, titled=False))


def place_below(builder: PlanBuilder, cards: Sequence[Card], above: int, area: Box) -> int:
    """Place the cards, if there are any, in ``area`` below everything that ends at ``above``.

    Return the bottom of the lowest part.
    """
    if not cards:
        return above
    y = next_even(above + builder.px(TITLES))
    has_own = any(card.scale.startswith("scores.") for card in cards)
    room = Box(area.x, y, area.width, area.bottom - y)
    return place_cards(builder, cards, room, own_bars=has_own)


def _bar_font(builder: PlanBuilder, card: Card, bar_px: int) -> float:
    """Return the largest font in which a bar of that width has room for the numbers at both
    ends."""
    scale, sizes = builder.scales[card.scale], (_COLUMN, 14.0, 12.2)
    if isinstance(scale, Measured):
        return _COLUMN
    for size in sizes:
        last_position, _ = bar_ticks(scale, bar_px / (0.9 * size * builder.unit))[-1]
        if last_position == 1.0:
            return size
    return sizes[-1]


def row_height(builder: PlanBuilder, cards: Sequence[Card], map_px: int = 0) -> int:
    """Return the pixels that one row of cards needs whose maps are about ``map_px`` high, with
    names and color bars below them."""
    rows = max(card.source.shape[0] for card in cards)
    foot = max(_names_height(builder, card, 1) for card in cards)
    if any(card.scale != "score" for card in cards):
        foot += builder.px(_OWN_BAR)
    return rows * max(2, map_px // rows) + _head_room(builder, 2) + foot + builder.px(4)


@dataclass(frozen=True)
class _Shape:
    """Sizes and places of the maps.

    Attributes:
        across: maps in a row, each ``wide`` pixels from the next.
        columns: cells of the widest map, of ``cell_x`` x ``cell_y`` pixels.
        label: pixels left of a map for the numbers of blocks.
        feet: for each row of maps, the pixels below it for names and color bars.
        gap: between two rows.
        title: font size, and number of lines.
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

    @property
    def worth(self) -> float:
        """Size of the cells; of elongated ones only so much as a square could use."""
        return min(self.cell_x, 2 * self.cell_y) * min(self.cell_y, 2 * self.cell_x)


def _fit(builder: PlanBuilder, cards: Sequence[Card], box: Box, own: Collection[str]) -> _Shape:
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
) -> tuple[_Shape, float]:
    """Return the shape with ``across`` cards in a row, and how much its titles are worth; its cells
    have no size where it does not fit."""
    px = builder.px
    gap, between = px(26), px(16)
    rows, columns = _most_cells(cards)
    label = builder.text_width(str(rows - 1), _number_size(rows)) + px(10)
    down = -(-len(cards) // across)
    wide = (box.width + gap) // across
    size, lines, title_worth = _title_form(builder, cards, wide - label - gap + px(_AFTER_TITLE))
    head_room = _head_room(builder, lines)

    # As if nothing stood above or below the maps; the loop takes off what does.
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
    shape = _Shape(across, columns, label, cell_x, cell_y, wide, tuple(feet), spread, title)
    return shape, title_worth


def _most_cells(cards: Sequence[Card]) -> tuple[int, int]:
    """Return the most rows and the most columns of any card."""
    shapes = [card.source.shape for card in cards]
    return max(rows for rows, _ in shapes), max(columns for _, columns in shapes)


def _foot(
    builder: PlanBuilder, card: Card, columns: int, cell_x: int, cell_y: int, own: Collection[str]
) -> int:
    """Return the pixels below a card: for the names of its columns, and for its own color bar."""
    names_px = _names_height(builder, card, _cell_x(card, columns, cell_x, cell_y))
    if card.scale in own:
        return names_px + builder.px(_OWN_BAR)
    return names_px


def _even_above_5(pixels: int) -> int:
    return pixels // 2 * 2 if pixels > 5 else pixels


def _cell_x(card: Card, columns: int, cell_x: int, cell_y: int) -> int:
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
    texts = _title_lines(builder, card, size, lines)
    widest = builder.widest(texts, size)
    return builder.px(22 if card.role else 0) + widest + builder.px(_AFTER_TITLE)


def _title_lines(builder: PlanBuilder, card: Card, size: float, lines: int) -> list[str]:
    """Break a title into at most ``lines`` lines, as narrow as can be."""
    words = card.title.split()
    breaks = []
    for cut in itertools.combinations(range(1, len(words)), min(lines, len(words)) - 1):
        ends = itertools.pairwise([0, *cut, len(words)])
        breaks.append([" ".join(words[start:end]) for start, end in ends])
    return min(breaks, key=lambda lines: builder.widest(lines, size))


def _number_size(rows: int) -> float:
    """Return the size of the numbers of blocks: smaller for many, whose cells need the room."""
    return _SMALL if rows <= 48 else 16.0


def _head_room(builder: PlanBuilder, lines: int) -> int:
    return builder.px(28 + 20 * (lines - 1))


def _column_px(card: Card, origin: Box) -> int:
    return origin.width // card.source.shape[1]


def _names_height(builder: PlanBuilder, card: Card, cell_x: int) -> int:
    """Return the pixels below a map that the names of its columns need."""
    if not card.columns:
        return 0
    if not _turned(builder, card, cell_x):
        return builder.px(22)
    return builder.widest(_short(card), _COLUMN) + builder.px(8)


def _turned(builder: PlanBuilder, card: Card, cell_x: int) -> bool:
    """Whether the names of two columns side by side are too wide for them."""
    widths = [builder.text_width(name, _COLUMN) for name in _short(card)]
    for one, other in itertools.pairwise(widths):
        if (one + other) / 2 + builder.px(4) > cell_x:
            return True
    return False


def _short(card: Card) -> list[str]:
    return [short_kind(name) for name in card.columns]


def _place_one(builder: PlanBuilder, card: Card, room: Box, shape: _Shape) -> Box:
    """Place a card and its words at the left upper corner of ``room``; return the box of its
    map."""
    px = builder.px
    rows, columns = card.source.shape
    cell_x = _cell_x(card, shape.columns, shape.cell_x, shape.cell_y)
    head_bottom = room.y + _head_room(builder, shape.title[1])
    x, y = next_even(room.x + shape.label), next_even(head_bottom)
    box = Box(x, y, cell_x * columns, shape.cell_y * rows)
    _write_title(builder, card, box.x, head_bottom, room.right, shape.title)
    for row in range(0, rows, number_spacing(shape.cell_y, px(25))):
        middle = box.y + (row + 0.5) * shape.cell_y
        builder.text_left_of(box.x - px(6), str(row), middle, _number_size(rows))
    _name_columns(builder, card, box)
    name = f"{'weights' if card.columns else 'score'} · {card.title}"
    builder.heatmaps.append(Heatmap(name, card.source, box, card.scale, card.mask))
    return box


def _write_title(
    builder: PlanBuilder, card: Card, x: int, bottom: int, right: int, form: tuple[float, int]
) -> None:
    """Write a card's title above ``bottom``; ``form``: font size, and number of lines."""
    px = builder.px
    size, n_lines = form
    if card.role:
        builder.square(x, bottom - px(24), px(14), builder.theme.roles[card.role])
        x += px(22)
    lines = _title_lines(builder, card, size, n_lines)
    for above, line in enumerate(reversed(lines)):
        builder.text_within(right - x - px(4), line, x, bottom - px(10 + 20 * above), size)


def _name_columns(builder: PlanBuilder, card: Card, box: Box) -> None:
    cell_x, px = _column_px(card, box), builder.px
    names = _short(card)
    if not _turned(builder, card, cell_x):
        for column, name in enumerate(names):
            middle = box.x + (column + 0.5) * cell_x
            builder.text(name, middle, box.bottom + px(17), _COLUMN, align="center")
        return
    every = max(1, -(-px(_COLUMN) // cell_x))
    for column in range(0, len(names), every):
        x = box.x + (column + 0.5) * cell_x + px(3)
        y = box.bottom + px(6)
        builder.text(names[column], x, y, _COLUMN, align="right", rotation=90)


def _scale_of(builder: PlanBuilder, name: str) -> str:
    """Add the color scale of a score where it is not there yet; return its key."""
    info = builder.series.require(name, builder.layout.name)
    # Weights that stay small would be black throughout on a scale up to 1. Heads are compared
    # across scores, so these share one scale.
    is_faint = name.startswith("scores.weight.") and 1e-6 < info.maximum < 0.5
    key, title, low, high = "score", "score", 0.0, 1.0
    if info.minimum < -1e-3 or info.maximum > 1.001 or is_faint:
        key, title = name, role_label(name.rsplit(".", 1)[-1])
        low = min(0.0, info.minimum)
        high = max(info.maximum, low + 1e-6)
    options = {"title": title, "cmap": builder.theme.score, "minimum": low, "maximum": high}
    builder.add_scale(key, "score", options)
    return key
