"""Place the parts of a picture that is hardly wider than high: below each other wherever that
makes the maps larger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.boxes import cut_bottom, cut_top, top_at
from tracker_viz.rendering.planning.cards import (
    Card,
    place_below,
    place_cards,
    row_height,
    weight_card,
)
from tracker_viz.rendering.planning.content import Heads, Matrices
from tracker_viz.rendering.planning.grid import (
    LEAST_MAP_PX,
    GridShape,
    fit_grid,
    least_matrix_px,
    place_grid,
)
from tracker_viz.rendering.planning.many_heads import place_many_heads
from tracker_viz.rendering.planning.plan_builder import TITLES, PlanBuilder, next_even

_Split = tuple[Sequence[Heads], Sequence[Matrices]]  # what stands in one row

_WEIGHTS_SHARE = 0.6  # of the height that attention gets: matrices need not be square


@dataclass(frozen=True)
class _Row:
    heads: Sequence[Heads]
    matrices: Sequence[Matrices]
    shape: GridShape

    @property
    def height(self) -> int:
        return self.shape.height

    @property
    def painted(self) -> int:
        """Pixels of all its maps together; a wrapped grid counts less, because it is harder to
        read."""
        wide = self.shape.head_px * sum(sum(map(len, panel.blocks)) for panel in self.heads)
        wide += self.shape.wide_px * sum(sum(map(len, panel.blocks)) for panel in self.matrices)
        pixels = self.shape.map_px * wide
        return pixels if self.shape.groups == 1 else pixels // 2


def place_portrait(
    builder: PlanBuilder,
    heads: Sequence[Heads],
    matrices: Sequence[Matrices],
    cards: Sequence[Card],
    n_zooms: int | None,
    area: Box,
) -> int:
    """Place the maps, and below them the scores; return the bottom of the lowest part."""
    px = builder.px
    below = row_height(builder, cards, px(110)) + px(TITLES) if cards else 0
    maps, _ = cut_bottom(area, below)
    arrangements = _arrangements(builder, heads, matrices, maps)
    rows = max(arrangements, key=lambda rows: sum(row.painted for row in rows))
    if any(row.heads and row.shape.map_px < LEAST_MAP_PX * builder.unit for row in rows):
        return place_many_heads(builder, heads, matrices, cards, n_zooms, area)
    if any(row.shape.map_px < least_matrix_px(builder) for row in rows):
        return place_cards(builder, [weight_card(builder, matrices[0]), *cards], area)
    room, bottom = area, area.y
    for row in rows:
        box, _ = cut_top(room, row.height)
        _, bottom = place_grid(builder, row.heads, row.matrices, box, row.shape)
        room = top_at(room, next_even(bottom + px(TITLES)))
    return place_below(builder, cards, bottom, area)


def _arrangements(
    builder: PlanBuilder, heads: Sequence[Heads], matrices: Sequence[Matrices], area: Box
) -> list[list[_Row]]:
    """Return the ways to split the panels: all in one row; attention in one and weights in another;
    or each in a row of its own."""
    splits: list[list[_Split]] = [[(heads, matrices)]]
    if heads and matrices:
        splits.append([(heads, ()), ((), matrices)])
    if len(heads) + len(matrices) > 1:
        each: list[_Split] = [((group,), ()) for group in heads]
        splits.append([*each, *(((), (group,)) for group in matrices)])
    return [_fitted(builder, split, area) for split in splits]


def _fitted(builder: PlanBuilder, split: Sequence[_Split], area: Box) -> list[_Row]:
    """Return the rows of one arrangement: attention, always equally high, and weights, which get
    what it leaves."""
    rows: list[_Row] = []
    free = area.height - (len(split) - 1) * builder.px(TITLES)
    shares = [1.0 if heads else _WEIGHTS_SHARE for heads, _ in split]
    each = free / sum(shares)
    for number, (heads, matrices) in enumerate(split):
        height = max(1, int(each if heads else free / (len(split) - number)))
        room, _ = cut_top(area, height)
        rows.append(_Row(heads, matrices, fit_grid(builder, heads, matrices, room)))
        free -= rows[-1].height
    return rows
