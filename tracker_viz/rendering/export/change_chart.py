"""Draw what changed between two captures: the map of each head before, after, and the difference,
with seaborn.

Maps and names go in, one PNG comes out; the pipeline chooses the heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.export.chart import (
    CHART_DPI,
    drawing,
    hide_spines,
    whole_pixels,
    write_chart,
    write_header,
)
from tracker_viz.rendering.theme import Theme
from tracker_viz.rendering.theme import theme as theme_by_name

# A map is about this wide; every cell has as many whole pixels as fit.
_MAP_PX = 250
_HEADS_IN_A_ROW = 2
_MARGIN_IN, _GAP_IN, _BETWEEN_HEADS_IN = 0.35, 0.12, 0.5
_HEADER_IN, _TITLE_IN = 1.4, 0.62
_BAR_IN = 1.7


@dataclass(frozen=True, slots=True)
class ChangedHead:
    """One head to draw.

    Attributes:
        name, change: written above its maps.
        before, after: float32 [query, key].
        is_signed: a mixing map, on a scale of its own around 0.
    """

    name: str
    change: str
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    is_signed: bool = False

    @property
    def largest(self) -> float:
        """The largest size of a finite entry in both maps; 1 where all are 0."""
        return _largest(self.before, self.after)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where things are, in inches.

    Attributes:
        width, height: of the picture.
        side: of a map.
    """

    width: float
    height: float
    side: float

    def box(self, number: int, column: int) -> tuple[float, float, float, float]:
        """Return the shares of the picture that a map takes: that of a head by its rank, before
        (0), after (1), or their difference (2)."""
        group = 3 * self.side + 2 * _GAP_IN + _BETWEEN_HEADS_IN
        left = _MARGIN_IN + number % _HEADS_IN_A_ROW * group + column * (self.side + _GAP_IN)
        row_in = self.side + _TITLE_IN + _GAP_IN
        top = self.height - _HEADER_IN - number // _HEADS_IN_A_ROW * row_in - _TITLE_IN
        bottom = top - self.side
        return (
            left / self.width,
            bottom / self.height,
            self.side / self.width,
            self.side / self.height,
        )


def write_change_chart(
    path: Path | str,
    heads: Sequence[ChangedHead],
    *,
    title: str,
    explained: str,
    before: str,
    after: str,
    theme: str | Theme = "dark",
) -> Path:
    """Draw heads in the order given: each one's map before, after, and the difference.

    Args:
        title, explained: above the maps.
        before, after: what the two maps are called.
    """
    from matplotlib.figure import Figure

    chosen = theme_by_name(theme)
    place = _place(heads)
    attention = [head.after - head.before for head in heads if not head.is_signed]
    largest = _largest(*attention)
    with drawing(chosen):
        figure = Figure((place.width, place.height), dpi=CHART_DPI)
        write_header(figure, _MARGIN_IN, title, explained, chosen, below_in=0.72)
        for number, head in enumerate(heads):
            columns = (before, after, "difference")
            _draw_head(figure, place, number, head, columns, largest, chosen)
        if attention:
            _draw_bars(figure, place, largest, chosen)
        return write_chart(figure, path)


def _place(heads: Sequence[ChangedHead]) -> _Place:
    n_cells = max(head.before.shape[-1] for head in heads)
    side = n_cells * max(1, _MAP_PX // n_cells) / CHART_DPI
    n_columns = min(len(heads), _HEADS_IN_A_ROW)
    n_rows = -(-len(heads) // _HEADS_IN_A_ROW)
    group = 3 * side + 2 * _GAP_IN
    width = 2 * _MARGIN_IN + n_columns * group + (n_columns - 1) * _BETWEEN_HEADS_IN
    height = _HEADER_IN + n_rows * (side + _TITLE_IN + _GAP_IN) + _MARGIN_IN
    return _Place(whole_pixels(max(width, 9.0)), whole_pixels(height), side)


def _draw_head(
    figure: Any,
    place: _Place,
    number: int,
    head: ChangedHead,
    columns: Sequence[str],
    largest: float,
    theme: Theme,
) -> None:
    from matplotlib.colors import PowerNorm

    map_colors: dict[str, Any] = {"cmap": theme.attention, "norm": PowerNorm(0.5, 0, 1)}
    difference_colors = _around_0(theme, largest)
    if head.is_signed:
        map_colors = difference_colors = _around_0(theme, head.largest)
    drawn = (
        (head.before, map_colors),
        (head.after, map_colors),
        (head.after - head.before, difference_colors),
    )
    for column, (values, colors) in enumerate(drawn):
        axes = figure.add_axes(place.box(number, column))
        _draw_map(axes, values, colors, theme)
        axes.set_title(columns[column], fontsize=9.5, color=theme.dim, loc="left", pad=3)
    left, bottom, _, high = place.box(number, 0)
    above = bottom + high + 0.42 / place.height
    bold = {"fontsize": 12.5, "fontweight": "bold", "color": theme.text}
    figure.text(left, above, head.name, va="center", **bold)
    plain = {"fontsize": 10, "color": theme.dim}
    after_name = left + (0.25 + 0.11 * len(head.name)) / place.width
    figure.text(after_name, above, head.change, va="center", **plain)


def _draw_map(axes: Any, values: NDArray[np.float32], colors: dict[str, Any], theme: Theme) -> None:
    import seaborn

    is_ahead = np.triu(np.ones(values.shape, bool), 1) & (values == 0)
    options = {"cbar": False, "xticklabels": False, "yticklabels": False, "ax": axes}
    seaborn.heatmap(values, mask=is_ahead, **colors, **options)
    is_finite = np.isfinite(values)
    if not is_finite.all():
        broken = np.ones(values.shape)
        seaborn.heatmap(broken, mask=is_finite, cmap=[theme.nonfinite], **options)
    hide_spines(axes)


def _draw_bars(figure: Any, place: _Place, largest: float, theme: Theme) -> None:
    """Draw the scales of attention and of its differences in the upper right corner."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, PowerNorm

    from tracker_viz.rendering.scales import colormap

    scales = (
        ("attention", theme.attention, PowerNorm(0.5, 0, 1), [0, 0.1, 0.5, 1]),
        ("difference", theme.signed, Normalize(-largest, largest), [-largest, 0, largest]),
    )
    for number, (name, cmap, norm, ticks) in enumerate(scales):
        left = place.width - _MARGIN_IN - (2 - number) * (_BAR_IN + 0.3) + 0.3
        bottom = place.height - 0.95
        box = (
            left / place.width,
            bottom / place.height,
            _BAR_IN / place.width,
            0.11 / place.height,
        )
        axes = figure.add_axes(box)
        bar = figure.colorbar(
            ScalarMappable(norm, colormap(cmap)), cax=axes, orientation="horizontal", ticks=ticks
        )
        bar.ax.set_xticklabels([f"{tick:.2g}" for tick in ticks])
        axes.tick_params(length=0, labelsize=9, colors=theme.dim)
        axes.set_title(name, fontsize=9.5, color=theme.text, loc="left", pad=3)
        hide_spines(axes)
        bar.outline.set_visible(False)


def _around_0(theme: Theme, largest: float) -> dict[str, Any]:
    return {"cmap": theme.signed, "vmin": -largest, "vmax": largest}


def _largest(*maps: NDArray[np.float32]) -> float:
    """Return the largest size of a finite entry; 1 where all are 0, so that a scale has a width."""
    largest = 0.0
    for values in maps:
        largest = max(largest, float(np.abs(values[np.isfinite(values)]).max(initial=0.0)))
    return largest or 1.0
