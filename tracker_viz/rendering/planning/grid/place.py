"""Place attention and weight maps in a grid of rows, one per block, with the names of rows and
columns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from tracker_viz.rendering.plan import Box, Heatmap, Swatch
from tracker_viz.rendering.planning.content import (
    Heads,
    Matrices,
    add_weight_scale,
    matrix_title,
    pool_words,
    short_kind,
    weight_source,
)
from tracker_viz.rendering.planning.grid.fit import (
    NAME,
    GridShape,
    around_px,
    corner_name,
    fit_matrix,
    group_gap,
    label_width,
    section_gap,
    shared_columns,
)
from tracker_viz.rendering.planning.mixing import Strand, aligned
from tracker_viz.rendering.planning.plan_builder import HEADING, PlanBuilder, next_even

# Below the heads that a bracket joins.
_SHARED = ("share keys and values", "share keys, values", "shared K and V", "same K, V", "K, V")


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
    strands, matrices = aligned(heads, matrices)
    panels: list[Strand | Matrices] = [*strands, *matrices]
    n_blocks = max(len(panel.block_numbers) for panel in panels)
    section, label = section_gap(builder), label_width(builder, shape)
    between = group_gap(builder, shape)
    if not keep_right:
        spare = _spare_gap(builder, panels, shape, area)
        section += spare
        between += 0 if shape.cornered else spare
    x, top = area.x, next_even(area.y + shape.above)
    for panel in panels:
        for group in range(shape.groups):
            blocks = shape.blocks(group, n_blocks)
            if panel is panels[0] or shape.groups > 1:
                x += label
                if not shape.cornered:
                    numbers = [panel.block_numbers[position] for position in blocks]
                    _row_labels(builder, numbers, x, top, shape)
            if group == 0:
                width = shape.width(panel) + between + label
                room = shape.groups * width - between + section // 2 - label
                if panel is panels[-1] and not keep_right:
                    room = area.right - x
                _write_title(builder, panel, Box(x, top, room, shape.height), shape)
            is_last = group == shape.groups - 1
            x = _place_panel(builder, panel, blocks, x, top, shape)
            x += section if is_last else between
    for weights in matrices:
        add_weight_scale(builder, weights)
    return x - section, top + shape.height


def _spare_gap(
    builder: PlanBuilder, panels: Sequence[Strand | Matrices], shape: GridShape, area: Box
) -> int:
    """Return how much wider the gaps between sections become where nothing stands at the right."""
    maps_px = shape.groups * sum(shape.width(panel) for panel in panels)
    spare = area.width - around_px(builder, shape, len(panels)) - maps_px
    return min(max(0, spare) // (shape.groups * len(panels)), builder.px(160))


def _write_title(
    builder: PlanBuilder,
    panel: Strand | Matrices,
    box: Box,
    shape: GridShape,
) -> None:
    """Write the title of a panel above ``box``, or beside it where the names of its columns leave
    no room there."""
    above = box.y - builder.px(13 if shape.cornered else 31)
    if isinstance(panel, Strand):
        room = box.width // len(panel.parts)
        for number, part in enumerate(panel.parts):
            x = box.x + number * room
            is_bracketed = _bracket_words(builder, part, shape) in _SHARED[:2]
            axes = part.axes(shape.pool, is_bracketed=is_bracketed)
            needed = pool_words(shape.pool)
            builder.heading(part.title, x, above, room, *axes, needed=needed)
        return
    if not shape.cornered:
        builder.heading(panel.title, box.x, above, box.width, *panel.axes)
        return
    title, names = _title_and_names(builder, panel, shape)
    if not title:
        _title_beside(builder, panel, box)
        return
    builder.text(title, box.x, above, HEADING, builder.theme.text, bold=True)
    # In the middle between what is at both sides of the last column.
    begin = box.x + (len(names) - 1) * (shape.wide_px + shape.gap)
    end = begin + shape.wide_px - builder.text_width(names[-1], NAME)
    if len(names) == 1:
        begin += builder.text_width(title, HEADING, bold=True)
    builder.text(panel.axes[-1], (begin + end) / 2, above, NAME, align="center")


def _place_panel(
    builder: PlanBuilder,
    panel: Strand | Matrices,
    blocks: range,
    x: int,
    top: int,
    shape: GridShape,
) -> int:
    """Place the maps of some blocks from ``x`` on; return where they end."""
    x = next_even(x)
    if isinstance(panel, Matrices):
        _place_matrices(builder, panel, blocks, x, top, shape)
        return x + shape.width(panel)
    if not shape.caption and panel.numbers and not shape.cornered:
        names = [f"head {head}" for head in panel.numbers]
        short = [str(head) for head in panel.numbers]
        first = Box(x, top, shape.head_px, shape.map_px)
        _column_names(builder, names, short, first, shape.head_px + shape.gap)
    for part in panel.parts:
        _place_heads(builder, panel, part, blocks, Box(x, top, 0, 0), shape)
    return x + shape.width(panel)


def _title_and_names(
    builder: PlanBuilder, panel: Matrices, shape: GridShape
) -> tuple[str, list[str]]:
    """Return a panel's title and the names of its columns that fit into one row, the title at the
    left of the first column, what runs along the maps at that of the last, and each name at the
    right of its own column; nothing if none do."""
    forms = [
        [matrix_title(kind) for kind in panel.kinds],
        [short_kind(kind) for kind in panel.kinds],
    ]
    for title, names in itertools.product(builder.shorter(panel.title), forms):
        title_px = builder.text_width(title, HEADING, bold=True) + builder.px(16)
        axes_px = builder.text_width(panel.axes[-1], NAME) + builder.px(16)
        before_px = [0] * len(names)
        before_px[0] += title_px
        before_px[-1] += axes_px
        widths = [
            builder.text_width(name, NAME) + before
            for name, before in zip(names, before_px, strict=True)
        ]
        if max(widths) <= shape.wide_px:
            return title, names
    return "", []


def _title_beside(builder: PlanBuilder, panel: Matrices, box: Box) -> None:
    """Write a panel's title up its left side, where the row above it holds names of columns."""
    for text in (f"{panel.title} · {panel.axes[-1]}", *builder.shorter(panel.title)):
        wide = builder.text_width(text, NAME)
        if wide <= box.height - builder.px(36):
            end = box.y + (box.height - wide) / 2
            builder.text(text, box.x - builder.px(12), end, NAME, align="right", rotation=90)
            return


def _row_labels(
    builder: PlanBuilder, numbers: Sequence[int], x: int, top: int, shape: GridShape
) -> None:
    every = max(1, -(-builder.px(20) // shape.block_pitch))
    middle = top + (shape.block_pitch - shape.gap - shape.caption) / 2
    is_short = builder.is_narrow or shape.groups > 1
    for row in range(0, len(numbers), every):
        text = str(numbers[row]) if is_short else f"block {numbers[row]}"
        builder.text_left_of(x - builder.px(14), text, middle + row * shape.block_pitch, NAME)


def _column_names(
    builder: PlanBuilder, names: Sequence[str], short: Sequence[str], box: Box, pitch: int
) -> None:
    """Write names above columns ``pitch`` pixels apart, all of them short where one is too wide;
    ``box``: the first map."""
    px = builder.px
    texts = names if builder.widest(names, NAME) < pitch - px(6) else short
    every = max(1, -(-builder.widest(texts, NAME) // max(1, pitch - px(4))))
    # The last name stays out of the margin, also where it is wider than its column.
    end = box.x + (len(texts) - 1) * pitch + box.width + px(5)
    for column in range(0, len(texts), every):
        text = texts[column]
        last_middle = end - builder.text_width(text, NAME) / 2
        middle = min(box.x + column * pitch + box.width / 2, last_middle)
        builder.text(text, middle, box.y - px(7), NAME, align="center")


def _caption(builder: PlanBuilder, box: Box, name: str, short: str) -> None:
    text = name if builder.text_width(name, NAME) <= box.width else short
    builder.text(text, box.x + box.width / 2, box.y - builder.px(8), NAME, align="center")


def _place_heads(
    builder: PlanBuilder,
    strand: Strand,
    group: Heads,
    blocks: range,
    corner: Box,
    shape: GridShape,
) -> None:
    """Place the maps of one part of a strand, whose first map has its left upper corner at
    ``corner``."""
    mask = group.mask(-(-group.length // shape.pool))
    if shape.foot:
        _bracket_shared(
            builder, strand, group, shape, Box(corner.x, corner.y + shape.height - shape.foot, 0, 0)
        )
    for row, position in enumerate(blocks):
        if position >= len(group.blocks):
            continue
        block, numbers = group.indices[position]
        for number, source in enumerate(group.blocks[position]):
            right, down = shape.origin(strand, row, number)
            box = Box(corner.x + right, corner.y + down, shape.head_px, shape.map_px)
            head = numbers[number]
            heatmap = Heatmap(
                f"{group.title} · block {block} head {head}",
                replace(source, pool=shape.pool),
                box,
                group.scale,
                mask,
                head=None if group.is_mixing else (block, head),
                corner=corner_name(strand, block, head) if shape.cornered else "",
                corner_px=NAME * builder.unit,
            )
            builder.heatmaps.append(heatmap)
            if shape.caption:
                _caption(builder, box, f"head {head}", str(head))


def _bracket_shared(
    builder: PlanBuilder, strand: Strand, group: Heads, shape: GridShape, foot: Box
) -> None:
    """Bracket the columns of heads that read the same keys and values, and say so in the longest
    words that each bracket has room for; ``foot``: from the first column on, below the last row."""
    px = builder.px
    brackets = []
    for first, last in shared_columns(builder, group):
        left, _ = shape.origin(strand, 0, first)
        right, _ = shape.origin(strand, 0, last)
        brackets.append((foot.x + left, foot.x + right + shape.head_px))
    if not brackets:
        return
    thick, top, bottom = px(3), foot.y + px(7), foot.y + px(17)
    words = _bracket_words(builder, group, shape)
    for left, right in brackets:
        middle, half = (left + right) / 2, (builder.text_width(words, NAME) + px(16)) / 2
        sides = [(left, round(middle - half)), (round(middle + half), right)]
        if not words:
            sides = [(left, right)]
        for begin, end in sides:
            line = Box(begin, bottom - thick, end - begin, thick)
            builder.swatches.append(Swatch(line, builder.theme.text))
        for x in (left, right - thick):
            end_of_bracket = Box(x, top, thick, bottom - top)
            builder.swatches.append(Swatch(end_of_bracket, builder.theme.text))
        if words:
            color = builder.theme.text
            builder.text(words, middle, bottom + px(5), NAME, color, align="center")


def _bracket_words(builder: PlanBuilder, group: Heads, shape: GridShape) -> str:
    """Return the longest words for which each bracket has room; empty without brackets."""
    shared = shared_columns(builder, group)
    if not shape.foot or not shared:
        return ""
    n_columns = min(last - first + 1 for first, last in shared)
    narrowest = n_columns * (shape.head_px + shape.gap) - shape.gap
    fitting = (
        text for text in _SHARED if builder.text_width(text, NAME) + builder.px(40) <= narrowest
    )
    return next(fitting, "")


def _place_matrices(
    builder: PlanBuilder, group: Matrices, blocks: range, x: int, top: int, shape: GridShape
) -> None:
    if shape.lines == 1:
        _name_matrices(builder, group, Box(x, top, shape.wide_px, shape.map_px), shape)
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
                _caption(builder, room, matrix_title(kind), short_kind(kind))


def _name_matrices(builder: PlanBuilder, group: Matrices, first: Box, shape: GridShape) -> None:
    """Write the names of the columns of matrices above them; ``first``: the first map."""
    pitch = shape.wide_px + shape.gap
    if shape.cornered and (names := _title_and_names(builder, group, shape)[1]):
        y = first.y - builder.px(13)
        for column, name in enumerate(names):
            builder.text(name, first.right + column * pitch, y, NAME, align="right")
        return
    titles = [matrix_title(kind) for kind in group.kinds]
    short = [short_kind(kind) for kind in group.kinds]
    _column_names(builder, titles, short, first, pitch)
