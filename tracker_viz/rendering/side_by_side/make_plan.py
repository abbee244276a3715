"""Where everything of a comparison's picture stands: the header with its clock, one tile per run,
the timeline of all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracker_viz.errors import LayoutError
from tracker_viz.metrics import role_label
from tracker_viz.rendering.layout import Attention, Layout
from tracker_viz.rendering.plan import Box, Heatmap, Plan, Swatch
from tracker_viz.rendering.planning.content import Heads, resolve_attention
from tracker_viz.rendering.planning.header import format_metric
from tracker_viz.rendering.planning.make_plan import picture_size
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.planning.role_borders import is_role_of, row_kinds
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.side_by_side.runs import NOT_YET, ComparedSeries, Head, Timing
from tracker_viz.rendering.side_by_side.tiles import (
    LEAST_NAME,
    MANY_RUNS,
    Slot,
    Tiling,
    fit_tiles,
    maps_origin,
    slots,
    tile_box,
)
from tracker_viz.rendering.side_by_side.timeline import ComparedTimeline, lane_px, place_timeline
from tracker_viz.rendering.text import text_width
from tracker_viz.rendering.theme import Theme, run_colors
from tracker_viz.rendering.theme import theme as theme_by_name

NAME = "compare"
CLOCK_PX, NUMBERS_PX = 46.0, 17.0
_LABEL_PX, _LINE_PX = 18.0, 24
_NAME_ROOM = 206  # for a name beside the maps
_NAME_SCALES = (1.0, 0.85, LEAST_NAME)  # smaller, before anything of it is cut off


@dataclass(frozen=True, slots=True)
class Numbers:
    """Where a line of painted text ends, or, with ``from_left``, begins."""

    x: int
    baseline: int
    size_px: float
    from_left: bool = False


@dataclass(frozen=True, slots=True)
class Ribbon:
    """What became of every head over time: one line per head, in the colour of its role, from the
    axis's first point to its last.

    Attributes:
        lines: ((block, head), its line) from top to bottom.
    """

    box: Box
    lines: tuple[tuple[Head, Box], ...]


@dataclass(frozen=True, slots=True)
class RunTile:
    """What changes in one run's tile, and ``captions``, which stand within its maps."""

    heatmaps: tuple[Heatmap, ...]
    numbers: Numbers
    captions: tuple[tuple[str, Numbers], ...] = ()
    ribbon: Ribbon | None = None


@dataclass(frozen=True)
class ComparedPlan:
    """A Plan, and what the painter needs besides.

    ``row_kind``: of the probe row that is shown; empty where it is unknown."""

    plan: Plan
    tiling: Tiling
    tiles: tuple[RunTile, ...]
    clock: Numbers
    timeline: ComparedTimeline
    frame_px: int
    row_kind: str


def make_compared_plan(
    runs: Sequence[ComparedSeries],
    timing: Timing,
    role_names: Sequence[str],
    *,
    title: str,
    subtitle: str,
    note: str,
    probe: str | int,
    metric: str,
    matched: bool,
    size: str | Sequence[int],
    theme: str | Theme,
) -> ComparedPlan:
    """See ``compared.ComparedRenderer`` for the arguments.

    Raises:
        LayoutError: the captures lack what is drawn, or are not alike enough to stand side by side.
    """
    width, height = picture_size(size)
    layout = Layout(name=NAME, panels=(Attention(probe=probe),), metric=metric)
    builder, *others = [
        PlanBuilder(layout, run.series, width, height, theme_by_name(theme)) for run in runs
    ]
    heads = [resolve_attention(each, Attention(probe=probe))[0] for each in (builder, *others)]
    _check_alike(runs, heads)
    colors = run_colors(len(runs), builder.theme)
    top = builder.px(122 if note else 100)
    lanes = [role for role in role_names if any(role in run.onsets for run in runs)]
    brief = [
        role
        for index, role in enumerate(role_names)
        if role not in lanes and any(bool((run.roles == index).any()) for run in runs)
    ]
    if builder.is_narrow:
        lanes, brief = [*lanes, *brief], []
    high = builder.px(128 if len(runs) >= MANY_RUNS else 150) + lane_px(builder, len(runs)) * len(
        lanes
    )
    bars_px = (
        builder.px(70) if builder.is_narrow else 0
    )  # a row of their own, where beside the timeline there is no room
    strip = Box(
        builder.margin, height - high - bars_px - builder.px(6), width - 2 * builder.margin, high
    )
    area = Box(builder.margin, top, strip.width, strip.y - builder.px(20) - top)
    widest = [_widest(run, timing, index, metric) for index, run in enumerate(runs)]
    name_px = max(
        builder.text_width(run.label, _LABEL_PX, bold=True) + _beside_name(builder, wide)
        for run, wide in zip(runs, widest, strict=True)
    )
    tiling = fit_tiles(builder, runs, heads[0].length, area, matched=matched, name_px=name_px)
    if not tiling.all_heads:
        some = (
            f"the {tiling.n_maps} most specialised heads"
            if tiling.n_maps > 1
            else "the most specialised head"
        )
        subtitle += f" · {some} of each run"
    row_kind = _row_kind(runs[0], heads[0])
    if _has_role_elsewhere(runs, role_names, row_kind):
        subtitle += " · dashed borders: roles on other rows"
    clock = _header(builder, timing, heads[0], title, subtitle, note)
    tiles = tuple(
        _tile(
            builder,
            tiling,
            index,
            run,
            heads[index],
            tile_box(tiling, index, area),
            colors[index],
            widest[index],
        )
        for index, run in enumerate(runs)
    )
    # What the maps left free makes the curves higher.
    bottom = max(heatmap.box.bottom for tile in tiles for heatmap in tile.heatmaps)
    grown = min(max(0, strip.y - builder.px(24) - bottom), builder.px(110))
    strip = Box(strip.x, strip.y - grown, strip.width, strip.height + grown)
    if builder.is_narrow:
        builder.place_bars(Box(strip.x, strip.bottom + builder.px(6), strip.width, bars_px))
    else:
        bars_width = builder.px(330)
        builder.place_bars(Box(strip.right - bars_width, strip.y, bars_width, strip.height))
        _name_roles(
            builder,
            brief,
            Box(strip.right - bars_width, strip.y, bars_width, strip.height - builder.px(34)),
        )
        strip = Box(strip.x, strip.y, strip.width - bars_width - builder.px(44), strip.height)
    timeline = place_timeline(builder, runs, timing, lanes, colors, strip)
    frame_px = _frame_px(builder, tiling)
    return ComparedPlan(builder.plan(), tiling, tiles, clock, timeline, frame_px, row_kind)


def _row_kind(run: ComparedSeries, heads: Heads) -> str:
    kinds, row = row_kinds(run.series), heads.blocks[0][0].probe or 0
    return kinds[row] if row < len(kinds) else ""


def _has_role_elsewhere(
    runs: Sequence[ComparedSeries], role_names: Sequence[str], row_kind: str
) -> bool:
    """Whether a head ever has a role that does not speak about the row that is shown."""
    for index, name in enumerate(role_names):
        if not is_role_of(name, row_kind) and any(bool((run.roles == index).any()) for run in runs):
            return True
    return False


def numbers_text(
    run: ComparedSeries, timing: Timing, capture: int, ended: bool, metric: str
) -> str:
    """What stands beside a run: its loss, the step of its capture where the clock shows something
    else, and whether it is over."""
    if capture == NOT_YET:
        return "not yet"
    parts = []
    value = run.series.metrics[capture].get(metric)
    if value is not None:
        parts.append(format_metric(value))
    if timing.axis != "step":
        parts.append(f"@{run.series.steps[capture]:,}")
    if ended:
        parts.append("ended")
    return " ".join(parts)


def clock_text(timing: Timing, point: int) -> str:
    """The point of time: ``1,000``, ``1.02 M``, ``54%``."""
    place = float(timing.points[point])
    match timing.axis:
        case "step":
            return f"{place:,.0f}"
        case "tokens":
            return si_number(place)
        case "progress":
            return f"{place:.0%}"


def _check_alike(runs: Sequence[ComparedSeries], heads: Sequence[Heads]) -> None:
    lengths = {run.label: each.length for run, each in zip(runs, heads, strict=True)}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{label}: {length}" for label, length in lengths.items())
        raise LayoutError(
            "attention maps stand side by side only over probes of one length; these have tokens: "
            f"{found}"
        )


def _header(
    builder: PlanBuilder, timing: Timing, heads: Heads, title: str, subtitle: str, note: str
) -> Numbers:
    """Returns where the clock's number stands."""
    px = builder.px
    widest = max(len(clock_text(timing, point)) for point in range(len(timing.points)))
    clock = Numbers(builder.width - builder.margin, px(58), CLOCK_PX * builder.unit)
    left = (
        clock.x
        - widest * text_width("0", clock.size_px, bold=True, mono=True)
        - px(14)
        - builder.text_width(timing.axis, 24)
    )
    builder.text(timing.axis, left, clock.baseline, 24)
    builder.text(heads.axes()[-1], clock.x, px(84), 16, align="right")
    room = left - builder.margin - px(44)
    builder.text(
        builder.fitted(title, 34, room, bold=True),
        builder.margin,
        px(44),
        34,
        builder.theme.text,
        bold=True,
    )
    builder.text(builder.fitted(subtitle, 19, room), builder.margin, px(74), 19)
    if note:
        builder.text(
            builder.fitted(note, 15, builder.width - 2 * builder.margin),
            builder.margin,
            px(100),
            15,
        )
    return clock


def _name_roles(builder: PlanBuilder, names: Sequence[str], area: Box) -> None:
    """Explains, at the foot of ``area``, the colours of roles that have no lane because no head
    kept them for long."""
    px, line, width = builder.px, builder.px(24), area.width // 2
    for number, name in enumerate(reversed(names)):
        x, y = area.x + (1 - number % 2) * width, area.bottom - line * (number // 2) - line / 2
        color, side = builder.theme.roles.get(name, builder.theme.text), px(11)
        builder.swatches.append(Swatch(Box(x, round(y - side / 2), side, side), color))
        builder.text(
            builder.fitted(role_label(name), 14, width - px(24)),
            x + px(18),
            y,
            14,
            color,
            baseline="center",
        )


def _tile(
    builder: PlanBuilder,
    tiling: Tiling,
    index: int,
    run: ComparedSeries,
    heads: Heads,
    tile: Box,
    color: str,
    widest_numbers: int,
) -> RunTile:
    px = builder.px
    numbers = _name(builder, tiling, run.label, tile, color, widest_numbers)
    mask = heads.mask(-(-heads.length // tiling.pool))
    rows = {block: (row, stored) for row, (block, stored) in enumerate(heads.indices)}
    heatmaps, captions = [], []
    placed = list(slots(builder, tiling, run, tile))
    for slot in placed:
        block, head = slot.head
        box = slot.box
        if slot.starts_row and tiling.all_heads:
            builder.text(
                f"L{block}",
                box.x - px(10),
                box.y + box.height / 2,
                15,
                align="right",
                baseline="center",
            )
        if tiling.captioned and tiling.all_heads:
            captions.append(
                (
                    f"H{head}",
                    Numbers(
                        box.right - px(3), box.y + px(13), min(11.0 * builder.unit, 0.2 * box.width)
                    ),
                )
            )
        elif tiling.captioned:
            caption = builder.fitted(f"L{block}H{head}", 13, tiling.map_px + tiling.gap)
            builder.text(caption, box.x, box.y - px(3) - _frame_px(builder, tiling), 13)
        elif slot.heads_column:
            caption = f"H{head}" if tiling.map_px >= px(30) else str(head)
            builder.text(caption, box.x + box.width / 2, box.y - px(7), 13, align="center")
        row, stored = rows.get(block, (0, ()))
        if head in stored:  # else it was not captured: too many heads for the capture's budget
            source = replace(heads.blocks[row][stored.index(head)], pool=tiling.pool)
            heatmaps.append(
                Heatmap(
                    f"run {index} · block {block} head {head}",
                    source,
                    box,
                    heads.scale,
                    mask,
                    head=slot.head,
                )
            )
    if not heatmaps:
        raise LayoutError(
            f"none of the heads of run {run.label!r} that would be shown was captured; it has maps "
            f"of {list(rows)} only"
        )
    builder.heatmaps += heatmaps
    return RunTile(
        tuple(heatmaps), numbers, tuple(captions), _ribbon(builder, tiling, run, placed, tile)
    )


def _ribbon(
    builder: PlanBuilder, tiling: Tiling, run: ComparedSeries, placed: Sequence[Slot], tile: Box
) -> Ribbon | None:
    """Right of the maps, where there is room: each block's lines as high as its maps, in the order
    of the maps."""
    left, right = max(slot.box.right for slot in placed) + tiling.gap + builder.px(16), tile.right
    if not tiling.all_heads or tiling.groups > 1 or right - left < builder.px(110):
        return None
    lines = []
    for slot in placed:
        n_heads = sum(head is not None for head in run.order[slot.head[0]])
        place = [head for head in run.order[slot.head[0]] if head is not None].index(slot.head[1])
        top, bottom = (
            slot.box.y + slot.box.height * edge // n_heads for edge in (place, place + 1)
        )
        lines.append(
            (
                slot.head,
                Box(left, top, right - left, max(1, bottom - top - (1 if bottom - top > 3 else 0))),
            )
        )
    box = Box(
        left,
        min(line.y for _, line in lines),
        right - left,
        max(line.bottom for _, line in lines) - min(line.y for _, line in lines),
    )
    builder.swatches += [Swatch(line, builder.theme.panel) for _, line in lines]
    builder.text(builder.fitted("roles over time", 13, box.width), box.x, box.y - builder.px(7), 13)
    return Ribbon(box, tuple(lines))


def _name(
    builder: PlanBuilder, tiling: Tiling, label: str, tile: Box, color: str, widest_numbers: int
) -> Numbers:
    """The run's name with the swatch of its colour; returns where its numbers stand."""
    px, text = builder.px, builder.theme.text
    x, side = tile.x + px(22), px(13)
    if not tiling.beside:
        baseline = tile.y + px(20)
        builder.swatches.append(Swatch(Box(tile.x, baseline - side, side, side), color))
        room = tile.width - _beside_name(builder, widest_numbers)
        size = _LABEL_PX * max(
            LEAST_NAME,
            min(1.0, 0.97 * room / max(1, builder.text_width(label, _LABEL_PX, bold=True))),
        )
        builder.text(
            builder.fitted(label, size, room, bold=True), x, baseline, size, text, bold=True
        )
        return Numbers(tile.right, baseline, NUMBERS_PX * builder.unit)
    tops = (
        maps_origin(builder, tiling, tile)[1],
        tile.y,
    )  # beside the first map, or as high as the tile reaches
    for scale, top in itertools.product(_NAME_SCALES, tops):
        size, pitch = _LABEL_PX * scale, round(px(_LINE_PX) * scale)
        lines, n_lines = _wrapped(builder, label, size), max(1, (tile.bottom - top) // pitch - 1)
        if len(lines) <= n_lines and all(
            builder.text_width(line, size, bold=True) <= px(_NAME_ROOM) for line in lines
        ):
            break
    lines = (
        [*lines[: n_lines - 1], " ".join(lines[n_lines - 1 :])] if len(lines) > n_lines else lines
    )
    baseline = top + round(px(15) * scale)
    builder.swatches.append(Swatch(Box(tile.x, baseline - round(side * scale), side, side), color))
    for number, line in enumerate(lines):
        builder.text(
            builder.fitted(line, size, px(_NAME_ROOM), bold=True),
            x,
            baseline + number * pitch,
            size,
            text,
            bold=True,
        )
    return Numbers(
        x, baseline + len(lines) * pitch, NUMBERS_PX * builder.unit * scale, from_left=True
    )


def _beside_name(builder: PlanBuilder, n_characters: int) -> int:
    """Pixels that a line with a run's name needs besides: the swatch, and so many characters of
    numbers."""
    return builder.px(42) + n_characters * text_width(
        "0", NUMBERS_PX * builder.unit, bold=True, mono=True
    )


def _wrapped(builder: PlanBuilder, label: str, size: float) -> list[str]:
    """``label`` in lines that fit beside a run's maps; a word that is too long has a line to
    itself."""
    lines = [""]
    for word in label.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and builder.text_width(longer, size, bold=True) > builder.px(_NAME_ROOM):
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _widest(run: ComparedSeries, timing: Timing, index: int, metric: str) -> int:
    """Characters that the run's numbers may need."""
    ends = bool(timing.ended[index].any())
    starts_late = [NOT_YET] if bool((timing.captures[index] == NOT_YET).any()) else []
    return max(
        len(numbers_text(run, timing, capture, ends, metric))
        for capture in [*starts_late, *range(len(run.series))]
    )


def _frame_px(builder: PlanBuilder, tiling: Tiling) -> int:
    """Thickness of the frame in a role's colour."""
    return builder.px(3 if tiling.map_px >= builder.px(90) else 2)
