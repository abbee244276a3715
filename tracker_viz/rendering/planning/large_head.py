"""Place one head as large as it goes, on every row of the probe, or as it is and weighted by
values or with the keys that its indexer chose, with the tokens along its sides; beside it the
scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.layout import LargeHead
from tracker_viz.rendering.plan import Box, Heatmap, Swatch
from tracker_viz.rendering.planning.boxes import bottom_at, left_at, top_at
from tracker_viz.rendering.planning.cards import place_cards, place_scores, score_cards
from tracker_viz.rendering.planning.circuits.head_words import head_words, place_head_words
from tracker_viz.rendering.planning.content import (
    Heads,
    indexed_heads,
    indexer_places,
    leaves_keys_out,
    most_changed,
    pool_words,
    probe_row,
    resolve_attention,
    weighted_heads,
)
from tracker_viz.rendering.planning.grid import fit_map
from tracker_viz.rendering.planning.plan_builder import PlanBuilder, next_even
from tracker_viz.rendering.sources import norms_name

_TOKENS = ((20.0, 1), (20.0, 2), (20.0, 3))
"""Sizes of tokens, and in how many columns they take turns along a side. The first that costs the
maps little is taken. Where no way has room for all tokens, some are left out of the first."""
# Times the height of words: in less there are maps alone. Wide pictures, and narrow ones, which
# have scores beside or below smaller maps.
_ROOM_FOR_MAPS = (3.5, 6.0)
_ABOVE_WORDS = 20  # at 1080p
_WEIGHTED = "Weighted by values"
_COPY = 20.0  # font size of the names of copies
_ABOVE = 60  # at 1080p: above a map that is below another
_LONGEST_TOKEN = 9  # characters


def place_head(builder: PlanBuilder, panel: LargeHead, scores: list[str], area: Box) -> int:
    """Place the maps of the head, and below them the words that it writes, where captures hold them
    and there is room.

    Return the bottom of what was placed.
    """
    shown = resolve_attention(builder, panel)[0]
    place = _chosen(builder, panel, shown)
    rows = [shown, *_beside(builder, panel, shown, place)]
    words = head_words(builder, _numbers(rows[0], place))
    room = _ROOM_FOR_MAPS[builder.is_narrow]
    if words is None or area.height < room * words.height(builder):
        return _place_maps(builder, rows, place, scores, area)
    above = bottom_at(area, area.bottom - words.height(builder))
    bottom = _place_maps(builder, rows, place, scores, above)
    below = top_at(area, bottom + builder.px(_ABOVE_WORDS))
    return place_head_words(builder, words, _name(rows[0], place), below)


def _place_maps(
    builder: PlanBuilder,
    rows: Sequence[Heads],
    place: tuple[int, int],
    scores: list[str],
    area: Box,
) -> int:
    """Place the head's map of each of ``rows``, that of the panel's own row of the probe first:
    side by side, or below each other where that makes them larger."""
    px = builder.px
    tokens = [_tokens(builder, _probe(heads), heads.length) for heads in rows]
    places = _score_places(builder, rows[0]) if scores else [(0, 0)]
    chosen = _arrange(builder, len(rows), rows[0].length, tokens, places, area)
    x, y, right = area.x, area.y + px(10), area.x
    for heads, texts in zip(rows, tokens, strict=True):
        title = _title(heads, place, is_first=heads is rows[0])
        corner = Box(x + chosen.label, y, 0, 0)
        box = _place_map(builder, heads, place, title, texts, chosen, corner)
        right = max(right, box.right + px(36))
        if chosen.is_row:
            x = box.right + px(36)
        else:
            y = box.bottom + chosen.label + px(_ABOVE)
    bottom = box.bottom + chosen.label
    if not scores:
        return bottom
    if chosen.score_width:
        beside = left_at(top_at(area, area.y + px(10)), right + px(14))
        place_scores(builder, scores, bottom_at(beside, bottom))
        return bottom
    room = Box(area.x, bottom + px(62), area.width, area.bottom - bottom - px(70))
    return place_cards(builder, score_cards(builder, scores), room)


def _beside(
    builder: PlanBuilder, panel: LargeHead, shown: Heads, place: tuple[int, int]
) -> list[Heads]:
    """Return what is beside the attention of the head at ``place``."""
    names = {norms_name(maps[0].name) for maps in shown.blocks if maps}
    has_norms = names <= builder.series.arrays.keys()
    if panel.beside == "weighted" or (panel.beside is None and has_norms):
        blocks = [
            weighted_heads(builder, maps, numbers) if maps else []
            for maps, (_, numbers) in zip(shown.blocks, shown.indices, strict=True)
        ]
        return [replace(shown, title=_WEIGHTED, blocks=blocks)]
    name = shown.blocks[place[0]][0].name
    if panel.beside == "indexer" or (
        panel.beside is None and leaves_keys_out(builder.series, name)
    ):
        return [indexed_heads(builder, shown)]
    if shown.blocks[0][0].probe is None:  # the captures hold one row only
        return []
    every = resolve_attention(builder, panel.model_copy(update={"probe": None}))
    return [heads for heads in every if _probe(heads) != _probe(shown)]


def _probe(heads: Heads) -> int:
    return heads.probe or 0


def _title(heads: Heads, place: tuple[int, int], *, is_first: bool) -> str:
    kind = _kind(heads)
    if is_first:
        return f"{_name(heads, place)} · {kind}"
    return kind[:1].upper() + kind[1:]


def _kind(heads: Heads) -> str:
    return heads.title.removeprefix("Attention · ")


def _name(heads: Heads, place: tuple[int, int]) -> str:
    block, head = _numbers(heads, place)
    return f"L{block}H{head}"


def _numbers(heads: Heads, place: tuple[int, int]) -> tuple[int, int]:
    """Return (block, head) of the head at (row, column)."""
    row, column = place
    block, numbers = heads.indices[row]
    return block, numbers[column]


@dataclass(frozen=True)
class _Arrangement:
    """Sizes and places of the maps.

    Attributes:
        side: of each map, in pixels.
        score_width: pixels of the picture's width that go to scores at the right.
        is_row: maps side by side instead of below each other.
        label: pixels that the tokens along a side need.
        token_size, token_columns: font size, and how many columns neighboring tokens take turns in.
    """

    side: int
    score_width: int
    is_row: bool
    label: int
    token_size: float
    token_columns: int

    def names_every_token(self, length: int, unit: float) -> bool:
        pool, cell_px = fit_map(length, self.side)
        return self.token_columns * cell_px >= 0.95 * self.token_size * unit * pool


def _arrange(
    builder: PlanBuilder,
    n: int,
    length: int,
    tokens: Sequence[Sequence[str]],
    places: Sequence[tuple[int, int]],
    area: Box,
) -> _Arrangement:
    """Return the arrangement of ``n`` maps, with the tokens in the first of the ways that names all
    of them and costs the maps little."""
    found = []
    for size, columns in _TOKENS:
        label = builder.px(24)
        if any(tokens):
            ends = [_offsets(builder, each, size, columns)[-1] for each in tokens]
            label = max(ends) + builder.px(3)
        fitted = _fit_maps(builder, n, length, label, places, area)
        found.append(_Arrangement(*fitted, label, size, columns))
    whole = [each for each in found if each.names_every_token(length, builder.unit)]
    for each in whole:
        if each.side >= 0.9 * max(other.side for other in whole):
            return each
    return found[0]


def _offsets(builder: PlanBuilder, tokens: Sequence[str], size: float, columns: int) -> list[int]:
    """Return how far from the map tokens begin that take turns in ``columns`` columns, the first
    one first; and at last where all of them end.

    The column of narrow tokens stands next to the map, so that one wide token does not push all
    others away.
    """
    widest = [builder.widest(tokens[first::columns], size) for first in range(columns)]
    offsets, away = [0] * columns, builder.px(7)
    for column in sorted(range(columns), key=lambda column: widest[column]):
        offsets[column] = away
        away += widest[column] + builder.px(7)
    return [*offsets, away - builder.px(7)]


def _score_places(builder: PlanBuilder, heads: Heads) -> list[tuple[int, int]]:
    """Return (width, height) that scores may take: at the right, or in a narrow picture below,
    always where two of their maps are too wide."""
    px = builder.px
    # Maps of very many blocks stand two in a row, each as wide as its title.
    right, below = (px(310 if len(heads.blocks) <= 48 else 430), 0), (0, px(270))
    if not builder.is_narrow:
        return [right]
    if 2 * (heads.columns + px(61)) <= px(310):
        return [right, below]
    return [below]


def _fit_maps(
    builder: PlanBuilder,
    n: int,
    length: int,
    label: int,
    places: Sequence[tuple[int, int]],
    area: Box,
) -> tuple[int, int, bool]:
    """Return (side, score_width, is_row) with the largest maps."""
    px = builder.px
    found: list[tuple[int, int, bool]] = []
    for score_width, score_height in places:
        width, height = area.width - score_width, area.height - score_height - px(8)
        in_row = min(width // n - label - px(36), height - label)
        in_column = min(width - label - px(36), (height - (n - 1) * px(_ABOVE)) // n - label)
        for is_row, room in ((True, in_row), (False, in_column)):
            pool, cell_px = fit_map(length, max(2, room))
            found.append((-(-length // pool) * cell_px, score_width, is_row))
    return max(found)


def _place_map(
    builder: PlanBuilder,
    heads: Heads,
    place: tuple[int, int],
    title: str,
    tokens: list[str],
    chosen: _Arrangement,
    corner: Box,
) -> Box:
    """Place one map with its left upper corner at ``corner``, and the tokens along its sides."""
    row, column = place
    pool, cell_px = fit_map(heads.length, chosen.side)
    cells = -(-heads.length // pool)
    box = Box(next_even(corner.x), next_even(corner.y), cells * cell_px, cells * cell_px)
    axes, needed = heads.axes(pool), pool_words(pool)
    builder.heading(title, box.x, box.y - builder.px(38), box.width, *axes, needed=needed)
    source = replace(heads.blocks[row][column], pool=pool)
    name = f"{_name(heads, place)} · {_kind(heads)}"
    # What an indexer chose is no head's attention, and has no role.
    head = None if source.is_choice else _numbers(heads, place)
    builder.heatmaps.append(Heatmap(name, source, box, heads.scale, heads.mask(cells), head=head))
    _token_labels(builder, tokens, chosen, box, pool, cell_px)
    _name_copies(builder, _probe(heads), box, heads.length)
    return box


def _name_copies(builder: PlanBuilder, probe: int, box: Box, length: int) -> None:
    """Bracket the copies of repeated tokens along the upper edge of the map, whose right half no
    attention reaches."""
    row = probe_row(builder.series, probe)
    period, start = int(row.get("period") or 0), int(row.get("start") or 0)
    if not period:
        return
    px = builder.px
    for number, first in enumerate(range(start, length, period), 1):
        left = box.x + box.width * first // length
        right = box.x + box.width * min(first + period, length) // length
        line = Box(left + px(2), box.y - px(9), max(1, right - left - px(4)), max(1, px(3)))
        builder.swatches.append(Swatch(line, builder.theme.dim))
        text = f"copy {number}"
        if builder.text_width(text, _COPY) <= line.width:
            builder.text(text, (left + right) / 2, box.y - px(14), _COPY, align="center")


def _chosen(builder: PlanBuilder, panel: LargeHead, heads: Heads) -> tuple[int, int]:
    """Return (row, column) of the head: of those that were asked for, one with a role first
    (induction before others), then the one that changed most."""
    roles = builder.roles.held[-1] if builder.roles.held else {}
    n_heads = sum(map(len, heads.blocks))
    asked = []
    for place in most_changed(builder.series, heads, n_heads, {}):
        if panel.shows(*_numbers(heads, place)):
            asked.append(place)
    if asked and panel.beside == "indexer":
        asked = _indexed(builder, panel, heads, asked)
    if not asked:
        raise LayoutError(
            f"layout {builder.layout.name!r}: the captures hold no {_wanted(panel)}; they hold "
            f"{_described(heads)} ..."
        )

    def rank(place: tuple[int, int]) -> tuple[bool, bool]:
        role = roles.get(_numbers(heads, place))
        return role != "induction", role is None

    return min(asked, key=rank)


def _indexed(
    builder: PlanBuilder, panel: LargeHead, heads: Heads, asked: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Return those of the heads whose block has an indexer."""
    found = [
        place
        for place in asked
        if indexer_places(builder.series, heads.blocks[place[0]][place[1]].name)
    ]
    if not found:
        block = "*" if panel.block is None else panel.block
        held = builder.series.names("blocks.*.attn.indexer")
        raise LayoutError(
            f"layout {builder.layout.name!r} shows the keys that an indexer chose, and the "
            f"captures hold no blocks.{block}.attn.indexer for these heads; they hold "
            f"{', '.join(held) or 'none: only models with sparse attention have it'}"
        )
    return found


def _wanted(panel: LargeHead) -> str:
    texts = []
    if panel.block is not None:
        texts.append(f"block {panel.block}")
    if panel.head is not None:
        texts.append(f"head {panel.head}")
    return " ".join(texts)


def _described(heads: Heads) -> str:
    texts = []
    for block, numbers in heads.indices[:4]:
        texts.append(f"block {block}: heads {', '.join(map(str, numbers))}")
    return "; ".join(texts)


def _tokens(builder: PlanBuilder, probe: int, length: int) -> list[str]:
    """Return the first ``length`` tokens of a row of the probe; none where it has fewer."""
    tokens = probe_row(builder.series, probe).get("tokens", ())
    if len(tokens) < length:
        return []
    return [_visible(str(token)) for token in tokens[:length]]


def _visible(token: str) -> str:
    """Write blanks as signs, and cut long tokens."""
    for blank, sign in (("\n", "⏎"), ("\t", "⇥"), (" ", "␣")):
        token = token.replace(blank, sign)
    token = "".join(character if character.isprintable() else "·" for character in token)
    if len(token) > _LONGEST_TOKEN:
        return token[: _LONGEST_TOKEN - 1] + "…"
    return token


def _token_labels(
    builder: PlanBuilder, tokens: list[str], chosen: _Arrangement, box: Box, pool: int, cell_px: int
) -> None:
    """Write the tokens left of the map and, turned, below it."""
    size, columns = chosen.token_size, chosen.token_columns
    every = max(1, -(-round(0.95 * size * builder.unit) * pool // (columns * cell_px)))
    offsets = _offsets(builder, tokens[::every], size, columns)
    for position in range(0, len(tokens), every):
        token = tokens[position]
        middle = (position // pool + 0.5) * cell_px
        away = offsets[position // every % columns]
        builder.text_left_of(box.x - away, token, box.y + middle, size)
        x = box.x + middle + 0.36 * size * builder.unit
        builder.text(token, x, box.bottom + away, size, align="right", rotation=90)
