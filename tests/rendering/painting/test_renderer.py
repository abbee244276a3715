"""Frames: the same input gives the same bits; what changes is what should; errors say what is wrong
and what to do."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tracker_viz.errors import ConfigError, LayoutError, RenderError
from tracker_viz.rendering import (
    LAYOUTS,
    THEMES,
    Attention,
    LargeHead,
    Layout,
    Renderer,
    Series,
    Weights,
    storyboard,
)
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.text import text_coverage
from tracker_viz.rendering.theme import rgb


@pytest.fixture(scope="module")
def series(small_run):
    return Series(small_run, title="a small run")


@pytest.fixture(scope="module")
def renderer(series):
    return Renderer(series, "overview", size="720p")


def digest(frames):
    return hashlib.sha256(b"".join(frame.pixels.tobytes() for frame in frames)).hexdigest()


def box_of(pixels, heatmap):
    box = heatmap.box
    return pixels[box.y : box.bottom, box.x : box.right]


def test_the_same_captures_give_the_same_frames_bit_for_bit_on_one_or_many_threads(
    series, renderer
):
    alone = digest(renderer.frame(index) for index in range(len(series)))
    with ThreadPoolExecutor(8) as pool:
        together = digest(pool.map(renderer.frame, range(len(series))))
    again = Renderer(
        Series([*reversed(_paths(series))], title="a small run"), "overview", size="720p"
    )
    assert alone == together == digest(again.frame(index) for index in range(len(series)))


def test_the_same_captures_give_the_same_frames_in_another_process_whatever_the_users_style(
    small_run, renderer, tmp_path
):
    (tmp_path / "matplotlibrc").write_text(
        "font.size: 31\nfigure.facecolor: red\ntext.antialiased: false\naxes.grid: true\n"
    )
    program = f"""
import sys, hashlib
from pathlib import Path
from tracker_viz.rendering import Renderer, Series
from tracker_viz.types import CapturePath, CaptureRef, capture_step
paths = sorted(Path({str(small_run[0].path.parent)!r}).glob("step-*"))
captures = [CapturePath(CaptureRef(capture_step(p.name), p.name, 1, "0" * 64), p) for p in paths]
frame = Renderer(Series(captures, title="a small run"), "overview", size="720p").frame(3)
loaded = [name for name in ("torch", "cv2", "wandb", "mlflow") if name in sys.modules]
print(hashlib.sha256(frame.pixels.tobytes()).hexdigest(), loaded)
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={
            "MPLCONFIGDIR": str(tmp_path),
            "PATH": "",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        },
        cwd=tmp_path,
    )
    assert run.stdout.split() == [digest([renderer.frame(3)]), "[]"], (
        "other pixels, or torch, OpenCV or a tracker was imported"
    )


def test_a_frame_is_rgb_and_knows_its_step(series, renderer):
    frame = renderer.frame(2)
    assert frame.step == series.steps[2]
    assert frame.pixels.shape == (720, 1280, 3)
    assert frame.pixels.dtype == np.uint8
    assert tuple(frame.pixels[1, 1]) == rgb(THEMES["dark"].ground)


def test_an_index_that_is_not_there_is_an_error(renderer):
    for index, part, says in (
        (6, 0.0, r"6 \+ 0.0"),
        (-1, 0.0, "-1"),
        (5, 0.5, r"5 \+ 0.5"),
        (2, 1.0, r"2 \+ 1.0"),
        (2, -0.1, r"2 \+ -0.1"),
    ):
        with pytest.raises(RenderError, match=rf"captures 0\.\.5; got {says}"):
            renderer.between(index, part)


@pytest.mark.parametrize("size", ["720p", "square"])
def test_the_numbers_of_the_header_are_those_of_the_capture(series, size):
    """Read as a person would: of all numbers that could stand there, which one, drawn in one piece,
    looks most like what does?"""
    renderer = Renderer(series, "overview", size=size)
    texts = {
        "step": [f"{step:,}" for step in series.steps],
        "loss": [f"{metrics['loss']:.3f}" for metrics in series.metrics],
        "tokens": [si_number(tokens) for tokens in series.tokens_seen],
    }
    ground, ink = (
        np.array(rgb(color), float) for color in (THEMES["dark"].ground, THEMES["dark"].text)
    )
    assert [readout.quantity for readout in renderer.plan.readouts] == ["step", "loss", "tokens"]
    for readout in renderer.plan.readouts:
        drawn = {
            text: text_coverage(text, readout.size_px, bold=True, mono=True)
            for text in texts[readout.quantity]
        }
        assert len(drawn) == len(series)
        width = max(coverage.shape[1] for coverage, _ in drawn.values())
        for index, text in enumerate(texts[readout.quantity]):
            pixels = renderer.frame(index).pixels
            unlike = {}
            for other, (coverage, baseline) in drawn.items():
                rows = slice(
                    readout.baseline - baseline + 8, readout.baseline - baseline + len(coverage) - 4
                )
                shown = (
                    (pixels[rows, readout.x : readout.x + width] - ground) / (ink - ground)
                ).mean(2)
                expected = np.pad(coverage[8:-4], ((0, 0), (0, width - coverage.shape[1])))
                unlike[other] = np.abs(shown - expected).sum() / coverage.sum()
            assert min(unlike, key=unlike.get) == text, (readout.quantity, index)
            assert unlike[text] < 0.3, (readout.quantity, index)


def test_interpolated_maps_lie_between_and_scores_do_not_move(renderer):
    here, between, there = renderer.values(2), renderer.values(2, part=0.25), renderer.values(3)
    for heatmap in renderer.plan.heatmaps:
        one, blended, other = (
            values[heatmap.name].astype(np.float64) for values in (here, between, there)
        )
        assert not np.array_equal(one, other), "the made-up run changes everywhere"
        if heatmap.name.startswith("score"):
            assert np.array_equal(blended, one), heatmap.name
        else:
            assert np.allclose(blended, 0.75 * one + 0.25 * other, atol=1e-3), heatmap.name


@pytest.mark.parametrize(("layout", "since"), [("changes", 3), ("ffn", 0)])
def test_changes_are_since_the_capture_that_the_title_names(series, layout, since):
    renderer = Renderer(series, layout, size="1080p")
    names = [name for name in series.arrays if name.startswith("blocks.")]
    now, then = (
        {name: array.astype(np.float64) for name, array in series.read(at, names).items()}
        for at in (4, since)
    )
    drawn = renderer.values(4)
    shown = {
        heatmap.name: drawn[heatmap.name].astype(np.float64)
        * renderer.plan.scales[heatmap.scale].unit
        for heatmap in renderer.plan.heatmaps
    }
    for heatmap in renderer.plan.heatmaps:
        name = heatmap.source.name
        change, values = now[name] - then[name], shown[heatmap.name]
        if heatmap.head:
            expected = np.abs(change[heatmap.source.probe, heatmap.head[1]])
            assert np.allclose(values, expected, rtol=2e-3, atol=1e-4), heatmap.name
        elif values.shape == change.shape and heatmap.source.reduce == "rms":
            assert np.allclose(
                np.sort(values, axis=None), np.sort(np.abs(change), axis=None), rtol=2e-3, atol=1e-5
            ), heatmap.name
        elif heatmap.source.reduce == "rms":
            assert np.sqrt(np.mean(values**2)) == pytest.approx(
                np.sqrt(np.mean(change**2)), rel=0.1
            ), heatmap.name
    assert any(
        str(series.steps[since]) in label.text or "previous" in label.text
        for label in renderer.plan.labels
    )


def test_an_interpolated_frame_says_so_and_no_other_does(renderer):
    accent = np.array(rgb(THEMES["dark"].accent))
    mark = renderer.plan.mark
    reach = (
        slice(round(mark.y - mark.size_px), round(mark.y) + 4),
        slice(round(mark.x) - 150, round(mark.x)),
    )
    marked = [
        (np.abs(renderer.between(2, part).pixels[reach].astype(int) - accent).sum(2) < 30).sum()
        for part in (0.0, 0.5)
    ]
    assert marked[0] == 0
    assert marked[1] > 40


def test_a_head_is_framed_in_the_color_of_its_role(renderer):
    last = len(renderer) - 1
    held = renderer.plan.roles.held[last]
    assert held, "the made-up run ends with roles"
    shown, before = renderer.frame(last).pixels, renderer.frame(0).pixels
    for heatmap in renderer.plan.heatmaps:
        if heatmap.head in held:
            color = rgb(THEMES["dark"].roles[held[heatmap.head]])
            reach = renderer.plan.roles.line_px + 1
            around = (
                slice(heatmap.box.y - reach, heatmap.box.bottom + reach),
                slice(heatmap.box.x - reach, heatmap.box.right + reach),
            )
            frame = np.ones(shown[around].shape[:2], bool)
            frame[reach - 1 : 1 - reach, reach - 1 : 1 - reach] = False
            assert (shown[around] == color).all(2)[frame].all(), "on all four sides"
            has_color = (shown[around] == color).all(2)
            corner = slice(reach, 2 * reach), slice(-2 * reach, -reach)
            assert has_color[corner].mean() > 0.9, "in the corner where attention is masked"
            half = ~frame & np.tri(*frame.shape, dtype=bool)
            assert not has_color[half].any(), "a pixel away from the map, and not on its cells"
            assert not (before[around] == color).all(2).any()


def test_the_playhead_stands_at_the_captures_step(series, renderer):
    box, white = renderer.plan.timeline.box, rgb(THEMES["dark"].text)
    events = (renderer.background[box.y + box.height // 2, box.x : box.right] == white).all(1)
    for index in (0, 3, 5):
        row = renderer.frame(index).pixels[box.y + box.height // 2, box.x : box.right]
        columns = np.flatnonzero((row == white).all(1) & ~events)
        expected = (box.width - 1) * series.steps[index] / series.steps[-1]
        assert abs(columns.mean() - expected) <= 2


def test_a_step_that_is_missing_is_marked_where_it_was(small_run, series, renderer):
    step = (series.steps[3] + series.steps[4]) // 2
    marked = Renderer(
        Series(small_run, title="a small run", missing_steps=[step, series.steps[2]]),
        "overview",
        size="720p",
    )
    timeline = marked.plan.timeline
    below = (
        slice(timeline.box.bottom + 2, timeline.box.bottom + 5),
        slice(timeline.box.x, timeline.box.right),
    )
    columns = [
        np.flatnonzero((each.frame(5).pixels[below] == rgb(THEMES["dark"].nonfinite)).all(2).any(0))
        + timeline.box.x
        for each in (renderer, marked)
    ]
    assert len(columns[0]) == 0
    assert abs(columns[1].mean() - timeline.x(step)) <= 1, (
        "the step that is there after all needs no mark"
    )
    assert "missing" in {label.text for label in marked.plan.labels}


@pytest.mark.parametrize("size", ["720p", "1080p", "square"])
def test_numbers_of_the_header_cover_no_label(series, size):
    renderer = Renderer(series, "overview", size=size)
    top = min(heatmap.box.y for heatmap in renderer.plan.heatmaps) - 6
    ground = rgb(THEMES["dark"].ground)
    written = (renderer.background[:top] != ground).any(2)
    for index in (0, 5):
        assert np.array_equal(
            renderer.frame(index).pixels[:top][written], renderer.background[:top][written]
        )


def test_only_the_arrays_of_the_layout_are_read(series, monkeypatch):
    renderer = Renderer(series, "scores", size="720p")
    read = []
    original = Series.read
    monkeypatch.setattr(
        Series,
        "read",
        lambda self, index, names: read.extend(names) or original(self, index, names),
    )
    renderer.frame(1)
    assert read
    assert all(name.startswith("scores.") for name in read)


def test_of_several_probe_rows_only_those_that_are_shown_are_read(series, monkeypatch):
    assert series.arrays["blocks.0.attn.pattern"].shape[0] == 2
    read = set()
    original = Series.read
    monkeypatch.setattr(
        Series, "read", lambda self, index, keys: read.update(keys) or original(self, index, keys)
    )
    Renderer(series, "overview", size="720p").frame(1)
    assert {key[1] for key in read if key[0] == "blocks.0.attn.pattern"} == {0}


def test_frames_on_one_canvas_are_the_frames_drawn_afresh(series):
    renderer = Renderer(series, "overview", size="720p")
    shots = storyboard(series.steps, interpolate=2, title_s=1.0)
    frame_at = renderer.film(shots)
    order = np.random.default_rng(0).permutation(2 * [*range(len(shots))])
    for index in order:
        assert np.array_equal(frame_at(int(index)).pixels, renderer.draw(shots[index]).pixels), (
            shots[index]
        )


def test_a_film_that_seaborn_draws_in_full_is_the_same(series):
    renderer = Renderer(series, "heads", size="720p")
    shots = storyboard(series.steps)[3:6]
    frame_at = renderer.film(shots)
    painted = [frame_at(index).pixels.copy() for index in range(3)]
    renderer.redraws_fully = True
    for index in (2, 0, 1):
        assert np.array_equal(frame_at(index).pixels, painted[index])


def test_each_thread_films_on_its_own_canvas(series):
    renderer = Renderer(series, "overview", size="720p")
    shots = storyboard(series.steps)
    expected = [renderer.draw(shot).pixels for shot in shots]
    frame_at, together = renderer.film(shots), threading.Barrier(4)

    def film(thread):
        held = frame_at(thread)
        together.wait()
        return (
            all(
                np.array_equal(frame_at(index).pixels, expected[index])
                for index in range(len(shots))
            )
            and held is not None
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(film, range(4)))


def test_the_upper_triangle_is_panel_and_not_data(renderer):
    heatmap = next(heatmap for heatmap in renderer.plan.heatmaps if heatmap.head)
    shown = box_of(renderer.frame(0).pixels, heatmap)
    assert tuple(shown[2, -3]) == rgb(THEMES["dark"].panel)
    assert tuple(shown[-3, 2]) != rgb(THEMES["dark"].panel)


def test_attention_to_the_future_is_not_hidden(synthetic, tmp_path):
    captures = list(
        synthetic.captures(2, blocks=1, heads=2, length=16, width=16, hidden=24, period=5)
    )
    captures[1].arrays["blocks.0.attn.pattern"][:, 0, 2, 12] = 0.9
    renderer = Renderer(
        Series([synthetic.write_capture(tmp_path, capture) for capture in captures]),
        "heads",
        size="720p",
    )
    assert all(heatmap.mask is None for heatmap in renderer.plan.heatmaps)


def test_nan_and_infinity_are_visible(synthetic, tmp_path):
    captures = list(
        synthetic.captures(3, blocks=1, heads=2, length=16, width=16, hidden=24, period=5)
    )
    captures[2].arrays["blocks.0.attn.pattern"][0, 1, 9, 3] = np.nan
    captures[2].arrays["blocks.0.mlp.w_up"][0, 0] = np.inf
    renderer = Renderer(
        Series([synthetic.write_capture(tmp_path, capture) for capture in captures]),
        "overview",
        size="720p",
    )
    magenta = rgb(THEMES["dark"].nonfinite)
    seen = {
        heatmap.name
        for heatmap in renderer.plan.heatmaps
        if (box_of(renderer.frame(2).pixels, heatmap) == magenta).all(2).any()
    }
    assert any("head 1" in name for name in seen)
    assert any("w_up" in name for name in seen)
    assert not any(
        (box_of(renderer.frame(1).pixels, heatmap) == magenta).all(2).any()
        for heatmap in renderer.plan.heatmaps
    )


def test_color_scales_stay_fixed_and_follow_the_options(series):
    options = {
        "attention": {"cmap": "viridis", "norm": "log", "minimum": 1e-3},
        "weights": {"maximum": 0.5},
    }
    plan = Renderer(series, "overview", size="720p", scales=options).plan
    assert (plan.scales["attention"].cmap, plan.scales["attention"].norm) == ("viridis", "log")
    weights = next(scale for key, scale in plan.scales.items() if key.startswith("weights"))
    assert weights.maximum == 0.5
    assert not weights.clipped[1]
    assert plan.scales["attention"].clipped == (True, False), (
        "zeros lie below the log scale's end, and its color bar says so"
    )


def test_a_color_bar_says_how_its_values_are_spread(series):
    def label(**options):
        return (
            Renderer(series, "heads", size="720p", scales={"attention": options})
            .plan.scales["attention"]
            .label
        )

    assert label() == "attention probability · √ scale"
    assert label(norm="log", minimum=1e-3) == "attention probability · log scale"
    assert label(norm="linear") == "attention probability"
    assert label(gamma=0.25, title="mine") == "mine · power 0.25 scale"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scales": {"attention": {"cmap": "virdis"}}}, "did you mean 'viridis'"),
        ({"scales": {"attention": {"cmpa": "mako"}}}, "did you mean 'cmap'"),
        ({"scales": {"atention": {}}}, "did you mean 'attention'"),
        ({"scales": {"attention": {"norm": "logg"}}}, "did you mean 'log'"),
        ({"scales": {"attention": {"norm": "log"}}}, "above 0"),
        ({"theme": "drak"}, "did you mean 'dark'"),
        ({"size": "1081p"}, "did you mean '1080p'"),
        ({"size": "1921x1080"}, "even"),
        ({"size": (64, 64)}, "640"),
    ],
)
def test_options_without_a_meaning_are_errors_that_help(series, options, says):
    with pytest.raises(ConfigError, match=says):
        Renderer(series, "overview", **options)


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("overveiw", "did you mean 'overview'"),
        ({"name": "mine"}, "layout.panels has no value yet"),
        (Layout(name="mine", panels=(Attention(probe="texts"),)), "repeated, text"),
        (
            Layout(name="mine", panels=(LargeHead(block=9, head=1),)),
            "no block 9 head 1; they hold block 0: heads 0, 1, 2",
        ),
        (Layout(name="mine", panels=(LargeHead(head=7),)), "no head 7;"),
        (Layout(name="mine", panels=(Weights(matrices=("moe.*",)),)), "mlp.w_down"),
    ],
)
def test_layouts_that_ask_for_what_is_not_there_are_errors_that_help(series, layout, says):
    with pytest.raises((LayoutError, ConfigError), match=says):
        Renderer(series, layout)


def test_the_large_head_is_an_induction_head_unless_another_is_named(series):
    def shown(**chosen):
        plan = Renderer(
            series, Layout(name="mine", panels=(LargeHead(**chosen),)), size="720p"
        ).plan
        heads = {heatmap.head for heatmap in plan.heatmaps}
        assert len(plan.heatmaps) == 2, "one map for each row of the probe"
        assert len(heads) == 1
        return heads.pop()

    held = Renderer(series, "overview", size="720p").plan.roles.held[-1]
    assert held[shown()] == "induction"
    assert shown(block=0)[0] == 0
    assert shown(block=1, head=2) == (1, 2)


@pytest.mark.parametrize("name", LAYOUTS)
def test_captures_without_what_a_layout_needs_are_an_error(synthetic, tmp_path, name):
    capture = next(synthetic.captures(1, blocks=1, heads=1, length=8, width=8, hidden=8, period=3))
    empty = dataclasses.replace(
        capture, arrays={"something.else": np.zeros(3, np.float16)}, axes={}
    )
    with pytest.raises(LayoutError, match=name):
        Renderer(Series([synthetic.write_capture(tmp_path, empty)]), name)


def test_one_capture_alone_can_be_drawn_in_every_layout(synthetic, tmp_path):
    captures = synthetic.write_run(
        tmp_path, 1, blocks=2, heads=2, length=12, width=12, hidden=16, period=4
    )
    for name in LAYOUTS:
        renderer = Renderer(Series(captures), name, size="720p")
        assert renderer.draw(storyboard(renderer.series.steps)[-1]).pixels.std() > 1


def test_a_model_that_grew_is_an_error_that_names_the_step(synthetic, tmp_path):
    small = synthetic.write_run(
        tmp_path / "a",
        2,
        blocks=1,
        heads=2,
        length=12,
        width=12,
        hidden=16,
        period=4,
        last_step=100,
    )
    large = synthetic.write_run(
        tmp_path / "b",
        3,
        blocks=1,
        heads=4,
        length=12,
        width=12,
        hidden=16,
        period=4,
        last_step=900,
    )
    with pytest.raises(LayoutError, match=r"at step 0 and \(2, 4, 12, 12\) at step 318"):
        Renderer(Series([*small, *large[1:]]), "heads")


def _paths(series):
    from tracker_viz.types import CapturePath, CaptureRef

    return [
        CapturePath(CaptureRef(step, path.name, 1, "0" * 64), path)
        for step, path in zip(series.steps, series.paths, strict=True)
    ]
