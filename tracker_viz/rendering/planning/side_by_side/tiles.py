"""Fit the runs of a comparison into a picture: how many stand side by side, and how many heads of
each, all of one size.

Where every head of every run can be shown at a size that still tells something, all are; else each
run shows its first few.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.grid import fit_map
from tracker_viz.rendering.planning.plan_builder import PlanBuilder, next_even
from tracker_viz.rendering.subject import RunTrack
from tracker_viz.types import HeadId

_LEAST_PX = 56.0  # at 1080p: smaller maps of all heads tell less than larger ones of some
_WANTED_PX = 64.0
_CHOSEN = (48, 40, 32, 24, 16, 12, 10, 8, 6, 5, 4, 3, 2, 1)
_LABEL, _BESIDE, _BLOCK_LABEL, _CAPTION, _COLUMN_LABEL = 34, 240, 34, 27, 24
_GAPS, _GAPS_OF_MANY = (40, 12), (24, 8)  # across, down
MANY_RUNS = 30  # from here on every line of pixels counts
# A run's name may be set so much smaller before it is cut off: that of few runs is read in a small
# player, too.
_LEAST_NAME, _LEAST_NAME_OF_MANY = 0.77, 0.58


@dataclass(frozen=True, slots=True)
class Tiling:
    """Sizes and places of maps and tiles, the same for all runs.

    Attributes:
        across, down: tiles side by side and below each other.
        tile: width and height of a tile in pixels, gaps left out.
        beside: a run's name stands at the left of its maps, not above them.
        all_heads: one row of maps per block, ``groups`` of them side by side; else the first ``rows
            * columns`` of the ranking.
        rows, columns: maps below each other, and side by side in one group.
        captioned: every map says which head it is, because the columns do not: above it, or, where
            all heads are shown, in its corner, to which attention never looks.
    """

    across: int
    down: int
    tile: tuple[int, int]
    beside: bool
    all_heads: bool
    rows: int
    columns: int
    groups: int
    map_px: int
    pool: int
    gap: int
    captioned: bool

    @property
    def n_maps(self) -> int:
        return self.rows * self.columns * self.groups


@dataclass(frozen=True, slots=True)
class Slot:
    """One map of a run.

    Attributes:
        starts_row, heads_column: it stands at the left end of a row, or above all maps of its
            column, within all groups.
    """

    box: Box
    head: HeadId
    starts_row: bool
    heads_column: bool


def fit_tiles(builder: PlanBuilder, area: Box, *, length: int, name_px: int) -> Tiling:
    """Return the tiling with the largest maps of all heads, or, where those are too small, of as
    many heads as stay legible.

    Args:
        length: tokens of the probe.
        name_px: how wide a tile must be for its run's name and numbers to stand above the maps.

    Raises:
        LayoutError: not even one head of each run fits.
    """
    runs = builder.subject.runs
    n_blocks = max(len(run.order) for run in runs)
    n_heads = max(len(heads) for run in runs for heads in run.order.values())
    sheets = _sheets_of_all(n_blocks, n_heads, captioned=builder.subject.is_matched)
    whole = _largest(builder, sheets, len(runs), length, area, name_px)
    if whole and whole.map_px >= min(_LEAST_PX * builder.unit, 2.0 * length):
        return _without_spare(builder, whole)
    best, best_worth = whole, 0.0
    wanted = min(_WANTED_PX * builder.unit, 2.0 * length)
    # As many as every run has, but for a few: else those that have fewer would leave gaps.
    n_of_each = [len(run.ranking) - run.ranking.count(None) for run in runs]
    most = max(min(n_of_each), min(4, max(n_of_each)))
    for n in _CHOSEN:
        if n > most:
            continue
        few = _largest(builder, _sheets_of_some(n), len(runs), length, area, name_px)
        if few is None:
            continue
        # One head at a good size is worth more than many that cannot be read, four good ones are
        # worth more than one.
        worth = min(1.0, few.map_px / wanted) ** 2.5 * n**0.35
        if worth > best_worth:
            best, best_worth = few, worth
    if best is None or best.map_px < 8:
        raise LayoutError(
            f"{len(runs)} runs do not fit into {builder.width}x{builder.height} pixels; choose a "
            "larger size (video.size=4k) or fewer runs"
        )
    return _without_spare(builder, best)


def _without_spare(builder: PlanBuilder, tiling: Tiling) -> Tiling:
    """Return ``tiling`` with tiles no higher than what stands in them."""
    if tiling.beside:  # a run's name may need more lines than its maps
        return tiling
    _, top = maps_origin(builder, tiling, Box(0, 0, 0, 0))
    pitch = tiling.map_px + tiling.gap + _caption_px(builder, tiling)
    width, _ = tiling.tile
    return replace(tiling, tile=(width, top + (tiling.rows - 1) * pitch + tiling.map_px))


def least_name(n_runs: int) -> float:
    """Return the smallest size of a run's name, as a part of its usual one."""
    return _LEAST_NAME_OF_MANY if n_runs >= MANY_RUNS else _LEAST_NAME


def slots(builder: PlanBuilder, tiling: Tiling, run: RunTrack, tile: Box) -> Iterator[Slot]:
    """Yield the places of the heads of ``run`` in its ``tile``."""
    x0, y0 = maps_origin(builder, tiling, tile)
    pitch_y = tiling.map_px + tiling.gap + _caption_px(builder, tiling)
    pitch_x, group_width = tiling.map_px + tiling.gap, _group_width(builder, tiling)
    for number, head in _places(tiling, run):
        group, rest = divmod(number, tiling.rows * tiling.columns)
        row, column = divmod(rest, tiling.columns)
        x, y = x0 + group * group_width + column * pitch_x, y0 + row * pitch_y
        yield Slot(Box(x, y, tiling.map_px, tiling.map_px), head, column == 0, row == 0)


def tile_box(tiling: Tiling, index: int, area: Box) -> Box:
    """Return the room of the run at ``index``: from left to right, then downwards."""
    down, across = divmod(index, tiling.across)
    width, height = tiling.tile
    pitch_x = (area.width - width) // max(1, tiling.across - 1)
    # What is left stays below the last row, not between the rows.
    pitch_y = min((area.height - height) // max(1, tiling.down - 1), round(1.12 * height))
    return Box(area.x + across * pitch_x, area.y + down * pitch_y, width, height)


def maps_origin(builder: PlanBuilder, tiling: Tiling, tile: Box) -> tuple[int, int]:
    """Return the left upper corner of a tile's first map; even, as video wants it."""
    x, y = tile.x, tile.y
    if tiling.beside:
        x += builder.px(_BESIDE)
    else:
        y += builder.px(_LABEL)
    if tiling.all_heads:
        x += builder.px(_BLOCK_LABEL)
    y += _caption_px(builder, tiling) or builder.px(_COLUMN_LABEL)
    return next_even(x), next_even(y)


def _places(tiling: Tiling, run: RunTrack) -> Iterator[tuple[int, HeadId]]:
    """Yield (number of the slot, head) for the heads that are there."""
    if not tiling.all_heads:
        for number, head in enumerate(run.ranking[: tiling.n_maps]):
            if head is not None:
                yield number, head
        return
    for position, (block, heads) in enumerate(sorted(run.order.items())):
        for column, number_in_block in enumerate(heads):
            if number_in_block is not None:
                yield position * tiling.columns + column, (block, number_in_block)


def _sheets_of_all(n_blocks: int, n_heads: int, *, captioned: bool) -> Iterator[Tiling]:
    for groups in range(1, n_blocks + 1):
        rows = -(-n_blocks // groups)
        if -(-n_blocks // rows) == groups:
            yield Tiling(1, 1, (0, 0), False, True, rows, n_heads, groups, 0, 1, 0, captioned)


def _sheets_of_some(n: int) -> Iterator[Tiling]:
    for columns in range(1, n + 1):
        if n % columns == 0:
            yield Tiling(1, 1, (0, 0), False, False, n // columns, columns, 1, 0, 1, 0, True)


def _largest(
    builder: PlanBuilder,
    sheets: Iterator[Tiling],
    n_runs: int,
    length: int,
    area: Box,
    name_px: int,
) -> Tiling | None:
    """Return the tiling with the largest maps, of all sheets of maps and all ways to place them."""
    best: Tiling | None = None
    best_worth = 0.0
    tile_sizes = list(_tile_sizes(builder, n_runs, area))
    for sheet in sheets:
        for across, down, tile in tile_sizes:
            for beside, gap in ((False, 10), (False, 6), (True, 10), (True, 6)):
                tiling = replace(
                    sheet, across=across, down=down, tile=tile, beside=beside, gap=builder.even(gap)
                )
                tiling = _fitted(builder, tiling, length)
                worth = _worth(tiling, n_runs, name_px)
                if worth > best_worth:
                    best, best_worth = tiling, worth
    return best


def _tile_sizes(
    builder: PlanBuilder, n_runs: int, area: Box
) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Yield (tiles across, tiles down, (width, height) of each) of the ways to fill ``area``."""
    across_gap, down_gap = map(builder.px, _GAPS_OF_MANY if n_runs >= MANY_RUNS else _GAPS)
    for across in range(1, n_runs + 1):
        down = -(-n_runs // across)
        width = (area.width - (across - 1) * across_gap) // across
        height = (area.height - (down - 1) * down_gap) // down
        if -(-n_runs // down) == across and min(width, height) >= 1:
            yield across, down, (width, height)


def _worth(tiling: Tiling, n_runs: int, name_px: int) -> float:
    """Return how well the maps can be read, and told apart by the names of their runs."""
    worth = float(tiling.map_px)
    # Whole rows of tiles, and blocks in one column or in one row, are easier to read.
    if n_runs % tiling.across:
        worth *= 0.94
    if 1 not in (tiling.groups, tiling.rows):
        worth *= 0.9
    if tiling.beside:
        worth *= 0.93  # leaves less room for the roles over time
    else:
        # A smaller name is no loss, but one that is cut off tells nothing apart.
        width = tiling.tile[0]
        worth *= (
            min(1.0, width / name_px) ** 0.25
            * min(1.0, width / (least_name(n_runs) * name_px)) ** 2
        )
    return worth


def _fitted(builder: PlanBuilder, tiling: Tiling, length: int) -> Tiling:
    """Return ``tiling`` with the largest maps that its tile holds; ``map_px`` 0 where none fits."""
    x, y = maps_origin(builder, tiling, Box(0, 0, 0, 0))
    labels = (tiling.groups - 1) * builder.px(_BLOCK_LABEL)
    caption = _caption_px(builder, tiling)
    n_columns = tiling.columns * tiling.groups
    wide = (tiling.tile[0] - x - labels + tiling.gap) // n_columns - tiling.gap
    rows_px = tiling.tile[1] - y + tiling.gap - (tiling.rows - 1) * caption
    high = rows_px // tiling.rows - tiling.gap
    room = min(wide, high)
    if room < 1:
        return tiling
    pool, cell_px = fit_map(length, room)
    return replace(tiling, map_px=-(-length // pool) * cell_px, pool=pool)


def _caption_px(builder: PlanBuilder, tiling: Tiling) -> int:
    """Return the pixels above every map for its caption."""
    if tiling.captioned and not tiling.all_heads:
        return builder.even(_CAPTION)
    return 0


def _group_width(builder: PlanBuilder, tiling: Tiling) -> int:
    maps_px = tiling.columns * (tiling.map_px + tiling.gap)
    return next_even(maps_px + builder.px(_BLOCK_LABEL))
