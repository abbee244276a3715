"""Numbers beside maps: those of the blocks, heads and experts that stand there, also in captures
that hold some of them only."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz.rendering import LAYOUTS, Attention, Layout, Series, Weights, make_plan
from tracker_viz.rendering.plan import Box, Timeline
from tracker_viz.rendering.planning.cards import place_cards, weight_card
from tracker_viz.rendering.planning.content import resolve_attention, resolve_weights
from tracker_viz.rendering.planning.many_heads.mosaic import place_mosaic
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.planning.timeline.axis import label_axis, tick_captures
from tracker_viz.rendering.subject import one_run
from tracker_viz.rendering.theme import THEMES
from tracker_viz.types import Capture

LENGTH = 16


@pytest.fixture
def series_of(synthetic, tmp_path):
    """Return a function: numbers of the blocks with attention, and with weights -> a Series of
    three heads a block, numbered 4, 5 and 9."""

    def make(attending, weighted=(), *, heads=(4, 5, 9), steps=(0, 250, 1000), looks_ahead=False):
        rng = np.random.default_rng(0)
        captures = []
        for step in steps:
            arrays, labels = {}, {}
            for block in attending:
                maps = rng.random((len(heads), LENGTH, LENGTH))
                maps = maps if looks_ahead else np.tril(maps)
                maps /= maps.sum(-1, keepdims=True)
                arrays[f"blocks.{block}.attn.pattern"] = maps.astype(np.float32)
                labels[f"blocks.{block}.head"] = tuple(map(str, heads))
            for block in weighted:
                arrays[f"blocks.{block}.mlp.w_up"] = rng.normal(size=(8, 6)).astype(np.float32)
            capture = Capture(step=step, arrays=arrays, axes={}, labels=labels)
            captures.append(synthetic.write_capture(tmp_path, capture))
        return Series(captures)

    return make


def builder_of(series, *panels):
    layout = Layout(name="mine", panels=panels)
    return PlanBuilder(layout, one_run(series), 1920, 1080, THEMES["dark"])


def beside(labels, box, height):
    """Return what is written left of a box at this height."""
    return [
        label.text
        for label in labels
        if label.align == "right" and label.x <= box.x and abs(label.y - height) <= 2
    ]


def above(labels, box):
    """Return what is written above the middle of a box."""
    middle = box.x + box.width / 2
    return [
        label.text
        for label in labels
        if label.align == "center" and abs(label.x - middle) <= 1 and box.y - 40 < label.y < box.y
    ]


@pytest.mark.parametrize("looks_ahead", [False, True], ids=["in corners", "along the sides"])
def test_maps_of_a_grid_have_the_numbers_of_their_blocks_and_heads(series_of, looks_ahead):
    plan = make_plan(
        Layout(name="mine", panels=(Attention(),)),
        series_of((3, 7), looks_ahead=looks_ahead),
    )
    heads = [(block, head) for block in (3, 7) for head in (4, 5, 9)]
    assert [heatmap.head for heatmap in plan.heatmaps] == heads
    for heatmap in plan.heatmaps:
        block, head = heatmap.head
        assert heatmap.source.name == f"blocks.{block}.attn.pattern"
        assert heatmap.source.head == (4, 5, 9).index(head)
        if not looks_ahead:
            assert heatmap.corner == f"L{block}H{head}"
            continue
        middle = heatmap.box.y + heatmap.box.height / 2
        assert beside(plan.labels, heatmap.box, middle) == [f"block {block}"]
        if block == 3:
            assert f"head {head}" in above(plan.labels, heatmap.box)


def test_a_summary_of_weights_numbers_its_rows_by_their_blocks(series_of):
    panel = Weights()
    builder = builder_of(series_of((), (4, 5, 30)), panel)
    card = weight_card(builder, resolve_weights(builder, panel))
    place_cards(builder, [card], Box(100, 100, 600, 400))
    (heatmap,) = builder.heatmaps
    cell_y = heatmap.box.height // 3
    for row, block in enumerate((4, 5, 30)):
        middle = heatmap.box.y + (row + 0.5) * cell_y
        assert str(block) in beside(builder.labels, heatmap.box, middle)


def test_the_rows_of_a_mosaic_have_the_numbers_of_their_blocks_and_room_for_them(series_of):
    panel = Attention()
    builder = builder_of(series_of((8, 9, 110)), panel)
    (heads,) = resolve_attention(builder, panel)
    area = Box(40, 100, 300, 300)
    place_mosaic(builder, heads, area, most_groups=1)
    (heatmap,) = builder.heatmaps
    pitch = heatmap.box.height * (LENGTH + 1) / heatmap.source.shape[0]
    for row, block in enumerate((8, 9, 110)):
        assert str(block) in beside(
            builder.labels, heatmap.box, heatmap.box.y + (row + 0.5) * pitch
        )
    for label in builder.labels:
        if label.align == "right":
            assert label.x - builder.text_width(label.text, 20.0) >= area.x, label.text


@pytest.mark.parametrize("weighted", [(0, 1, 2, 3), (1, 2)])
def test_weights_stand_in_the_rows_of_a_mosaic_only_where_these_are_the_same_blocks(
    series_of, weighted
):
    attending = (0, 2)
    series = series_of(attending, weighted, heads=range(400))
    layout = Layout(name="mine", panels=(Attention(), Weights()))
    plan = make_plan(layout, series, size="1080p")
    (summary,) = (each for each in plan.heatmaps if each.name.startswith("weights"))
    cell_y = summary.box.height / len(weighted)
    for row, block in enumerate(weighted):
        middle = summary.box.y + (row + 0.5) * cell_y
        assert str(block) in beside(plan.labels, summary.box, middle)


def test_steps_stand_below_the_place_on_the_curve_that_they_name(series_of):
    builder = builder_of(series_of((0,)), Attention())
    line = Timeline(Box(200, 50, 1001, 80), Box(200, 50, 1001, 80), 0.0, 1000.0)
    label_axis(builder, line)
    assert builder.labels
    for label in builder.labels:
        step = int(label.text.replace(",", ""))
        assert label.x == pytest.approx(200 + step, abs=1)
    tick_captures(builder, line)
    assert [swatch.box.x for swatch in builder.swatches] == [200, 450, 1200]


def test_tokens_stand_beside_the_row_and_below_the_column_that_they_are(small_run):
    series = Series(small_run)
    plan = make_plan(LAYOUTS["head"], series, size="1080p")
    tokens = series.last.probe["rows"][0]["tokens"]
    box = plan.heatmaps[0].box
    cell_px = box.height // len(tokens)
    rows = [each for each in plan.labels if each.baseline == "center" and each.x < box.x]
    rows = [each for each in rows if each.align == "right" and box.y < each.y < box.bottom]
    assert len(rows) > 4
    for label in rows:
        row = round((label.y - box.y) / cell_px - 0.5)
        assert label.y == box.y + (row + 0.5) * cell_px
        assert label.text == tokens[row]
    columns = [each for each in plan.labels if each.rotation == 90 and each.x < box.right]
    assert len(columns) == len(rows)
    for label in columns:
        assert label.text == tokens[int((label.x - box.x) // cell_px)]
