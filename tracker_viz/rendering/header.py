"""Place the header: step, loss and tokens, the run's name, and the line of the caption."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tracker_viz.rendering.draft import Draft
from tracker_viz.rendering.plan import Box, Caption, Label, Readout, Swatch
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.template import text_width

# Sizes in pixels at 1080p. A tracker shows the film about 700 pixels wide: what must be read there
# (step, loss, caption, roles) is at least 26 pixels high here, everything else at least 20.
_NUMBER, _NAME = 46.0, 27.0
_TITLE, _SUBTITLE = 36.0, 22.0
_CAPTION = 34.0
_LEGEND = 22.0
_MARK = "interpolated"


@dataclass(frozen=True)
class _Quantity:
    """A number of the header: its name, and how many digits it needs over the run."""

    name: str
    n_chars: int


def header(draft: Draft) -> int:
    """Place the header; return the row where the panels may begin."""
    draft.caption = _caption(draft)
    if draft.is_narrow:
        end = _numbers(draft, draft.px(112))
        _run_name(draft, draft.margin)
        _mark(draft, max(end, draft.width - draft.margin), draft.px(112))
        return draft.px(166)

    end = _numbers(draft, draft.px(52))
    mark_px = draft.text_width(_MARK, _SUBTITLE, bold=True)
    _mark(draft, end + draft.px(66) + mark_px, draft.px(52))
    _run_name(draft, end + draft.px(84) + mark_px)
    return draft.px(112)


def role_legend(draft: Draft, roles: Iterable[str]) -> None:
    """Say what the borders around heads mean: a line with the roles that any head ever has."""
    px = draft.px
    names = [(role, role.replace("_", " ")) for role in roles]
    widths = [px(22) + draft.text_width(text, _LEGEND) + px(24) for _, text in names]
    y = px(66) if draft.is_narrow else px(68)
    x = draft.width - draft.margin - sum(widths) + px(24)
    for (role, text), width in zip(names, widths, strict=True):
        draft.swatches.append(Swatch(Box(x, y - px(15), px(15), px(15)), draft.theme.roles[role]))
        draft.text(text, x + px(22), y, _LEGEND)
        x += width


def format_metric(value: float) -> str:
    """Return a loss as the header says it: ``1.808``; ``–`` where there is none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _quantities(draft: Draft) -> list[_Quantity]:
    series, metric = draft.series, draft.layout.metric
    found = [_Quantity("step", len(f"{max(series.steps):,}"))]
    values = series.metric(metric)
    if np.isfinite(values).any():
        found.append(_Quantity(metric, max(len(format_metric(value)) for value in values)))
    tokens = [count for count in series.tokens_seen if count is not None]
    if len(tokens) == len(series):
        found.append(_Quantity("tokens", max(len(si_number(count)) for count in tokens)))
    return found


def _numbers(draft: Draft, baseline: int) -> int:
    """Place the numbers from the left margin on; return where they end."""
    digit = text_width("0", _NUMBER * draft.unit, bold=True, mono=True)
    x = draft.margin
    for quantity in _quantities(draft):
        draft.text(quantity.name, x, baseline, _NAME)
        x += draft.text_width(quantity.name, _NAME) + draft.px(9)
        size_px = _NUMBER * draft.unit
        draft.readouts.append(Readout(quantity.name, x, baseline, size_px, quantity.n_chars))
        x += quantity.n_chars * digit + draft.px(28)
    return x - draft.px(28)


def _run_name(draft: Draft, left: int) -> None:
    """Place the run's name, and its model behind it where both fit, to end at the right margin."""
    baseline, gap = draft.px(36), draft.px(16)
    right = draft.width - draft.margin
    room = right - left
    title, subtitle = draft.series.title, draft.series.subtitle
    sizes = (_TITLE, 32.0, 28.0, 25.0, _SUBTITLE)
    fits = [size for size in sizes if draft.text_width(title, size, bold=True) <= room]
    title_size = fits[0] if fits else _SUBTITLE
    title = draft.fitted(title, title_size, room, bold=True)
    rest = room - draft.text_width(title, title_size, bold=True) - gap
    for size in (_SUBTITLE, 20.0):
        if draft.text_width(subtitle, size) <= rest:  # else the title card alone says it
            draft.text(subtitle, right, baseline, size, align="right")
            right -= draft.text_width(subtitle, size) + gap
            break
    draft.text(title, right, baseline, title_size, draft.theme.text, bold=True, align="right")


def _mark(draft: Draft, right: int, baseline: int) -> None:
    size_px = _SUBTITLE * draft.unit
    draft.mark = Label(
        _MARK, right, baseline, size_px, draft.theme.accent, bold=True, align="right"
    )


def _caption(draft: Draft) -> Caption:
    baseline = draft.px(154) if draft.is_narrow else draft.px(100)
    return Caption(draft.margin, baseline, _CAPTION * draft.unit, draft.width - 2 * draft.margin)
