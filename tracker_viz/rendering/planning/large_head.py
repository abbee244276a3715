"""Places one head as large as it goes, on every row of the probe, with the tokens along its sides;
beside it the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.layout import LargeHead
from tracker_viz.rendering.plan import Box, Heatmap, Swatch
from tracker_viz.rendering.planning.cards import place_cards, place_scores, score_cards
from tracker_viz.rendering.planning.content import Heads, most_changed, resolve_attention
from tracker_viz.rendering.planning.grid import fit_map
from tracker_viz.rendering.planning.plan_builder import PlanBuilder

_TOKENS = ((16.0, 1), (14.0, 1), (16.0, 2), (12.0, 1), (14.0, 2), (10.5, 1))
"""Sizes of tokens, and in how many columns they take turns along a side. The first that costs the
maps little is taken. Where not all tokens have room in any, some are left out of the first."""
_ABOVE = 60  # at 1080p: what stands above a map that is below another


def place_head(builder: PlanBuilder, panel: LargeHead, scores: list[str], area: Box) -> int:
    """The head on each row of the probe, the panel's own row first: side by side, or below each
    other where that makes them larger.

    Returns the bottom of what was placed.
    """
    px = builder.px
    shown = resolve_attention(builder, panel)[0]
    others = (
        resolve_attention(builder, panel.model_copy(update={"probe": None}))
        if shown.blocks[0][0].probe is not None
        else []
    )
    rows = [
        shown,
        *(heads for heads in others if heads.blocks[0][0].probe != shown.blocks[0][0].probe),
    ]
    row, column = _chosen(builder, panel, shown)
    tokens = [
        _tokens(builder, heads.blocks[row][column].probe or 0, heads.length) for heads in rows
    ]
    places = _score_places(builder, shown.columns) if scores else [(0, 0)]
    chosen = _arrange(builder, len(rows), shown.length, tokens, places, area)
    label = chosen.label
    x, y, bottom, right = area.x, area.y + px(8), area.y, area.x
    for number, (heads, texts) in enumerate(zip(rows, tokens, strict=True)):
        box = _place_map(
            builder, heads, row, column, texts, chosen, x + label, y, is_first=number == 0
        )
        right, bottom = max(right, box.right + px(36)), box.bottom
        x, y = (
            (box.right + px(36), y) if chosen.is_row else (area.x, box.bottom + label + px(_ABOVE))
        )
    if chosen.score_width:
        place_scores(
            builder,
            scores,
            Box(
                right + px(14), area.y + px(8), area.right - right - px(14), bottom - area.y - px(8)
            ),
        )
    elif scores:
        cards = Box(
            area.x, bottom + label + px(62), area.width, area.bottom - bottom - label - px(70)
        )
        return place_cards(builder, score_cards(builder, scores), cards)
    return bottom + label


@dataclass(frozen=True)
class _Arrangement:
    """Maps of ``side`` pixels, in a row or else below each other; ``score_width`` of the picture's
    width goes to scores at the right.

    Tokens of ``token_size`` stand along the sides, neighbours in ``token_columns`` columns, which
    need ``label`` pixels.
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
    """The arrangement of ``n`` maps, with the tokens in the first of the ways that names all of
    them and costs the maps little."""
    found = []
    for size, columns in _TOKENS:
        label = (
            max(_offsets(builder, each, size, columns)[-1] for each in tokens) + builder.px(3)
            if any(tokens)
            else builder.px(24)
        )
        found.append(
            _Arrangement(*_fit_maps(builder, n, length, label, places, area), label, size, columns)
        )
    whole = [each for each in found if each.names_every_token(length, builder.unit)]
    return next(
        (each for each in whole if each.side >= 0.9 * max(other.side for other in whole)), found[0]
    )


def _offsets(builder: PlanBuilder, tokens: Sequence[str], size: float, columns: int) -> list[int]:
    """How far from the map tokens begin that take turns in ``columns`` columns, the first one
    first; and at last where all of them end.

    The column of narrow tokens stands next to the map, so that one wide token does not push all
    others away.
    """
    widest = [
        max((builder.text_width(token, size) for token in tokens[first::columns]), default=0)
        for first in range(columns)
    ]
    offsets, away = [0] * columns, builder.px(7)
    for column in sorted(range(columns), key=lambda column: widest[column]):
        offsets[column] = away
        away += widest[column] + builder.px(7)
    return [*offsets, away - builder.px(7)]


def _score_places(builder: PlanBuilder, n_heads: int) -> list[tuple[int, int]]:
    """(width, height) that scores may take: at the right, or in a narrow picture below, always
    where two of their maps are too wide."""
    px = builder.px
    right, below = (px(310), 0), (0, px(270))
    if not builder.is_narrow:
        return [right]
    return [right, below] if 2 * (n_heads + px(61)) <= right[0] else [below]


def _fit_maps(
    builder: PlanBuilder,
    n: int,
    length: int,
    label: int,
    places: Sequence[tuple[int, int]],
    area: Box,
) -> tuple[int, int, bool]:
    """(side, score_width, is_row) with the largest maps."""
    px = builder.px
    found: list[tuple[int, int, bool]] = []
    for score_width, score_height in places:
        width, height = area.width - score_width, area.height - score_height - px(8)
        for is_row, room in (
            (True, min(width // n - label - px(36), height - label)),
            (False, min(width - label - px(36), (height - (n - 1) * px(_ABOVE)) // n - label)),
        ):
            pool, cell_px = fit_map(length, max(2, room))
            found.append((-(-length // pool) * cell_px, score_width, is_row))
    return max(found)


def _place_map(
    builder: PlanBuilder,
    heads: Heads,
    row: int,
    column: int,
    tokens: list[str],
    chosen: _Arrangement,
    x: int,
    y: int,
    *,
    is_first: bool,
) -> Box:
    pool, cell_px = fit_map(heads.length, chosen.side)
    cells = -(-heads.length // pool)
    box = Box(2 * ((x + 1) // 2), 2 * ((y + 1) // 2), cells * cell_px, cells * cell_px)
    block, numbers = heads.indices[row]
    name = f"L{block}H{numbers[column]}"
    kind = heads.title.removeprefix("Attention · ")
    title = f"{name} · {kind}" if is_first else kind[:1].upper() + kind[1:]
    builder.heading(title, box.x, box.y - builder.px(38), box.width, *heads.axes(pool))
    source = replace(heads.blocks[row][column], pool=pool)
    place = (block, numbers[column])
    builder.heatmaps.append(
        Heatmap(f"{name} · {kind}", source, box, heads.scale, heads.mask(cells), head=place)
    )
    _token_labels(builder, tokens, chosen, box, pool, cell_px)
    _name_copies(builder, heads.blocks[row][column].probe or 0, box, heads.length)
    return box


def _name_copies(builder: PlanBuilder, probe: int, box: Box, length: int) -> None:
    """Bracket the copies of repeated tokens along the upper edge of the map, whose right half no
    attention reaches."""
    rows = builder.series.last.probe.get("rows") or []
    row = rows[probe] if probe < len(rows) else {}
    period, start = int(row.get("period") or 0), int(row.get("start") or 0)
    if not period:
        return
    px = builder.px
    starts = list(range(start, length, period))
    for number, first in enumerate(starts, 1):
        left = box.x + box.width * first // length
        right = box.x + box.width * min(first + period, length) // length
        line = Box(left + px(2), box.y - px(9), max(1, right - left - px(4)), max(1, px(3)))
        builder.swatches.append(Swatch(line, builder.theme.dim))
        text = f"copy {number}"
        if builder.text_width(text, 16) <= line.width:
            builder.text(text, (left + right) / 2, box.y - px(14), 16, align="center")


def _chosen(builder: PlanBuilder, panel: LargeHead, heads: Heads) -> tuple[int, int]:
    """(row, column) of the head: of those that were asked for, one with a role first (induction
    before others), then by its change."""
    roles = builder.roles.held[-1] if builder.roles.held else {}

    def named(place: tuple[int, int]) -> tuple[int, int]:
        block, numbers = heads.indices[place[0]]
        return block, numbers[place[1]]

    asked = [
        place
        for place in most_changed(builder.series, heads, sum(map(len, heads.blocks)), {})
        if panel.shows(*named(place))
    ]
    if not asked:
        have = "; ".join(
            f"block {block}: heads {', '.join(map(str, numbers))}"
            for block, numbers in heads.indices[:4]
        )
        wanted = " ".join(
            f"{kind} {number}"
            for kind, number in (("block", panel.block), ("head", panel.head))
            if number is not None
        )
        raise LayoutError(
            f"layout {builder.layout.name!r}: the captures hold no {wanted}; they hold {have} ..."
        )
    return min(
        asked, key=lambda place: (roles.get(named(place)) != "induction", named(place) not in roles)
    )


def _tokens(builder: PlanBuilder, probe: int, length: int) -> list[str]:
    rows = builder.series.last.probe.get("rows") or []
    if probe >= len(rows) or len(rows[probe].get("tokens", ())) < length:
        return []
    return [_visible(str(token)) for token in rows[probe]["tokens"][:length]]


def _visible(token: str) -> str:
    for blank, sign in (("\n", "⏎"), ("\t", "⇥"), (" ", "␣")):
        token = token.replace(blank, sign)
    token = "".join(character if character.isprintable() else "·" for character in token)
    return token if len(token) <= 9 else token[:8] + "…"


def _token_labels(
    builder: PlanBuilder, tokens: list[str], chosen: _Arrangement, box: Box, pool: int, cell_px: int
) -> None:
    size, columns = chosen.token_size, chosen.token_columns
    every = max(1, -(-round(0.95 * size * builder.unit) * pool // (columns * cell_px)))
    offsets = _offsets(builder, tokens[::every], size, columns)
    for position in range(0, len(tokens), every):
        middle = (position // pool + 0.5) * cell_px if pool > 1 else (position + 0.5) * cell_px
        away = offsets[position // every % columns]
        builder.text(
            tokens[position], box.x - away, box.y + middle, size, align="right", baseline="center"
        )
        builder.text(
            tokens[position],
            box.x + middle + 0.36 * size * builder.unit,
            box.bottom + away,
            size,
            align="right",
            rotation=90,
        )
