"""The timeline of a comparison: every run's curve in its own colour, and below it one lane per role
with a mark where each run took it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import role_label
from tracker_viz.rendering.backend import DPI, MPL_LOCK
from tracker_viz.rendering.painting.cells import paint_dot
from tracker_viz.rendering.plan import Box, Swatch
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.planning.timeline import nice_steps
from tracker_viz.rendering.scales import short_number
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.side_by_side.runs import ComparedSeries, Timing
from tracker_viz.rendering.theme import Theme, fixed_style, rgb

_MOST_LINES = 8
_MOST_DOTS = 16  # more dots on the curves hide each other


@dataclass(frozen=True)
class ComparedTimeline:
    """What the painter needs: the strip as it is before and after it was played, and where the
    curves are.

    Attributes:
        box: curves and lanes together; ``curves``: the upper part of it.
        before, after: uint8 [height, width, 3] of ``box``.
        x: float64 [point]: pixel column of every point of time.
        heights: for each run float64 [capture, (x, y)] in pixels of the picture; captures without a
            finite value are left out.
    """

    box: Box
    curves: Box
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    x: NDArray[np.float64]
    heights: tuple[NDArray[np.float64], ...]
    colors: tuple[str, ...]
    theme: Theme
    unit: float

    def paint(self, pixels: NDArray[np.uint8], point: int) -> None:
        """Brightens what was played, and sets the playhead and its dots."""
        box = self.box
        x = round(self.x[point])
        pixels[box.y : box.bottom, box.x : x] = self.after[:, : x - box.x]
        half = max(1, round(self.unit))
        pixels[box.y : box.bottom, max(box.x, x - half) : min(box.right, x + half + 1)] = rgb(
            self.theme.text
        )
        for curve, color in zip(self.heights, self.colors, strict=True):
            if len(self.heights) <= _MOST_DOTS and len(curve) and curve[0, 0] <= self.x[point] + 1:
                at = min(float(self.x[point]), float(curve[-1, 0]))
                y = float(np.interp(at, curve[:, 0], curve[:, 1]))
                paint_dot(pixels, at, y, 6.5 * self.unit, rgb(self.theme.ground), rgb(color))


def place_timeline(
    builder: PlanBuilder,
    runs: Sequence[ComparedSeries],
    timing: Timing,
    role_names: Sequence[str],
    colors: Sequence[str],
    area: Box,
) -> ComparedTimeline:
    """Write the labels into ``builder``, and draw the strip. ``role_names``: those that have a
    lane."""
    px, theme, metric = builder.px, builder.theme, builder.layout.metric
    left = px(178) if role_names else px(72)
    lane = lane_px(builder, len(runs))
    lanes = lane * len(role_names) + (px(6) if role_names else 0)
    box = Box(area.x + left, area.y, area.width - left, area.height - px(30))
    curves = Box(box.x, box.y, box.width, box.height - lanes)
    first, last = float(timing.points[0]), float(timing.points[-1])

    def column(place: Any) -> Any:
        return box.x + (box.width - 1) * (np.asarray(place, np.float64) - first) / max(
            last - first, 1e-12
        )

    low, high = _range([run.series.metric(metric) for run in runs])
    heights = []
    for run in runs:
        values = run.series.metric(metric)
        known = np.isfinite(values)
        pad = 0.10 * curves.height
        share = (np.clip(values[known], low, high) - low) / (high - low)
        heights.append(
            np.stack(
                [
                    column(run.places[known]),
                    curves.bottom - pad - share * (curves.height - 2 * pad),
                ],
                1,
            )
        )
    x = box.x - px(14)
    if any(len(height) for height in heights):
        builder.text(
            metric,
            x,
            curves.y + curves.height / 2,
            18,
            theme.text,
            bold=True,
            align="right",
            baseline="center",
        )
        builder.text(short_number(high), x, curves.y + px(11), 14, align="right", baseline="center")
        builder.text(
            short_number(low), x, curves.bottom - px(11), 14, align="right", baseline="center"
        )
    lane_y = {}
    for number, role in enumerate(role_names):
        lane_y[role] = curves.bottom + px(6) + number * lane + lane / 2
        text = builder.fitted(role_label(role), 14, left - px(40))
        builder.text(
            text,
            x,
            lane_y[role],
            14,
            theme.roles.get(role, theme.text),
            align="right",
            baseline="center",
        )
        side = px(11)
        builder.swatches.append(
            Swatch(
                Box(area.x, round(lane_y[role] - side / 2), side, side),
                theme.roles.get(role, theme.text),
            )
        )
    _axis_labels(builder, timing, box, column)
    # Few runs have a line of their own in each lane, so that no mark hides another; those of many
    # lie over each other.
    n_lines = len(runs) if len(runs) <= _MOST_LINES else 1
    high = 0.8 * lane / n_lines
    marks = [
        (
            float(column(run.onsets[role])),
            lane_y[role] + (index % n_lines - (n_lines - 1) / 2) * high,
            high,
            color,
        )
        for index, (run, color) in enumerate(zip(runs, colors, strict=True))
        for role in role_names
        if role in run.onsets
    ]
    before, after = (
        _drawn(builder, box, curves, heights, colors, marks, [*lane_y.values()], played)
        for played in (False, True)
    )
    return ComparedTimeline(
        box,
        curves,
        before,
        after,
        column(timing.points),
        tuple(heights),
        tuple(colors),
        theme,
        min(builder.height / 1080, builder.width / 1280),
    )


def lane_px(builder: PlanBuilder, n_runs: int) -> int:
    """Height of one role's lane: few runs have a line of their own in it."""
    return builder.px(26 if n_runs <= _MOST_LINES else 19)


def _range(metrics: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Lowest and highest value; of a run that diverged, not what would press all other curves
    flat."""
    values = np.concatenate([values[np.isfinite(values)] for values in metrics])
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    usual = float(np.quantile(values, 0.95))
    if high - low > 4 * (usual - low) > 0:
        high = usual
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _axis_labels(builder: PlanBuilder, timing: Timing, box: Box, column: Any) -> None:
    px = builder.px
    first, last = float(timing.points[0]), float(timing.points[-1])
    n_labels = max(4, box.width // px(170))
    if timing.axis == "progress":
        marks = [
            (part, f"{part:.0%}")
            for part in np.linspace(0, 1, 11 if n_labels > 8 else 5)
            if first <= part <= last
        ]
    else:
        text = si_number if timing.axis == "tokens" else (lambda place: f"{place:,.0f}")
        marks = [(step, text(step)) for step in nice_steps(round(first), round(last), n_labels)]
    for place, label in marks:
        at = float(column(place))
        align = "left" if at < box.x + px(20) else "right" if at > box.right - px(30) else "center"
        builder.text(label, at, box.bottom + px(24), 15, align=align)


def _drawn(
    builder: PlanBuilder,
    box: Box,
    curves: Box,
    heights: Sequence[NDArray[np.float64]],
    colors: Sequence[str],
    marks: Sequence[tuple[float, float, float, str]],
    lanes: Sequence[float],
    played: bool,
) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] of ``box``: the curves and the marks of the lanes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    theme, points = builder.theme, 72.0 / DPI
    with MPL_LOCK, fixed_style():
        figure = Figure(
            ((box.width + 0.01) / DPI, (box.height + 0.01) / DPI), dpi=DPI, facecolor=theme.ground
        )  # whole pixels are cut, not rounded
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(box.x, box.right), ylim=(box.bottom, box.y))
        axes.axis("off")
        axes.fill(
            [curves.x, curves.right, curves.right, curves.x],
            [curves.y, curves.y, curves.bottom, curves.bottom],
            color=theme.panel,
            lw=0,
        )
        for y in lanes:
            axes.plot(
                [box.x, box.right], [y, y], color=theme.faint, lw=builder.px(1) * points, zorder=1
            )
        for curve, color in zip(heights, colors, strict=True):
            width = (2.6 if played else 2.0) * builder.unit * (1.0 if len(heights) <= 12 else 0.7)
            axes.plot(
                curve[:, 0],
                curve[:, 1],
                color=color,
                lw=width * points,
                alpha=0.95 if played else 0.35,
                zorder=2,
                solid_joinstyle="round",
            )
        for x, y, high, color in marks:
            half = max(2.5 * builder.unit, min(1.4 * high, 5.0 * builder.unit))
            corners = (
                [x - half, x + half, x + half, x - half],
                [y - high / 2, y - high / 2, y + high / 2, y + high / 2],
            )
            axes.fill(*corners, color=color, lw=0, alpha=0.9 if played else 0.35, zorder=3)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
