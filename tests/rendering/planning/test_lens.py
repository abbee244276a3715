"""The layout ``lens``: the words of the logit lens in cells."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tracker_viz import capture_file
from tracker_viz.errors import LayoutError
from tracker_viz.rendering import Renderer, Series, make_plan, resolve_layout
from tracker_viz.rendering.planning.circuits.lens import shown_token
from tracker_viz.rendering.storyboard import Shot

LAYOUT = resolve_layout("lens")


@pytest.fixture(scope="module")
def series(small_run):
    return Series(small_run)


def test_cells_hold_the_words_of_each_capture_and_mark_the_right_ones(series):
    words = make_plan(LAYOUT, series).words
    for index in (0, len(series) - 1):
        capture = series.capture(index, ["lens.top", "lens.right_rank"])
        wanted = [shown_token(text) for text in capture.labels["lens.top"]]
        found = [[], []]
        marked = [[], []]
        for band in words:
            for row in range(2):
                found[row] += band.texts[index][row]
                marked[row] += band.marked[index][row].tolist()
        assert [*found[0], *found[1]] == wanted
        np.testing.assert_array_equal(marked, capture.arrays["lens.right_rank"] == 0)


def test_more_tokens_than_can_be_read_in_a_row_stand_in_two(series):
    sizes = {"720p": [9], "720x1280": [5, 4]}
    for size, columns in sizes.items():
        words = make_plan(LAYOUT, series, size=size).words
        assert [len(band.texts[0][0]) for band in words] == columns


def test_the_last_tokens_are_shown_where_fewer_are_asked_for(series):
    layout = {"name": "lens", "panels": [{"panel": "lens", "tokens": 3}]}
    words = make_plan(resolve_layout(layout), series).words
    last = series.capture(0, ["lens.top"]).labels["lens.top"][-3:]
    shown = [text for band in words for text in band.texts[0][-1]]
    assert shown == [shown_token(text) for text in last]


def test_captures_without_a_lens_are_refused_with_the_reason(synthetic, small_run, tmp_path):
    capture = capture_file.read(small_run[0].path)
    arrays = {name: array for name, array in capture.arrays.items() if "lens" not in name}
    axes = {name: capture.axes[name] for name in arrays if name in capture.axes}
    model = {**capture.model, "missing_signals": ["the logit lens: the probe has no row of text"]}
    bare = dataclasses.replace(capture, arrays=arrays, axes=axes, model=model)
    series = Series([synthetic.write_capture(tmp_path, bare)])
    with pytest.raises(LayoutError, match=r"the probe has no row of text.*signals=\["):
        make_plan(LAYOUT, series)


def test_a_frame_does_not_depend_on_the_frame_before_it(series):
    renderer = Renderer(series, LAYOUT, size="720p")
    shots = [Shot(5, 0.0, 0.1), Shot(0, 0.0, 0.1), Shot(2, 0.5, 0.1), Shot(5, 0.0, 0.1)]
    film = renderer.film(shots)
    drawn = [film(number).pixels.copy() for number in range(len(shots))]
    for shot, pixels in zip(shots, drawn, strict=True):
        np.testing.assert_array_equal(pixels, renderer.draw(shot).pixels)
    assert (drawn[0] != drawn[1]).any()


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("Ġself", "self"),
        ("▁the", "the"),
        (" =", "="),
        (" ", "␣"),
        ("        ", "⇥"),
        ("\n", "↵"),
        ("Ċ", "↵"),
        ("extraordinarily", "extraordina…"),
        ("\x00", "·"),
        ("", ""),
    ],
)
def test_tokens_are_written_as_words(token, shown):
    assert shown_token(token) == shown
