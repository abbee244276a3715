"""Place the ticks of the time axis and their labels."""

from __future__ import annotations

import numpy as np

from tracker_viz.rendering.plan import Box, Swatch, Timeline
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.subject import Subject

_STEPS = 20.0


def nice_steps(first: int, last: int, at_most: int) -> list[int]:
    """Return round steps from ``first`` to ``last``, at most ``at_most`` of them."""
    if last == first:
        return [first]
    # 1, 2, 5, 10, 20, ...: the first that gives few enough steps.
    spacings = (base * 10**power for power in range(20) for base in (1, 2, 5))
    spacing = next(each for each in spacings if (last - first) / each <= at_most - 1)
    return list(range(-(-first // spacing) * spacing, last + 1, spacing))


def label_axis(builder: PlanBuilder, line: Timeline) -> None:
    px, box = builder.px, line.box
    for place, text in _axis_marks(builder.subject, line, max(4, box.width // px(190))):
        x = line.x(place)
        align = edge_aligned(x, box.x + px(24), box.right - px(40))
        builder.text(text, x, box.bottom + px(25), _STEPS, align=align)


def _axis_marks(subject: Subject, line: Timeline, n_labels: int) -> list[tuple[float, str]]:
    """Return round points of time, at most ``n_labels``, and how they are written."""
    if subject.timing.axis == "progress":
        parts = np.linspace(0, 1, 11 if n_labels >= 11 else 5).tolist()
        return [(part, f"{part:.0%}") for part in parts if line.first <= part <= line.last]
    steps = nice_steps(round(line.first), round(line.last), n_labels)
    if subject.timing.axis == "tokens":
        return [(step, si_number(step)) for step in steps]
    return [(step, f"{step:,}") for step in steps]


def edge_aligned(x: float, left: float, right: float) -> str:
    """Return how a text at ``x`` is aligned: centered, but not before ``left`` or after
    ``right``, where it would stand out of the axis."""
    if x < left:
        return "left"
    return "right" if x > right else "center"


def tick_captures(builder: PlanBuilder, line: Timeline) -> None:
    """Place a tick below the curve for each capture, and a marked one for each that is missing."""
    px, box, series, theme = builder.px, line.box, builder.series, builder.theme
    columns = {round(line.x(step)) for step in series.steps}
    tick = px(2) if len(columns) * px(6) < box.width else 1
    for column in sorted(columns):
        builder.swatches.append(Swatch(Box(column, box.bottom + px(2), tick, px(5)), theme.dim))

    inside = [step for step in series.missing_steps if line.first < step < line.last]
    for column in sorted({round(line.x(step)) for step in inside}):
        mark = Box(column - 1, box.bottom + px(2), 3, px(5))
        builder.swatches.append(Swatch(mark, theme.nonfinite))
    if inside:
        x = box.x - px(12)
        builder.text("missing", x, box.bottom + px(25), _STEPS, theme.nonfinite, align="right")
