"""What stands around the maps: the header with the run and its numbers, and the timeline with curve, ticks and onsets."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import HEAD_SCORES, NO_ROLE, ROLES, first_onsets, head_roles, onsets, score_series
from tracker_viz.rendering.draft import Draft
from tracker_viz.rendering.plan import Box, Label, Onset, Readout, Roles, Swatch, Timeline
from tracker_viz.rendering.scales import short_number
from tracker_viz.rendering.series import Series, si_number
from tracker_viz.rendering.template import text_width

_NUMBER, _NAME = 46.0, 24.0
_MARK = "interpolated"


def header(draft: Draft) -> int:
    """Title and subtitle at the left, step, metric and tokens at the right. Returns where the rest may begin."""
    series, px = draft.series, draft.px
    quantities = [("step", "step", len(f"{max(series.steps):,}"))]
    values = series.metric(draft.layout.metric)
    if np.isfinite(values).any():
        quantities.append((draft.layout.metric, draft.layout.metric, max(len(format_metric(value)) for value in values)))
    if all(tokens is not None for tokens in series.tokens_seen):
        quantities.append(("tokens", "tokens", max(len(si_number(tokens or 0)) for tokens in series.tokens_seen)))
    digit = text_width("0", _NUMBER * draft.unit, bold=True, mono=True)
    gap, between = px(14), px(44)
    needed = sum(draft.text_width(name, _NAME) + gap + chars * digit for _, name, chars in quantities) + between * (len(quantities) - 1)
    below = draft.is_narrow
    left, baseline = (draft.margin, px(136)) if below else (draft.width - draft.margin - needed, px(58))
    x = left
    for quantity, name, chars in quantities:
        draft.text(name, x, baseline, _NAME)
        x += draft.text_width(name, _NAME) + gap
        draft.readouts.append(Readout(quantity, x, baseline, _NUMBER * draft.unit, chars))
        x += chars * digit + between
    mark_width = draft.text_width(_MARK, 22, bold=True)
    room = draft.width - 2 * draft.margin if below else left - draft.margin - between - mark_width - px(30)
    draft.text(draft.fitted(series.title, 34, room, bold=True), draft.margin, px(44), 34, draft.theme.text, bold=True)
    draft.text(draft.fitted(series.subtitle, 19, room), draft.margin, px(74), 19)
    mark_x = draft.width - draft.margin if below else left - px(30)
    draft.mark = Label(_MARK, mark_x, baseline, 22 * draft.unit, draft.theme.accent, bold=True, align="right")
    return px(168 if below else 84)


def role_legend(draft: Draft, roles: Iterable[str]) -> None:
    """What the frames around heads mean: the roles that some head has at some time, below the numbers."""
    px, size = draft.px, 15.0
    names = [(role, head_score_title(draft.series, role)) for role in roles]
    width = sum(px(20) + draft.text_width(text, size) + px(22) for _, text in names) - px(22)
    x, y = (draft.margin, px(162)) if draft.is_narrow else (draft.width - draft.margin - width, px(82))
    for role, text in names:
        draft.swatches.append(Swatch(Box(x, y - px(12), px(13), px(13)), draft.theme.roles[role]))
        draft.text(text, x + px(20), y, size)
        x += px(20) + draft.text_width(text, size) + px(22)


def head_score_title(series: Series, score: str) -> str:
    """``previous token (text)``: a head's score by name; where it is not measured on the tokens that the maps show first, on which."""
    kinds = {row["kind"] for row in series.last.probe.get("rows", ())}
    on_text = score in HEAD_SCORES and HEAD_SCORES[score].rows == "text first" and kinds >= {"repeated", "text"}
    return score.replace("_", " ") + (" (text)" if on_text else "")


def format_metric(value: float) -> str:
    """A loss as the header says it: ``1.808``; ``–`` where there is none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def timeline(draft: Draft, area: Box, onsets: tuple[Onset, ...]) -> None:
    """The run along x in ``area``: below it the steps, above its lower edge a tick for every capture."""
    px, series, theme = draft.px, draft.series, draft.theme
    x = area.x + px(72)
    high = min(area.height - px(34), px(240))
    box = Box(x, area.bottom - px(34) - high, area.right - x, high)
    values = series.metric(draft.layout.metric)
    finite = values[np.isfinite(values)]
    if finite.size:
        draft.text(draft.layout.metric, x - px(14), box.y + box.height / 2, 19, theme.text, bold=True, align="right", baseline="center")
        if finite.max() > finite.min():
            draft.text(short_number(float(finite.max())), x - px(14), box.y + px(12), 15, align="right", baseline="center")
            draft.text(short_number(float(finite.min())), x - px(14), box.bottom - px(12), 15, align="right", baseline="center")
    line = Timeline(box, series.steps[0], series.steps[-1], _curve(series, values, box), onsets)
    for step in nice_steps(series.steps[0], series.steps[-1], max(4, box.width // px(170))):
        label_x = line.x(step)
        align = "left" if label_x < box.x + px(20) else "right" if label_x > box.right - px(30) else "center"
        draft.text(f"{step:,}", label_x, box.bottom + px(26), 16, align=align)
    columns = {round(line.x(step)) for step in series.steps}
    missing = {round(line.x(step)) for step in series.missing_steps if series.steps[0] < step < series.steps[-1]}
    draft.swatches += [Swatch(Box(column, box.bottom + px(2), 1, px(6)), theme.dim) for column in sorted(columns)]
    draft.swatches += [Swatch(Box(column - 1, box.bottom + px(2), 3, px(6)), theme.nonfinite) for column in sorted(missing)]
    if missing:
        draft.text("missing", x - px(14), box.bottom + px(11), 14, theme.nonfinite, align="right")
    draft.timeline = line
    _onset_flags(draft, line)


def _curve(series: Series, values: NDArray[np.float64], box: Box) -> NDArray[np.float64]:
    """float64 [point, (x, y)]: a metric over the run in pixels of the picture."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros((0, 2))
    low, high = values[finite].min(), values[finite].max()
    pad = 0.12 * box.height
    y = box.bottom - pad - (values[finite] - low) / (high - low or 1.0) * (box.height - 2 * pad)
    steps = np.array(series.steps, np.float64)[finite]
    x = box.x + (box.width - 1) * (steps - series.steps[0]) / max(1, series.steps[-1] - series.steps[0])
    return np.stack([x, y], 1)


def _onset_flags(draft: Draft, timeline: Timeline) -> None:
    px, size, box = draft.px, 15.0, timeline.box
    line = px(22)
    taken: list[list[tuple[float, float]]] = [[] for _ in range(max(1, min(4, (box.height - px(6)) // line)))]
    for onset in timeline.onsets:
        at = timeline.x(onset.step)
        draft.swatches.append(Swatch(Box(round(at), box.y, px(2), box.height), draft.theme.roles[onset.role]))
        text = f"{onset.role.replace('_', ' ')} · block {onset.block} head {onset.head}"
        wide = draft.text_width(text, size)
        left = at + px(8) if at + px(8) + wide < box.right else at - px(6) - wide
        row = next(
            (row for row, spans in enumerate(taken) if all(left > end + px(10) or left + wide < start - px(10) for start, end in spans)),
            None,
        )
        if row is not None:
            taken[row].append((left, left + wide))
            draft.text(text, left, box.y + px(19) + row * line, size, draft.theme.roles[onset.role], backed=True)


def nice_steps(first: int, last: int, at_most: int) -> list[int]:
    """Round steps from ``first`` to ``last``, at most ``at_most`` of them."""
    if last == first:
        return [first]
    spacing = next(base * 10**power for power in range(20) for base in (1, 2, 5) if (last - first) / (base * 10**power) <= at_most - 1)
    return list(range(-(-first // spacing) * spacing, last + 1, spacing))


def find_roles(series: Series, known: Collection[str]) -> tuple[Roles, tuple[Onset, ...]]:
    """What each head is at each capture, and where and when a role that lasts came up first; both as the run's summary has them.

    Args:
        known: roles that have a colour.
    """
    scored_roles = tuple(role for role in ROLES if role.name in known and f"scores.head.{role.name}" in series.arrays)
    if not scored_roles:
        return Roles(), ()
    names = [f"scores.head.{role.name}" for role in scored_roles]
    scored = score_series(series.read(index, names) for index in range(len(series)))
    states, _ = head_roles(scored, scored_roles)
    held = [{(int(b), int(h)): scored_roles[state[b, h]].name for b, h in np.argwhere(state != NO_ROLE)} for state in states]
    found = first_onsets(onsets(scored, scored_roles)).values()
    at = {step: index for index, step in enumerate(series.steps)}
    shown = [Onset(each.role, at[each.step], each.step, each.block, each.head) for each in found if at[each.step] > 0]
    return Roles(tuple(role.name for role in scored_roles), held), tuple(sorted(shown, key=lambda onset: (onset.index, onset.role)))
