"""Find the attention maps that a panel means, and say what a viewer must know of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.layout import Attention, LargeHead
from tracker_viz.rendering.measuring import ValueRange
from tracker_viz.rendering.planning.content.names import (
    block_of,
    head_numbers,
    probe_row,
    probe_rows,
)
from tracker_viz.rendering.planning.plan_builder import Measured, PlanBuilder
from tracker_viz.rendering.scales import choice_colormap
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.sources import HeadMap, Moment, future, indexer_name, norms_name


@dataclass(frozen=True)
class Heads:
    """Attention, or mixing maps, of one probe row.

    Attributes:
        blocks: for each block the maps of its heads.
        indices: for each block its number and the numbers of its heads.
        notes: what a viewer must know, the most important first.
        sharing: which heads share keys and values, unless brackets below them say it.
        is_mixing: maps that are no attention, whose heads never have a role.
    """

    title: str
    scale: str
    blocks: list[list[HeadMap]]
    indices: list[tuple[int, tuple[int, ...]]]
    length: int
    causal: bool
    notes: tuple[str, ...] = ()
    sharing: str = ""
    is_mixing: bool = False

    @cached_property
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

    def axes(self, pool: int = 1, *, is_bracketed: bool = False) -> tuple[str, ...]:
        """Return what runs down and across a map, with all notes, and with fewer where there is
        less room. All of them say how maps are pooled.

        Args:
            pool: entries of a cell's side; a cell shows the largest of them.
            is_bracketed: brackets say which heads share keys and values.
        """
        always = ["query ↓ key →"]
        if pool > 1:
            always.append(f"max of {pool} × {pool}")
        notes = list(self.notes)
        if self.sharing and not is_bracketed:
            notes.append(self.sharing)

        offers = []
        for n_notes in range(len(notes), -1, -1):
            offers.append(" · ".join([*always, *notes[:n_notes]]))
        if pool > 1:
            offers.append(f"query ↓ key → · {pool_words(pool)}")
        return tuple(offers)

    def mask(self, cells: int) -> NDArray[np.bool_] | None:
        """Return the future of a causal map, bool [cells, cells]; None where heads look ahead."""
        return future(cells) if self.causal else None


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
        sharing = _sharing(series)
        found.append(Heads(title, scale, blocks, indices, length, causal, notes, sharing))
    _add_scale(builder, found[0], show)
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


def indexed_heads(builder: PlanBuilder, shown: Heads) -> Heads:
    """Return in the place of each head the keys that the indexer of its block chose; no maps of a
    block whose choice the captures do not hold."""
    blocks = []
    for maps in shown.blocks:
        places = indexer_places(builder.series, maps[0].name) if maps else ()
        blocks.append(
            [
                replace(head, name=indexer_name(head.name), head=place)
                for head, place in zip(maps, places, strict=False)
            ]
        )
    attention = builder.scale_options.get("attention", {})
    cmap = choice_colormap(str(attention.get("cmap", builder.theme.attention)))
    title = "1: chosen by the indexer"
    options = {"title": title, "cmap": cmap, "minimum": 0.0, "maximum": 1.0}
    builder.add_scale("indexer", "indexer", options)
    notes = [*_most_chosen(builder.series), "for all heads of the block"]
    if any(len({head.head for head in maps}) > 1 for maps in blocks):
        notes.pop()
    title = "Keys the indexer chose"
    return replace(
        shown, title=title, scale="indexer", blocks=blocks, notes=tuple(notes), sharing=""
    )


def indexer_places(series: Series, name: str) -> tuple[int, ...]:
    """Return the place of every head of the attention ``name`` in what its block's indexer chose:
    0 where it chooses for all heads; empty where captures hold no choice for these maps."""
    shape, array = series.arrays[name].shape, series.arrays.get(indexer_name(name))
    if array is None or array.missing_at is not None or array.reshaped_at is not None:
        return ()
    sizes = dict(zip(array.axes, array.shape, strict=True))
    n_choices = sizes.pop("head", None)
    if tuple(sizes.values()) != shape[:-3] + shape[-2:]:
        return ()
    numbers = head_numbers(series, name)
    if n_choices is None:
        return (0,) * len(numbers)
    return numbers if n_choices == series.last.model.get("n_heads") else ()


def leaves_keys_out(series: Series, name: str) -> bool:
    """Return whether the indexer of the attention ``name`` chose fewer keys than there are."""
    described = series.last.model.get("indexers", {})
    n_chosen = dict(zip(described.get("blocks", ()), described.get("chosen", ()), strict=True))
    n_keys = series.arrays[name].shape[-1]
    return bool(indexer_places(series, name)) and n_chosen.get(block_of(name), 0) < n_keys


def _most_chosen(series: Series) -> list[str]:
    n_chosen = set(series.last.model.get("indexers", {}).get("chosen", ()))
    return [f"top {n}" for n in n_chosen] if len(n_chosen) == 1 else []


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
    return tuple(notes)


def _sharing(series: Series) -> str:
    n_sharing = heads_that_share(series)
    return f"each {n_sharing} heads share keys and values" if n_sharing > 1 else ""


def heads_that_share(series: Series) -> int:
    """Return how many neighboring heads share keys and values; 1 where they do not."""
    model = series.last.model
    n_heads, n_shared = model.get("n_heads"), model.get("n_kv_heads")
    if not isinstance(n_heads, int) or not isinstance(n_shared, int) or n_shared < 1:
        return 1
    if n_heads % n_shared:
        return 1
    return n_heads // n_shared


def _is_causal(series: Series, index: int, names: Sequence[str]) -> bool:
    """Return whether attention never looks ahead, so that a mask hides nothing. Checks the first
    and the last block."""
    for array in series.read(index, {names[0], names[-1]}).values():
        ahead = array[..., np.triu(np.ones(array.shape[-2:], bool), 1)]
        # Above float16's rounding, as the capture itself checks it.
        if np.nanmax(ahead, initial=0) > 1e-3:
            return False
    return True


def _add_scale(builder: PlanBuilder, heads: Heads, show: str) -> None:
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
        # All heads of a block at once: ten times as fast as each by itself.
        maps = replace(sources[0], show="change").values_of(slice(None), moment)
        sizes = np.square(np.nan_to_num(maps, nan=0.0, posinf=0.0)).reshape(len(maps), -1).sum(-1)
        for column, source in enumerate(sources):
            change[row, column] = float(sizes[source.head])
    return change
