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
from tracker_viz.rendering.backend import DPI, POINTS, figure_pixels
from tracker_viz.rendering.painting.cells import CellMap
from tracker_viz.rendering.painting.timeline import brighten_timeline, draw_timeline, fill_box
from tracker_viz.rendering.plan import Bar, Box, Heatmap, Label, Plan
from tracker_viz.rendering.planning.timeline import edge_aligned
from tracker_viz.rendering.scales import ColorScale, bar_ticks
from tracker_viz.rendering.text import fitted_px
from tracker_viz.rendering.theme import fixed_style, font_families, letters_without_glyph, rgb

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
    # Cells are told apart by 24-bit colors.
    offset = 1
    for heatmap in plan.heatmaps:
        offset += heatmap.source.shape[0] * heatmap.source.shape[1]
    if offset >= 1 << 24:
        raise LayoutError(
            f"{offset:,} cells in one picture; at most {(1 << 24) - 1:,} can be told apart: pool "
            "more, or show fewer heads"
        )
    boxes = _recalled(plan)
    if boxes is None:
        boxes = _learned(plan)
        kept.keep(_KIND, _places(plan), _packed(boxes))
    background, played = _around_the_maps(plan)
    for heatmap in plan.heatmaps:  # in order: a later box covers an earlier one, as in the figure
        for pixels in (background, played):
            pixels[_view(heatmap.box)] = boxes.pixels[_view(heatmap.box)]
    return Template(background, played, boxes.cell_maps)


def seaborn_pixels(plan: Plan, values: Mapping[str, NDArray[np.float16]]) -> NDArray[np.uint8]:
    """Draw the whole plan by seaborn with these values: uint8 [height, width, 3]. Slow; the
    reference for the painter."""
    with fixed_style():
        return figure_pixels(_build(plan, values)[0])


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
    offset = 1
    offsets = {}
    for heatmap in plan.heatmaps:
        offsets[heatmap.name] = offset
        offset += heatmap.source.shape[0] * heatmap.source.shape[1]
    # Any color map will do, because codes replace the colors: one of matplotlib's own.
    neutral = dict.fromkeys(plan.scales, ColorScale("", "gray", 0.0, 1.0))
    only_maps = replace(plan, scales=neutral, labels=(), swatches=(), bars=(), timeline=None)
    with fixed_style():
        figure, meshes = _build(only_maps, {})
        codes = _draw_codes(figure, meshes, offsets, 0)
        complements = _draw_codes(figure, meshes, offsets, 0xFFFFFF)
    equal = (codes == complements).all(2)
    numbers = _numbers(codes)
    is_cell = numbers ^ _numbers(complements) == 0xFFFFFF
    pixels = np.zeros_like(codes)
    cell_maps = {}
    outside = (codes != rgb(plan.theme.ground)).any(2)
    for heatmap in plan.heatmaps:
        view = _view(heatmap.box)
        rows, columns = heatmap.source.shape
        cells = np.where(
            is_cell[view], numbers[view].astype(np.int64) - offsets[heatmap.name], -1
        ).astype(np.int32)
        strange = ~is_cell[view] & ~equal[view] | (cells >= rows * columns) | (cells < -1)
        cell_maps[heatmap.name] = CellMap(cells, _replication(cells, heatmap), bool(strange.any()))
        pixels[view] = np.where(is_cell[view][..., None], 0, codes[view])
        outside[view] = False
    if outside.any():
        y, x = np.argwhere(outside)[0]
        raise LayoutError(
            f"layout {plan.layout!r}: a map reaches beyond its box at pixel ({x}, {y}); boxes must "
            "lie inside the picture"
        )
    return _Boxes(pixels, cell_maps)


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
        played[_view(plan.timeline.box)] = arrays["played"]
    return arrays["background"], played


def _drawn_around(plan: Plan) -> dict[str, NDArray[np.uint8]]:
    """Return ``background``, and ``played``: the timeline's box as it is left of the playhead."""
    with fixed_style():
        figure, _ = _build(plan, None)
        arrays = {"background": figure_pixels(figure)}
        if plan.timeline:
            brighten_timeline(figure.axes[0], plan, plan.timeline)
            arrays["played"] = figure_pixels(figure)[_view(plan.timeline.box)]
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


def _view(box: Box) -> tuple[slice, slice]:
    return slice(box.y, box.bottom), slice(box.x, box.right)


def _build(plan: Plan, values: Mapping[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """Return a figure of the plan, and the mesh of each heatmap.

    ``values``: heatmap name -> values; missing ones are the scale's minimum; None leaves the
    heatmaps out.
    """
    figure = _quiet_figure(plan)
    ground = figure.add_axes((0, 0, 1, 1), zorder=-1)
    ground.set(xlim=(0, plan.width), ylim=(plan.height, 0))
    ground.axis("off")
    for swatch in plan.swatches:
        fill_box(ground, swatch.box, swatch.color)
    if plan.timeline:
        draw_timeline(ground, plan, plan.timeline)
    for label in plan.labels:
        _draw_label(ground, label)
    for bar in plan.bars:
        _draw_bar(figure, ground, plan, bar)
    meshes = {}
    if values is not None:
        for heatmap in plan.heatmaps:
            meshes[heatmap.name] = _draw_heatmap(figure, plan, heatmap, values.get(heatmap.name))
    figure.building = False
    return figure, meshes


def _quiet_figure(plan: Plan) -> Any:
    """Return an empty figure of the plan's size that draws nothing while it is ``building``:
    sns.heatmap draws the whole figure after each box, to turn tick labels that overlap; there are
    none here."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class QuietFigure(Figure):
        building = True

        def draw(self, renderer: Any) -> None:
            if self.building:
                self.stale = False
            else:
                super().draw(renderer)

    size = (plan.width / DPI, plan.height / DPI)
    figure = QuietFigure(size, dpi=DPI, facecolor=plan.theme.ground)
    FigureCanvasAgg(figure)
    return figure


def _axes_in(figure: Any, plan: Plan, box: Box, **options: Any) -> Any:
    """Return new axes that fill a box of the picture; matplotlib counts from the bottom."""
    left, bottom = box.x / plan.width, 1 - box.bottom / plan.height
    size = box.width / plan.width, box.height / plan.height
    return figure.add_axes((left, bottom, *size), **options)


def _draw_heatmap(
    figure: Any, plan: Plan, heatmap: Heatmap, values: NDArray[np.float16] | None
) -> Any:
    import seaborn
    from matplotlib.colors import ListedColormap

    box, scale = heatmap.box, plan.scales[heatmap.scale]
    axes = _axes_in(figure, plan, box, facecolor=plan.theme.panel)
    if values is None:
        values = np.full(heatmap.source.shape, scale.minimum / scale.unit, np.float16)
    options: dict[str, Any] = {
        "ax": axes,
        "cbar": False,
        "xticklabels": False,
        "yticklabels": False,
        "vmin": 0,
        "vmax": 1,
    }
    if heatmap.line_px:
        options |= {"linewidths": heatmap.line_px * POINTS, "linecolor": heatmap.line_color}
    # float32, because matplotlib norms compute in the precision that they are given
    shown = values.astype(np.float32)
    broken = ~np.isfinite(shown)
    hidden = broken if heatmap.mask is None else broken | heatmap.mask
    shown[hidden] = scale.minimum / scale.unit
    seaborn.heatmap(shown, mask=hidden, cmap=scale.mpl_cmap(), norm=scale.mpl_norm(), **options)
    mesh = axes.collections[0]
    if heatmap.mask is not None:
        broken &= ~heatmap.mask
    if broken.any():
        seaborn.heatmap(
            np.zeros(shown.shape), mask=~broken, cmap=ListedColormap([scale.nonfinite]), **options
        )
    axes.set(xticks=[], yticks=[])
    return mesh


def _draw_codes(
    figure: Any, meshes: Mapping[str, Any], offsets: Mapping[str, int], xor: int
) -> NDArray[np.uint8]:
    for name, mesh in meshes.items():
        values = np.ma.masked_invalid(mesh.get_array()) if mesh.get_array() is not None else None
        if values is not None:
            shown = ~np.ma.getmaskarray(values).reshape(-1)
            mesh.set_array(None)
            mesh.tracker_viz_shown = shown
        shown = mesh.tracker_viz_shown
        codes = (np.arange(offsets[name], offsets[name] + shown.size) ^ xor).astype(np.uint32)
        rgba = (
            np.stack(
                [codes >> 16 & 255, codes >> 8 & 255, codes & 255, np.full_like(codes, 255)], 1
            )
            / 255.0
        )
        rgba[~shown] = 0.0
        mesh.set_facecolor(rgba)
    return figure_pixels(figure)


def _numbers(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
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


def _draw_label(ground: Any, label: Label) -> None:
    ground.text(
        label.x,
        label.y,
        label.text,
        fontsize=label.size_px * POINTS,
        color=label.color,
        family=font_families(mono=label.mono),
        weight="bold" if label.bold else "normal",
        ha=label.align,
        va=label.baseline,
        rotation=label.rotation,
        rotation_mode="anchor",
        parse_math=False,
    )


def _draw_bar(figure: Any, ground: Any, plan: Plan, bar: Bar) -> None:
    box, scale = bar.box, plan.scales[bar.scale]
    axes = _axes_in(figure, plan, box)
    axes.imshow(
        np.linspace(0, 1, 256)[None],
        aspect="auto",
        cmap=scale.mpl_cmap(),
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    axes.axis("off")
    size = bar.font_px
    if bar.titled:
        title_px = fitted_px(scale.label, size, box.width)
        _draw_label(ground, Label(scale.label, box.x, box.y - size * 0.4, title_px, plan.theme.dim))
    for position, text in bar_ticks(scale, box.width / size):
        align = edge_aligned(position, 0.02, 0.98)
        x = box.x + position * box.width
        ground.plot(
            [x, x],
            [box.bottom, box.bottom + 0.25 * size],
            color=plan.theme.dim,
            lw=POINTS,
            solid_capstyle="butt",
        )
        _draw_label(
            ground,
            Label(text, x, box.bottom + size * 1.12, size, plan.theme.dim, align=align),  # type: ignore[arg-type]
        )
