"""Attention comes first: how much of an overview it takes, and what gives way to it."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tracker_viz.rendering import LAYOUTS, THEMES, Series, make_plan
from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.content import resolve_attention
from tracker_viz.rendering.planning.grid import fit_grid
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.sources import HeadMap, WeightMap
from tracker_viz.rendering.subject import one_run


@pytest.fixture(scope="module")
def series_of(synthetic, tmp_path_factory):
    """(blocks, heads) -> the Series of a run of 64 tokens."""

    @functools.cache
    def series(blocks, heads):
        options = {"length": 64, "width": 16, "hidden": 24, "probes": 1}
        folder = tmp_path_factory.mktemp("shape")
        return Series(synthetic.write_run(folder, 2, blocks=blocks, heads=heads, **options))

    return series


def share(plan, kind):
    boxes = [heatmap.box for heatmap in plan.heatmaps if isinstance(heatmap.source, kind)]
    return sum(box.width * box.height for box in boxes) / (plan.width * plan.height)


@pytest.mark.parametrize(
    ("shape", "size", "least"),
    [
        ((2, 4), "1080p", 0.45),
        ((4, 4), "1080p", 0.45),
        ((4, 4), "square", 0.5),
        ((4, 8), "1080p", 0.5),
        ((12, 12), "1080p", 0.42),
        ((48, 1), "1080p", 0.37),
        ((48, 1), "square", 0.35),
    ],
)
def test_attention_takes_about_half_of_an_overview_and_weights_little(
    series_of, shape, size, least
):
    plan = make_plan(LAYOUTS["overview"], series_of(*shape), size=size)
    assert share(plan, HeadMap) >= least
    assert 0 < share(plan, WeightMap) < 0.08


def test_a_blocks_only_head_has_the_name_of_its_block_in_the_corner(series_of):
    plan = make_plan(LAYOUTS["overview"], series_of(48, 1), size="square")
    maps = [each for each in plan.heatmaps if isinstance(each.source, HeadMap)]
    assert [each.corner for each in maps] == [f"L{block}" for block in range(48)]


def test_the_weights_of_an_overview_are_those_that_changed_most(series_of):
    series = series_of(4, 4)
    plan = make_plan(LAYOUTS["overview"], series)
    shown = {each.source.name for each in plan.heatmaps if isinstance(each.source, WeightMap)}
    names = series.names("blocks.*.mlp.w_*")
    first, last = series.read_ends(names)
    change = {
        name: np.square(last[name].astype(float) - first[name].astype(float)).mean()
        for name in names
    }
    assert 0 < len(shown) < len(names)
    assert shown == set(sorted(names, key=lambda name: -change[name])[: len(shown)])


@pytest.mark.parametrize("shape", [(4, 4), (12, 12), (8, 2)])
def test_more_room_never_gives_a_map_of_a_grid_fewer_cells(series_of, shape):
    layout = LAYOUTS["overview"]
    builder = PlanBuilder(layout, one_run(series_of(*shape)), 1920, 1080, THEMES["light"])
    heads = resolve_attention(builder, layout.panels[0])

    def cells(wide, high):
        return -(-64 // fit_grid(builder, heads, (), Box(0, 0, wide, high)).pool)

    wider = [cells(wide, 800) for wide in range(300, 1850, 62)]
    higher = [cells(1500, high) for high in range(200, 1000, 33)]
    assert wider == sorted(wider)
    assert higher == sorted(higher)
    assert len({*wider, *higher}) > 1
