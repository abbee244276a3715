"""Place lanes below the curves of several runs: which run took which role, and when.

Few runs have a lane each, with a bar for every role from the time at which the run took it. Of many
runs every role has a lane, whose bar is as high as the share of the runs that have taken it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracker_viz.metrics import ROLES, role_label
from tracker_viz.rendering.plan import Box, Swatch, Timeline
from tracker_viz.rendering.planning.boxes import rows, top_at
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.subject import RunTrack, Subject
from tracker_viz.rendering.theme import run_colors

_NAME = 20.0
_MOST_RUNS = 8  # with a lane each
# At 1080p: between the curves and the lanes, between two lanes, a bar of a run's lane, a lane at
# least, and a lane of one role.
_ABOVE, _APART, _BAR, _LEAST, _ROLE = 8, 5, 4, 25, 30


def lane_roles(subject: Subject) -> list[str]:
    """Return the roles that the lanes show: those that any of several runs took for good."""
    if subject.is_one_run:
        return []
    taken = {role for run in subject.runs for role in run.onsets}
    return [role.name for role in ROLES if role.name in taken]


def has_run_lanes(subject: Subject) -> bool:
    """Return whether each run has a lane."""
    return bool(lane_roles(subject)) and len(subject.runs) <= _MOST_RUNS


def lanes_px(builder: PlanBuilder, room: int = 0) -> int:
    """Return the pixels that the lanes take below the curves: as many as they need, or up to twice
    that of ``room``."""
    roles, px = lane_roles(builder.subject), builder.px
    if not roles:
        return 0
    needed = px(_ABOVE) + len(roles) * px(_ROLE)
    if has_run_lanes(builder.subject):
        lane_px = max(px(_LEAST), px(_BAR) * len(roles) + px(_APART))
        needed = px(_ABOVE) + len(builder.subject.runs) * lane_px
    return max(needed, min(2 * needed, room))


def lane_name_px(builder: PlanBuilder) -> int:
    """Return the pixels that the names of the lanes take; 0 without lanes."""
    roles, subject = lane_roles(builder.subject), builder.subject
    names = [_with_count(subject, role) for role in roles]
    if has_run_lanes(subject):
        names = [run.label for run in subject.runs]
    return builder.widest(names, _NAME) + builder.px(24) if names else 0


def place_lanes(builder: PlanBuilder, line: Timeline, left: int) -> tuple[Swatch, ...]:
    """Place the lanes, their names from ``left`` on; return their bars, which are faint where they
    were not played."""
    roles, px = lane_roles(builder.subject), builder.px
    below = top_at(line.box, line.plot.bottom + px(_ABOVE))
    bars: list[Swatch] = []
    if not has_run_lanes(builder.subject):
        for role, lane in zip(roles, rows(below, len(roles)), strict=True):
            color = builder.theme.roles.get(role, builder.theme.text)
            track = top_at(lane, lane.y + px(_APART))
            _name_lane(builder, _with_count(builder.subject, role), track, left, color)
            bars += _share_bars(builder, line, role, track)
        return tuple(bars)

    runs = builder.subject.runs
    colors = run_colors(len(runs), builder.theme)
    for run, color, lane in zip(runs, colors, rows(below, len(runs)), strict=True):
        track = top_at(lane, lane.y + px(_APART))
        _name_lane(builder, run.label, track, left, color)
        bars += _run_bars(builder, line, run, roles, track)
    return tuple(bars)


def _name_lane(builder: PlanBuilder, name: str, lane: Box, left: int, color: str) -> None:
    """Write the name at the left of its lane behind a square of its color, and fill the lane."""
    px, side = builder.px, builder.px(12)
    middle = lane.y + lane.height // 2
    builder.swatches.append(Swatch(lane, builder.theme.panel))
    builder.square(left, middle - side // 2, side, color)
    x = left + px(22)
    text = builder.fitted(name, _NAME, lane.x - px(8) - x)
    builder.text(text, x, middle, _NAME, builder.theme.text, baseline="center")


def _run_bars(
    builder: PlanBuilder, line: Timeline, run: RunTrack, roles: Sequence[str], lane: Box
) -> list[Swatch]:
    """Return a bar for each role that a run took, from then on to its end; every lane has the roles
    in the same order."""
    bars = []
    end = round(line.x(float(run.places[-1]))) + 1
    for role, row in zip(roles, rows(lane, len(roles)), strict=True):
        if role in run.onsets:
            x = min(round(line.x(run.onsets[role])), end - builder.px(4))
            color = builder.theme.roles.get(role, builder.theme.text)
            bars.append(Swatch(Box(x, row.y, end - x, row.height), color))
    return bars


def _share_bars(builder: PlanBuilder, line: Timeline, role: str, lane: Box) -> list[Swatch]:
    """Return bars as high as the share of the runs that have taken a role, from each onset to the
    next."""
    runs = builder.subject.runs
    onsets = sorted(run.onsets[role] for run in runs if role in run.onsets)
    color = builder.theme.roles.get(role, builder.theme.text)
    starts = [round(line.x(onset)) for onset in onsets]
    bars = []
    for n_taken, (x, end) in enumerate(zip(starts, [*starts[1:], lane.right], strict=True), 1):
        high = max(1, round(lane.height * n_taken / len(runs)))
        if end > x:
            bars.append(Swatch(Box(x, lane.bottom - high, end - x, high), color))
    return bars


def _with_count(subject: Subject, role: str) -> str:
    """Return ``induction 28/30``: how many of the runs took a role."""
    n_taken = sum(role in run.onsets for run in subject.runs)
    return f"{role_label(role)} {n_taken}/{len(subject.runs)}"
