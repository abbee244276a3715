"""Let seaborn draw a plan: once, to learn which pixel belongs to which cell, or in full, which is
the reference that the painter must equal.

The painter fills cells without seaborn. To know where they are, every cell is drawn twice in a
color that is a code: its number, and that number's complement. A pixel whose two colors
complement each other belongs to that cell; one that is equal in both is background; anything else
is blended (a title over a map, say), and its box is left to a full redraw.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import LayoutError
from tracker_viz.rendering import kept
from tracker_viz.rendering.backend import figure_pixels
from tracker_viz.rendering.painting.cells import CellMap
from tracker_viz.rendering.painting.figure import build_figure
from tracker_viz.rendering.painting.timeline import brighten_timeline
from tracker_viz.rendering.plan import Heatmap, Plan
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.theme import fixed_style, letters_without_glyph, rgb

_KIND = "boxes"
# parts of a plan that are painted on each frame
_PAINTED = ("run_roles", "readouts", "mark", "caption", "story", "ribbons", "graph", "words")


@dataclass(frozen=True, slots=True)
class Template:
    """The parts of a picture that stay the same in every frame.

    Attributes:
        background: uint8 [height, width, 3], without any cell.
        played: the same with the timeline bright, as it is left of the playhead.
        cell_maps: heatmap name -> the cell that each of its pixels shows.
    """

    background: NDArray[np.uint8]
    played: NDArray[np.uint8]
    cell_maps: Mapping[str, CellMap]


def make_template(plan: Plan) -> Template:
    """Draw all of the plan but its cells, and find out where seaborn draws those: from the cache,
    if it drew boxes of the same places and shapes before, else by letting it draw them.

    Raises:
        LayoutError: there are 2**24 cells or more, or a map reaches beyond its box.
    """
    boxes = _recalled(plan)
    if boxes is None:
        boxes = _learned(plan)
        kept.keep(_KIND, _places(plan), _packed(boxes))
    background, played = _around_the_maps(plan)
    for heatmap in plan.heatmaps:  # in order: a later box covers an earlier one, as in the figure
        for pixels in (background, played):
            pixels[heatmap.box.area] = boxes.pixels[heatmap.box.area]
    return Template(background, played, boxes.cell_maps)


def seaborn_pixels(plan: Plan, values: Mapping[str, NDArray[np.float16]]) -> NDArray[np.uint8]:
    """Draw the whole plan by seaborn with these values: uint8 [height, width, 3]. Slow; the
    reference for the painter."""
    with fixed_style():
        return figure_pixels(build_figure(plan, values)[0])


def words_alone(plan: Plan) -> NDArray[np.uint8]:
    """Draw a plan without its maps: uint8 [height, width, 3], writable."""
    return _around_the_maps(plan)[0].copy()


@dataclass(frozen=True, slots=True)
class _Boxes:
    """The cells that seaborn draws into the boxes of a plan, whatever values they show: ``pixels``,
    uint8 [height, width, 3], as the background of a Template has them; black elsewhere."""

    pixels: NDArray[np.uint8]
    cell_maps: Mapping[str, CellMap]


def _learned(plan: Plan) -> _Boxes:
    """Let seaborn draw codes in the place of values, and read off which pixel shows which cell."""
    first_numbers = _number_cells(plan)
    # Any color map will do, because codes replace the colors: one of matplotlib's own.
    neutral = dict.fromkeys(plan.scales, ColorScale("", "gray", 0.0, 1.0))
    only_maps = replace(plan, scales=neutral, labels=(), swatches=(), bars=(), timeline=None)
    with fixed_style():
        figure, meshes = build_figure(only_maps, {})
        shown = {name: _remove_values(mesh) for name, mesh in meshes.items()}
        codes = _draw_codes(figure, meshes, shown, first_numbers, 0)
        complements = _draw_codes(figure, meshes, shown, first_numbers, 0xFFFFFF)

    numbers = _numbers(codes).astype(np.int64)
    is_cell = numbers ^ _numbers(complements) == 0xFFFFFF
    is_blended = ~is_cell & (codes != complements).any(2)
    pixels = np.zeros_like(codes)
    outside = (codes != rgb(plan.theme.ground)).any(2)
    cell_maps = {}
    for heatmap in plan.heatmaps:
        area = heatmap.box.area
        first = first_numbers[heatmap.name]
        cells = np.where(is_cell[area], numbers[area] - first, -1).astype(np.int32)
        rows, columns = heatmap.source.shape
        is_of_another = (cells >= rows * columns) | (cells < -1)
        blended = bool((is_blended[area] | is_of_another).any())
        cell_maps[heatmap.name] = CellMap(cells, _replication(cells, heatmap), blended)
        pixels[area] = np.where(is_cell[area][..., None], 0, codes[area])
        outside[area] = False
    if outside.any():
        y, x = np.argwhere(outside)[0]
        raise LayoutError(
            f"layout {plan.layout!r}: a map reaches beyond its box at pixel ({x}, {y}); boxes must "
            "lie inside the picture"
        )
    return _Boxes(pixels, cell_maps)


def _number_cells(plan: Plan) -> dict[str, int]:
    """Return the number of each map's first cell, from 1 on: cells are told apart by 24-bit
    colors.

    Raises:
        LayoutError: there are too many.
    """
    first_numbers, number = {}, 1
    for heatmap in plan.heatmaps:
        first_numbers[heatmap.name] = number
        rows, columns = heatmap.source.shape
        number += rows * columns
    if number >= 1 << 24:
        raise LayoutError(
            f"{number:,} cells in one picture; at most {(1 << 24) - 1:,} can be told apart: pool "
            "more, or show fewer heads"
        )
    return first_numbers


def _remove_values(mesh: Any) -> NDArray[np.bool_]:
    """Let a mesh take a color for each cell instead of values; return which cells it shows."""
    shown = ~np.ma.getmaskarray(np.ma.masked_invalid(mesh.get_array())).reshape(-1)
    mesh.set_array(None)
    return np.asarray(shown)


def _draw_codes(
    figure: Any,
    meshes: Mapping[str, Any],
    shown: Mapping[str, NDArray[np.bool_]],
    first_numbers: Mapping[str, int],
    flipped: int,
) -> NDArray[np.uint8]:
    """Draw each cell in the color that is its number, with the bits ``flipped``."""
    for name, mesh in meshes.items():
        n_cells = shown[name].size
        numbers = np.arange(first_numbers[name], first_numbers[name] + n_cells) ^ flipped
        channels = [numbers >> 16 & 255, numbers >> 8 & 255, numbers & 255]
        colors = np.stack([*channels, np.full(n_cells, 255)], 1) / 255.0
        colors[~shown[name]] = 0.0  # and transparent
        mesh.set_facecolor(colors)
    return figure_pixels(figure)


def _numbers(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the number that each pixel's color is: uint32 [height, width]."""
    wide = pixels.astype(np.uint32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], np.uint32)


def _replication(cells: NDArray[np.int32], heatmap: Heatmap) -> tuple[int, int] | None:
    rows, columns = heatmap.source.shape
    height, width = cells.shape
    down, across = height // rows, width // columns
    is_whole = np.array_equal(cells, _whole_cells(heatmap, down, across))
    return (down, across) if is_whole else None


def _whole_cells(heatmap: Heatmap, down: int, across: int) -> NDArray[np.int32]:
    """Return ``CellMap.cells`` in which each cell is a block of ``down`` x ``across`` pixels."""
    rows, columns = heatmap.source.shape
    cells = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    if heatmap.mask is not None:
        cells[heatmap.mask] = -1
    return cells.repeat(down, 0).repeat(across, 1)


def _places(plan: Plan) -> str:
    """Return a cache key: equal for plans whose boxes seaborn draws alike. A run's name, its values
    and its colors do not count."""
    boxes = []
    for heatmap in plan.heatmaps:
        mask = None
        if heatmap.mask is not None:
            mask = sha256(heatmap.mask.tobytes()).hexdigest()
        shape, box = heatmap.source.shape, heatmap.box
        boxes.append((shape, box, mask, heatmap.line_px, heatmap.line_color))
    return repr((plan.width, plan.height, plan.theme.ground, plan.theme.panel, boxes))


def _packed(boxes: _Boxes) -> dict[str, NDArray[Any]]:
    """Return the boxes as arrays for the cache. Cells that are whole blocks of pixels are left out:
    they follow from their number and their mask."""
    cell_maps = list(boxes.cell_maps.values())
    arrays: dict[str, NDArray[Any]] = {
        "pixels": boxes.pixels,
        "blended": np.array([cell_map.blended for cell_map in cell_maps], bool),
        "replication": np.array(
            [cell_map.replication or (0, 0) for cell_map in cell_maps], np.int32
        ).reshape(-1, 2),
    }
    for number, cell_map in enumerate(cell_maps):
        if cell_map.replication is None:
            arrays[f"cells.{number}"] = cell_map.cells
    return arrays


def _recalled(plan: Plan) -> _Boxes | None:
    arrays = kept.recall(_KIND, _places(plan))
    if arrays is None:
        return None
    cell_maps = {}
    for number, heatmap in enumerate(plan.heatmaps):
        down, across = arrays["replication"][number].tolist()
        blended = bool(arrays["blended"][number])
        if down:
            whole = _whole_cells(heatmap, down, across)
            cell_maps[heatmap.name] = CellMap(whole, (down, across), blended)
        else:
            cell_maps[heatmap.name] = CellMap(arrays[f"cells.{number}"], None, blended)
    return _Boxes(arrays["pixels"], cell_maps)


def _around_the_maps(plan: Plan) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return all but the maps, uint8 [height, width, 3], and the same with the timeline as it is
    left of the playhead."""
    fonts = kept.fonts()
    key = f"{fonts}\n{_surroundings(plan)}"
    arrays = kept.recall("around", key) if fonts else None
    if arrays is None:
        arrays = _drawn_around(plan)
        texts = [*(label.text for label in plan.labels), *(s.label for s in plan.scales.values())]
        if fonts and not letters_without_glyph("".join(texts)):
            kept.keep("around", key, arrays)
    played = arrays["background"].copy()
    if plan.timeline:
        played[plan.timeline.box.area] = arrays["played"]
    return arrays["background"], played


def _drawn_around(plan: Plan) -> dict[str, NDArray[np.uint8]]:
    """Return ``background``, and ``played``: the timeline's box as it is left of the playhead."""
    with fixed_style():
        figure, _ = build_figure(plan, None)
        arrays = {"background": figure_pixels(figure)}
        if plan.timeline:
            brighten_timeline(figure.axes[0], plan, plan.timeline)
            arrays["played"] = figure_pixels(figure)[plan.timeline.box.area]
    return arrays


def _surroundings(plan: Plan) -> str:
    """Return a cache key: equal for plans that look alike, apart from their maps and from the parts
    that are painted on each frame."""
    drawn = {}
    for part in fields(plan):
        if part.name not in ("heatmaps", *_PAINTED):
            drawn[part.name] = getattr(plan, part.name)
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):  # arrays in full
        return repr(drawn)
