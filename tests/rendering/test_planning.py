"""Where things stand: inside the picture, apart from each other, in whole even pixels, whatever the model's shape."""

from __future__ import annotations

import functools
import itertools

import pytest

from tracker_viz.rendering import LAYOUTS, THEMES, Series, make_plan, picture_size
from tracker_viz.rendering.draft import Draft
from tracker_viz.rendering.furniture import timeline
from tracker_viz.rendering.grid import fit_map
from tracker_viz.rendering.plan import Box, Onset
from tracker_viz.rendering.scales import bar_ticks
from tracker_viz.rendering.template import text_width

SHAPES = {
    "1x1": (1, 1, 16),
    "2x2": (2, 2, 64),
    "4x4": (4, 4, 64),
    "8x2": (8, 2, 32),
    "12x12": (12, 12, 64),
    "80x4": (80, 4, 32),
    "32x32": (32, 32, 32),
}


@pytest.fixture(scope="session")
def series_of(synthetic, tmp_path_factory):
    @functools.cache
    def series(shape):
        blocks, heads, length = SHAPES[shape]
        options = {"blocks": blocks, "heads": heads, "length": length, "width": 32, "hidden": 48, "period": 7, "last_step": 12_000}
        run = synthetic.write_run(tmp_path_factory.mktemp("shape"), 3, **options)
        return Series(run, title="llama-mini · repeated tokens · run 7f3a")

    return series


def text_boxes(plan):
    """(text, Box) of everything that is written, roughly: its advance wide, from ascender to descender high."""
    for label in plan.labels:
        wide = text_width(label.text, label.size_px, bold=label.bold, mono=label.mono)
        if label.rotation:
            yield label.text, Box(round(label.x - label.size_px), round(label.y), round(label.size_px), wide)
            continue
        x = label.x - {"left": 0, "center": wide / 2, "right": wide}[label.align]
        top = label.y - label.size_px * (0.5 if label.baseline == "center" else 0.76)
        yield label.text, Box(round(x), round(top), wide, round(label.size_px * 0.95))
    for bar in plan.bars:
        for position, text in bar_ticks(plan.scales[bar.scale], bar.box.width / (bar.font_px * 0.9)):
            wide = text_width(text, bar.font_px * 0.9)
            x = bar.box.x + position * bar.box.width - (0 if position < 0.02 else wide if position > 0.98 else wide / 2)
            yield f"tick {text}", Box(round(x), round(bar.box.bottom + bar.font_px * 0.5), wide, round(bar.font_px * 0.8))
    for readout in plan.readouts:
        digit = text_width("0", readout.size_px, bold=True, mono=True)
        yield (
            readout.quantity,
            Box(readout.x, round(readout.baseline - readout.size_px * 0.75), digit * readout.width_chars, round(readout.size_px * 0.76)),
        )


@pytest.mark.parametrize(
    ("shape", "name", "size"),
    [
        *(("4x4", name, "1080p") for name in LAYOUTS),
        *(("12x12", name, "1080p") for name in LAYOUTS if name != "overview"),
        *((shape, "overview", size) for shape in SHAPES for size in ("square", "720p")),
        ("1x1", "overview", "1080p"),
        ("80x4", "ffn", "1080p"),
        ("8x2", "heads", "4k"),
        *(("32x32", name, "1080p") for name in LAYOUTS if name != "overview"),
        ("32x32", "overview", "1080p"),
    ],
)
def test_nothing_is_clipped_and_nothing_overlaps(series_of, shape, name, size):
    plan = make_plan(LAYOUTS[name], series_of(shape), size=size)
    texts = list(text_boxes(plan))
    for text, box in texts:
        assert box.x >= 0, f"{text!r} is clipped at the left"
        assert box.y >= 0, f"{text!r} is clipped above"
        assert box.right <= plan.width, f"{text!r} is clipped at the right"
        assert box.bottom <= plan.height, f"{text!r} is clipped below"
    for (one, box), (other, over) in itertools.combinations(texts, 2):
        assert not box.overlaps(over), f"{one!r} overlaps {other!r}"
    boxes = [(heatmap.name, heatmap.box) for heatmap in plan.heatmaps] + [(bar.scale, bar.box) for bar in plan.bars]
    if plan.timeline:
        boxes.append(("timeline", plan.timeline.box))
    for (one, box), (other, over) in itertools.combinations(boxes, 2):
        assert not box.overlaps(over), f"{one} overlaps {other}"
    for (text, box), (map_name, over) in itertools.product(texts, boxes):
        assert not box.overlaps(over), f"{text!r} lies over {map_name}"
    for _, box in boxes:
        assert box.x >= 0
        assert box.right <= plan.width
        assert box.bottom <= plan.height


@pytest.mark.parametrize(("shape", "name"), [("4x4", "overview"), ("8x2", "heads"), ("12x12", "ffn"), ("80x4", "overview")])
def test_boxes_begin_at_even_pixels_and_hold_whole_cells(series_of, shape, name):
    for heatmap in make_plan(LAYOUTS[name], series_of(shape)).heatmaps:
        rows, columns = heatmap.source.shape
        assert heatmap.box.height % rows == 0, heatmap.name
        assert heatmap.box.width % columns == 0, heatmap.name
        if not heatmap.name.startswith(("score", "weights ·")):
            assert heatmap.box.y % 2 == 0, heatmap.name
            assert heatmap.box.x % 2 == 0, heatmap.name


def test_every_colour_has_a_bar(series_of):
    for name in LAYOUTS:
        plan = make_plan(LAYOUTS[name], series_of("4x4"))
        assert {heatmap.scale for heatmap in plan.heatmaps} <= {bar.scale for bar in plan.bars}, name


def test_a_thousand_heads_become_one_mosaic_with_zooms_of_different_roles(many_heads_run):
    series = Series(many_heads_run)
    plan = make_plan(LAYOUTS["overview"], series)
    mosaics = [heatmap for heatmap in plan.heatmaps if "blocks" in heatmap.name]
    zooms = [heatmap for heatmap in plan.heatmaps if heatmap.name.startswith("zoom")]
    assert len(mosaics) == 1
    assert len(zooms) == 8
    held = plan.roles.held[-1]
    assert len({held.get(zoom.head) for zoom in zooms}) >= 4, "zooms of the same role tell nothing new"


@pytest.mark.parametrize(
    ("length", "room", "expected"), [(64, 192, (1, 3)), (64, 128, (1, 2)), (64, 150, (1, 2)), (64, 400, (1, 6)), (128, 260, (1, 2))]
)
def test_maps_take_whole_cells_and_even_ones_where_that_costs_little(length, room, expected):
    assert fit_map(length, room) == expected


def test_maps_that_do_not_fit_are_pooled():
    pool, cell_px = fit_map(1024, 100)
    assert -(-1024 // pool) * cell_px <= 100
    assert cell_px >= 2


def test_sizes_have_names_and_pixels():
    assert picture_size("4K") == (3840, 2160)
    assert picture_size("1600x900") == picture_size((1600, 900)) == (1600, 900)


@pytest.mark.parametrize("size", ["square", "640x360"])
def test_onsets_that_crowd_stay_in_the_picture(series_of, size):
    series = series_of("4x4")
    onsets = tuple(Onset(role, 1, series.steps[1], 3, 11) for role in THEMES["dark"].roles)
    draft = Draft(LAYOUTS["scores"], series, *picture_size(size), THEMES["dark"])
    timeline(draft, Box(30, draft.height - 130, draft.width // 2, 126), onsets)
    texts = [box for text, box in text_boxes(draft.plan()) if text.split(" ·")[0].replace(" ", "_") in THEMES["dark"].roles]
    assert texts
    assert all(box.x >= 0 and box.right <= draft.width for box in texts)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(texts, 2))
    lines = [swatch.box.x for swatch in draft.swatches if swatch.color in THEMES["dark"].roles.values()]
    assert len(set(lines)) == len(onsets), "each onset has a line of its own, also at one step"
