"""Fit attention and weight maps into rows, one per block: all maps of a picture are equally high.

Where one row for each block would leave the maps small, many blocks are wrapped into groups side by
side, and the many maps of few blocks into several lines for each block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.content import Heads, Matrices, heads_that_share
from tracker_viz.rendering.planning.mixing import aligned
from tracker_viz.rendering.planning.plan_builder import PlanBuilder, whole_cell_px

NAME = 20.0  # of rows and columns
CAPTION = 20  # at 1080p: a map's own name above it, beside the gap
FOOT = 30  # at 1080p: below the last row, for brackets and their words
LEAST_MAP_PX = 40  # at 1080p; where maps of heads would be smaller, a mosaic with zooms tells more


def least_matrix_px(builder: PlanBuilder) -> int:
    """Return six cells of two pixels: where maps of matrices would be smaller, one map of how much
    each changed tells more."""
    return max(12, builder.px(12))


@dataclass(frozen=True)
class GridShape:
    """Sizes and places of the maps, in rows and columns.

    Attributes:
        groups, rows: groups of blocks side by side, and blocks in each of them.
        map_px: height of all maps, and width of attention maps.
        wide_px: width of matrices.
        pool: entries of attention that share a cell, along each side.
        gap: between two maps.
        lines: how many lines the maps of a block take.
        caption: pixels above each map for its name, where the columns have none.
        foot: pixels below the last row, for brackets that join heads.
    """

    groups: int
    rows: int
    map_px: int
    wide_px: int
    pool: int
    gap: int
    lines: int = 1
    caption: int = 0
    foot: int = 0

    @property
    def pitch(self) -> int:
        """Distance from the top of a line to that of the next."""
        return self.map_px + self.gap + self.caption

    @property
    def block_pitch(self) -> int:
        return self.lines * self.pitch

    @property
    def height(self) -> int:
        return self.rows * self.block_pitch - self.gap - self.caption + self.foot

    def columns(self, panel: Heads | Matrices) -> int:
        """Return how many maps of a panel stand in a line."""
        return _per_line(panel, self.lines)

    def origin(self, panel: Heads | Matrices, row: int, number: int) -> tuple[int, int]:
        """Return (x, y) of a block's map of that number, from the left upper corner of the panel's
        first one."""
        wide = self.width_of(panel)
        line, column = divmod(number, self.columns(panel))
        return column * (wide + self.gap), row * self.block_pitch + line * self.pitch

    def width_of(self, panel: Heads | Matrices) -> int:
        """Return how wide a map of a panel is."""
        return self.map_px if isinstance(panel, Heads) else self.wide_px

    def blocks(self, group: int, n_blocks: int) -> range:
        """Return the positions of the blocks of a group."""
        return range(group * self.rows, min(n_blocks, (group + 1) * self.rows))


def fit_grid(
    builder: PlanBuilder,
    heads: Sequence[Heads],
    matrices: Sequence[Matrices],
    area: Box,
    keep_right: int = 0,
) -> GridShape:
    """Return the shape with the largest maps in ``area``, less ``keep_right`` pixels of its width;
    its ``map_px`` is 0 when not one pixel a map fits."""
    heads, matrices = aligned(heads, matrices)
    panels: list[Heads | Matrices] = [*heads, *matrices]
    n_blocks = max(len(panel.blocks) for panel in panels)
    best, best_worth = GridShape(1, n_blocks, 0, 0, 1, 0), 0.0
    for groups, rows, lines in _wrappings(panels, n_blocks):
        for gap in (builder.even(10), builder.even(6)):
            caption, foot = _caption_px(builder, heads, lines), _foot_px(builder, heads, lines)
            wrapped = GridShape(groups, rows, 0, 0, 1, gap, lines, caption, foot)
            shape = _largest(builder, wrapped, heads, matrices, area, keep_right)
            worth = _worth(builder, shape, bool(heads))
            if worth > best_worth:
                best, best_worth = shape, worth
    return best


def _caption_px(builder: PlanBuilder, heads: Sequence[Heads], lines: int) -> int:
    if lines > 1 or any(group.numbers is None for group in heads):
        return builder.px(CAPTION)
    return 0


def _foot_px(builder: PlanBuilder, heads: Sequence[Heads], lines: int) -> int:
    if lines == 1 and any(shared_columns(builder, group) for group in heads):
        return builder.px(FOOT)
    return 0


def shared_columns(builder: PlanBuilder, group: Heads) -> list[tuple[int, int]]:
    """Return (first, last) column of each group of heads that share keys and values; none where
    heads do not share them, or a column holds different heads of different blocks."""
    sharing, numbers = heads_that_share(builder.series), group.numbers
    if sharing == 1 or numbers is None or group.is_mixing:
        return []
    found = []
    for _, members in groupby(range(len(numbers)), lambda column: numbers[column] // sharing):
        columns = list(members)
        found.append((columns[0], columns[-1]))
    return found


def _largest(
    builder: PlanBuilder,
    shape: GridShape,
    heads: Sequence[Heads],
    matrices: Sequence[Matrices],
    area: Box,
    keep_right: int,
) -> GridShape:
    """Return ``shape`` with the largest maps for which ``area`` has room."""
    n_panels = len(heads) + len(matrices)
    n_heads = shape.groups * sum(shape.columns(panel) for panel in heads)
    n_matrices = shape.groups * sum(shape.columns(panel) for panel in matrices)
    n_gaps = n_heads + n_matrices - shape.groups * n_panels
    free = area.width - around_px(builder, shape.groups, n_panels) - keep_right - n_gaps * shape.gap
    n_lines = shape.rows * shape.lines
    between = (n_lines - 1) * (shape.gap + shape.caption)
    high = (area.height - shape.foot - between) // n_lines
    narrowest, widest = _matrix_widths(bool(heads), bool(matrices), keep_right)
    room = min(int(free / (n_heads + narrowest * n_matrices)), high)

    length = max((group.length for group in heads), default=0)
    pool, map_px = 1, 0
    if length and room > 0:
        pool, cell_px = fit_map(length, room)
        map_px = -(-length // pool) * cell_px
    elif not length:
        map_px = max(0, room // 2 * 2)
    wide_px = map_px
    if n_matrices:
        rest = (free - n_heads * map_px) // n_matrices
        wide_px = min(rest, int(widest * map_px)) // 2 * 2
    return replace(shape, map_px=map_px, wide_px=wide_px, pool=pool)


def _matrix_widths(has_heads: bool, has_matrices: bool, keep_right: int) -> tuple[float, float]:
    """Return the least and the greatest width of a matrix, as parts of its height."""
    # Beside attention, whose maps are square, weights may be half as wide as they are high, and
    # alone not much less narrow.
    narrowest = 0.5 if has_heads else 0.62
    if keep_right and has_heads and has_matrices:
        return narrowest, 0.75  # attention is what the picture is about
    if keep_right:
        return narrowest, 1.6
    return narrowest, 3.4 if has_heads else 2.6


def _worth(builder: PlanBuilder, shape: GridShape, has_heads: bool) -> float:
    """Return how well maps can be read: their size in pixels, less where they are wrapped or close
    to each other. Only for comparing shapes of one picture."""
    worth = float(shape.map_px)
    if not has_heads:
        worth = math.sqrt(shape.map_px * min(shape.map_px, shape.wide_px))
    if shape.groups > 1:
        worth *= 0.72
    elif shape.lines > 1:
        worth *= 0.8
    # Narrow gaps tell large maps apart less well.
    if shape.gap <= builder.even(6) and shape.map_px >= 56 * builder.unit:
        worth *= 0.93
    return worth


def _wrappings(panels: Sequence[Heads | Matrices], n_blocks: int) -> Iterator[tuple[int, int, int]]:
    """Yield (groups side by side, blocks in each, lines of a block) of all ways to wrap: into
    groups, or into lines."""
    for groups in range(1, min(n_blocks, 8) + 1):
        rows = -(-n_blocks // groups)
        if -(-n_blocks // rows) == groups:
            yield groups, rows, 1
    for lines in range(2, max(panel.columns for panel in panels) + 1):
        yield 1, n_blocks, lines


def _per_line(panel: Heads | Matrices, lines: int) -> int:
    return -(-panel.columns // lines)


def around_px(builder: PlanBuilder, groups: int, n_panels: int) -> int:
    """Return the pixels of the width that go to the names of blocks, to the gaps between the parts,
    and to their beginning at even pixels."""
    n_parts = groups * n_panels
    n_labels = 1 if groups == 1 else n_parts
    return n_labels * label_width(builder, groups) + (n_parts - 1) * section_gap(builder) + n_parts


def label_width(builder: PlanBuilder, groups: int) -> int:
    return builder.px(46 if builder.is_narrow or groups > 1 else 72)


def section_gap(builder: PlanBuilder) -> int:
    return builder.px(20 if builder.is_narrow else 44)


def is_plain(builder: PlanBuilder, shape: GridShape) -> bool:
    """Return whether each block has one row of maps, in a wide picture."""
    return shape.groups == 1 and shape.lines == 1 and not builder.is_narrow


def names_in_corners(builder: PlanBuilder, heads: Sequence[Heads], shape: GridShape) -> bool:
    """Return whether each map of a head has room for its name in the corner where attention is
    masked.

    It then needs no row of names above it.
    """
    if not is_plain(builder, shape) or not heads or not all(group.causal for group in heads):
        return False
    names = []
    for group in heads:
        names += [f"L{block}H{max(numbers)}" for block, numbers in group.indices if numbers]
    needed = builder.text_width(max(names, key=len), NAME)
    needed += builder.px(NAME) + 3 * builder.px(6)
    return shape.map_px - shape.map_px // 16 > 1.1 * needed


def fit_map(length: int, room_px: int) -> tuple[int, int]:
    """Return (pool, cell_px) of a map of ``length`` x ``length`` entries in ``room_px`` pixels.

    As many cells as fit with two pixels each: a pattern is lost with its cells, so that more room
    never gives fewer of them. Cells are whole.
    """
    pool = 1
    while pool < length and 2 * -(-length // pool) > room_px:
        pool += 1
    if not length:
        return pool, 1
    return pool, whole_cell_px(max(1, room_px // -(-length // pool)))


def fit_matrix(
    builder: PlanBuilder, shape: tuple[int, int], room: Box
) -> tuple[Box, tuple[int, int]]:
    """Return (box, cells) of a matrix in ``room``: whole cells, as small as still shows, of an even
    number of pixels where that costs little."""
    # About 32 cells a side: fewer hide structure, more show the noise of single weights.
    least = max(2, 2 * round(min(room.width, room.height) / 32 / 2))
    rows, high = _fit_side(shape[0], room.height, least)
    columns, wide = _fit_side(shape[1], room.width, least)
    return Box(room.x, room.y, columns * wide, rows * high), (rows, columns)


def _fit_side(length: int, space: int, least: int) -> tuple[int, int]:
    """Return (cells, cell_px) of ``length`` entries in ``space`` pixels: one cell for each, unless
    fewer ones fill far more of the room."""
    smaller = max(least, 2 * (space // length // 2))
    most = min(length, space // smaller)
    if not most:
        return 1, smaller

    def worth(cell_px: int) -> float:
        cells = min(length, space // cell_px)
        filled = cells * cell_px * (cells / most) ** 4
        return filled * 0.84 if cell_px % 2 else filled

    cell_px = max((smaller, smaller + 1, smaller + 2), key=worth)
    return min(length, space // cell_px), cell_px
