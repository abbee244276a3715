"""Find the weight matrices that a panel means, in the order of the computation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.layout import Attention, Weights
from tracker_viz.rendering.measuring import ValueRange
from tracker_viz.rendering.planning.content.names import block_of, kind_of
from tracker_viz.rendering.planning.plan_builder import Measured, PlanBuilder
from tracker_viz.rendering.sources import WeightMap, order_by_direction, order_by_norm

_SIDES = {"out": "output", "in": "input"}
_ORDERS = {"norm": "changed most first", "direction": "by direction of change"}
# An adapter's own matrices, ``attn.w_q.lora_a`` and ``attn.w_q.lora_b``.
_OF_ADAPTER = ".lora_"
# In the order of the computation.
_MATRIX_ORDER = ("w_q", "w_k", "w_v", "w_o", "w_gate", "w_up", "w_in", "w_down", "w_out")


@dataclass(frozen=True)
class Matrices:
    """Weight matrices of one panel: ``blocks[i]`` maps a kind (``mlp.w_up``) to the name of its
    array."""

    panel: Weights
    title: str
    scale: str
    kinds: list[str]
    blocks: list[dict[str, str]]
    sides: tuple[str, ...]
    block_numbers: tuple[int, ...]

    def of(self, numbers: Sequence[int]) -> Matrices:
        """Return the matrices of the blocks with these numbers, none of those that are not here."""
        there = dict(zip(self.block_numbers, self.blocks, strict=True))
        blocks = [there.get(number, {}) for number in numbers]
        return replace(self, blocks=blocks, block_numbers=tuple(numbers))

    @property
    def columns(self) -> int:
        return len(self.kinds)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the sides of a map: with the order of its rows and columns, without, and in
        short."""
        down, across = (_SIDES.get(side, side) for side in self.sides)
        whole = f"{down} ↓ {across} →"
        short = f"{self.sides[0]} ↓ {self.sides[1]} →"
        if self.panel.order not in _ORDERS:
            return whole, short
        return f"{whole} · {_ORDERS[self.panel.order]}", whole, short


def resolve_weights(builder: PlanBuilder, panel: Weights) -> Matrices:
    """Return the matrices that match the panel's patterns, in the order of the computation."""
    series, layout = builder.series, builder.layout.name
    found: dict[int, dict[str, str]] = {}
    sides: tuple[str, ...] = ()
    for pattern in panel.matrices:
        for name in series.names(f"blocks.*.{pattern}"):
            if _OF_ADAPTER in name and _OF_ADAPTER not in pattern:
                continue  # attn.w_* means weights, and not an adapter's own matrices beside them
            array = series.require(name, layout)
            if len(array.shape) == 2:
                found.setdefault(block_of(name), {})[kind_of(name)] = name
                sides = sides or _sides_of(name, array.axes)
    if not found:
        have = sorted({kind_of(name) for name in series.names("blocks.*")})[:12]
        raise LayoutError(
            f"layout {layout!r} draws matrices named {' or '.join(panel.matrices)}, and the "
            f"captures hold none; they hold: {', '.join(have) or 'none'}"
        )
    kinds = sorted(set[str]().union(*found.values()), key=_matrix_rank)
    what = "Adapter" if all(_OF_ADAPTER in kind for kind in kinds) else "Weight"
    title = {
        "change": f"{what} change since step {series.steps[0]:,}",
        "value": f"{what}s",
        "step": f"{what} change since the previous capture",
    }[panel.show]
    if panel.reduce == "mean" and panel.show != "value":
        title = f"Signed {title[0].lower()}{title[1:]}"
    scale = f"weights_{panel.show}_{panel.reduce}"
    blocks = [found[block] for block in sorted(found)]
    return Matrices(panel, title, scale, kinds, blocks, sides, tuple(sorted(found)))


def _sides_of(name: str, axes: tuple[str, ...]) -> tuple[str, ...]:
    """Return what runs down and across a matrix; one side of an adapter's is its rank."""
    own = name.partition(_OF_ADAPTER)[2]
    return {"a": ("rank", "in"), "b": ("out", "rank")}.get(own[:1], axes)


def weight_source(
    builder: PlanBuilder,
    panel: Weights,
    name: str,
    cells: tuple[int, int],
    ends: tuple[NDArray[Any], NDArray[Any]],
) -> WeightMap:
    """Return the map of one matrix, with its rows and columns in their fixed order.

    ``ends``: the matrix at the first and at the last capture.
    """
    rows, columns = builder.series.require(name, builder.layout.name).shape
    change = ends[1].astype(np.float32) - ends[0].astype(np.float32)
    if panel.order == "norm":
        order = order_by_norm(change)
    elif panel.order == "direction":
        order = order_by_direction(change)
    else:
        order = (np.arange(rows), np.arange(columns))
    return WeightMap(name, cells, order, panel.show, panel.reduce)


def add_weight_scale(builder: PlanBuilder, matrices: Matrices) -> None:
    """Add the scale of weights: up to the value below which all but the largest 0.5 % of the cells
    of any capture stay."""
    options = partial(_weight_options, builder, matrices.panel)
    builder.add_scale(matrices.scale, "weights", Measured("weights", 0.995, options))


def _weight_options(builder: PlanBuilder, panel: Weights, reach: ValueRange) -> dict[str, Any]:
    largest = reach.quantile or 1.0
    shown = {
        "change": f"weight change since step {builder.series.steps[0]:,}",
        "value": "weight",
        "step": "weight change since the previous capture",
    }[panel.show]
    if panel.reduce == "mean":
        return {
            "title": f"{shown} (mean)",
            "cmap": builder.theme.signed,
            "minimum": -largest,
            "maximum": largest,
            "reached": (-reach.maximum, reach.maximum),
        }
    beside_attention = any(isinstance(each, Attention) for each in builder.layout.panels)
    options: dict[str, Any] = {
        "title": f"{shown} (RMS)",
        "cmap": builder.theme.quiet if beside_attention else builder.theme.magnitude,
        "minimum": 0.0,
        "maximum": largest,
        "reached": (0.0, reach.maximum),
    }
    if panel.show == "step":
        options |= {"minimum": largest * 10**-1.5, "norm": "log"}
    return options


def short_kind(kind: str) -> str:
    """Shorten a matrix's kind: ``mlp.w_gate`` -> ``gate``; ``attn.w_q.lora_a`` -> ``q A``."""
    of, _, own = kind.partition(_OF_ADAPTER)
    return f"{of.rsplit('.', 1)[-1].removeprefix('w_')} {own.upper()}".strip()


def matrix_title(kind: str) -> str:
    """Write a matrix's title: ``mlp.w_gate`` -> ``FFN gate``.

    ``attn.w_q.lora_a`` -> ``attention q A``.
    """
    station = kind.partition(_OF_ADAPTER)[0].rpartition(".")[0]
    station = {"mlp": "FFN", "attn": "attention"}.get(station, station)
    return f"{station} {short_kind(kind)}".strip()


def _matrix_rank(kind: str) -> tuple[bool, int, str]:
    """Return what sorts matrices: attention before FFN, then as they are computed."""
    name = kind.partition(_OF_ADAPTER)[0].rsplit(".", 1)[-1]
    place = _MATRIX_ORDER.index(name) if name in _MATRIX_ORDER else len(_MATRIX_ORDER)
    return kind.startswith("mlp"), place, kind
