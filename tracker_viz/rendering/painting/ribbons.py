"""Paint the roles of a run's heads over time."""

from __future__ import annotations

import numpy as np

from tracker_viz.rendering.painting.cells import Canvas
from tracker_viz.rendering.plan import Ribbon
from tracker_viz.rendering.subject import NOT_YET, Timing
from tracker_viz.rendering.theme import Theme, rgb


def paint_ribbon(canvas: Canvas, ribbon: Ribbon, timing: Timing, point: int, theme: Theme) -> None:
    """Paint every head's roles up to now, in their colors; time runs along the ribbon as along the
    timeline."""
    box, points = ribbon.box, timing.points
    elapsed = (np.arange(box.width) + 0.5) / box.width * (points[-1] - points[0])
    at = np.searchsorted(points, points[0] + elapsed, side="right") - 1
    played = elapsed <= points[point] - points[0]
    captures = timing.captures[ribbon.run, at]
    live = played & (captures != NOT_YET) & ~timing.ended[ribbon.run, at]
    canvas.at(*box.area)  # to be cleared
    for line in ribbon.lines:
        colors = [rgb(theme.roles[role] if role else theme.faint) for role in line.roles]
        canvas.pixels[line.box.area][:, live] = np.array(colors, np.uint8)[captures[live]]
