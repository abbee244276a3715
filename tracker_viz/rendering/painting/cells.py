"""Paint cells by a table of colors, on a canvas that a thread uses for one frame after the
other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.plan import Box, Heatmap, Plan
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.text import blend
from tracker_viz.rendering.theme import rgb

_HIDDEN = 1 << 16
_WIDEST = 16  # pixels: the table of wider cells would no longer stay in the processor's caches


@dataclass(frozen=True, slots=True)
class CellMap:
    """Which cell each pixel of a box shows.

    Attributes:
        cells: int32 [height, width], row * columns + column; -1 where the pixel never changes.
        replication: (pixels per row, pixels per column) when every cell is the same whole block of
            pixels, else None.
        blended: some pixel mixes a cell with something else: painting cannot be exact.
    """

    cells: NDArray[np.int32]
    replication: tuple[int, int] | None
    blended: bool


class ColorTable:
    """The color of every float16 on one scale, and at the end that of a cell which a mask hides:
    ``colors``, uint8 [65537, 3]."""

    def __init__(self, scale: ColorScale, hidden: str) -> None:
        self.colors = np.concatenate([scale.table(), np.array([rgb(hidden)], np.uint8)])
        self._wide: dict[int, NDArray[np.uint8]] = {}

    def row_of_cells(self, places: NDArray[np.intp], across: int) -> NDArray[np.uint8]:
        """Return the pixels of cells ``across`` pixels wide: uint8 [rows, columns * across, 3].

        ``places``: [rows, columns] into ``colors``.
        """
        if across > _WIDEST:
            return self.colors.take(places, axis=0).repeat(across, axis=1)
        wide = self._wide.get(across)
        if wide is None:  # threads may make it twice, and both are the same
            wide = self._wide[across] = np.tile(self.colors, (1, across))
        return wide.take(places, axis=0).reshape(places.shape[0], -1, 3)


def color_tables(plan: Plan) -> dict[str, ColorTable]:
    """Return the colors of each scale by its key in the plan."""
    return {key: ColorTable(scale, plan.theme.panel) for key, scale in plan.scales.items()}


def paint(
    pixels: NDArray[np.uint8],
    heatmap: Heatmap,
    cell_map: CellMap,
    table: ColorTable,
    values: NDArray[np.float16],
) -> None:
    """Fill one box of ``pixels`` (uint8 [height, width, 3]) with the colors of ``values`` (float16
    [rows, columns])."""
    box = heatmap.box
    places = np.ascontiguousarray(values).view(np.uint16).astype(np.intp)
    if heatmap.mask is not None:
        places[heatmap.mask] = _HIDDEN  # four times as fast as to overwrite their colors
    view = pixels[box.area]
    if cell_map.replication is None:
        shown = cell_map.cells >= 0
        view[shown] = table.colors.take(places.reshape(-1)[cell_map.cells[shown]], axis=0)
        return
    down, across = cell_map.replication
    rows = table.row_of_cells(places, across)
    view.reshape(len(rows), down, box.width, 3)[...] = rows[:, None]


def frame_around(box: Box, line_px: int) -> tuple[tuple[slice, slice], ...]:
    """Return the rows and columns of the four sides of a frame, one pixel away from ``box``."""
    left, right = box.x - line_px - 1, box.right + line_px + 1
    top, bottom = box.y - line_px - 1, box.bottom + line_px + 1
    return (
        (slice(top, top + line_px), slice(left, right)),
        (slice(bottom - line_px, bottom), slice(left, right)),
        (slice(top, bottom), slice(left, left + line_px)),
        (slice(top, bottom), slice(right - line_px, right)),
    )


def dash_in(box: Box, unit: float) -> tuple[slice, slice]:
    """Return the rows and columns of a dash in the middle of ``box``, which stands for no value."""
    half, thick = max(2, min(round(12 * unit), box.width // 6)), max(1, round(3 * unit))
    x, y = box.x + box.width // 2, box.y + (box.height - thick) // 2
    return slice(y, y + thick), slice(x - half, x + half)


def dashed(sides: tuple[tuple[slice, slice], ...], dash_px: int) -> list[tuple[slice, slice]]:
    """Cut the sides of a frame into dashes, as far from each other as they are long."""
    dashes = []
    for rows, columns in sides:
        is_flat = columns.stop - columns.start > rows.stop - rows.start
        along = columns if is_flat else rows
        for start in range(along.start, along.stop, 2 * dash_px):
            piece = slice(start, min(start + dash_px, along.stop))
            dashes.append((rows, piece) if is_flat else (piece, columns))
    return dashes


@dataclass(frozen=True, slots=True)
class Border:
    """The border around a box; without a color there is none."""

    color: str = ""
    line_px: int = 0
    is_dashed: bool = False

    def places(self, box: Box) -> Sequence[tuple[slice, slice]]:
        """Return rows and columns of its pixels around ``box``."""
        if not self.color:
            return ()
        sides = frame_around(box, self.line_px)
        return dashed(sides, 3 * self.line_px) if self.is_dashed else sides


NO_BORDER = Border()


class Canvas:
    """Holds the pixels of one frame after the other, uint8 [height, width, 3], and remembers what
    the last frame left on them.

    Every frame paints over all cells of its maps; the rest of the background need not be copied
    again.

    Attributes:
        borders: heatmap name -> the border around it.
        playhead: column of the timeline's playhead; None before the first frame.
    """

    def __init__(self, background: NDArray[np.uint8]) -> None:
        self.pixels, self.background = background.copy(), background
        self.borders: dict[str, Border] = {}
        self.playhead: int | None = None
        self._written: list[tuple[slice, slice]] = []

    def at(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """Return a view of pixels outside the maps, to paint what changes with every frame."""
        self._written.append((rows, columns))
        return self.pixels[rows, columns]

    def clear(self) -> None:
        """Undo what was painted by ``at``."""
        for place in self._written:
            self.pixels[place] = self.background[place]
        self._written.clear()


def paint_dot(
    pixels: NDArray[np.uint8],
    x: float,
    y: float,
    radius: float,
    rim: tuple[int, int, int],
    fill: tuple[int, int, int],
) -> None:
    """Paint a dot with soft edges, and a rim of another color."""
    reach = int(radius) + 2
    left, top = round(x) - reach, round(y) - reach
    rows, columns = np.ogrid[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
    distance = np.hypot(rows - y, columns - x).astype(np.float32)
    for size, color in ((radius, rim), (radius - 2.0 * radius / 8.0, fill)):
        blend(pixels, np.clip(size + 0.5 - distance, 0.0, 1.0), left, top, color)
