"""Draw the title card: what the run became, and how to read its maps.

It is the first picture of the film, and so what players and lists show as its still. Everything on
it is measured: the sentence comes from the run's events, the maps from its last capture.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tracker_viz.metrics import role_label
from tracker_viz.notebook import count
from tracker_viz.rendering.painting.cells import ColorTable, frame_around
from tracker_viz.rendering.painting.template import words_alone
from tracker_viz.rendering.plan import Box, Heatmap, Label, Plan
from tracker_viz.rendering.planning.content import pool_words
from tracker_viz.rendering.planning.role_borders import is_role_of
from tracker_viz.rendering.role_key import ICON_CELLS, ROLE_KEYS, role_pattern
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.sources import HeadMap
from tracker_viz.rendering.text import blend, fitted_px, line_of_text, text_width
from tracker_viz.rendering.theme import Theme, rgb
from tracker_viz.types import HeadId

Pixels = NDArray[np.uint8]

_TITLE, _SENTENCE, _SMALL = 76.0, 38.0, 27.0
_NAME, _IN_CORNER = 28.0, 22.0  # of the maps
_MOST_MAPS, _MOST_KEYS = 4, 4


@dataclass(frozen=True)
class _Page:
    """Sizes and places on a card: ``px(n)`` turns n pixels of a 1080p picture into the card's
    own."""

    width: int
    height: int
    unit: float
    theme: Theme

    def px(self, pixels: float) -> int:
        return round(pixels * self.unit)

    @property
    def is_narrow(self) -> bool:
        return self.width < 1.35 * self.height

    @property
    def margin(self) -> int:
        return self.px(90)

    @property
    def text_room(self) -> int:
        if self.is_narrow:
            return self.width - 2 * self.margin
        return self.px(960)

    @property
    def most_words(self) -> int:
        """The pixel row above which words and key must end."""
        if self.is_narrow:
            return round(0.66 * self.height)
        return self.height

    def pictures(self, words_end: int) -> Box:
        """Return the part of the card for maps, or for the last picture: beside the words, or below
        them where the card is narrow."""
        if self.is_narrow:
            top = max(round(0.5 * self.height), words_end + self.px(20))
            room = self.width - 2 * self.margin
            return Box(self.margin, top, room, self.height - top - self.margin)
        left = self.margin + self.text_room + self.px(60)
        return Box(
            left, self.margin, self.width - left - self.margin, self.height - 2 * self.margin
        )


def title_card(
    plan: Plan,
    series: Series,
    values: Mapping[str, NDArray[np.float16]],
    last_picture: Callable[[], Pixels],
) -> Pixels:
    """Return the card of a run: uint8 [height, width, 3].

    Args:
        values: heatmap name -> float16 [rows, columns] at the last capture.
        last_picture: returns the film's last picture, uint8 [height, width, 3].
    """
    page = _Page(plan.width, plan.height, plan.unit, plan.theme)
    roles = _roles_of(plan)
    labels, icons_top = _words(plan, series, page, with_key=bool(roles))
    icons = _key(page, roles, icons_top, labels)
    words_end = max([icons_top, *(box.y + box.height for _, box in icons)])
    area = page.pictures(words_end)
    words = Plan(plan.width, plan.height, plan.theme, "title", (), {}, tuple(labels))
    card = words_alone(words)
    for role, box in icons:
        scale = ColorScale("", plan.theme.attention, 0.0, 1.0, norm="power")
        future = ~np.tri(ICON_CELLS, dtype=bool)
        _paint_map(card, box, role_pattern(role), future, scale, plan.theme, plan.theme.roles[role])

    maps = _strongest_maps(plan)
    if maps:
        _paint_heads(card, page, area, plan, values, maps)
    else:
        _paint_last_picture(card, page, area, last_picture())
    return card


def _roles_of(plan: Plan) -> list[str]:
    """Return roles that heads took, the strongest first; none where the film shows no head."""
    if not any(isinstance(heatmap.source, HeadMap) for heatmap in plan.heatmaps):
        return []
    events = sorted(plan.story.events, key=lambda event: -event.strength)
    roles = dict.fromkeys(event.role for event in events if event.role in ROLE_KEYS)
    return list(roles)[:_MOST_KEYS]


def _words(plan: Plan, series: Series, page: _Page, *, with_key: bool) -> tuple[list[Label], int]:
    """Return the card's texts, and the pixel row below them."""
    theme, px = page.theme, page.px
    left, room = page.margin, page.text_room
    y = px(150) if with_key else px(330)
    if page.is_narrow:
        y = px(110)
    over = f"after training · step {series.steps[-1]:,}"
    labels = [Label(over, left, y, 32 * page.unit, theme.roles["induction"], bold=True)]

    y += px(92)
    title_px = fitted_px(series.title, _TITLE * page.unit, room, bold=True)
    labels.append(Label(series.title, left, y, title_px, theme.text, bold=True))
    y += px(52)
    model = series.subtitle
    labels.append(Label(model, left, y, fitted_px(model, 30 * page.unit, room), theme.dim))

    y += px(78)
    sentence = plan.story.summary or f"{count(len(series), 'capture')} of its training"
    for line in _wrapped(sentence, _SENTENCE * page.unit, room)[:4]:
        labels.append(Label(line, left, y, _SENTENCE * page.unit, theme.text))
        y += px(52)
    return labels, y + px(16)


def _wrapped(text: str, size_px: float, room: int) -> list[str]:
    """Break a sentence into lines that fit."""
    for characters in range(len(text), 8, -1):
        lines = textwrap.wrap(text, characters, break_long_words=False)
        if all(text_width(line, size_px) <= room for line in lines):
            return lines
    return textwrap.wrap(text, 8)


def _key(page: _Page, roles: Sequence[str], top: int, labels: list[Label]) -> list[tuple[str, Box]]:
    """Add the key's words to ``labels``; return where each role's small pattern is painted."""
    if not roles or (page.is_narrow and len(roles) > 2):
        roles = roles[:2]
    if not roles:
        return []
    px, theme, unit = page.px, page.theme, page.unit
    heading = "Each row of a map is a token; it is marked at the tokens it looks at."
    size_px = fitted_px(heading, _SMALL * unit, page.text_room)
    labels.append(Label(heading, page.margin, top + px(24), size_px, theme.dim))
    icon = ICON_CELLS * max(2, px(98) // ICON_CELLS)
    icons = []
    for number, role in enumerate(roles):
        y = top + px(56) + number * (icon + px(22))
        if y + icon + px(20) > page.most_words:
            break
        icons.append((role, Box(page.margin, y, icon, icon)))
        shape, meaning = ROLE_KEYS[role]
        x = page.margin + icon + px(28)
        name = role_label(role)
        labels.append(Label(name, x, y + px(40), 32 * unit, theme.roles[role], bold=True))
        labels.append(Label(f"{shape}: {meaning}", x, y + px(78), _SMALL * unit, theme.text))
    return icons


def _strongest_maps(plan: Plan) -> list[tuple[Heatmap, str]]:
    """Return (map, role) of the heads that took roles, the strongest first and each role once
    before any twice. A map is only shown for a role that speaks about its own row of the probe."""
    first_maps: dict[HeadId, list[Heatmap]] = {}
    for heatmap in plan.heatmaps:
        if heatmap.head and isinstance(heatmap.source, HeadMap):
            first_maps.setdefault(heatmap.head, []).append(heatmap)

    firsts: list[tuple[Heatmap, str]] = []
    others: list[tuple[Heatmap, str]] = []
    for event in sorted(plan.story.events, key=lambda event: -event.strength):
        found: list[tuple[Heatmap, str]] = []
        for head in event.heads if event.role else ():
            maps = first_maps.get(head, [])
            fitting = [each for each in maps if is_role_of(event.role, plan.roles.row_kind(each))]
            found += [(each, event.role) for each in fitting[:1]]
        firsts += found[:1]
        others += found[1:]
    chosen: dict[HeadId | None, tuple[Heatmap, str]] = {}
    for heatmap, role in [*firsts, *others]:
        chosen.setdefault(heatmap.head, (heatmap, role))
    return list(chosen.values())[:_MOST_MAPS]


def _paint_heads(
    card: Pixels,
    page: _Page,
    area: Box,
    plan: Plan,
    values: Mapping[str, NDArray[np.float16]],
    maps: Sequence[tuple[Heatmap, str]],
) -> None:
    """Paint the heads that carry the run's roles, large, as they are in the last capture."""
    px, theme = page.px, page.theme
    gap, label = px(36), px(48)
    side, across = max(
        _fitted_side(area, len(maps), across, gap, label + px(20))
        for across in range(1, len(maps) + 1)
    )
    down = -(-len(maps) // across)
    names = [_name_of(heatmap, role) for heatmap, role in maps]
    name_px = min(fitted_px(name, _NAME * page.unit, side) for name in names)
    for number, (heatmap, role) in enumerate(maps):
        rows = heatmap.source.shape[0]
        size = max(1, side // rows) * rows
        row, column = divmod(number, across)
        top = area.y + (area.height - down * (size + label + px(20))) // 2
        x = area.x + column * (size + gap)
        y = top + row * (size + label + px(20)) + label
        scale = plan.scales[heatmap.scale]
        box = Box(x, y, size, size)
        shown = values[heatmap.name]
        _paint_map(card, box, shown, heatmap.mask, scale, theme, theme.roles[role])
        coverage, baseline = line_of_text(names[number], name_px, bold=False)
        blend(card, coverage, x, y - px(14) - baseline, rgb(theme.roles[role]))
        pooled = pool_words(_pool_of(heatmap))
        if pooled and heatmap.mask is not None:
            # Into the corner that no attention reaches.
            coverage, baseline = line_of_text(pooled, _IN_CORNER * page.unit, bold=False)
            corner_x = box.right - coverage.shape[1] - px(12)
            blend(card, coverage, corner_x, y + px(34) - baseline, rgb(theme.dim))


def _name_of(heatmap: Heatmap, role: str) -> str:
    """Return what is written above a map; how it is pooled only where it has no free corner."""
    block, head = heatmap.head or (0, 0)
    parts = [f"L{block}H{head}", role_label(role)]
    if heatmap.mask is None:
        parts.append(pool_words(_pool_of(heatmap)))
    return " · ".join(part for part in parts if part)


def _pool_of(heatmap: Heatmap) -> int:
    return heatmap.source.pool if isinstance(heatmap.source, HeadMap) else 1


def _fitted_side(area: Box, n: int, across: int, gap: int, around: int) -> tuple[int, int]:
    """Return (side, across) of ``n`` maps, so many in a row, each with ``around`` pixels for its
    name above and room below it."""
    down = -(-n // across)
    wide, high = (area.width - (across - 1) * gap) // across, area.height // down - around
    return min(wide, high), across


def _paint_map(
    card: Pixels,
    box: Box,
    values: NDArray[np.float16],
    mask: NDArray[np.bool_] | None,
    scale: ColorScale,
    theme: Theme,
    border: str,
) -> None:
    colors = ColorTable(scale, theme.panel).colors
    cells = colors[scale.drawn(values).view(np.uint16).astype(np.intp)]
    if mask is not None:
        cells[mask] = rgb(theme.panel)
    cell_px = box.width // values.shape[0]
    pixels = cells.repeat(cell_px, 0).repeat(cell_px, 1)
    card[box.y : box.y + pixels.shape[0], box.x : box.x + pixels.shape[1]] = pixels
    for place in frame_around(box, max(2, cell_px // 2, 3)):
        card[place] = rgb(border)


def _paint_last_picture(card: Pixels, page: _Page, area: Box, picture: Pixels) -> None:
    """Paint the film's last picture, smaller, where no single head stands for the run."""
    part = min(area.width / page.width, area.height / page.height)
    size = (round(page.width * part), round(page.height * part))
    last = Image.fromarray(picture)
    small = np.asarray(last.resize(size, Image.Resampling.BOX))
    x, y = area.x, area.y + (area.height - size[1]) // 2
    card[y : y + size[1], x : x + size[0]] = small
