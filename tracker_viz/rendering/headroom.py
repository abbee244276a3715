"""Places one head as large as it goes, with the probe's tokens along its sides; beside it its other probe rows, and scores."""

from __future__ import annotations

from dataclasses import replace

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.content import Heads, most_changed, resolve_attention
from tracker_viz.rendering.draft import Draft
from tracker_viz.rendering.grid import fit_map
from tracker_viz.rendering.layout import Head
from tracker_viz.rendering.plan import Box, Heatmap
from tracker_viz.rendering.scoreboard import place_cards, score_cards

_TOKEN_PX = 11.0


def place_head(draft: Draft, panel: Head, scores: list[str], area: Box) -> int:
    """Returns the bottom of what was placed."""
    px = draft.px
    heads = resolve_attention(draft, panel)[0]
    row, column = _chosen(draft, panel, heads)
    block, numbers = heads.indices[row]
    tokens = _tokens(draft, heads.blocks[row][column].probe or 0, heads.length)
    room = max((draft.text_width(token, _TOKEN_PX) for token in tokens), default=0)
    label = min(px(120), room + px(10)) if tokens else px(24)
    side = min(area.height - label, (area.width * 6) // 10 - label)
    pool, cell_px = fit_map(heads.length, side)
    cells = -(-heads.length // pool)
    box = Box(2 * ((area.x + label + 1) // 2), 2 * ((area.y + px(8) + 1) // 2), cells * cell_px, cells * cell_px)
    name = f"block {block} · head {numbers[column]}"
    draft.text(f"{name} · {heads.title.removeprefix('Attention · ')}", box.x, area.y - px(22), 24, draft.theme.text, bold=True)
    source = replace(heads.blocks[row][column], pool=pool)
    draft.heatmaps.append(Heatmap(name, source, box, heads.scale, heads.mask(cells), head=(block, numbers[column])))
    _token_labels(draft, tokens, box, pool, cell_px)
    x = box.right + px(56)
    right = Box(x, area.y + px(8), area.right - x, box.height)
    y = _other_rows(draft, panel, row, column, right)
    if scores:
        bars = px(64)
        place_cards(draft, score_cards(draft, scores), Box(right.x, y, right.width, right.bottom - y - bars))
        draft.place_bars(Box(right.x, right.bottom - bars, right.width, bars))
    return box.bottom + label


def _chosen(draft: Draft, panel: Head, heads: Heads) -> tuple[int, int]:
    """(row, column) of the head: the one that was asked for, else the one that changed most, one with a role first."""
    if panel.block is None and panel.head is None:
        roles = draft.roles.held[-1] if draft.roles.held else {}
        ranked = most_changed(draft.series, heads, sum(len(block) for block in heads.blocks), {})
        with_role = [place for place in ranked if (heads.indices[place[0]][0], heads.indices[place[0]][1][place[1]]) in roles]
        induction = [place for place in with_role if roles[heads.indices[place[0]][0], heads.indices[place[0]][1][place[1]]] == "induction"]
        return (induction or with_role or ranked)[0]
    for row, (block, numbers) in enumerate(heads.indices):
        if block == (panel.block or 0) and (panel.head or 0) in numbers:
            return row, numbers.index(panel.head or 0)
    have = "; ".join(f"block {block}: heads {', '.join(map(str, numbers))}" for block, numbers in heads.indices[:4])
    raise LayoutError(f"layout {draft.layout.name!r}: the captures hold no block {panel.block} head {panel.head}; they hold {have} ...")


def _tokens(draft: Draft, probe: int, length: int) -> list[str]:
    rows = draft.series.last.probe.get("rows") or []
    if probe >= len(rows) or len(rows[probe].get("tokens", ())) < length:
        return []
    return [_visible(str(token)) for token in rows[probe]["tokens"][:length]]


def _visible(token: str) -> str:
    for blank, sign in (("\n", "⏎"), ("\t", "⇥"), (" ", "␣")):
        token = token.replace(blank, sign)
    token = "".join(character if character.isprintable() else "·" for character in token)
    return token if len(token) <= 9 else token[:8] + "…"


def _token_labels(draft: Draft, tokens: list[str], box: Box, pool: int, cell_px: int) -> None:
    px, size = draft.px, _TOKEN_PX
    every = max(1, -(-px(size + 1) * pool // cell_px))
    for position in range(0, len(tokens), every):
        middle = (position // pool + 0.5) * cell_px if pool > 1 else (position + 0.5) * cell_px
        draft.text(tokens[position], box.x - px(7), box.y + middle, size, align="right", baseline="center")
        draft.text(tokens[position], box.x + middle + px(4), box.bottom + px(7), size, align="right", rotation=90)


def _other_rows(draft: Draft, panel: Head, row: int, column: int, area: Box) -> int:
    """The same head on the other rows of the probe; returns where the next thing below may begin."""
    px = draft.px
    others = [
        heads
        for heads in resolve_attention(draft, replace_probe(panel))
        if heads.blocks[row][column].probe not in (None, _row_of(draft, panel))
    ]
    if not others:
        return area.y + px(4)
    room = min((area.width - (len(others) - 1) * px(30)) // len(others), int(area.height * 0.46))
    pool, cell_px = fit_map(others[0].length, room)
    cells = -(-others[0].length // pool)
    x, y = 2 * ((area.x + 1) // 2), 2 * (area.y // 2)
    for heads in others:
        box = Box(x, y, cells * cell_px, cells * cell_px)
        draft.text(f"the same head · {heads.title.removeprefix('Attention · ')}", x, area.y - px(30), 20, draft.theme.text, bold=True)
        source = replace(heads.blocks[row][column], pool=pool)
        draft.heatmaps.append(Heatmap(f"{heads.title} · the same head", source, box, heads.scale, heads.mask(cells)))
        x += box.width + px(30)
    return y + cells * cell_px + px(66)


def replace_probe(panel: Head) -> Head:
    return replace(panel, probe=None)


def _row_of(draft: Draft, panel: Head) -> int | None:
    return resolve_attention(draft, panel)[0].blocks[0][0].probe
