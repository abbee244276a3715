"""Place the timeline of a comparison: every run's curve in its own color, and below it one lane per
role with a mark where each run took it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import role_label
from tracker_viz.rendering.backend import DPI, MPL_LOCK
from tracker_viz.rendering.painting.cells import paint_dot
from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.planning.timeline import edge_aligned, nice_steps
from tracker_viz.rendering.scales import short_number
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.side_by_side.runs import RunTrack, Timing
from tracker_viz.rendering.theme import Theme, fixed_style, rgb

_MOST_LINES = 8
_MOST_DOTS = 16  # more dots on the curves hide each other


@dataclass(frozen=True)
class ComparedTimeline:
    """The strip as it is before and after it was played, and where its curves are.

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
        """Brighten what was played, and set the playhead and its dots."""
        box, now = self.box, float(self.x[point])
        x = round(now)
        pixels[box.y : box.bottom, box.x : x] = self.after[:, : x - box.x]
        half = max(1, round(self.unit))
        pixels[box.y : box.bottom, max(box.x, x - half) : min(box.right, x + half + 1)] = rgb(
            self.theme.text
        )
        if len(self.heights) > _MOST_DOTS:
            return
        for curve, color in zip(self.heights, self.colors, strict=True):
            if len(curve) and curve[0, 0] <= now + 1:
                at = min(now, float(curve[-1, 0]))
                y = float(np.interp(at, curve[:, 0], curve[:, 1]))
                paint_dot(pixels, at, y, 6.5 * self.unit, rgb(self.theme.ground), rgb(color))


@dataclass(frozen=True, slots=True)
class _Axis:
    """The points of time along the width of ``box``."""

    box: Box
    first: float
    last: float

    def x(self, place: Any) -> NDArray[np.float64]:
        """Return the pixel columns of places on the axis."""
        share = np.asarray(place, np.float64) - self.first
        return self.box.x + (self.box.width - 1) * share / max(self.last - self.first, 1e-12)


@dataclass(frozen=True, slots=True)
class _Mark:
    """A run takes a role: its middle and its height in pixels."""

    x: float
    y: float
    height: float
    color: str


def place_timeline(
    builder: PlanBuilder,
    runs: Sequence[RunTrack],
    timing: Timing,
    role_names: Sequence[str],
    colors: Sequence[str],
    area: Box,
) -> ComparedTimeline:
    """Write the labels into ``builder``, and draw the strip. ``role_names``: those that have a
    lane."""
    px = builder.px
    left = px(178) if role_names else px(72)
    lane = lane_px(builder, len(runs))
    lanes = lane * len(role_names) + (px(6) if role_names else 0)
    box = Box(area.x + left, area.y, area.width - left, area.height - px(30))
    curves = Box(box.x, box.y, box.width, box.height - lanes)
    axis = _Axis(box, float(timing.points[0]), float(timing.points[-1]))
    lane_y = [curves.bottom + px(6) + n * lane + lane / 2 for n in range(len(role_names))]

    heights = _place_curves(builder, runs, axis, curves)
    for role, y in zip(role_names, lane_y, strict=True):
        _name_lane(builder, role, y, area.x, box.x)
    _axis_labels(builder, timing, axis)
    marks = _marks(runs, role_names, colors, axis, lane_y, lane)
    before, after = (
        _drawn(builder, box, curves, heights, colors, marks, lane_y, played)
        for played in (False, True)
    )
    x = axis.x(timing.points)
    colors, theme = tuple(colors), builder.theme
    return ComparedTimeline(box, curves, before, after, x, heights, colors, theme, builder.unit)


def _place_curves(
    builder: PlanBuilder, runs: Sequence[RunTrack], axis: _Axis, curves: Box
) -> tuple[NDArray[np.float64], ...]:
    """Return each run's curve, float64 [capture, (x, y)] in pixels, and write the metric's name and
    range beside them."""
    px, metric = builder.px, builder.layout.metric
    values = [run.series.metric(metric) for run in runs]
    low, high = _range(values)
    pad = 0.10 * curves.height
    found = []
    for run, metrics in zip(runs, values, strict=True):
        known = np.isfinite(metrics)
        share = (np.clip(metrics[known], low, high) - low) / (high - low)
        y = curves.bottom - pad - share * (curves.height - 2 * pad)
        found.append(np.stack([axis.x(run.places[known]), y], 1))
    if any(len(curve) for curve in found):
        x, middle = curves.x - px(14), curves.y + curves.height / 2
        builder.text_left_of(x, metric, middle, 18, builder.theme.text, bold=True)
        builder.text_left_of(x, short_number(high), curves.y + px(11), 14)
        builder.text_left_of(x, short_number(low), curves.bottom - px(11), 14)
    return tuple(found)


def _name_lane(builder: PlanBuilder, role: str, y: float, left: int, right: int) -> None:
    px, color = builder.px, builder.theme.roles.get(role, builder.theme.text)
    text = builder.fitted(role_label(role), 14, right - left - px(40))
    builder.text_left_of(right - px(14), text, y, 14, color)
    builder.square(left, round(y - px(11) / 2), px(11), color)


def _marks(
    runs: Sequence[RunTrack],
    role_names: Sequence[str],
    colors: Sequence[str],
    axis: _Axis,
    lane_y: Sequence[float],
    lane: int,
) -> list[_Mark]:
    """Return a mark in a role's lane for each run that took the role."""
    # Few runs have a line of their own in each lane, so that no mark hides another; those of many
    # lie over each other.
    n_lines = len(runs) if len(runs) <= _MOST_LINES else 1
    height = 0.8 * lane / n_lines
    marks = []
    for index, (run, color) in enumerate(zip(runs, colors, strict=True)):
        away = (index % n_lines - (n_lines - 1) / 2) * height
        for role, y in zip(role_names, lane_y, strict=True):
            if role in run.onsets:
                marks.append(_Mark(float(axis.x(run.onsets[role])), y + away, height, color))
    return marks


def lane_px(builder: PlanBuilder, n_runs: int) -> int:
    """Return the height of one role's lane: few runs have a line of their own in it."""
    return builder.px(26 if n_runs <= _MOST_LINES else 19)


def _range(metrics: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the lowest and the highest value that are shown; those of a run that diverged would
    press all other curves flat."""
    values = np.concatenate([values[np.isfinite(values)] for values in metrics])
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    usual = float(np.quantile(values, 0.95))
    if high - low > 4 * (usual - low) > 0:
        high = usual
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _axis_labels(builder: PlanBuilder, timing: Timing, axis: _Axis) -> None:
    px, box = builder.px, axis.box
    for place, text in _axis_marks(timing, axis, max(4, box.width // px(170))):
        x = float(axis.x(place))
        align = edge_aligned(x, box.x + px(20), box.right - px(30))
        builder.text(text, x, box.bottom + px(24), 15, align=align)


def _axis_marks(timing: Timing, axis: _Axis, n_labels: int) -> list[tuple[float, str]]:
    if timing.axis == "progress":
        parts = np.linspace(0, 1, 11 if n_labels > 8 else 5)
        return [(part, f"{part:.0%}") for part in parts if axis.first <= part <= axis.last]
    steps = nice_steps(round(axis.first), round(axis.last), n_labels)
    if timing.axis == "tokens":
        return [(step, si_number(step)) for step in steps]
    return [(step, f"{step:,.0f}") for step in steps]


def _drawn(
    builder: PlanBuilder,
    box: Box,
    curves: Box,
    heights: Sequence[NDArray[np.float64]],
    colors: Sequence[str],
    marks: Sequence[_Mark],
    lanes: Sequence[float],
    played: bool,
) -> NDArray[np.uint8]:
    """Draw the curves and the marks of the lanes; return uint8 [height, width, 3] of ``box``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    theme, points = builder.theme, 72.0 / DPI
    alpha = 0.95 if played else 0.35
    width = (2.6 if played else 2.0) * builder.unit * (1.0 if len(heights) <= 12 else 0.7)
    # Matplotlib cuts to whole pixels instead of rounding: a little more keeps the last one.
    size = ((box.width + 0.01) / DPI, (box.height + 0.01) / DPI)
    with MPL_LOCK, fixed_style():
        figure = Figure(size, dpi=DPI, facecolor=theme.ground)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(box.x, box.right), ylim=(box.bottom, box.y))
        axes.axis("off")
        axes.fill(
            *_corners(curves.x, curves.right, curves.y, curves.bottom), color=theme.panel, lw=0
        )
        for y in lanes:
            line_px = builder.px(1) * points
            axes.plot([box.x, box.right], [y, y], color=theme.faint, lw=line_px, zorder=1)
        for curve, color in zip(heights, colors, strict=True):
            x, y = curve.T
            (line,) = axes.plot(x, y, color=color, lw=width * points, alpha=alpha, zorder=2)
            line.set_solid_joinstyle("round")
        for mark in marks:
            half = max(2.5 * builder.unit, min(1.4 * mark.height, 5.0 * builder.unit))
            top, bottom = mark.y - mark.height / 2, mark.y + mark.height / 2
            corners = _corners(mark.x - half, mark.x + half, top, bottom)
            axes.fill(*corners, color=mark.color, lw=0, alpha=0.9 if played else 0.35, zorder=3)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _corners(
    left: float, right: float, top: float, bottom: float
) -> tuple[list[float], list[float]]:
    """Return x and y of the corners of a rectangle."""
    return [left, right, right, left], [top, top, bottom, bottom]
