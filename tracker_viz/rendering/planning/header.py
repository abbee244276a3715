"""Place the header: what the clock shows, the names of the run or of the comparison, and the line
of the caption."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tracker_viz.metrics import ROLES, role_label
from tracker_viz.rendering.plan import Box, Caption, Label, Readout, Swatch
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.planning.readouts import clock_text, format_metric
from tracker_viz.rendering.planning.role_borders import by_behavior
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.text import text_width
from tracker_viz.rendering.theme import Theme

# Sizes in pixels at 1080p. A tracker shows the film about 700 pixels wide: what must be read there
# (step, loss, caption, roles) is at least 26 pixels high here, everything else at least 20.
_NUMBER, _NAME = 46.0, 27.0
_TITLE, _SUBTITLE = 36.0, 22.0
_CAPTION, _CAPTION_PITCH = 34.0, 39
_LEGEND_SIZES = (22.0, 20.0)
# In a narrow picture, in short words: smaller than other text, before a role is left out.
_SMALLEST_LEGEND = (18.0, 16.0)
_NOTE = 20.0
_MARK = "interpolated"
_ANOTHER_ROW = "dashed: on another row"
_ROWS = {"text": "on text", "repeated": "on repeats"}


@dataclass(frozen=True)
class _Quantity:
    """A number of the header: its name, and how many digits it needs over the run."""

    name: str
    n_chars: int


def header(builder: PlanBuilder) -> int:
    """Place the header; return the row where the panels may begin."""
    px = builder.px
    numbers_y, caption_y, end = px(50), px(93), px(108)
    if builder.is_narrow:
        numbers_y, caption_y, end = px(108), px(145), px(158)
    builder.numbers_end = _numbers(builder, numbers_y)
    builder.mark = _mark(builder, numbers_y)
    # A narrow picture has room for half a sentence in a line.
    n_lines = 2 if builder.is_narrow else 1
    size_px = _CAPTION * builder.unit
    builder.caption = Caption(builder.margin, caption_y, size_px, builder.page.width, n_lines)
    more = (n_lines - 1) * px(_CAPTION_PITCH)
    if builder.subject.note:
        note_y = caption_y + more + px(30)
        builder.text_within(builder.page.width, builder.subject.note, builder.margin, note_y, _NOTE)
        more += px(30)
    return end + more


def title(builder: PlanBuilder) -> None:
    """Place the name of the run or of the comparison to end at the right margin, and behind it as
    much as fits of what it is."""
    left = builder.margin
    if not builder.is_narrow:
        left = builder.numbers_end + builder.px(44)
        if builder.mark:
            mark_px = builder.text_width(_MARK, _SUBTITLE, bold=True)
            left = builder.numbers_end + builder.px(84) + mark_px
    baseline, gap = builder.px(35), builder.px(16)
    right = builder.width - builder.margin
    room = right - left
    title = builder.subject.title
    for title_size in (_TITLE, 32.0, 28.0, 25.0, _SUBTITLE):
        if builder.text_width(title, title_size, bold=True) <= room:
            break
    title = builder.fitted(title, title_size, room, bold=True)
    rest = room - builder.text_width(title, title_size, bold=True) - gap
    whole = " · ".join([*builder.clauses, builder.subject.subtitle])
    subtitle, size = builder.shrunk(whole, (_SUBTITLE, 20.0), rest, " · ")
    if subtitle:  # else the title card alone says it
        builder.text(subtitle, right, baseline, size, align="right")
        right -= builder.text_width(subtitle, size) + gap
    builder.text(title, right, baseline, title_size, builder.theme.text, bold=True, align="right")


@dataclass(frozen=True)
class _Entry:
    """One thing that the legend explains; ``mark``: a square, or two dashes of a border."""

    text: str
    color: str
    mark: Literal["solid", "dashed", "none"]


def role_legend(
    builder: PlanBuilder, solid: Collection[str], dashed: Collection[str], *, has_dashes: bool
) -> None:
    """Say what the borders around heads mean: a line with the roles that any head ever has, in
    shorter words and smaller where there is little room.

    Args:
        solid: roles that heads have on rows that are shown.
        dashed: roles that heads have on other rows only.
        has_dashes: some borders are dashed, of roles that are named elsewhere perhaps.
    """
    px, theme = builder.px, builder.theme
    left, y = builder.numbers_end + px(40), px(62)
    if builder.is_narrow:
        left, y = builder.margin, px(61)
    room = builder.width - builder.margin - left
    entries, size = _fitted_legend(builder, _legend_entries(theme, solid, dashed, has_dashes), room)
    widths = [_entry_px(builder, entry, size) for entry in entries]
    x = builder.width - builder.margin - sum(widths) + px(24)
    for entry, width in zip(entries, widths, strict=True):
        _legend_mark(builder, entry, x, y)
        mark_px = 0 if entry.mark == "none" else px(22)
        builder.text(entry.text, x + mark_px, y, size)
        x += width


def _legend_entries(
    theme: Theme, solid: Collection[str], dashed: Collection[str], has_dashes: bool
) -> list[_Entry]:
    """Return a solid entry for each role; where dashed borders say other roles of one kind of row,
    these stand behind a heading of their own."""
    kinds = {role.rows for role in ROLES if role.name in dashed}
    if len(kinds) == 1 and not set(solid) & set(dashed):
        heading = f"dashed, {_ROWS[kinds.pop()]}:"
        return [
            *(_Entry(_on_rows(role), theme.roles[role], "solid") for role in by_behavior(solid)),
            _Entry(heading, theme.dim, "none"),
            *(_Entry(_behavior(role), theme.roles[role], "dashed") for role in by_behavior(dashed)),
        ]
    roles = by_behavior({*solid, *dashed})
    entries = [_Entry(_on_rows(role), theme.roles[role], "solid") for role in roles]
    if has_dashes:
        entries.append(_Entry(_ANOTHER_ROW, theme.dim, "dashed"))
    return entries


def _fitted_legend(
    builder: PlanBuilder, entries: list[_Entry], room: float
) -> tuple[list[_Entry], float]:
    """Return the entries in the longest words, and the greatest size, in which all of them fit; as
    many as fit where not all do."""
    short = _in_short(_without_repeated_names(entries))
    forms = [
        (entries, _LEGEND_SIZES),
        (_without_repeated_names(entries), _LEGEND_SIZES),
        (short, _LEGEND_SIZES),
    ]
    if builder.is_narrow:
        forms.append((short, _SMALLEST_LEGEND))
    for form, sizes in forms:
        for size in sizes:
            widths = [_entry_px(builder, entry, size) for entry in form]
            if sum(widths) - builder.px(24) <= room:
                return form, size
    # Fewer rather than smaller: the timeline names the roles as well, but says nothing of dashes.
    while len(form) > 1 and sum(widths) - builder.px(24) > room:
        del form[-2]
        widths = [_entry_px(builder, entry, size) for entry in form]
    return form, size


def _without_repeated_names(entries: Sequence[_Entry]) -> list[_Entry]:
    """Return ``on text`` for a role on text that stands behind the same one among repeats."""
    shortened = []
    for before, entry in zip([None, *entries], entries, strict=False):
        is_repeated = before is not None and entry.text == f"{before.text} on text"
        shortened.append(replace(entry, text="on text") if is_repeated else entry)
    return shortened


def _in_short(entries: Sequence[_Entry]) -> list[_Entry]:
    """Return ``previous`` for ``previous token``, and the like."""
    shortened = []
    for entry in entries:
        text = entry.text.replace(" token", "").replace("on another row", "other row")
        shortened.append(replace(entry, text=text))
    return shortened


def _entry_px(builder: PlanBuilder, entry: _Entry, size: float) -> int:
    """Return the width of an entry and of the gap behind it."""
    if entry.mark == "none":
        return builder.text_width(entry.text, size) + builder.px(12)
    return builder.px(22) + builder.text_width(entry.text, size) + builder.px(24)


def _legend_mark(builder: PlanBuilder, entry: _Entry, x: int, baseline: int) -> None:
    px = builder.px
    if entry.mark == "solid":
        place = Box(x, baseline - px(15), px(15), px(15))
        builder.swatches.append(Swatch(place, entry.color))
    if entry.mark == "dashed":
        for left in (x, x + px(15) - px(6)):
            place = Box(left, baseline - px(11), px(6), px(6))
            builder.swatches.append(Swatch(place, entry.color))


def _behavior(role: str) -> str:
    return role_label(role.removesuffix("_text"))


def _on_rows(role: str) -> str:
    """Return ``previous token`` or ``previous token on text``."""
    return f"{_behavior(role)} on text" if role.endswith("_text") else role_label(role)


def _quantities(builder: PlanBuilder) -> list[_Quantity]:
    """Return the clock and, of one run, its metric and its tokens."""
    subject, series, metric = builder.subject, builder.series, builder.layout.metric
    timing = subject.timing
    clock = max(len(clock_text(timing, point)) for point in range(len(timing.points)))
    found = [_Quantity(timing.axis, clock)]
    if not subject.is_one_run:
        return found
    values = series.metric(metric)
    if np.isfinite(values).any():
        found.append(_Quantity(metric, max(len(format_metric(value)) for value in values)))
    tokens = [count for count in series.tokens_seen if count is not None]
    if len(tokens) == len(series):
        found.append(_Quantity("tokens", max(len(si_number(count)) for count in tokens)))
    return found


def _numbers(builder: PlanBuilder, baseline: int) -> int:
    """Place the numbers from the left margin on; return where they end."""
    digit = text_width("0", _NUMBER * builder.unit, bold=True, mono=True)
    x = builder.margin
    for quantity in _quantities(builder):
        builder.text(quantity.name, x, baseline, _NAME)
        x += builder.text_width(quantity.name, _NAME) + builder.px(9)
        size_px = _NUMBER * builder.unit
        builder.readouts.append(Readout(quantity.name, x, baseline, size_px, quantity.n_chars))
        x += quantity.n_chars * digit + builder.px(28)
    return x - builder.px(28)


def _mark(builder: PlanBuilder, baseline: int) -> Label:
    """Return the place of what an interpolated frame says of itself: behind the numbers or, in a
    narrow picture, at the right margin."""
    px, end = builder.px, builder.numbers_end
    right = end + px(66) + builder.text_width(_MARK, _SUBTITLE, bold=True)
    if builder.is_narrow:
        right = max(end, builder.width - builder.margin)
    size_px, color = _SUBTITLE * builder.unit, builder.theme.accent
    return Label(_MARK, right, baseline, size_px, color, bold=True, align="right")
