"""Place the map of every head's role: block by head, hue = role, strength of color = margin.

It shows a model with more heads than there is room for maps of them, and below it how many heads
hold each role over the run. Both read ``Roles``, which was found from all captures.
"""

from __future__ import annotations

from itertools import chain, zip_longest

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import role_label
from tracker_viz.rendering.layout import Attention
from tracker_viz.rendering.plan import Box, Heatmap, Readout, Roles
from tracker_viz.rendering.planning.content import Heads, most_changed
from tracker_viz.rendering.planning.plan_builder import (
    PlanBuilder,
    next_even,
    number_spacing,
    whole_cell_px,
)
from tracker_viz.rendering.scales import ROLE_LEVELS, ColorScale, role_colormap
from tracker_viz.rendering.sources import CodedMap
from tracker_viz.rendering.text import text_width

SCALE = "roles"
_NUMBER = 20.0  # of blocks and heads
_STRIP_ROW = 26  # at 1080p: height of a role's row below the map
_LEAST_CELL = 5  # at 1080p: cells that trackers still show as a color; the strip gives way to them
_MOST_COLUMNS = 240  # of the strip
# A head below this share of the way from uniform attention to its nearest role stays plain.
_NEAREST_SHOWN = 0.05


def shows_role_map(builder: PlanBuilder) -> bool:
    """Return whether the layout asks for a map of roles, and the captures score any."""
    panels = [panel for panel in builder.layout.panels if isinstance(panel, Attention)]
    return bool(panels) and panels[0].many_heads == "roles" and len(builder.roles.states) > 0


def place_role_map(builder: PlanBuilder, area: Box) -> Box:
    """Fill ``area`` from its left upper corner with the map and the strip below it; titles stand
    above ``area``. Return the box that was used."""
    px, roles = builder.px, builder.roles
    n_blocks, n_heads = roles.states.shape[1:]
    builder.scales[SCALE] = ColorScale(
        "role of each head",
        role_colormap(builder.theme, roles.names),
        -0.5,
        (len(roles.names) + 1) * ROLE_LEVELS - 0.5,
        nonfinite=builder.theme.nonfinite,
    )
    builder.barred.add(SCALE)

    label = builder.text_width(str(n_blocks - 1), _NUMBER) + px(12)
    strip_px = px(_STRIP_ROW) * len(roles.names) + px(58)
    has_strip = (area.height - strip_px) // n_blocks >= _LEAST_CELL * builder.unit
    cell_y = max(1, (area.height - has_strip * strip_px) // n_blocks)
    cell_x = max(1, (area.width - label) // n_heads)
    cell_x, cell_y = min(cell_x, 5 * cell_y), min(cell_y, 2 * cell_x)
    cell_x, cell_y = whole_cell_px(cell_x), whole_cell_px(cell_y)
    box = Box(next_even(area.x + label), next_even(area.y), n_heads * cell_x, n_blocks * cell_y)
    codes = role_codes(roles)
    absent = np.all(np.isnan(roles.margins), axis=0)
    line_px = 1.0 if min(cell_x, cell_y) >= 8 else 0.0
    builder.heatmaps.append(
        Heatmap(
            "roles of all heads",
            CodedMap(codes),
            box,
            SCALE,
            absent if absent.any() else None,
            line_px,
            builder.theme.ground,
        )
    )
    _number_sides(builder, box, n_blocks, n_heads)
    # A map of few heads is narrower than its title and than the strip.
    room = max(box.width, min(area.right - box.x, px(460)))
    axes = ("stronger color: further above uniform attention · block ↓ head →", "block ↓ head →")
    builder.heading("Role of each head", box.x, area.y - px(32), room, *axes)
    bottom = box.bottom
    if has_strip:
        bottom = _place_strip(builder, Box(box.x, bottom + px(58), room, 0))
    return Box(area.x, box.y, box.x + room - area.x, bottom - box.y)


def telling_heads(builder: PlanBuilder, heads: Heads, n: int) -> list[tuple[int, int]]:
    """Return (row, column) of ``n`` heads to show large: those that the run's events are about, one
    of each event in turn, then those that changed most."""
    events = sorted(builder.story.events, key=lambda event: -event.strength)
    turns = chain.from_iterable(zip_longest(*(event.heads for event in events if event.role)))
    places = {}
    for row, (block, numbers) in enumerate(heads.indices):
        for column, number in enumerate(numbers):
            places[block, number] = (row, column)
    of_events = [places[head] for head in turns if head in places]
    held = builder.roles.held[-1] if builder.roles.held else {}
    return list(dict.fromkeys([*of_events, *most_changed(builder.series, heads, n, held)]))[:n]


def role_codes(roles: Roles) -> NDArray[np.uint16]:
    """Return what the role color map says of every head: uint16 [capture, block, head].

    ``(role + 1) * ROLE_LEVELS + level`` with the level of its margin; role -1 is no role, whose
    level is that of the nearest one, so that a head is seen to come closer.
    """
    margins = np.nan_to_num(roles.margins, nan=0.0)
    levels = np.rint(np.clip(margins, 0.0, 1.0) * (ROLE_LEVELS - 1))
    has_role = roles.states >= 0
    plain = np.where(margins > _NEAREST_SHOWN, levels, 0)
    coded = (roles.states.astype(np.int64) + 1) * ROLE_LEVELS
    return (coded + np.where(has_role, levels, plain)).astype(np.uint16)


def _place_strip(builder: PlanBuilder, box: Box) -> int:
    """Place a row for each role: how many heads hold it, over steps, as far as the run was played.
    Return the bottom."""
    px, roles, steps = builder.px, builder.roles, np.array(builder.series.steps)
    names_px = px(8) + builder.widest(map(role_label, roles.names), _NUMBER)
    counts = roles.n_holders
    n_digits = len(f"{counts.max():,}")
    digit = text_width("0", _NUMBER * builder.unit, bold=True, mono=True)
    digits_px = n_digits * digit + px(12)
    room = box.width - names_px - digits_px
    n_columns = int(np.clip(room // px(4), 1, _MOST_COLUMNS))
    cell_x, cell_y = max(1, room // n_columns), px(_STRIP_ROW)
    at = np.linspace(steps[0], steps[-1], n_columns)
    captures = np.searchsorted(steps, at, side="right") - 1

    share = np.sqrt(counts[captures] / max(1, counts.max()))
    levels = np.where(counts[captures] > 0, np.rint(share * (ROLE_LEVELS - 1)), 0)
    coded = (np.arange(len(roles.names)) + 1) * ROLE_LEVELS + levels
    whole = np.where(counts[captures] > 0, coded, 0).astype(np.uint16).T
    played = np.repeat(whole[None], len(steps), 0)
    for index in range(len(steps)):
        played[index][:, captures > index] = 0

    x, y = next_even(box.x + names_px), next_even(box.y)
    area = Box(x, y, n_columns * cell_x, len(roles.names) * cell_y)
    builder.heatmaps.append(
        Heatmap("heads with each role over steps", CodedMap(played), area, SCALE)
    )
    axes = (f"steps {steps[0]:,} to {steps[-1]:,} →", "steps →")
    builder.heading("Heads with each role", box.x, box.y - px(16), box.width, *axes)
    for number, name in enumerate(roles.names):
        middle = y + (number + 0.5) * cell_y
        color = builder.theme.roles[name]
        builder.text(role_label(name), box.x, middle, _NUMBER, color, baseline="center")
        baseline = round(middle + 0.36 * _NUMBER * builder.unit)
        size_px, right = _NUMBER * builder.unit, area.right + px(10) + n_digits * digit
        builder.readouts.append(
            Readout(f"holders.{name}", right, baseline, size_px, n_digits, align="right")
        )
    return area.bottom


def _number_sides(builder: PlanBuilder, box: Box, n_blocks: int, n_heads: int) -> None:
    px = builder.px
    every = number_spacing(box.height / n_blocks, px(26))
    for block in range(0, n_blocks, every):
        middle = box.y + (block + 0.5) * box.height / n_blocks
        builder.text_left_of(box.x - px(8), str(block), middle, _NUMBER)
    widest = builder.text_width(str(n_heads - 1), _NUMBER)
    every = number_spacing(box.width / n_heads, widest + px(8))
    for head in range(0, n_heads, every):
        middle = box.x + (head + 0.5) * box.width / n_heads
        builder.text(str(head), middle, box.y - px(7), _NUMBER, align="center")
