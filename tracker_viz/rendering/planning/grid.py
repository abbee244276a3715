"""Places attention and weight maps in rows, one per block: all maps of a picture have the same
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
    weight_source,
)
from tracker_viz.rendering.planning.plan_builder import PlanBuilder

_NAME = 20.0  # of rows and columns
_CAPTION = 20  # at 1080p: a map's own name above it, beside the gap
LEAST_MAP_PX = 40  # at 1080p; where maps of heads would be smaller, a mosaic with zooms tells more


def least_matrix_px(builder: PlanBuilder) -> int:
    """Where maps of matrices would be smaller, six cells of two pixels, one map of how much each
    changed tells more."""
    return max(12, builder.px(12))


@dataclass(frozen=True)
class GridShape:
    """``groups`` groups of ``rows`` blocks; maps ``map_px`` high, matrices ``wide_px`` wide;
    attention is pooled by ``pool``.

    The maps of a block stand in ``lines`` lines, with ``caption`` pixels above each map for its
    name where the columns have none.
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
        """From the top of a line to that of the next."""
        return self.map_px + self.gap + self.caption

    @property
    def block_pitch(self) -> int:
        return self.lines * self.pitch

    @property
    def height(self) -> int:
        return self.rows * self.block_pitch - self.gap - self.caption

    def columns(self, panel: Heads | Matrices) -> int:
        """How many maps of a panel stand in a line."""
        return _per_line(panel, self.lines)

    def origin(self, panel: Heads | Matrices, row: int, number: int) -> tuple[int, int]:
        """(x, y) of a block's map of that number, from the left upper corner of the panel's first
        one."""
        wide = self.map_px if isinstance(panel, Heads) else self.wide_px
        line, column = divmod(number, self.columns(panel))
        return column * (wide + self.gap), row * self.block_pitch + line * self.pitch


def fit_grid(
    builder: PlanBuilder,
    heads: Sequence[Heads],
    matrices: Sequence[Matrices],
    area: Box,
    keep_right: int = 0,
) -> GridShape:
    """The shape with the largest maps in ``area``, less ``keep_right`` pixels of its width; map_px
    is 0 when not one pixel a map fits."""
    panels: list[Heads | Matrices] = [*heads, *matrices]
    n_blocks = max(len(panel.blocks) for panel in panels)
    length = max((group.length for group in heads), default=0)
    # Beside attention, whose maps are square, weights may be half as wide as they are high, and
    # alone not much less narrow.
    narrowest = 0.5 if heads else 0.62
    widest = 1.6 if keep_right else 3.4 if heads else 2.6
    if keep_right and heads and matrices:
        widest = 0.75  # attention is what the picture is about
    best, best_worth = GridShape(1, n_blocks, 0, 0, 1, 0), 0.0
    for groups, rows, lines in _wrappings(panels, n_blocks):
        n_heads, n_matrices = (
            groups * sum(_per_line(panel, lines) for panel in kind) for kind in (heads, matrices)
        )
        n_gaps = n_heads + n_matrices - groups * len(panels)
        around = _around(builder, groups, len(panels)) + keep_right
        caption = (
            builder.px(_CAPTION)
            if lines > 1 or any(group.numbers is None for group in heads)
            else 0
        )
        for gap in (builder.even(10), builder.even(6)):
            free = area.width - around - n_gaps * gap
            high = (area.height - (rows * lines - 1) * (gap + caption)) // (rows * lines)
            room = min(int(free / (n_heads + narrowest * n_matrices)), high)
            pool, cell_px = fit_map(length, room) if length and room > 0 else (1, 0)
            map_px = -(-length // pool) * cell_px if length else max(0, room // 2 * 2)
            wide_px = (
                min((free - n_heads * map_px) // n_matrices, int(widest * map_px)) // 2 * 2
                if n_matrices
                else map_px
            )
            worth = map_px if heads else math.sqrt(map_px * min(map_px, wide_px))
            # Wrapped rows are harder to read, and narrow gaps tell maps apart less well.
            worth *= 0.72 if groups > 1 else 0.8 if lines > 1 else 1.0
            worth *= 1.0 if gap > builder.even(6) or map_px < 56 * builder.unit else 0.93
            if worth > best_worth:
                best, best_worth = (
                    GridShape(groups, rows, map_px, wide_px, pool, gap, lines, caption),
                    worth,
                )
    return best


def _wrappings(panels: Sequence[Heads | Matrices], n_blocks: int) -> Iterator[tuple[int, int, int]]:
    """(groups side by side, blocks in each, lines of a block) of all ways to wrap: into groups, or
    into lines."""
    for groups in range(1, min(n_blocks, 8) + 1):
        rows = -(-n_blocks // groups)
        if -(-n_blocks // rows) == groups:
            yield groups, rows, 1
    for lines in range(2, max(panel.columns for panel in panels) + 1):
        yield 1, n_blocks, lines


def _per_line(panel: Heads | Matrices, lines: int) -> int:
    return -(-panel.columns // lines)


def _around(builder: PlanBuilder, groups: int, n_panels: int) -> int:
    """Pixels of the width that go to the names of blocks, to what keeps the parts apart, and to
    their beginning at even pixels."""
    n_parts = groups * n_panels
    return (
        (1 if groups == 1 else n_parts) * _label_width(builder, groups)
        + (n_parts - 1) * _section_gap(builder)
        + n_parts
    )


def fit_map(length: int, room_px: int) -> tuple[int, int]:
    """Return (pool, cell_px) of a map of ``length`` x ``length`` entries in ``room_px`` pixels.

    As many cells as fit with two pixels each: a pattern is lost with its cells, so that more room
    never gives fewer of them. Cells are whole; larger ones have an even number of pixels, because
    chroma in video has half the resolution and keeps their colors exactly then.
    """
    pool = 1
    while pool < length and 2 * -(-length // pool) > room_px:
        pool += 1
    cell_px = max(1, room_px // -(-length // pool)) if length else 1
    if cell_px >= 7:
        cell_px -= cell_px % 2
    return pool, cell_px


def place_grid(
    builder: PlanBuilder,
    heads: Sequence[Heads],
    matrices: Sequence[Matrices],
    area: Box,
    shape: GridShape,
    keep_right: int = 0,
) -> tuple[int, int]:
    """Place everything in ``area``, whose last ``keep_right`` pixels stay free. Returns (right,
    bottom) of what was placed."""
    panels: list[Heads | Matrices] = [*heads, *matrices]
    cornered = names_in_corners(builder, heads, shape)
    is_plain = shape.groups == 1 and shape.lines == 1 and not builder.is_narrow
    beside = bool(heads) and is_plain
    n_blocks = max(len(panel.blocks) for panel in panels)
    section, label = _section_gap(builder), _label_width(builder, shape.groups)
    widths = [_panel_width(panel, shape) for panel in panels]
    if not keep_right:  # nothing stands at the right: share the room between the sections
        spare = (
            area.width - _around(builder, shape.groups, len(panels)) - shape.groups * sum(widths)
        )
        section += min(max(0, spare) // (shape.groups * len(panels)), builder.px(160))
    x = area.x
    for number, (panel, width) in enumerate(zip(panels, widths, strict=True)):
        for group in range(shape.groups):
            blocks = range(group * shape.rows, min(n_blocks, (group + 1) * shape.rows))
            if number == 0 or shape.groups > 1:
                x += label
                if not cornered:
                    _row_labels(builder, blocks, x, area.y, shape)
            if group == 0:
                room = shape.groups * (width + section + label) - section // 2 - label
                if panel is panels[-1] and not keep_right:
                    room = area.right - x
                if beside and isinstance(panel, Matrices):
                    _title_beside(builder, panel, x, area.y, shape.height)
                else:
                    above = builder.px(14 if cornered else 34)
                    axes = panel.axes(shape.pool) if isinstance(panel, Heads) else panel.axes
                    builder.heading(panel.title, x, area.y - above, room, *axes)
            place = _place_heads if isinstance(panel, Heads) else _place_matrices
            x = place(builder, panel, blocks, x, area.y, shape) + section  # type: ignore[arg-type]
    for weights in matrices:
        add_weight_scale(builder, weights)
    return x - section, area.y + shape.height


def names_in_corners(builder: PlanBuilder, heads: Sequence[Heads], shape: GridShape) -> bool:
    """Whether every map of a head has room for its name in the corner that attention is masked in.

    It then needs no row of names above it.
    """
    is_plain = shape.groups == 1 and shape.lines == 1 and not builder.is_narrow
    if not is_plain or not heads or not all(group.causal for group in heads):
        return False
    longest = max(
        (f"L{block}H{max(numbers)}" for group in heads for block, numbers in group.indices), key=len
    )
    needed = builder.text_width(longest, _NAME) + builder.px(_NAME) + 3 * builder.px(6)
    return shape.map_px - shape.map_px // 16 > 1.1 * needed


def _title_beside(builder: PlanBuilder, panel: Matrices, x: int, top: int, height: int) -> None:
    """Write a panel's title up its left side, where the row above it holds names of columns."""
    for text in (f"{panel.title} · {panel.axes[-1]}", *builder.shorter(panel.title)):
        wide = builder.text_width(text, _NAME)
        if wide <= height - builder.px(36):
            end = top + (height - wide) / 2
            builder.text(text, x - builder.px(12), end, _NAME, align="right", rotation=90)
            return


def _panel_width(panel: Heads | Matrices, shape: GridShape) -> int:
    each = shape.map_px if isinstance(panel, Heads) else shape.wide_px
    return shape.columns(panel) * (each + shape.gap) - shape.gap


def _label_width(builder: PlanBuilder, groups: int) -> int:
    return builder.px(46 if builder.is_narrow or groups > 1 else 72)


def _section_gap(builder: PlanBuilder) -> int:
    return builder.px(20 if builder.is_narrow else 44)


def _row_labels(builder: PlanBuilder, blocks: range, x: int, top: int, shape: GridShape) -> None:
    every = max(1, -(-builder.px(20) // shape.block_pitch))
    middle = (shape.block_pitch - shape.gap - shape.caption) / 2
    for row, block in enumerate(blocks):
        if row % every == 0:
            text = str(block) if builder.is_narrow or shape.groups > 1 else f"block {block}"
            builder.text(
                text,
                x - builder.px(14),
                top + row * shape.block_pitch + middle,
                _NAME,
                align="right",
                baseline="center",
            )


def _column_names(
    builder: PlanBuilder,
    names: Sequence[str],
    short: Sequence[str],
    x: int,
    top: int,
    wide: int,
    pitch: int,
) -> None:
    texts = (
        names
        if all(builder.text_width(name, _NAME) < pitch - builder.px(6) for name in names)
        else short
    )
    every = max(
        1,
        -(-max(builder.text_width(text, _NAME) for text in texts) // max(1, pitch - builder.px(4))),
    )
    for column, text in enumerate(texts):
        if column % every == 0:
            # The last name stays out of the margin, also where it is wider than its column.
            end = x + (len(texts) - 1) * pitch + wide + builder.px(5)
            middle = min(x + column * pitch + wide / 2, end - builder.text_width(text, _NAME) / 2)
            builder.text(text, middle, top - builder.px(8), _NAME, align="center")


def _caption(builder: PlanBuilder, box: Box, name: str, short: str) -> None:
    text = name if builder.text_width(name, _NAME) <= box.width else short
    builder.text(text, box.x + box.width / 2, box.y - builder.px(8), _NAME, align="center")


def _place_heads(
    builder: PlanBuilder, group: Heads, blocks: range, x: int, top: int, shape: GridShape
) -> int:
    x = 2 * ((x + 1) // 2)
    cornered = names_in_corners(builder, [group], shape)
    if not shape.caption and group.numbers and not cornered:
        names = [f"head {head}" for head in group.numbers]
        _column_names(
            builder,
            names,
            [str(head) for head in group.numbers],
            x,
            top,
            shape.map_px,
            shape.map_px + shape.gap,
        )
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
            name = f"{group.title} · block {block} head {head}"
            builder.heatmaps.append(
                Heatmap(
                    name,
                    replace(source, pool=shape.pool),
                    box,
                    group.scale,
                    mask,
                    head=(block, head),
                    corner=f"L{block}H{head}" if cornered else "",
                )
            )
            if shape.caption:
                _caption(builder, box, f"head {head}", str(head))
    return x + _panel_width(group, shape)


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
        (left, y), (right, _) = (
            shape.origin(group, row, joined[0]),
            shape.origin(group, row, joined[-1]),
        )
        below = origin.y + y + shape.map_px + shape.gap // 2 - line_px // 2
        width = right + shape.map_px - left
        line = Box(origin.x + left, below, width, line_px)
        builder.swatches.append(Swatch(line, builder.theme.dim))


def _place_matrices(
    builder: PlanBuilder, group: Matrices, blocks: range, x: int, top: int, shape: GridShape
) -> int:
    x = 2 * ((x + 1) // 2)
    wide = shape.wide_px
    titles = [matrix_title(kind) for kind in group.kinds]
    short = [kind.rsplit(".", 1)[-1].removeprefix("w_") for kind in group.kinds]
    if shape.lines == 1:
        _column_names(builder, titles, short, x, top, wide, wide + shape.gap)
    names = [
        name
        for position in blocks
        if position < len(group.blocks)
        for name in group.blocks[position].values()
    ]
    ends = [builder.series.read(index, names) for index in (0, len(builder.series) - 1)]
    for row, position in enumerate(blocks):
        for number, kind in enumerate(group.kinds):
            name = group.blocks[position].get(kind) if position < len(group.blocks) else None
            if name is None:
                continue
            rows, columns = builder.series.require(name, builder.layout.name).shape
            right, down = shape.origin(group, row, number)
            room = Box(x + right, top + down, wide, shape.map_px)
            box, cells = fit_matrix(builder, (rows, columns), room)
            source = weight_source(
                builder, group.panel, name, cells, (ends[0][name], ends[1][name])
            )
            builder.heatmaps.append(Heatmap(f"{group.title} · {name}", source, box, group.scale))
            if shape.lines > 1:
                _caption(builder, room, titles[number], short[number])
    return x + _panel_width(group, shape)


def fit_matrix(
    builder: PlanBuilder, shape: tuple[int, int], room: Box
) -> tuple[Box, tuple[int, int]]:
    """(box, cells) of a matrix in ``room``: whole cells, as small as still shows, of an even number
    of pixels where that costs little."""
    # About 32 cells a side: fewer hide structure, more show the noise of single weights.
    least = max(2, 2 * round(min(room.width, room.height) / 32 / 2))
    (rows, high), (columns, wide) = (
        _fit_side(length, space, least)
        for length, space in zip(shape, (room.height, room.width), strict=True)
    )
    return Box(room.x, room.y, columns * wide, rows * high), (rows, columns)


def _fit_side(length: int, space: int, least: int) -> tuple[int, int]:
    """(cells, cell_px) of ``length`` entries in ``space`` pixels: one cell for each, unless fewer
    ones fill far more of the room."""
    smaller = max(least, 2 * (space // length // 2))
    most = min(length, space // smaller)
    if not most:
        return 1, smaller
    fits = [
        (min(length, space // cell_px), cell_px) for cell_px in (smaller, smaller + 1, smaller + 2)
    ]
    return max(
        fits, key=lambda fit: fit[0] * fit[1] * (fit[0] / most) ** 4 * (0.84 if fit[1] % 2 else 1.0)
    )
