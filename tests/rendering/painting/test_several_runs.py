"""Several runs in one picture: every map shows its own run's capture, runs stand apart, and what
does not fit is said."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tracker_viz.errors import LayoutError, RenderError
from tracker_viz.rendering import (
    Attention,
    Layout,
    Renderer,
    RunTrack,
    Series,
    Shot,
    Subject,
    Timing,
    picture_size,
    storyboard,
    theme,
    write_last_picture,
)
from tracker_viz.rendering.painting.words import paint_corners
from tracker_viz.rendering.plan import Box, Roles
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.planning.side_by_side.tiles import fit_tiles, slots, tile_box
from tracker_viz.rendering.subject import NOT_YET
from tracker_viz.rendering.text import text_width
from tracker_viz.rendering.theme import rgb

LAYOUT = Layout(name="compare", panels=(Attention(probe=0),))
THEME = theme.theme("dark")


def compared(label, captures, *, blocks=2, heads=3, **options):
    series = Series(captures, title=label)
    given = {
        "places": np.array(series.steps, np.float64),
        "ranking": tuple(itertools.product(range(blocks), range(heads))),
        "order": {block: tuple(range(heads)) for block in range(blocks)},
    }
    return RunTrack(label, series, **given | options)


def with_role(run, role, head, captures):
    """The run with one more head that has a role at some captures."""
    held = [dict(each) for each in run.roles.held] or [{} for _ in run.series.steps]
    for capture in captures:
        held[capture][head] = role
    return dataclasses.replace(run, roles=Roles((role,), held=held))


def side_by_side(runs, axis="step"):
    points = np.unique(np.concatenate([run.places for run in runs]))
    captures = np.stack([np.searchsorted(run.places, points, side="right") - 1 for run in runs])
    return Timing(axis, points, captures, np.stack([points > run.places[-1] for run in runs]))


def draw(runs, size="960x540", **options):
    subject = Subject(tuple(runs), side_by_side(runs), "runs", **options)
    return Renderer(subject, LAYOUT, size=size)


def builder_of(runs, size="1080p", *, matched=False):
    subject = Subject(tuple(runs), side_by_side(runs[:1]), "runs", is_matched=matched)
    return PlanBuilder(LAYOUT, subject, *picture_size(size), THEME)


def maps_of(renderer, run):
    return [heatmap for heatmap in renderer.plan.heatmaps if heatmap.run == run]


@pytest.fixture(scope="module")
def runs(synthetic, tmp_path_factory):
    """Three runs of 2 x 3 heads; the second has fewer captures, ends earlier, and begins later than
    the others."""
    options = {"blocks": 2, "heads": 3, "length": 24, "width": 8, "hidden": 12, "period": 7}
    made = []
    for seed, (n_captures, last) in enumerate([(5, 1000), (4, 500), (5, 1000)]):
        captures = synthetic.write_run(
            tmp_path_factory.mktemp(f"run{seed}"), n_captures, seed=seed, last_step=last, **options
        )
        made.append(compared(f"seed={seed}", captures[1:] if seed == 1 else captures))
    first = with_role(made[0], "induction", (1, 0), range(2, 5))
    return [dataclasses.replace(first, onsets={"induction": 300.0}), *made[1:]]


@pytest.fixture(scope="module")
def renderer(runs):
    return draw(runs)


def box_of(pixels, box):
    return pixels[box.y : box.bottom, box.x : box.right]


def within(box, room):
    return (
        box.x >= room.x
        and box.y >= room.y
        and box.right <= room.right
        and box.bottom <= room.bottom
    )


def expected(renderer, run, heatmap, capture):
    """The box as the captures say: each cell in its color, the future in the panel's, but for the
    corner of a head with a role."""
    values = run.series.read(capture, [heatmap.source.name])[heatmap.source.name][
        0, heatmap.source.head
    ]
    colors = renderer.plan.scales["attention"].table()[values.view(np.uint16)]
    colors[np.triu(np.ones(values.shape, bool), 1)] = rgb(THEME.panel)
    cell_px = heatmap.box.width // len(values)
    pixels = np.zeros((renderer.plan.height, renderer.plan.width, 3), np.uint8)
    pixels[heatmap.box.area] = colors.repeat(cell_px, 0).repeat(cell_px, 1)
    captures = [max(0, min(capture, len(each.series) - 1)) for each in renderer.subject.runs]
    only = dataclasses.replace(renderer.plan, heatmaps=(heatmap,))
    paint_corners(pixels, only, renderer.role_colors(captures))
    return pixels[heatmap.box.area]


def test_every_map_shows_its_own_head_of_its_own_run_at_its_own_capture(renderer, runs):
    for point in range(len(renderer)):
        pixels = renderer.frame(point).pixels
        for index, run in enumerate(runs):
            capture = renderer.subject.timing.captures[index, point]
            assert [heatmap.head for heatmap in maps_of(renderer, index)] == list(run.ranking)
            for heatmap in maps_of(renderer, index):
                if capture != NOT_YET:
                    assert np.array_equal(
                        box_of(pixels, heatmap.box), expected(renderer, run, heatmap, capture)
                    ), (point, heatmap.name)


def test_a_run_that_has_not_begun_shows_nothing_and_one_that_ended_stands_still(renderer):
    captures = renderer.subject.timing.captures[1]
    assert captures[0] == NOT_YET
    assert renderer.subject.timing.ended[1, -1]
    first, last = renderer.frame(0).pixels, renderer.frame(len(renderer) - 1).pixels
    before_end = renderer.frame(int(np.flatnonzero(~renderer.subject.timing.ended[1])[-1])).pixels
    for heatmap in maps_of(renderer, 1):
        assert np.array_equal(
            box_of(first, heatmap.box),
            np.broadcast_to(rgb(THEME.panel), (heatmap.box.height, heatmap.box.width, 3)),
        )
        assert np.array_equal(box_of(last, heatmap.box), box_of(before_end, heatmap.box))


def test_the_same_point_gives_the_same_bits_on_one_or_many_threads(renderer, runs):
    def digest(frames):
        return hashlib.sha256(b"".join(frame.pixels.tobytes() for frame in frames)).hexdigest()

    alone = digest(map(renderer.frame, range(len(renderer))))
    with ThreadPoolExecutor(8) as pool:
        together = digest(pool.map(draw(runs).frame, range(len(renderer))))
    assert alone == together


def test_a_film_has_the_bits_of_single_frames_also_where_time_jumps(runs):
    """A canvas is drawn on again and again: dots that stay where a run ended, ribbons and numbers
    leave nothing behind."""
    renderer = draw(runs[:2], size="1600x640")
    assert renderer.plan.ribbons
    assert renderer.subject.timing.ended[1, -1]
    last = len(renderer) - 1
    order = [last - 1, last, 0, last // 2, 1, last]
    film = renderer.film([Shot(point, 0.0, 0.1) for point in order])
    for index, point in enumerate(order):
        assert np.array_equal(film(index).pixels, renderer.frame(point).pixels), (index, point)


def test_a_curve_breaks_where_a_run_has_no_loss(runs, monkeypatch):
    loss = np.array([5.0, 4.0, np.nan, 3.0, 2.5])
    monkeypatch.setattr(runs[0].series, "metric", lambda _: loss)
    curves = draw(runs[:2]).plan.timeline.curves
    assert np.isnan(curves[0].points[:, 1]).tolist() == [False, False, True, False, False]
    assert np.isfinite(curves[1].points).all()


def test_a_head_is_framed_in_its_roles_color_from_when_it_has_it(renderer):
    heatmap = next(heatmap for heatmap in maps_of(renderer, 0) if heatmap.head == (1, 0))
    has_it = [
        bool(
            (
                renderer.frame(point).pixels[heatmap.box.y + 5, heatmap.box.x - 2]
                == rgb(THEME.roles["induction"])
            ).all()
        )
        for point in range(len(renderer))
    ]
    assert has_it == (renderer.subject.timing.captures[0] >= 2).tolist()


@pytest.mark.parametrize("size", ["960x540", "1080x1350"])
def test_every_color_of_a_frame_is_named_also_of_a_role_that_no_head_kept_for_long(runs, size):
    brief = with_role(runs[0], "previous_token", (0, 0), [1])
    assert "previous_token" not in brief.onsets
    plan = draw([brief, runs[1]], size=size).plan
    assert "previous token" in [label.text for label in plan.labels]
    assert THEME.roles["previous_token"] in [swatch.color for swatch in plan.swatches]


def test_the_ribbon_tells_no_more_than_what_was_played(runs):
    renderer = draw(runs[:2], size="1600x640")
    ribbon = renderer.plan.ribbons[0]
    (line,) = (line.box for line in ribbon.lines if line.head == (1, 0))
    middle = len(renderer) // 2
    share = renderer.subject.timing.points[middle] / renderer.subject.timing.points[-1]
    half_played, played = (
        box_of(renderer.frame(point).pixels, line)[0] for point in (middle, len(renderer) - 1)
    )
    color, panel = rgb(THEME.roles["induction"]), rgb(THEME.panel)
    assert (half_played[round(share * line.width) + 1 :] == panel).all()
    first = int(np.flatnonzero((played == color).all(1))[0])
    assert first == pytest.approx(
        line.width * renderer.subject.runs[0].places[2] / renderer.subject.timing.points[-1], abs=2
    )


def test_numbers_clock_and_curves_move_with_the_point(renderer):
    first, second = renderer.frame(1).pixels, renderer.frame(2).pixels
    changed = (first != second).any(2)
    clock, *beside_runs = renderer.plan.readouts
    assert clock.quantity == "step"
    assert changed[clock.baseline - 20 : clock.baseline, clock.x : clock.x + 80].any()
    first_run = beside_runs[0]
    assert first_run.run == 0
    left = first_run.x - 30 if first_run.align == "right" else first_run.x
    assert changed[first_run.baseline - 10 : first_run.baseline, left : left + 30].any()
    assert box_of(changed, renderer.plan.timeline.box).any()


def test_the_numbers_beside_a_run_are_bright_only_while_it_goes_on(renderer):
    timing = renderer.subject.timing
    (numbers,) = (
        each for each in renderer.plan.readouts if each.quantity == "run" and each.run == 1
    )
    digit = text_width("0", numbers.size_px, bold=True, mono=True)
    left = numbers.x - (digit * 3 if numbers.align == "right" else 0)
    states = set()
    for point in range(len(renderer)):
        has_begun = timing.captures[1, point] != NOT_YET
        goes_on = bool(has_begun and not timing.ended[1, point])
        states.add((bool(has_begun), goes_on))
        rows = slice(numbers.baseline - round(numbers.size_px), numbers.baseline + 4)
        shown = renderer.frame(point).pixels[rows, left : left + 3 * digit]
        assert (shown == rgb(THEME.text)).all(-1).any() == goes_on, point
        assert (shown == rgb(THEME.dim)).all(-1).any() == (not goes_on), point
    assert states == {(False, False), (True, True), (True, False)}


def test_a_run_that_has_not_begun_has_no_dot_on_its_curve(renderer):
    timeline, timing = renderer.plan.timeline, renderer.subject.timing
    rows = slice(timeline.plot.y - 5, timeline.plot.bottom + 5)
    color = rgb(timeline.curves[1].color)
    has_dot = []
    for point in range(len(renderer)):
        x = min(timeline.x(timing.points[point]), timeline.curves[1].points[-1, 0])
        around = slice(max(0, round(x) - 4), round(x) + 5)
        has_dot.append(bool((renderer.frame(point).pixels[rows, around] == color).all(-1).any()))
    n_before = int((timing.captures[1] == NOT_YET).sum())
    assert n_before > 0
    assert not any(has_dot[:n_before])
    assert any(has_dot[n_before:])


def test_a_slot_without_a_head_stays_empty(runs):
    order = {0: (2, None, 0), 1: (0, 1, 2)}
    renderer = draw([runs[0], dataclasses.replace(runs[2], order=order)], is_matched=True)
    by_head = [{each.head: each.box for each in maps_of(renderer, index)} for index in (0, 1)]
    assert set(by_head[1]) == {(0, 2), (0, 0), (1, 0), (1, 1), (1, 2)}
    assert not any("None" in label.text for label in renderer.plan.labels)
    shift = by_head[1][1, 0].x - by_head[0][1, 0].x
    assert by_head[1][0, 2].x - shift == by_head[0][0, 0].x
    assert by_head[1][0, 0].x - shift == by_head[0][0, 2].x


def test_in_matched_order_every_map_says_whose_it_is_where_attention_never_looks(runs):
    renderer = draw(runs, is_matched=True)
    pixels = renderer.frame(len(renderer) - 1).pixels
    for heatmap in renderer.plan.heatmaps:
        assert heatmap.corner == f"H{heatmap.head[1]}"
        box = heatmap.box
        shown = box_of(pixels, box).astype(int)
        colors = [THEME.dim, THEME.roles["induction"]]  # of a name, or of the ground of one
        near = [np.abs(shown - rgb(color)).max(2) < 40 for color in colors]
        words = np.any(near, axis=0) & heatmap_future(heatmap)
        rows, columns = np.nonzero(words)
        assert len(rows), heatmap.name
        assert rows.max() < box.height / 2 < columns.min() + 12


def test_naming_the_heads_in_the_corners_costs_no_room(runs):
    some = with_all_heads(runs[0], 4, 8)
    area = Box(36, 100, 1848, 700)
    by_index, matched = (
        fit_tiles(builder_of([some] * 6, matched=each), area, length=64, name_px=240)
        for each in (False, True)
    )
    assert by_index.all_heads
    assert matched.map_px == by_index.map_px


def heatmap_future(heatmap):
    """The pixels of a map that attention never reaches."""
    cell_px = heatmap.box.width // heatmap.mask.shape[0]
    return heatmap.mask.repeat(cell_px, 0).repeat(cell_px, 1)


def with_all_heads(run, blocks, heads):
    return dataclasses.replace(
        run,
        ranking=tuple(itertools.product(range(blocks), range(heads))),
        order=dict.fromkeys(range(blocks), tuple(range(heads))),
    )


def test_pictures_in_between_are_refused(renderer):
    with pytest.raises(RenderError, match="interpolate=0"):
        renderer.draw(Shot(0, 0.5, 0.1, "interpolated"))
    with pytest.raises(RenderError, match=r"points 0\.\."):
        renderer.frame(len(renderer))


def test_maps_of_different_length_are_refused(runs, small_run, synthetic, tmp_path):
    other = synthetic.write_run(
        tmp_path, 2, blocks=2, heads=3, length=16, width=8, hidden=12, period=7
    )
    with pytest.raises(LayoutError, match=r"probes of one length.*seed=0: 24, other: 16"):
        draw([runs[0], compared("other", other)])


def test_the_poster_is_the_last_picture(renderer, tmp_path):
    from PIL import Image

    path = write_last_picture(renderer, tmp_path / "poster")
    assert path.name == "poster.png"
    end = renderer.draw(Shot(len(renderer) - 1, 0.0, 1.0, "end"))
    assert np.array_equal(np.asarray(Image.open(path)), end.pixels)


@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("n_runs", [2, 3, 6, 7, 16, 24, 33, 64])
@pytest.mark.parametrize(("blocks", "heads"), [(4, 4), (4, 8), (12, 12)])
def test_from_2_to_64_runs_nothing_overlaps_or_leaves_the_picture(
    runs, n_runs, blocks, heads, matched
):
    some = with_all_heads(runs[0], blocks, heads)
    builder = builder_of([some] * n_runs, matched=matched)
    area = Box(36, 100, 1848, 700)
    tiling = fit_tiles(builder, area, length=64, name_px=240)
    tiles = [tile_box(tiling, index, area) for index in range(n_runs)]
    boxes = [slot.box for tile in tiles for slot in slots(builder, tiling, some, tile)]
    assert tiling.map_px >= 32
    assert len(boxes) == n_runs * (blocks * heads if tiling.all_heads else tiling.n_maps)
    for tile in tiles:
        assert within(tile, area)
        for slot in slots(builder, tiling, some, tile):
            box = slot.box
            # two pixels for coordinates that were made even
            assert within(box, Box(tile.x, tile.y, tile.width + 2, tile.height + 2))
            assert (box.x % 2, box.y % 2) == (0, 0)
    if tiling.captioned and not tiling.beside:
        assert (
            min(box.y for box in boxes) - area.y >= 28 + 18
        )  # a line for the name of the run, and one for that of the head
    covered = np.zeros((1080, 1920), np.uint8)
    for box in boxes:
        covered[box.y : box.bottom, box.x : box.right] += 1
    assert covered.max() == 1


@pytest.mark.parametrize("size", ["1080p", "square", "1080x1920"])
def test_the_color_bar_and_the_axes_are_there_in_every_size(runs, size):
    plan = draw(runs, size=size).plan
    (bar,) = plan.bars
    assert within(
        Box(bar.box.x, bar.box.y, bar.box.width, bar.box.height + round(24 * plan.unit)),
        Box(0, 0, plan.width, plan.height),
    )
    assert "query ↓ key →" in {label.text for label in plan.labels}


@pytest.mark.parametrize("size", ["640x360", "640x640"])
def test_maps_that_are_pooled_to_fit_say_so(runs, size):
    many = [dataclasses.replace(runs[index % 2], label=f"run {index}") for index in range(24)]
    plan = draw(many, size=size).plan
    (pool,) = {heatmap.source.pool for heatmap in plan.heatmaps}
    assert pool > 1
    (said,) = [label for label in plan.labels if f"max {pool}×{pool}" in label.text]
    assert said.x - text_width(said.text, said.size_px) > max(
        readout.x + readout.width_chars * text_width("0", readout.size_px, bold=True, mono=True)
        for readout in plan.readouts
        if readout.quantity == "step"
    )


def test_few_runs_show_all_heads_and_many_their_first_ones(runs):
    area = Box(36, 100, 1848, 700)
    some = with_all_heads(runs[0], 4, 4)
    shown = {}
    for n in (2, 6, 24, 64):
        shown[n] = fit_tiles(builder_of([some] * n), area, length=64, name_px=240)
    assert [tiling.all_heads for tiling in shown.values()] == [True, True, False, False]
    assert shown[2].map_px > shown[6].map_px
    assert 16 > shown[24].n_maps >= 4
    assert shown[24].map_px >= 64
    assert shown[64].map_px >= 32


def test_the_names_of_64_runs_are_not_cut_off(runs):
    many = [
        dataclasses.replace(runs[index % 2], label=f"learning_rate=0.0001 seed={index}")
        for index in range(64)
    ]
    renderer = draw(many)
    # A name may be broken before its value.
    said = " ".join(label.text for label in renderer.plan.labels).replace("= ", "=")
    assert all(f"learning_rate=0.0001 seed={index} " in f"{said} " for index in range(64))
    assert "…" not in said
    assert "most specialized head of each run" in said or "most specialized heads of" in said


def story_runs(runs):
    """Four runs: induction is taken at once by two of them, later by a third, and never by one;
    and a role that only one takes."""
    whole = [runs[0], runs[2], runs[0], runs[2]]
    steps = [float(step) for step in runs[0].series.steps]
    onsets = [{"induction": steps[1]}, {"induction": steps[1]}, {"induction": steps[3]}, {}]
    onsets[3]["sink"] = steps[2]
    return [
        dataclasses.replace(run, label=f"seed={index}", onsets=each)
        for index, (run, each) in enumerate(zip(whole, onsets, strict=True))
    ]


def test_the_story_says_which_runs_took_a_role_first_and_last_and_which_never_did(runs):
    renderer = draw(story_runs(runs))
    steps = renderer.series.steps
    sink, induction = renderer.plan.story.events
    assert sink.caption == "1 of 4 runs: seed=3; never seed=0 and 2 more"
    assert induction.caption == ("3 of 4 runs: seed=0 and seed=1 first, seed=2 last; never seed=3")
    assert induction.steps_text == f"{steps[1]:,}–{steps[3]:,}"
    assert (sink.last_step, induction.last_step) == (2, 3), "points of time"
    # The film rests where the last of them took it, and says so.
    shots = storyboard(steps, story=renderer.plan.story)
    assert {(shot.event, shot.index) for shot in shots if shot.event is not None} == {
        (0, 2),
        (1, 3),
    }
    assert renderer.plan.story.summary == (
        f"After {steps[-1]:,} steps: induction in 3 of 4 runs ({induction.steps_text}), "
        f"sink in 1 ({steps[2]:,})"
    )


def test_the_story_is_told_on_every_axis(runs):
    of_progress = [
        dataclasses.replace(run, places=run.places / 1000, onsets={"induction": 0.5})
        for run in (runs[0], runs[2])
    ]
    subject = Subject(tuple(of_progress), side_by_side(of_progress, "progress"), "runs")
    renderer = Renderer(subject, LAYOUT, size="960x540")
    (event,) = renderer.plan.story.events
    assert renderer.plan.story.summary == f"At the end: induction in 2 of 2 runs ({event.ended})"
    assert event.past_headline.endswith("%: induction")
    renderer.draw(Shot(len(renderer) - 1, 0.0, 0.1, "end"))


def test_a_few_runs_have_a_lane_each_with_a_bar_from_when_they_took_a_role(runs):
    plan = draw(story_runs(runs), size="1080p").plan
    bars = [mark for mark in plan.timeline.marks if mark.color == THEME.roles["induction"]]
    steps = runs[0].series.steps
    assert [bar.box.x for bar in bars] == [
        pytest.approx(plan.timeline.x(steps[capture]), abs=1) for capture in (1, 1, 3)
    ]
    assert all(abs(bar.box.right - plan.timeline.box.right) <= 1 for bar in bars)
    assert all(bar.box.height >= 4 for bar in bars)
    tops = [bar.box.y for bar in bars]
    assert tops == sorted(set(tops)), "each in its own lane"


def test_of_many_runs_a_lane_is_as_high_as_the_share_that_took_its_role(runs):
    many = [each for _ in range(3) for each in story_runs(runs)]
    plan = draw(many, size="1080p").plan
    bars = [mark.box for mark in plan.timeline.marks if mark.color == THEME.roles["induction"]]
    track = max(swatch.box.height for swatch in plan.swatches if swatch.color == THEME.panel)
    assert [round(box.height / track * 12) for box in bars] == [6, 9]
    assert "induction 9/12" in [label.text for label in plan.labels]


def test_runs_that_have_fewer_heads_leave_no_gap(runs):
    """Where not all of 16 and of 64 heads fit, each run shows as many."""
    few, many = with_all_heads(runs[0], 4, 4), with_all_heads(runs[0], 4, 16)
    shown = {}
    for n_few in (0, 3):
        builder = builder_of([few] * n_few + [many] * (6 - n_few))
        shown[n_few] = fit_tiles(builder, Box(36, 100, 1848, 700), length=64, name_px=300)
    assert not any(tiling.all_heads for tiling in shown.values())
    assert shown[3].n_maps <= 16 < shown[0].n_maps


def test_too_many_runs_for_the_size_are_refused(runs):
    builder = builder_of([runs[0]] * 64, "640x360")
    with pytest.raises(LayoutError, match="64 runs do not fit into 640x360"):
        fit_tiles(builder, Box(12, 40, 616, 40), length=24, name_px=240)
