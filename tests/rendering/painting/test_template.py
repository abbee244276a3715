"""What stands around the maps is drawn where the plan says, held by Pillow's own text and by
counting pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tracker_viz.rendering.painting.template import make_template, seaborn_pixels
from tracker_viz.rendering.plan import Bar, Box, Curve, Heatmap, Label, Plan, Swatch, Timeline
from tracker_viz.rendering.scales import ColorScale, bar_ticks
from tracker_viz.rendering.sources import ScoreMap
from tracker_viz.rendering.text import text_coverage, text_width
from tracker_viz.rendering.theme import THEMES, rgb

DARK = THEMES["dark"]
FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
KINDS = [(bold, mono) for bold in (False, True) for mono in (False, True)]


def font(size_px, bold=False, mono=False):
    return ImageFont.truetype(FONTS / f"DejaVuSans{'Mono' * mono}{'-Bold' * bold}.ttf", size_px)


def pillows(text, x, y, size_px, anchor, *, bold=False, mono=False):
    """Coverage 0..1 of a 480x240 picture; ``anchor`` as Pillow says it: left, middle or right, and
    s for the baseline."""
    picture = Image.new("L", (480, 240))
    ImageDraw.Draw(picture).text((x, y), text, 255, font(size_px, bold, mono), anchor=anchor)
    return np.asarray(picture) / 255


def coverage(pixels, color):
    ground, ink = np.array(rgb(DARK.ground)), np.array(rgb(color))
    return ((pixels.astype(float) - ground) / (ink - ground)).mean(2)


def plan(**parts):
    return Plan(480, 240, DARK, "test", parts.pop("heatmaps", ()), parts.pop("scales", {}), **parts)


def assert_looks_like(shown, expected):
    """The same ink in the same place, as far as two ways of drawing letters agree: bold ones have a
    third more, and are a tenth wider."""
    assert shown.sum() == pytest.approx(expected.sum(), rel=0.22)
    for axis in (0, 1):
        ends = [np.flatnonzero((each > 0.3).any(1 - axis))[[0, -1]] for each in (shown, expected)]
        assert np.abs(ends[0] - ends[1]).max() <= 2 + 0.03 * np.ptp(ends[1])
        places = [
            np.average(np.arange(each.shape[axis]), weights=each.sum(1 - axis))
            for each in (shown, expected)
        ]
        assert places[0] == pytest.approx(places[1], abs=1 + 0.02 * np.ptp(ends[1]))


@pytest.mark.parametrize(("bold", "mono"), KINDS)
@pytest.mark.parametrize(("align", "anchor"), [("left", "ls"), ("center", "ms"), ("right", "rs")])
def test_a_label_stands_where_it_is_anchored_in_its_size_weight_and_color(
    bold, mono, align, anchor
):
    color = "#ff8800"
    drawn = seaborn_pixels(
        plan(
            labels=(Label("block 3 $x$", 240, 150, 28, color, bold=bold, mono=mono, align=align),)
        ),
        {},
    )
    assert (drawn == rgb(color)).all(2).any()
    assert_looks_like(
        coverage(drawn, color), pillows("block 3 $x$", 240, 150, 28, anchor, bold=bold, mono=mono)
    )


@pytest.mark.parametrize("baseline", ["center", "top", "bottom"])
def test_a_label_hangs_on_stands_on_or_straddles_its_height(baseline):
    rows = np.flatnonzero(
        (
            coverage(
                seaborn_pixels(
                    plan(labels=(Label("Hx", 90, 120, 40, DARK.text, baseline=baseline),)), {}
                ),
                DARK.text,
            )
            > 0.3
        ).any(1)
    )
    # a line reaches from the top of "l" (0.76 of the size above the baseline) to the end of "p"
    # (0.24 below); "H" is 0.73 high
    expected = {"center": (101, 130), "top": (121, 150), "bottom": (81, 110)}[baseline]
    assert np.abs(rows[[0, -1]] - expected).max() <= 2


def test_a_label_that_is_turned_runs_upwards_from_its_anchor():
    drawn = coverage(
        seaborn_pixels(plan(labels=(Label("query", 200, 180, 24, DARK.text, rotation=90),)), {}),
        DARK.text,
    )
    level = pillows("query", 240 - 180, 200, 24, "ls")[:, :240]
    assert_looks_like(drawn[:, :240], np.rot90(level))


@pytest.mark.parametrize(("bold", "mono"), KINDS)
def test_text_has_the_width_and_the_ink_that_pillow_gives_it(bold, mono):
    text = "step $1,024$"
    assert text_width(text, 33, bold=bold, mono=mono) == pytest.approx(
        font(33, bold, mono).getlength(text), rel=0.03
    )
    assert text_width(text, 33) == text_width(text, 33, bold=False, mono=False)
    covers, baseline = text_coverage(text, 33, bold=bold, mono=mono)
    assert covers.shape[1] == text_width(text, 33, bold=bold, mono=mono)
    shown = np.zeros((240, 480))
    shown[100 - baseline : 100 - baseline + covers.shape[0], 50 : 50 + covers.shape[1]] = covers
    assert_looks_like(shown, pillows(text, 50, 100, 33, "ls", bold=bold, mono=mono))


def test_a_swatch_fills_its_box_and_no_pixel_beside_it():
    drawn = seaborn_pixels(plan(swatches=(Swatch(Box(37, 51, 12, 9), "#12ab34"),)), {})
    expected = np.zeros((240, 480), bool)
    expected[51:60, 37:49] = True
    assert np.array_equal((drawn == rgb("#12ab34")).all(2), expected)


@pytest.mark.parametrize("titled", [True, False])
def test_a_bar_shows_its_colors_its_ticks_and_its_title(titled):
    scale = ColorScale("probability", "viridis", 0.0, 1.0, norm="power")
    bar = Bar(Box(60, 100, 360, 14), "scale", 18, titled)
    drawn = seaborn_pixels(plan(bars=(bar,), scales={"scale": scale}), {})
    colors = np.floor(matplotlib.colormaps["viridis"](np.linspace(0, 1, 360))[:, :3] * 255 + 0.5)
    assert np.abs(drawn[100:114, 60:420].astype(int) - colors).max() <= 4, (
        "linear in the colors; the ticks say which value each is"
    )
    ticks = bar_ticks(scale, 360 / 18)
    assert len(ticks) >= 4
    marks = np.flatnonzero(coverage(drawn, DARK.dim)[115:117].mean(0) > 0.2)
    at = np.array([60 + position * 360 for position, _ in ticks])
    assert all(np.abs(marks + 0.5 - place).min() <= 1 for place in at)
    assert all(np.abs(at - mark - 0.5).min() <= 1 for mark in marks), "and no other"
    said = np.zeros((240, 480))
    for position, text in ticks:
        anchor = "ls" if position < 0.02 else "rs" if position > 0.98 else "ms"
        said += pillows(text, 60 + position * 360, 114 + 1.12 * 18, 18, anchor)
    assert_looks_like(coverage(drawn, DARK.dim)[120:], said[120:])
    above = coverage(drawn, DARK.dim)[:100]
    if titled:
        assert_looks_like(above, pillows(scale.label, 60, 100 - 0.4 * 18, 18, "ls")[:100])
    else:
        assert above.max() == 0


@pytest.mark.parametrize("size_px", [9.0, 10.6, 12.4, 16.0])
def test_the_title_of_a_bar_is_no_wider_than_the_bar(size_px):
    scale = ColorScale(
        "attention change since the previous capture", "viridis", 1e-3, 1.0, norm="log"
    )
    for width in range(
        round(text_width(scale.label, size_px) * 0.86), text_width(scale.label, size_px), 6
    ):
        drawn = seaborn_pixels(
            plan(bars=(Bar(Box(10, 100, width, 9), "scale", size_px),), scales={"scale": scale}), {}
        )
        ink = np.flatnonzero((coverage(drawn, DARK.dim)[:99] > 0.3).any(0))
        assert 0.8 * width < ink[-1] - 10 <= width + 1, width


def test_the_curve_is_bright_where_it_has_been_played():
    curve = np.stack([np.linspace(100, 380, 141), 120 + 30 * np.sin(np.linspace(0, 6, 141))], 1)
    box = Box(100, 80, 281, 80)
    timeline = Timeline(box, box, 0, 100, (Curve(curve, DARK.accent, DARK.dim),))
    template = make_template(replace(plan(timeline=timeline), width=1920, height=1080))
    middles = [(round(y - 0.5), round(x - 0.5)) for x, y in curve[5:-5]]
    panel, accent = np.array(rgb(DARK.panel)), np.array(rgb(DARK.accent))
    dim = panel + 0.6 * (np.array(rgb(DARK.dim)) - panel)
    for pixels, color in ((template.background, dim), (template.played, accent)):
        on_curve = np.array([pixels[place] for place in middles], float)
        assert np.abs(on_curve - color).mean() < 45
        nearer = np.abs(on_curve - color).sum(1) < np.abs(on_curve - panel).sum(1)
        assert nearer.mean() > 0.9
        assert (pixels[82:86, 102:378] == panel).all(), "above the curve there is the panel"
        assert (pixels[60:78] == rgb(DARK.ground)).all()
    below = template.played[155:159, 110:370].astype(float)
    assert below == pytest.approx(
        np.broadcast_to(panel + 0.14 * (accent - panel), below.shape), abs=1.5
    ), "and what lies below is tinted"
    assert (template.background[155:159, 110:370] == panel).all()


def test_lines_between_cells_are_as_wide_as_the_plan_says():
    heatmap = Heatmap(
        "box",
        ScoreMap("x", (3, 4)),
        Box(100, 40, 160, 120),
        "scale",
        line_px=6.0,
        line_color="#ff0000",
    )
    drawn = seaborn_pixels(
        plan(heatmaps=(heatmap,), scales={"scale": ColorScale("", "mako", 0, 1)}),
        {"box": np.ones((3, 4), np.float16)},
    )
    red = (
        (drawn.astype(float) - drawn[60, 120])
        / (np.array([255, 0, 0]) - drawn[60, 120].astype(float))
    )[60, :, 0]
    for edge in (140, 180, 220):
        assert red[edge - 10 : edge + 10].sum() == pytest.approx(6, abs=0.5)
        assert np.average(
            np.arange(edge - 10, edge + 10) + 0.5, weights=red[edge - 10 : edge + 10]
        ) == pytest.approx(edge, abs=0.5)


@pytest.mark.parametrize("mask", [None, np.triu(np.ones((4, 4), bool), 1)])
def test_cells_that_are_whole_pixels_are_known_as_such(mask):
    """What is not known as such is painted pixel by pixel, many times as slowly."""
    heatmap = Heatmap("box", ScoreMap("x", (4, 4)), Box(100, 40, 48, 32), "scale", mask)
    cell_map = make_template(
        plan(heatmaps=(heatmap,), scales={"scale": ColorScale("", "mako", 0, 1)})
    ).cell_maps["box"]
    assert cell_map.replication == (8, 12)
    assert not cell_map.blended
    assert np.array_equal(
        cell_map.cells[::8, ::12] >= 0, np.ones((4, 4), bool) if mask is None else ~mask
    )
