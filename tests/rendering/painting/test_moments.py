"""What a frame says about its own moment: the caption, the heads that blink, the playhead, the
words in cells, and the strength of lines."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tracker_viz import capture_file
from tracker_viz.rendering import Renderer, Series, Shot, resolve_layout
from tracker_viz.rendering.painting.caption import paint_caption
from tracker_viz.rendering.painting.cells import Canvas
from tracker_viz.rendering.painting.graph import GraphPainter
from tracker_viz.rendering.painting.words_in_cells import CellWords
from tracker_viz.rendering.plan import Box, WordMap
from tracker_viz.rendering.theme import rgb


@pytest.fixture(scope="module")
def series(small_run):
    return Series(small_run, title="a small run")


@pytest.fixture(scope="module")
def renderer(series):
    return Renderer(series, "overview", size="720p")


def blank(plan):
    return Canvas(np.zeros((plan.height, plan.width, 3), np.uint8))


def has(pixels, color):
    return bool((pixels == rgb(color)).all(-1).any())


def caption_of(renderer, index, **shot):
    canvas = blank(renderer.plan)
    paint_caption(canvas, renderer.plan, renderer.plan.caption, Shot(index, 0.0, 0.1, **shot))
    return canvas.pixels


def test_a_caption_has_the_color_of_the_event_that_happens_and_is_dim_after_it(renderer):
    theme, story = renderer.plan.theme, renderer.plan.story
    current = [story.current(index) for index in range(len(renderer))]
    assert [None if n is None else story.events[n].role for n in current[2:]] == [
        "previous_token",
        "current_token",
        None,
        None,
    ]
    previous, other = theme.roles["previous_token"], theme.roles["current_token"]
    happening, then, after = (caption_of(renderer, index) for index in (2, 3, 4))
    assert has(happening, previous)
    assert not has(happening, other)
    assert has(then, other)
    assert not has(then, previous)
    assert has(after, theme.dim)
    assert not has(after, other)


def test_a_caption_tells_the_event_that_a_frame_rests_at_and_at_the_end_the_run(renderer):
    theme, story = renderer.plan.theme, renderer.plan.story
    induction = next(n for n, event in enumerate(story.events) if event.role == "induction")
    rests = caption_of(renderer, 2, event=induction)
    assert has(rests, theme.roles["induction"])
    assert not has(rests, theme.roles["previous_token"])
    end = caption_of(renderer, 5, kind="end")
    assert has(end, theme.text)
    assert not has(end, theme.dim)


def test_only_the_heads_of_the_event_that_happens_blink(renderer):
    plan = renderer.plan
    number = next(n for n, event in enumerate(plan.story.events) if event.role == "current_token")
    bright = renderer.draw(Shot(3, 0.0, 0.1, event=number, blink=True)).pixels
    between = renderer.draw(Shot(3, 0.0, 0.1, event=number, blink=False)).pixels
    blinking = plan.story.events[number].heads
    for heatmap in plan.heatmaps:
        if heatmap.head is None:
            continue
        box, line_px = heatmap.box, plan.roles.blink_px
        above = slice(box.y - line_px - 1, box.y - 1), slice(box.x, box.right)
        is_bright = (bright[above] == rgb(plan.theme.text)).all()
        assert is_bright == (heatmap.head in blinking), heatmap.name
        assert not (between[above] == rgb(plan.theme.text)).all(), heatmap.name


def test_the_playhead_stands_between_the_steps_of_an_interpolated_frame(renderer, series):
    box, text = renderer.plan.timeline.box, rgb(renderer.plan.theme.text)
    row = box.y + box.height // 2
    still = (renderer.background[row, box.x : box.right] == text).all(1)
    for part in (0.25, 0.75):
        shown = renderer.between(3, part).pixels[row, box.x : box.right]
        columns = np.flatnonzero((shown == text).all(1) & ~still)
        step = series.steps[3] + part * (series.steps[4] - series.steps[3])
        expected = (box.width - 1) * step / series.steps[-1]
        assert abs(columns.mean() - expected) <= 2, part


def test_words_are_dark_on_bright_cells_and_bright_on_dark_ones_and_the_marked_have_borders(
    series,
):
    plan = Renderer(series, "lens", size="720p").plan
    scale = next(iter(plan.words)).scale
    values = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], np.float16)
    marked = np.array([[[True, False]], [[False, True]]])
    texts = ((("one", "two"),), (("three", ""),))
    words = WordMap(Box(0, 0, 240, 40), scale, texts, values, marked, 24.0)
    ground = plan.scales[scale].table()[plan.scales[scale].drawn(values).view(np.uint16)]
    for capture in (0, 1):
        canvas = blank(plan)
        for column in (0, 1):
            canvas.pixels[:40, 120 * column : 120 * (column + 1)] = ground[capture, 0, column]
        CellWords(plan, words).paint(canvas, capture)
        for column in (0, 1):
            cell = canvas.pixels[:40, 120 * column : 120 * (column + 1)]
            inside = cell[8:-8, 8:-8].astype(int)
            color = ground[capture, 0, column].astype(int)
            if texts[capture][0][column]:
                is_on_bright = values[capture, 0, column] == 1.0
                change = inside.sum(-1) - color.sum()
                assert (change.min() < -300) == is_on_bright
                assert (change.max() > 300) == (not is_on_bright)
            else:
                assert (inside == color).all()
            has_border = (cell[10, 2] != color).any() and (cell[2, 60] != color).any()
            assert has_border == marked[capture, 0, column]


@pytest.fixture(scope="module")
def circuit(series):
    return Renderer(series, resolve_layout("circuit"), size="720p").plan


def one_line(circuit, shares, held=()):
    """Return a painter of the circuit's first line alone, and where it is in the middle."""
    edge = circuit.graph.edges[0]
    values = np.array(shares, np.float32)[:, None]
    graph = dataclasses.replace(
        circuit.graph, edges=(edge,), values=values, written=values, rows=0, needed=frozenset()
    )
    roles = dataclasses.replace(circuit.roles, held=[*held] or [{} for _ in shares])
    plan = dataclasses.replace(circuit, graph=graph, run_roles=(roles,))
    start, end = (graph.nodes[number] for number in edge)
    return GraphPainter(plan), plan, (start, end)


def painted(painter, plan, capture, part=0.0):
    canvas = blank(plan)
    painter.paint(canvas, capture, part)
    return canvas.pixels


def test_a_line_is_as_wide_as_what_is_read_at_its_moment(circuit):
    painter, plan, (start, end) = one_line(circuit, [0.0, 1.0, np.nan])
    column = (start.x + end.x) // 2

    def width(capture, part=0.0):
        return int(painted(painter, plan, capture, part)[:, column].any(-1).sum())

    assert width(0) == 0, "no more than chance"
    assert width(2) == 0, "not known"
    assert width(1) > width(0, 0.5) > width(0, 0.1) > 0


def test_a_line_has_the_color_of_the_head_that_reads(circuit):
    read, reader = (circuit.graph.nodes[end].head for end in circuit.graph.edges[0])
    held = [{read: "sink", reader: "induction"}]
    painter, plan, (start, end) = one_line(circuit, [1.0], held)
    column = painted(painter, plan, 0)[:, (start.x + end.x) // 2].astype(int)
    color = column[column.sum(1).argmax()]
    wanted, other = (np.array(rgb(plan.theme.roles[role])) for role in ("induction", "sink"))
    assert np.abs(color - wanted).sum() < 60 < np.abs(color - other).sum()


def test_beside_the_graph_are_the_numbers_of_the_strongest_lines_and_not_their_shares(circuit):
    """Two graphs whose lines are as strong and whose numbers differ, and the other way round."""
    graph = circuit.graph

    def listed(values, written):
        other = dataclasses.replace(graph, values=values, written=written)
        plan = dataclasses.replace(circuit, graph=other)
        canvas = blank(plan)
        GraphPainter(plan).paint(canvas, 5, 0.0)
        return canvas.pixels[graph.listed.area]

    usual = listed(graph.values, graph.written)
    assert usual.any()
    assert np.array_equal(usual, listed(graph.values * np.float32(0.9), graph.written))
    assert not np.array_equal(usual, listed(graph.values, graph.written + np.float32(1.0)))


def with_update(capture):
    """The change of weights since the previous capture, which the first has none of."""
    size = np.nan if capture.step == 0 else 0.1
    updates = np.full((capture.model["n_blocks"], 7), size, np.float32)
    arrays = capture.arrays | {"scores.weight.update": updates}
    return dataclasses.replace(capture, arrays=arrays)


@pytest.fixture(scope="module")
def updated(small_run, synthetic, tmp_path_factory):
    directory = tmp_path_factory.mktemp("updated")
    read = (capture_file.read(each.path) for each in small_run)
    return Series([synthetic.write_capture(directory, with_update(each)) for each in read])


@pytest.mark.parametrize("layout", ["scores", "changes"])
def test_what_the_first_capture_cannot_compare_is_empty_and_has_a_dash(updated, layout):
    renderer = Renderer(updated, layout, size="720p")
    theme = renderer.plan.theme
    compared = [each for each in renderer.plan.heatmaps if each.source.compares == "previous"]
    assert compared
    first, second = renderer.frame(0).pixels.copy(), renderer.frame(1).pixels
    assert not has(first, theme.nonfinite)
    for heatmap in compared:
        seen = {tuple(color) for color in first[heatmap.box.area].reshape(-1, 3).tolist()}
        assert {rgb(theme.panel), rgb(theme.dim)} <= seen
        if not heatmap.corner:
            assert seen == {rgb(theme.panel), rgb(theme.dim)}
            assert not has(second[heatmap.box.area], theme.dim)
    assert "NaN, Inf" not in {label.text for label in renderer.plan.labels}


def test_a_film_with_broken_values_says_what_their_color_means(small_run, synthetic, tmp_path):
    broken = []
    for each in small_run:
        capture = capture_file.read(each.path)
        arrays = {name: array.copy() for name, array in capture.arrays.items()}
        if capture.step:
            arrays["blocks.1.attn.pattern"][:, 2, 5:] = np.nan
        changed = dataclasses.replace(capture, arrays=arrays)
        broken.append(synthetic.write_capture(tmp_path, changed))
    plan = Renderer(Series(broken), "overview", size="720p").plan
    [key] = [label for label in plan.labels if label.text == "NaN, Inf"]
    [square] = [swatch for swatch in plan.swatches if swatch.color == plan.theme.nonfinite]
    assert square.box.right < key.x
    assert all(bar.box.right < square.box.x or bar.box.x > key.x for bar in plan.bars[:1])
    plain = Renderer(Series(small_run), "overview", size="720p").plan
    assert "NaN, Inf" not in {label.text for label in plain.labels}
