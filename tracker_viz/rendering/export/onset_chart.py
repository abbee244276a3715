"""Draw when the runs of each setting formed each role: every run as the interval between two
captures, every setting with its median and the median's 95 % interval.

Names and numbers go in, one PNG comes out; the pipeline makes the numbers from a comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracker_viz.metrics import role_label
from tracker_viz.rendering.export.chart import (
    CHART_DPI,
    drawing,
    hide_spines,
    whole_pixels,
    write_chart,
    write_header,
)
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.theme import Theme
from tracker_viz.rendering.theme import theme as theme_by_name

_WIDTH_IN = 10.0
_ROW_IN, _TITLE_IN = 0.42, 0.5
_HEADER_IN, _FOOTER_IN = 1.35, 0.85
_LEFT_IN, _RIGHT_IN = 0.35, 3.25
_MOST_ROWS = 12  # settings of one role; of more the table has the others
_LETTER_IN = 0.095
_MOST_LETTERS = 24
_EXPLAINED = (
    "Dot: one run, with the bar from its last capture without the role. Hollow: near the line."
    "\nArrow: not formed before the run ended. Tick: median (Kaplan-Meier); band: its 95 % "
    "interval."
)


@dataclass(frozen=True, slots=True)
class OnsetSpan:
    """One run: the last place without the role and the first one with it.

    Attributes:
        after: None where the first capture had it. Of a run that did not form it: until when it
            was watched.
        at: None where the run did not form it.
        near_line: another draw of the probe could change it.
    """

    after: float | None
    at: float | None
    near_line: bool


@dataclass(frozen=True, slots=True)
class OnsetRow:
    """One setting in the panel of one role.

    Attributes:
        label: ``n_heads=4``.
        spans: of its runs.
        median, low, high: of the onset, and its 95 % interval; None where they are unknown.
        summary: at the right of the row: ``5 of 6 · 480 (460 to 633)``.
    """

    label: str
    spans: tuple[OnsetSpan, ...]
    median: float | None
    low: float | None
    high: float | None
    summary: str


def write_onset_chart(
    path: Path | str,
    panels: Mapping[str, Sequence[OnsetRow]],
    axis: str,
    *,
    theme: str | Theme = "dark",
) -> Path:
    """Draw a panel for each role, below each other, on one axis.

    Args:
        panels: role -> its rows; at least one role with one row.
        axis: ``step``, ``tokens`` or ``progress``: what the places are.
    """
    from matplotlib.figure import Figure

    chosen = theme_by_name(theme)
    shown = {role: list(rows[:_MOST_ROWS]) for role, rows in panels.items()}
    n_rows = sum(map(len, shown.values()))
    height = _HEADER_IN + n_rows * _ROW_IN + len(shown) * _TITLE_IN + _FOOTER_IN
    height = whole_pixels(height)
    letters = max(len(_cut(row.label)) for rows in shown.values() for row in rows)
    left = _LEFT_IN + _LETTER_IN * letters + 0.1
    end = _last_place(shown)
    with drawing(chosen):
        figure = Figure((_WIDTH_IN, height), dpi=CHART_DPI)
        write_header(
            figure, _LEFT_IN, "When the roles were formed", _EXPLAINED, chosen, below_in=0.72
        )
        top = _HEADER_IN
        for index, (role, rows) in enumerate(shown.items()):
            panel_in = len(rows) * _ROW_IN
            bottom = top + _TITLE_IN + panel_in
            width = (_WIDTH_IN - left - _RIGHT_IN) / _WIDTH_IN
            box = (left / _WIDTH_IN, 1 - bottom / height, width, panel_in / height)
            axes = figure.add_axes(box)
            color = chosen.roles.get(role, chosen.text)
            _draw_panel(axes, role, rows, end, color, chosen)
            _label_axis(axes, axis, chosen, labeled=index == len(shown) - 1)
            top = bottom
        left_out = max(len(rows) for rows in panels.values()) - _MOST_ROWS
        if left_out > 0:
            text = f"and {left_out} more settings in settings.csv"
            figure.text(_LEFT_IN / _WIDTH_IN, 0.12 / height, text, color=chosen.dim, fontsize=11)
        return write_chart(figure, path)


def _draw_panel(
    axes: Any, role: str, rows: Sequence[OnsetRow], end: float, color: str, theme: Theme
) -> None:
    axes.set(xlim=(-0.01 * end, 1.02 * end), ylim=(len(rows) - 0.5, -0.5))
    bold = {"fontsize": 14, "fontweight": "bold", "color": color}
    axes.set_title(role_label(role), loc="left", pad=7, **bold)
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 12}
    for index, row in enumerate(rows):
        if index:
            axes.axhline(index - 0.5, color=theme.ground, lw=2)
        _draw_row(axes, row, index, end, color, theme)
        axes.text(1.025, index, row.summary, color=theme.text, **beside)
    axes.set_yticks(range(len(rows)), [_cut(row.label) for row in rows])
    axes.tick_params(axis="y", length=0, labelsize=12, colors=theme.text)
    hide_spines(axes)


def _draw_row(axes: Any, row: OnsetRow, index: int, end: float, color: str, theme: Theme) -> None:
    span_y = [index - 0.36, index + 0.36]
    if row.low is not None:
        # An interval without an upper limit reaches beyond the picture.
        high = 1.02 * end if row.high is None else row.high
        axes.fill_betweenx(span_y, row.low, high, color=color, alpha=0.16, lw=0, zorder=1)
    if row.median is not None:
        axes.plot([row.median] * 2, span_y, color=theme.text, lw=2.4, zorder=2)

    # Runs of one setting lie below each other, so that none hides another.
    offsets = np.linspace(-0.26, 0.26, len(row.spans)) if len(row.spans) > 1 else [0.0]
    size = 7.0 if len(row.spans) <= 6 else 5.0
    for span, offset in zip(row.spans, offsets, strict=True):
        y = index + offset
        if span.at is None:
            place = span.after or 0.0
            axes.plot(
                place, y, ">", ms=size, mfc="none", mec=theme.dim, mew=1.4, zorder=4, clip_on=False
            )
            continue
        first = span.at if span.after is None else span.after
        face = "none" if span.near_line else color
        axes.plot([first, span.at], [y, y], color=color, lw=2.6, solid_capstyle="butt", zorder=3)
        axes.plot(span.at, y, "o", ms=size, mfc=face, mec=color, mew=1.4, zorder=4)


def _label_axis(axes: Any, axis: str, theme: Theme, *, labeled: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    texts = {
        "step": lambda place, _: f"{place:,.0f}",
        "tokens": lambda place, _: si_number(place),
        "progress": lambda place, _: f"{place:.0%}",
    }
    names = {"step": "training step", "tokens": "tokens seen", "progress": "share of training"}
    axes.grid(axis="x", color=theme.faint, lw=1)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(texts[axis]))
    axes.tick_params(axis="x", length=0, labelsize=12, colors=theme.dim, labelbottom=labeled)
    if labeled:
        axes.set_xlabel(names[axis], fontsize=12, color=theme.dim)


def _last_place(panels: Mapping[str, Sequence[OnsetRow]]) -> float:
    """Return the right end of the axis: the last place that any run has."""
    places = [1e-9]
    for rows in panels.values():
        for row in rows:
            for span in row.spans:
                places += [span.after or 0.0, span.at or 0.0]
    return max(places)


def _cut(label: str) -> str:
    if len(label) <= _MOST_LETTERS:
        return label
    return f"{label[: _MOST_LETTERS - 1]}…"
