"""Find the arrays that a layout's panels mean in this run: names are resolved, shapes checked,
orders and ranges taken from the captures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.layout import Attention, LargeHead, Weights
from tracker_viz.rendering.measuring import ValueRange
from tracker_viz.rendering.planning.plan_builder import Measured, PlanBuilder
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.sources import (
    HeadMap,
    Moment,
    WeightMap,
    future,
    norms_name,
    order_by_direction,
    order_by_norm,
)

_SIDES = {"out": "output", "in": "input"}
_ORDERS = {"norm": "changed most first", "direction": "by direction of change"}
# An adapter's own matrices, ``attn.w_q.lora_a`` and ``attn.w_q.lora_b``.
_OF_ADAPTER = ".lora_"
# In the order of the computation.
_MATRIX_ORDER = ("w_q", "w_k", "w_v", "w_o", "w_gate", "w_up", "w_in", "w_down", "w_out")


@dataclass(frozen=True)
class Heads:
    """Attention, or mixing maps, of one probe row.

    Attributes:
        blocks: for each block the maps of its heads.
        indices: for each block its number and the numbers of its heads.
        notes: what a viewer must know, the most important first.
        is_mixing: maps that are no attention, whose heads never have a role.
    """

    title: str
    scale: str
    blocks: list[list[HeadMap]]
    indices: list[tuple[int, tuple[int, ...]]]
    length: int
    causal: bool
    notes: tuple[str, ...] = ()
    is_mixing: bool = False

    @property
    def columns(self) -> int:
        return max(len(heads) for heads in self.blocks)

    @property
    def block_numbers(self) -> tuple[int, ...]:
        return tuple(block for block, _ in self.indices)

    @property
    def probe(self) -> int | None:
        """Index of the probe's row; None where the captures hold one without an axis of rows."""
        return next(maps[0].probe for maps in self.blocks if maps)

    def of(self, numbers: Sequence[int]) -> Heads:
        """Return the maps of the blocks with these numbers, none of those that are not here."""
        maps = dict(zip(self.block_numbers, self.blocks, strict=True))
        heads = dict(self.indices)
        blocks = [maps.get(number, []) for number in numbers]
        return replace(self, blocks=blocks, indices=[(n, heads.get(n, ())) for n in numbers])

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """Numbers of the heads by column; None where a column holds different heads of different
        blocks, because not all were kept."""
        longest = max((numbers for _, numbers in self.indices), key=len)
        if any(numbers != longest[: len(numbers)] for _, numbers in self.indices):
            return None
        return longest

    def axes(self, pool: int = 1) -> tuple[str, ...]:
        """Return what runs down and across a map, with all notes, and with fewer where there is
        less room. All of them say how maps are pooled.

        Args:
            pool: entries of a cell's side; a cell shows the largest of them.
        """
        said = ["query ↓ key →", *([f"max of {pool} × {pool}"] if pool > 1 else [])]
        offers = []
        for n_notes in range(len(self.notes), -1, -1):
            offers.append(" · ".join([*said, *self.notes[:n_notes]]))
        if pool > 1:
            offers.append(f"query ↓ key → · {pool_words(pool)}")
        return tuple(offers)

    def mask(self, cells: int) -> NDArray[np.bool_] | None:
        """Return the future of a causal map, bool [cells, cells]; None where heads look ahead."""
        return future(cells) if self.causal else None


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


def pool_words(pool: int) -> str:
    """Say in short how maps are pooled, which no picture leaves out: ``max 5×5``; empty where they
    are not."""
    return f"max {pool}×{pool}" if pool > 1 else ""


def resolve_attention(builder: PlanBuilder, panel: Attention | LargeHead) -> list[Heads]:
    """Return one Heads for every probe row that the panel shows."""
    series, layout = builder.series, builder.layout.name
    names = sorted(series.names("blocks.*.attn.pattern"), key=block_of)
    if not names:
        series.require("blocks.0.attn.pattern", layout)
    shapes = [series.require(name, layout).shape for name in names]
    length = shapes[0][-1]
    indices = [(block_of(name), head_numbers(series, name)) for name in names]
    show = panel.show if isinstance(panel, Attention) else "value"
    is_weighted = isinstance(panel, Attention) and panel.weighted and show == "value"
    shown = {
        "value": "Attention",
        "step": "Attention · change since the previous capture",
        "change": f"Attention · change since step {series.steps[0]:,}",
    }[show]
    scale = "attention" if show == "value" else f"attention_{show}"
    if is_weighted:
        shown, scale = "Attention weighted by values", "attention_weighted"
    causal = all(_is_causal(series, index, names) for index in {0, len(series) - 1})
    found = []
    n_rows = shapes[0][0] if len(shapes[0]) > 3 else None
    for probe, label in probe_rows(builder, panel.probe, n_rows):
        blocks = []
        for name, (_, numbers) in zip(names, indices, strict=True):
            heads = [HeadMap(name, probe, head, length, show=show) for head in range(len(numbers))]
            blocks.append(weighted_heads(builder, heads, numbers) if is_weighted else heads)
        title = f"{shown} · {label}" if label else shown
        notes = _notes(series, probe, indices)
        found.append(Heads(title, scale, blocks, indices, length, causal, notes))
    add_attention_scale(builder, found[0], show)
    return found


def weighted_heads(
    builder: PlanBuilder, heads: Sequence[HeadMap], numbers: tuple[int, ...]
) -> list[HeadMap]:
    """Return the maps of a block, weighted by the norms of its values.

    Raises:
        LayoutError: the captures hold no norms of this block.
    """
    name = norms_name(heads[0].name)
    if name not in builder.series.arrays:
        raise LayoutError(
            f"layout {builder.layout.name!r} weights attention by values, and the captures hold no "
            f"{name}: capture with signals=[max_logit, probe_loss, residual, value_weighted]"
        )
    return [replace(head, weighted_by=numbers) for head in heads]


def _notes(
    series: Series, probe: int | None, indices: Sequence[tuple[int, tuple[int, ...]]]
) -> tuple[str, ...]:
    """Return what is shown of a model that is not shown in full, and what its probe repeats."""
    notes = []
    model = series.last.model
    n_heads, n_kept = model.get("n_heads"), max(len(numbers) for _, numbers in indices)
    if isinstance(n_heads, int) and n_kept < n_heads:
        notes.append(f"{n_kept} of {n_heads} heads")
    cut = model.get("cut", {})
    n_positions = cut.get("of", {}).get("positions", 0)
    if cut.get("positions", 0) < n_positions:
        notes.append(f"first {cut['positions']} of {n_positions} positions")
    row = probe_row(series, probe or 0)
    if row.get("period"):
        notes.append(f"{row['period']} tokens that repeat")
    sharing = heads_that_share(series)
    if sharing > 1:
        notes.append(f"each {sharing} heads share keys and values")
    return tuple(notes)


def probe_row(series: Series, number: int) -> Mapping[str, Any]:
    """Return what the captures say about a row of the probe; empty where they say nothing."""
    rows = series.last.probe.get("rows") or []
    if number >= len(rows):
        return {}
    row: Mapping[str, Any] = rows[number]
    return row


def heads_that_share(series: Series) -> int:
    """Return how many neighboring heads share keys and values; 1 where they do not."""
    model = series.last.model
    n_heads, n_shared = model.get("n_heads"), model.get("n_kv_heads")
    if not isinstance(n_heads, int) or not isinstance(n_shared, int) or n_shared < 1:
        return 1
    if n_heads % n_shared:
        return 1
    return n_heads // n_shared


def probe_rows(
    builder: PlanBuilder, wanted: str | int | None, n_rows: int | None
) -> list[tuple[int | None, str]]:
    """Return (index, title) of the probe rows that are wanted, all if ``wanted`` is None.

    Args:
        n_rows: of the arrays that are shown; None where these have no axis of rows, as the index
            then is.
    """
    if n_rows is None:
        return [(None, "")]
    labels = builder.series.labels("probe", n_rows)
    titles = [row_title(label, len(labels)) for label in labels]
    if wanted is None:
        return list(enumerate(titles))
    row = wanted
    if isinstance(wanted, str) and wanted in labels:
        row = labels.index(wanted)
    if not isinstance(row, int) or not 0 <= row < len(labels):
        raise LayoutError(
            f"layout {builder.layout.name!r}: the captures have the probe rows "
            f"{', '.join(labels)}; got probe={wanted!r}"
        )
    return [(row, titles[row])]


def row_title(label: str, n_rows: int) -> str:
    """Return what a row of the probe is called; empty where the only one has no name."""
    if not label.isdigit():
        return f"{label} tokens"
    return f"probe {label}" if n_rows > 1 else ""


def _is_causal(series: Series, index: int, names: Sequence[str]) -> bool:
    """Return whether attention never looks ahead, so that a mask hides nothing. Checks the first
    and the last block."""
    for array in series.read(index, {names[0], names[-1]}).values():
        ahead = array[..., np.triu(np.ones(array.shape[-2:], bool), 1)]
        # Above float16's rounding, as the capture itself checks it.
        if np.nanmax(ahead, initial=0) > 1e-3:
            return False
    return True


def add_attention_scale(builder: PlanBuilder, heads: Heads, show: str) -> None:
    """Add the scale of attention: probabilities on a square-root scale 0..1, changes on a log scale
    over two and a half decades."""
    if show != "value":
        since = "the previous capture" if show == "step" else f"step {builder.series.steps[0]:,}"
        options = partial(_change_options, builder, since)
        builder.add_scale(heads.scale, "attention", Measured("attention", 0.9999, options))
        return
    is_weighted = heads.scale == "attention_weighted"
    probability = {
        "title": "share of what is written" if is_weighted else "attention probability",
        "cmap": builder.theme.attention,
        "minimum": 0.0,
        "maximum": 1.0,
        "norm": "power",
        "gamma": 0.5,
    }
    builder.add_scale(heads.scale, "attention", probability)


def _change_options(builder: PlanBuilder, since: str, reach: ValueRange) -> dict[str, Any]:
    largest = reach.quantile or 1.0
    return {
        "title": f"attention change since {since}",
        "cmap": builder.theme.attention,
        "minimum": largest * 10**-2.5,
        "maximum": largest,
        "norm": "log",
        "reached": (0.0, reach.maximum),
    }


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


def most_changed(
    series: Series, heads: Heads, n: int, roles: Mapping[tuple[int, int], str]
) -> list[tuple[int, int]]:
    """Return (row, column) of ``n`` heads whose attention changed most from the first to the last
    capture, of as many roles as there are.

    The heads with one role (or with none) queue by their change; one of each queue is taken in
    turn.
    """
    change = _changes(series, heads)
    queues: dict[str, list[tuple[int, int]]] = {}
    for row, column in sorted(change, key=lambda place: (-change[place], place)):
        block, numbers = heads.indices[row]
        role = roles.get((block, numbers[column]), "")
        queues.setdefault(role, []).append((row, column))
    chosen: list[tuple[int, int]] = []
    while len(chosen) < min(n, len(change)):
        chosen += [queue.pop(0) for queue in queues.values() if queue]
    return chosen[:n]


def _changes(series: Series, heads: Heads) -> dict[tuple[int, int], float]:
    """Return how much the attention of each head changed over the run, by (row, column)."""
    keys = [key for sources in heads.blocks for key in sources[0].needs]
    first, last = series.read_ends(keys)
    moment = Moment(last, first, {})
    change: dict[tuple[int, int], float] = {}
    for row, sources in enumerate(heads.blocks):
        for column, source in enumerate(sources):
            value = replace(source, show="change").values(moment)
            change[row, column] = float(np.square(np.nan_to_num(value, nan=0.0, posinf=0.0)).sum())
    return change


def head_numbers(series: Series, name: str) -> tuple[int, ...]:
    """Return the numbers of the heads (or channels) in the array ``name`` of attention or mixing
    maps, in its order: all of a block, or those that fitted into a capture."""
    axis = name.removesuffix(".attn.pattern") + ".head"
    if name.endswith(".mixer.mixing"):
        kind = series.arrays[name].axes[-3]
        axis = f"{name.removesuffix('.mixer.mixing')}.mixing_{kind}"
    labels = series.labels(axis, series.arrays[name].shape[-3])
    numbers = []
    for position, label in enumerate(labels):
        digits = re.sub(r"\D", "", label)
        numbers.append(int(digits or position))
    return tuple(numbers)


def block_of(name: str) -> int:
    """Return the number of the block that an array belongs to."""
    match = re.match(r"blocks\.(\d+)\.", name)
    if not match:
        raise LayoutError(f"arrays of a block are named 'blocks.<i>.<what>'; got {name!r}")
    return int(match[1])


def kind_of(name: str) -> str:
    """Return an array's name within its block: ``blocks.3.mlp.w_up`` -> ``mlp.w_up``."""
    return name.split(".", 2)[2]


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
