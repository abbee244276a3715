"""Place the metric of each run as a curve, and beside the curves its name and the ends of their
scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.plan import Box, Curve, Timeline
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.scales import short_number
from tracker_viz.rendering.subject import RunTrack
from tracker_viz.rendering.theme import run_colors

_NAME, _ENDS = 24.0, 20.0
# At 1080p: how high curves are between whose ends the metric's name has room, and how high where
# the ends alone have.
_NAME_BETWEEN, _ENDS_ONLY = 64, 24
# A spike this many times as high as the middle 90 % of the curve is cut off, or it flattens them.
_TALLEST_SPIKE = 3.0
# Drawn beside the loss of a single run, on its scale: the loss on the probe's copies, which falls
# when heads have learned to copy.
_COPIES, _COPIES_NAME, _COPIES_ROLE = "probe/loss_later_copies", "on copies", "induction"
# At 1080p: how far its name is below the metric's.
_NAMES_APART = 24


def curve_range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the (lowest, highest) value that a curve shows: all but spikes; NaN without any."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return float("nan"), float("nan")
    low, high = float(finite.min()), float(finite.max())
    usual_low, usual_high = np.quantile(finite, (0.05, 0.95))
    tallest = float(usual_high + _TALLEST_SPIKE * (usual_high - usual_low))
    deepest = float(usual_low - _TALLEST_SPIKE * (usual_high - usual_low))
    if usual_high > usual_low:
        low, high = max(low, deepest), min(high, tallest)
    return low, high


def name_px(builder: PlanBuilder, *, is_low: bool) -> int:
    """Return the pixels that the names left of the curves take: of low curves the ends of their
    scale are beside the names, not above and below."""
    widest = max(builder.text_width(builder.layout.metric, _NAME, bold=True), builder.px(64))
    if len(_loss_on_copies(builder)):
        widest = max(widest, builder.text_width(_COPIES_NAME, _ENDS))
    if is_low:
        widest += builder.widest(_ends(builder), _ENDS) + builder.px(10)
    return widest


def names_between(builder: PlanBuilder) -> int:
    """Return how high the curves are between whose ends their names have room."""
    if len(_loss_on_copies(builder)):
        return builder.px(_NAME_BETWEEN + 1.5 * _NAMES_APART)
    return builder.px(_NAME_BETWEEN)


def _ends(builder: PlanBuilder) -> tuple[str, str]:
    """Return (highest, lowest) value of the curves as they are written; only the lowest, where
    they lie, if they never change, and nothing where there are none."""
    values = _values_on_scale(builder)
    low, top = curve_range(values)
    if not low < top:
        return "", short_number(low) if np.isfinite(low) else ""
    is_cut = float(values[np.isfinite(values)].max()) > top
    return ("≥" if is_cut else "") + short_number(top), short_number(low)


def _values_on_scale(builder: PlanBuilder) -> NDArray[np.float64]:
    """Return all values that the scale of the curves is for."""
    metrics = [run.series.metric(builder.layout.metric) for run in builder.subject.runs]
    return np.concatenate([*metrics, _loss_on_copies(builder)])


def _loss_on_copies(builder: PlanBuilder) -> NDArray[np.float64]:
    """Return the loss on the probe's copies, float64 [capture]; empty where it is not drawn."""
    if not builder.subject.is_one_run or builder.layout.metric != "loss":
        return np.zeros(0)
    losses = builder.series.metric(_COPIES)
    return losses if np.isfinite(losses).any() else np.zeros(0)


def place_curves(
    builder: PlanBuilder, line: Timeline
) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
    """Return the curve of each run that has the metric, and those beside it; write its name and
    range beside it."""
    subject, theme = builder.subject, builder.theme
    metrics = [run.series.metric(builder.layout.metric) for run in subject.runs]
    low, top = curve_range(_values_on_scale(builder))
    _axis_labels(builder, line.plot, has_curve=bool(np.isfinite(low)))
    colors = [(theme.accent, theme.dim)]
    if not subject.is_one_run:
        colors = [(color, color) for color in run_colors(len(subject.runs), theme)]
    # Of a low curve hardly anything would be left between wide margins.
    pad = min(builder.px(8), line.plot.height // 6)
    curves = []
    for run, metric, (color, ahead) in zip(subject.runs, metrics, colors, strict=True):
        points = _curve(run, metric, line, pad, low, top)
        if len(points):
            curves.append(Curve(points, color, ahead))
    copies = _loss_on_copies(builder)
    if not len(copies) or not curves:
        return tuple(curves), ()
    points = _curve(subject.runs[0], copies, line, pad, low, top)
    color = theme.roles.get(_COPIES_ROLE, theme.text)
    return tuple(curves), (Curve(points, color, color),)


def _axis_labels(builder: PlanBuilder, plot: Box, *, has_curve: bool) -> None:
    """Write the metric's name beside the curves, and the ends of their scale: above and below the
    name, between it and low curves, or not at all."""
    if not has_curve:
        return
    x, px = plot.x - builder.px(12), builder.px
    ends = _ends(builder)
    middle = plot.y + plot.height / 2
    has_ends = any(ends) and plot.height >= px(_ENDS_ONLY)
    if has_ends:
        # Beside the lowest curves they stand out above and below, where nothing else is written.
        apart = max(plot.height / 2 - px(8), px(12))
        for text, y in zip(ends, (middle - apart, middle + apart), strict=True):
            if text:
                builder.text_left_of(x, text, y, _ENDS)
    if has_ends and plot.height < names_between(builder):
        x -= builder.widest(ends, _ENDS) + px(10)
    name = builder.fitted(builder.layout.metric, _NAME, x, bold=True)
    if len(_loss_on_copies(builder)):
        middle -= px(_NAMES_APART) / 2
        color = builder.theme.roles.get(_COPIES_ROLE, builder.theme.text)
        below = middle + px(_NAMES_APART)
        builder.text_left_of(x, _COPIES_NAME, below, _ENDS, color)
    builder.text_left_of(x, name, middle, _NAME, builder.theme.text, bold=True)


def _curve(
    run: RunTrack,
    values: NDArray[np.float64],
    line: Timeline,
    pad: int,
    low: float,
    top: float,
) -> NDArray[np.float64]:
    """Return float64 [point, (x, y)] in pixels of the picture; y is NaN where the curve breaks."""
    if not np.isfinite(values).any():
        return np.zeros((0, 2))
    plot, whole = line.plot, (line.last - line.first) or 1.0
    shown = np.where(np.isfinite(values), np.clip(values, low, top), np.nan)
    y = plot.bottom - pad - (shown - low) / ((top - low) or 1.0) * (plot.height - 2 * pad)
    return np.stack([plot.x + (plot.width - 1) * (run.places - line.first) / whole, y], 1)
