"""The title card: the heads of the run's strongest events, as the last capture has them, and what
their roles look like."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz.rendering import Renderer, Series, Shot
from tracker_viz.rendering.role_key import ICON_CELLS, role_pattern
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.theme import rgb
from tracker_viz.video.opencv import import_cv2


@pytest.fixture(scope="module")
def renderer(small_run):
    return Renderer(Series(small_run, title="a small run"), "overview", size="960x540")


@pytest.fixture(scope="module")
def card(renderer):
    return renderer.draw(Shot(len(renderer) - 1, 0.0, 1.0, "title")).pixels


def cells(scale, values, mask, panel):
    """Return one pixel for each cell, uint8 [row, column, 3]."""
    colors = scale.table()[scale.drawn(values).view(np.uint16)]
    colors[mask] = panel
    return colors


def place_of(colors, card):
    """Return (y, x, pixels of a cell) where a map is in the card; None where it is not."""
    cv2 = import_cv2()
    for cell_px in range(1, 12):
        large = colors.repeat(cell_px, 0).repeat(cell_px, 1)
        differences = cv2.matchTemplate(card, large, cv2.TM_SQDIFF_NORMED)
        _, _, (x, y), _ = cv2.minMaxLoc(differences)
        if np.array_equal(card[y : y + large.shape[0], x : x + large.shape[1]], large):
            return y, x, cell_px
    return None


def head_of(renderer, card, head, capture):
    """Return where the card shows a head as a capture has it."""
    heatmap = next(each for each in renderer.plan.heatmaps if each.head == head)
    values = renderer.values(capture)[heatmap.name]
    panel = rgb(renderer.plan.theme.panel)
    return place_of(cells(renderer.plan.scales[heatmap.scale], values, heatmap.mask, panel), card)


def test_the_strongest_head_of_each_role_comes_first_as_the_last_capture_has_it(renderer, card):
    events = [event for event in renderer.plan.story.events if event.role]
    assert [event.role for event in events] == ["previous_token", "induction", "current_token"]
    assert [event.strength for event in events] == sorted(
        (event.strength for event in events), reverse=True
    )
    last = len(renderer) - 1
    places = [head_of(renderer, card, event.heads[0], last) for event in events]
    assert None not in places, "one map for each event"
    rows_and_columns = [(y, x) for y, x, _ in places]
    assert rows_and_columns == sorted(rows_and_columns), "line by line, the strongest first"
    assert len({cell_px for _, _, cell_px in places}) == 1
    assert head_of(renderer, card, events[0].heads[0], 0) is None, "not as it began"


def test_a_map_has_a_border_in_the_color_of_the_role_that_it_is_shown_for(renderer, card):
    for event in renderer.plan.story.events:
        if not event.role:
            continue
        y, x, cell_px = head_of(renderer, card, event.heads[0], len(renderer) - 1)
        side = 24 * cell_px
        color = rgb(renderer.plan.theme.roles[event.role])
        above, left = card[y - 2, x : x + side], card[y : y + side, x - 2]
        assert (above == color).all(), event.role
        assert (left == color).all(), event.role


def test_the_key_shows_what_each_role_of_the_run_looks_like_and_no_other(renderer, card):
    theme = renderer.plan.theme
    scale = ColorScale("", theme.attention, 0.0, 1.0, norm="power")
    future = ~np.tri(ICON_CELLS, dtype=bool)
    taken = {"previous_token", "induction", "current_token"}
    for role in ("previous_token", "induction", "current_token", "duplicate_token", "sink"):
        icon = cells(scale, role_pattern(role), future, rgb(theme.panel))
        place = place_of(icon, card)
        assert (place is not None) == (role in taken), role
        if place:
            y, x, _ = place
            assert tuple(card[y + 4, x - 2]) == rgb(theme.roles[role])
