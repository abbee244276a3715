"""Place the few weight matrices that changed most, quietly beside what the picture is about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker_viz.rendering.plan import Box, Heatmap
from tracker_viz.rendering.planning.content import (
    Matrices,
    add_weight_scale,
    short_kind,
    weight_source,
)
from tracker_viz.rendering.planning.grid import fit_matrix
from tracker_viz.rendering.planning.plan_builder import PlanBuilder, next_even

_NAME = 20.0
# At 1080p: above each map for its name; between two maps; and how large a map should be, and at
# least.
_ABOVE, _BETWEEN, _WANTED, _LEAST = 26, 14, 120, 56
_MOST = 8
_MOST_WIDE = 1.6  # times as wide as high


@dataclass(frozen=True)
class _Changed:
    """One matrix, and how much it changed over the run: the root mean square of its entries."""

    block: int
    kind: str
    name: str
    change: float


def place_changed_matrices(builder: PlanBuilder, matrices: Matrices, box: Box) -> None:
    """Fill ``box`` with the matrices that changed most, under a title above it, in the order of
    the model. Nothing is placed where not one has room."""
    px = builder.px
    every = _by_change(builder, matrices)
    across, down = _fit(builder, len(every), box)
    if not across:
        return
    shown = every[: across * down]
    shown.sort(key=lambda each: (each.block, matrices.kinds.index(each.kind)))
    _write_title(builder, matrices, len(shown), len(every), box)
    pitch_x = (box.width + px(_BETWEEN)) // across
    pitch_y = (box.height + px(_BETWEEN)) // down
    high = pitch_y - px(_BETWEEN) - px(_ABOVE)
    wide = min(pitch_x - px(_BETWEEN), int(_MOST_WIDE * high))
    first, last = builder.series.read_ends([each.name for each in shown])
    for number, each in enumerate(shown):
        row, column = divmod(number, across)
        x = next_even(box.x + column * pitch_x)
        y = next_even(box.y + row * pitch_y + px(_ABOVE))
        shape = builder.series.require(each.name, builder.layout.name).shape
        place, cells = fit_matrix(builder, (shape[0], shape[1]), Box(x, y, wide, high))
        ends = (first[each.name], last[each.name])
        source = weight_source(builder, matrices.panel, each.name, cells, ends)
        name = f"{matrices.title} · {each.name}"
        builder.heatmaps.append(Heatmap(name, source, place, matrices.scale))
        text = f"L{each.block} {short_kind(each.kind)}"
        builder.text_within(pitch_x - px(6), text, x, y - px(8), _NAME)
    add_weight_scale(builder, matrices)


def changed_matrices_px(builder: PlanBuilder) -> int:
    """Return the least height of a box for ``place_changed_matrices``, its title left out."""
    return builder.px(_ABOVE + _LEAST)


def _by_change(builder: PlanBuilder, matrices: Matrices) -> list[_Changed]:
    """Return all matrices, the one that changed most first."""
    found = []
    for block, names in zip(matrices.block_numbers, matrices.blocks, strict=True):
        first, last = builder.series.read_ends(list(names.values()))
        for kind, name in names.items():
            change = last[name].astype(np.float32) - first[name].astype(np.float32)
            size = float(np.sqrt(np.mean(np.square(np.nan_to_num(change, posinf=0, neginf=0)))))
            found.append(_Changed(block, kind, name, size))
    return sorted(found, key=lambda each: (-each.change, each.block, each.kind))


def _fit(builder: PlanBuilder, n: int, box: Box) -> tuple[int, int]:
    """Return (maps side by side, below each other) of at most ``n`` maps of about the wanted size;
    (0, 0) where not one of the least size fits."""
    px = builder.px
    name = builder.text_width("L10 gate", _NAME) + px(6)
    widths = box.width + px(_BETWEEN), box.height + px(_BETWEEN)
    least = max(px(_LEAST), name) + px(_BETWEEN), px(_LEAST + _ABOVE + _BETWEEN)
    if widths[0] < least[0] or widths[1] < least[1]:
        return 0, 0
    wanted = max(px(_WANTED), name) + px(_BETWEEN), px(_WANTED + _ABOVE + _BETWEEN)
    across, down = (max(1, side // each) for side, each in zip(widths, wanted, strict=True))
    across = min(across, n, _MOST)
    return across, max(1, min(down, n // across, _MOST // across))


def _write_title(
    builder: PlanBuilder, matrices: Matrices, n_shown: int, n_all: int, box: Box
) -> None:
    axes = matrices.axes
    if n_shown < n_all:
        some = f"{n_shown} of {n_all} that changed most"
        axes = (f"{some} · {axes[-1]}", f"top {n_shown} of {n_all} · {axes[-1]}", axes[-1])
    baseline = box.y - builder.px(8)
    builder.heading(matrices.title, box.x, baseline, box.width, *axes)
