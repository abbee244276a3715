"""Decide what the explorer's page holds: which maps of a Renderer's picture, and how finely.

The picture has room for each head once, and pools it until it fits. On the page any head can be
opened, so heads are as fine as the page's size allows, and those that the run's events are about
are finer still.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tracker_viz.metrics import ROLES, role_label
from tracker_viz.rendering.export.explorer.cells import (
    Block,
    HeadsPart,
    MapPart,
    Part,
    RolesPart,
    head_cells,
)
from tracker_viz.rendering.painting.renderer import Renderer
from tracker_viz.rendering.plan import Heatmap, Plan
from tracker_viz.rendering.planning.cards import role_of_score, score_of_role
from tracker_viz.rendering.planning.content import (
    block_of,
    head_numbers,
    heads_that_share,
    indexer_places,
    kind_of,
    matrix_title,
    probe_row,
    row_title,
)
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.sources import (
    CodedMap,
    HeadMap,
    Mosaic,
    ScoreMap,
    Source,
    WeightMap,
    WeightSummary,
    norms_name,
)

# Bytes of attention in a page before they are deflated: of all heads, and on top of that of the
# heads that the events are about. Deflated and as text, a byte becomes about 0.7 of one.
_ALL_HEADS_BYTES, _TELLING_HEADS_BYTES = 7 << 20, 2 << 20
_FEWEST_CELLS = 16  # of a head that the picture does not show
_SIDES = {"out": "output", "in": "input"}
_SHOWN = {
    "value": "Attention",
    "step": "Attention change since the previous capture",
    "change": "Attention change since the first capture",
}


@dataclass(frozen=True)
class PageParts:
    """Everything that a page holds.

    Attributes:
        maps: heads and weights; the page unpacks them chunk by chunk.
        scores: roles, scores and other small maps, which the page holds unpacked as a whole.
        rows: for each attention row of the page, its title and its tokens.
        scales: the color scales that these use.
        telling: (block, head) of the heads to look at first.
        drawn_px: for each attention row, how wide the picture draws its largest head.
        opened: ``block.head`` of the head that the whole picture shows; None where there are more.
        sharing: how many neighboring heads share keys and values; 1 where they do not.
    """

    maps: list[Part]
    scores: list[Part]
    rows: list[dict[str, Any]]
    scales: dict[str, ColorScale]
    telling: list[tuple[int, int]]
    drawn_px: list[int]
    opened: str | None
    sharing: int


def page_parts(renderer: Renderer, n_captures: int) -> PageParts:
    """Return the parts of a page with ``n_captures`` captures."""
    plan, series = renderer.plan, renderer.series
    scales = dict(plan.scales)
    maps: list[Part] = []
    firsts = _attention_rows(plan)
    rows = [_row(series, _first_head(heatmap)) for heatmap in firsts]
    for row, heatmap in enumerate(firsts):
        maps += _heads(renderer, heatmap, row, n_captures * len(firsts))
    for heatmap in plan.heatmaps:
        if isinstance(heatmap.source, WeightMap):
            maps.append(_matrix(plan, heatmap, series))
    telling = []
    if firsts:
        telling = _telling_heads(plan, list(_blocks(series, _first_head(firsts[0]))))
    return PageParts(
        maps,
        _scores(renderer, scales),
        rows,
        scales,
        telling,
        [_drawn_px(plan, _first_head(heatmap)) for heatmap in firsts],
        _opened(plan),
        heads_that_share(series),
    )


# -- attention ---------------------------------------------------------------------------------


def _attention_rows(plan: Plan) -> list[Heatmap]:
    """Return one heatmap of attention for each row of the probe, or way to show it, in the
    picture's order."""
    found: dict[tuple[object, ...], Heatmap] = {}
    for heatmap in plan.heatmaps:
        if isinstance(heatmap.source, HeadMap | Mosaic):
            head = _first_head(heatmap)
            found.setdefault(_row_key(head), heatmap)
    return list(found.values())


def _row_key(head: HeadMap) -> tuple[object, ...]:
    """Return what the heads of one attention row have in common."""
    return kind_of(head.name), head.probe, head.show, bool(head.weighted_by)


def _first_head(heatmap: Heatmap) -> HeadMap:
    source = heatmap.source
    if isinstance(source, Mosaic):
        return source.first
    assert isinstance(source, HeadMap)
    return source


def _row(series: Series, head: HeadMap) -> dict[str, Any]:
    """Return the title of an attention row, and the tokens along its maps."""
    probe = head.probe or 0
    described = probe_row(series, probe)
    title = "Attention weighted by values" if head.weighted_by else _SHOWN[head.show]
    if head.is_choice:
        title = "Keys the indexer chose"
    elif kind_of(head.name) != "attn.pattern":
        title = title.replace("Attention", "Token mixing")
    if described:
        names = series.labels("probe", len(series.last.probe["rows"]))
        label = row_title(names[probe], len(names))
        title = f"{title} · {label}" if label else title
    return {
        "title": title,
        "kind": str(described.get("kind", "")),
        "tokens": [str(token) for token in described.get("tokens", ())],
        "period": int(described.get("period") or 0),
        "start": int(described.get("start") or 0),
    }


def _heads(renderer: Renderer, heatmap: Heatmap, row: int, n_maps: int) -> Iterator[HeadsPart]:
    """Yield all heads of one attention row, and once more, finer, those that the run is about."""
    plan, series = renderer.plan, renderer.series
    drawn = _first_head(heatmap)
    is_causal = heatmap.mask is not None
    blocks = tuple(_blocks(series, drawn))
    n_heads = sum(len(block.heads) for block in blocks)
    finest = replace(drawn, pool=1)

    room = _ALL_HEADS_BYTES / (n_heads * n_maps)
    coarsest = drawn.pool
    if any(isinstance(each.source, CodedMap) for each in plan.heatmaps):
        # The picture shows few of the heads; the others must stay fine enough to show a pattern.
        coarsest = max(coarsest, -(-drawn.length // _FEWEST_CELLS))
    pooled = _pooled(finest, is_causal, room, coarsest=coarsest)
    shared = row, pooled, heatmap.scale, plan.scales[heatmap.scale], is_causal
    yield HeadsPart(*shared, blocks)
    if pooled.pool == 1:
        return

    # The finest maps that leave room for at least these heads; more heads where they are small.
    telling = _telling_heads(plan, blocks)
    room = _TELLING_HEADS_BYTES / (max(1, min(8, len(telling))) * n_maps)
    finer = _pooled(finest, is_causal, room, coarsest=pooled.pool)
    most = int(_TELLING_HEADS_BYTES / n_maps / head_cells(finer, is_causal))
    chosen = set(telling[:most])
    if chosen and finer.pool < pooled.pool:
        few = tuple(_only(block, chosen) for block in blocks)
        yield replace(HeadsPart(*shared, tuple(block for block in few if block.heads)), first=finer)


def _pooled(head: HeadMap, is_causal: bool, room: float, *, coarsest: int) -> HeadMap:
    """Pool the head as little as ``room`` cells allow, and no more than ``coarsest``."""
    for pool in range(1, coarsest):
        pooled = replace(head, pool=pool)
        if head_cells(pooled, is_causal) <= room:
            return pooled
    return replace(head, pool=coarsest)


def _blocks(series: Series, drawn: HeadMap) -> Iterator[Block]:
    """Yield every attention array of the run that can be drawn as ``drawn`` is, by its block."""
    shape = series.arrays[drawn.name].shape
    for name in sorted(series.names(f"blocks.*.{kind_of(drawn.name)}"), key=block_of):
        array = series.arrays[name]
        is_whole = array.missing_at is None and array.reshaped_at is None
        alike = len(array.shape) == len(shape) and array.shape[-2:] == shape[-2:]
        has_norms = not drawn.weighted_by or norms_name(name) in series.arrays
        if not (is_whole and alike and has_norms):
            continue
        if drawn.is_choice:
            yield from _chosen_keys(series, name)
            continue
        numbers = head_numbers(series, name)
        yield Block(block_of(name), name, tuple(range(len(numbers))), numbers)


def _chosen_keys(series: Series, name: str) -> Iterator[Block]:
    """Yield the block of an indexer's array, if that is about the heads of the block."""
    pattern = name.replace(".attn.indexer", ".attn.pattern")
    places = indexer_places(series, pattern) if pattern in series.arrays else ()
    if places:
        yield Block(block_of(name), name, places, head_numbers(series, pattern))


def _telling_heads(plan: Plan, blocks: Sequence[Block]) -> list[tuple[int, int]]:
    """Return the heads of the events, the strongest event first, and those that the picture
    enlarges."""
    known = {(block.block, head) for block in blocks for head in block.heads}
    events = sorted(plan.story.events, key=lambda event: -event.strength)
    groups = [event.heads for event in events if event.role]
    groups.append(tuple(heatmap.head for heatmap in plan.heatmaps if heatmap.head))
    # One head of each event in turn; else the strongest event would take all the room.
    turns = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    return [head for head in dict.fromkeys(turns) if head in known]


def _only(block: Block, chosen: set[tuple[int, int]]) -> Block:
    """Return the chosen heads of a block alone."""
    positions, heads = [], []
    for position, head in zip(block.positions, block.heads, strict=True):
        if (block.block, head) in chosen:
            positions.append(position)
            heads.append(head)
    return replace(block, positions=tuple(positions), heads=tuple(heads))


def _drawn_px(plan: Plan, head: HeadMap) -> int:
    """Return how wide the picture draws the largest map of one head of that attention row."""
    widths = [0]
    for heatmap in plan.heatmaps:
        source = heatmap.source
        if isinstance(source, HeadMap | Mosaic):
            first = _first_head(heatmap)
            if _row_key(first) == _row_key(head):
                widths.append(heatmap.box.width * first.shape[1] // source.shape[1])
    return max(widths)


def _opened(plan: Plan) -> str | None:
    heads = {heatmap.head for heatmap in plan.heatmaps if heatmap.head}
    has_more = any(isinstance(heatmap.source, Mosaic | WeightMap) for heatmap in plan.heatmaps)
    if len(heads) != 1 or has_more:
        return None
    block, head = heads.pop()
    return f"{block}.{head}"


# -- weights and scores ------------------------------------------------------------------------


def _matrix(plan: Plan, heatmap: Heatmap, series: Series) -> MapPart:
    source = heatmap.source
    assert isinstance(source, WeightMap)
    sides = [_SIDES.get(side, side) for side in series.arrays[source.name].axes]
    words = {
        "kind": "matrix",
        "section": heatmap.name.removesuffix(f" · {source.name}"),
        "title": matrix_title(kind_of(source.name)),
        "block": block_of(source.name),
        "axes": " ".join(f"{side} {arrow}" for side, arrow in zip(sides, "↓→", strict=True)),
    }
    return MapPart(source, heatmap.scale, plan.scales[heatmap.scale], words)


def _scores(renderer: Renderer, scales: dict[str, ColorScale]) -> list[Part]:
    """Return roles, small maps of the picture, and the roles' scores that it does not show;
    their scale is added to ``scales``."""
    plan, series = renderer.plan, renderer.series
    parts: list[Part] = []
    drawn: set[object] = set()
    for heatmap in plan.heatmaps:
        # Heads and matrices have tiles of their own, and the page makes its own map of roles.
        if not isinstance(heatmap.source, HeadMap | Mosaic | WeightMap | CodedMap):
            drawn.update(heatmap.source.needs)
            words = {**_card_words(heatmap, series), "isShown": True, "hidden": _hidden(heatmap)}
            scale = plan.scales[heatmap.scale]
            parts.append(MapPart(heatmap.source, heatmap.scale, scale, words))

    for role in ROLES:
        name = score_of_role(series, role)
        if name is None or name in drawn:
            continue
        array = series.arrays[name]
        if array.missing_at is not None or array.reshaped_at:
            continue
        scale = scales.setdefault("score", ColorScale("score", plan.theme.score, 0.0, 1.0))
        rows, columns = array.shape
        words = {"kind": "score", "title": role_label(role.name), "name": name, "role": role.name}
        words |= {"isShown": False, "columnNames": None}
        parts.append(MapPart(ScoreMap(name, (rows, columns)), "score", scale, words))

    parts += _borders(plan, _grid_of_heads(series))
    return parts


def _borders(plan: Plan, shape: tuple[int, int] | None) -> Iterator[RolesPart]:
    """Yield the borders on each attention row; on the first row of the probe without any."""
    if not plan.roles.held or shape is None:
        return
    probes = [_first_head(heatmap).probe or 0 for heatmap in _attention_rows(plan)] or [0]
    for row, probe in enumerate(probes):
        kinds = plan.roles.row_kinds
        kind = kinds[probe] if probe < len(kinds) else ""
        borders = []
        for anywhere, here in zip(
            plan.roles.held, plan.roles.held_on.get(kind, plan.roles.held), strict=True
        ):
            elsewhere = {head: (role, False) for head, role in anywhere.items()}
            borders.append(elsewhere | {head: (role, True) for head, role in here.items()})
        yield RolesPart(row, tuple(plan.roles.names), borders, shape)


def _hidden(heatmap: Heatmap) -> str | None:
    """Return a bit for each cell, 1 where no such head or matrix is; None if all are there."""
    if heatmap.mask is None or not heatmap.mask.any():
        return None
    bits = np.packbits(heatmap.mask.reshape(-1), bitorder="little")
    return base64.b64encode(bits.tobytes()).decode()


def _card_words(heatmap: Heatmap, series: Series) -> dict[str, Any]:
    """Return how the page names a card. ``columnNames`` is None where columns have numbers only:
    heads, and a map of a kind that the page does not know, unless its columns are tokens."""
    source = heatmap.source
    title = heatmap.name.split(" · ", 1)[-1]
    if isinstance(source, WeightSummary):
        names = []
        for column in zip(*source.names, strict=True):
            first = next(filter(None, column))  # not every block has every matrix
            names.append(matrix_title(kind_of(first)))
        return {"kind": "summary", "title": title, "name": "", "columnNames": names}
    if not isinstance(source, ScoreMap):
        tokens = _tokens_along(series, source)
        return {"kind": "panel", "title": heatmap.name, "name": "", "columnNames": tokens}
    words = {"kind": "panel", "title": title, "name": source.name, "columnNames": None}
    if source.name.startswith(("scores.head.", "scores.write.")):
        return words | {"kind": "score", "role": role_of_score(series, source.name)}
    if not source.name.startswith("scores.weight."):
        return words
    names = [matrix_title(kind) for kind in series.labels("projection", source.shape[1])]
    return words | {"kind": "summary", "columnNames": names}


def _tokens_along(series: Series, source: Source) -> list[str] | None:
    """Return the tokens of the probe's row that a map shows, if its columns are these."""
    row = getattr(source, "probe", None)
    if row is None:
        return None
    tokens = [str(token) for token in probe_row(series, row).get("tokens", ())]
    return tokens if len(tokens) == source.shape[1] else None


def _grid_of_heads(series: Series) -> tuple[int, int] | None:
    for role in ROLES:
        array = series.arrays.get(f"scores.head.{role.name}")
        if array is not None and array.missing_at is None and not array.reshaped_at:
            return array.shape[0], array.shape[1]
    return None
