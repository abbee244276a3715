"""Layout + Series -> Plan: which array fills which box, in whole pixels. Reads headers, the scores,
and some captures for the scales."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tracker_viz.errors import ConfigError, LayoutError, unknown_name
from tracker_viz.rendering.layout import USUAL_METRIC, Attention, LargeHead, Layout, Scores, Weights
from tracker_viz.rendering.plan import Box, Plan
from tracker_viz.rendering.planning.cards import place_cards, place_scores, score_cards, weight_card
from tracker_viz.rendering.planning.content import (
    Heads,
    Matrices,
    resolve_attention,
    resolve_scores,
    resolve_weights,
)
from tracker_viz.rendering.planning.grid import (
    LEAST_MAP_PX,
    fit_grid,
    least_matrix_px,
    names_in_corners,
    place_grid,
)
from tracker_viz.rendering.planning.header import header, role_legend
from tracker_viz.rendering.planning.large_head import place_head
from tracker_viz.rendering.planning.many_heads import place_many_heads
from tracker_viz.rendering.planning.plan_builder import PlanBuilder, next_even
from tracker_viz.rendering.planning.portrait import place_portrait
from tracker_viz.rendering.planning.role_borders import by_behavior, find_roles, framed_roles
from tracker_viz.rendering.planning.timeline import timeline
from tracker_viz.rendering.scales import check_scale_options
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.story import tell_story
from tracker_viz.rendering.theme import Theme
from tracker_viz.rendering.theme import theme as theme_by_name

_BARS = 64  # at 1080p: a row of colour bars
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "4k": (3840, 2160), "square": (1080, 1080)}


def picture_size(size: str | Sequence[int]) -> tuple[int, int]:
    """(width, height) in pixels of ``1080p``, ``4k``, ..., ``1600x900`` or a pair; even, as video
    needs.

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
        raise ConfigError(
            "a picture is 640..7680 pixels wide, 360..7680 high, and both are even; got "
            f"{width}x{height}"
        )
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
        LayoutError: the captures lack what the layout shows, or it does not fit.
        ConfigError: an option has no meaning.
    """
    width, height = picture_size(size)
    check_scale_options(chosen := scales or {})
    _check_metric(layout, series)
    options = {
        kind: {**layout.scales.get(kind, {}), **chosen.get(kind, {})}
        for kind in {*layout.scales, *chosen}
    }
    builder = PlanBuilder(layout, series, width, height, theme_by_name(theme), options)
    builder.roles = find_roles(series, builder.theme.roles)
    builder.story = tell_story(series, layout.metric)
    top = header(builder)
    bottom = _panels(builder, top)
    strip = Box(
        builder.margin,
        bottom + builder.px(16),
        width - 2 * builder.margin,
        height - builder.px(4) - bottom - builder.px(16),
    )
    if builder.scales.keys() - builder.barred and builder.is_narrow:
        builder.place_bars(Box(strip.x, strip.y, strip.width, builder.px(58)))
        strip = Box(
            strip.x, strip.y + builder.px(_BARS), strip.width, strip.height - builder.px(_BARS)
        )
    elif builder.scales.keys() - builder.barred:
        bars_width = builder.px(420 if len(builder.scales.keys() - builder.barred) <= 2 else 480)
        builder.place_bars(Box(strip.right - bars_width, strip.y, bars_width, strip.height))
        strip = Box(strip.x, strip.y, strip.width - bars_width - builder.px(40), strip.height)
    if any(heatmap.head for heatmap in builder.heatmaps):
        line_px, blink_px = _border_px(builder)
        builder.roles = replace(builder.roles, line_px=line_px, blink_px=blink_px)
        solid, dashed = framed_roles(builder.roles, builder.heatmaps)
        shown = by_behavior(role for role in builder.roles.names if role in solid | dashed)
        role_legend(builder, shown, elsewhere=bool(dashed))
    if layout.timeline:
        timeline(builder, strip, builder.story.events)
    return builder.plan()


def _check_metric(layout: Layout, series: Series) -> None:
    """A run without a loss has an empty timeline; another metric was asked for by name."""
    known = {name for metrics in series.metrics for name in metrics}
    if layout.metric != USUAL_METRIC and layout.metric not in known:
        have = unknown_name("metric", layout.metric, known) if known else "they hold none"
        raise LayoutError(
            f"layout {layout.name!r} shows the metric {layout.metric!r}, which no capture holds: "
            f"{have}"
        )


def _border_px(builder: PlanBuilder) -> tuple[int, int]:
    """How thick the borders around heads are, at rest and when they blink: none covers a part of
    its neighbor's."""
    boxes = [heatmap.box for heatmap in builder.heatmaps if heatmap.head]
    gaps = [
        other.x - one.right
        for one in boxes
        for other in boxes
        if other.x >= one.right and other.y == one.y
    ]
    gaps += [
        other.y - one.bottom
        for one in boxes
        for other in boxes
        if other.y >= one.bottom and other.x == one.x
    ]
    most = min([builder.px(8), *(gap // 2 - 1 for gap in gaps)])
    return max(1, min(builder.px(3), most)), max(1, most)


def _panels(builder: PlanBuilder, top: int) -> int:
    """Place the panels below ``top``; returns where they end."""
    layout, px, margin = builder.layout, builder.px, builder.margin
    scores = [
        name
        for panel in layout.panels
        if isinstance(panel, Scores)
        for name in resolve_scores(builder, panel)
    ]
    heads = [
        heads
        for panel in layout.panels
        if isinstance(panel, Attention)
        for heads in resolve_attention(builder, panel)
    ]
    matrices = [
        resolve_weights(builder, panel) for panel in layout.panels if isinstance(panel, Weights)
    ]
    large = next((panel for panel in layout.panels if isinstance(panel, LargeHead)), None)
    area_top = next_even(top + px(58))
    least = px(
        (118 if layout.timeline else 16)
        + (_BARS if builder.is_narrow else 0 if layout.timeline else 64)
    )
    area = Box(margin, area_top, builder.width - 2 * margin, builder.height - least - area_top)
    if large:
        return place_head(builder, large, scores, area)
    if not heads and not matrices:
        return place_cards(builder, score_cards(builder, scores), area)
    return _maps(builder, heads, matrices, scores, area)


def _maps(
    builder: PlanBuilder, heads: list[Heads], matrices: list[Matrices], scores: list[str], area: Box
) -> int:
    px = builder.px
    zooms = next(
        (panel.zooms for panel in builder.layout.panels if isinstance(panel, Attention)), None
    )
    if builder.is_narrow:
        return place_portrait(
            builder, heads, matrices, score_cards(builder, scores) if scores else [], zooms, area
        )
    panels: list[Heads | Matrices] = [*heads, *matrices]
    n_blocks = max(len(panel.blocks) for panel in panels)
    is_long = len(scores) * px(3 * n_blocks + 80) > area.height - px(
        150
    )  # maps of so many blocks stand beside each other
    side_width = px(min(520, 150 * len(scores)) if is_long else 330) if scores else 0
    # Names in the corners of the maps need no row of their own above them.
    raised_y = next_even(area.y - px(22))
    raised = Box(area.x, raised_y, area.width, area.bottom - raised_y)
    shape = fit_grid(builder, heads, matrices, raised, side_width)
    if names_in_corners(builder, heads, shape):
        area = raised
    else:
        shape = fit_grid(builder, heads, matrices, area, side_width)
    if heads and shape.map_px < LEAST_MAP_PX * builder.unit:
        return place_many_heads(builder, heads, matrices, score_cards(builder, scores), zooms, area)
    if shape.map_px < least_matrix_px(builder):
        return place_cards(
            builder, [weight_card(builder, matrices[0]), *score_cards(builder, scores)], area
        )
    right, bottom = place_grid(builder, heads, matrices, area, shape, side_width)
    if scores:
        x = right + px(44)
        bottom = max(
            bottom, area.y + min(area.height, px(620))
        )  # one or two blocks are no reason to squeeze the scores
        place_scores(builder, scores, Box(x, area.y, area.right - x, bottom - area.y))
    return bottom
