"""Draws all heads of several runs, grouped by what they did, with seaborn's ``clustermap``.

Arrays and names go in, one PNG comes out; the comparison's own values are turned into these by the
pipeline.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.compared_plan import run_colors
from tracker_viz.rendering.stills import with_suffix, write_whole
from tracker_viz.rendering.template import MPL_LOCK
from tracker_viz.rendering.theme import Theme, fixed_style
from tracker_viz.rendering.theme import theme as theme_by_name

_DPI = 120
_MOST_NAMED_HEADS = 110


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
    """A dendrogram heatmap (``seaborn.clustermap``): one row per head of any run, like ones
    together, its scores over time along the row.

    Args:
        values: [head, score * point], 0..1, one score after the other.
        linkage: tree of the rows as ``scipy.cluster.hierarchy`` makes it.
        labels, runs: of the rows: its name, and the run (its label) that it belongs to.
        scores: along the columns.
        roles: of each row at the end; None for a head without one.
    """
    import pandas
    import seaborn
    from matplotlib.patches import Patch

    chosen = theme_by_name(theme)
    order = list(dict.fromkeys(runs))
    colors = dict(zip(order, run_colors(len(order), chosen), strict=True))
    n_heads = len(labels)
    named = n_heads <= _MOST_NAMED_HEADS
    row_in = 0.15 if named else max(0.018, min(0.05, 11.0 / n_heads))
    body = max(4.5, row_in * n_heads)
    name_in = 0.2 + (0.078 * max(map(len, labels)) if named else 0.0)
    legend_in = 0.4 + 0.1 * max(14, *map(len, order))
    # Narrow, so that its letters can be read where a tracker shows it 700 pixels wide.
    width = np.ceil(_DPI * max(11.0, 8.2 + legend_in + name_in)) / _DPI
    height = np.ceil(_DPI * (body + 2.25)) / _DPI
    strips = {"run": [colors[run] for run in runs]}
    if roles is not None:
        strips["role"] = [
            chosen.roles.get(role, chosen.faint) if role else chosen.ground for role in roles
        ]
    index = range(n_heads)
    with drawing(chosen):
        with _figures_without_backend():
            grid = seaborn.clustermap(
                pandas.DataFrame(values, index=index), row_linkage=linkage, col_cluster=False, cmap=chosen.attention, vmin=0, vmax=1,
                row_colors=pandas.DataFrame(strips, index=index), xticklabels=False, yticklabels=list(labels) if named else False,
                figsize=(width, height), tree_kws={"colors": chosen.dim, "linewidths": 0.9}, rasterized=False,
            )  # fmt: skip
        figure = grid.figure
        strip_in = 0.24 * len(strips)
        left, bottom, top = 1.7, 0.35, height - 1.8
        right = width - legend_in - name_in - 0.25

        def place(axes: Any, x: float, y: float, wide: float, high: float) -> None:
            axes.set_position((x / width, y / height, wide / width, high / height))

        place(grid.ax_row_dendrogram, 0.3, bottom, left - 0.35, top - bottom)
        place(grid.ax_row_colors, left, bottom, strip_in, top - bottom)
        place(
            grid.ax_heatmap,
            left + strip_in + 0.06,
            bottom,
            right - left - strip_in,
            top - bottom,
        )
        place(grid.ax_cbar, width - legend_in, height - 2.1, min(1.6, legend_in - 0.35), 0.13)
        grid.ax_col_dendrogram.set_visible(False)
        grid.ax_row_colors.set(xticks=[])
        _score_titles(grid.ax_heatmap, scores, values.shape[1], chosen)
        grid.ax_heatmap.tick_params(
            axis="y", labelsize=7.5, colors=chosen.dim, length=0, rotation=0
        )
        _horizontal_bar(grid, chosen)
        _legend(
            figure,
            (width - legend_in) / width,
            (height - 2.7) / height,
            [Patch(color=colors[run]) for run in order],
            order,
            "run",
            chosen,
        )
        if roles is not None and (found := [role for role in chosen.roles if role in roles]):
            patches = [Patch(color=chosen.roles[role]) for role in found]
            high = 2.7 + 0.215 * (min(len(order), 40) + 3)
            _legend(
                figure,
                (width - legend_in) / width,
                (height - high) / height,
                patches,
                [role.replace("_", " ") for role in found],
                "role at the end",
                chosen,
            )
        title = (
            f"{n_heads:,} heads of {len(order)} runs, grouped by what they did over the training"
        )
        figure.text(
            0.3 / width,
            1 - 0.42 / height,
            title,
            fontsize=17,
            color=chosen.text,
            fontweight="bold",
            va="center",
        )
        caption = (
            "A row is a head, a band of columns one score from the start of training to its end.\n"
            "Rows that join early behaved alike."
        )
        figure.text(
            0.3 / width,
            1 - 0.7 / height,
            caption,
            fontsize=11,
            color=chosen.dim,
            va="top",
            linespacing=1.35,
        )
        return _written(figure, path)


@contextmanager
def _figures_without_backend() -> Iterator[None]:
    """Let seaborn's clustermap make its figure without pyplot, whose backend may need a display or a
    package that is not here. Call it with ``MPL_LOCK`` held."""
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


@contextmanager
def drawing(theme: Theme) -> Iterator[None]:
    """Matplotlib in the theme's colors, one figure at a time."""
    import matplotlib

    with MPL_LOCK, fixed_style(), matplotlib.rc_context(
        {
            "figure.facecolor": theme.ground,
            "savefig.facecolor": theme.ground,
            "axes.facecolor": theme.panel,
            "text.color": theme.text,
            "axes.labelcolor": theme.dim,
            "xtick.color": theme.dim,
            "ytick.color": theme.dim,
            "axes.edgecolor": theme.faint,
        }
    ):  # fmt: skip
        yield


def _score_titles(axes: Any, scores: Sequence[str], n_columns: int, theme: Theme) -> None:
    wide = n_columns / len(scores)
    for number, score in enumerate(scores):
        axes.text(
            (number + 0.5) * wide,
            -0.012 * axes.get_ylim()[0],
            textwrap.fill(score.replace("_", " "), 10),
            ha="center",
            va="bottom",
            fontsize=11.5,
            color=theme.text,
        )
        if number:
            axes.axvline(number * wide, color=theme.ground, lw=2.5)
    axes.set(xlabel="", ylabel="")


def _horizontal_bar(grid: Any, theme: Theme) -> None:
    """seaborn's colour bar is upright; drawn again lying, where the legend stands."""
    axes = grid.ax_cbar
    axes.clear()
    grid.figure.colorbar(
        grid.ax_heatmap.collections[0], cax=axes, orientation="horizontal", ticks=[0, 0.5, 1]
    )
    axes.tick_params(length=0, labelsize=10.5, colors=theme.dim)
    axes.set_title("score", fontsize=11.5, color=theme.text, loc="left", pad=5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _legend(
    figure: Any,
    x: float,
    y: float,
    patches: Sequence[Any],
    names: Sequence[str],
    title: str,
    theme: Theme,
) -> None:
    from matplotlib.patches import Patch

    shown = 40
    more = [f"and {len(names) - shown} more"] if len(names) > shown else []
    patches, names = [*patches[:shown], *(Patch(alpha=0) for _ in more)], [*names[:shown], *more]
    legend = figure.legend(
        patches, names, loc="upper left", bbox_to_anchor=(x - 0.004, y), fontsize=10.5, title=title, title_fontsize=11.5, frameon=False,
        labelcolor=theme.dim, handlelength=0.9, handleheight=0.9, borderpad=0, borderaxespad=0, labelspacing=0.35, alignment="left",
    )  # fmt: skip
    legend.get_title().set_color(theme.text)
    figure.add_artist(legend)


def _written(figure: Any, path: Path | str) -> Path:
    contents = io.BytesIO()
    figure.savefig(contents, format="png", dpi=_DPI)
    return write_whole(contents.getvalue(), with_suffix(path, (".png",)))
