"""Place several runs in one picture: each has its name and numbers, the maps of its heads, and,
where there is room, a ribbon of their roles over time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.layout import Attention
from tracker_viz.rendering.plan import Box, Heatmap, Readout, Ribbon, RibbonLine, Swatch
from tracker_viz.rendering.planning.content import Heads, resolve_attention
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.planning.readouts import longest_run_text
from tracker_viz.rendering.planning.side_by_side.tiles import (
    Slot,
    Tiling,
    fit_tiles,
    least_name,
    maps_origin,
    slots,
    tile_box,
)
from tracker_viz.rendering.sources import HeadMap
from tracker_viz.rendering.subject import RunTrack
from tracker_viz.rendering.text import text_width
from tracker_viz.rendering.theme import run_colors
from tracker_viz.types import HeadId

_LABEL, _LINE, _NUMBERS, _SMALL = 26.0, 32.0, 24.0, 20.0
_NAME_ROOM = 206  # at 1080p, for a name beside the maps


@dataclass(frozen=True, slots=True)
class _Tile:
    """The room of one run, and the maps that it may show."""

    index: int
    run: RunTrack
    box: Box
    heads: Heads
    sources: Mapping[HeadId, HeadMap]


def place_runs(builder: PlanBuilder, panel: Attention, area: Box, spare: int) -> int:
    """Place the runs in ``area``; return where they end.

    Args:
        spare: pixels below ``area`` that the timeline gives up where all heads then have room.

    Raises:
        LayoutError: the captures lack what is drawn, or are not alike enough to stand side by side.
    """
    subject = builder.subject
    # One picture is built; the other builders only resolve what their own captures hold.
    builders = [builder, *(_alone(builder, run) for run in subject.runs[1:])]
    heads = [resolve_attention(each, panel)[0] for each in builders]
    _check_alike(subject.runs, heads)
    widest = [longest_run_text(subject, n, builder.layout.metric) for n in range(len(heads))]
    name_px = _name_px(builder, subject.runs, widest)
    tiling = fit_tiles(builder, area, length=heads[0].length, name_px=name_px)
    if not tiling.all_heads:
        higher = replace(area, height=area.height + spare)
        with_spare = fit_tiles(builder, higher, length=heads[0].length, name_px=name_px)
        if with_spare.all_heads:
            tiling, area = with_spare, higher

    colors = run_colors(len(subject.runs), builder.theme)
    for index, run in enumerate(subject.runs):
        box = tile_box(tiling, index, area)
        tile = _Tile(index, run, box, heads[index], _sources(heads[index], tiling.pool))
        _name(builder, tiling, tile, colors[index], widest[index])
        _maps(builder, tiling, tile)
    _say_what_is_shown(builder, tiling, heads[0])
    return max(heatmap.box.bottom for heatmap in builder.heatmaps)


def _alone(builder: PlanBuilder, run: RunTrack) -> PlanBuilder:
    """Return a builder that only resolves what the captures of one run hold."""
    subject = replace(builder.subject, runs=(run,))
    return PlanBuilder(builder.layout, subject, builder.width, builder.height, builder.theme)


def _check_alike(runs: Sequence[RunTrack], heads: Sequence[Heads]) -> None:
    lengths = {run.label: each.length for run, each in zip(runs, heads, strict=True)}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{label}: {length}" for label, length in lengths.items())
        raise LayoutError(
            "attention maps can only be compared over probes of one length; "
            f"these have tokens: {found}"
        )


def _sources(heads: Heads, pool: int) -> dict[HeadId, HeadMap]:
    """Return (block, head) -> what its map shows."""
    sources = {}
    for maps, (block, stored) in zip(heads.blocks, heads.indices, strict=True):
        for source, head in zip(maps, stored, strict=True):
            sources[block, head] = replace(source, pool=pool)
    return sources


def _say_what_is_shown(builder: PlanBuilder, tiling: Tiling, heads: Heads) -> None:
    """Say beside the clock what runs along the maps, how they are pooled and, where not all heads
    are shown, which."""
    assert builder.mark is not None
    text = replace(heads, notes=(), sharing="").axes(tiling.pool)[-1]
    # Where an interpolated frame says so of itself: no frame of several runs is interpolated.
    wide = builder.text_width(text, _SMALL)
    x = max(builder.mark.x, builder.numbers_end + builder.px(28) + wide)
    if builder.is_narrow:
        x = builder.mark.x
    builder.text(text, x, builder.mark.y, _SMALL, align="right")
    builder.mark, builder.numbers_end = None, round(x)
    if not tiling.all_heads:
        some = "the most specialized head"
        if tiling.n_maps > 1:
            some = f"the {tiling.n_maps} most specialized heads"
        builder.clauses.append(f"{some} of each run")


def _name_px(builder: PlanBuilder, runs: Sequence[RunTrack], widest: Sequence[int]) -> int:
    """Return how wide a tile must be for its run's name and numbers to stand in one line."""
    widths = []
    for run, n_characters in zip(runs, widest, strict=True):
        name = builder.text_width(run.label, _LABEL, bold=True)
        widths.append(name + _beside_name(builder, n_characters))
    return max(widths)


def _maps(builder: PlanBuilder, tiling: Tiling, tile: _Tile) -> None:
    """Place the maps of a run, with the names of its blocks and heads."""
    mask = tile.heads.mask(-(-tile.heads.length // tiling.pool))
    placed: list[tuple[Slot, Heatmap]] = []
    for slot in slots(builder, tiling, tile.run, tile.box):
        corner = _name_slot(builder, tiling, slot)
        if slot.head not in tile.sources:  # not captured: too many heads for the capture's budget
            continue
        block, head = slot.head
        heatmap = Heatmap(
            f"run {tile.index} · block {block} head {head}",
            tile.sources[slot.head],
            slot.box,
            tile.heads.scale,
            mask,
            head=slot.head,
            corner=corner,
            corner_px=_corner_px(builder, tiling.map_px),
            run=tile.index,
        )
        placed.append((slot, heatmap))
    if not placed:
        blocks = [block for block, _ in tile.heads.indices]
        raise LayoutError(
            f"none of the heads of run {tile.run.label!r} that would be shown was captured; it has "
            f"maps of {blocks} only"
        )
    builder.heatmaps += [heatmap for _, heatmap in placed]
    _ribbon(builder, tiling, tile, placed)


def _corner_px(builder: PlanBuilder, map_px: int) -> float:
    """Return the size of a head's name in the corner of its map, which must not reach the diagonal:
    two letters and a digit are about 1.5 times as wide as high."""
    return min(_SMALL * builder.unit, 0.36 * map_px)


def _name_slot(builder: PlanBuilder, tiling: Tiling, slot: Slot) -> str:
    """Write which block and head a map shows; return what stands in its corner, if anything."""
    px, box, (block, head) = builder.px, slot.box, slot.head
    if slot.starts_row and tiling.all_heads:
        builder.text_left_of(box.x - px(7), f"L{block}", box.y + box.height / 2, _SMALL)
    if tiling.captioned and tiling.all_heads:
        return f"H{head}"
    if tiling.captioned:
        room, y = tiling.map_px + tiling.gap, box.y - px(8)
        name, size = builder.shrunk(f"L{block}H{head}", (_SMALL, 17.0, 15.0, 13.0), room)
        builder.text(name, box.x, y, size)
    elif slot.heads_column:
        caption = f"H{head}" if tiling.map_px >= px(36) else str(head)
        builder.text(caption, box.x + box.width / 2, box.y - px(7), _SMALL, align="center")
    return ""


def _ribbon(
    builder: PlanBuilder, tiling: Tiling, tile: _Tile, placed: Sequence[tuple[Slot, Heatmap]]
) -> None:
    """Place the ribbon right of the maps, where there is room: each block's lines as high as its
    maps, in the order of the maps."""
    left = max(slot.box.right for slot, _ in placed) + tiling.gap + builder.px(16)
    width = tile.box.right - left
    if not tiling.all_heads or tiling.groups > 1 or width < builder.px(110):
        return
    lines = []
    for slot, heatmap in placed:
        block, head = slot.head
        order = [each for each in tile.run.order[block] if each is not None]
        place = order.index(head)
        top = slot.box.y + slot.box.height * place // len(order)
        bottom = slot.box.y + slot.box.height * (place + 1) // len(order)
        apart = 1 if bottom - top > 3 else 0
        box = Box(left, top, width, max(1, bottom - top - apart))
        lines.append(RibbonLine(slot.head, box, _roles_over_time(tile.run, heatmap)))
        builder.swatches.append(Swatch(box, builder.theme.panel))
    top = min(line.box.y for line in lines)
    bottom = max(line.box.bottom for line in lines)
    texts = ("roles over time", "roles")
    text = next((text for text in texts if builder.text_width(text, _SMALL) <= width), "roles")
    builder.text(text, left, top - builder.px(7), _SMALL)
    builder.ribbons.append(Ribbon(tile.index, Box(left, top, width, bottom - top), tuple(lines)))


def _roles_over_time(run: RunTrack, heatmap: Heatmap) -> tuple[str, ...]:
    """Return the role that the border around a map says at each capture."""
    roles = []
    for index in range(len(run.series)):
        border = run.roles.border(heatmap, index)
        roles.append(border[0] if border else "")
    return tuple(roles)


def _name(
    builder: PlanBuilder, tiling: Tiling, tile: _Tile, color: str, widest_numbers: int
) -> None:
    """Write the run's name with the swatch of its color, and place its numbers."""
    if tiling.beside:
        _name_beside(builder, tiling, tile, color, widest_numbers)
        return
    px, box, label = builder.px, tile.box, tile.run.label
    baseline, side = box.y + px(25), px(17)
    builder.square(box.x, baseline - side, side, color)
    room = box.width - _beside_name(builder, widest_numbers)
    shrunk = 0.97 * room / max(1, builder.text_width(label, _LABEL, bold=True))
    size = _LABEL * max(least_name(len(builder.subject.runs)), min(1.0, shrunk))
    builder.text_within(room, label, box.x + px(26), baseline, size, builder.theme.text, bold=True)
    size_px = _NUMBERS * builder.unit
    builder.readouts.append(
        Readout("run", box.right, baseline, size_px, widest_numbers, tile.index, "right")
    )


def _name_beside(
    builder: PlanBuilder, tiling: Tiling, tile: _Tile, color: str, widest_numbers: int
) -> None:
    """Write the run's name in lines at the left of its maps, smaller before it is cut off, and
    its numbers below it."""
    px, box = builder.px, tile.box
    # Beside the first map, or from the upper end of the tile.
    tops = (maps_origin(builder, tiling, box)[1], box.y)
    # Smaller, before anything of it is cut off.
    scales = (1.0, 0.88, least_name(len(builder.subject.runs)))
    for scale, top in itertools.product(scales, tops):
        size, pitch = _LABEL * scale, round(px(_LINE) * scale)
        lines = _wrapped(builder, tile.run.label, size)
        n_lines = max(1, (box.bottom - top) // pitch - 1)
        if len(lines) <= n_lines and builder.widest(lines, size, bold=True) <= px(_NAME_ROOM):
            break
    if len(lines) > n_lines:
        lines = [*lines[: n_lines - 1], " ".join(lines[n_lines - 1 :])]
    baseline, side = top + round(px(18) * scale), px(15)
    builder.square(box.x, baseline - round(side * scale), side, color)
    x, text = box.x + px(24), builder.theme.text
    for number, line in enumerate(lines):
        y = baseline + number * pitch
        builder.text_within(px(_NAME_ROOM), line, x, y, size, text, bold=True)
    end, size_px = baseline + len(lines) * pitch, _NUMBERS * builder.unit * scale
    builder.readouts.append(Readout("run", x, end, size_px, widest_numbers, tile.index))


def _beside_name(builder: PlanBuilder, n_characters: int) -> int:
    """Return the pixels that a line with a run's name needs besides: for the swatch, and for so
    many characters of numbers."""
    digit = text_width("0", _NUMBERS * builder.unit, bold=True, mono=True)
    return builder.px(46) + n_characters * digit


def _wrapped(builder: PlanBuilder, label: str, size: float) -> list[str]:
    """Break ``label`` into lines that fit beside a run's maps; a setting that is too long for one
    is broken before its value."""
    room, lines = builder.px(_NAME_ROOM), [""]
    for word in label.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if builder.text_width(longer, size, bold=True) <= room:
            lines[-1] = longer
            continue
        name, equals, value = word.partition("=")
        is_broken = equals and builder.text_width(word, size, bold=True) > room
        lines += [f"{name}=", value] if is_broken else [word]
    return [line for line in lines if line]
