"""Places a model with many heads: one mosaic of all of them, and beside it, large, those that
changed most, of different roles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tracker_viz.rendering.plan import Box, Heatmap
from tracker_viz.rendering.planning.content import Heads
from tracker_viz.rendering.planning.grid import fit_map
from tracker_viz.rendering.planning.plan_builder import HEADING, PlanBuilder
from tracker_viz.rendering.sources import Mosaic

_FEWEST_CELLS = 8  # a map of fewer cells a side shows no pattern any more
FEWEST_ZOOMS, MOST_ZOOMS = 8, 24
_CAPTION = 20.0


def place_mosaic(builder: PlanBuilder, heads: Heads, area: Box, most_groups: int = 8) -> Box:
    """Fill ``area`` from its left upper corner with a map of every head; returns the box that was
    used, labels and title included.

    ``most_groups``: into how many groups side by side the blocks may be wrapped.
    """
    px = builder.px
    n_blocks, n_heads = len(heads.blocks), heads.columns
    label = builder.text_width(str(n_blocks - 1), 15) + px(12)
    best: tuple[float, int, int, int] = (0.0, 1, heads.length, 1)
    for groups in range(1, min(n_blocks, most_groups) + 1):
        rows = -(-n_blocks // groups)
        room = min(
            (area.width - groups * label - (groups - 1) * px(16)) // (groups * n_heads),
            area.height // rows,
        )
        for cell_px in range(1, 9):
            cells = min(heads.length, room // cell_px - 1)
            if cells < 1:
                continue
            pool = -(-heads.length // cells)
            cells = -(-heads.length // pool)
            worth = (
                (cells + 1)
                * cell_px
                * (0.8 if cell_px == 1 else 1.0 if cell_px == 2 else 0.9)
                * (1.0 if groups == 1 else 0.8)
            )
            worth *= min(1.0, cells / _FEWEST_CELLS) * (cells / heads.length) ** 0.2
            best = max(best, (worth, groups, pool, cell_px))
    _, groups, pool, cell_px = best
    rows, cells = -(-n_blocks // groups), -(-heads.length // pool)
    pitch = (cells + 1) * cell_px
    mask_parts = []
    x = area.x
    for number in range(groups):
        x += label
        origin = Box(2 * ((x + 1) // 2), area.y, 0, 0)
        blocks = range(number * rows, min(n_blocks, (number + 1) * rows))
        maps = tuple(
            tuple(
                [replace(source, pool=pool) for source in heads.blocks[block]]
                + [None] * (n_heads - len(heads.blocks[block]))
            )
            for block in blocks
        )
        source = Mosaic(maps, causal=heads.causal)
        box = Box(origin.x, origin.y, source.shape[1] * cell_px, source.shape[0] * cell_px)
        builder.heatmaps.append(
            Heatmap(
                f"{heads.title} · blocks {blocks.start} to {blocks.stop - 1}",
                source,
                box,
                heads.scale,
                source.mask(),
            )
        )
        mask_parts.append(box)
        _mosaic_labels(builder, heads, blocks, box, pitch)
        x = box.right + px(16)
    left, right = mask_parts[0].x, mask_parts[-1].right
    title_px = builder.text_width(builder.shorter(heads.title)[-1], HEADING, bold=True)
    right = max(right, min(area.right, left + title_px))
    builder.heading(
        heads.title,
        left,
        area.y - px(32),
        right - left,
        "block ↓ head →, in each query ↓ key →",
        "block ↓ head →",
    )
    return Box(area.x, mask_parts[0].y, right - area.x, mask_parts[0].height)


def _mosaic_labels(builder: PlanBuilder, heads: Heads, blocks: range, box: Box, pitch: int) -> None:
    px = builder.px
    every = next(
        n for n in (1, 2, 4, 8, 16, 32, 64, 1 << 30) if n * pitch >= px(22) or n > len(blocks)
    )
    for row, block in enumerate(blocks):
        if row % every == 0:
            number = str(heads.indices[block][0])
            builder.text(
                number,
                box.x - px(7),
                box.y + row * pitch + pitch / 2,
                15,
                align="right",
                baseline="center",
            )
    every = next(
        n for n in (1, 2, 4, 8, 16, 32, 64, 1 << 30) if n * pitch >= px(34) or n > heads.columns
    )
    for column, head in list(enumerate(heads.numbers or ()))[::every]:
        builder.text(
            str(head), box.x + column * pitch + pitch / 2, box.y - px(8), 15, align="center"
        )


def place_zooms(
    builder: PlanBuilder, heads: Heads, ranked: Sequence[tuple[int, int]], n: int | None, area: Box
) -> int:
    """The first ``n`` heads of ``ranked``, (row, column) of each, large, in ``area``, None: as many
    as fit well; a title stands above it.

    Returns the bottom of the lowest one.
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
    if any(event.kind == "role" for event in builder.story.events):
        title = "Heads with a role, then those that changed most"
    builder.heading(title, area.x, area.y - px(32), area.width, *heads.axes(pool))
    down = -(-n // across)
    between = gap + _shared(area.width - across * (map_px + gap) + gap, across - 1, px(90))
    under = gap + _shared(
        area.height - down * (map_px + gap + caption) + gap + caption, down - 1, px(44)
    )
    shown = [(*heads.indices[row], heads.blocks[row], column) for row, column in sorted(ranked[:n])]
    mask = heads.mask(-(-heads.length // pool))
    bottom = area.y
    for index, (block, numbers, sources, column) in enumerate(shown):
        x = 2 * ((area.x + 1) // 2) + index % across * (map_px + between)
        y = 2 * ((area.y + 1) // 2) + index // across * (map_px + under + caption) // 2 * 2
        builder.text(f"L{block}H{numbers[column]}", x, y - px(8), _CAPTION)
        name = f"zoom · block {block} head {numbers[column]}"
        head = (block, numbers[column])
        box = Box(x, y, map_px, map_px)
        builder.heatmaps.append(
            Heatmap(name, replace(sources[column], pool=pool), box, heads.scale, mask, head=head)
        )
        bottom = y + map_px
    return bottom


def _shared(spare: int, n_gaps: int, most: int) -> int:
    """What each of ``n_gaps`` gaps gets of the spare pixels, an even number."""
    return min(max(0, spare) // n_gaps, most) // 2 * 2 if n_gaps else 0


def _fit_zooms(
    numbers: range, length: int, area: Box, gap: int, caption: int, narrowest: int
) -> tuple[int, int, int, int]:
    """(n, across, map_px, pool) of those of ``numbers`` that fill most of ``area``; large maps
    count a little more.

    ``narrowest``: what the captions above two maps side by side leave as the least distance between
    them.
    """
    best: tuple[float, int, int, int, int] = (0.0, numbers[0], 1, 0, 1)
    for n in numbers:
        for across in range(1, n + 1):
            down = -(-n // across)
            room = min(
                (area.width - (across - 1) * gap) // across,
                (area.height + caption + gap) // down - caption - gap,
            )
            if room >= 2 and (area.width + gap) // across >= narrowest:
                pool, cell_px = fit_map(length, room)
                map_px = -(-length // pool) * cell_px
                best = max(
                    best,
                    (map_px * map_px * n**0.8 * (n / (across * down)), n, across, map_px, pool),
                )
    return best[1:]
