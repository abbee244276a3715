"""Place the experts of a mixture: for some blocks a map [expert, token] of each row of the probe,
below each other, and beside them the scores of all experts of all blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.layout import Experts
from tracker_viz.rendering.measuring import ValueRange
from tracker_viz.rendering.plan import Box, Heatmap
from tracker_viz.rendering.planning.cards import place_cards, score_cards
from tracker_viz.rendering.planning.content import probe_row, probe_rows
from tracker_viz.rendering.planning.plan_builder import (
    Measured,
    PlanBuilder,
    next_even,
    number_spacing,
    whole_cell_px,
)
from tracker_viz.rendering.sources import RouterMap
from tracker_viz.rendering.text import text_width

_ROUTER = re.compile(r"blocks\.(\d+)\.mlp\.router")
_SCALE = "routers"
_NUMBER = 20.0
_TOKEN = 20.0
_TITLE = 22.0
# More rows than these could not be told apart where the film is shown small: neighboring experts
# share a row.
_MOST_ROWS = 96
# At 1080p: a row is at least so high, that of few experts more.
_ROW_PX, _FEW_ROW_PX, _FEW = 5, 12, 16
_ABOVE = 34  # at 1080p: above each map, for its title
_GAP = 28  # at 1080p: between the rows of the probe
_BETWEEN = 40  # at 1080p: between the scores and the maps
_MOST_BLOCKS = 6


@dataclass(frozen=True)
class _Shape:
    """Sizes of the maps, all alike.

    Attributes:
        blocks: indices of those that are shown, of the blocks with routers.
        pool: experts that share a row of cells.
        cell: (width, height) in pixels.
        label: pixels left of a map for the numbers of experts.
        foot: pixels below the lowest map for the tokens; 0 where they have no room.
    """

    blocks: tuple[int, ...]
    pool: int
    cell: tuple[int, int]
    label: int
    foot: int


def place_experts(builder: PlanBuilder, panel: Experts, scores: Sequence[str], area: Box) -> int:
    """Place the maps and the scores; return where they end.

    Raises:
        LayoutError: the captures hold no routers, or they hold experts of different numbers.
    """
    px = builder.px
    names = _routers(builder)
    n_rows = builder.series.arrays[names[0]].shape[0]
    rows = probe_rows(builder, panel.probe, n_rows)
    _add_scale(builder)
    if not scores:
        return _place_maps(builder, panel, names, rows, area)

    cards = sorted(
        score_cards(builder, scores), key=lambda card: scores.index(card.source.needs[0])
    )
    if builder.is_narrow:
        upper = Box(area.x, area.y, area.width, next_even(area.height // 2) - px(40))
        bottom = _place_maps(builder, panel, names, rows, upper)
        below = bottom + px(70)
        return place_cards(builder, cards, Box(area.x, below, area.width, area.bottom - below))
    room = area.width - _score_width(builder, names, area) - px(_BETWEEN)
    shape = _fit(builder, panel, names, len(rows), Box(area.x, area.y, room, area.height))
    # What whole cells leave over goes to the scores.
    x = next_even(area.right - _width(builder, names, shape, len(rows)) - 2)
    right = Box(x, area.y, area.right - x, area.height)
    left = Box(area.x, area.y, x - px(_BETWEEN) - area.x, area.height)
    bottom = place_cards(builder, cards, left)
    return max(bottom, _place_maps(builder, panel, names, rows, right))


def _routers(builder: PlanBuilder) -> list[str]:
    """Return the names of the routers' arrays, in the order of their blocks."""
    series, layout = builder.series, builder.layout.name
    names = [name for name in series.arrays if _ROUTER.fullmatch(name)]
    if not names:
        raise LayoutError(
            f"layout {layout!r} draws the routers of a mixture of experts, but "
            "the captures hold none: the model has no mixture, or its routers "
            "were not found; tracker-viz inspect lists what was found"
        )
    names.sort(key=_block_of)
    shapes = {series.require(name, layout).shape for name in names}
    if len(shapes) > 1:
        n_experts = sorted({shape[-1] for shape in shapes})
        raise LayoutError(
            f"layout {layout!r} draws blocks with the same number of experts; these have "
            f"{', '.join(map(str, n_experts))}"
        )
    return names


def _block_of(name: str) -> int:
    return int(name.split(".")[1])


def _add_scale(builder: PlanBuilder) -> None:
    """Add the scale of probabilities: up to what one in a thousand cells exceeds, because the more
    experts there are the less each gets."""
    builder.add_scale(_SCALE, "attention", Measured("attention", 0.999, partial(_options, builder)))


def _options(builder: PlanBuilder, reach: ValueRange) -> dict[str, Any]:
    return {
        "title": "router probability",
        "cmap": builder.theme.attention,
        "minimum": 0.0,
        "maximum": min(max(reach.quantile, 1e-3), 1.0),
        "norm": "power",
        "gamma": 0.5,
        "reached": (0.0, reach.maximum),
    }


def _score_width(builder: PlanBuilder, names: Sequence[str], area: Box) -> int:
    """Return the pixels for the scores: enough for cells of three pixels, and not more than almost
    half of the picture."""
    n_experts = builder.series.arrays[names[0]].shape[-1]
    wanted = builder.px(80) + n_experts * builder.px(3)
    return int(np.clip(wanted, 0.26 * area.width, 0.46 * area.width))


def _width(builder: PlanBuilder, names: Sequence[str], shape: _Shape, n_rows: int) -> int:
    """Return the pixels that the maps of all rows take."""
    n_tokens = builder.series.arrays[names[0]].shape[1]
    gaps = (n_rows - 1) * (builder.px(_GAP) + 1)
    return shape.label + n_rows * n_tokens * shape.cell[0] + gaps


def _place_maps(
    builder: PlanBuilder,
    panel: Experts,
    names: Sequence[str],
    rows: Sequence[tuple[int | None, str]],
    area: Box,
) -> int:
    px = builder.px
    _, n_tokens, n_experts = builder.series.arrays[names[0]].shape
    shape = _fit(builder, panel, names, len(rows), area)
    pooled = f" · max of {shape.pool}" if shape.pool > 1 else ""
    heading = "Experts"
    if len(shape.blocks) < len(names):
        heading = f"Experts of {len(shape.blocks)} of {len(names)} blocks"
    axes = f"expert ↓ token →{pooled}", f"expert ↓{pooled}"
    needed = pooled.removeprefix(" · ")
    builder.heading(heading, area.x, area.y - px(14), area.width, *axes, needed=needed)
    n_cells = -(-n_experts // shape.pool)
    width, height = n_tokens * shape.cell[0], n_cells * shape.cell[1]
    y = area.y + px(6)
    for place, index in enumerate(shape.blocks):
        top = next_even(y + px(_ABOVE))
        x = next_even(area.x + shape.label)
        for probe, title in rows:
            box = Box(x, top, width, height)
            _place_one(builder, names[index], probe or 0, title, shape, box)
            if place == len(shape.blocks) - 1 and shape.foot:
                _write_tokens(builder, probe or 0, shape, box)
            x = next_even(box.right + px(_GAP))
        _number_experts(builder, n_cells, shape, Box(area.x + shape.label, top, width, height))
        y = top + height
    return y + shape.foot


def _fit(
    builder: PlanBuilder, panel: Experts, names: Sequence[str], n_rows: int, area: Box
) -> _Shape:
    """Return the sizes: as many blocks as have room with rows of experts that can be told apart."""
    px = builder.px
    _, n_tokens, n_experts = builder.series.arrays[names[0]].shape
    label = builder.text_width(str(n_experts - 1), _NUMBER) + px(10)
    cell_x = (area.width - label - (n_rows - 1) * px(_GAP)) // (n_rows * n_tokens)
    cell_x = max(1, min(whole_cell_px(cell_x), px(18)))
    foot = px(28) if cell_x > text_width("0", _TOKEN * builder.unit, mono=True) else 0
    height = area.height - px(6) - foot

    pool = 1
    while -(-n_experts // pool) > _MOST_ROWS:
        pool *= 2
    n_cells = -(-n_experts // pool)
    least = px(_FEW_ROW_PX if n_cells <= _FEW else _ROW_PX)
    fitting = height // (px(_ABOVE) + n_cells * least)
    n_blocks = panel.blocks or max(1, min(_MOST_BLOCKS, fitting))
    n_blocks = min(n_blocks, len(names))
    each = height // n_blocks - px(_ABOVE) - 2
    if each < n_cells:
        raise LayoutError(
            f"layout {builder.layout.name!r}: {n_blocks} maps of {n_cells} rows of experts do not "
            f"fit into {height} pixels; show fewer blocks, or choose a larger size"
        )
    cell_y = min(whole_cell_px(each // n_cells), 4 * cell_x, px(40))
    spread = np.linspace(0, len(names) - 1, n_blocks).round().astype(int)
    if n_blocks == 1:
        spread = np.array([len(names) // 2])
    return _Shape(tuple(spread.tolist()), pool, (cell_x, cell_y), label, foot)


def _place_one(
    builder: PlanBuilder, name: str, probe: int, title: str, shape: _Shape, box: Box
) -> None:
    _, n_tokens, n_experts = builder.series.arrays[name].shape
    block = f"block {_block_of(name)}"
    titles = [block, f"L{_block_of(name)}"]
    if title:
        titles = [f"{block} · {title}", f"{block} · {title.removesuffix(' tokens')}", *titles]
    fitting = (text for text in titles if builder.text_width(text, _TITLE) <= box.width)
    builder.text(next(fitting, titles[-1]), box.x, box.y - builder.px(8), _TITLE)
    source = RouterMap(name, probe, n_experts, n_tokens, shape.pool)
    builder.heatmaps.append(Heatmap(f"experts · {block} · {probe}", source, box, _SCALE))


def _number_experts(builder: PlanBuilder, n_cells: int, shape: _Shape, box: Box) -> None:
    spacing = number_spacing(shape.cell[1], builder.px(22))
    for cell in range(0, n_cells, spacing):
        middle = box.y + (cell + 0.5) * shape.cell[1]
        builder.text_left_of(box.x - builder.px(6), str(cell * shape.pool), middle, _NUMBER)


def _write_tokens(builder: PlanBuilder, probe: int, shape: _Shape, box: Box) -> None:
    """Write below a map the tokens that are no wider than their columns."""
    tokens = [str(token) for token in probe_row(builder.series, probe).get("tokens", ())]
    for place, token in enumerate(tokens):
        shown = {"\n": "↵", " ": "␣"}.get(token, token)
        if not shown.isprintable():
            shown = "·"
        if text_width(shown, _TOKEN * builder.unit, mono=True) > shape.cell[0] - 1:
            continue
        middle = box.x + (place + 0.5) * shape.cell[0]
        builder.text(shown, middle, box.bottom + builder.px(21), _TOKEN, align="center", mono=True)
