"""Decide where everything of a comparison's picture stands: the header with its clock, one tile per
run, the timeline of all."""

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
from tracker_viz.rendering.side_by_side.runs import NOT_YET, Head, RunTrack, Timing
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
    """The roles of every head over time: one line per head, in the color of its role, from the
    axis's first point to its last.

    Attributes:
        lines: ((block, head), its line) from top to bottom.
    """

    box: Box
    lines: tuple[tuple[Head, Box], ...]


@dataclass(frozen=True, slots=True)
class RunPanel:
    """Everything that changes in one run's tile; ``captions`` stand within its maps."""

    heatmaps: tuple[Heatmap, ...]
    numbers: Numbers
    captions: tuple[tuple[str, Numbers], ...] = ()
    ribbon: Ribbon | None = None


@dataclass(frozen=True)
class ComparedPlan:
    """A Plan, and what the painter needs besides.

    Attributes:
        row_kind: kind of the probe row that is shown; empty where it is unknown.
    """

    plan: Plan
    tiling: Tiling
    tiles: tuple[RunPanel, ...]
    clock: Numbers
    timeline: ComparedTimeline
    frame_px: int
    row_kind: str


def make_compared_plan(
    runs: Sequence[RunTrack],
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
    """Decide where everything stands; ``ComparedRenderer`` explains the arguments.

    Raises:
        LayoutError: the captures lack what is drawn, or are not alike enough to stand side by side.
    """
    width, height = picture_size(size)
    layout = Layout(name=NAME, panels=(Attention(probe=probe),), metric=metric)
    # One picture is built; the other builders only resolve what their own captures hold.
    builder, *others = [
        PlanBuilder(layout, run.series, width, height, theme_by_name(theme)) for run in runs
    ]
    heads = [resolve_attention(each, Attention(probe=probe))[0] for each in (builder, *others)]
    _check_alike(runs, heads)
    colors = run_colors(len(runs), builder.theme)
    lanes, brief = _split_roles(builder, runs, role_names)
    strip = _strip(builder, len(runs), len(lanes))
    top = builder.px(122 if note else 100)
    area = Box(builder.margin, top, strip.width, strip.y - builder.px(20) - top)

    widest = [_widest(run, timing, index, metric) for index, run in enumerate(runs)]
    name_px = _name_px(builder, runs, widest)
    tiling = fit_tiles(builder, runs, heads[0].length, area, matched=matched, name_px=name_px)
    row_kind = _row_kind(runs[0], heads[0])
    subtitle += _shown_heads(tiling)
    if _has_role_elsewhere(runs, role_names, row_kind):
        subtitle += " · dashed borders: roles on other rows"
    clock = _header(builder, timing, heads[0], title, subtitle, note)
    tiles = []
    for index, run in enumerate(runs):
        tile = tile_box(tiling, index, area)
        numbers = _name(builder, tiling, run.label, tile, colors[index], widest[index])
        tiles.append(_tile(builder, tiling, index, run, heads[index], tile, numbers))

    strip = _place_bars(builder, _grown(builder, strip, tiles), brief)
    timeline = place_timeline(builder, runs, timing, lanes, colors, strip)
    frame_px = _frame_px(builder, tiling)
    return ComparedPlan(builder.plan(), tiling, tuple(tiles), clock, timeline, frame_px, row_kind)


def _split_roles(
    builder: PlanBuilder, runs: Sequence[RunTrack], role_names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the roles that have a lane below the curves, and those that heads only had briefly,
    which are named beside it."""
    lanes, brief = [], []
    for index, role in enumerate(role_names):
        if any(role in run.onsets for run in runs):
            lanes.append(role)
        elif _is_ever_held(runs, index):
            brief.append(role)
    if builder.is_narrow:  # nothing has room beside the lanes
        return [*lanes, *brief], []
    return lanes, brief


def _is_ever_held(runs: Sequence[RunTrack], role: int) -> bool:
    return any(bool((run.roles == role).any()) for run in runs)


def _bars_px(builder: PlanBuilder) -> int:
    """Return the height of the color bars where these stand below the timeline, not beside it."""
    return builder.px(70) if builder.is_narrow else 0


def _strip(builder: PlanBuilder, n_runs: int, n_lanes: int) -> Box:
    """Return the least room of the timeline, at the foot of the picture."""
    height = builder.px(128 if n_runs >= MANY_RUNS else 150) + lane_px(builder, n_runs) * n_lanes
    y = builder.height - height - _bars_px(builder) - builder.px(6)
    return Box(builder.margin, y, builder.width - 2 * builder.margin, height)


def _grown(builder: PlanBuilder, strip: Box, tiles: Sequence[RunPanel]) -> Box:
    """Give the curves what the maps left free."""
    bottom = max(heatmap.box.bottom for tile in tiles for heatmap in tile.heatmaps)
    more = min(max(0, strip.y - builder.px(24) - bottom), builder.px(110))
    return Box(strip.x, strip.y - more, strip.width, strip.height + more)


def _place_bars(builder: PlanBuilder, strip: Box, brief: Sequence[str]) -> Box:
    """Place the color bars below the strip, or at its right above the names of brief roles; return
    the rest of the strip."""
    px = builder.px
    if builder.is_narrow:
        builder.place_bars(Box(strip.x, strip.bottom + px(6), strip.width, _bars_px(builder)))
        return strip
    width = px(330)
    right = Box(strip.right - width, strip.y, width, strip.height)
    builder.place_bars(right)
    _name_roles(builder, brief, replace(right, height=strip.height - px(34)))
    return replace(strip, width=strip.width - width - px(44))


def _name_px(builder: PlanBuilder, runs: Sequence[RunTrack], widest: Sequence[int]) -> int:
    """Return how wide a tile must be for its run's name and numbers to stand in one line."""
    widths = []
    for run, n_characters in zip(runs, widest, strict=True):
        name = builder.text_width(run.label, _LABEL_PX, bold=True)
        widths.append(name + _beside_name(builder, n_characters))
    return max(widths)


def _shown_heads(tiling: Tiling) -> str:
    if tiling.all_heads:
        return ""
    some = "the most specialised head"
    if tiling.n_maps > 1:
        some = f"the {tiling.n_maps} most specialised heads"
    return f" · {some} of each run"


def _row_kind(run: RunTrack, heads: Heads) -> str:
    kinds, row = row_kinds(run.series), heads.blocks[0][0].probe or 0
    return kinds[row] if row < len(kinds) else ""


def _has_role_elsewhere(runs: Sequence[RunTrack], role_names: Sequence[str], row_kind: str) -> bool:
    """Whether a head ever has a role that does not speak about the row that is shown."""
    for index, name in enumerate(role_names):
        if not is_role_of(name, row_kind) and _is_ever_held(runs, index):
            return True
    return False


def numbers_text(run: RunTrack, timing: Timing, capture: int, ended: bool, metric: str) -> str:
    """Return the numbers beside a run: its loss, the step of its capture where the clock shows
    something else, and whether it is over."""
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
    """Write the point of time: ``1,000``, ``1.02 M``, ``54%``."""
    place = float(timing.points[point])
    match timing.axis:
        case "step":
            return f"{place:,.0f}"
        case "tokens":
            return si_number(place)
        case "progress":
            return f"{place:.0%}"


def _check_alike(runs: Sequence[RunTrack], heads: Sequence[Heads]) -> None:
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
    """Place the header; return where the clock's number stands."""
    px = builder.px
    n_digits = max(len(clock_text(timing, point)) for point in range(len(timing.points)))
    clock = Numbers(builder.width - builder.margin, px(58), CLOCK_PX * builder.unit)
    digits_px = n_digits * text_width("0", clock.size_px, bold=True, mono=True)
    left = clock.x - digits_px - px(14) - builder.text_width(timing.axis, 24)
    builder.text(timing.axis, left, clock.baseline, 24)
    builder.text(heads.axes()[-1], clock.x, px(84), 16, align="right")
    x, room = builder.margin, left - builder.margin - px(44)
    builder.text_within(room, title, x, px(44), 34, builder.theme.text, bold=True)
    builder.text_within(room, subtitle, x, px(74), 19)
    if note:
        builder.text_within(builder.width - 2 * x, note, x, px(100), 15)
    return clock


def _name_roles(builder: PlanBuilder, names: Sequence[str], area: Box) -> None:
    """Explain, at the foot of ``area``, the colors of roles that have no lane because no head kept
    them for long."""
    px, line, width = builder.px, builder.px(24), area.width // 2
    for number, name in enumerate(reversed(names)):
        x = area.x + (1 - number % 2) * width
        y = area.bottom - line * (number // 2) - line / 2
        color = builder.theme.roles.get(name, builder.theme.text)
        builder.square(x, round(y - px(11) / 2), px(11), color)
        room = width - px(24)
        builder.text_within(room, role_label(name), x + px(18), y, 14, color, baseline="center")


def _tile(
    builder: PlanBuilder,
    tiling: Tiling,
    index: int,
    run: RunTrack,
    heads: Heads,
    tile: Box,
    numbers: Numbers,
) -> RunPanel:
    """Place the maps of a run, with the names of its blocks and heads."""
    mask = heads.mask(-(-heads.length // tiling.pool))
    sources = {}
    for maps, (block, stored) in zip(heads.blocks, heads.indices, strict=True):
        for source, head in zip(maps, stored, strict=True):
            sources[block, head] = replace(source, pool=tiling.pool)
    placed = list(slots(builder, tiling, run, tile))
    heatmaps, captions = [], []
    for slot in placed:
        caption = _name_slot(builder, tiling, slot)
        if caption:
            captions.append(caption)
        if slot.head not in sources:  # not captured: too many heads for the capture's budget
            continue
        block, head = slot.head
        name = f"run {index} · block {block} head {head}"
        source = sources[slot.head]
        heatmaps.append(Heatmap(name, source, slot.box, heads.scale, mask, head=slot.head))
    if not heatmaps:
        blocks = [block for block, _ in heads.indices]
        raise LayoutError(
            f"none of the heads of run {run.label!r} that would be shown was captured; it has maps "
            f"of {blocks} only"
        )
    builder.heatmaps += heatmaps
    ribbon = _ribbon(builder, tiling, run, placed, tile)
    return RunPanel(tuple(heatmaps), numbers, tuple(captions), ribbon)


def _name_slot(builder: PlanBuilder, tiling: Tiling, slot: Slot) -> tuple[str, Numbers] | None:
    """Write which block and head a map shows; return the caption that is painted into its
    corner, if there is one."""
    px, box, (block, head) = builder.px, slot.box, slot.head
    if slot.starts_row and tiling.all_heads:
        builder.text_left_of(box.x - px(10), f"L{block}", box.y + box.height / 2, 15)
    if tiling.captioned and tiling.all_heads:
        size_px = min(11.0 * builder.unit, 0.2 * box.width)
        return f"H{head}", Numbers(box.right - px(3), box.y + px(13), size_px)
    if tiling.captioned:
        room, y = tiling.map_px + tiling.gap, box.y - px(3) - _frame_px(builder, tiling)
        builder.text_within(room, f"L{block}H{head}", box.x, y, 13)
    elif slot.heads_column:
        caption = f"H{head}" if tiling.map_px >= px(30) else str(head)
        builder.text(caption, box.x + box.width / 2, box.y - px(7), 13, align="center")
    return None


def _ribbon(
    builder: PlanBuilder, tiling: Tiling, run: RunTrack, placed: Sequence[Slot], tile: Box
) -> Ribbon | None:
    """Place the ribbon right of the maps, where there is room: each block's lines as high as its
    maps, in the order of the maps."""
    left, right = max(slot.box.right for slot in placed) + tiling.gap + builder.px(16), tile.right
    if not tiling.all_heads or tiling.groups > 1 or right - left < builder.px(110):
        return None
    lines = []
    for slot in placed:
        block, head = slot.head
        order = [each for each in run.order[block] if each is not None]
        place = order.index(head)
        top = slot.box.y + slot.box.height * place // len(order)
        bottom = slot.box.y + slot.box.height * (place + 1) // len(order)
        apart = 1 if bottom - top > 3 else 0
        line = Box(left, top, right - left, max(1, bottom - top - apart))
        lines.append((slot.head, line))
        builder.swatches.append(Swatch(line, builder.theme.panel))
    top = min(line.y for _, line in lines)
    bottom = max(line.bottom for _, line in lines)
    box = Box(left, top, right - left, bottom - top)
    builder.text_within(box.width, "roles over time", box.x, box.y - builder.px(7), 13)
    return Ribbon(box, tuple(lines))


def _name(
    builder: PlanBuilder, tiling: Tiling, label: str, tile: Box, color: str, widest_numbers: int
) -> Numbers:
    """Write the run's name with the swatch of its color; return where its numbers stand."""
    if tiling.beside:
        return _name_beside(builder, tiling, label, tile, color)
    px = builder.px
    baseline, side = tile.y + px(20), px(13)
    builder.square(tile.x, baseline - side, side, color)
    room = tile.width - _beside_name(builder, widest_numbers)
    shrunk = 0.97 * room / max(1, builder.text_width(label, _LABEL_PX, bold=True))
    size = _LABEL_PX * max(LEAST_NAME, min(1.0, shrunk))
    x, text = tile.x + px(22), builder.theme.text
    builder.text_within(room, label, x, baseline, size, text, bold=True)
    return Numbers(tile.right, baseline, NUMBERS_PX * builder.unit)


def _name_beside(
    builder: PlanBuilder, tiling: Tiling, label: str, tile: Box, color: str
) -> Numbers:
    """Write the run's name in lines at the left of its maps, smaller before anything is cut off;
    return where its numbers stand below it."""
    px = builder.px
    # Beside the first map, or from the upper end of the tile.
    tops = (maps_origin(builder, tiling, tile)[1], tile.y)
    for scale, top in itertools.product(_NAME_SCALES, tops):
        size, pitch = _LABEL_PX * scale, round(px(_LINE_PX) * scale)
        lines, n_lines = _wrapped(builder, label, size), max(1, (tile.bottom - top) // pitch - 1)
        if len(lines) <= n_lines and builder.widest(lines, size, bold=True) <= px(_NAME_ROOM):
            break
    if len(lines) > n_lines:
        lines = [*lines[: n_lines - 1], " ".join(lines[n_lines - 1 :])]
    baseline, side = top + round(px(15) * scale), px(13)
    builder.square(tile.x, baseline - round(side * scale), side, color)
    x, text = tile.x + px(22), builder.theme.text
    for number, line in enumerate(lines):
        y = baseline + number * pitch
        builder.text_within(px(_NAME_ROOM), line, x, y, size, text, bold=True)
    end = baseline + len(lines) * pitch
    return Numbers(x, end, NUMBERS_PX * builder.unit * scale, from_left=True)


def _beside_name(builder: PlanBuilder, n_characters: int) -> int:
    """Return the pixels that a line with a run's name needs besides: for the swatch, and for so
    many characters of numbers."""
    digit = text_width("0", NUMBERS_PX * builder.unit, bold=True, mono=True)
    return builder.px(42) + n_characters * digit


def _wrapped(builder: PlanBuilder, label: str, size: float) -> list[str]:
    """Break ``label`` into lines that fit beside a run's maps; a word that is too long has a line
    to itself."""
    lines = [""]
    for word in label.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and builder.text_width(longer, size, bold=True) > builder.px(_NAME_ROOM):
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _widest(run: RunTrack, timing: Timing, index: int, metric: str) -> int:
    """Return the characters that the run's numbers may need."""
    ends = bool(timing.ended[index].any())
    captures = list(range(len(run.series)))
    if (timing.captures[index] == NOT_YET).any():
        captures.append(NOT_YET)
    return max(len(numbers_text(run, timing, capture, ends, metric)) for capture in captures)


def _frame_px(builder: PlanBuilder, tiling: Tiling) -> int:
    """Return how thick the border in a role's color is."""
    return builder.px(3 if tiling.map_px >= builder.px(90) else 2)
