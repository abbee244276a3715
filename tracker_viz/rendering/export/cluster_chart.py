"""Draw all heads of several runs, grouped by what they did, with seaborn's ``clustermap``.

Arrays and names go in, one PNG comes out; the pipeline makes the arrays from a comparison.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import role_label
from tracker_viz.rendering.export.chart import (
    drawing,
    hide_spines,
    whole_pixels,
    write_chart,
    write_header,
)
from tracker_viz.rendering.planning.cards import score_title
from tracker_viz.rendering.theme import Theme, run_colors
from tracker_viz.rendering.theme import theme as theme_by_name

_MOST_NAMED_HEADS = 110
_MOST_IN_LEGEND = 40
_LEGEND_LINE_IN = 0.215
_EXPLAINED = (
    "A row is a head, a band of columns one score from the start of training to its end.\n"
    "Rows that join early behaved alike."
)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Inches of the parts of the picture."""

    width: float
    height: float
    names: float
    legend: float
    strips: float

    @property
    def top(self) -> float:
        return self.height - 1.8

    @property
    def legend_left(self) -> float:
        return self.width - self.legend

    def box(self, x: float, y: float, width: float, height: float) -> tuple[float, ...]:
        """Return inches as matplotlib's shares of the figure."""
        return x / self.width, y / self.height, width / self.width, height / self.height


def write_cluster_chart(
    path: Path | str,
    values: NDArray[np.float32],
    linkage: NDArray[np.float64],
    labels: Sequence[str],
    runs: Sequence[str],
    scores: Sequence[str],
    *,
    roles: Sequence[str | None] | None = None,
    theme: str | Theme = "dark",
) -> Path:
    """Draw a dendrogram heatmap: one row per head of any run, like ones together, its scores over
    time along the row.

    Args:
        values: [head, score * point], 0..1, one score after the other.
        linkage: tree of the rows as ``scipy.cluster.hierarchy`` makes it.
        labels, runs: for each row the head's name, and the label of the run it belongs to.
        scores: names of the scores, in the order of the columns.
        roles: what each row does at the end; None for a head without a role.
    """
    chosen = theme_by_name(theme)
    order = list(dict.fromkeys(runs))
    colors = dict(zip(order, run_colors(len(order), chosen), strict=True))
    n_heads = len(labels)
    named = labels if n_heads <= _MOST_NAMED_HEADS else ()
    strips = {"run": [colors[run] for run in runs]}
    if roles is not None:
        strips["role"] = [_role_color(role, chosen) for role in roles]
    sizes = _sizes(named, n_heads, order, len(strips))
    with drawing(chosen):
        grid = _clustered(values, linkage, strips, named, sizes, chosen)
        _place_parts(grid, sizes)
        _score_titles(grid.ax_heatmap, scores, values.shape[1], chosen)
        grid.ax_heatmap.tick_params(
            axis="y", labelsize=7.5, colors=chosen.dim, length=0, rotation=0
        )
        _horizontal_bar(grid, chosen)
        _write_legends(grid.figure, sizes, colors, roles or (), chosen)
        title = (
            f"{n_heads:,} heads of {len(order)} runs, grouped by what they did over the training"
        )
        write_header(grid.figure, 0.3, title, _EXPLAINED, chosen, size=17, below_in=0.7)
        return write_chart(grid.figure, path)


def _clustered(
    values: NDArray[np.float32],
    linkage: NDArray[np.float64],
    strips: Mapping[str, Sequence[str]],
    labels: Sequence[str],
    sizes: _Sizes,
    theme: Theme,
) -> Any:
    """Return seaborn's grid of the dendrogram, the strips of colors beside it, and the heatmap."""
    import pandas
    import seaborn

    index = range(len(values))
    with _figures_without_backend():
        return seaborn.clustermap(
            pandas.DataFrame(values, index=index),
            row_linkage=linkage,
            col_cluster=False,
            cmap=theme.attention,
            vmin=0,
            vmax=1,
            row_colors=pandas.DataFrame(strips, index=index),
            xticklabels=False,
            yticklabels=list(labels) or False,
            figsize=(sizes.width, sizes.height),
            tree_kws={"colors": theme.dim, "linewidths": 0.9},
            rasterized=False,
        )


def _sizes(labels: Sequence[str], n_heads: int, runs: Sequence[str], n_strips: int) -> _Sizes:
    """Return the sizes of a picture of ``n_heads`` rows, of which ``labels`` are written."""
    row_in = 0.15 if labels else float(np.clip(11.0 / n_heads, 0.018, 0.05))
    names = 0.2 + 0.078 * max(map(len, labels), default=0)
    legend = 0.4 + 0.1 * max(14, *map(len, runs))
    # Narrow, so that its letters can be read where a tracker shows it 700 pixels wide.
    width = max(11.0, 8.2 + legend + names)
    height = max(4.5, row_in * n_heads) + 2.25
    strips = 0.24 * n_strips
    return _Sizes(whole_pixels(width), whole_pixels(height), names, legend, strips)


def _place_parts(grid: Any, sizes: _Sizes) -> None:
    left, bottom = 1.7, 0.35
    high = sizes.top - bottom
    right = sizes.width - sizes.legend - sizes.names - 0.25
    map_left = left + sizes.strips + 0.06
    bar_in = min(1.6, sizes.legend - 0.35)
    grid.ax_row_dendrogram.set_position(sizes.box(0.3, bottom, left - 0.35, high))
    grid.ax_row_colors.set_position(sizes.box(left, bottom, sizes.strips, high))
    grid.ax_heatmap.set_position(sizes.box(map_left, bottom, right - map_left + 0.06, high))
    grid.ax_cbar.set_position(sizes.box(sizes.legend_left, sizes.height - 2.1, bar_in, 0.13))
    grid.ax_col_dendrogram.set_visible(False)
    grid.ax_row_colors.set(xticks=[])


def _write_legends(
    figure: Any,
    sizes: _Sizes,
    runs: Mapping[str, str],
    roles: Sequence[str | None],
    theme: Theme,
) -> None:
    """Write what the colors beside the rows mean: runs, and below them the roles that are there."""
    x, y_in = sizes.legend_left / sizes.width, sizes.height - 2.7
    _legend(figure, x, y_in / sizes.height, runs, "run", theme)
    found = {role_label(role): theme.roles[role] for role in theme.roles if role in roles}
    if found:
        y_in -= _LEGEND_LINE_IN * (min(len(runs), _MOST_IN_LEGEND) + 3)
        _legend(figure, x, y_in / sizes.height, found, "role at the end", theme)


def _role_color(role: str | None, theme: Theme) -> str:
    if role is None:
        return theme.ground
    return theme.roles.get(role, theme.faint)


@contextmanager
def _figures_without_backend() -> Iterator[None]:
    """Let seaborn's clustermap make its figure without pyplot, whose backend may need a display or
    a package that is not here. Call it with ``MPL_LOCK`` held."""
    from matplotlib import pyplot
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from seaborn import matrix, utils

    made: list[Figure] = []

    def figure(**options: Any) -> Figure:
        made.append(Figure(**options))
        FigureCanvasAgg(made[-1])
        return made[-1]

    stand_in = SimpleNamespace(figure=figure, gcf=lambda: made[-1], setp=pyplot.setp)
    matrix.plt, utils.plt = stand_in, stand_in
    try:
        yield
    finally:
        matrix.plt, utils.plt = pyplot, pyplot


def _score_titles(axes: Any, scores: Sequence[str], n_columns: int, theme: Theme) -> None:
    wide = n_columns / len(scores)
    for number, score in enumerate(scores):
        axes.text(
            (number + 0.5) * wide,
            -0.012 * axes.get_ylim()[0],
            textwrap.fill(score_title(f"scores.head.{score}"), 10),
            ha="center",
            va="bottom",
            fontsize=11.5,
            color=theme.text,
        )
        if number:
            axes.axvline(number * wide, color=theme.ground, lw=2.5)
    axes.set(xlabel="", ylabel="")


def _horizontal_bar(grid: Any, theme: Theme) -> None:
    """Draw the color bar again, flat, where the legend stands: seaborn's is upright."""
    axes = grid.ax_cbar
    axes.clear()
    grid.figure.colorbar(
        grid.ax_heatmap.collections[0], cax=axes, orientation="horizontal", ticks=[0, 0.5, 1]
    )
    axes.tick_params(length=0, labelsize=10.5, colors=theme.dim)
    axes.set_title("score", fontsize=11.5, color=theme.text, loc="left", pad=5)
    hide_spines(axes)


def _legend(
    figure: Any, x: float, y: float, colors: Mapping[str, str], title: str, theme: Theme
) -> None:
    from matplotlib.patches import Patch

    names = list(colors)[:_MOST_IN_LEGEND]
    patches = [Patch(color=colors[name]) for name in names]
    if len(colors) > len(names):
        names.append(f"and {len(colors) - len(names)} more")
        patches.append(Patch(alpha=0))
    legend = figure.legend(
        patches,
        names,
        loc="upper left",
        bbox_to_anchor=(x - 0.004, y),
        fontsize=10.5,
        title=title,
        title_fontsize=11.5,
        frameon=False,
        labelcolor=theme.dim,
        handlelength=0.9,
        handleheight=0.9,
        borderpad=0,
        borderaxespad=0,
        labelspacing=0.35,
        alignment="left",
    )
    legend.get_title().set_color(theme.text)
    figure.add_artist(legend)
