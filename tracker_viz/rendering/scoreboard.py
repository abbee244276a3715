"""Places small maps [block, head] or [block, matrix]: scores, and summaries of the weights; each with its title, as large as fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.content import Matrices
from tracker_viz.rendering.draft import Draft, Measured
from tracker_viz.rendering.furniture import head_score_title
from tracker_viz.rendering.measuring import Reach
from tracker_viz.rendering.plan import Bar, Box, Heatmap, Swatch
from tracker_viz.rendering.sources import ScoreMap, Source, WeightSummary


@dataclass(frozen=True)
class Card:
    """One small map. ``columns``: names of its columns, empty for heads; ``role``: whose colour stands before the title."""

    title: str
    source: Source
    scale: str
    columns: tuple[str, ...] = ()
    role: str = ""
    mask: NDArray[np.bool_] | None = None


def score_cards(draft: Draft, names: Sequence[str]) -> list[Card]:
    """Cards of score arrays. Scores within 0..1 share one colour scale; each other has its own."""
    cards = []
    first, last = (draft.series.read(index, names).arrays for index in (0, len(draft.series) - 1))
    for name in names:
        rows, columns = draft.series.require(name, draft.layout.name).shape
        title = head_score_title(draft.series, name.rsplit(".", 1)[-1])
        absent = np.isnan(first[name]) & np.isnan(last[name])  # no such head, or no such matrix
        role = name.removeprefix("scores.head.")
        labels = () if name.startswith("scores.head.") else draft.series.labels("projection", columns)
        mark = role if role in draft.roles.names else ""
        cards.append(Card(title, ScoreMap(name, (rows, columns)), _scale_of(draft, name), labels, mark, absent))
    return cards


def weight_card(draft: Draft, matrices: Matrices) -> Card:
    """How much every matrix changed, for models with too many blocks to show the matrices."""
    names = tuple(tuple(block.get(kind) for kind in matrices.kinds) for block in matrices.blocks)
    source = WeightSummary(names)

    def options(reach: Reach) -> dict[str, Any]:
        title = f"weight change since step {draft.series.steps[0]:,} (RMS)"
        return {"title": title, "cmap": draft.theme.magnitude, "minimum": 0.0, "maximum": reach.maximum or 1.0}

    draft.add_scale("weights_summary", "weights", Measured("weights", 1.0, options))
    absent = np.array([[name is None for name in row] for row in names])
    return Card("weight change", source, "weights_summary", tuple(matrices.kinds), mask=absent)


@dataclass(frozen=True)
class _Shape:
    """How the maps of one size stand: ``across`` columns of them, cells of ``cell_x`` x ``cell_y`` pixels."""

    across: int
    columns: int
    cell_x: int
    cell_y: int
    wide: int
    high: int


def score_title(name: str) -> str:
    return name.rsplit(".", 1)[-1].replace("_", " ")


def place_cards(draft: Draft, cards: Sequence[Card], box: Box, *, title: str = "Scores", own_bars: bool = True) -> int:
    """Fill ``box`` with the cards; the title stands above it. Returns the bottom of the lowest one.

    ``own_bars``: a card whose colour scale is its own has its colour bar below it, instead of among those of the picture.
    """
    px = draft.px
    heading = f"{title} · block ↓ {'head' if any(not card.columns for card in cards) else 'matrix'} →"
    heading = heading if draft.text_width(heading, 20, bold=True) <= box.width else title
    shared = {
        card.scale for card in cards if sum(other.scale == card.scale for other in cards) > 1 or card.scale in ("score", *draft.barred)
    }
    rows, columns = (max(card.source.shape[axis] for card in cards) for axis in (0, 1))
    label = draft.text_width(str(rows - 1), 14) + px(10)
    named = px(20) if any(card.columns for card in cards) else 0
    head_room = px(26)
    foot = px(12) + named + (px(34) if own_bars and any(card.scale not in shared for card in cards) else 0)
    shape = _fit(draft, cards, box, (rows, columns), label, head_room + foot)
    draft.text(heading, box.x, box.y - px(32), 20, draft.theme.text, bold=True)
    bottom = box.y
    for index, card in enumerate(cards):
        x, y = box.x + (index % shape.across) * shape.wide, box.y + (index // shape.across) * shape.high
        origin = _place_one(draft, card, x + label, y, head_room, shape)
        if own_bars and card.scale not in shared:
            draft.barred.add(card.scale)
            draft.bars.append(
                Bar(Box(origin.x, origin.bottom + named + px(8), origin.width, px(8)), card.scale, 14 * draft.unit, titled=False)
            )
        bottom = max(bottom, origin.bottom + foot - px(12))
    return bottom


def least_height(draft: Draft, cards: Sequence[Card]) -> int:
    """Pixels that one row of cards needs to be of any use."""
    return max(card.source.shape[0] for card in cards) * 2 + draft.px(66)


def _fit(draft: Draft, cards: Sequence[Card], box: Box, cells: tuple[int, int], label: int, around: int) -> _Shape:
    gap = draft.px(22)
    title_width = draft.px(20) + max(draft.text_width(card.title, 17) for card in cards) + label + gap
    rows, columns = cells
    best = _Shape(1, columns, 0, 0, 0, 0)
    for across in range(1, len(cards) + 1):
        down = -(-len(cards) // across)
        wide, high = (box.width + gap) // across, box.height // down
        if wide < title_width and across > 1:
            break
        cell_x, cell_y = ((wide - gap - label) // columns), ((high - around) // rows)
        cell_x, cell_y = min(cell_x, (3 if rows <= 24 else 6) * cell_y), min(cell_y, 2 * cell_x)
        cell_x, cell_y = (size // 2 * 2 if size > 3 else size for size in (cell_x, cell_y))
        if min(cell_x, cell_y) > 0 and cell_x * cell_y > best.cell_x * best.cell_y:
            best = _Shape(
                across,
                columns,
                cell_x,
                cell_y,
                min(wide, max(label + cell_x * columns + gap, title_width)),
                min(high, around + cell_y * rows + draft.px(26)),
            )
    if not best.cell_x:
        raise LayoutError(
            f"layout {draft.layout.name!r}: {len(cards)} score maps of {rows} x {columns} do not fit into "
            f"{box.width} x {box.height} pixels; name fewer scores, or choose a larger size"
        )
    down = -(-len(cards) // best.across)
    return _Shape(
        best.across, columns, best.cell_x, best.cell_y, best.wide, max(best.high, min(box.height // down, best.high + draft.px(30)))
    )


def _place_one(draft: Draft, card: Card, x: int, y: int, head_room: int, shape: _Shape) -> Box:
    px = draft.px
    rows, columns = card.source.shape
    # A card of fewer columns than the others is as wide as they are, unless its cells would become stripes.
    cell_x = max(1, min(shape.cell_x * shape.columns // columns, 8 * shape.cell_y))
    origin = Box(2 * ((x + 1) // 2), 2 * ((y + head_room + 1) // 2), cell_x * columns, shape.cell_y * rows)
    text_x = origin.x
    if card.role:
        draft.swatches.append(Swatch(Box(origin.x, y + px(4), px(14), px(14)), draft.theme.roles[card.role]))
        text_x += px(22)
    draft.text(card.title, text_x, y + px(17), 17)
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 1 << 30) if n * shape.cell_y >= px(16) or n > rows)
    for row in range(0, rows, every):
        draft.text(str(row), origin.x - px(6), origin.y + (row + 0.5) * shape.cell_y, 14, align="right", baseline="center")
    short = [name.rsplit(".", 1)[-1].removeprefix("w_") for name in card.columns]
    if short and max(draft.text_width(name, 13) for name in short) <= cell_x - px(2):
        for column, name in enumerate(short):
            draft.text(name, origin.x + (column + 0.5) * cell_x, origin.bottom + px(15), 13, align="center")
    elif short:
        draft.text(draft.fitted(" · ".join(short), 13, origin.width + px(40)), origin.x, origin.bottom + px(15), 13)
    draft.heatmaps.append(Heatmap(f"{'weights' if card.columns else 'score'} · {card.title}", card.source, origin, card.scale, card.mask))
    return origin


def _scale_of(draft: Draft, name: str) -> str:
    info = draft.series.require(name, draft.layout.name)
    if not (info.minimum < -1e-3 or info.maximum > 1.001):
        draft.add_scale("score", "score", {"title": "score", "cmap": draft.theme.score, "minimum": 0.0, "maximum": 1.0})
        return "score"
    low = min(0.0, info.minimum)
    title = name.rsplit(".", 1)[-1].replace("_", " ")
    draft.add_scale(name, "score", {"title": title, "cmap": draft.theme.score, "minimum": low, "maximum": max(info.maximum, low + 1e-6)})
    return name
