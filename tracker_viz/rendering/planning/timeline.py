"""Place the timeline: the run's curve, a tick for each capture, and a flag for each event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import Event
from tracker_viz.rendering.plan import Box, Swatch, Timeline
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.scales import short_number
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.theme import Theme

_FLAG, _STEPS, _METRIC = 24.0, 20.0, 24.0
# A spike this many times as high as the middle 90 % of the curve is cut off, or it flattens them.
_TALLEST_SPIKE = 3.0


def timeline(builder: PlanBuilder, area: Box, events: Sequence[Event]) -> None:
    """Place the run along x in ``area``: flags of events above the curve, ticks and steps below."""
    px, series = builder.px, builder.series
    label_px = px(_label_room(builder))
    lane_px = px(34) if events else px(4)
    high = min(area.height - lane_px - px(32), px(300 if builder.is_narrow else 190))
    box = Box(area.x + label_px, area.bottom - px(32) - high, area.width - label_px, high)
    values = series.metric(builder.layout.metric)
    low, top = curve_range(values)

    _axis_labels(builder, box, values, low, top)
    curve = _curve(series, values, box, px(8), low, top)
    line = Timeline(box, series.steps[0], series.steps[-1], curve)
    _steps_below(builder, line)
    _capture_ticks(builder, line)
    builder.timeline = line
    _flags(builder, line, events)


def event_color(event: Event, theme: Theme) -> str:
    """The role's color, white for the loss, and the color of what is not finite for trouble."""
    if event.kind == "role":
        return theme.roles.get(event.role, theme.text)
    return theme.text if event.kind in ("loss_fall", "loss_jump") else theme.nonfinite


def curve_range(values: NDArray[np.float64]) -> tuple[float, float]:
    """(lowest, highest) value that a curve shows: all of them but for spikes; NaN without any."""
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


def nice_steps(first: int, last: int, at_most: int) -> list[int]:
    """Return round steps from ``first`` to ``last``, at most ``at_most`` of them."""
    if last == first:
        return [first]
    # 1, 2, 5, 10, 20, ...: the first that gives few enough steps.
    spacings = (base * 10**power for power in range(20) for base in (1, 2, 5))
    spacing = next(each for each in spacings if (last - first) / each <= at_most - 1)
    return list(range(-(-first // spacing) * spacing, last + 1, spacing))


def _label_room(builder: PlanBuilder) -> float:
    """Pixels at 1080p left of the curve: for the metric's name and its range."""
    widest = max(builder.text_width(builder.layout.metric, _METRIC, bold=True), builder.px(64))
    return min(220.0, widest / builder.unit + 18)


def _axis_labels(
    builder: PlanBuilder, box: Box, values: NDArray[np.float64], low: float, top: float
) -> None:
    """Write the metric's name beside the curve, and its range where there is one."""
    if not np.isfinite(low):
        return
    x, px = box.x - builder.px(12), builder.px
    name = builder.fitted(builder.layout.metric, _METRIC, x, bold=True)
    middle = box.y + box.height / 2
    builder.text_left_of(x, name, middle, _METRIC, builder.theme.text, bold=True)
    if low == top or box.height < px(64):
        return
    above = "≥" if np.nanmax(np.where(np.isfinite(values), values, np.nan)) > top else ""
    builder.text_left_of(x, above + short_number(top), box.y + px(8), _STEPS)
    builder.text_left_of(x, short_number(low), box.bottom - px(8), _STEPS)


def _curve(
    series: Series, values: NDArray[np.float64], box: Box, pad: int, low: float, top: float
) -> NDArray[np.float64]:
    """float64 [point, (x, y)] in pixels of the picture; y is NaN where the curve breaks."""
    if not np.isfinite(values).any():
        return np.zeros((0, 2))
    shown = np.where(np.isfinite(values), np.clip(values, low, top), np.nan)
    y = box.bottom - pad - (shown - low) / ((top - low) or 1.0) * (box.height - 2 * pad)
    steps = np.array(series.steps, np.float64)
    whole = max(1, series.steps[-1] - series.steps[0])
    return np.stack([box.x + (box.width - 1) * (steps - series.steps[0]) / whole, y], 1)


def _steps_below(builder: PlanBuilder, line: Timeline) -> None:
    px, box = builder.px, line.box
    for step in nice_steps(line.first_step, line.last_step, max(4, box.width // px(190))):
        x = line.x(step)
        align = edge_aligned(x, box.x + px(24), box.right - px(40))
        builder.text(f"{step:,}", x, box.bottom + px(27), _STEPS, align=align)


def edge_aligned(x: float, left: float, right: float) -> str:
    """Return how a text at ``x`` is aligned: centered, but not before ``left`` or after
    ``right``, where it would stand out of the axis."""
    if x < left:
        return "left"
    return "right" if x > right else "center"


def _capture_ticks(builder: PlanBuilder, line: Timeline) -> None:
    """A tick below the curve for each capture, and a marked one for each that could not be had."""
    px, box, series, theme = builder.px, line.box, builder.series, builder.theme
    columns = {round(line.x(step)) for step in series.steps}
    tick = px(2) if len(columns) * px(6) < box.width else 1
    for column in sorted(columns):
        builder.swatches.append(Swatch(Box(column, box.bottom + px(2), tick, px(5)), theme.dim))

    inside = [step for step in series.missing_steps if line.first_step < step < line.last_step]
    for column in sorted({round(line.x(step)) for step in inside}):
        mark = Box(column - 1, box.bottom + px(2), 3, px(5))
        builder.swatches.append(Swatch(mark, theme.nonfinite))
    if inside:
        x = box.x - px(12)
        builder.text("missing", x, box.bottom + px(27), _STEPS, theme.nonfinite, align="right")


@dataclass
class _Flag:
    """The words of one event above the curve; ``x`` and ``wide`` in pixels, as near to the event
    as its neighbors let it stand."""

    event: Event
    text: str
    at: float
    wide: int
    x: float = 0.0


def _flags(builder: PlanBuilder, line: Timeline, events: Sequence[Event]) -> None:
    """Mark the steps of each event on the curve and write above it what happened.

    All flags are written in the longest form in which all of them fit.
    """
    taken: set[int] = set()
    for event in events:
        _mark_event(builder, line, event, taken)
    flags: list[_Flag] = []
    for form in (_long_form, _middle_form, _short_form):
        flags = [_flag(builder, line, event, form(event)) for event in events]
        if _spread(flags, line.box, builder.px(26)):
            break
    else:
        flags = _most_telling(flags, line.box, builder.px(26))
    for flag in flags:
        color = event_color(flag.event, builder.theme)
        builder.text(flag.text, flag.x, line.box.y - builder.px(10), _FLAG, color)


def _mark_event(builder: PlanBuilder, line: Timeline, event: Event, taken: set[int]) -> None:
    """A line over the whole height at the step at which the event is complete, and a bar along the
    top from its first step on. Events of one step stand side by side."""
    box, color = line.box, event_color(event, builder.theme)
    first, last = round(line.x(event.first_step)), round(line.x(event.last_step))
    wide = builder.px(3)
    builder.swatches.append(Swatch(Box(first, box.y, max(wide, last - first), wide), color))
    left = min(last, box.right - wide)
    while left in taken:
        left += wide if left + 2 * wide <= box.right else -len(taken) * wide
    taken.add(left)
    builder.swatches.append(Swatch(Box(left, box.y, wide, box.height), color))


def _flag(builder: PlanBuilder, line: Timeline, event: Event, text: str) -> _Flag:
    middle = (line.x(event.first_step) + line.x(event.last_step)) / 2
    return _Flag(event, text, middle, builder.text_width(text, _FLAG))


def _long_form(event: Event) -> str:
    return f"{event.steps_text}  {event.headline}{_who(event)}"


def _middle_form(event: Event) -> str:
    return f"{event.headline}{_who(event)}"


def _short_form(event: Event) -> str:
    return event.headline


def _who(event: Event) -> str:
    """``: L1H3``, ``: 4 heads``, or nothing for an event that is not about heads."""
    if not event.heads or event.kind != "role":
        return ""
    if len(event.heads) > 1:
        return f": {len(event.heads)} heads"
    block, head = event.heads[0]
    return f": L{block}H{head}"


def _spread(flags: Sequence[_Flag], box: Box, gap: int) -> bool:
    """Center the flags over their events, then move them apart; return whether all fit."""
    left = float(box.x)
    for flag in flags:
        flag.x = max(left, flag.at - flag.wide / 2)
        left = flag.x + flag.wide + gap
    right = float(box.right)
    for flag in reversed(flags):
        flag.x = min(flag.x, right - flag.wide)
        right = flag.x - gap
    return not flags or flags[0].x >= box.x


def _most_telling(flags: Sequence[_Flag], box: Box, gap: int) -> list[_Flag]:
    """Leave out the weakest events until the words of the others fit; their lines stay."""
    kept = list(flags)
    while kept and not _spread(kept, box, gap):
        kept.remove(min(kept, key=lambda flag: flag.event.strength))
    return kept
