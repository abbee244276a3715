"""Place attention and weight maps in rows, one per block: all maps of a picture have the same
height.

Where one row for each block would leave the maps small, many blocks are wrapped into groups side by
side, and the many maps of few blocks into several lines for each block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from tracker_viz.rendering.plan import Box, Heatmap, Swatch
from tracker_viz.rendering.planning.content import (
    Heads,
    Matrices,
    add_weight_scale,
    heads_that_share,
    matrix_title,
    short_kind,
    weight_source,
)
from tracker_viz.rendering.planning.plan_builder import PlanBuilder, next_even, whole_cell_px

_NAME = 20.0  # of rows and columns
_CAPTION = 20  # at 1080p: a map's own name above it, beside the gap
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
    """

    groups: int
    rows: int
    map_px: int
    wide_px: int
    pool: int
    gap: int
    lines: int = 1
    caption: int = 0

    @property
    def pitch(self) -> int:
        """Distance from the top of a line to that of the next."""
        return self.map_px + self.gap + self.caption

    @property
    def block_pitch(self) -> int:
        return self.lines * self.pitch

    @property
    def height(self) -> int:
        return self.rows * self.block_pitch - self.gap - self.caption

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
    panels: list[Heads | Matrices] = [*heads, *matrices]
    n_blocks = max(len(panel.blocks) for panel in panels)
    best, best_worth = GridShape(1, n_blocks, 0, 0, 1, 0), 0.0
    for groups, rows, lines in _wrappings(panels, n_blocks):
        for gap in (builder.even(10), builder.even(6)):
            wrapped = GridShape(
                groups, rows, 0, 0, 1, gap, lines, _caption_px(builder, heads, lines)
            )
            shape = _largest(builder, wrapped, heads, matrices, area, keep_right)
            worth = _worth(builder, shape, bool(heads))
            if worth > best_worth:
                best, best_worth = shape, worth
    return best


def _caption_px(builder: PlanBuilder, heads: Sequence[Heads], lines: int) -> int:
    if lines > 1 or any(group.numbers is None for group in heads):
        return builder.px(_CAPTION)
    return 0


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
    free = area.width - _around(builder, shape.groups, n_panels) - keep_right - n_gaps * shape.gap
    n_lines = shape.rows * shape.lines
    high = (area.height - (n_lines - 1) * (shape.gap + shape.caption)) // n_lines
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
    """Return how well maps can be read: their size, less where they are wrapped or close to each
    other."""
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


def _around(builder: PlanBuilder, groups: int, n_panels: int) -> int:
    """Return the pixels of the width that go to the names of blocks, to the gaps between the parts,
    and to their beginning at even pixels."""
    n_parts = groups * n_panels
    n_labels = 1 if groups == 1 else n_parts
    return (
        n_labels * _label_width(builder, groups) + (n_parts - 1) * _section_gap(builder) + n_parts
    )


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


def place_grid(
    builder: PlanBuilder,
    heads: Sequence[Heads],
    matrices: Sequence[Matrices],
    area: Box,
    shape: GridShape,
    keep_right: int = 0,
) -> tuple[int, int]:
    """Place everything in ``area``, whose last ``keep_right`` pixels stay free; return (right,
    bottom) of what was placed."""
    panels: list[Heads | Matrices] = [*heads, *matrices]
    cornered = names_in_corners(builder, heads, shape)
    n_blocks = max(len(panel.blocks) for panel in panels)
    section, label = _section_gap(builder), _label_width(builder, shape.groups)
    if not keep_right:
        section += _spare_gap(builder, panels, shape, area)
    x = area.x
    for panel in panels:
        for group in range(shape.groups):
            blocks = shape.blocks(group, n_blocks)
            if panel is panels[0] or shape.groups > 1:
                x += label
                if not cornered:
                    _row_labels(builder, blocks, x, area.y, shape)
            if group == 0:
                width = _panel_width(panel, shape) + section + label
                room = shape.groups * width - section // 2 - label
                if panel is panels[-1] and not keep_right:
                    room = area.right - x
                _write_title(builder, panel, Box(x, area.y, room, shape.height), shape, heads)
            x = _place_panel(builder, panel, blocks, x, area.y, shape) + section
    for weights in matrices:
        add_weight_scale(builder, weights)
    return x - section, area.y + shape.height


def _spare_gap(
    builder: PlanBuilder, panels: Sequence[Heads | Matrices], shape: GridShape, area: Box
) -> int:
    """Return how much wider the gaps between sections become where nothing stands at the right."""
    maps_px = shape.groups * sum(_panel_width(panel, shape) for panel in panels)
    spare = area.width - _around(builder, shape.groups, len(panels)) - maps_px
    return min(max(0, spare) // (shape.groups * len(panels)), builder.px(160))


def _is_plain(builder: PlanBuilder, shape: GridShape) -> bool:
    """Whether each block has one row of maps, in a wide picture."""
    return shape.groups == 1 and shape.lines == 1 and not builder.is_narrow


def _write_title(
    builder: PlanBuilder,
    panel: Heads | Matrices,
    box: Box,
    shape: GridShape,
    heads: Sequence[Heads],
) -> None:
    """Write the title of a panel above ``box``, or beside it where the row above it is taken."""
    if isinstance(panel, Matrices) and heads and _is_plain(builder, shape):
        _title_beside(builder, panel, box)
        return
    axes = panel.axes(shape.pool) if isinstance(panel, Heads) else panel.axes
    above = builder.px(14 if names_in_corners(builder, heads, shape) else 34)
    builder.heading(panel.title, box.x, box.y - above, box.width, *axes)


def _place_panel(
    builder: PlanBuilder,
    panel: Heads | Matrices,
    blocks: range,
    x: int,
    top: int,
    shape: GridShape,
) -> int:
    """Place the maps of some blocks from ``x`` on; return where they end."""
    x = next_even(x)
    if isinstance(panel, Heads):
        _place_heads(builder, panel, blocks, x, top, shape)
    else:
        _place_matrices(builder, panel, blocks, x, top, shape)
    return x + _panel_width(panel, shape)


def names_in_corners(builder: PlanBuilder, heads: Sequence[Heads], shape: GridShape) -> bool:
    """Whether every map of a head has room for its name in the corner that attention is masked in.

    It then needs no row of names above it.
    """
    if not _is_plain(builder, shape) or not heads or not all(group.causal for group in heads):
        return False
    names = []
    for group in heads:
        names += [f"L{block}H{max(numbers)}" for block, numbers in group.indices]
    needed = builder.text_width(max(names, key=len), _NAME)
    needed += builder.px(_NAME) + 3 * builder.px(6)
    return shape.map_px - shape.map_px // 16 > 1.1 * needed


def _title_beside(builder: PlanBuilder, panel: Matrices, box: Box) -> None:
    """Write a panel's title up its left side, where the row above it holds names of columns."""
    for text in (f"{panel.title} · {panel.axes[-1]}", *builder.shorter(panel.title)):
        wide = builder.text_width(text, _NAME)
        if wide <= box.height - builder.px(36):
            end = box.y + (box.height - wide) / 2
            builder.text(text, box.x - builder.px(12), end, _NAME, align="right", rotation=90)
            return


def _panel_width(panel: Heads | Matrices, shape: GridShape) -> int:
    return shape.columns(panel) * (shape.width_of(panel) + shape.gap) - shape.gap


def _label_width(builder: PlanBuilder, groups: int) -> int:
    return builder.px(46 if builder.is_narrow or groups > 1 else 72)


def _section_gap(builder: PlanBuilder) -> int:
    return builder.px(20 if builder.is_narrow else 44)


def _row_labels(builder: PlanBuilder, blocks: range, x: int, top: int, shape: GridShape) -> None:
    every = max(1, -(-builder.px(20) // shape.block_pitch))
    middle = top + (shape.block_pitch - shape.gap - shape.caption) / 2
    is_short = builder.is_narrow or shape.groups > 1
    for row in range(0, len(blocks), every):
        text = str(blocks[row]) if is_short else f"block {blocks[row]}"
        builder.text_left_of(x - builder.px(14), text, middle + row * shape.block_pitch, _NAME)


def _column_names(
    builder: PlanBuilder, names: Sequence[str], short: Sequence[str], box: Box, pitch: int
) -> None:
    """Write names above columns ``pitch`` pixels apart, all of them short where one is too wide;
    ``box``: the first map."""
    px = builder.px
    texts = names if builder.widest(names, _NAME) < pitch - px(6) else short
    every = max(1, -(-builder.widest(texts, _NAME) // max(1, pitch - px(4))))
    # The last name stays out of the margin, also where it is wider than its column.
    end = box.x + (len(texts) - 1) * pitch + box.width + px(5)
    for column in range(0, len(texts), every):
        text = texts[column]
        last_middle = end - builder.text_width(text, _NAME) / 2
        middle = min(box.x + column * pitch + box.width / 2, last_middle)
        builder.text(text, middle, box.y - px(8), _NAME, align="center")


def _caption(builder: PlanBuilder, box: Box, name: str, short: str) -> None:
    text = name if builder.text_width(name, _NAME) <= box.width else short
    builder.text(text, box.x + box.width / 2, box.y - builder.px(8), _NAME, align="center")


def _place_heads(
    builder: PlanBuilder, group: Heads, blocks: range, x: int, top: int, shape: GridShape
) -> None:
    cornered = names_in_corners(builder, [group], shape)
    if not shape.caption and group.numbers and not cornered:
        names = [f"head {head}" for head in group.numbers]
        short = [str(head) for head in group.numbers]
        first = Box(x, top, shape.map_px, shape.map_px)
        _column_names(builder, names, short, first, shape.map_px + shape.gap)
    mask = group.mask(-(-group.length // shape.pool))
    sharing = heads_that_share(builder.series)
    for row, position in enumerate(blocks):
        if position >= len(group.blocks):
            continue
        block, numbers = group.indices[position]
        if sharing > 1 and shape.lines == 1:
            _join_heads_that_share(builder, group, numbers, sharing, shape, row, Box(x, top, 0, 0))
        for number, source in enumerate(group.blocks[position]):
            right, down = shape.origin(group, row, number)
            box = Box(x + right, top + down, shape.map_px, shape.map_px)
            head = numbers[number]
            heatmap = Heatmap(
                f"{group.title} · block {block} head {head}",
                replace(source, pool=shape.pool),
                box,
                group.scale,
                mask,
                head=(block, head),
                corner=f"L{block}H{head}" if cornered else "",
                corner_px=_NAME * builder.unit,
            )
            builder.heatmaps.append(heatmap)
            if shape.caption:
                _caption(builder, box, f"head {head}", str(head))


def _join_heads_that_share(
    builder: PlanBuilder,
    group: Heads,
    numbers: Sequence[int],
    sharing: int,
    shape: GridShape,
    row: int,
    origin: Box,
) -> None:
    """Draw a line below neighboring heads that read the same keys and values."""
    line_px = max(2, builder.px(2))
    for _, columns in groupby(range(len(numbers)), lambda column: numbers[column] // sharing):
        joined = list(columns)
        left, y = shape.origin(group, row, joined[0])
        right, _ = shape.origin(group, row, joined[-1])
        below = origin.y + y + shape.map_px + shape.gap // 2 - line_px // 2
        width = right + shape.map_px - left
        line = Box(origin.x + left, below, width, line_px)
        builder.swatches.append(Swatch(line, builder.theme.dim))


def _place_matrices(
    builder: PlanBuilder, group: Matrices, blocks: range, x: int, top: int, shape: GridShape
) -> None:
    titles = [matrix_title(kind) for kind in group.kinds]
    short = [short_kind(kind) for kind in group.kinds]
    if shape.lines == 1:
        first = Box(x, top, shape.wide_px, shape.map_px)
        _column_names(builder, titles, short, first, shape.wide_px + shape.gap)
    # Another panel may have more blocks than this one.
    shown = [group.blocks[position] for position in blocks if position < len(group.blocks)]
    names = [name for block in shown for name in block.values()]
    first_arrays, last_arrays = builder.series.read_ends(names)
    for row, block in enumerate(shown):
        for number, kind in enumerate(group.kinds):
            if kind not in block:
                continue
            name = block[kind]
            rows, columns = builder.series.require(name, builder.layout.name).shape
            right, down = shape.origin(group, row, number)
            room = Box(x + right, top + down, shape.wide_px, shape.map_px)
            box, cells = fit_matrix(builder, (rows, columns), room)
            ends = (first_arrays[name], last_arrays[name])
            source = weight_source(builder, group.panel, name, cells, ends)
            builder.heatmaps.append(Heatmap(f"{group.title} · {name}", source, box, group.scale))
            if shape.lines > 1:
                _caption(builder, room, titles[number], short[number])


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
