"""Place the header: step, loss and tokens, the run's name, and the line of the caption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracker_viz.metrics import role_label
from tracker_viz.rendering.plan import Box, Caption, Label, Readout, Swatch
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.text import text_width

# Sizes in pixels at 1080p. A tracker shows the film about 700 pixels wide: what must be read there
# (step, loss, caption, roles) is at least 26 pixels high here, everything else at least 20.
_NUMBER, _NAME = 46.0, 27.0
_TITLE, _SUBTITLE = 36.0, 22.0
_CAPTION = 34.0
_LEGEND = 22.0
_MARK = "interpolated"
_DASHED = "on other rows"


@dataclass(frozen=True)
class _Quantity:
    """A number of the header: its name, and how many digits it needs over the run."""

    name: str
    n_chars: int


def header(builder: PlanBuilder) -> int:
    """Place the header; return the row where the panels may begin."""
    builder.caption = _caption(builder)
    if builder.is_narrow:
        end = _numbers(builder, builder.px(112))
        builder.numbers_end = end
        _run_name(builder, builder.margin)
        _mark(builder, max(end, builder.width - builder.margin), builder.px(112))
        return builder.px(166)

    end = _numbers(builder, builder.px(52))
    builder.numbers_end = end
    mark_px = builder.text_width(_MARK, _SUBTITLE, bold=True)
    _mark(builder, end + builder.px(66) + mark_px, builder.px(52))
    _run_name(builder, end + builder.px(84) + mark_px)
    return builder.px(112)


def role_legend(builder: PlanBuilder, roles: Sequence[str], *, elsewhere: bool = False) -> None:
    """Say what the borders around heads mean: a line with the roles that any head ever has.

    What has no room is left out from the end: the timeline names the roles as well.

    Args:
        elsewhere: some borders are dashed: their heads have the role on other rows only.
    """
    px = builder.px
    entries = [(_legend_name(role, roles), [builder.theme.roles[role]]) for role in roles]
    if elsewhere:
        entries.append((_DASHED, [builder.theme.dim] * 2))
    left, y = builder.numbers_end + px(40), px(68)
    if builder.is_narrow:
        left, y = builder.margin, px(66)
    room = builder.width - builder.margin - left
    widths = [px(22) + builder.text_width(text, _LEGEND) + px(24) for text, _ in entries]
    while entries and sum(widths) - px(24) > room:
        entries.pop()
        widths.pop()

    x = builder.width - builder.margin - sum(widths) + px(24)
    for (text, colors), width in zip(entries, widths, strict=True):
        side = px(15) if len(colors) == 1 else px(6)
        for number, color in enumerate(colors):
            place = Box(
                x + number * (px(15) - px(6)), y - px(15) + (px(15) - side) // 2, side, side
            )
            builder.swatches.append(Swatch(place, color))
        builder.text(text, x + px(22), y, _LEGEND)
        x += width


def _legend_name(role: str, roles: Sequence[str]) -> str:
    """Return ``on text`` for a role on text behind the same one on repeats, else its label."""
    behavior, of_text, _ = role.partition("_text")
    before = roles[roles.index(role) - 1]
    if of_text and before == behavior:
        return "on text"
    return role_label(role)


def format_metric(value: float) -> str:
    """Return a loss as the header says it: ``1.808``; ``–`` where there is none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _quantities(builder: PlanBuilder) -> list[_Quantity]:
    series, metric = builder.series, builder.layout.metric
    found = [_Quantity("step", len(f"{max(series.steps):,}"))]
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


def _run_name(builder: PlanBuilder, left: int) -> None:
    """Place the run's name, and its model behind it where both fit, to end at the right margin."""
    baseline, gap = builder.px(36), builder.px(16)
    right = builder.width - builder.margin
    room = right - left
    title, subtitle = builder.series.title, builder.series.subtitle
    sizes = (_TITLE, 32.0, 28.0, 25.0, _SUBTITLE)
    for title_size in sizes:
        if builder.text_width(title, title_size, bold=True) <= room:
            break
    title = builder.fitted(title, title_size, room, bold=True)
    rest = room - builder.text_width(title, title_size, bold=True) - gap
    for size in (_SUBTITLE, 20.0):
        if builder.text_width(subtitle, size) <= rest:  # else the title card alone says it
            builder.text(subtitle, right, baseline, size, align="right")
            right -= builder.text_width(subtitle, size) + gap
            break
    builder.text(title, right, baseline, title_size, builder.theme.text, bold=True, align="right")


def _mark(builder: PlanBuilder, right: int, baseline: int) -> None:
    size_px = _SUBTITLE * builder.unit
    builder.mark = Label(
        _MARK, right, baseline, size_px, builder.theme.accent, bold=True, align="right"
    )


def _caption(builder: PlanBuilder) -> Caption:
    baseline = builder.px(154) if builder.is_narrow else builder.px(100)
    return Caption(
        builder.margin, baseline, _CAPTION * builder.unit, builder.width - 2 * builder.margin
    )
