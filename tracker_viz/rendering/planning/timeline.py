"""Place the timeline: the curve of each run, ticks, and a flag for each event; below the curves of
several runs one lane per role, with a mark where each run took it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import ROLES, Event, role_label
from tracker_viz.rendering.plan import Box, Curve, Swatch, Timeline
from tracker_viz.rendering.planning.boxes import cut_bottom, cut_left, rows, top_at
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.scales import short_number
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.subject import RunTrack, Subject
from tracker_viz.rendering.theme import Theme, run_colors

_FLAG, _STEPS, _METRIC, _LANE = 24.0, 20.0, 24.0, 20.0
# At 1080p: how high curves are between whose ends the metric's name has room, and how high where
# the ends alone have.
_NAME_BETWEEN, _ENDS_ONLY = 64, 24
# A spike this many times as high as the middle 90 % of the curve is cut off, or it flattens them.
_TALLEST_SPIKE = 3.0
_MOST_LINES = 8  # runs that have a line of their own in each lane, so that no mark hides another
_FEW_RUNS = 4  # whose lanes are higher than their names ask for
_LANES_GAP = 6  # at 1080p, between the curves and the lanes
# Drawn beside the loss of a single run, on its scale: the loss on the probe's copies, which falls
# when heads have learned to copy.
_COPIES, _COPIES_NAME, _COPIES_ROLE = "probe/loss_later_copies", "on copies", "induction"
# At 1080p: how far its name is below the metric's.
_NAMES_APART = 24
# At 1080p, of the leaders from the words to the flags: their thickness, and the distance from one
# to the next where they run beside each other.
_LEADER, _LEADERS_APART = 2, 5
# At 1080p: what the words of events take above the curves, ticks and their labels below them, and
# how high curves are at least before words give way to them.
_WORDS, _BELOW, _LEAST_CURVE = 32, 30, 18


def timeline(builder: PlanBuilder, area: Box, events: Sequence[Event]) -> None:
    """Place time along x in ``area``: from top to bottom flags of events, the curves, the lanes of
    several runs, and ticks with their labels."""
    px = builder.px
    roles = lane_roles(builder.subject)
    lanes = lanes_px(builder)
    # Between these is the height of the curves, which decides whether the ends of their scale stand
    # beside the name.
    highest = area.height - lanes - px(_BELOW) - px(_WORDS)
    lowest = highest - px(_LEADERS_APART) * len(events)
    left = px(_label_room(builder, roles, is_low=lowest < _names_between(builder)))
    _, box = cut_left(cut_bottom(area, px(_BELOW))[0], left)
    plot, _ = cut_bottom(box, lanes)
    points = builder.subject.timing.points
    line = Timeline(box, plot, float(points[0]), float(points[-1]))

    most_levels = max(0, highest - px(_LEAST_CURVE)) // px(_LEADERS_APART)
    flags = _placed_flags(builder, line, events, most_levels)
    levels = _leader_levels(flags)
    above = px(_WORDS) + px(_LEADERS_APART) * max(levels, default=0) if events else px(14)
    high = min(plot.height - above, px(300 if builder.is_narrow else 190))
    plot = top_at(plot, plot.bottom - high)
    line = replace(line, box=top_at(box, plot.y), plot=plot)

    curves, beside = _curves(builder, line)
    line = replace(line, curves=curves, beside=beside)
    _labels_below(builder, line)
    if builder.subject.is_one_run:
        _capture_ticks(builder, line)
    builder.timeline = replace(line, marks=_lanes(builder, line, roles, area.x))
    poles = _mark_events(builder, line, events)
    words_y = plot.bottom - high - above + px(20)
    for flag, level in zip(flags, levels, strict=True):
        color = event_color(flag.event, builder.theme)
        builder.text(flag.text, flag.x, words_y, _FLAG, color)
        _leader(builder, flag, level, words_y + px(7), line.box.y, poles[flag.number])


def lane_roles(subject: Subject) -> list[str]:
    """Return the roles that have a lane: of several runs those that any of them took for good."""
    if subject.is_one_run:
        return []
    taken = {role for run in subject.runs for role in run.onsets}
    return [role.name for role in ROLES if role.name in taken]


def lanes_px(builder: PlanBuilder) -> int:
    """Return the pixels that the lanes take below the curves."""
    n_lanes = len(lane_roles(builder.subject))
    return n_lanes * _lane_px(builder) + builder.px(_LANES_GAP) if n_lanes else 0


def _lane_px(builder: PlanBuilder) -> int:
    return builder.px(28 if len(builder.subject.runs) <= _FEW_RUNS else 24)


def event_color(event: Event, theme: Theme) -> str:
    """The role's color, that of text for what changes, and that of NaN for trouble."""
    if event.tone == "role":
        return theme.roles.get(event.role, theme.text)
    return theme.text if event.tone == "change" else theme.nonfinite


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


def _label_room(builder: PlanBuilder, roles: Sequence[str], *, is_low: bool) -> float:
    """Return the pixels at 1080p left of the curves: for the metric's name and its range, and for
    the names of the lanes."""
    widest = max(builder.text_width(builder.layout.metric, _METRIC, bold=True), builder.px(64))
    if len(_loss_on_copies(builder)):
        widest = max(widest, builder.text_width(_COPIES_NAME, _STEPS))
    if is_low:
        widest += builder.widest(_ends(builder), _STEPS) + builder.px(10)
    if not roles:
        return min(220.0, widest / builder.unit + 18)
    lane = builder.widest(map(role_label, roles), _LANE) + builder.px(24)
    return min(300.0, max(widest, lane) / builder.unit + 18)


def _names_between(builder: PlanBuilder) -> int:
    """Return how high the curves are between whose ends their names have room."""
    if len(_loss_on_copies(builder)):
        return builder.px(_NAME_BETWEEN + 1.5 * _NAMES_APART)
    return builder.px(_NAME_BETWEEN)


def _ends(builder: PlanBuilder) -> tuple[str, str]:
    """Return (highest, lowest) value of the curves as they are written; empty where they are one
    or none."""
    values = _values_on_scale(builder)
    low, top = curve_range(values)
    if not low < top:
        return "", ""
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


def _curves(builder: PlanBuilder, line: Timeline) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
    """Return the curve of each run that has the metric, and those beside it; write its name and
    range beside it."""
    subject, theme = builder.subject, builder.theme
    metrics = [run.series.metric(builder.layout.metric) for run in subject.runs]
    low, top = curve_range(_values_on_scale(builder))
    _axis_labels(builder, line.plot, has_curve=bool(np.isfinite(low)))
    colors = [(theme.accent, theme.dim)]
    if not subject.is_one_run:
        colors = [(color, color) for color in run_colors(len(subject.runs), theme)]
    curves = []
    for run, metric, (color, ahead) in zip(subject.runs, metrics, colors, strict=True):
        points = _curve(run, metric, line, builder.px(8), low, top)
        if len(points):
            curves.append(Curve(points, color, ahead))
    copies = _loss_on_copies(builder)
    if not len(copies) or not curves:
        return tuple(curves), ()
    points = _curve(subject.runs[0], copies, line, builder.px(8), low, top)
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
    has_ends = all(ends) and plot.height >= px(_ENDS_ONLY)
    if has_ends:
        # Beside the lowest curves they stand out above and below, where nothing else is written.
        apart = max(plot.height / 2 - px(8), px(12))
        for text, y in zip(ends, (middle - apart, middle + apart), strict=True):
            builder.text_left_of(x, text, y, _STEPS)
    if has_ends and plot.height < _names_between(builder):
        x -= builder.widest(ends, _STEPS) + px(10)
    name = builder.fitted(builder.layout.metric, _METRIC, x, bold=True)
    if len(_loss_on_copies(builder)):
        middle -= px(_NAMES_APART) / 2
        color = builder.theme.roles.get(_COPIES_ROLE, builder.theme.text)
        below = middle + px(_NAMES_APART)
        builder.text_left_of(x, _COPIES_NAME, below, _STEPS, color)
    builder.text_left_of(x, name, middle, _METRIC, builder.theme.text, bold=True)


def _curve(
    run: RunTrack,
    values: NDArray[np.float64],
    line: Timeline,
    pad: int,
    low: float,
    top: float,
) -> NDArray[np.float64]:
    """float64 [point, (x, y)] in pixels of the picture; y is NaN where the curve breaks."""
    if not np.isfinite(values).any():
        return np.zeros((0, 2))
    plot, whole = line.plot, (line.last - line.first) or 1.0
    shown = np.where(np.isfinite(values), np.clip(values, low, top), np.nan)
    y = plot.bottom - pad - (shown - low) / ((top - low) or 1.0) * (plot.height - 2 * pad)
    return np.stack([plot.x + (plot.width - 1) * (run.places - line.first) / whole, y], 1)


def _labels_below(builder: PlanBuilder, line: Timeline) -> None:
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


def _capture_ticks(builder: PlanBuilder, line: Timeline) -> None:
    """A tick below the curve for each capture, and a marked one for each that could not be had."""
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


def _lanes(
    builder: PlanBuilder, line: Timeline, roles: Sequence[str], left: int
) -> tuple[Swatch, ...]:
    """Place a lane per role, its name beside it from ``left`` on; return a mark, in the run's own
    color, where each run took the role."""
    px, theme, box = builder.px, builder.theme, line.box
    below = top_at(box, line.plot.bottom + px(_LANES_GAP))
    marks = []
    for role, lane in zip(roles, rows(below, len(roles)), strict=True):
        middle = lane.y + lane.height // 2
        builder.swatches.append(Swatch(Box(box.x, middle, box.width, px(1)), theme.faint))
        color = theme.roles.get(role, theme.text)
        builder.square(left, middle - px(6), px(12), color)
        name = builder.fitted(role_label(role), _LANE, box.x - left - px(32))
        builder.text_left_of(box.x - px(12), name, middle, _LANE, color)
        marks += _lane_marks(builder, line, role, lane)
    return tuple(marks)


def _lane_marks(builder: PlanBuilder, line: Timeline, role: str, lane: Box) -> list[Swatch]:
    runs = builder.subject.runs
    n_lines = len(runs) if len(runs) <= _MOST_LINES else 1
    high = max(2, (lane.height - builder.px(4)) // n_lines)
    wide = builder.px(10)
    marks = []
    for index, (run, color) in enumerate(
        zip(runs, run_colors(len(runs), builder.theme), strict=True)
    ):
        if role in run.onsets:
            y = lane.y + (lane.height - n_lines * high) // 2 + index % n_lines * high
            x = round(line.x(run.onsets[role])) - wide // 2
            marks.append(Swatch(Box(x, y, wide, high), color))
    return marks


@dataclass
class _Flag:
    """The words of one event above the curve; ``x`` and ``wide`` in pixels, as near to the event
    as its neighbors let it stand."""

    number: int
    event: Event
    text: str
    at: float
    wide: int
    x: float = 0.0

    @property
    def nearest(self) -> float:
        """Return where below the words their leader begins: as near to the event as they reach."""
        return min(max(self.at, self.x), self.x + self.wide)


def _placed_flags(
    builder: PlanBuilder, line: Timeline, events: Sequence[Event], most_levels: int
) -> list[_Flag]:
    """Return the words of the events from left to right, in the longest form in which all of them
    fit; without the weakest where they do not, or where their leaders need more than
    ``most_levels`` heights."""
    gap = builder.px(26)
    order = sorted(range(len(events)), key=lambda number: events[number].last_step)
    flags: list[_Flag] = []
    for form in (_long_form, _middle_form, _short_form):
        flags = []
        for number in order:
            text = form(events[number])
            wide = builder.text_width(text, _FLAG)
            at = line.x(events[number].last_step)
            flags.append(_Flag(number, events[number], text, at, wide))
        if _spread(flags, line.box, gap) and max(_leader_levels(flags), default=0) <= most_levels:
            return flags
    return _most_telling(flags, line.box, gap, most_levels)


def _leader_levels(flags: Sequence[_Flag]) -> list[int]:
    """Return at which height the leader of each of the words runs to its event, 0 the lowest: so
    that none crosses another."""
    levels = [0] * len(flags)
    # Leaders that run to the left go below those that begin before them; the others the same, seen
    # in a mirror.
    for number in range(len(flags) - 1, -1, -1):
        flag = flags[number]
        if flag.nearest <= flag.at:
            continue
        for later in range(number + 1, len(flags)):
            if flags[later].nearest > flags[later].at and flags[later].at < flag.nearest:
                levels[number] = max(levels[number], levels[later] + 1)
    for number, flag in enumerate(flags):
        if flag.nearest >= flag.at:
            continue
        for earlier in range(number):
            if flags[earlier].nearest < flags[earlier].at and flags[earlier].at > flag.nearest:
                levels[number] = max(levels[number], levels[earlier] + 1)
    return levels


def _leader(
    builder: PlanBuilder, flag: _Flag, level: int, top: int, bottom: int, pole: Box
) -> None:
    """Draw a line from the words of an event down to its flag."""
    px = builder.px
    color, wide = event_color(flag.event, builder.theme), px(_LEADER)
    begin = round(flag.nearest)
    y = max(top, bottom - px(_LEADERS_APART) * (level + 1))
    if flag.nearest == flag.at:
        begin = pole.x
    begin = min(max(begin, round(flag.x)), round(flag.x) + flag.wide - wide)
    left, right = sorted((begin, pole.x))
    for box in (
        Box(begin, top, wide, y - top),
        Box(left, y, right - left + wide, wide),
        Box(pole.x, y, wide, bottom - y),
    ):
        builder.swatches.append(Swatch(box, color))


def _mark_events(builder: PlanBuilder, line: Timeline, events: Sequence[Event]) -> list[Box]:
    """Mark the steps of each event on the curve: a line over the whole height at the step at which
    the event is complete, and a bar along the top from its first step on. Return the lines; those
    of one step stand side by side."""
    taken: set[int] = set()
    box, wide = line.box, builder.px(3)
    poles = []
    for event in events:
        color = event_color(event, builder.theme)
        first, last = round(line.x(event.first_step)), round(line.x(event.last_step))
        builder.swatches.append(Swatch(Box(first, box.y, max(wide, last - first), wide), color))
        left = min(last, box.right - wide)
        while left in taken:
            left += wide if left + 2 * wide <= box.right else -len(taken) * wide
        taken.add(left)
        poles.append(Box(left, box.y, wide, box.height))
        builder.swatches.append(Swatch(poles[-1], color))
    return poles


def _long_form(event: Event) -> str:
    return f"{event.steps_text}  {event.headline}{_who(event)}"


def _middle_form(event: Event) -> str:
    return f"{event.headline}{_who(event)}"


def _short_form(event: Event) -> str:
    return event.headline


def _who(event: Event) -> str:
    """``: L1H3``, ``: 4 heads``, or nothing for an event of the whole run."""
    return f": {event.who}" if event.who else ""


def _spread(flags: Sequence[_Flag], box: Box, gap: int) -> bool:
    """Center the words over their events, then move them apart, each group as little as it can;
    return whether all fit."""
    room = box.width - sum(flag.wide + gap for flag in flags) + gap
    if room < 0:
        return False

    # Pool adjacent violators: words that would overlap stand side by side, and the whole group
    # where the mean of its members would like it.
    groups: list[list[float]] = []  # mean place of each less what stands before it, its size
    before = 0.0
    for flag in flags:
        groups.append([flag.at - flag.wide / 2 - before, 1])
        before += flag.wide + gap
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (one, n), (other, m) = groups[-2:]
            groups[-2:] = [[(one * n + other * m) / (n + m), n + m]]
    places = [place for place, size in groups for _ in range(int(size))]
    before = 0.0
    for flag, place in zip(flags, places, strict=True):
        flag.x = min(max(place, box.x), box.x + room) + before
        before += flag.wide + gap
    return True


def _most_telling(flags: Sequence[_Flag], box: Box, gap: int, most_levels: int) -> list[_Flag]:
    """Keep the words of the strongest events, and of each further one where these and their
    leaders still fit; the lines of the others stay."""
    kept: list[_Flag] = []
    for flag in sorted(flags, key=lambda flag: -flag.event.strength):
        more = [each for each in flags if each in kept or each is flag]
        if _spread(more, box, gap) and max(_leader_levels(more)) <= most_levels:
            kept = more
    _spread(kept, box, gap)
    return kept
