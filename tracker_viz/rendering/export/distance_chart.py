"""Draw the distances between several runs: a heatmap of all pairs by seaborn, colored by the share
of the distance that chance gives, and the same for each depth alone.

Names and numbers go in, one PNG comes out; the pipeline makes the numbers from a comparison.
"""

from __future__ import annotations

import textwrap
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

_MOST_NUMBERED = 10  # runs whose distances are written into the cells
_MOST_NAMED = 64
_MOST_NAMED_BELOW = 24  # names of more columns run into each other; the rows have the same
_MOST_DEPTHS = 8
_TITLE = "How alike the runs' heads became"
_MARGIN_IN, _BAR_IN = 0.35, 0.95
_DEPTH_GAP_IN, _DEPTH_TITLE_IN = 0.2, 0.34
_SHARE_SCALE: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": 1, "square": True}
_LETTERS_IN_CAPTION = 11.5  # letters in an inch of the caption, at its font size


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Inches of the parts of the picture."""

    width: float
    height: float
    left: float
    header: float
    side: float
    depth_side: float


def write_distance_chart(
    path: Path | str,
    labels: Sequence[str],
    distances: NDArray[np.float64],
    shares: NDArray[np.float64],
    shares_by_depth: NDArray[np.float64],
    are_alike: NDArray[np.bool_],
    *,
    caption: str,
    title: str = _TITLE,
    theme: str | Theme = "dark",
) -> Path:
    """Draw the distances between runs as shares of chance, overall and of each depth alone.

    Args:
        labels: names of the runs.
        distances: float64 [run, run], 0..1, written into the cells of few runs.
        shares: float64 [run, run]: distances as a share of what chance gives, which colors the
            cells; 1 for unrelated runs.
        shares_by_depth: float64 [depth, run, run].
        are_alike: bool [run, run]: pairs that are more alike than nearly all shuffles; marked.
        title: of the chart.
        caption: a sentence that compares the distances with those of seeds and of chance.
    """
    from matplotlib.figure import Figure

    chosen = theme_by_name(theme)
    depths = []
    if len(shares_by_depth) > 1:
        depths = _evenly(len(shares_by_depth), _MOST_DEPTHS)
    sizes = _sizes(labels, len(depths), caption)
    with drawing(chosen):
        figure = Figure((sizes.width, sizes.height), dpi=CHART_DPI)
        explained = _wrapped(caption, sizes.width)
        write_header(figure, _MARGIN_IN, title, explained, chosen, below_in=0.75)
        _draw_pairs(figure, sizes, labels, distances, shares, are_alike, chosen)
        for number, depth in enumerate(depths):
            title = f"depth {depth + 1} of {len(shares_by_depth)}"
            _draw_depth(figure, sizes, number, shares_by_depth[depth], title, chosen)
        return write_chart(figure, path)


def _sizes(labels: Sequence[str], n_depths: int, caption: str) -> _Sizes:
    n_runs = len(labels)
    side = min(9.0, max(5.0, 0.8 * n_runs))
    name_in = _name_in(labels)
    left = _MARGIN_IN + name_in
    width = left + side + _BAR_IN
    n_lines = len(_wrapped(caption, width).splitlines())
    header = 0.95 + 0.24 * n_lines + 0.45

    below = _MARGIN_IN
    if n_runs <= _MOST_NAMED_BELOW:
        below += 0.66 * name_in
    depth_side = 0.0
    if n_depths:
        per_row = min(n_depths, 4)
        depth_side = (width - 2 * _MARGIN_IN - (per_row - 1) * _DEPTH_GAP_IN) / per_row
        below += -(-n_depths // per_row) * (depth_side + _DEPTH_TITLE_IN)
    height = header + side + below
    return _Sizes(whole_pixels(width), whole_pixels(height), left, header, side, depth_side)


def _draw_pairs(
    figure: Any,
    sizes: _Sizes,
    labels: Sequence[str],
    distances: NDArray[np.float64],
    shares: NDArray[np.float64],
    are_alike: NDArray[np.bool_],
    theme: Theme,
) -> None:
    import seaborn

    n_runs = len(labels)
    bottom = sizes.height - sizes.header - sizes.side
    axes = figure.add_axes(_box(sizes, sizes.left, bottom, sizes.side, sizes.side))
    bar = figure.add_axes(_box(sizes, sizes.left + sizes.side + 0.12, bottom, 0.16, sizes.side))
    has_few = n_runs <= _MOST_NAMED_BELOW
    names = list(labels) if n_runs <= _MOST_NAMED else False
    texts = _cell_texts(distances, shares, are_alike) if n_runs <= _MOST_NUMBERED else False
    seaborn.heatmap(
        shares,
        ax=axes,
        cbar_ax=bar,
        **_SHARE_SCALE,
        linewidths=1.0 if has_few else 0.0,
        linecolor=theme.ground,
        annot=texts,
        fmt="",
        annot_kws={"fontsize": 11, "linespacing": 1.3},
        xticklabels=names if has_few else False,
        yticklabels=names,
    )
    bold = {"fontsize": 13, "fontweight": "bold", "color": theme.text}
    axes.set_title("Distance as a share of chance", loc="left", pad=8, **bold)
    axes.tick_params(length=0)
    style = {"color": theme.dim, "fontsize": 11 if has_few else 7}
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0, **style)
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticklabels(axes.get_xticklabels(), **turned, **style)
    bar.tick_params(length=0, labelsize=11, colors=theme.dim)
    hide_spines(bar)


def _draw_depth(
    figure: Any,
    sizes: _Sizes,
    number: int,
    shares: NDArray[np.float64],
    title: str,
    theme: Theme,
) -> None:
    """Draw one of the small heatmaps at the bottom, four in a row."""
    import seaborn

    row, column = divmod(number, 4)
    pitch = sizes.depth_side + _DEPTH_TITLE_IN
    rows_in = sizes.height - sizes.header - sizes.side
    n_rows = int(rows_in // pitch)
    bottom = 0.5 * _MARGIN_IN + (n_rows - 1 - row) * pitch
    left = _MARGIN_IN + column * (sizes.depth_side + _DEPTH_GAP_IN)
    axes = figure.add_axes(_box(sizes, left, bottom, sizes.depth_side, sizes.depth_side))
    seaborn.heatmap(
        shares,
        ax=axes,
        cbar=False,
        **_SHARE_SCALE,
        xticklabels=False,
        yticklabels=False,
    )
    axes.set_title(title, loc="left", fontsize=11, color=theme.dim, pad=4)


def _cell_texts(
    distances: NDArray[np.float64], shares: NDArray[np.float64], are_alike: NDArray[np.bool_]
) -> NDArray[np.str_]:
    """Return the distance over its share of chance, which has a star where two runs are alike."""
    texts = np.full(distances.shape, "", dtype=object)
    for index, distance in np.ndenumerate(distances):
        first, second = index
        if first != second:
            star = "*" if are_alike[index] else ""
            texts[index] = f"{distance:.3f}\n{shares[index]:.2f}{star}"
    return texts


def _box(
    sizes: _Sizes, left: float, bottom: float, width: float, height: float
) -> tuple[float, float, float, float]:
    """Return inches as matplotlib's shares of the figure."""
    across, down = sizes.width, sizes.height
    return left / across, bottom / down, width / across, height / down


def _name_in(labels: Sequence[str]) -> float:
    letter_in = 0.1 if len(labels) <= _MOST_NAMED_BELOW else 0.065
    return letter_in * max(map(len, labels)) + 0.05


def _wrapped(caption: str, width: float) -> str:
    # A number and its sign stay on one line.
    unbroken = caption.replace(" %", "\u00a0%")
    return textwrap.fill(unbroken, int((width - 2 * _MARGIN_IN) * _LETTERS_IN_CAPTION))


def _evenly(n: int, most: int) -> list[int]:
    return sorted(set(np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()))
