"""The map of roles says of each head what the captures' scores say."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz.rendering import Renderer, Series
from tracker_viz.rendering.plan import Roles
from tracker_viz.rendering.planning.many_heads.role_map import role_codes
from tracker_viz.rendering.planning.readouts import readout_text
from tracker_viz.rendering.scales import ROLE_LEVELS
from tracker_viz.rendering.sources import CodedMap
from tracker_viz.rendering.theme import THEMES, rgb


def coded(renderer):
    return [map for map in renderer.plan.heatmaps if isinstance(map.source, CodedMap)]


def color_of(renderer, index, heatmap, row, column):
    """RGB in the middle of one cell."""
    rows, columns = heatmap.source.shape
    y = heatmap.box.y + int((row + 0.5) * heatmap.box.height / rows)
    x = heatmap.box.x + int((column + 0.5) * heatmap.box.width / columns)
    return renderer.frame(index).pixels[y, x].astype(int)


@pytest.fixture(scope="module")
def many_heads(synthetic, tmp_path_factory):
    captures = synthetic.write_run(
        tmp_path_factory.mktemp("many"),
        6,
        blocks=20,
        heads=24,
        length=24,
        width=8,
        hidden=12,
        period=6,
        probes=1,
    )
    return Renderer(Series(captures), "overview", theme="light")


def test_a_code_is_the_role_and_the_level_of_its_margin():
    states = np.array([[[-1, -1, 0, 1]]], np.int8)
    margins = np.array([[[np.nan, 0.5, 1.0, 0.0]]], np.float32)
    roles = Roles(("previous_token", "induction"), states, margins)
    half = round(0.5 * (ROLE_LEVELS - 1))
    assert role_codes(roles)[0, 0].tolist() == [
        0,
        half,
        ROLE_LEVELS + ROLE_LEVELS - 1,
        2 * ROLE_LEVELS,
    ]


def test_a_head_has_the_color_of_its_role_and_none_before_it(many_heads):
    theme, roles = THEMES["light"], many_heads.plan.roles
    whole, _ = coded(many_heads)
    last = len(many_heads) - 1
    strongest = np.where(roles.states[last] >= 0, roles.margins[last], -1)
    block, head = np.unravel_index(strongest.argmax(), strongest.shape)
    role = roles.names[roles.states[last, block, head]]
    full, ground = np.array(rgb(theme.roles[role])), np.array(rgb(theme.panel))
    strength = 0.3 + 0.7 * round(float(strongest.max()) * (ROLE_LEVELS - 1)) / (ROLE_LEVELS - 1)
    expected = ground + strength * (full - ground)
    shown = color_of(many_heads, last, whole, block, head)
    assert np.abs(shown - expected).max() <= 1

    assert roles.states[0, block, head] == -1
    before = color_of(many_heads, 0, whole, block, head)
    assert before.max() - before.min() < 20, "a head without a role is gray"


def test_the_strip_counts_the_heads_of_each_role_up_to_the_step_that_is_shown(many_heads):
    _, strip = coded(many_heads)
    roles, n_columns = many_heads.plan.roles, strip.source.shape[1]
    final = [int((roles.states[-1] == role).sum()) for role in range(len(roles.names))]
    counts = [each for each in many_heads.plan.readouts if each.role]
    assert [each.role for each in counts] == list(roles.names)
    for point in range(len(many_heads)):
        shown = [
            readout_text(each, many_heads.plan, many_heads.subject, "loss", point)
            for each in counts
        ]
        held = [int((roles.states[point] == role).sum()) for role in range(len(roles.names))]
        assert shown == list(map(str, held))
    assert sum(final) > 0 == int((roles.states[0] >= 0).sum())

    steps = np.array(many_heads.series.steps)
    at = np.linspace(steps[0], steps[-1], n_columns)
    for point, next_step in enumerate(steps[1:]):
        ahead = strip.source.codes[point][:, at >= next_step]
        assert not ahead.any(), "nothing of the future is shown"
    whole = strip.source.codes[-1]
    for column, step in enumerate(at):
        capture = max(index for index, each in enumerate(steps) if each <= step)
        held = [bool(count) for count in roles.n_holders[capture]]
        assert [bool(code) for code in whole[:, column]] == held, step
    assert [bool(row[-1]) for row in whole] == [count > 0 for count in final]


def test_the_heads_of_the_events_are_shown_large(many_heads):
    shown = {map.head for map in many_heads.plan.heatmaps if map.head}
    events = [event for event in many_heads.plan.story.events if event.kind == "role"]
    assert events
    assert all(event.heads[0] in shown for event in events)


@pytest.mark.parametrize("size", ["1080p", "720p", "square", "640x360"])
def test_61_x_128_heads_keep_cells_that_can_be_seen(synthetic, tmp_path, size):
    captures = synthetic.write_run(
        tmp_path,
        2,
        blocks=61,
        heads=128,
        length=8,
        width=8,
        hidden=8,
        period=3,
        probes=1,
    )
    renderer = Renderer(Series(captures), "overview", size=size)
    whole = coded(renderer)[0]
    cell_x, cell_y = whole.box.width / 128, whole.box.height / 61
    assert min(cell_x, cell_y) >= max(2, int(5 * renderer.plan.unit))
    assert whole.box.right <= renderer.plan.width
    assert whole.box.bottom <= renderer.plan.height


def test_a_run_without_scores_shows_the_mosaic(synthetic, tmp_path):
    captures = []
    for capture in synthetic.captures(2, blocks=20, heads=20, length=16, period=5, probes=1):
        arrays = {name: array for name, array in capture.arrays.items() if "scores" not in name}
        axes = {name: capture.axes[name] for name in arrays}
        bare = type(capture)(capture.step, arrays, axes=axes, labels=capture.labels)
        captures.append(synthetic.write_capture(tmp_path, bare))
    layout = {"name": "mine", "panels": [{"panel": "attention", "probe": 0}]}
    assert not coded(Renderer(Series(captures), layout))


def test_a_layout_may_ask_for_the_mosaic(many_heads):
    layout = {"name": "m", "panels": [{"panel": "attention", "many_heads": "mosaic"}]}
    assert not coded(Renderer(many_heads.series, layout))
