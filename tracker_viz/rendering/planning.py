"""Layout + Series -> Plan: which array fills which box, in whole pixels. Reads headers, score arrays and a few captures for the scales."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tracker_viz.errors import ConfigError, LayoutError, unknown_name
from tracker_viz.rendering.layout import Attention, Layout, Scores, Weights
from tracker_viz.rendering.plan import Bar, Box, Heatmap, Label, Onset, Plan, Readout, Roles, Swatch, Timeline
from tracker_viz.rendering.scales import ColorScale, short_number
from tracker_viz.rendering.series import Series, si_number
from tracker_viz.rendering.sources import (
    HeadMap,
    Moment,
    ScoreMap,
    WeightMap,
    flat_order,
    future,
    order_by_direction,
    order_by_norm,
)
from tracker_viz.rendering.template import text_width
from tracker_viz.rendering.theme import Theme
from tracker_viz.rendering.theme import theme as theme_by_name

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "4k": (3840, 2160), "square": (1080, 1080)}
_MATRIX_ORDER = ("w_q", "w_k", "w_v", "w_o", "w_gate", "w_up", "w_in", "w_down", "w_out")
_SCALE_SAMPLE = 48  # captures read to find the range of a change, which headers can not tell


def picture_size(size: str | Sequence[int]) -> tuple[int, int]:
    """(width, height) in pixels of ``1080p``, ``4k``, ..., ``1600x900`` or a pair; even, as video needs.

    Raises:
        ConfigError: no size has this name, or it is odd, too small or too large.
    """
    if isinstance(size, str):
        pixels = re.fullmatch(r"(\d+)x(\d+)", size)
        if size.lower() in SIZES:
            return SIZES[size.lower()]
        if not pixels:
            raise ConfigError(unknown_name("size", size, SIZES) + "; or pixels, like 1600x900")
        size = (int(pixels[1]), int(pixels[2]))
    width, height = (int(length) for length in size)
    if not (640 <= width <= 7680 and 360 <= height <= 7680) or width % 2 or height % 2:
        raise ConfigError(f"a picture is 640..7680 pixels wide, 360..7680 high, and both are even; got {width}x{height}")
    return width, height


def make_plan(
    layout: Layout,
    series: Series,
    *,
    size: str | Sequence[int] = "1080p",
    theme: str | Theme = "dark",
    scales: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """Decide where everything stands.

    Raises:
        LayoutError: the captures lack what the layout shows.
        ConfigError: an option has no meaning.
    """
    width, height = picture_size(size)
    draft = _Draft(layout, series, width, height, theme_by_name(theme))
    draft.scale_options = {key: {**layout.scales.get(key, {}), **(scales or {}).get(key, {})} for key in {*layout.scales, *(scales or {})}}
    _header(draft)
    bottom = _panels(draft)
    if layout.timeline:
        _timeline(draft, top=bottom)
    return draft.plan()


@dataclass
class _Draft:
    """A plan in the making. ``px(n)`` is n pixels at 1080p, at this size."""

    layout: Layout
    series: Series
    width: int
    height: int
    theme: Theme
    scale_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    heatmaps: list[Heatmap] = field(default_factory=list)
    scales: dict[str, ColorScale] = field(default_factory=dict)
    labels: list[Label] = field(default_factory=list)
    swatches: list[Swatch] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    readouts: list[Readout] = field(default_factory=list)
    timeline: Timeline | None = None
    roles: Roles = field(default_factory=Roles)
    mark: Label | None = None

    @property
    def unit(self) -> float:
        return min(self.height / 1080, self.width / 1280)

    def px(self, pixels: float) -> int:
        return max(1, round(pixels * self.unit))

    def even(self, pixels: float) -> int:
        return max(2, 2 * round(pixels * self.unit / 2))

    def text(self, text: str, x: float, y: float, size: float, color: str | None = None, **options: Any) -> None:
        self.labels.append(Label(text, x, y, size * self.unit, color or self.theme.dim, **options))

    def plan(self) -> Plan:
        return Plan(
            self.width,
            self.height,
            self.theme,
            self.layout.name,
            tuple(self.heatmaps),
            self.scales,
            tuple(self.labels),
            tuple(self.swatches),
            tuple(self.bars),
            tuple(self.readouts),
            self.timeline,
            self.roles,
            self.mark,
        )


# Header: the run at the left, the numbers at the right.


def _header(draft: _Draft) -> None:
    series, px = draft.series, draft.px
    right = draft.width - px(36)
    size, label_size = 46.0, 24.0
    quantities = [("step", "step", len(f"{max(series.steps):,}"))]
    losses = series.metric(draft.layout.metric)
    if np.isfinite(losses).any():
        quantities.append((draft.layout.metric, draft.layout.metric, max(len(format_metric(value)) for value in losses)))
    if all(tokens is not None for tokens in series.tokens_seen):
        quantities.append(("tokens", "tokens", max(len(si_number(tokens or 0)) for tokens in series.tokens_seen)))
    digit = text_width("0", size * draft.unit, bold=True, mono=True)
    x = right - sum(text_width(label, label_size * draft.unit) + px(14) + chars * digit for _, label, chars in quantities)
    x -= px(44) * (len(quantities) - 1)
    left = x
    for quantity, label, chars in quantities:
        draft.text(label, x, px(58), label_size)
        x += text_width(label, label_size * draft.unit) + px(14)
        draft.readouts.append(Readout(quantity, x, px(58), size * draft.unit, chars))
        x += chars * digit + px(44)
    room = left - px(36) - px(44)
    draft.text(_shortened(series.title, 34 * draft.unit, room, bold=True), px(36), px(44), 34, draft.theme.text, bold=True)
    if series.subtitle:
        draft.text(_shortened(series.subtitle, 20 * draft.unit, room), px(36), px(74), 19)
    draft.mark = Label("interpolated", draft.width - px(36), px(84), 20 * draft.unit, draft.theme.accent, bold=True, align="right")


def format_metric(value: float) -> str:
    """A loss as the header says it: ``1.808``; ``–`` where there is none."""
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _shortened(text: str, size_px: float, room: float, bold: bool = False) -> str:
    if text_width(text, size_px, bold=bold) <= room:
        return text
    while text and text_width(text + "…", size_px, bold=bold) > room:
        text = text[:-1]
    return text.rstrip() + "…"


# Panels: blocks run down, heads and matrices across; the scores and the colour bars fill the right side.


@dataclass
class _Heads:
    panel: Attention
    probe: int | None
    title: str
    blocks: list[list[HeadMap]]
    length: int
    mask: Any

    @property
    def columns(self) -> int:
        return max(len(heads) for heads in self.blocks)


@dataclass
class _Matrices:
    panel: Weights
    blocks: list[list[str]]
    names: list[str]

    @property
    def columns(self) -> int:
        return len(self.names)


def _panels(draft: _Draft) -> int:
    layout, px = draft.layout, draft.px
    heads = [_resolve_attention(draft, panel) for panel in layout.panels if isinstance(panel, Attention)]
    matrices = [_resolve_weights(draft, panel) for panel in layout.panels if isinstance(panel, Weights)]
    scores = [name for panel in layout.panels if isinstance(panel, Scores) for name in _resolve_scores(draft, panel)]
    draft.roles = Roles(
        {role: f"scores.head.{role}" for role in draft.theme.roles if f"scores.head.{role}" in draft.series.arrays}, line_px=px(3)
    )
    groups: list[_Heads | _Matrices] = [*heads, *matrices]
    n_rows = max(len(group.blocks) for group in groups)
    n_columns = [group.columns for group in groups]
    gap, section_gap, side_least = draft.even(8), px(44), px(250)
    left, top = px(36) + px(72), draft.even(136)
    bottom = draft.height - px(136 if layout.timeline else 36)
    room_y = (bottom - top - (n_rows - 1) * gap) // n_rows
    width = draft.width - px(36) - left - side_least - len(n_columns) * section_gap
    room_x = (width - (sum(n_columns) - len(n_columns)) * gap) // sum(n_columns)
    length = max((group.length for group in heads), default=0)
    pooled, cell_px = fit_map(length, min(room_x, room_y)) if heads else (1, 0)
    map_px = -(-length // pooled) * cell_px if heads else 2 * (min(room_x, room_y) // 2)
    pitch = map_px + gap

    x = left
    for row in range(n_rows):
        draft.text(f"block {row}", left - px(14), top + row * pitch + map_px / 2, 17, align="right", baseline="center")
    for head_group in heads:
        x = _place_heads(draft, head_group, x, top, pooled, map_px, pitch) + section_gap
    spare = draft.width - px(36) - side_least - x - sum(group.columns * pitch for group in matrices) - section_gap * len(matrices)
    for matrix_group in matrices:
        wide = map_px + min(max(0, spare) // matrix_group.columns // 2, map_px * 6 // 10) // 2 * 2
        x = _place_matrices(draft, matrix_group, x, top, map_px, wide, pitch) + section_gap
    maps_bottom = top + n_rows * pitch - gap
    _side(draft, scores, Box(x, top, draft.width - px(36) - x, maps_bottom - top))
    return maps_bottom


def fit_map(length: int, room_px: int) -> tuple[int, int]:
    """(pool, cell_px) of a map of ``length`` x ``length`` entries in ``room_px`` pixels: whole cells, even ones where that costs little.

    Chroma in video has half the resolution: cells of an even number of pixels keep their colours exactly.
    """
    best, best_worth = (max(1, length), 1), -1.0
    for pooling in range(1, length + 1):
        cells = -(-length // pooling)
        cell_px = room_px // cells
        for size in (cell_px, cell_px - 1):
            if size < 1:
                continue
            worth = cells * size * (1.0 if size % 2 == 0 else 0.84 if size > 1 else 0.7)
            worth *= (cells / length) ** 0.35 * (1.0 if length % pooling == 0 else 0.95)
            if worth > best_worth:
                best, best_worth = (pooling, size), worth
    return best


def _resolve_attention(draft: _Draft, panel: Attention) -> _Heads:
    series, layout = draft.series, draft.layout.name
    names = sorted(series.names("blocks.*.attn.pattern"), key=_block_of)
    if not names:
        series.require("blocks.0.attn.pattern", layout)
    infos = [series.require(name, layout) for name in names]
    length = infos[0].shape[-1]
    probe: int | None = None
    title = "Attention"
    if len(infos[0].shape) == 4:
        labels = series.labels("probe", infos[0].shape[0])
        row = labels.index(panel.probe) if isinstance(panel.probe, str) and panel.probe in labels else panel.probe
        if not isinstance(row, int) or not 0 <= row < len(labels):
            raise LayoutError(f"layout {layout!r}: the captures have the probe rows {', '.join(labels)}; got probe={panel.probe!r}")
        probe = row
        if len(labels) > 1 or not labels[0].isdigit():
            title = f"Attention · {labels[probe]} tokens"
    blocks = [
        [HeadMap(name, probe, head, length, show=panel.show) for head in range(info.shape[-3])]
        for name, info in zip(names, infos, strict=True)
    ]
    return _Heads(panel, probe, title, blocks, length, None)


def _resolve_weights(draft: _Draft, panel: Weights) -> _Matrices:
    series, layout = draft.series, draft.layout.name
    found: dict[int, list[str]] = {}
    for pattern in panel.matrices:
        for name in series.names(f"blocks.*.{pattern}"):
            found.setdefault(_block_of(name), []).append(name)
    if not found:
        series.require(f"blocks.0.{panel.matrices[0].replace('*', 'gate')}", layout)
    kinds = sorted({_kind(name) for names in found.values() for name in names}, key=_matrix_rank)
    return _Matrices(panel, [sorted(found[block], key=lambda name: _matrix_rank(_kind(name))) for block in sorted(found)], kinds)


def _resolve_scores(draft: _Draft, panel: Scores) -> list[str]:
    names = [name for pattern in panel.names for name in draft.series.names(f"scores.{pattern}")]
    if not names:
        draft.series.require(f"scores.{panel.names[0]}", draft.layout.name)
    return list(dict.fromkeys(names))


def _place_heads(draft: _Draft, group: _Heads, x: int, top: int, pooled: int, map_px: int, pitch: int) -> int:
    px = draft.px
    add_scale(
        draft,
        "attention",
        {
            "title": "attention probability (√ scale)",
            "cmap": draft.theme.attention,
            "minimum": 0.0,
            "maximum": 1.0,
            "norm": "power",
            "gamma": 0.5,
        },
    )
    draft.text(group.title, x, top - px(32), 20, draft.theme.text, bold=True)
    for head in range(group.columns):
        draft.text(f"head {head}", x + head * pitch + map_px / 2, top - px(8), 16, align="center")
    mask = future(-(-group.length // pooled))
    for block, heads in enumerate(group.blocks):
        for head, source in enumerate(heads):
            box = Box(x + head * pitch, top + block * pitch, map_px, map_px)
            draft.heatmaps.append(
                Heatmap(f"block {block} · head {head}", replace(source, pool=pooled), box, "attention", mask, head=(block, head))
            )
    return x + group.columns * pitch - (pitch - map_px)


def _place_matrices(draft: _Draft, group: _Matrices, x: int, top: int, high: int, wide: int, pitch: int) -> int:
    px, series, panel = draft.px, draft.series, group.panel
    titles = {
        "change": f"Weights · change since step {series.steps[0]:,}",
        "value": "Weights",
        "step": "Weights · change since the previous capture",
    }
    draft.text(titles[panel.show], x, top - px(32), 20, draft.theme.text, bold=True)
    last = series.read(len(series) - 1, [name for names in group.blocks for name in names]).arrays
    first = series.read(0, [name for names in group.blocks for name in names]).arrays
    gap = pitch - high
    placed = []
    for column, kind in enumerate(group.names):
        draft.text(_matrix_title(kind), x + column * (wide + gap) + wide / 2, top - px(8), 16, align="center")
        for block, names in enumerate(group.blocks):
            name = next((name for name in names if _kind(name) == kind), None)
            if name is None:
                continue
            shape = series.require(name, draft.layout.name).shape
            box, cells = _fit_matrix(draft, (shape[0], shape[1]), Box(x + column * (wide + gap), top + block * pitch, wide, high))
            change = last[name].astype(np.float32) - first[name].astype(np.float32)
            if panel.order == "stored":
                orders = (np.arange(shape[0]), np.arange(shape[1]))
            else:
                orders = (order_by_norm if panel.order == "norm" else order_by_direction)(change)
            source = WeightMap(name, (shape[0], shape[1]), cells, flat_order(*orders), panel.show, panel.reduce)
            placed.append(Heatmap(f"block {block} · {_matrix_title(kind)}", source, box, "weights"))
    draft.heatmaps += placed
    add_scale(draft, "weights", _weight_scale(draft, panel, placed))
    return x + group.columns * (wide + gap) - gap


def _fit_matrix(draft: _Draft, shape: tuple[int, int], box: Box) -> tuple[Box, tuple[int, int]]:
    least = draft.even(4)
    sizes = []
    for length, room in zip(shape, (box.height, box.width), strict=True):
        cell_px = max(least, 2 * (room // length // 2))
        sizes.append((min(length, room // cell_px), cell_px))
    (rows, high), (columns, wide) = sizes
    return Box(box.x, box.y, columns * wide, rows * high), (rows, columns)


def _weight_scale(draft: _Draft, panel: Weights, placed: list[Heatmap]) -> dict[str, Any]:
    """The scale covers 99.5 % of what the panel's cells show over the run."""
    series = draft.series
    names = [name for heatmap in placed for name in heatmap.source.needs]
    first = series.read(0, names).arrays
    indices = np.unique(np.linspace(0, len(series) - 1, min(len(series), _SCALE_SAMPLE)).round().astype(int))
    largest = 0.0
    for index in indices[-1:] if panel.show == "change" else indices:
        capture = series.read(int(index), names)
        previous = series.read(max(0, int(index) - 1), names).arrays if panel.show == "step" else {}
        shown = [np.abs(heatmap.source.values(Moment(capture, first, previous))).reshape(-1) for heatmap in placed]
        cells = np.concatenate(shown)
        cells = cells[np.isfinite(cells)]
        largest = max(largest, float(np.quantile(cells, 0.995)) if cells.size else 0.0)
    largest = largest or 1.0
    what = {"change": f"weight change since step {series.steps[0]:,}", "value": "weight", "step": "weight change since previous capture"}[
        panel.show
    ]
    if panel.reduce == "mean":
        return {"title": f"{what} (mean)", "cmap": draft.theme.signed, "minimum": -largest, "maximum": largest, "clipped": (True, True)}
    return {"title": f"{what} (RMS)", "cmap": draft.theme.magnitude, "minimum": 0.0, "maximum": largest, "clipped": (False, True)}


def add_scale(draft: _Draft, key: str, defaults: dict[str, Any]) -> None:
    options = dict(draft.scale_options.get(key, {}))
    known = {"title", "cmap", "minimum", "maximum", "norm", "gamma", "linear_within"}
    for option in options:
        if option not in known:
            raise ConfigError(unknown_name(f"option of the colour scale {key!r}", option, known))
    draft.scales[key] = ColorScale(**{**defaults, **options, "nonfinite": draft.theme.nonfinite})


def _side(draft: _Draft, scores: list[str], box: Box) -> None:
    px = draft.px
    bar_font = 17 * draft.unit
    bar_pitch = px(70)
    if scores:
        add_scale(draft, "score", {"title": "score", "cmap": draft.theme.score, "minimum": 0.0, "maximum": 1.0})
    bars_top = box.bottom - len(draft.scales) * bar_pitch + px(30)
    if scores:
        _place_scores(draft, scores, Box(box.x, box.y, box.width, bars_top - px(36) - box.y))
    for index, key in enumerate(draft.scales):
        y = bars_top + index * bar_pitch
        draft.bars.append(Bar(Box(box.x, y, min(box.width, px(420)), px(14)), key, bar_font))


def _place_scores(draft: _Draft, names: list[str], box: Box) -> None:
    px, series = draft.px, draft.series
    draft.text("Scores of every head", box.x, box.y - px(32), 20, draft.theme.text, bold=True)
    rows, columns = (max(series.require(name, draft.layout.name).shape[axis] for name in names) for axis in (0, 1))
    title, label, gap, below = px(28), px(22), px(18), px(14)
    title_width = px(26) + max(text_width(_score_title(name), 18 * draft.unit) for name in names)
    best, across = (0, 0, 0), 1
    for candidate in range(1, len(names) + 1):
        down = -(-len(names) // candidate)
        cell_x = ((box.width - (candidate - 1) * gap) // candidate - label) // columns // 2 * 2
        cell_y = (box.height // down - title - below) // rows // 2 * 2
        if (box.width + gap) // candidate < title_width + label + gap:
            break
        cell_x, cell_y = min(cell_x, 2 * cell_y), min(cell_y, 2 * cell_x)
        if (cell_x * cell_y, cell_x, cell_y) > best:
            best, across = (cell_x * cell_y, cell_x, cell_y), candidate
    _, cell_x, cell_y = best
    if not cell_x:
        raise LayoutError(
            f"{len(names)} score maps of {rows} x {columns} do not fit beside the other panels; name fewer, or choose a larger size"
        )
    down = -(-len(names) // across)
    wide = label + cell_x * columns + gap
    high = box.height // down
    for index, name in enumerate(names):
        x, y = box.x + (index % across) * wide, box.y + (index // across) * high
        role = name.removeprefix("scores.head.")
        text_x: float = x + label
        if role in draft.roles.scores:
            square = px(14)
            draft.swatches.append(Swatch(Box(x + label, y + px(3), square, square), draft.theme.roles[role]))
            text_x += square + px(8)
        draft.text(_score_title(name), text_x, y + px(16), 18)
        origin = Box(2 * ((x + label + 1) // 2), 2 * ((y + title + 1) // 2), cell_x * columns, cell_y * rows)
        for row in range(rows):
            if rows <= 8 or row % 4 == 0:
                draft.text(str(row), origin.x - px(6), origin.y + (row + 0.5) * cell_y, 14, align="right", baseline="center")
        draft.heatmaps.append(Heatmap(_score_title(name), ScoreMap(name, (rows, columns)), origin, "score", line_px=0.0))


def _score_title(name: str) -> str:
    return name.rsplit(".", 1)[-1].replace("_", " ")


def _block_of(name: str) -> int:
    match = re.match(r"blocks\.(\d+)\.", name)
    if not match:
        raise LayoutError(f"arrays of a block are named 'blocks.<i>.<what>'; got {name!r}")
    return int(match[1])


def _kind(name: str) -> str:
    return name.split(".", 2)[2]


def _matrix_rank(kind: str) -> tuple[int, int, str]:
    short = kind.rsplit(".", 1)[-1]
    return (kind.startswith("mlp"), _MATRIX_ORDER.index(short) if short in _MATRIX_ORDER else len(_MATRIX_ORDER), kind)


def _matrix_title(kind: str) -> str:
    station, _, short = kind.rpartition(".")
    name = short.removeprefix("w_")
    return {"mlp": f"FFN {name}", "attn": f"attn {name}"}.get(station, f"{station} {name}")


# Timeline: the whole run along x, below everything.


def _timeline(draft: _Draft, top: int) -> None:
    px, series, theme = draft.px, draft.series, draft.theme
    x, right = px(36) + px(72), draft.width - px(36)
    y, bottom = top + px(20), draft.height - px(36)
    height = min(bottom - y, px(260))
    box = Box(x, bottom - height, right - x, height)
    values = series.metric(draft.layout.metric)
    finite = values[np.isfinite(values)]
    if finite.size:
        draft.text(draft.layout.metric, x - px(14), box.y + box.height / 2, 19, theme.text, bold=True, align="right", baseline="center")
        draft.text(short_number(float(finite.max())), x - px(14), box.y + px(12), 15, align="right", baseline="center")
        draft.text(short_number(float(finite.min())), x - px(14), box.bottom - px(10), 15, align="right", baseline="center")
    for step in nice_steps(series.steps[0], series.steps[-1], 10):
        label_x = box.x + (box.width - 1) * _part(series, step)
        align = "left" if label_x < box.x + px(20) else "right" if label_x > box.right - px(30) else "center"
        draft.text(f"{step:,}", label_x, box.bottom + px(24), 16, align=align)
    onsets = find_onsets(series, draft.roles)
    draft.timeline = Timeline(box, draft.layout.metric, 16 * draft.unit, onsets)
    taken: list[list[tuple[float, float]]] = [[], [], []]
    for onset in onsets:
        at = box.x + (box.width - 1) * _part(series, onset.step)
        draft.swatches.append(Swatch(Box(round(at), box.y, px(2), box.height), theme.roles[onset.role]))
        text = f"{onset.role.replace('_', ' ')} · block {onset.block} head {onset.head}"
        wide = text_width(text, 15 * draft.unit)
        left = at + px(8) if at + px(8) + wide < box.right else at - px(6) - wide
        for row, spans in enumerate(taken):
            if all(left > end + px(10) or left + wide < start - px(10) for start, end in spans) and (row + 1) * px(22) < box.height:
                spans.append((left, left + wide))
                draft.text(text, left, box.y + px(19) + row * px(22), 15, theme.roles[onset.role])
                break


def _part(series: Series, step: float) -> float:
    return (step - series.steps[0]) / max(1, series.steps[-1] - series.steps[0])


def nice_steps(first: int, last: int, at_most: int) -> list[int]:
    """Round steps from ``first`` to ``last``, at most ``at_most`` of them."""
    span = max(1, last - first)
    spacing = next(base * 10**power for power in range(20) for base in (1, 2, 5) if span / (base * 10**power) <= at_most - 1)
    return list(range(-(-first // spacing) * spacing, last + 1, spacing))


def find_onsets(series: Series, roles: Roles) -> tuple[Onset, ...]:
    """For every role the first capture after the first one at which some head has it."""
    names = list(roles.scores.values())
    if not names:
        return ()
    onsets: dict[str, Onset] = {}
    known: set[str] = set()
    for index in range(len(series)):
        held = roles_of(series.read(index, names).arrays, roles)
        for (block, head), role in sorted(held.items()):
            if index == 0:
                known.add(role)
            elif role not in known:
                known.add(role)
                onsets[role] = Onset(role, index, series.steps[index], block, head)
    return tuple(onsets.values())


def roles_of(arrays: Mapping[str, Any], roles: Roles) -> dict[tuple[int, int], str]:
    """(block, head) -> its role, for heads whose leading score is high enough and leads clearly."""
    if not roles.scores or not all(name in arrays for name in roles.scores.values()):
        return {}
    stacked = np.stack([np.nan_to_num(np.asarray(arrays[name], np.float32)) for name in roles.scores.values()])
    ordered = np.sort(stacked, axis=0)
    runner_up = ordered[-2] if len(ordered) > 1 else np.zeros_like(ordered[-1])
    clear = (ordered[-1] >= roles.at_least) & (ordered[-1] - runner_up >= roles.margin)
    leading = stacked.argmax(0)
    names = list(roles.scores)
    return {(int(block), int(head)): names[leading[block, head]] for block, head in np.argwhere(clear)}
