"""The layout ``circuit``: which lines are drawn, from what, and how strong they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tracker_viz import capture_file
from tracker_viz.errors import LayoutError
from tracker_viz.metrics import Ablations
from tracker_viz.rendering import Renderer, Series, make_plan, resolve_layout
from tracker_viz.rendering.storyboard import Shot
from tracker_viz.rendering.theme import rgb

LAYOUT = resolve_layout("circuit")


@pytest.fixture(scope="module")
def series(small_run):
    return Series(small_run)


def without(synthetic, captures, directory, left_out):
    """Write the captures again without the arrays whose names begin with one of ``left_out``."""
    directory.mkdir()
    written = []
    for path in captures:
        capture = capture_file.read(path.path)
        arrays = {
            name: array for name, array in capture.arrays.items() if not name.startswith(left_out)
        }
        axes = {name: capture.axes[name] for name in arrays if name in capture.axes}
        written.append(
            synthetic.write_capture(
                directory, dataclasses.replace(capture, arrays=arrays, axes=axes)
            )
        )
    return Series(written)


def test_every_head_has_lines_to_the_earlier_heads_that_it_reads_most(series):
    graph = make_plan(LAYOUT, series).graph
    last = series.read(len(series) - 1, ["scores.composition.k"])["scores.composition.k"]
    read_by = {}
    for read, reader in graph.edges:
        read_by.setdefault(graph.nodes[reader].head, set()).add(graph.nodes[read].head)
    assert sorted(read_by) == [(1, 0), (1, 1), (1, 2)]
    for (block, head), read in read_by.items():
        strongest = np.argsort(-last[block, head, 0].astype(float))[:2]
        assert read == {(0, int(number)) for number in strongest}


def test_chance_is_no_line_and_the_most_of_the_run_the_widest(series):
    graph = make_plan(LAYOUT, series).graph
    chance = 1 / np.sqrt(series.last.model["d_model"])
    assert np.nanmax(graph.values) == pytest.approx(1.0)
    np.testing.assert_array_equal(graph.values > 0, graph.written > chance)


def test_the_numbers_of_a_line_are_those_of_its_two_heads_at_each_capture(series):
    graph = make_plan(LAYOUT, series).graph
    for index in range(len(series)):
        stored = series.read(index, ["scores.composition.k"])["scores.composition.k"]
        for number, (read, reader) in enumerate(graph.edges):
            place = (*graph.nodes[reader].head, *graph.nodes[read].head)
            assert graph.written[index, number] == stored[place]


def test_captures_without_composition_are_drawn_from_their_matrices(synthetic, small_run, tmp_path):
    series = without(synthetic, small_run, tmp_path / "run", ("scores.composition",))
    graph = make_plan(LAYOUT, series).graph
    assert np.isfinite(graph.values).all()


def test_captures_without_matrices_are_refused_with_the_fix(synthetic, small_run, tmp_path):
    gone = ("scores.composition", "blocks.0.attn.w", "blocks.1.attn.w")
    series = without(synthetic, small_run, tmp_path / "run", gone)
    with pytest.raises(LayoutError, match="signals="):
        make_plan(LAYOUT, series)


def test_heads_that_ablation_needs_have_a_ring_and_its_figure_and_a_pair_its_line(small_run):
    series = Series(small_run)
    plain = make_plan(LAYOUT, series, size="1080p").graph
    pair = tuple(plain.nodes[end].head for end in plain.edges[0])
    series.ablations = Ablations(400, {((1, 2),): 0.734, pair: 0.5})
    renderer = Renderer(series, LAYOUT, size="1080p")
    graph = renderer.plan.graph
    needed = {node.head: node.note for node in graph.nodes if node.is_needed}
    assert needed == {(1, 2): "+0.73"}
    assert graph.needed == {0}
    said = [
        text.text
        for text in renderer.plan.labels
        if text.text.startswith("ring, +: without the head (abl")
    ]
    assert len(said) == 1
    assert "step 400" in said[0]
    frame = renderer.draw(Shot(5, 0.0, 0.1)).pixels
    dark = rgb(renderer.plan.theme.text)
    for node in graph.nodes:
        above = frame[round(node.y - node.radius) - 12 : round(node.y - node.radius), node.x]
        assert (above == dark).all(-1).any() == node.is_needed


def test_a_frame_does_not_depend_on_the_frame_before_it(series):
    renderer = Renderer(series, LAYOUT, size="720p")
    shots = [Shot(5, 0.0, 0.1), Shot(0, 0.0, 0.1), Shot(2, 0.5, 0.1), Shot(5, 0.0, 0.1)]
    film = renderer.film(shots)
    drawn = [film(number).pixels.copy() for number in range(len(shots))]
    for shot, pixels in zip(shots, drawn, strict=True):
        np.testing.assert_array_equal(pixels, renderer.draw(shot).pixels)
    box = renderer.plan.graph.box.area
    assert (drawn[0][box] != drawn[1][box]).any()


def test_a_run_of_one_block_says_that_nothing_is_read(synthetic, tmp_path):
    sizes = {"blocks": 1, "heads": 2, "length": 12, "width": 12, "hidden": 16, "period": 4}
    series = Series(synthetic.write_run(tmp_path, 2, **sizes))
    with pytest.raises(LayoutError, match="one block"):
        make_plan(LAYOUT, series)
