"""Draw the timeline, once as it is right of the playhead and once as it is left of it; paint the
playhead."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.backend import POINTS
from tracker_viz.rendering.painting.cells import Canvas, paint_dot
from tracker_viz.rendering.plan import Box, Plan, Timeline
from tracker_viz.rendering.theme import rgb

_CURVE, _BESIDE, _MARK = "curve", "beside", "mark"
_AHEAD, _PLAYED = 0.35, 0.95  # how opaque the curves of several runs are, and the marks
_MANY_CURVES = 12  # more of them are drawn thinner
_MOST_DOTS = 16  # more dots on the curves hide each other


def draw_timeline(ground: Any, plan: Plan, timeline: Timeline) -> None:
    """Draw it into matplotlib's axes as it is right of the playhead."""
    fill_box(ground, timeline.plot, plan.theme.panel, zorder=0)
    opaque = 0.6 if len(timeline.curves) == 1 else _AHEAD
    width = 2.0 * _thickness(timeline) * plan.unit * POINTS
    for curve in timeline.curves:
        x, y = curve.points.T
        color = curve.ahead_color
        ground.plot(x, y, color=color, lw=width, alpha=opaque, zorder=2, gid=_CURVE)
    for curve in timeline.beside:
        x, y = curve.points.T
        color = curve.ahead_color
        ground.plot(x, y, color=color, lw=0.6 * width, alpha=_AHEAD, zorder=1.9, gid=_BESIDE)
    for mark in timeline.marks:
        fill_box(ground, mark.box, mark.color, alpha=_AHEAD, zorder=3, gid=_MARK)


def brighten_timeline(ground: Any, plan: Plan, timeline: Timeline) -> None:
    """Change what ``draw_timeline`` drew to how it is left of the playhead."""
    lines = [line for line in ground.lines if line.get_gid() == _CURVE]
    is_alone = len(lines) == 1
    thick, opaque = (3.0, 1.0) if is_alone else (2.6, _PLAYED)
    width = thick * _thickness(timeline) * plan.unit * POINTS
    for line, curve in zip(lines, timeline.curves, strict=True):
        line.set(color=curve.color, lw=width, alpha=opaque)
    beside = [line for line in ground.lines if line.get_gid() == _BESIDE]
    for line, curve in zip(beside, timeline.beside, strict=True):
        line.set(color=curve.color, alpha=_PLAYED)
    for patch in ground.patches:
        if patch.get_gid() == _MARK:
            patch.set(alpha=_PLAYED)
    if is_alone:
        x, y = timeline.curves[0].points.T
        color = timeline.curves[0].color
        ground.fill_between(x, y, timeline.plot.bottom, color=color, alpha=0.14, lw=0, zorder=1)


def paint_timeline(
    canvas: Canvas, played: NDArray[np.uint8], plan: Plan, timeline: Timeline, place: float
) -> None:
    """Brighten what was played until ``place``, and set the playhead with a dot on each curve.

    ``played``: uint8 [height, width, 3], the picture with all of the timeline played.
    """
    box, pixels = timeline.box, canvas.pixels
    x, n_curves = round(place), len(timeline.curves)
    radius = (8.0 if n_curves == 1 else 6.5) * plan.unit
    reach = int(radius) + 3

    # Of one curve only the strip between the playhead that stands there and the new one changes; of
    # several, dots stay behind where runs ended.
    before = box.x if canvas.playhead is None or n_curves > 1 else canvas.playhead
    farthest = box.right if n_curves > 1 else max(before, x)
    rows = slice(max(0, box.y - reach), box.bottom + reach)
    columns = slice(max(0, min(before, x) - reach), farthest + reach)
    pixels[rows, columns] = canvas.background[rows, columns]
    strip = slice(box.y, box.bottom), slice(max(box.x, columns.start), x)
    pixels[strip] = played[strip]
    canvas.playhead = x

    half = max(1, round(plan.unit))
    playhead = slice(max(box.x, x - half), min(box.right, x + half + 1))
    pixels[box.y : box.bottom, playhead] = rgb(plan.theme.text)
    if n_curves <= _MOST_DOTS:
        _paint_dots(pixels, plan, timeline, x, radius)


def _paint_dots(
    pixels: NDArray[np.uint8], plan: Plan, timeline: Timeline, x: int, radius: float
) -> None:
    """Set a dot on each curve that has begun; where a run ended it stays at its end."""
    theme = plan.theme
    rim = theme.text if len(timeline.curves) == 1 else theme.ground
    for curve in timeline.curves:
        known = curve.points[np.isfinite(curve.points[:, 1])]
        if known[0, 0] > x + 1:
            continue
        at = min(x, float(known[-1, 0]))
        y = float(np.interp(at, known[:, 0], known[:, 1]))
        paint_dot(pixels, at, y, radius, rgb(rim), rgb(curve.color))


def _thickness(timeline: Timeline) -> float:
    return 0.7 if len(timeline.curves) > _MANY_CURVES else 1.0


def fill_box(ground: Any, box: Box, color: str, **options: Any) -> None:
    """Fill a box in matplotlib's axes, whose units are pixels, with hard edges."""
    x = [box.x, box.right, box.right, box.x]
    y = [box.y, box.y, box.bottom, box.bottom]
    ground.fill(x, y, color=color, lw=0, aa=False, **options)
