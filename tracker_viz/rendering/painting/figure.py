"""Draw a plan with seaborn and matplotlib: the figure whose pixels the painter must equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.backend import DPI, POINTS
from tracker_viz.rendering.painting.timeline import draw_timeline, fill_box
from tracker_viz.rendering.plan import Bar, Box, Heatmap, Label, Plan
from tracker_viz.rendering.planning.timeline import edge_aligned
from tracker_viz.rendering.scales import bar_ticks
from tracker_viz.rendering.text import fitted_px
from tracker_viz.rendering.theme import font_families


def build_figure(plan: Plan, values: Mapping[str, Any] | None) -> tuple[Any, dict[str, Any]]:
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
