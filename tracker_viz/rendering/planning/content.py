"""Which arrays a layout's panels mean in this run: names resolved, shapes checked, orders and
ranges taken from the captures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.layout import Attention, LargeHead, Scores, Weights
from tracker_viz.rendering.measuring import Reach
from tracker_viz.rendering.planning.plan_builder import Measured, PlanBuilder
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.sources import (
    HeadMap,
    Moment,
    WeightMap,
    future,
    order_by_direction,
    order_by_norm,
)

_SIDES = {"out": "output", "in": "input"}
_MATRIX_ORDER = ("w_q", "w_k", "w_v", "w_o", "w_gate", "w_up", "w_in", "w_down", "w_out")


@dataclass(frozen=True)
class Heads:
    """Attention of one probe row: ``blocks[i]`` holds the maps of the i-th block, ``indices[i]``
    its number and its heads' numbers; ``notes`` say what a viewer must know, the first before
    the others."""

    title: str
    scale: str
    blocks: list[list[HeadMap]]
    indices: list[tuple[int, tuple[int, ...]]]
    length: int
    causal: bool
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> int:
        return max(len(heads) for heads in self.blocks)

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """Numbers of the heads by column; None where a column holds different heads of different
        blocks, because not all were kept."""
        longest = max((numbers for _, numbers in self.indices), key=len)
        return (
            longest
            if all(numbers == longest[: len(numbers)] for _, numbers in self.indices)
            else None
        )

    def axes(self, pool: int = 1) -> tuple[str, ...]:
        """What runs down and across a map, with all notes, and with fewer where there is less
        room.

        Args:
            pool: entries of a cell's side; a cell shows the largest of them.
        """
        notes = list(self.notes)
        if pool > 1:
            notes.insert(0, f"max of {pool} × {pool}")
        offers = []
        for n_notes in range(len(notes), -1, -1):
            offers.append(" · ".join(["query ↓ key →", *notes[:n_notes]]))
        if pool > 1:
            offers.insert(-1, notes[0])  # how it is pooled matters more than which side is which
        return tuple(offers)

    def mask(self, cells: int) -> NDArray[np.bool_] | None:
        return future(cells) if self.causal else None


@dataclass(frozen=True)
class Matrices:
    """Weight matrices of one panel: ``blocks[i]`` maps a kind (``mlp.w_up``) to its array's
    name."""

    panel: Weights
    title: str
    scale: str
    kinds: list[str]
    blocks: list[dict[str, str]]
    sides: tuple[str, ...]

    @property
    def columns(self) -> int:
        return len(self.kinds)

    @property
    def axes(self) -> tuple[str, ...]:
        """What runs down and across a map, with the order in which it does, and without."""
        names = [_SIDES.get(side, side) for side in self.sides]
        sides, short = (f"{down} ↓ {across} →" for down, across in (names, self.sides))
        order = {"norm": "changed most first", "direction": "by direction of change"}
        return (
            *([f"{sides} · {order[self.panel.order]}"] if self.panel.order in order else []),
            sides,
            short,
        )


def resolve_attention(builder: PlanBuilder, panel: Attention | LargeHead) -> list[Heads]:
    """One Heads for every probe row that the panel shows."""
    series, layout = builder.series, builder.layout.name
    names = sorted(series.names("blocks.*.attn.pattern"), key=block_of)
    if not names:
        series.require("blocks.0.attn.pattern", layout)
    infos = [series.require(name, layout) for name in names]
    length = infos[0].shape[-1]
    indices = [(block_of(name), head_numbers(series, name)) for name in names]
    show = panel.show if isinstance(panel, Attention) else "value"
    what = {
        "value": "Attention",
        "step": "Attention · change since the previous capture",
        "change": f"Attention · change since step {series.steps[0]:,}",
    }
    causal = all(_is_causal(series, index, names) for index in {0, len(series) - 1})
    found = []
    for probe, label in _probe_rows(builder, panel.probe, infos[0].shape):
        blocks = [
            [HeadMap(name, probe, head, length, show=show) for head in range(info.shape[-3])]
            for name, info in zip(names, infos, strict=True)
        ]
        title = f"{what[show]} · {label}" if label else what[show]
        found.append(
            Heads(
                title,
                "attention" if show == "value" else f"attention_{show}",
                blocks,
                indices,
                length,
                causal,
                _notes(series, probe, indices),
            )
        )
    add_attention_scale(builder, found[0], show)
    return found


def _notes(
    series: Series, probe: int | None, indices: Sequence[tuple[int, tuple[int, ...]]]
) -> tuple[str, ...]:
    """What is shown of a model that is not shown in full, and what its probe repeats."""
    notes = []
    model = series.last.model
    n_heads, n_kept = model.get("n_heads"), max(len(numbers) for _, numbers in indices)
    if isinstance(n_heads, int) and n_kept < n_heads:
        notes.append(f"{n_kept} of {n_heads} heads")
    cut = model.get("cut", {})
    n_positions = cut.get("of", {}).get("positions", 0)
    if cut.get("positions", 0) < n_positions:
        notes.append(f"first {cut['positions']} of {n_positions} positions")
    sharing = heads_that_share(series)
    if sharing > 1:
        notes.append(f"lines join {sharing} heads with shared keys and values")
    rows = series.last.probe.get("rows") or []
    row = rows[probe or 0] if (probe or 0) < len(rows) else {}
    if row.get("period"):
        notes.append(f"{row['period']} tokens that repeat")
    return tuple(notes)


def heads_that_share(series: Series) -> int:
    """How many neighboring heads share keys and values; 1 where they do not."""
    model = series.last.model
    n_heads, n_shared = model.get("n_heads"), model.get("n_kv_heads")
    if not isinstance(n_heads, int) or not isinstance(n_shared, int) or n_shared < 1:
        return 1
    return n_heads // n_shared if n_heads % n_shared == 0 else 1


def _probe_rows(
    builder: PlanBuilder, wanted: str | int | None, shape: tuple[int, ...]
) -> list[tuple[int | None, str]]:
    if len(shape) == 3:
        return [(None, "")]
    labels = builder.series.labels("probe", shape[0])
    titles = [
        ""
        if label.isdigit() and len(labels) == 1
        else f"probe {label}"
        if label.isdigit()
        else f"{label} tokens"
        for label in labels
    ]
    if wanted is None:
        return list(enumerate(titles))
    row = labels.index(wanted) if isinstance(wanted, str) and wanted in labels else wanted
    if not isinstance(row, int) or not 0 <= row < len(labels):
        raise LayoutError(
            f"layout {builder.layout.name!r}: the captures have the probe rows "
            f"{', '.join(labels)}; "
            f"got probe={wanted!r}"
        )
    return [(row, titles[row])]


def _is_causal(series: Series, index: int, names: Sequence[str]) -> bool:
    """Whether nothing looks into the future: what a mask would hide must be nothing. Judged on the
    first and the last block."""
    for array in series.read(index, {names[0], names[-1]}).values():
        ahead = array[..., np.triu(np.ones(array.shape[-2:], bool), 1)]
        if np.nanmax(ahead, initial=0) > 1e-3:
            return False
    return True


def add_attention_scale(builder: PlanBuilder, heads: Heads, show: str) -> None:
    """Probabilities on a square-root scale 0..1; changes on a log scale over two and a half
    decades."""
    if show == "value":
        probability = {
            "title": "attention probability",
            "minimum": 0.0,
            "maximum": 1.0,
            "norm": "power",
            "gamma": 0.5,
        }
        builder.add_scale(
            heads.scale, "attention", {"cmap": builder.theme.attention, **probability}
        )
    else:
        since = "the previous capture" if show == "step" else f"step {builder.series.steps[0]:,}"
        builder.add_scale(
            heads.scale,
            "attention",
            Measured("attention", 0.9999, partial(_change_options, builder, since)),
        )


def _change_options(builder: PlanBuilder, since: str, reach: Reach) -> dict[str, Any]:
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
    """The matrices that match the panel's patterns, in the order of the computation."""
    series, layout = builder.series, builder.layout.name
    found: dict[int, dict[str, str]] = {}
    for pattern in panel.matrices:
        for name in series.names(f"blocks.*.{pattern}"):
            if len(series.require(name, layout).shape) == 2:
                found.setdefault(block_of(name), {})[kind_of(name)] = name
    if not found:
        have = (
            ", ".join(sorted({kind_of(name) for name in series.names("blocks.*")})[:12]) or "none"
        )
        raise LayoutError(
            f"layout {layout!r} draws matrices named {' or '.join(panel.matrices)}, and the "
            f"captures hold none; they hold: {have}"
        )
    kinds = sorted({kind for block in found.values() for kind in block}, key=_matrix_rank)
    title = {
        "change": f"Weight change since step {series.steps[0]:,}",
        "value": "Weights",
        "step": "Weight change since the previous capture",
    }[panel.show]
    if panel.reduce == "mean" and panel.show != "value":
        title = f"Signed {title[0].lower()}{title[1:]}"
    sides = series.require(next(iter(next(iter(found.values())).values())), layout).axes
    return Matrices(
        panel,
        title,
        f"weights_{panel.show}_{panel.reduce}",
        kinds,
        [found[block] for block in sorted(found)],
        sides,
    )


def resolve_scores(builder: PlanBuilder, panel: Scores) -> list[str]:
    """Names of the score arrays that match, in the panel's order; a pattern leaves out what not
    every capture has."""
    series = builder.series
    names = [
        name
        for pattern in panel.names
        for name in series.names(f"scores.{pattern}")
        if name == f"scores.{pattern}"
        or (series.arrays[name].missing_at is None and series.arrays[name].reshaped_at is None)
    ]
    if not names:
        have = ", ".join(
            name.removeprefix("scores.") for name in builder.series.names("scores.*")[:12]
        )
        have = have or "no scores at all, which the layouts heads, ffn and changes do without"
        raise LayoutError(
            f"layout {builder.layout.name!r} draws the scores {', '.join(panel.names)}, and the "
            f"captures hold none of them; they hold: {have}"
        )
    return list(dict.fromkeys(names))


def weight_source(
    builder: PlanBuilder,
    panel: Weights,
    name: str,
    cells: tuple[int, int],
    ends: tuple[NDArray[Any], NDArray[Any]],
) -> WeightMap:
    """The map of one matrix with its rows and columns in their fixed order; ``ends``: the matrix at
    the first and the last capture."""
    rows, columns = builder.series.require(name, builder.layout.name).shape
    change = ends[1].astype(np.float32) - ends[0].astype(np.float32)
    if panel.order == "stored":
        order = (np.arange(rows), np.arange(columns))
    else:
        order = (order_by_norm if panel.order == "norm" else order_by_direction)(change)
    return WeightMap(name, cells, order, panel.show, panel.reduce)


def add_weight_scale(builder: PlanBuilder, matrices: Matrices) -> None:
    """Up to what all but the largest 0.5 % of the cells of any capture stay below."""
    builder.add_scale(
        matrices.scale,
        "weights",
        Measured("weights", 0.995, partial(_weight_options, builder, matrices.panel)),
    )


def _weight_options(builder: PlanBuilder, panel: Weights, reach: Reach) -> dict[str, Any]:
    largest = reach.quantile or 1.0
    what = {
        "change": f"weight change since step {builder.series.steps[0]:,}",
        "value": "weight",
        "step": "weight change since the previous capture",
    }[panel.show]
    beside_attention = any(isinstance(each, Attention) for each in builder.layout.panels)
    options: dict[str, Any] = {
        "cmap": builder.theme.quiet if beside_attention else builder.theme.magnitude,
        "maximum": largest,
        "reached": (0.0, reach.maximum),
    }
    if panel.reduce == "mean":
        both = (-reach.maximum, reach.maximum)
        return {
            **options,
            "title": f"{what} (mean)",
            "cmap": builder.theme.signed,
            "minimum": -largest,
            "reached": both,
        }
    if panel.show == "step":
        return {
            **options,
            "title": f"{what} (RMS)",
            "minimum": largest * 10**-1.5,
            "norm": "log",
        }
    return {**options, "title": f"{what} (RMS)", "minimum": 0.0}


def most_changed(
    series: Series, heads: Heads, n: int, roles: Mapping[tuple[int, int], str]
) -> list[tuple[int, int]]:
    """(row, column) of ``n`` heads whose attention changed most from the first to the last capture,
    of as many roles as there are.

    The heads with one role (or with none) queue by their change; one of each queue is taken in
    turn.
    """
    keys = [key for sources in heads.blocks for key in sources[0].needs]
    first, last = (series.read(index, keys) for index in (0, len(series) - 1))
    change: dict[tuple[int, int], float] = {}
    for row, sources in enumerate(heads.blocks):
        for column, source in enumerate(sources):
            value = replace(source, show="change").values(Moment(last, first, {}))
            change[row, column] = float(np.square(np.nan_to_num(value, nan=0.0, posinf=0.0)).sum())
    queues: dict[str, list[tuple[int, int]]] = {}
    for place in sorted(change, key=lambda place: (-change[place], place)):
        block, numbers = heads.indices[place[0]]
        queues.setdefault(roles.get((block, numbers[place[1]]), ""), []).append(place)
    chosen: list[tuple[int, int]] = []
    while len(chosen) < min(n, len(change)):
        chosen += [queue.pop(0) for queue in queues.values() if queue]
    return chosen[:n]


def head_numbers(series: Series, name: str) -> tuple[int, ...]:
    """Which heads the attention array ``name`` holds, in its order: all of a block, or those that
    fitted into a capture."""
    labels = series.labels(
        name.removesuffix(".attn.pattern") + ".head", series.arrays[name].shape[-3]
    )
    return tuple(int(re.sub(r"\D", "", label) or position) for position, label in enumerate(labels))


def block_of(name: str) -> int:
    """Number of the block that an array belongs to."""
    match = re.match(r"blocks\.(\d+)\.", name)
    if not match:
        raise LayoutError(f"arrays of a block are named 'blocks.<i>.<what>'; got {name!r}")
    return int(match[1])


def kind_of(name: str) -> str:
    return name.split(".", 2)[2]


def matrix_title(kind: str) -> str:
    """``mlp.w_gate`` -> ``FFN gate``."""
    station, _, short = kind.rpartition(".")
    name = short.removeprefix("w_")
    return {"mlp": f"FFN {name}", "attn": f"attention {name}"}.get(
        station, f"{station} {name}".strip()
    )


def _matrix_rank(kind: str) -> tuple[int, int, str]:
    short = kind.rsplit(".", 1)[-1]
    return (
        int(kind.startswith("mlp")),
        _MATRIX_ORDER.index(short) if short in _MATRIX_ORDER else len(_MATRIX_ORDER),
        kind,
    )
