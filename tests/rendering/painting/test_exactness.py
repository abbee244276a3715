"""The painted picture equals the one that seaborn draws: 0 differing pixels in every box, whatever
the scale, mask or size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from tracker_viz.rendering import LAYOUTS, ColorScale, Renderer, Series
from tracker_viz.rendering.painting.cells import Canvas, color_tables, paint
from tracker_viz.rendering.painting.renderer import paint_corners
from tracker_viz.rendering.painting.template import make_template, seaborn_pixels
from tracker_viz.rendering.painting.words_in_cells import CellWords
from tracker_viz.rendering.plan import Box, Heatmap, Plan
from tracker_viz.rendering.sources import future
from tracker_viz.rendering.theme import THEMES, rgb

DARK = THEMES["dark"]


@dataclass(frozen=True)
class Fixed:
    """A source of this shape; the test hands the values over itself."""

    shape: tuple[int, int]
    needs: tuple[str, ...] = ()
    compares: None = None
    blends: bool = True


def one_box(shape, box, scale, *, mask=None, line_px=0.0):
    heatmap = Heatmap(
        "box", Fixed(shape), box, "scale", mask, line_px=line_px, line_color="#336699"
    )
    return Plan(320, 240, DARK, "test", (heatmap,), {"scale": scale})


def painted(plan, values):
    template = make_template(plan)
    pixels = template.background.copy()
    for heatmap in plan.heatmaps:
        cell_map = template.cell_maps[heatmap.name]
        assert not cell_map.blended
        paint(pixels, heatmap, cell_map, color_tables(plan)[heatmap.scale], values[heatmap.name])
    return pixels


def differing(plan, values):
    return int((painted(plan, values) != seaborn_pixels(plan, values)).any(2).sum())


def values_of(shape, scale, seed=0):
    """Beyond both ends, at the ends, at zero, and all between."""
    rng = np.random.default_rng(seed)
    span = scale.maximum - scale.minimum
    values = rng.uniform(scale.minimum - 0.2 * span, scale.maximum + 0.2 * span, shape)
    values.flat[:4] = [scale.minimum, scale.maximum, 0.0, -0.0]
    return scale.drawn(values.astype(np.float32))


SCALES = {
    "linear": ColorScale("x", "mako", 0.0, 1.0),
    "power": ColorScale("x", "mako", 0.0, 1.0, "power", gamma=0.5),
    "log": ColorScale("x", "magma", 1e-3, 1.0, "log"),
    "symlog": ColorScale("x", "icefire", -2.0, 2.0, "symlog", linear_within=0.01),
    "centred": ColorScale("x", "vlag", -0.5, 2.0, "centred"),
    "tiny": ColorScale("x", "viridis", -3e-7, 3e-7),
    "huge": ColorScale("x", "viridis", -4e9, 9e9),
}
BOXES = {
    "whole cells": ((12, 16), Box(20, 10, 16 * 8, 12 * 8)),
    "cells of unequal sides": ((12, 16), Box(21, 11, 16 * 5, 12 * 7)),
    "cells that are not whole pixels": ((12, 16), Box(20, 10, 131, 97)),
    "more cells than pixels": ((150, 170), Box(20, 10, 100, 90)),
    "one cell": ((1, 1), Box(20, 10, 30, 30)),
}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize(("shape", "box"), BOXES.values(), ids=BOXES)
def test_painting_equals_seaborn_over_scales_and_sizes(scale, shape, box):
    plan = one_box(shape, box, scale)
    assert differing(plan, {"box": values_of(shape, scale)}) == 0


@pytest.mark.parametrize("box", [Box(20, 10, 96, 96), Box(20, 10, 101, 77)])
def test_painting_equals_seaborn_with_a_mask_and_with_values_that_are_not_finite(box):
    scale = SCALES["power"]
    values = values_of((24, 24), scale)
    values[20, 3], values[21, 4], values[3, 20] = np.nan, np.inf, np.nan
    plan = one_box((24, 24), box, scale, mask=future(24))
    values = {"box": scale.drawn(values.astype(np.float32))}
    assert differing(plan, values) == 0
    shown = painted(plan, values)
    assert (shown == rgb(scale.nonfinite)).all(2).any(), "NaN must be visible"
    assert (
        not (shown == rgb(scale.nonfinite))
        .all(2)[box.y : box.y + box.height // 6, box.x + box.width * 5 // 6 :]
        .any()
    ), "the mask hides the future"


@pytest.mark.parametrize("line_px", [0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("box", [Box(20, 10, 160, 120), Box(20, 10, 151, 113)])
def test_painting_equals_seaborn_with_lines_between_the_cells(line_px, box):
    scale = SCALES["linear"]
    plan = one_box((12, 16), box, scale, line_px=line_px)
    assert differing(plan, {"box": values_of((12, 16), scale)}) == 0


def test_every_float16_value_has_the_color_that_matplotlib_draws():
    everything = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    for scale in (SCALES["power"], SCALES["symlog"]):
        plan = replace(one_box((256, 256), Box(20, 10, 256, 228), scale), height=300)
        assert (
            differing(
                plan, {"box": np.where(np.isfinite(everything), everything, np.float16(np.nan))}
            )
            == 0
        )


def test_boxes_that_overlap_are_noticed_because_they_cannot_be_painted():
    plan = one_box((12, 16), Box(20, 10, 128, 96), SCALES["linear"])
    over = replace(plan.heatmaps[0], name="over", box=Box(100, 60, 128, 96))
    maps = make_template(replace(plan, heatmaps=(*plan.heatmaps, over))).cell_maps
    assert maps["box"].blended


def test_a_picture_that_cannot_be_painted_is_redrawn_by_seaborn(small_run, monkeypatch):
    series = Series(small_run)
    plan = Renderer(series, "overview", size="720p").plan
    over = replace(plan.heatmaps[0], name="over", box=Box(plan.heatmaps[0].box.x + 9, 130, 48, 48))
    crowded = replace(plan, heatmaps=(*plan.heatmaps, over))
    monkeypatch.setattr(
        "tracker_viz.rendering.painting.renderer.make_plan", lambda *arguments, **options: crowded
    )
    renderer = Renderer(series, "overview", size="720p")
    assert renderer.redraws_fully
    box = (slice(over.box.y, over.box.bottom), slice(over.box.x, over.box.right))
    expected = seaborn_pixels(crowded, renderer.values(5))
    paint_corners(expected, crowded, renderer.role_colors([5]))
    assert np.array_equal(renderer.frame(5).pixels[box], expected[box])


@pytest.mark.parametrize(
    ("name", "size"),
    [*((name, "1080p") for name in LAYOUTS), ("overview", "720p"), ("changes", "square")],
)
def test_every_layout_paints_what_seaborn_draws(small_run, name, size):
    series = Series(small_run, title="exact")
    renderer = Renderer(series, name, size=size, theme="light" if size == "720p" else "dark")
    assert not renderer.redraws_fully
    values = renderer.values(4)
    expected = seaborn_pixels(renderer.plan, values)
    paint_corners(expected, renderer.plan, renderer.role_colors([4]))
    canvas = Canvas(expected)
    for words in renderer.plan.words:
        CellWords(renderer.plan, words).paint(canvas, 4)
    expected = canvas.pixels
    shown = renderer.frame(4).pixels
    for heatmap in renderer.plan.heatmaps:
        box = (slice(heatmap.box.y, heatmap.box.bottom), slice(heatmap.box.x, heatmap.box.right))
        assert np.array_equal(shown[box], expected[box]), heatmap.name


@pytest.mark.parametrize("pooled", [False, True])
def test_the_keys_that_an_indexer_chose_are_exact_too(synthetic, tmp_path, pooled):
    length = 300 if pooled else 24
    made = synthetic.captures(2, blocks=2, heads=1, length=length, width=8, hidden=8, period=7)
    run = [synthetic.write_capture(tmp_path, synthetic.with_indexer(each)) for each in made]
    panel = LAYOUTS["head"].panels[0].model_copy(update={"beside": "indexer"})
    layout = LAYOUTS["head"].model_copy(update={"panels": (panel,)})
    renderer = Renderer(Series(run), layout, size="square")
    expected = seaborn_pixels(renderer.plan, renderer.values(1))
    (heatmap,) = [each for each in renderer.plan.heatmaps if each.scale == "indexer"]
    assert (heatmap.source.pool > 1) == pooled
    box = (slice(heatmap.box.y, heatmap.box.bottom), slice(heatmap.box.x, heatmap.box.right))
    assert np.array_equal(renderer.frame(1).pixels[box], expected[box])


def test_a_mosaic_of_a_thousand_heads_is_exact_too(many_heads_run):
    renderer = Renderer(Series(many_heads_run), "overview")
    expected = seaborn_pixels(renderer.plan, renderer.values(2))
    paint_corners(expected, renderer.plan, renderer.role_colors([2]))
    shown = renderer.frame(2).pixels
    for heatmap in renderer.plan.heatmaps:
        box = (slice(heatmap.box.y, heatmap.box.bottom), slice(heatmap.box.x, heatmap.box.right))
        assert np.array_equal(shown[box], expected[box]), heatmap.name
