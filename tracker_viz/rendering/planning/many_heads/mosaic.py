"""Place the heads of a model that has many: one mosaic of all of them, and large maps of a few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracker_viz.rendering.plan import Box, Heatmap
from tracker_viz.rendering.planning.content import Heads, pool_words
from tracker_viz.rendering.planning.grid import fit_map
from tracker_viz.rendering.planning.plan_builder import (
    HEADING,
    PlanBuilder,
    next_even,
    number_spacing,
)
from tracker_viz.rendering.sources import HeadMap, Mosaic

_FEWEST_CELLS = 8  # a map of fewer cells a side shows no pattern any more
FEWEST_ZOOMS, MOST_ZOOMS = 8, 24
_CAPTION, _NUMBER = 20.0, 20.0


@dataclass(frozen=True, order=True)
class _Wrapping:
    """Blocks in ``groups`` groups side by side, ``pool`` x ``pool`` entries in each cell; compared
    by how much of the heads can be seen."""

    worth: float
    groups: int
    pool: int
    cell_px: int


def place_mosaic(builder: PlanBuilder, heads: Heads, area: Box, most_groups: int = 8) -> Box:
    """Fill ``area`` from its left upper corner with a map of every head; return the box that was
    used, labels and title included.

    ``most_groups``: into how many groups side by side the blocks may be wrapped.
    """
    px = builder.px
    n_blocks = len(heads.blocks)
    label = builder.text_width(str(max(heads.block_numbers)), _NUMBER) + px(12)
    wrapping = _best_wrapping(builder, heads, area, label, most_groups)
    rows = -(-n_blocks // wrapping.groups)
    boxes: list[Box] = []
    x = area.x
    for group in range(wrapping.groups):
        blocks = range(group * rows, min(n_blocks, (group + 1) * rows))
        corner = Box(next_even(x + label), area.y, 0, 0)
        boxes.append(_place_group(builder, heads, blocks, corner, wrapping))
        x = boxes[-1].right + px(16)
    left, right = boxes[0].x, boxes[-1].right
    title_px = builder.text_width(builder.shorter(heads.title)[-1], HEADING, bold=True)
    right = max(right, min(area.right, left + title_px))
    pooled = pool_words(wrapping.pool)
    axes = []
    for along in ("block ↓ head →, in each query ↓ key →", "block ↓ head →"):
        axes.append(f"{along} · {pooled}" if pooled else along)
    builder.heading(heads.title, left, area.y - px(32), right - left, *axes, needed=pooled)
    return Box(area.x, boxes[0].y, right - area.x, boxes[0].height)


def _best_wrapping(
    builder: PlanBuilder, heads: Heads, area: Box, label: int, most_groups: int
) -> _Wrapping:
    """Return the wrapping that shows most of each head; ``label``: pixels for numbers of blocks."""
    n_blocks = len(heads.blocks)
    best = _Wrapping(0.0, 1, heads.length, 1)
    for groups in range(1, min(n_blocks, most_groups) + 1):
        rows = -(-n_blocks // groups)
        maps_px = area.width - groups * label - (groups - 1) * builder.px(16)
        room = min(maps_px // (groups * heads.columns), area.height // rows)
        for cell_px in range(1, 9):
            # One cell of each map is the gap to the next.
            cells = min(heads.length, room // cell_px - 1)
            if cells < 1:
                continue
            pool = -(-heads.length // cells)
            worth = _worth(heads.length, pool, cell_px, groups)
            best = max(best, _Wrapping(worth, groups, pool, cell_px))
    return best


def _worth(length: int, pool: int, cell_px: int, groups: int) -> float:
    """Return the size of a map in pixels, less where it is hard to see: small cells, few cells,
    wrapped blocks. Only for comparing wrappings of one picture."""
    cells = -(-length // pool)
    small = {1: 0.8, 2: 1.0}.get(cell_px, 0.9)
    worth = (cells + 1) * cell_px * small * (1.0 if groups == 1 else 0.8)
    return worth * (min(1.0, cells / _FEWEST_CELLS) * (cells / length) ** 0.2)


def _place_group(
    builder: PlanBuilder, heads: Heads, blocks: range, corner: Box, wrapping: _Wrapping
) -> Box:
    """Place the maps of some blocks in one box, and number its rows and columns; return it."""
    maps = []
    for block in blocks:
        row: list[HeadMap | None] = [
            replace(source, pool=wrapping.pool) for source in heads.blocks[block]
        ]
        row += [None] * (heads.columns - len(row))
        maps.append(tuple(row))
    source = Mosaic(tuple(maps), causal=heads.causal)
    rows, columns = source.shape
    box = Box(corner.x, corner.y, columns * wrapping.cell_px, rows * wrapping.cell_px)
    numbers = heads.block_numbers[blocks.start : blocks.stop]
    name = f"{heads.title} · blocks {numbers[0]} to {numbers[-1]}"
    builder.heatmaps.append(Heatmap(name, source, box, heads.scale, source.mask()))
    pitch = (source.cells + 1) * wrapping.cell_px
    _number_sides(builder, heads, blocks, box, pitch)
    return box


def _number_sides(builder: PlanBuilder, heads: Heads, blocks: range, box: Box, pitch: int) -> None:
    px = builder.px
    for row in range(0, len(blocks), number_spacing(pitch, px(22))):
        number = str(heads.indices[blocks[row]][0])
        builder.text_left_of(box.x - px(7), number, box.y + row * pitch + pitch / 2, _NUMBER)
    numbers = heads.numbers or ()
    for column in range(0, len(numbers), number_spacing(pitch, px(34))):
        middle = box.x + column * pitch + pitch / 2
        builder.text(str(numbers[column]), middle, box.y - px(8), _NUMBER, align="center")


def place_zooms(
    builder: PlanBuilder, heads: Heads, ranked: Sequence[tuple[int, int]], n: int | None, area: Box
) -> int:
    """Show the first ``n`` heads of ``ranked``, (row, column) of each, large in ``area``; as many
    as fit well if ``n`` is None. A title stands above it.

    Return the bottom of the lowest one.
    """
    px = builder.px
    gap, caption = builder.even(16), px(28)
    fewest, most = (min(n or default, len(ranked)) for default in (FEWEST_ZOOMS, MOST_ZOOMS))
    widest = f"L{heads.indices[-1][0]}H{heads.columns - 1}"
    narrowest = builder.text_width(widest, _CAPTION) + px(8)
    n, across, map_px, pool = _fit_zooms(
        range(fewest, most + 1), heads.length, area, gap, caption, narrowest
    )
    title = "Heads that changed most"
    if any(event.role for event in builder.story.events):
        title = "Heads with a role first"
    builder.heading(
        title,
        area.x,
        area.y - px(32),
        area.width,
        *heads.axes(pool),
        needed=pool_words(pool),
    )
    down = -(-n // across)
    spare = area.width - across * (map_px + gap) + gap
    pitch_x = map_px + gap + _shared(spare, across - 1, px(90))
    spare = area.height - down * (map_px + gap + caption) + gap + caption
    pitch_y = map_px + gap + _shared(spare, down - 1, px(44)) + caption
    mask = heads.mask(-(-heads.length // pool))
    left, top, bottom = next_even(area.x), next_even(area.y), area.y
    for index, (row, column) in enumerate(sorted(ranked[:n])):
        block, numbers = heads.indices[row]
        head = (block, numbers[column])
        x, y = left + index % across * pitch_x, top + index // across * pitch_y // 2 * 2
        builder.text(f"L{block}H{head[1]}", x, y - px(8), _CAPTION)
        source = replace(heads.blocks[row][column], pool=pool)
        box = Box(x, y, map_px, map_px)
        name = f"zoom · block {block} head {head[1]}"
        builder.heatmaps.append(Heatmap(name, source, box, heads.scale, mask, head=head))
        bottom = box.bottom
    return bottom


def _shared(spare: int, n_gaps: int, most: int) -> int:
    """Return what each of ``n_gaps`` gaps gets of the spare pixels, an even number."""
    if not n_gaps:
        return 0
    return min(max(0, spare) // n_gaps, most) // 2 * 2


def _fit_zooms(
    numbers: range, length: int, area: Box, gap: int, caption: int, narrowest: int
) -> tuple[int, int, int, int]:
    """Return (n, across, map_px, pool) of those of ``numbers`` that fill most of ``area``; large
    maps count a little more.

    ``narrowest``: the least distance between two maps at which the captions above them keep apart.
    """
    best: tuple[float, int, int, int, int] = (0.0, numbers[0], 1, 0, 1)
    for n in numbers:
        for across in range(1, n + 1):
            down = -(-n // across)
            wide = (area.width - (across - 1) * gap) // across
            high = (area.height + caption + gap) // down - caption - gap
            if min(wide, high) < 2 or (area.width + gap) // across < narrowest:
                continue
            pool, cell_px = fit_map(length, min(wide, high))
            map_px = -(-length // pool) * cell_px
            worth = map_px * map_px * n**0.8 * (n / (across * down))
            best = max(best, (worth, n, across, map_px, pool))
    return best[1:]
