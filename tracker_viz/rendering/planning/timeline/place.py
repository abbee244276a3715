"""Place the timeline: the curve of each run with a flag for each event, the lanes of several runs,
and the time axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tracker_viz.metrics import Event
from tracker_viz.rendering.plan import Box, Timeline
from tracker_viz.rendering.planning.boxes import cut_bottom, cut_left, top_at
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.planning.timeline.axis import label_axis, tick_captures
from tracker_viz.rendering.planning.timeline.curves import name_px, names_between, place_curves
from tracker_viz.rendering.planning.timeline.flags import (
    LEADERS_APART,
    LEADERS_BELOW,
    draw_leader,
    leader_levels,
    leaders_px,
    mark_events,
    placed_flags,
    write_flag,
)
from tracker_viz.rendering.planning.timeline.lanes import lane_name_px, lanes_px, place_lanes

# At 1080p: what the words of events take above the curves, ticks and their labels below them, how
# high curves are at least before words give way to them, above curves without words, and how high
# curves are before lanes grow.
_WORDS, _BELOW, _LEAST_CURVE, _ABOVE, _CURVES = 32, 30, 18, 14, 80


def timeline(builder: PlanBuilder, area: Box, events: Sequence[Event]) -> None:
    """Place time along x in ``area``: from top to bottom flags of events, the curves, the lanes of
    several runs, and ticks with their labels."""
    px = builder.px
    lanes = lanes_px(builder, area.height - px(_BELOW + _ABOVE + _CURVES))
    # Between these is the height of the curves, which decides whether the ends of their scale stand
    # beside the name.
    highest = area.height - lanes - px(_BELOW) - px(_WORDS)
    lowest = highest - px(LEADERS_BELOW) - px(LEADERS_APART) * len(events)
    left = _names_px(builder, is_low=lowest < names_between(builder))
    _, box = cut_left(cut_bottom(area, px(_BELOW))[0], left)
    plot, _ = cut_bottom(box, lanes)
    points = builder.subject.timing.points
    line = Timeline(box, plot, float(points[0]), float(points[-1]))

    for_leaders = max(0, highest - px(_LEAST_CURVE))
    most_levels = for_leaders // px(LEADERS_APART)
    flags = placed_flags(builder, line, events, most_levels)
    levels = leader_levels(flags)
    above = px(_WORDS) + leaders_px(builder, flags, for_leaders) if events else px(_ABOVE)
    high = min(plot.height - above, px(300 if builder.is_narrow else 190))
    plot = top_at(plot, plot.bottom - high)
    line = replace(line, box=top_at(box, plot.y), plot=plot)

    curves, beside = place_curves(builder, line)
    line = replace(line, curves=curves, beside=beside)
    label_axis(builder, line)
    if builder.subject.is_one_run:
        tick_captures(builder, line)
    builder.timeline = replace(line, marks=place_lanes(builder, line, area.x))
    poles = mark_events(builder, line, events)
    words_y = plot.bottom - high - above + px(20)
    for flag, level in zip(flags, levels, strict=True):
        write_flag(builder, flag, words_y)
        draw_leader(builder, flag, level, words_y + px(7), line.box.y, poles[flag.number])


def _names_px(builder: PlanBuilder, *, is_low: bool) -> int:
    """Return the pixels left of the curves: for the metric's name and its range, and for the names
    of the lanes."""
    lanes = lane_name_px(builder)
    most = builder.px(300 if lanes else 220)
    return min(most, max(name_px(builder, is_low=is_low), lanes) + builder.px(18))
