"""Share parts among the charts of a comparison: the theme in matplotlib, the header, the file.

Called by ``change_chart``, ``cluster_chart``, ``distance_chart`` and ``onset_chart``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tracker_viz.rendering.backend import MPL_LOCK
from tracker_viz.rendering.export.images import with_suffix, write_whole
from tracker_viz.rendering.theme import Theme, fixed_style

CHART_DPI = 120


@contextmanager
def drawing(theme: Theme) -> Iterator[None]:
    """Set matplotlib to the theme's colors, for one figure at a time."""
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


def whole_pixels(inches: float) -> float:
    """Round up to whole pixels: a part of one would be blended with what is behind the picture."""
    return float(np.ceil(inches * CHART_DPI)) / CHART_DPI


def write_header(
    figure: Any,
    left_in: float,
    title: str,
    explained: str,
    theme: Theme,
    *,
    size: float = 18,
    below_in: float,
) -> None:
    """Write a title in the upper left corner, and ``below_in`` inches from the top what the chart
    shows."""
    width, height = figure.get_size_inches()
    x = left_in / width
    bold = {"fontsize": size, "fontweight": "bold", "color": theme.text}
    figure.text(x, 1 - 0.42 / height, title, va="center", **bold)
    plain = {"fontsize": 11, "color": theme.dim, "linespacing": 1.35}
    figure.text(x, 1 - below_in / height, explained, va="top", **plain)


def hide_spines(axes: Any) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)


def write_chart(figure: Any, path: Path | str) -> Path:
    """Write the figure as a PNG; return its path, which ends in ``.png``."""
    contents = io.BytesIO()
    figure.savefig(contents, format="png", dpi=CHART_DPI)
    return write_whole(contents.getvalue(), with_suffix(path, (".png",)))
