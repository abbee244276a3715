"""Place the circuit of a run: heads as nodes, one column a block, lines from each head to the
earlier heads that it reads most, and beside them the composition of all pairs as a map.

Composition comes from the captures or, of those that lack it, from the weight matrices that they
hold whole. Lines and places are chosen once, from the whole run; only their strength changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import LayoutError
from tracker_viz.metrics import COMPOSITION_PREFIX, composition_scores, random_composition
from tracker_viz.rendering.layout import Circuit
from tracker_viz.rendering.plan import Box, Graph, Heatmap, Node
from tracker_viz.rendering.planning.boxes import cut_bottom, cut_right
from tracker_viz.rendering.planning.plan_builder import (
    PlanBuilder,
    next_even,
    number_spacing,
    whole_cell_px,
)
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.sources import HeldMap
from tracker_viz.types import HeadId

_SCALE = "composition"
_SIDES = {"q": "queries", "k": "keys", "v": "values"}
_NUMBER, _LISTED = 20.0, 25.0
_WORDS, _NOTE = 34, 30  # at 1080p: for what a ring means; between disks, for a number
_NAME_SIZES = (27.0, 22.0, 18.0, 15.0)
_BESIDE = 530  # at 1080p: pixels of the width for the map of all pairs
_BELOW = 60  # at 1080p: more room for the timeline
_ABOVE = 30  # at 1080p: for the numbers of blocks and heads
_LISTED_ROWS, _LISTED_ROW = 6, 36
_MOST_EDGES = 240
_WIDEST = 11.0
_RADIUS = 46.0
_LEAST_RADIUS = 3.0


def place_circuit(builder: PlanBuilder, panel: Circuit, area: Box) -> int:
    """Place the graph, and beside or below it the map of all pairs; return where they end.

    Raises:
        LayoutError: the captures hold neither composition nor whole matrices, or there is no room
            for so many heads.
    """
    px = builder.px
    found = _compositions(builder, panel)
    if not np.isfinite(found[-1]).any():
        raise LayoutError(
            f"layout {builder.layout.name!r} draws what heads read of earlier "
            "blocks, but no head of the last capture has a finite value: the "
            "model has one block, or has diverged"
        )
    heads = _heads_in(found)
    chance = _chance(builder.series)
    values = _of_pairs(found, heads)
    area, _ = cut_bottom(area, px(_BELOW))
    graph_area, beside = cut_right(area, px(_BESIDE), gap=px(50))
    if builder.is_narrow:
        height = next_even(area.height * 3 // 5)
        graph_area = Box(area.x, area.y, area.width, height)
        beside = Box(area.x, area.y + height + px(70), area.width, area.height - height - px(70))
    side = _SIDES[panel.composition]
    title = f"What {side} read of earlier heads"
    axes = ("block →  a line: more than random matrices", "block →")
    builder.heading(title, graph_area.x, graph_area.y - px(14), graph_area.width, *axes)
    bottom = _place_map(builder, values, heads, chance, beside)
    y = bottom + px(64)
    # A color bar stands below the list.
    rows = min(_LISTED_ROWS, max(0, area.bottom - y) // px(_LISTED_ROW))
    listed = Box(beside.x, y, beside.width, rows * px(_LISTED_ROW))
    _place_graph(builder, panel, values, heads, chance, graph_area, listed)
    return area.bottom


def _compositions(builder: PlanBuilder, panel: Circuit) -> NDArray[np.float16]:
    """Return the composition of every capture: [capture, block, head, earlier block, earlier
    head]."""
    series = builder.series
    name = f"{COMPOSITION_PREFIX}{panel.composition}"
    info = series.arrays.get(name)
    if info is not None and info.missing_at is None and info.reshaped_at is None:
        return np.stack([series.read(index, [name])[name] for index in range(len(series))])

    matrices = series.names("blocks.*.attn.w_[qkvo]")
    n_blocks = int(series.last.model.get("n_blocks", 0))
    found = []
    for index in range(len(series) if matrices else 0):
        scores = composition_scores(series.capture(index, matrices), n_blocks)
        if name not in scores:
            break
        found.append(scores[name])
    if len(found) < len(series):
        raise LayoutError(
            f"layout {builder.layout.name!r} draws how heads compose, but the "
            f"captures hold neither {name} nor whole attention matrices: measure "
            "it with signals=[max_logit, probe_loss, residual, composition]; "
            "models with more than 512 heads have no pairs"
        )
    return np.stack(found)


def _heads_in(found: NDArray[np.float16]) -> list[HeadId]:
    """Return the heads that any pair has a value for, in order."""
    known = np.asarray(np.isfinite(found).any(axis=0))
    reads, is_read = known.any(axis=(2, 3)), known.any(axis=(0, 1))
    heads = reads | is_read
    return [(int(block), int(head)) for block, head in np.argwhere(heads)]


def _chance(series: Series) -> float:
    """Return the composition of random matrices, or 0 where the captures do not say how wide the
    model is."""
    d_model = series.last.model.get("d_model")
    return random_composition(d_model) if isinstance(d_model, int) and d_model > 0 else 0.0


def _of_pairs(found: NDArray[np.float16], heads: list[HeadId]) -> NDArray[np.float16]:
    """Return [capture, head, earlier head], NaN where the second is not earlier."""
    blocks, numbers = np.array(heads).T
    return found[:, blocks[:, None], numbers[:, None], blocks[None], numbers[None]]


def _place_map(
    builder: PlanBuilder,
    values: NDArray[np.float16],
    heads: list[HeadId],
    chance: float,
    box: Box,
) -> int:
    """Place the map of all pairs as large as it goes into the upper part of ``box``; return its
    bottom."""
    px = builder.px
    blocks = np.array([block for block, _ in heads])
    readers, read = blocks > blocks.min(), blocks < blocks.max()
    label = builder.text_width(f"L{blocks.max()}", _NUMBER) + px(10)
    y = box.y + px(_ABOVE)
    room = min(box.width - label, box.bottom - y)
    cell = whole_cell_px(min(room // max(readers.sum(), read.sum()), px(40)))
    if cell < 1:
        return box.y
    shown = HeldMap(np.ascontiguousarray(values[:, readers][:, :, read]))
    rows, columns = shown.shape
    mask = ~(blocks[readers][:, None] > blocks[read][None])
    place = Box(next_even(box.x + label), next_even(y), columns * cell, rows * cell)
    most = float(np.nanmax(values, initial=2 * chance))
    options = {
        "title": f"composition · random {chance:.2g}",
        "cmap": builder.theme.magnitude,
        "minimum": chance,
        "maximum": max(most, chance + 1e-3),
        "reached": (float(np.nanmin(values, initial=chance)), most),
    }
    builder.add_scale(_SCALE, "score", options)
    builder.heading("All pairs", place.x, box.y - px(14), room, "reads ↓ read →")
    line_px = 1.0 if cell >= 12 else 0.0
    builder.heatmaps.append(
        Heatmap("all pairs", shown, place, _SCALE, mask, line_px, builder.theme.ground)
    )
    _name_blocks(builder, blocks[readers], blocks[read], place, cell)
    return place.bottom


def _name_blocks(
    builder: PlanBuilder,
    down: NDArray[np.int64],
    across: NDArray[np.int64],
    box: Box,
    cell: int,
) -> None:
    """Write the blocks' names along the map, in the middle of their heads, where they have room."""
    for along, is_down in ((down, True), (across, False)):
        numbers, firsts, counts = np.unique(along, return_index=True, return_counts=True)
        least = builder.px(26) if is_down else builder.text_width(f"L{numbers[-1]} ", _NUMBER)
        every = number_spacing(float(counts.min() * cell), least)
        for number, first, count in list(zip(numbers, firsts, counts, strict=True))[::every]:
            middle = (first + count / 2) * cell
            name = f"L{number}"
            if is_down:
                builder.text_left_of(box.x - builder.px(8), name, box.y + middle, _NUMBER)
            else:
                # Beside small cells the name of the first row is as high as the map's edge.
                away = builder.px(8 if cell >= builder.px(16) else 16)
                x, y = box.x + middle, box.y - away
                builder.text(name, x, y, _NUMBER, align="center")


def _place_graph(
    builder: PlanBuilder,
    panel: Circuit,
    values: NDArray[np.float16],
    heads: list[HeadId],
    chance: float,
    area: Box,
    listed: Box,
) -> None:
    px = builder.px
    inside = Box(area.x, area.y + px(_ABOVE), area.width, area.height - px(_ABOVE))
    ablations = builder.series.ablations
    rises = ablations.rises if ablations else {}
    if ablations and rises:
        inside, words = cut_bottom(inside, px(_WORDS))
        _say_what_rings_mean(builder, ablations.step, words)
    nodes = _nodes(builder, heads, inside, rises)
    edges = _edges(values, panel.sources)
    needed = {frozenset(pair) for pair in rises if len(pair) == 2}
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    written = values[:, pairs[:, 1], pairs[:, 0]].astype(np.float32)
    most = float(np.nanmax(written, initial=chance + 1e-3))
    shares = (written - chance) / max(most - chance, 1e-6)
    if listed.height:
        builder.heading("Most above random now", listed.x, listed.y - px(14), listed.width)
    builder.graph = Graph(
        inside,
        nodes,
        tuple(edges),
        shares,
        _WIDEST * builder.unit * min(1.0, nodes[0].radius / (20 * builder.unit)),
        listed,
        listed.height // px(_LISTED_ROW),
        px(_LISTED_ROW),
        _LISTED * builder.unit,
        written,
        frozenset(
            number
            for number, edge in enumerate(edges)
            if frozenset(nodes[end].head for end in edge) in needed
        ),
        _NUMBER * builder.unit,
    )


def _say_what_rings_mean(builder: PlanBuilder, step: int, box: Box) -> None:
    offers = (
        f"ring, +: without the head (ablation at step {step:,}) the loss that its role serves "
        "rises by so many nats, beyond chance",
        f"ring, +: rise of the loss without the head, at step {step:,}, in nats",
        f"ring, +: loss without it, step {step:,}",
    )
    fitting = (text for text in offers if builder.text_width(text, _NUMBER) <= box.width)
    text = next(fitting, builder.fitted(offers[-1], _NUMBER, box.width))
    builder.text(text, box.x, box.bottom - builder.px(6), _NUMBER)


def _nodes(
    builder: PlanBuilder,
    heads: list[HeadId],
    box: Box,
    rises: Mapping[tuple[HeadId, ...], float],
) -> tuple[Node, ...]:
    """Return the disks, one column a block, and name the columns."""
    px = builder.px
    blocks = sorted({block for block, _ in heads})
    n_rows = max(head for _, head in heads) + 1
    pitch_x, pitch_y = box.width / len(blocks), box.height / n_rows
    radius = min(0.36 * pitch_y, 0.3 * pitch_x, _RADIUS * builder.unit)
    if radius < _LEAST_RADIUS * builder.unit:
        raise LayoutError(
            f"layout {builder.layout.name!r}: {n_rows} heads in each of {len(blocks)} blocks do "
            "not fit; capture fewer of them (only_blocks=, only_heads=), or choose a larger size"
        )
    names = {head: f"L{head[0]}H{head[1]}" for head in heads}
    size = _name_size(builder, list(names.values()), radius)
    if not size:
        names = {head: str(head[1]) for head in heads}
        size = _name_size(builder, list(names.values()), radius)
    nodes = []
    for block, head in heads:
        x = round(box.x + (blocks.index(block) + 0.5) * pitch_x)
        y = round(box.y + (head + 0.5) * pitch_y)
        name = names[block, head] if size else ""
        rise = rises.get(((block, head),))
        has_room = pitch_y - 2 * radius > px(_NOTE)
        note = f"+{rise:.2f}" if rise is not None and has_room else ""
        node = Node((block, head), x, y, radius, name, size * builder.unit, rise is not None, note)
        nodes.append(node)
    every = number_spacing(pitch_x, builder.text_width("block 00 ", _NUMBER))
    for place, block in list(enumerate(blocks))[::every]:
        middle = box.x + (place + 0.5) * pitch_x
        builder.text(f"block {block}", middle, box.y - px(8), _NUMBER, align="center")
    return tuple(nodes)


def _name_size(builder: PlanBuilder, names: list[str], radius: float) -> float:
    """Return the largest size in which the names fit into the disks; 0 if there is none."""
    for size in _NAME_SIZES:
        if builder.widest(names, size, bold=True) <= 1.75 * radius:
            return size
    return 0.0


def _edges(values: NDArray[np.float16], sources: int) -> list[tuple[int, int]]:
    """Return (read, reads): of every head the earlier heads that it reads most in the last
    capture, the strongest pairs where these are too many."""
    last = values[-1].astype(np.float32)
    chosen: list[tuple[float, int, int]] = []
    for reader, row in enumerate(last):
        order = np.argsort(-np.nan_to_num(row, nan=-math.inf), kind="stable")[:sources]
        for read in order.tolist():
            if np.isfinite(row[read]):
                chosen.append((-float(row[read]), read, reader))
    chosen.sort()
    return [(read, reader) for _, read, reader in chosen[:_MOST_EDGES]]
