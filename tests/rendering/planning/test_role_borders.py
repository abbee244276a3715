"""Borders around heads: solid where the head has the role on the row that is shown, else dashed."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz.rendering import Attention, Layout, Renderer, Series, picture_size
from tracker_viz.rendering.painting.cells import Border, frame_around
from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.header import header, role_legend
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.planning.role_borders import by_behavior, is_role_of
from tracker_viz.rendering.theme import THEMES, rgb
from tracker_viz.types import Capture

LENGTH, N_CAPTURES = 8, 5
ROWS = [{"kind": "repeated", "period": 3, "start": 1, "tokens": []}, {"kind": "text", "tokens": []}]
LAYOUT = Layout(name="mine", panels=(Attention(probe=None),))


@pytest.fixture
def renderer(synthetic, tmp_path):
    """Head 0 looks one token back among repeats, head 1 in text, head 2 in neither."""
    pattern = np.tril(np.ones((2, 3, LENGTH, LENGTH), np.float32))
    pattern /= pattern.sum(-1, keepdims=True)
    captures = []
    for index in range(N_CAPTURES):
        late = index >= 2
        scores = {
            "previous_token_repeated": [0.9 if late else 0.1, 0.1, 0.1],
            "previous_token_text": [0.1, 0.9 if late else 0.1, 0.1],
        }
        arrays = {f"scores.head.{name}": np.float32([heads]) for name, heads in scores.items()}
        arrays["blocks.0.attn.pattern"] = pattern
        captures.append(
            Capture(
                10 * index,
                arrays,
                axes={"blocks.0.attn.pattern": ("probe", "head", "query", "key")},
                probe={"length": LENGTH, "rows": ROWS},
                labels={"probe": ("repeated", "text")},
            )
        )
    paths = [synthetic.write_capture(tmp_path, capture) for capture in captures]
    return Renderer(Series(paths), LAYOUT, size="720p", theme="dark")


def heatmap_of(renderer, row, head):
    (found,) = [
        heatmap
        for heatmap in renderer.plan.heatmaps
        if heatmap.head == (0, head) and heatmap.source.probe == row
    ]
    return found


@pytest.mark.parametrize(
    ("row", "head", "expected"),
    [
        (0, 0, ("previous_token", True)),
        (1, 0, ("previous_token", False)),
        (0, 1, ("previous_token_text", False)),
        (1, 1, ("previous_token_text", True)),
        (0, 2, None),
        (1, 2, None),
    ],
)
def test_a_border_is_solid_only_where_the_score_of_the_row_that_is_shown_passes(
    renderer, row, head, expected
):
    heatmap = heatmap_of(renderer, row, head)
    assert renderer.plan.roles.border(heatmap, N_CAPTURES - 1) == expected
    assert renderer.plan.roles.border(heatmap, 0) is None, "nothing is taken yet"


@pytest.mark.parametrize(("row", "head"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_the_frame_shows_what_the_plan_says(renderer, row, head):
    heatmap = heatmap_of(renderer, row, head)
    role, is_solid = renderer.plan.roles.border(heatmap, N_CAPTURES - 1)
    color = rgb(THEMES["dark"].roles[role])
    shown = renderer.frame(N_CAPTURES - 1).pixels
    sides = [
        (shown[place] == color).all(2)
        for place in frame_around(heatmap.box, renderer.plan.roles.line_px)
    ]
    shares = [side.mean() for side in sides]
    if is_solid:
        assert shares == [1.0] * 4
    else:
        assert all(0.3 < share < 0.8 for share in shares), shares


def test_the_legend_tells_text_and_other_rows(renderer):
    texts = [label.text for label in renderer.plan.labels]
    assert {"previous token", "previous token on text", "dashed: on another row"} <= set(texts)


def test_the_legend_heads_roles_that_only_dashes_say_with_their_rows(renderer):
    repeats_only = Layout(name="mine", panels=(Attention(probe="repeated"),))
    plan = Renderer(renderer.series, repeats_only, size="720p", theme="dark").plan
    texts = [label.text for label in plan.labels if "token" in label.text or "dashed" in label.text]
    assert texts.count("previous token") == 2, "one solid, one behind the heading"
    assert "dashed, on text:" in texts


@pytest.mark.parametrize("size", ["1080p", "720p", "square", "640x360"])
def test_the_legend_leaves_out_no_role_however_many_there_are(renderer, size):
    roles = list(THEMES["light"].roles)
    builder = PlanBuilder(
        Layout(name="mine", panels=(Attention(),)),
        renderer.subject,
        *picture_size(size),
        THEMES["light"],
    )
    header(builder)
    before = len(builder.swatches)
    role_legend(builder, roles, roles[:1], has_dashes=True)
    colors = [swatch.color for swatch in builder.swatches[before:]]
    assert set(THEMES["light"].roles.values()) <= set(colors)
    left = min(swatch.box.x for swatch in builder.swatches[before:])
    assert left >= (builder.margin if builder.is_narrow else builder.numbers_end)


def test_dashes_stay_within_their_sides():
    box = Box(20, 30, 57, 41)
    inside = np.zeros((100, 100), bool)
    for place in frame_around(box, 2):
        inside[place] = True
    for rows, columns in Border("#ffffff", 2, is_dashed=True).places(box):
        assert inside[rows, columns].all()


def test_a_role_on_text_stands_behind_the_same_one_among_repeats():
    roles = ("sink", "previous_token", "sink_text", "previous_token_text")
    assert by_behavior(roles) == ["previous_token", "previous_token_text", "sink", "sink_text"]


def test_of_rows_of_an_unknown_kind_every_role_speaks():
    assert is_role_of("sink_text", "")
    assert not is_role_of("sink_text", "repeated")
    assert is_role_of("sink", "repeated")
