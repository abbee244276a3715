"""Mark the events of a run on its curve: a flag at the step of each, its words above the curve, and
a leader from the words to the flag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracker_viz.metrics import Event
from tracker_viz.rendering.plan import Box, Swatch, Timeline
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.theme import Theme

# At 1080p: size of the words, and the gap between those of two events; the smaller ones where the
# words do not fit otherwise.
_WORDS, _GAP = 24.0, 26
_SMALL_WORDS, _SMALL_GAP = 20.0, 16
# At 1080p, of the leaders from the words to the flags: their thickness, the distance from one to
# the next where they run beside each other, and how far below all words they do: nearer, they
# would underline the words of a neighbor.
_LEADER, LEADERS_APART, LEADERS_BELOW = 2, 5, 8


def event_color(event: Event, theme: Theme) -> str:
    """Return the role's color, that of text for what changes, and that of NaN for trouble."""
    if event.tone == "role":
        return theme.roles.get(event.role, theme.text)
    return theme.text if event.tone == "change" else theme.nonfinite


@dataclass
class Flag:
    """The words of one event above the curve; ``x`` and ``wide`` in pixels, as near to the event
    as its neighbors let it stand."""

    number: int
    event: Event
    text: str
    at: float
    wide: int
    size: float
    x: float = 0.0

    @property
    def begin(self) -> float:
        """Return where below the words their leader begins: above the event, or in the middle of
        the words, where nobody takes it for a neighbor's."""
        if self.x <= self.at <= self.x + self.wide:
            return self.at
        return self.x + self.wide / 2


def placed_flags(
    builder: PlanBuilder, line: Timeline, events: Sequence[Event], most_levels: int
) -> list[Flag]:
    """Return the words of the events from left to right, in the longest form in which all of them
    fit; without the weakest where they do not, or where their leaders need more than
    ``most_levels`` heights."""
    order = sorted(range(len(events)), key=lambda number: events[number].last_step)
    fewer: list[list[Flag]] = []
    for form, size, between in _FORMS:
        gap = builder.px(between)
        flags = []
        for number in order:
            text = form(events[number])
            wide = builder.text_width(text, size)
            at = line.x(events[number].last_step)
            flags.append(Flag(number, events[number], text, at, wide, size))
        if _spread(flags, line.box, gap) and max(leader_levels(flags), default=0) <= most_levels:
            return flags
        fewer.append(_most_telling(flags, line.box, gap, most_levels))
    return max(fewer[-2:], key=len)


def leaders_px(builder: PlanBuilder, flags: Sequence[Flag], room: int) -> int:
    """Return the pixels between the words and the curves in which leaders run to the side: some
    below all words, as far as ``room`` allows."""
    if all(flag.begin == flag.at for flag in flags):
        return 0
    needed = builder.px(LEADERS_APART) * max(leader_levels(flags))
    return needed + min(builder.px(LEADERS_BELOW), max(0, room - needed))


def leader_levels(flags: Sequence[Flag]) -> list[int]:
    """Return at which height the leader of each of the words runs to its event, 0 the lowest: so
    that none crosses another."""
    spans = [(flag.begin, flag.at) for flag in flags]
    mirrored = [(-begin, -end) for begin, end in reversed(spans)]
    to_the_right, to_the_left = _rightward_levels(spans), _rightward_levels(mirrored)[::-1]
    return [max(levels) for levels in zip(to_the_right, to_the_left, strict=True)]


def _rightward_levels(spans: Sequence[tuple[float, float]]) -> list[int]:
    """Return the heights of leaders from ``begin`` to ``end`` that run to the right, each above
    the earlier ones that end behind its begin; 0 for those that run to the left."""
    levels: list[int] = []
    for begin, end in spans:
        crossed = [-1]
        if begin < end:
            for (other_begin, other_end), level in zip(spans, levels, strict=False):
                if other_begin < other_end and other_end > begin:
                    crossed.append(level)
        levels.append(max(crossed) + 1)
    return levels


def write_flag(builder: PlanBuilder, flag: Flag, baseline: int) -> None:
    """Write the words of an event in its color."""
    color = event_color(flag.event, builder.theme)
    builder.text(flag.text, flag.x, baseline, flag.size, color)


def draw_leader(
    builder: PlanBuilder, flag: Flag, level: int, top: int, bottom: int, pole: Box
) -> None:
    """Draw a line from the words of an event down to its flag."""
    px = builder.px
    color, wide = event_color(flag.event, builder.theme), px(_LEADER)
    begin = round(flag.begin)
    y = max(top, bottom - px(LEADERS_APART) * (level + 1))
    if flag.begin == flag.at:
        begin = pole.x
    begin = min(max(begin, round(flag.x)), round(flag.x) + flag.wide - wide)
    left, right = sorted((begin, pole.x))
    for box in (
        Box(begin, top, wide, y - top),
        Box(left, y, right - left + wide, wide),
        Box(pole.x, y, wide, bottom - y),
    ):
        builder.swatches.append(Swatch(box, color))


def mark_events(builder: PlanBuilder, line: Timeline, events: Sequence[Event]) -> list[Box]:
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
    """Return ``: L1H3``, ``: 4 heads``, or nothing for an event of the whole run."""
    return f": {event.who}" if event.who else ""


def _spread(flags: Sequence[Flag], box: Box, gap: int) -> bool:
    """Center the words over their events, then move them apart, each group as little as it can;
    return whether all fit."""
    room = box.width - sum(flag.wide + gap for flag in flags) + gap
    if room < 0:
        return False

    # Pool adjacent violators: words that would overlap stand side by side, and the whole group
    # where the mean of its members would like it.
    groups: list[tuple[float, int]] = []  # mean place of each less what stands before it, its size
    before = 0.0
    for flag in flags:
        place, size = flag.at - flag.wide / 2 - before, 1
        while groups and groups[-1][0] > place:
            left, n_left = groups.pop()
            place = (left * n_left + place * size) / (n_left + size)
            size += n_left
        groups.append((place, size))
        before += flag.wide + gap
    places = [place for place, size in groups for _ in range(size)]
    before = 0.0
    for flag, place in zip(flags, places, strict=True):
        flag.x = min(max(place, box.x), box.x + room) + before
        before += flag.wide + gap
    return True


def _most_telling(flags: Sequence[Flag], box: Box, gap: int, most_levels: int) -> list[Flag]:
    """Keep the words of the strongest events, and of each further one where these and their
    leaders still fit; the lines of the others stay."""
    kept: list[Flag] = []
    for flag in sorted(flags, key=lambda flag: -flag.event.strength):
        more = [each for each in flags if each in kept or each is flag]
        if _spread(more, box, gap) and max(leader_levels(more)) <= most_levels:
            kept = more
    _spread(kept, box, gap)
    return kept


# The words of events from long to short, their size, and the gap between two.
_FORMS = (
    (_long_form, _WORDS, _GAP),
    (_middle_form, _WORDS, _GAP),
    (_short_form, _WORDS, _GAP),
    (_short_form, _SMALL_WORDS, _SMALL_GAP),
)
