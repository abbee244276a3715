"""What stands around the maps: the header with the run and its numbers, and the timeline with
curve, ticks and onsets."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import NO_ROLE, ROLES, first_onsets, head_roles, score_series
from tracker_viz.rendering.draft import Draft
from tracker_viz.rendering.plan import Box, Label, Onset, Readout, Roles, Swatch, Timeline
from tracker_viz.rendering.scales import short_number
from tracker_viz.rendering.series import Series, si_number
from tracker_viz.rendering.template import text_width

_NUMBER, _NAME = 46.0, 24.0
_MARK = "interpolated"
_FLAG_SIZE = 17.0


def header(draft: Draft) -> int:
    """Title and subtitle at the left, step, metric and tokens at the right. Returns where the rest
    may begin."""
    series, px = draft.series, draft.px
    quantities = [("step", "step", len(f"{max(series.steps):,}"))]
    values = series.metric(draft.layout.metric)
    if np.isfinite(values).any():
        quantities.append(
            (
                draft.layout.metric,
                draft.layout.metric,
                max(len(format_metric(value)) for value in values),
            )
        )
    if all(tokens is not None for tokens in series.tokens_seen):
        quantities.append(
            ("tokens", "tokens", max(len(si_number(tokens or 0)) for tokens in series.tokens_seen))
        )
    digit = text_width("0", _NUMBER * draft.unit, bold=True, mono=True)
    gap, between = px(14), px(44)
    needed = sum(
        draft.text_width(name, _NAME) + gap + chars * digit for _, name, chars in quantities
    ) + between * (len(quantities) - 1)
    below = draft.is_narrow
    left, baseline = (
        (draft.margin, px(136)) if below else (draft.width - draft.margin - needed, px(50))
    )
    x = left
    for quantity, name, chars in quantities:
        draft.text(name, x, baseline, _NAME)
        x += draft.text_width(name, _NAME) + gap
        draft.readouts.append(Readout(quantity, x, baseline, _NUMBER * draft.unit, chars))
        x += chars * digit + between
    mark_width = draft.text_width(_MARK, 22, bold=True)
    room = (
        draft.width - 2 * draft.margin
        if below
        else left - draft.margin - between - mark_width - px(30)
    )
    draft.text(
        draft.fitted(series.title, 36, room, bold=True),
        draft.margin,
        px(42),
        36,
        draft.theme.text,
        bold=True,
    )
    draft.text(draft.fitted(series.subtitle, 21, room), draft.margin, px(74), 21)
    mark_x = draft.width - draft.margin if below else left - px(30)
    draft.mark = Label(
        _MARK, mark_x, baseline, 22 * draft.unit, draft.theme.accent, bold=True, align="right"
    )
    return px(180 if below else 84)


def role_legend(draft: Draft, roles: Iterable[str]) -> None:
    """What the frames around heads mean: the roles that some head has at some time, below the
    numbers."""
    px, size = draft.px, 17.0
    names = [(role, role.replace("_", " ")) for role in roles]
    width = sum(px(20) + draft.text_width(text, size) + px(22) for _, text in names) - px(22)
    x, y = (
        (draft.margin, px(162)) if draft.is_narrow else (draft.width - draft.margin - width, px(77))
    )
    for role, text in names:
        draft.swatches.append(Swatch(Box(x, y - px(12), px(13), px(13)), draft.theme.roles[role]))
        draft.text(text, x + px(20), y, size)
        x += px(20) + draft.text_width(text, size) + px(22)


def format_metric(value: float) -> str:
    """A loss as the header says it: ``1.808``; ``–`` where there is none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def timeline(draft: Draft, area: Box, onsets: tuple[Onset, ...]) -> None:
    """The run along x in ``area``: above the curve the onsets of roles, below it a tick for every
    capture, and the steps."""
    px, series, theme = draft.px, draft.series, draft.theme
    x = area.x + px(72)
    high = min(area.height - px(34), px(360 if draft.is_narrow else 240))
    lane = px(24) if onsets else 0
    box = Box(x, area.bottom - px(34) - high + lane, area.right - x, high - lane)
    values = series.metric(draft.layout.metric)
    finite = values[np.isfinite(values)]
    if finite.size:
        draft.text(
            draft.layout.metric,
            x - px(14),
            box.y + box.height / 2,
            19,
            theme.text,
            bold=True,
            align="right",
            baseline="center",
        )
        if finite.max() > finite.min():
            draft.text(
                short_number(float(finite.max())),
                x - px(14),
                box.y + px(9),
                16,
                align="right",
                baseline="center",
            )
            draft.text(
                short_number(float(finite.min())),
                x - px(14),
                box.bottom - px(9),
                16,
                align="right",
                baseline="center",
            )
    line = Timeline(
        box, series.steps[0], series.steps[-1], _curve(series, values, box, px(10)), onsets
    )
    for step in nice_steps(series.steps[0], series.steps[-1], max(4, box.width // px(170))):
        label_x = line.x(step)
        align = (
            "left"
            if label_x < box.x + px(20)
            else "right"
            if label_x > box.right - px(30)
            else "center"
        )
        draft.text(f"{step:,}", label_x, box.bottom + px(26), 17, align=align)
    columns = {round(line.x(step)) for step in series.steps}
    tick = px(2) if len(columns) * px(6) < box.width else 1
    missing = {
        round(line.x(step))
        for step in series.missing_steps
        if series.steps[0] < step < series.steps[-1]
    }
    draft.swatches += [
        Swatch(Box(column, box.bottom + px(2), tick, px(6)), theme.dim)
        for column in sorted(columns)
    ]
    draft.swatches += [
        Swatch(Box(column - 1, box.bottom + px(2), 3, px(6)), theme.nonfinite)
        for column in sorted(missing)
    ]
    if missing:
        draft.text("missing", x - px(14), box.bottom + px(11), 14, theme.nonfinite, align="right")
    draft.timeline = line
    _onset_flags(draft, line)


def _curve(series: Series, values: NDArray[np.float64], box: Box, pad: int) -> NDArray[np.float64]:
    """float64 [point, (x, y)]: a metric over the run in pixels of the picture."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros((0, 2))
    low, high = values[finite].min(), values[finite].max()
    y = box.bottom - pad - (values[finite] - low) / (high - low or 1.0) * (box.height - 2 * pad)
    steps = np.array(series.steps, np.float64)[finite]
    x = box.x + (box.width - 1) * (steps - series.steps[0]) / max(
        1, series.steps[-1] - series.steps[0]
    )
    return np.stack([x, y], 1)


@dataclass
class _Flag:
    """What is written of one onset, ``x`` and ``wide`` in pixels; it stands where the onset is, or
    as near as its neighbours let it."""

    onset: Onset
    text: str
    onset_x: int
    wide: int
    x: float = 0.0


def _onset_flags(draft: Draft, timeline: Timeline) -> None:
    """A line in the role's colour at each onset, and above the curve, in one row, whose it is; in
    short where there are many at once."""
    px, box = draft.px, timeline.box
    leftmost = box.x - px(60)
    flags: list[_Flag] = []
    for form in ("{} · block {} head {}", "{} · b{} h{}", "{}"):
        texts = [
            form.format(onset.role.replace("_", " "), onset.block, onset.head)
            for onset in timeline.onsets
        ]
        flags = [
            _Flag(onset, text, round(timeline.x(onset.step)), draft.text_width(text, _FLAG_SIZE))
            for onset, text in zip(timeline.onsets, texts, strict=True)
        ]
        _spread(flags, box, px(22))
        if all(abs(flag.x - flag.onset_x) <= px(320) and flag.x >= leftmost for flag in flags):
            break
    taken = box.x - px(3)
    for flag in flags:
        color = draft.theme.roles[flag.onset.role]
        taken = max(flag.onset_x, taken + px(3))  # onsets at one step stand side by side
        draft.swatches.append(
            Swatch(Box(min(taken, box.right - px(2)), box.y, px(2), box.height), color)
        )
        if flag.x >= leftmost:  # else there is no room: the line's colour has to say it
            draft.text(flag.text, flag.x, box.y - px(8), _FLAG_SIZE, color)


def _spread(flags: Sequence[_Flag], box: Box, gap: int) -> None:
    """Put the flags where their onsets are, moved apart to the right, and back where they would
    leave the picture."""
    left = float(box.x)
    for flag in flags:
        flag.x = max(left, flag.onset_x)
        left = flag.x + flag.wide + gap
    right = float(box.right)
    for flag in reversed(flags):
        flag.x = min(flag.x, right - flag.wide)
        right = flag.x - gap


def nice_steps(first: int, last: int, at_most: int) -> list[int]:
    """Round steps from ``first`` to ``last``, at most ``at_most`` of them."""
    if last == first:
        return [first]
    spacing = next(
        base * 10**power
        for power in range(20)
        for base in (1, 2, 5)
        if (last - first) / (base * 10**power) <= at_most - 1
    )
    return list(range(-(-first // spacing) * spacing, last + 1, spacing))


def find_roles(series: Series, known: Collection[str]) -> tuple[Roles, tuple[Onset, ...]]:
    """What each head is at each capture, and where and when a role that lasts came up first; both
    as the run's summary has them.

    Args:
        known: roles that have a colour.
    """
    scored_roles = tuple(
        role for role in ROLES if role.name in known and f"scores.head.{role.name}" in series.arrays
    )
    if not scored_roles:
        return Roles(), ()
    names = [f"scores.head.{role.name}" for role in scored_roles]
    scored = score_series(series.capture(index, names) for index in range(len(series)))
    states, _ = head_roles(scored, scored_roles)
    held = [
        {(int(b), int(h)): scored_roles[state[b, h]].name for b, h in np.argwhere(state != NO_ROLE)}
        for state in states
    ]
    found = first_onsets(scored, scored_roles).values()
    at = {step: index for index, step in enumerate(series.steps)}
    shown = [
        Onset(each.role, at[each.step], each.step, each.block, each.head)
        for each in found
        if at[each.step] > 0
    ]
    return Roles(tuple(role.name for role in scored_roles), held), tuple(
        sorted(shown, key=lambda onset: (onset.index, onset.role))
    )
