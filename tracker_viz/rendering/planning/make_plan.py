"""Make a Plan of a Layout and of one run or several: which array fills which box, in whole pixels.

Reads headers, the scores, and some captures for the scales.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from tracker_viz.errors import ConfigError, LayoutError, unknown_name
from tracker_viz.rendering.layout import (
    USUAL_METRIC,
    Attention,
    Circuit,
    Experts,
    LargeHead,
    Layout,
    Lens,
    Scores,
    Weights,
)
from tracker_viz.rendering.plan import Box, Plan
from tracker_viz.rendering.planning.boxes import (
    bottom_at,
    cut_bottom,
    cut_right,
    cut_top,
    left_at,
    top_at,
)
from tracker_viz.rendering.planning.cards import (
    Card,
    place_cards,
    place_cards_that_fit,
    place_scores,
    resolve_scores,
    score_cards,
    weight_card,
)
from tracker_viz.rendering.planning.circuits.circuit import place_circuit
from tracker_viz.rendering.planning.circuits.lens import place_lens
from tracker_viz.rendering.planning.content import (
    Heads,
    Matrices,
    resolve_attention,
    resolve_weights,
)
from tracker_viz.rendering.planning.experts import place_experts
from tracker_viz.rendering.planning.grid import (
    LEAST_MAP_PX,
    fit_grid,
    least_matrix_px,
    place_grid,
)
from tracker_viz.rendering.planning.header import header, role_legend, title
from tracker_viz.rendering.planning.large_head import place_head
from tracker_viz.rendering.planning.main_panel import place_main_panel
from tracker_viz.rendering.planning.many_heads import place_many_heads
from tracker_viz.rendering.planning.mixing import resolve_mixing
from tracker_viz.rendering.planning.nonfinite_key import explain_nonfinite
from tracker_viz.rendering.planning.plan_builder import BAR_PITCH, PlanBuilder, next_even
from tracker_viz.rendering.planning.portrait import place_portrait
from tracker_viz.rendering.planning.role_borders import find_roles, framed_roles
from tracker_viz.rendering.planning.side_by_side.run_panels import place_runs
from tracker_viz.rendering.planning.side_by_side.story_of_runs import tell_story_of_runs
from tracker_viz.rendering.planning.timeline import (
    has_run_lanes,
    lane_roles,
    lanes_px,
    timeline,
)
from tracker_viz.rendering.scales import check_scale_options
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.story import tell_story
from tracker_viz.rendering.subject import Subject, one_run
from tracker_viz.rendering.theme import Theme
from tracker_viz.rendering.theme import theme as theme_by_name

log = logging.getLogger(__name__)

_TITLE = 30  # at 1080p: above the panels
_BARS_ACROSS = {2: 320}  # at 1080p: number of color bars below the panels -> width of each
# At 1080p: the timeline at least, and where the panels can give way.
_STRIP, _WIDE_STRIP = 86, 124
# At 1080p: curves of several runs with the time axis below them, and what of it they can give up.
_CURVES, _SPARE = 130, 36
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "4k": (3840, 2160), "square": (1080, 1080)}


def picture_size(size: str | Sequence[int]) -> tuple[int, int]:
    """Return (width, height) in pixels of ``1080p``, ``4k``, ..., ``1600x900`` or a pair.

    Raises:
        ConfigError: no size has this name, or it is odd (which video cannot be), too small or too
            large.
    """
    if isinstance(size, str):
        pixels = re.fullmatch(r"(\d+)x(\d+)", size)
        if size.lower() in SIZES:
            return SIZES[size.lower()]
        if not pixels:
            raise ConfigError(unknown_name("size", size, SIZES) + "; or pixels, like 1600x900")
        size = (int(pixels[1]), int(pixels[2]))
    width, height = (int(length) for length in size)
    fits = 640 <= width <= 7680 and 360 <= height <= 7680
    if not fits or width % 2 or height % 2:
        raise ConfigError(
            "a picture is 640..7680 pixels wide, 360..7680 high, and both are even; got "
            f"{width}x{height}"
        )
    return width, height


def make_plan(
    layout: Layout,
    shown: Series | Subject,
    *,
    size: str | Sequence[int] = "1080p",
    theme: str | Theme = "dark",
    scales: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """Decide where everything stands.

    Args:
        shown: a run, or several with what each shows at which point of time.

    Raises:
        LayoutError: the captures lack what the layout shows, or it does not fit.
        ConfigError: an option has no meaning.
    """
    # Whatever a user may have got wrong comes first, before any capture is read.
    subject = one_run(shown) if isinstance(shown, Series) else shown
    if subject.is_one_run and len(subject.runs[0].series) == 1:
        layout = _of_one_capture(layout)
    for run in subject.runs:
        _check_metric(layout, run.series)
    options = _scale_options(layout, scales or {})
    builder = PlanBuilder(layout, subject, *picture_size(size), theme_by_name(theme), options)
    builder.run_roles = [run.roles for run in subject.runs]
    if subject.is_one_run:
        builder.run_roles = [find_roles(builder.series, builder.theme.roles)]
        shows_experts = any(isinstance(panel, Experts) for panel in layout.panels)
        about: Literal["heads", "experts"] = "experts" if shows_experts else "heads"
        builder.story = tell_story(builder.series, layout.metric, about=about)
    else:
        builder.story = tell_story_of_runs(subject)
    top = header(builder)
    bottom = _panels(builder, top) if subject.is_one_run else _runs(builder, top)
    strip = _place_bars(builder, _below(builder, bottom))
    title(builder)
    _say_roles(builder)
    if layout.timeline:
        # Of several runs the lanes say what flags would.
        events = builder.story.events if subject.is_one_run else ()
        timeline(builder, strip, events)
    explain_nonfinite(builder)
    return builder.plan()


def _of_one_capture(layout: Layout) -> Layout:
    """Return what a layout shows of one capture, in which nothing has changed yet: the values
    themselves, no weights beside other panels, and no timeline."""
    has_others = any(not isinstance(panel, Weights) for panel in layout.panels)
    panels = []
    for panel in layout.panels:
        if isinstance(panel, Weights) and panel.show != "value" and has_others:
            continue
        if isinstance(panel, Attention):
            panel = panel.model_copy(update={"show": "value"})
        if isinstance(panel, Weights) and panel.show != "value":
            panel = panel.model_copy(update={"show": "value", "order": "stored"})
        panels.append(panel)
    return layout.model_copy(update={"panels": tuple(panels), "timeline": False})


def _scale_options(
    layout: Layout, chosen: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return what is asked of each kind of scale; ``chosen`` wins over the layout's own."""
    check_scale_options(chosen)
    options = {}
    for kind in {*layout.scales, *chosen}:
        options[kind] = {**layout.scales.get(kind, {}), **chosen.get(kind, {})}
    return options


def _below(builder: PlanBuilder, bottom: int) -> Box:
    """Return the strip of the picture below its panels."""
    strip = top_at(builder.page, bottom + builder.px(6))
    return bottom_at(strip, builder.height - builder.px(4))


def _place_bars(builder: PlanBuilder, strip: Box) -> Box:
    """Place the color bars that stand nowhere yet in the strip: above the timeline, or in a wide
    picture at its right. Return the rest of the strip."""
    px = builder.px
    n_bars = len(builder.scales.keys() - builder.barred)
    if not n_bars:
        return strip
    if builder.is_narrow:
        bars, rest = cut_top(strip, px(BAR_PITCH))
    else:
        across = -(-n_bars // max(1, strip.height // px(BAR_PITCH)))
        width = px(420) if across == 1 else across * px(_BARS_ACROSS.get(across, 240))
        rest, bars = cut_right(strip, width, gap=px(40))
    builder.place_bars(bars)
    return rest


def _say_roles(builder: PlanBuilder) -> None:
    """Decide how thick the borders around heads are, and say in the header what they mean."""
    if not any(heatmap.head for heatmap in builder.heatmaps):
        return
    line_px, blink_px = _border_px(builder)
    builder.run_roles = [
        replace(roles, line_px=line_px, blink_px=blink_px) for roles in builder.run_roles
    ]
    solid, dashed = framed_roles(builder.run_roles, builder.heatmaps)
    named = set() if has_run_lanes(builder.subject) else {*lane_roles(builder.subject)}
    role_legend(builder, solid - named, dashed - named, has_dashes=bool(dashed))


def _check_metric(layout: Layout, series: Series) -> None:
    """Check that a metric is there which was asked for by name; without a loss, the timeline stays
    empty."""
    known = {name for metrics in series.metrics for name in metrics}
    if layout.metric != USUAL_METRIC and layout.metric not in known:
        have = unknown_name("metric", layout.metric, known) if known else "they hold none"
        raise LayoutError(
            f"layout {layout.name!r} shows the metric {layout.metric!r}, which no capture holds: "
            f"{have}"
        )


def _border_px(builder: PlanBuilder) -> tuple[int, int]:
    """Return how thick the borders around heads are, at rest and when they blink: none covers a
    part of its neighbor's."""
    boxes = [heatmap.box for heatmap in builder.heatmaps if heatmap.head]
    most = builder.px(8)
    for one in boxes:
        for other in boxes:
            if other.y == one.y and other.x >= one.right:
                most = min(most, (other.x - one.right) // 2 - 1)
            if other.x == one.x and other.y >= one.bottom:
                most = min(most, (other.y - one.bottom) // 2 - 1)
    return max(1, min(builder.px(3), most)), max(1, most)


def _runs(builder: PlanBuilder, top: int) -> int:
    """Place several runs below ``top``; return where they end."""
    panels = [panel for panel in builder.layout.panels if isinstance(panel, Attention)]
    if len(panels) != 1 or len(builder.layout.panels) != 1:
        raise LayoutError(
            "a comparison needs a layout with one panel, attention; layout "
            f"{builder.layout.name!r} has {len(builder.layout.panels)} panels"
        )
    px = builder.px
    below = px(_CURVES) + lanes_px(builder)
    if builder.is_narrow:
        below += px(BAR_PITCH)
    area, _ = cut_bottom(top_at(builder.page, top + px(10)), below)
    return place_runs(builder, panels[0], area, px(_SPARE))


def _panels(builder: PlanBuilder, top: int) -> int:
    """Place the panels below ``top``; return where they end."""
    scores: list[str] = []
    heads: list[Heads] = []
    matrices: list[Matrices] = []
    for panel in builder.layout.panels:
        match panel:
            case Scores():
                scores += resolve_scores(builder, panel)
            case Attention():
                heads += _attention_and_mixing(builder, panel)
            case Weights() if _is_without(builder, panel):
                log.info(
                    "layout %r shows no feed-forward weights: the captures hold none",
                    builder.layout.name,
                )
            case Weights():
                matrices.append(resolve_weights(builder, panel))
    area = top_at(builder.page, next_even(top + builder.px(_TITLE)))
    area, _ = cut_bottom(area, _room_below(builder))
    if heads and scores:
        cards = score_cards(builder, scores)
        bottom = place_main_panel(builder, heads, matrices, cards, area)
        if bottom is not None:
            return bottom
    area = _shortened(builder, area)
    for panel in builder.layout.panels:
        if isinstance(panel, LargeHead):
            return place_head(builder, panel, scores, _lowered(builder, area))
        if isinstance(panel, Experts):
            return place_experts(builder, panel, scores, area)
        if isinstance(panel, Circuit):
            return place_circuit(builder, panel, area)
        if isinstance(panel, Lens):
            return place_lens(builder, panel, area)
    cards = score_cards(builder, scores) if scores else []
    if not heads and not matrices:
        return place_cards_that_fit(builder, cards, area)
    return _maps(builder, heads, matrices, scores, cards, area)


def _is_without(builder: PlanBuilder, panel: Weights) -> bool:
    """Return whether a panel of feed-forward weights stands beside others, and the model has no
    feed-forward part, as Mamba has none."""
    is_feed_forward = all(pattern.startswith("mlp.") for pattern in panel.matrices)
    has_others = any(not isinstance(other, Weights) for other in builder.layout.panels)
    return is_feed_forward and has_others and not builder.series.names("blocks.*.mlp.w_*")


def _attention_and_mixing(builder: PlanBuilder, panel: Attention) -> list[Heads]:
    """Return what shows how blocks mix tokens: attention where they attend, and mixing maps."""
    mixing = resolve_mixing(builder, panel)
    if mixing and not builder.series.names("blocks.*.attn.pattern"):
        return mixing
    return [*resolve_attention(builder, panel), *mixing]


def _room_below(builder: PlanBuilder) -> int:
    """Return the pixels below the panels that the timeline needs at least, or in a wide picture the
    color bars beside it."""
    strip = _STRIP if builder.layout.timeline else 8
    return builder.px(strip if builder.is_narrow else max(strip, 8 + BAR_PITCH))


def _maps(
    builder: PlanBuilder,
    heads: list[Heads],
    matrices: list[Matrices],
    scores: list[str],
    cards: list[Card],
    area: Box,
) -> int:
    """Place maps and beside them scores, in the first of these ways that keeps the maps large: a
    grid of all, a map of all heads with zooms, one summary of all matrices. Return the bottom."""
    px = builder.px
    zooms = _zooms(builder.layout)
    if heads and cards:  # for a map of each head there is no room
        return place_many_heads(builder, heads, matrices, cards, zooms, _lowered(builder, area))
    if builder.is_narrow:
        return place_portrait(builder, heads, matrices, cards, zooms, area)
    side_width = _side_width(builder, [*heads, *matrices], scores, area)
    shape = fit_grid(builder, heads, matrices, area, side_width)
    if heads and shape.map_px < LEAST_MAP_PX * builder.unit:
        return place_many_heads(builder, heads, matrices, cards, zooms, _lowered(builder, area))
    if shape.map_px < least_matrix_px(builder):
        cards = [weight_card(builder, matrices[0]), *cards]
        return place_cards(builder, cards, area)
    right, bottom = place_grid(builder, heads, matrices, area, shape, side_width)
    if scores:
        # One or two blocks are no reason to squeeze the scores.
        bottom = max(bottom, area.y + min(area.height, px(620)))
        beside = left_at(area, right + px(44))
        place_scores(builder, scores, bottom_at(beside, bottom))
    return bottom


def _shortened(builder: PlanBuilder, area: Box) -> Box:
    """Return ``area`` with more room below it, for panels that can give way: for the timeline and,
    in a narrow picture, for a row of color bars above it."""
    more = builder.px(_WIDE_STRIP - _STRIP) if builder.layout.timeline else 0
    return cut_bottom(area, more + (builder.px(BAR_PITCH) if builder.is_narrow else 0))[0]


def _lowered(builder: PlanBuilder, area: Box) -> Box:
    """Return the area below a row of names, which stand between titles and a map of all heads."""
    return top_at(area, next_even(area.y + builder.px(22)))


def _zooms(layout: Layout) -> int | None:
    for panel in layout.panels:
        if isinstance(panel, Attention):
            return panel.zooms
    return None


def _side_width(
    builder: PlanBuilder, panels: Sequence[Heads | Matrices], scores: list[str], area: Box
) -> int:
    """Return the pixels at the right that scores need; their maps of many blocks stand beside each
    other."""
    if not scores:
        return 0
    n_blocks = max(len(panel.blocks) for panel in panels)
    is_long = len(scores) * builder.px(3 * n_blocks + 80) > area.height - builder.px(150)
    return builder.px(min(640, 175 * len(scores)) if is_long else 330)
