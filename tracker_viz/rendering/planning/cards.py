"""Places small maps [block, head] or [block, matrix]: scores, and summaries of the weights; each
with its title, as large as fits."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import LayoutError
from tracker_viz.metrics import role_label
from tracker_viz.rendering.measuring import Reach
from tracker_viz.rendering.plan import Bar, Box, Heatmap, Readout, Swatch
from tracker_viz.rendering.planning.content import Matrices
from tracker_viz.rendering.planning.plan_builder import TITLES, Measured, PlanBuilder, next_even
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
"""Sizes of titles, their lines, and what a shape with such ones is worth. The first in which all
titles fit is taken."""
_CUT_WORTH = 0.1
_FEW_CARDS = 8
_NUMBER_ROW = 40  # at 1080p
_AFTER_TITLE = 8  # at 1080p: between it and the next one
_TELLING = {
    "head.distance": "distance looked back",
    "weight.distance": "distance from start",
    "weight.update": "update since last",
}


@dataclass(frozen=True)
class Card:
    """One small map. ``columns``: names of its columns, empty for heads; ``role``: whose colour
    stands before the title."""

    title: str
    source: Source
    scale: str
    columns: tuple[str, ...] = ()
    role: str = ""
    mask: NDArray[np.bool_] | None = None


def score_cards(builder: PlanBuilder, names: Sequence[str]) -> list[Card]:
    """Cards of score arrays: heads before matrices, roles first. Scores within 0..1 share one
    colour scale; each other has its own."""
    cards = []
    first, last = (builder.series.read(index, names) for index in (0, len(builder.series) - 1))
    for name in names:
        title = _TELLING.get(name.removeprefix("scores."), role_label(name.rsplit(".", 1)[-1]))
        rows, columns = builder.series.require(name, builder.layout.name).shape
        absent = np.isnan(first[name]) & np.isnan(last[name])  # no such head, or no such matrix
        role = name.removeprefix("scores.head.")
        labels = (
            () if name.startswith("scores.head.") else builder.series.labels("projection", columns)
        )
        mark = role if role in builder.roles.names else ""
        cards.append(
            Card(
                title,
                ScoreMap(name, (rows, columns)),
                _scale_of(builder, name),
                labels,
                mark,
                absent,
            )
        )
    return sorted(
        cards, key=lambda card: (bool(card.columns), card.scale != "score", not card.role)
    )


def weight_card(builder: PlanBuilder, matrices: Matrices) -> Card:
    """How much every matrix changed, for models with too many blocks to show the matrices."""
    names = tuple(tuple(block.get(kind) for kind in matrices.kinds) for block in matrices.blocks)
    show = matrices.panel.show
    title = "weight size" if show == "value" else "weight change"
    since = {
        "value": "",
        "change": f" since step {builder.series.steps[0]:,}",
        "step": " since the previous capture",
    }[show]

    def options(reach: Reach) -> dict[str, Any]:
        return {
            "title": f"{title}{since} (RMS)",
            "cmap": builder.theme.magnitude,
            "minimum": 0.0,
            "maximum": reach.maximum or 1.0,
            "reached": (0.0, reach.maximum),
        }

    builder.add_scale("weights_summary", "weights", Measured("weights", 1.0, options))
    absent = np.array([[name is None for name in row] for row in names])
    return Card(
        title, WeightSummary(names, show), "weights_summary", tuple(matrices.kinds), mask=absent
    )


def place_scores(builder: PlanBuilder, names: Sequence[str], box: Box) -> None:
    """Score maps in a column at the side of the picture, and below them the colour bars of the
    whole picture."""
    cards = score_cards(builder, names)
    if all(card.source.shape == (1, 1) for card in cards):
        _place_numbers(builder, cards, box)
        builder.scales.pop("score", None)
        below = box.y + len(cards) * builder.px(_NUMBER_ROW)
        builder.place_bars(Box(box.x, below, box.width, box.bottom - below))
        return
    shared = sum(1 for key in builder.scales if key == "score" or not key.startswith("scores."))
    bars = shared * builder.px(64)
    place_cards(builder, cards, Box(box.x, box.y, box.width, box.height - bars - builder.px(10)))
    builder.place_bars(Box(box.x, box.bottom - bars + builder.px(10), box.width, bars))


def _place_numbers(builder: PlanBuilder, cards: Sequence[Card], box: Box) -> None:
    """Write the scores of a model with a single head as numbers: one cell of color says less."""
    px, size = builder.px, 22.0
    builder.heading("Scores", box.x, box.y - px(14), box.width)
    digit = text_width("0", size * builder.unit, bold=True, mono=True)
    for number, card in enumerate(cards):
        baseline = box.y + px(28) + number * px(_NUMBER_ROW)
        x = box.x
        if card.role:
            mark = Box(x, baseline - px(15), px(15), px(15))
            builder.swatches.append(Swatch(mark, builder.theme.roles[card.role]))
            x += px(22)
        values = box.right - 6 * digit
        title = builder.fitted(card.title, size, values - x - px(8))
        builder.text(title, x, baseline, size)
        name = card.source.needs[0]
        assert isinstance(name, str)
        builder.readouts.append(Readout(name, values, baseline, size * builder.unit, 6))


def place_beside(builder: PlanBuilder, card: Card, mosaic: Box) -> int:
    """The card at the right of a mosaic whose rows are blocks, in the same rows. Returns its right
    edge."""
    rows, columns = card.source.shape
    x, cell_y = 2 * ((mosaic.right + builder.px(28)) // 2), -(-mosaic.height // rows)
    cell_x = _beside_cell_x(builder, card)
    origin = Box(x, mosaic.y, cell_x * columns, cell_y * rows)
    builder.heading("Weights", x, mosaic.y - builder.px(32), origin.width + builder.px(36))
    _name_columns(builder, card, origin)
    builder.heatmaps.append(
        Heatmap(f"weights · {card.title}", card.source, origin, card.scale, card.mask)
    )
    return origin.right


def place_column(builder: PlanBuilder, card: Card, box: Box) -> int:
    """The card by itself, as high as ``box``, with its own numbers of blocks. Returns its right
    edge."""
    place_cards(builder, [card], box, own_bars=False)
    return builder.heatmaps[-1].box.right


def beside_foot(builder: PlanBuilder, card: Card) -> int:
    """Pixels that ``place_beside`` needs below the mosaic."""
    return _names_height(builder, card, _beside_cell_x(builder, card)) + builder.px(2)


def _beside_cell_x(builder: PlanBuilder, card: Card) -> int:
    return builder.even(44 if len(card.columns) <= 3 else 28)


def place_cards(
    builder: PlanBuilder, cards: Sequence[Card], box: Box, *, own_bars: bool = True
) -> int:
    """Fill ``box`` with the cards; a title stands above it. Returns the bottom of the lowest one.

    ``own_bars``: a card whose colour scale is its own has its colour bar below it, instead of among
    those of the picture.
    """
    scales = [card.scale for card in cards]
    own = {
        scale
        for scale in scales
        if own_bars and scales.count(scale) == 1 and scale not in ("score", *builder.barred)
    }
    shape = _fit(builder, cards, box, own)
    columns = {"matrix" if card.columns else "head" for card in cards}
    builder.heading(
        "Scores" if any(isinstance(card.source, ScoreMap) for card in cards) else "Weights",
        box.x,
        box.y - builder.px(14),
        box.width,
        f"block ↓ {' or '.join(sorted(columns))} →",
    )
    bottom = box.y
    for row, foot in enumerate(shape.feet):
        top = bottom + (shape.gap if row else 0)
        for column, card in enumerate(cards[row * shape.across : (row + 1) * shape.across]):
            origin = _place_one(
                builder, card, Box(box.x + column * shape.wide, top, shape.wide, 0), shape
            )
            if card.scale in own:
                builder.barred.add(card.scale)
                below = (
                    origin.bottom
                    + _names_height(builder, card, _column_px(card, origin))
                    + builder.px(8)
                )
                wide = max(
                    origin.width, min(shape.wide - shape.label - builder.px(16), builder.px(110))
                )
                bar = Box(min(origin.x, box.right - wide), below, wide, builder.px(9))
                builder.bars.append(
                    Bar(
                        bar,
                        card.scale,
                        _bar_font(builder, card, bar.width) * builder.unit,
                        titled=False,
                    )
                )
            bottom = max(bottom, origin.bottom + foot)
    return bottom


def place_below(builder: PlanBuilder, cards: Sequence[Card], above: int, area: Box) -> int:
    """The cards, if there are any, in ``area`` below what ends at ``above``. Returns the bottom of
    the lowest part."""
    if not cards:
        return above
    y = next_even(above + builder.px(TITLES))
    has_own = any(card.scale.startswith("scores.") for card in cards)
    return place_cards(
        builder, cards, Box(area.x, y, area.width, area.bottom - y), own_bars=has_own
    )


def _bar_font(builder: PlanBuilder, card: Card, bar_px: int) -> float:
    """The largest font in which a bar so wide says both its ends."""
    scale, sizes = builder.scales[card.scale], (_COLUMN, 14.0, 12.2)
    if isinstance(scale, Measured):
        return _COLUMN
    return next(
        (
            size
            for size in sizes
            if bar_ticks(scale, bar_px / (0.9 * size * builder.unit))[-1][0] == 1.0
        ),
        sizes[-1],
    )


def row_height(builder: PlanBuilder, cards: Sequence[Card], map_px: int = 0) -> int:
    """Pixels that one row of cards needs whose maps are about ``map_px`` high, with names and
    colour bars below them."""
    rows = max(card.source.shape[0] for card in cards)
    foot = max(_names_height(builder, card, 1) for card in cards) + builder.px(
        38 if any(card.scale != "score" for card in cards) else 0
    )
    return rows * max(2, map_px // rows) + _head_room(builder, 2) + foot + builder.px(4)


@dataclass(frozen=True)
class _Shape:
    """How the maps stand: ``across`` in a row, each ``wide`` apart and as wide as ``columns`` cells
    of ``cell_x`` x ``cell_y`` pixels.

    ``feet``: for each row of maps, how much its names and colour bars need below them; ``gap``:
        between two rows.
    ``title``: font size and number of lines.
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


def _fit(builder: PlanBuilder, cards: Sequence[Card], box: Box, own: Collection[str]) -> _Shape:
    gap, between = builder.px(26), builder.px(16)
    rows, columns = (max(card.source.shape[axis] for card in cards) for axis in (0, 1))
    label = builder.text_width(str(rows - 1), _number_size(rows)) + builder.px(10)
    best, best_worth = None, 0.0
    for across in range(1, len(cards) + 1):
        down = -(-len(cards) // across)
        wide = (box.width + gap) // across
        size, lines, title_worth = _title_form(
            builder, cards, wide - label - gap + builder.px(_AFTER_TITLE)
        )
        head_room = _head_room(builder, lines)
        cell_x, cell_y = (wide - gap - label) // columns, max(1, box.height // (down * rows))
        feet: list[int] = []
        for _ in range(2):  # names of columns need more room where narrower cells turn them
            needed = [
                _names_height(builder, card, _cell_x(card, columns, cell_x, cell_y))
                + (builder.px(38) if card.scale in own else 0)
                for card in cards
            ]
            feet = [max(needed[row * across : (row + 1) * across]) for row in range(down)]
            cell_y = (box.height - sum(feet) - down * head_room - (down - 1) * between) // (
                down * rows
            )
            cell_x, cell_y = min(cell_x, (3 if rows <= 24 else 6) * cell_y), min(cell_y, 2 * cell_x)
            cell_x, cell_y = (px // 2 * 2 if px > 5 else px for px in (cell_x, cell_y))
        worth = min(cell_x, 2 * cell_y) * min(cell_y, 2 * cell_x) * title_worth
        if min(cell_x, cell_y) > 0 and worth > best_worth:
            spare = box.height - sum(feet) - down * (head_room + cell_y * rows)
            spread = min(max(between, spare // max(1, down - 1)), builder.px(44))
            titles = max(_title_width(builder, card, size, lines) for card in cards)
            narrowest = label + max(cell_x * columns + gap, titles)
            best = _Shape(
                across,
                columns,
                label,
                cell_x,
                cell_y,
                min(wide, narrowest + builder.px(60)),
                tuple(feet),
                spread,
                (size, lines),
            )
            best_worth = worth
    if best is None:
        raise LayoutError(
            f"layout {builder.layout.name!r}: {len(cards)} score maps of {rows} x {columns} do not "
            "fit into "
            f"{box.width} x {box.height} pixels; name fewer scores, or choose a larger size"
        )
    return best


def _cell_x(card: Card, columns: int, cell_x: int, cell_y: int) -> int:
    """A card of fewer columns than the others is as wide as they are, unless its cells would become
    stripes."""
    return max(1, min(cell_x * columns // card.source.shape[1], 9 * cell_y))


def _title_form(builder: PlanBuilder, cards: Sequence[Card], room: int) -> tuple[float, int, float]:
    """(font size, lines, worth) of the titles of cards that are ``room`` pixels wide."""
    # Many cards need their room for cells: titles that are read from afar are for a few.
    forms = _TITLES if len(cards) <= _FEW_CARDS else _TITLES[2:]
    for size, lines, worth in forms:
        if all(_title_width(builder, card, size, lines) <= room for card in cards):
            return size, lines, worth
    return (*_TITLES[-1][:2], _CUT_WORTH)


def _title_width(builder: PlanBuilder, card: Card, size: float, lines: int) -> int:
    return (
        builder.px(22 if card.role else 0)
        + max(builder.text_width(line, size) for line in _title_lines(builder, card, size, lines))
        + builder.px(_AFTER_TITLE)
    )


def _title_lines(builder: PlanBuilder, card: Card, size: float, lines: int) -> list[str]:
    words = card.title.split()
    cuts = itertools.combinations(range(1, len(words)), min(lines, len(words)) - 1)
    breaks = [
        [" ".join(words[start:end]) for start, end in itertools.pairwise([0, *cut, len(words)])]
        for cut in cuts
    ]
    return min(breaks, key=lambda each: max(builder.text_width(line, size) for line in each))


def _number_size(rows: int) -> float:
    """Size of the numbers of blocks: smaller for very many, whose cells need the room."""
    return _SMALL if rows <= 48 else 16.0


def _head_room(builder: PlanBuilder, lines: int) -> int:
    return builder.px(28 + 20 * (lines - 1))


def _column_px(card: Card, origin: Box) -> int:
    return origin.width // card.source.shape[1]


def _names_height(builder: PlanBuilder, card: Card, cell_x: int) -> int:
    """Pixels below a map that the names of its columns need."""
    if not card.columns:
        return 0
    widest = max(builder.text_width(name, _COLUMN) for name in _short(card))
    return widest + builder.px(8) if _turned(builder, card, cell_x) else builder.px(22)


def _turned(builder: PlanBuilder, card: Card, cell_x: int) -> bool:
    """Whether the names of two columns side by side are too wide for them."""
    widths = [builder.text_width(name, _COLUMN) for name in _short(card)]
    return any(
        (one + other) / 2 + builder.px(4) > cell_x for one, other in itertools.pairwise(widths)
    )


def _short(card: Card) -> list[str]:
    return [name.rsplit(".", 1)[-1].removeprefix("w_") for name in card.columns]


def _place_one(builder: PlanBuilder, card: Card, room: Box, shape: _Shape) -> Box:
    px = builder.px
    rows, columns = card.source.shape
    cell_x = _cell_x(card, shape.columns, shape.cell_x, shape.cell_y)
    size, n_lines = shape.title
    head_room = _head_room(builder, n_lines)
    x, y = 2 * ((room.x + shape.label + 1) // 2), 2 * ((room.y + head_room + 1) // 2)
    origin = Box(x, y, cell_x * columns, shape.cell_y * rows)
    text_x = origin.x
    if card.role:
        builder.swatches.append(
            Swatch(
                Box(origin.x, room.y + head_room - px(24), px(14), px(14)),
                builder.theme.roles[card.role],
            )
        )
        text_x += px(22)
    for above, line in enumerate(reversed(_title_lines(builder, card, size, n_lines))):
        baseline = room.y + head_room - px(10 + 20 * above)
        builder.text(
            builder.fitted(line, size, room.right - text_x - px(4)), text_x, baseline, size
        )
    every = next(
        n for n in (1, 2, 4, 8, 16, 32, 64, 128, 1 << 30) if n * shape.cell_y >= px(25) or n > rows
    )
    for row in range(0, rows, every):
        builder.text(
            str(row),
            origin.x - px(6),
            origin.y + (row + 0.5) * shape.cell_y,
            _number_size(rows),
            align="right",
            baseline="center",
        )
    _name_columns(builder, card, origin)
    builder.heatmaps.append(
        Heatmap(
            f"{'weights' if card.columns else 'score'} · {card.title}",
            card.source,
            origin,
            card.scale,
            card.mask,
        )
    )
    return origin


def _name_columns(builder: PlanBuilder, card: Card, origin: Box) -> None:
    cell_x = _column_px(card, origin)
    turned = _turned(builder, card, cell_x)
    every = max(1, -(-builder.px(_COLUMN) // cell_x)) if turned else 1
    for column, name in list(enumerate(_short(card)))[::every]:
        middle = origin.x + (column + 0.5) * cell_x
        if turned:
            builder.text(
                name,
                middle + builder.px(3),
                origin.bottom + builder.px(6),
                _COLUMN,
                align="right",
                rotation=90,
            )
        else:
            builder.text(name, middle, origin.bottom + builder.px(17), _COLUMN, align="center")


def _scale_of(builder: PlanBuilder, name: str) -> str:
    info = builder.series.require(name, builder.layout.name)
    # Of weights, what stays small on a scale up to 1 would be black throughout; heads are compared
    # across scores, so they share it.
    is_faint = name.startswith("scores.weight.") and 1e-6 < info.maximum < 0.5
    if not (info.minimum < -1e-3 or info.maximum > 1.001 or is_faint):
        builder.add_scale(
            "score",
            "score",
            {"title": "score", "cmap": builder.theme.score, "minimum": 0.0, "maximum": 1.0},
        )
        return "score"
    low = min(0.0, info.minimum)
    title = role_label(name.rsplit(".", 1)[-1])
    builder.add_scale(
        name,
        "score",
        {
            "title": title,
            "cmap": builder.theme.score,
            "minimum": low,
            "maximum": max(info.maximum, low + 1e-6),
        },
    )
    return name
