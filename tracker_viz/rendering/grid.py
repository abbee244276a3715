"""Places attention and weight maps in rows, one per block: all maps of a picture have the same height.

Few blocks make one group of rows; where that would leave them small, the blocks are wrapped into groups side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracker_viz.rendering.content import Heads, Matrices, add_weight_scale, matrix_title, weight_source
from tracker_viz.rendering.draft import Draft
from tracker_viz.rendering.plan import Box, Heatmap

_NAME = 18.0  # of rows and columns
LEAST_MAP_PX = 44  # at 1080p; where maps of heads would be smaller, a mosaic with zooms tells more


def least_matrix_px(draft: Draft) -> int:
    """Where maps of matrices would be smaller, six cells of two pixels, one map of how much each changed tells more."""
    return max(12, draft.px(12))


@dataclass(frozen=True)
class GridShape:
    """``groups`` groups of ``rows`` blocks; maps ``map_px`` high, matrices ``wide_px`` wide; attention is pooled by ``pool``."""

    groups: int
    rows: int
    map_px: int
    wide_px: int
    pool: int
    gap: int


def fit_grid(draft: Draft, heads: Sequence[Heads], matrices: Sequence[Matrices], area: Box, keep_right: int = 0) -> GridShape:
    """The shape with the largest maps in ``area``, less ``keep_right`` pixels of its width; map_px is 0 when not one pixel a map fits."""
    panels: list[Heads | Matrices] = [*heads, *matrices]
    n_blocks = max(len(panel.blocks) for panel in panels)
    n_matrices = sum(panel.columns for panel in matrices)
    # Beside attention, whose maps are square, weights may be half as wide as they are high.
    n_columns = sum(panel.columns for panel in heads) + (0.5 if heads else 1.0) * n_matrices
    n_gaps = sum(panel.columns - 1 for panel in panels)
    length = max((group.length for group in heads), default=0)
    best, best_worth = GridShape(1, n_blocks, 0, 0, 1, 0), 0.0
    for groups in range(1, min(n_blocks, 8) + 1):
        rows = -(-n_blocks // groups)
        if -(-n_blocks // rows) != groups:
            continue
        around = _around(draft, groups, len(panels)) + keep_right
        for gap in (draft.even(10), draft.even(6)):
            free = area.width - around - groups * n_gaps * gap
            room = min(int(free / (groups * n_columns)), (area.height - (rows - 1) * gap) // rows)
            pool, cell_px = fit_map(length, room) if length and room > 0 else (1, 0)
            map_px = -(-length // pool) * cell_px if length else max(0, room // 2 * 2)
            # A wrapped grid is harder to read, and narrow gaps tell maps apart less well.
            worth = map_px * (1.0 if groups == 1 else 0.72) * (1.0 if gap > draft.even(6) or map_px < 56 * draft.unit else 0.93)
            if worth > best_worth:
                spare = free - groups * (sum(panel.columns for panel in heads) + n_matrices) * map_px
                widen = min(spare // (groups * n_matrices), map_px * (6 if keep_right else 16) // 10) // 2 * 2 if n_matrices else 0
                best, best_worth = GridShape(groups, rows, map_px, map_px + widen, pool, gap), worth
    return best


def _around(draft: Draft, groups: int, n_panels: int) -> int:
    """Pixels of the width that go to the names of blocks, and to what keeps the parts apart."""
    n_labels = 1 if groups == 1 else groups * n_panels
    return n_labels * _label_width(draft, groups) + (groups * n_panels - 1) * _section_gap(draft)


def fit_map(length: int, room_px: int) -> tuple[int, int]:
    """(pool, cell_px) of a map of ``length`` x ``length`` entries in ``room_px`` pixels: whole cells, even ones where that costs little.

    Chroma in video has half the resolution: cells of an even number of pixels keep their colours exactly.
    """
    best, best_worth = (max(1, length), 1), -1.0
    for pooling in range(1, length + 1):
        cells = -(-length // pooling)
        for size in (room_px // cells, room_px // cells - 1):
            if size < 1:
                continue
            worth = cells * size * (1.0 if size % 2 == 0 else 0.84 if size > 1 else 0.7)
            worth *= (cells / length) ** 0.35 * (1.0 if length % pooling == 0 else 0.95)
            if worth > best_worth:
                best, best_worth = (pooling, size), worth
    return best


def place_grid(
    draft: Draft, heads: Sequence[Heads], matrices: Sequence[Matrices], area: Box, shape: GridShape, keep_right: int = 0
) -> tuple[int, int]:
    """Place everything in ``area``, whose last ``keep_right`` pixels stay free. Returns (right, bottom) of what was placed."""
    panels: list[Heads | Matrices] = [*heads, *matrices]
    n_blocks = max(len(panel.blocks) for panel in panels)
    section, label = _section_gap(draft), _label_width(draft, shape.groups)
    widths = [_panel_width(panel, shape) for panel in panels]
    if not keep_right:  # nothing stands at the right: share the room between the sections
        spare = area.width - _around(draft, shape.groups, len(panels)) - shape.groups * sum(widths)
        section += min(max(0, spare) // (shape.groups * len(panels)), draft.px(160))
    x = area.x
    for number, (panel, width) in enumerate(zip(panels, widths, strict=True)):
        for group in range(shape.groups):
            blocks = range(group * shape.rows, min(n_blocks, (group + 1) * shape.rows))
            if number == 0 or shape.groups > 1:
                x += label
                _row_labels(draft, blocks, x, area.y, shape)
            if group == 0:
                _title(draft, panel, x, area.y, shape.groups * (width + section + label) - section // 2 - label)
            place = _place_heads if isinstance(panel, Heads) else _place_matrices
            x = place(draft, panel, blocks, x, area.y, shape) + section  # type: ignore[arg-type]
    for weights in matrices:
        add_weight_scale(draft, weights)
    return x - section, area.y + shape.rows * (shape.map_px + shape.gap) - shape.gap


def _panel_width(panel: Heads | Matrices, shape: GridShape) -> int:
    each = shape.map_px if isinstance(panel, Heads) else shape.wide_px
    return panel.columns * (each + shape.gap) - shape.gap


def _label_width(draft: Draft, groups: int) -> int:
    return draft.px(46 if draft.is_narrow or groups > 1 else 72)


def _section_gap(draft: Draft) -> int:
    return draft.px(20 if draft.is_narrow else 44)


def _row_labels(draft: Draft, blocks: range, x: int, top: int, shape: GridShape) -> None:
    pitch = shape.map_px + shape.gap
    every = max(1, -(-draft.px(20) // pitch))
    for row, block in enumerate(blocks):
        if row % every == 0:
            text = str(block) if draft.is_narrow or shape.groups > 1 else f"block {block}"
            draft.text(text, x - draft.px(14), top + row * pitch + shape.map_px / 2, _NAME, align="right", baseline="center")


def _title(draft: Draft, panel: Heads | Matrices, x: int, top: int, room: int) -> None:
    draft.heading(panel.title, x, top - draft.px(32), room, *panel.axes)


def _column_names(draft: Draft, names: Sequence[str], short: Sequence[str], x: int, top: int, wide: int, pitch: int) -> None:
    texts = names if all(draft.text_width(name, _NAME) < pitch - draft.px(6) for name in names) else short
    every = max(1, -(-max(draft.text_width(text, _NAME) for text in texts) // max(1, pitch - draft.px(4))))
    for column, text in enumerate(texts):
        if column % every == 0:
            draft.text(text, x + column * pitch + wide / 2, top - draft.px(8), _NAME, align="center")


def _place_heads(draft: Draft, group: Heads, blocks: range, x: int, top: int, shape: GridShape) -> int:
    x = 2 * ((x + 1) // 2)
    pitch = shape.map_px + shape.gap
    columns = range(group.columns)
    _column_names(draft, [f"head {head}" for head in columns], [str(head) for head in columns], x, top, shape.map_px, pitch)
    mask = group.mask(-(-group.length // shape.pool))
    for row, position in enumerate(blocks):
        if position >= len(group.blocks):
            continue
        block, numbers = group.indices[position]
        for column, source in enumerate(group.blocks[position]):
            box = Box(x + column * pitch, top + row * pitch, shape.map_px, shape.map_px)
            name = f"{group.title} · block {block} head {numbers[column]}"
            draft.heatmaps.append(Heatmap(name, replace(source, pool=shape.pool), box, group.scale, mask, head=(block, numbers[column])))
    return x + group.columns * pitch - shape.gap


def _place_matrices(draft: Draft, group: Matrices, blocks: range, x: int, top: int, shape: GridShape) -> int:
    x = 2 * ((x + 1) // 2)
    wide, pitch = shape.wide_px, shape.wide_px + shape.gap
    short = [kind.rsplit(".", 1)[-1].removeprefix("w_") for kind in group.kinds]
    _column_names(draft, [matrix_title(kind) for kind in group.kinds], short, x, top, wide, pitch)
    names = [name for position in blocks if position < len(group.blocks) for name in group.blocks[position].values()]
    ends = [draft.series.read(index, names) for index in (0, len(draft.series) - 1)]
    for row, position in enumerate(blocks):
        for column, kind in enumerate(group.kinds):
            name = group.blocks[position].get(kind) if position < len(group.blocks) else None
            if name is None:
                continue
            rows, columns = draft.series.require(name, draft.layout.name).shape
            room = Box(x + column * pitch, top + row * (shape.map_px + shape.gap), wide, shape.map_px)
            box, cells = fit_matrix(draft, (rows, columns), room)
            source = weight_source(draft, group.panel, name, cells, (ends[0][name], ends[1][name]))
            draft.heatmaps.append(Heatmap(f"{group.title} · {name}", source, box, group.scale))
    return x + len(group.kinds) * pitch - shape.gap


def fit_matrix(draft: Draft, shape: tuple[int, int], room: Box) -> tuple[Box, tuple[int, int]]:
    """(box, cells) of a matrix in ``room``: cells of an even number of pixels, as small as still shows, all of them whole."""
    # About 32 cells a side: fewer hide structure, more show the noise of single weights.
    least = max(2, 2 * round(min(room.width, room.height) / 32 / 2))
    (rows, high), (columns, wide) = (
        (min(length, space // cell_px), cell_px)
        for length, space in zip(shape, (room.height, room.width), strict=True)
        for cell_px in [max(least, 2 * (space // length // 2))]
    )
    return Box(room.x, room.y, max(1, columns) * wide, max(1, rows) * high), (max(1, rows), max(1, columns))
