"""Fit attention and weight maps into rows, one per block: all maps of a picture are equally high.

Where one row for each block would leave the maps small, many blocks are wrapped into groups side by
side, and the many maps of few blocks into several lines for each block. Attention without weights
beside it may be wider than high, so that it fills a wide picture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.content import Heads, Matrices, heads_that_share
from tracker_viz.rendering.planning.mixing import Strand, aligned
from tracker_viz.rendering.planning.plan_builder import PlanBuilder, whole_cell_px

NAME = 20.0  # of rows and columns
CAPTION = 20  # at 1080p: a map's own name above it, beside the gap
FOOT = 30  # at 1080p: below the last row, for brackets and their words
_COLUMN_NAMES = 18  # at 1080p: above the first row
# How much wider than high, and higher than wide, attention maps may be.
_WIDER, _HIGHER = 5 / 3, 4 / 3
# At 1080p: between two maps, the smallest where that saves cells; and in pixels of any picture, or
# their frames would cover each other.
_GAPS, _LEAST_GAP_PX = (10, 6, 4), 4
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
        map_px: height of all maps.
        head_px: width of attention maps.
        wide_px: width of matrices.
        pool: entries of attention that share a cell, along each side.
        gap: between two maps.
        lines: how many lines the maps of a block take.
        caption: pixels above each map for its name, where the columns have none.
        foot: pixels below the last row, for brackets that join heads.
        cornered: each map has its name in its corner, so that rows and columns need none.
        above: pixels above the first row for the names of columns.
    """

    groups: int
    rows: int
    map_px: int = 0
    head_px: int = 0
    wide_px: int = 0
    pool: int = 1
    gap: int = 0
    lines: int = 1
    caption: int = 0
    foot: int = 0
    cornered: bool = False
    above: int = 0

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

    def columns(self, panel: Strand | Matrices) -> int:
        """Return how many maps of a panel stand in a line."""
        return -(-panel.columns // self.lines)

    def origin(self, panel: Strand | Matrices, row: int, number: int) -> tuple[int, int]:
        """Return (x, y) of a block's map of that number, from the left upper corner of the panel's
        first one."""
        wide = self.width_of(panel)
        line, column = divmod(number, self.columns(panel))
        return column * (wide + self.gap), row * self.block_pitch + line * self.pitch

    def width_of(self, panel: Strand | Matrices) -> int:
        """Return how wide a map of a panel is."""
        return self.head_px if isinstance(panel, Strand) else self.wide_px

    def width(self, panel: Strand | Matrices) -> int:
        """Return how wide one group of a panel is."""
        return self.columns(panel) * (self.width_of(panel) + self.gap) - self.gap

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
    """Return the shape with the most cells a map, and of these the largest maps, in ``area`` less
    ``keep_right`` pixels of its width; its ``map_px`` is 0 when not one pixel a map fits.

    More room never gives fewer cells: a pattern is lost with its cells.
    """
    strands, matrices = aligned(heads, matrices)
    panels: list[Strand | Matrices] = [*strands, *matrices]
    n_blocks = max(len(panel.block_numbers) for panel in panels)
    best, best_worth = GridShape(groups=1, rows=n_blocks), (0, 0.0)
    for groups, rows, lines in _wrappings(panels, n_blocks):
        for gap, cornered in itertools.product(_GAPS, (True, False)):
            wrapped = GridShape(
                groups=groups,
                rows=rows,
                gap=max(_LEAST_GAP_PX, builder.even(gap)),
                lines=lines,
                caption=0 if cornered else _caption_px(builder, strands, lines),
                foot=_foot_px(builder, strands, lines),
                cornered=cornered,
                above=0 if cornered else builder.px(_COLUMN_NAMES),
            )
            shape = _largest(builder, wrapped, strands, matrices, area, keep_right)
            if cornered and not _has_room_in_corners(builder, strands, matrices, shape):
                continue
            length = max((strand.length for strand in strands), default=0)
            cells = -(-length // shape.pool) if shape.map_px else 0
            worth = (cells, _worth(builder, shape, bool(heads)))
            if worth > best_worth:
                best, best_worth = shape, worth
    return best


def _caption_px(builder: PlanBuilder, strands: Sequence[Strand], lines: int) -> int:
    if lines > 1 or any(strand.numbers is None for strand in strands):
        return builder.px(CAPTION)
    return 0


def _foot_px(builder: PlanBuilder, strands: Sequence[Strand], lines: int) -> int:
    parts = [part for strand in strands for part in strand.parts]
    if lines == 1 and any(shared_columns(builder, part) for part in parts):
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
    strands: Sequence[Strand],
    matrices: Sequence[Matrices],
    area: Box,
    keep_right: int,
) -> GridShape:
    """Return ``shape`` with the largest maps for which ``area`` has room."""
    n_panels = len(strands) + len(matrices)
    n_heads = shape.groups * sum(shape.columns(strand) for strand in strands)
    n_matrices = shape.groups * sum(shape.columns(panel) for panel in matrices)
    n_gaps = n_heads + n_matrices - shape.groups * n_panels
    around = around_px(builder, shape, n_panels)
    free = area.width - around - keep_right - n_gaps * shape.gap
    n_lines = shape.rows * shape.lines
    between = (n_lines - 1) * (shape.gap + shape.caption)
    high = (area.height - shape.above - shape.foot - between) // n_lines
    narrowest, widest = _matrix_widths(bool(strands), keep_right)
    wide = int(free / (n_heads + narrowest * n_matrices))

    if min(wide, high) < 1:
        return shape
    if not strands:
        map_px = min(wide, high) // 2 * 2
        wide_px = min(free // n_matrices, int(widest * map_px)) // 2 * 2
        return replace(shape, map_px=map_px, wide_px=wide_px)
    length = max(strand.length for strand in strands)
    if not n_matrices:
        pool, (cell_x, cell_y) = fit_stretched(length, wide, high)
        cells = -(-length // pool)
        return replace(shape, map_px=cells * cell_y, head_px=cells * cell_x, pool=pool)
    pool, cell_px = fit_map(length, min(wide, high))
    map_px = -(-length // pool) * cell_px
    rest = (free - n_heads * map_px) // n_matrices
    wide_px = min(rest, int(widest * map_px)) // 2 * 2
    return replace(shape, map_px=map_px, head_px=map_px, wide_px=wide_px, pool=pool)


def _matrix_widths(has_heads: bool, keep_right: int) -> tuple[float, float]:
    """Return the least and the greatest width of a matrix, as parts of its height."""
    # Beside attention, whose maps are square there, weights may be half as wide as they are high,
    # and alone not much less narrow.
    narrowest = 0.5 if has_heads else 0.62
    if keep_right:
        return narrowest, 1.6
    return narrowest, 3.4 if has_heads else 2.6


def _worth(builder: PlanBuilder, shape: GridShape, has_heads: bool) -> float:
    """Return how well maps can be read: their size in pixels, less where they are wrapped or close
    to each other. Only for comparing shapes of one picture."""
    wide = shape.head_px if has_heads else min(shape.map_px, shape.wide_px)
    worth = math.sqrt(shape.map_px * wide)
    if shape.groups > 1:
        worth *= 0.72
    elif shape.lines > 1:
        worth *= 0.8
    # Narrow gaps tell large maps apart less well.
    if shape.gap <= builder.even(6) and shape.map_px >= 56 * builder.unit:
        worth *= 0.93
    return worth


def _wrappings(
    panels: Sequence[Strand | Matrices], n_blocks: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (groups side by side, blocks in each, lines of a block) of all ways to wrap: into
    groups, or into lines."""
    for groups in range(1, min(n_blocks, 8) + 1):
        rows = -(-n_blocks // groups)
        if -(-n_blocks // rows) == groups:
            yield groups, rows, 1
    for lines in range(2, max(panel.columns for panel in panels) + 1):
        yield 1, n_blocks, lines


def around_px(builder: PlanBuilder, shape: GridShape, n_panels: int) -> int:
    """Return the pixels of the width that go to the names of blocks, to the gaps between the parts,
    and to their beginning at even pixels."""
    n_parts = shape.groups * n_panels
    n_labels = 1 if shape.groups == 1 else n_parts
    labels = n_labels * label_width(builder, shape)
    between = n_panels * (shape.groups - 1) * group_gap(builder, shape)
    return labels + between + (n_panels - 1) * section_gap(builder) + n_parts


def label_width(builder: PlanBuilder, shape: GridShape) -> int:
    """Return the pixels at the left of maps for the names of blocks."""
    if shape.cornered:
        return 0
    return builder.px(46 if builder.is_narrow or shape.groups > 1 else 72)


def section_gap(builder: PlanBuilder) -> int:
    return builder.px(20 if builder.is_narrow else 44)


def group_gap(builder: PlanBuilder, shape: GridShape) -> int:
    """Return the pixels between two groups of blocks of one panel; where each map has its own name,
    these stand like columns of one group."""
    return shape.gap if shape.cornered else section_gap(builder)


def is_plain(builder: PlanBuilder, shape: GridShape) -> bool:
    """Return whether each block has one row of maps, in a wide picture."""
    return shape.groups == 1 and shape.lines == 1 and not builder.is_narrow


def _has_room_in_corners(
    builder: PlanBuilder,
    strands: Sequence[Strand],
    matrices: Sequence[Matrices],
    shape: GridShape,
) -> bool:
    """Return whether each map of a head has room for its name in the corner where attention is
    masked."""
    if not strands or not shape.map_px or not all(strand.causal for strand in strands):
        return False
    if matrices and not is_plain(builder, shape):
        return False
    longest = max((_longest_corner_name(strand) for strand in strands), key=len)
    pad = builder.px(6)
    # Masked is what is above the diagonal: the lower edge of the name must not reach it.
    below = (builder.px(NAME) + 2 * pad) * shape.head_px / shape.map_px
    needed = builder.text_width(longest, NAME) + pad + below
    return shape.head_px - shape.head_px // 16 > 1.1 * needed


def _longest_corner_name(strand: Strand) -> str:
    names = [corner_name(strand, block, max(heads)) for block, heads in strand.indices if heads]
    return max(names, key=len)


def corner_name(strand: Strand, block: int, head: int) -> str:
    """Return the name of a head in the corner of its map; where each block has one head, the
    block's."""
    return f"L{block}H{head}" if strand.columns > 1 else f"L{block}"


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


def fit_stretched(length: int, wide: int, high: int) -> tuple[int, tuple[int, int]]:
    """Return (pool, (cell_x, cell_y)) of a map of ``length`` x ``length`` entries in ``wide`` x
    ``high`` pixels: as many cells as a square map has, stretched as far as patterns stay what they
    are."""
    pool, cell_px = fit_map(length, min(wide, high))
    cells = -(-length // pool)
    if min(wide, high) < 2 * cells:
        return pool, (cell_px, cell_px)
    cell_x, cell_y = wide // cells, high // cells
    cell_x, cell_y = min(cell_x, int(_WIDER * cell_y)), min(cell_y, int(_HIGHER * cell_x))
    return pool, (whole_cell_px(cell_x), whole_cell_px(cell_y))


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
