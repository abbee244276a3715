"""Where the experts of a mixture stand in the picture, and what is said where they cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tracker_viz.errors import ConfigError, LayoutError
from tracker_viz.rendering import LAYOUTS, Layout, Renderer, Series, make_plan


@pytest.fixture
def series_of(synthetic, tmp_path):
    """``series_of(keep, **options)``: a run that holds nothing but routers and scores of experts,
    or what ``keep`` names of these."""

    def make(keep=("router", "expert"), **options):
        small = {"heads": 1, "length": 24, "width": 8, "hidden": 8, "period": 7}
        directory = tmp_path / "_".join([*keep, *map(str, options.values())])
        directory.mkdir()
        paths = []
        for capture in synthetic.captures(2, **small, **options):
            held = {
                name: array
                for name, array in capture.arrays.items()
                if any(part in name for part in keep)
            }
            axes = {name: axes for name, axes in capture.axes.items() if name in held}
            made = replace(capture, arrays=held, axes=axes)
            paths.append(synthetic.write_capture(directory, made))
        return Series(paths)

    return make


def maps(plan):
    return [heatmap for heatmap in plan.heatmaps if heatmap.name.startswith("experts")]


def test_every_block_of_a_small_mixture_has_a_map_for_each_row_beside_three_scores(series_of):
    plan = make_plan(LAYOUTS["experts"], series_of(blocks=3))
    names = [f"experts · block {block} · {row}" for block in range(3) for row in (0, 1)]
    assert [heatmap.name for heatmap in maps(plan)] == names
    scores = [heatmap for heatmap in plan.heatmaps if heatmap not in maps(plan)]
    assert [heatmap.source.name for heatmap in scores] == [
        "scores.expert.load",
        "scores.expert.text_share",
        "scores.expert.vocabulary",
    ]
    written = {label.text for label in plan.labels}
    assert {"block ↓ expert →", "expert ↓ token →", "block 0 · repeated tokens"} <= written


def test_a_cell_is_the_probability_of_an_expert_on_a_token(series_of):
    series = series_of(blocks=1)
    (first, _) = maps(make_plan(LAYOUTS["experts"], series))
    renderer = Renderer(series, "experts")
    stored = series.read(1, [("blocks.0.mlp.router", 0)])["blocks.0.mlp.router", 0]
    box = first.box
    scale = renderer.plan.scales[first.scale]
    colors = scale.table()[stored.T.view(np.uint16)]
    rows, columns = colors.shape[:2]
    shown = renderer.frame(1).pixels[box.area]
    middle = shown[
        box.height // rows // 2 :: box.height // rows,
        box.width // columns // 2 :: box.width // columns,
    ]
    assert (middle == colors).all()


def test_of_many_experts_neighbors_share_a_row_that_shows_the_largest_of_them(series_of):
    series = series_of(blocks=9, experts=256)
    plan = make_plan(LAYOUTS["experts"], series)
    shown = maps(plan)
    assert {heatmap.source.shape for heatmap in shown} == {(64, 24)}
    assert [heatmap.name for heatmap in shown][::2] == [
        "experts · block 0 · 0",
        "experts · block 8 · 0",
    ]
    written = {label.text for label in plan.labels}
    assert {"Experts of 2 of 9 blocks", "expert ↓ token → · max of 4"} <= written
    box, cell_y = shown[0].box, shown[0].box.height // 64
    numbers = [
        each for each in plan.labels if each.align == "right" and box.x - 20 < each.x < box.x
    ]
    numbers = [each for each in numbers if box.y < each.y < box.bottom]
    assert len(numbers) > 4
    for label in numbers:
        assert int(label.text) == 4 * round((label.y - box.y) / cell_y - 0.5)
    stored = series.read(1, [("blocks.0.mlp.router", 1)])
    pooled = shown[1].source.values(type("Moment", (), {"arrays": stored})())
    expected = stored["blocks.0.mlp.router", 1].T.reshape(64, 4, 24).max(1)
    assert (pooled == expected).all()


def test_one_row_of_the_probe_and_fewer_blocks_can_be_asked_for(series_of):
    layout = Layout(name="mine", panels=[{"panel": "experts", "probe": "text", "blocks": 2}])
    plan = make_plan(layout, series_of(blocks=5))
    assert [heatmap.name for heatmap in plan.heatmaps] == [
        "experts · block 0 · 1",
        "experts · block 4 · 1",
    ]


def test_a_run_without_routers_and_blocks_that_do_not_fit_are_errors_that_help(series_of):
    plain = series_of(keep=("expert",), blocks=1)
    with pytest.raises(LayoutError, match=r"hold none: .* tracker-viz inspect lists"):
        make_plan(LAYOUTS["experts"], plain)
    layout = Layout(name="mine", panels=[{"panel": "experts", "blocks": 40}])
    with pytest.raises(LayoutError, match="40 maps of 64 rows of experts do not fit"):
        make_plan(layout, series_of(blocks=40, experts=64))
    with pytest.raises(ConfigError, match="a panel 'experts' can only be combined with scores"):
        Layout(name="mine", panels=[{"panel": "experts"}, {"panel": "attention"}])
