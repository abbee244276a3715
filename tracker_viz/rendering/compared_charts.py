"""Pictures of a comparison's numbers, by seaborn: how far the runs are from each other, and all
heads grouped by what they did.

    write_distance_chart(path, labels, overall, by_depth, shuffled)
    write_cluster_chart(path, values, linkage, labels, runs, scores)

Arrays and names go in, one PNG each comes out; the comparison's own values are turned into these by
the pipeline.
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
_MOST_NUMBERED = 12  # runs whose distances are written into the cells
_MOST_NAMED_RUNS = 64
_MOST_NAMED_BELOW = (
    24  # names of more than so many columns run into each other; the rows have the same
)
_MOST_NAMED_HEADS = 110
_MOST_DEPTHS = 8


def write_distance_chart(
    path: Path | str,
    labels: Sequence[str],
    overall: NDArray[np.float64],
    by_depth: NDArray[np.float64],
    shuffled: NDArray[np.float64],
    *,
    theme: str | Theme = "dark",
) -> Path:
    """Heatmaps of the distances between runs: overall, as a share of what chance gives, and of each
    depth alone.

    Args:
        labels: names of the runs.
        overall, shuffled: [run, run], 0..1; ``shuffled``: what is to be expected of heads paired at
            random.
        by_depth: [depth, run, run].
    """
    import seaborn
    from matplotlib.figure import Figure

    chosen = theme_by_name(theme)
    n_runs, depths = len(labels), _evenly(len(by_depth), _MOST_DEPTHS)
    apart = ~np.eye(n_runs, dtype=bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(shuffled > 0, overall / shuffled, np.nan)
    high = (
        float(np.nanmax(np.concatenate([overall[apart], by_depth[:, apart].ravel()]), initial=0.0))
        or 1.0
    )
    with _drawing(chosen):
        side = min(9.0, max(4.2, 0.62 * n_runs + 1.0))
        name_in = 0.085 * max(map(len, labels)) * (1.0 if n_runs <= 24 else 0.6)
        small = 1.9 if len(depths) > 1 else 0.0
        few = n_runs <= _MOST_NAMED_BELOW
        above, below = 1.45, 0.66 * name_in + 0.35 if few else 0.25
        width, total = (
            2 * side + name_in + 2.6,
            above + side + below + (small + 0.45 if small else 0.0),
        )
        figure = Figure((width, total), dpi=_DPI)
        names = list(labels) if n_runs <= _MOST_NAMED_RUNS else False
        options: dict[str, Any] = {
            "square": True,
            "linewidths": 1.0 if n_runs <= 24 else 0.0,
            "linecolor": chosen.ground,
        }
        font = {"fontsize": 9 if n_runs <= 24 else 6}
        numbered = {"annot": n_runs <= _MOST_NUMBERED, "annot_kws": {"fontsize": 9}}
        bottom = total - above - side
        shares = (
            (name_in + 0.35, overall, "magma", high, ".3f"),
            (name_in + 0.35 + side + 1.05, relative, "viridis", 1.0, ".2f"),
        )
        titles = ("Specialisation distance", "As a share of chance (heads paired at random)")
        for (left, matrix, cmap, top, form), title in zip(shares, titles, strict=True):
            axes = figure.add_axes((left / width, bottom / total, side / width, side / total))
            bar = figure.add_axes(
                ((left + side + 0.12) / width, bottom / total, 0.14 / width, side / total)
            )
            is_first = matrix is overall
            seaborn.heatmap(
                matrix, ax=axes, cbar_ax=bar, cmap=cmap, vmin=0, vmax=top, fmt=form, **options, **numbered,
                xticklabels=names if few else False, yticklabels=names if is_first else False,
            )  # fmt: skip
            _tidy(axes, bar, chosen, font)
            axes.set_title(
                title, loc="left", fontsize=12, color=chosen.text, pad=8, fontweight="bold"
            )
        figure.text(
            0.35 / width,
            1 - 0.42 / total,
            "How alike the runs' heads became",
            fontsize=17,
            color=chosen.text,
            fontweight="bold",
            va="center",
        )
        figure.text(
            0.35 / width,
            1 - 0.72 / total,
            _caption(overall, shuffled, apart),
            fontsize=10,
            color=chosen.dim,
            va="center",
        )
        for number, depth in enumerate(depths if small else ()):
            pitch = min(small + 0.35, (width - name_in - 0.7) / len(depths))
            axes = figure.add_axes(
                (
                    (name_in + 0.35 + number * pitch) / width,
                    0.2 / total,
                    (pitch - 0.3) / width,
                    (pitch - 0.3) / total,
                )
            )
            seaborn.heatmap(
                by_depth[depth],
                ax=axes,
                cbar=False,
                cmap="magma",
                vmin=0,
                vmax=high,
                square=True,
                xticklabels=False,
                yticklabels=False,
            )
            axes.set_title(
                f"depth {depth + 1} of {len(by_depth)}",
                loc="left",
                fontsize=9,
                color=chosen.dim,
                pad=4,
            )
        return _written(figure, path)


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
    width, height = 15.0, body + 1.9
    strips = {"run": [colors[run] for run in runs]}
    if roles is not None:
        strips["role"] = [
            chosen.roles.get(role, chosen.faint) if role else chosen.ground for role in roles
        ]
    index = range(n_heads)
    with _drawing(chosen):
        with _figures_without_backend():
            grid = seaborn.clustermap(
                pandas.DataFrame(values, index=index), row_linkage=linkage, col_cluster=False, cmap=chosen.attention, vmin=0, vmax=1,
                row_colors=pandas.DataFrame(strips, index=index), xticklabels=False, yticklabels=list(labels) if named else False,
                figsize=(width, height), tree_kws={"colors": chosen.dim, "linewidths": 0.9}, rasterized=False,
            )  # fmt: skip
        figure = grid.figure
        name_in = 0.2 + (0.078 * max(map(len, labels)) if named else 0.0)
        strip_in = 0.24 * len(strips)
        legend_in = 0.4 + 0.085 * max(12, *map(len, order))
        left, bottom, top = 2.1, 0.35, height - 1.45
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
        place(grid.ax_cbar, width - legend_in, height - 1.75, min(1.6, legend_in - 0.35), 0.13)
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
            (height - 2.35) / height,
            [Patch(color=colors[run]) for run in order],
            order,
            "run",
            chosen,
        )
        if roles is not None and (found := [role for role in chosen.roles if role in roles]):
            patches = [Patch(color=chosen.roles[role]) for role in found]
            high = 2.35 + 0.19 * (min(len(order), 40) + 3)
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
        caption = "A row is a head, a band of columns one score from the start of training to its end. Rows that join early behaved alike."
        figure.text(
            0.3 / width, 1 - 0.74 / height, caption, fontsize=10, color=chosen.dim, va="center"
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
def _drawing(theme: Theme) -> Iterator[None]:
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


def _tidy(axes: Any, bar: Any, theme: Theme, font: dict[str, Any]) -> None:
    axes.tick_params(length=0)
    axes.set_xticklabels(
        axes.get_xticklabels(),
        rotation=40,
        ha="right",
        rotation_mode="anchor",
        color=theme.dim,
        **font,
    )
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0, color=theme.dim, **font)
    bar.tick_params(length=0, labelsize=8, colors=theme.dim)
    for spine in bar.spines.values():
        spine.set_visible(False)


def _caption(
    overall: NDArray[np.float64], shuffled: NDArray[np.float64], apart: NDArray[np.bool_]
) -> str:
    between, chance = overall[apart], shuffled[apart]
    if not np.isfinite(between).any():
        return "No head of one run could be compared with one of another."
    low, high, mean = np.nanmin(between), np.nanmax(between), np.nanmean(between)
    found = (
        f"Between these runs {low:.3f} to {high:.3f}, mean {mean:.3f}"
        if len(overall) > 2
        else f"Between these two runs {mean:.3f}"
    )
    return f"0: the same heads, in whichever order. {found}; heads paired at random: {np.nanmean(chance):.3f}."


def _score_titles(axes: Any, scores: Sequence[str], n_columns: int, theme: Theme) -> None:
    wide = n_columns / len(scores)
    for number, score in enumerate(scores):
        axes.text(
            (number + 0.5) * wide,
            -0.012 * axes.get_ylim()[0],
            textwrap.fill(score.replace("_", " "), 14),
            ha="center",
            va="bottom",
            fontsize=10,
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
    axes.tick_params(length=0, labelsize=9, colors=theme.dim)
    axes.set_title("score", fontsize=10, color=theme.text, loc="left", pad=5)
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
        patches, names, loc="upper left", bbox_to_anchor=(x - 0.004, y), fontsize=9, title=title, title_fontsize=10, frameon=False,
        labelcolor=theme.dim, handlelength=0.9, handleheight=0.9, borderpad=0, borderaxespad=0, labelspacing=0.35, alignment="left",
    )  # fmt: skip
    legend.get_title().set_color(theme.text)
    figure.add_artist(legend)


def _evenly(n: int, most: int) -> list[int]:
    return sorted(set(np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()))


def _written(figure: Any, path: Path | str) -> Path:
    contents = io.BytesIO()
    figure.savefig(contents, format="png", dpi=_DPI)
    return write_whole(contents.getvalue(), with_suffix(path, (".png",)))
