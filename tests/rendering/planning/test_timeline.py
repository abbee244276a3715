"""The timeline: words of events, the leaders from them to their flags, the ends of the scale."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from tracker_viz import capture_file
from tracker_viz.metrics import RoleEvent
from tracker_viz.rendering import LAYOUTS, Renderer, Series
from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.make_plan import picture_size
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.planning.timeline import timeline
from tracker_viz.rendering.story import tell_story
from tracker_viz.rendering.subject import one_run
from tracker_viz.rendering.text import text_width
from tracker_viz.rendering.theme import THEMES
from tracker_viz.types import CapturePath

THEME = THEMES["light"]
FIVE = ("previous_token", "current_token", "induction", "sink", "previous_token_text")


def placed(series, size, shares):
    """Return the builder with a timeline of five roles, taken at shares of the run."""
    builder = PlanBuilder(LAYOUTS["overview"], one_run(series), *picture_size(size), THEME)
    first, last = series.steps[0], series.steps[-1]
    events = [
        RoleEvent(first, round(first + share * (last - first)), ((1, 3),), role)
        for share, role in zip(shares, FIVE, strict=True)
    ]
    high = builder.px(110)
    timeline(builder, Box(30, builder.height - high, builder.width - 60, high), events)
    return builder


def touch(one, other):
    return (
        one.x <= other.right
        and other.x <= one.right
        and one.y <= other.bottom
        and other.y <= one.bottom
    )


def shares_pixels(one, other):
    """Return whether two thin boxes lie on each other or cross."""
    return (
        one.x < other.right
        and other.x < one.right
        and one.y < other.bottom
        and other.y < one.bottom
    )


@pytest.mark.parametrize("size", ["1080p", "square", "696x390"])
@pytest.mark.parametrize(
    "shares",
    [(0.2, 0.47, 0.47, 0.49, 0.55), (0.94, 0.95, 0.96, 0.97, 1.0), (0.02, 0.03, 0.04, 0.05, 0.06)],
    ids=["in the middle", "at the end", "at the start"],
)
def test_a_leader_goes_from_the_words_of_an_event_to_its_flag(small_run, size, shares):
    builder = placed(Series(small_run), size, shares)
    box = builder.timeline.box
    leaders = {}
    for role in FIVE:
        parts = [swatch.box for swatch in builder.swatches if swatch.color == THEME.roles[role]]
        label = next((each for each in builder.labels if each.color == THEME.roles[role]), None)
        pole = next(part for part in parts if part.y == box.y and part.height == box.height)
        if label is None:
            continue
        leader = [part for part in parts if part.y < box.y]
        wide = builder.text_width(label.text, 24.0)
        below = min(leader, key=lambda part: part.y)
        assert label.x - 1 <= below.x <= label.x + wide
        assert any(part.x == pole.x and part.bottom == box.y for part in leader)
        assert touch(leader[0], leader[1])
        assert touch(leader[1], leader[2])
        leaders[role] = leader
    assert len(leaders) >= 3
    for role, leader in leaders.items():
        others = []
        for other in leaders.keys() - {role}:
            others += leaders[other]
        for part, other in itertools.product(leader, others):
            assert not shares_pixels(part, other), role


@pytest.mark.parametrize("size", ["1080p", "square"])
def test_the_ends_of_the_scale_stand_beside_the_curve(small_run, size):
    series = Series(small_run)
    loss = series.metric("loss")
    texts = {label.text for label in placed(series, size, (0.2, 0.4, 0.5, 0.7, 0.9)).labels}
    assert {f"{loss.max():.3g}", f"{loss.min():.3g}"} <= texts


@pytest.mark.parametrize("high", [70, 80, 110, 200])
def test_a_loss_that_falls_is_seen_however_low_its_curve(small_run, high):
    builder = PlanBuilder(LAYOUTS["overview"], one_run(Series(small_run)), 1920, 1080, THEME)
    timeline(builder, Box(30, 1080 - high, 1860, high), ())
    (curve,) = builder.timeline.curves
    fallen = curve.points[:, 1].max() - curve.points[:, 1].min()
    assert fallen >= 0.6 * builder.timeline.plot.height


def with_losses_on_copies(paths, directory):
    """The same captures, with a loss on copies of half their loss."""
    written = []
    for each in paths:
        capture = capture_file.read(each.path)
        metrics = {**capture.metrics, "probe/loss_later_copies": 0.5 * capture.metrics["loss"]}
        path = directory / each.path.name
        ref = capture_file.write(replace(capture, metrics=metrics), path)
        written.append(CapturePath(ref, path))
    return written


def test_the_loss_on_copies_is_drawn_thinly_on_the_scale_of_the_loss(small_run, tmp_path):
    plain = placed(Series(small_run), "1080p", (0.2, 0.4, 0.5, 0.7, 0.9))
    assert plain.timeline.beside == ()
    assert "on copies" not in {label.text for label in plain.labels}

    series = Series(with_losses_on_copies(small_run, tmp_path))
    builder = placed(series, "1080p", (0.2, 0.4, 0.5, 0.7, 0.9))
    (loss,), (copies,) = builder.timeline.curves, builder.timeline.beside
    assert np.allclose(copies.points[:, 0], loss.points[:, 0])
    # y is down, and both are on one scale: half the loss is the lower curve.
    assert (copies.points[:, 1] > loss.points[:, 1]).all()
    lowest = 0.5 * series.metric("loss").min()
    assert f"{lowest:.3g}" in {label.text for label in builder.labels}


@pytest.mark.parametrize("size", ["1080p", "720p", "square"])
@pytest.mark.parametrize("layout", ["overview", "heads", "head"])
def test_the_curve_of_copies_is_named_inside_the_picture_and_beside_nothing_else(
    small_run, tmp_path, layout, size
):
    series = Series(with_losses_on_copies(small_run, tmp_path))
    plan = Renderer(series, layout, size=size).plan
    assert plan.timeline.beside
    [named] = [label for label in plan.labels if label.text == "on copies"]
    beside = [label for label in plan.labels if label.x <= named.x + 2 and label is not named]
    width = text_width(named.text, named.size_px)
    assert named.x >= width
    for label in beside:
        if label.align == "right" and label.x > named.x - width:
            assert abs(label.y - named.y) >= 0.8 * named.size_px, label.text


@pytest.mark.parametrize(("spike", "top"), [(2.4, "2.4"), (50.0, "≥")])
def test_a_spike_that_is_cut_off_is_said_at_the_end_of_the_scale(
    synthetic, small_run, tmp_path, spike, top
):
    written = []
    for number in range(40):
        capture = capture_file.read(small_run[0].path)
        loss = spike if number == 20 else 2.0 + 0.01 * (number % 20)
        changed = replace(capture, step=number, metrics={"loss": loss})
        written.append(synthetic.write_capture(tmp_path, changed))
    builder = PlanBuilder(
        LAYOUTS["overview"], one_run(Series(written)), *picture_size("1080p"), THEME
    )
    timeline(builder, Box(30, 900, 1800, 150), ())
    texts = [label.text for label in builder.labels]
    highest = max(float(text.lstrip("≥")) for text in texts if re.fullmatch(r"≥?\d\.\d+", text))
    assert any(text.startswith(top) for text in texts)
    assert highest < 3.0
    (curve,) = builder.timeline.curves
    assert curve.points[20, 1] == curve.points[:, 1].min() >= builder.timeline.plot.y


@pytest.mark.parametrize("size", ["1080p", "720p"])
def test_a_leader_leaves_the_middle_of_its_words_and_runs_well_below_all_words(small_run, size):
    """Nearer it would underline the words of a neighbor."""
    builder = placed(Series(small_run), size, (0.46, 0.47, 0.47, 0.48, 0.48))
    words = {label.color: label for label in builder.labels}
    n_bent = 0
    for role in FIVE:
        color = THEME.roles[role]
        parts = [each.box for each in builder.swatches if each.color == color]
        leader = [part for part in parts if part.y < builder.timeline.box.y]
        flat = next((part for part in leader if part.width > builder.px(10)), None)
        if color not in words or flat is None:
            continue
        label = words[color]
        n_bent += 1
        assert flat.y >= label.y + builder.px(14)
        middle = label.x + builder.text_width(label.text, label.size_px / builder.unit) / 2
        assert abs(leader[0].x - middle) <= 2
    assert n_bent >= 3


def test_words_that_fit_only_smaller_are_smaller_and_none_is_left_out(small_run):
    builder = PlanBuilder(LAYOUTS["overview"], one_run(Series(small_run)), 1920, 1080, THEME)
    events = [RoleEvent(0, 100 * (place + 1), ((1, 3),), role) for place, role in enumerate(FIVE)]
    timeline(builder, Box(30, 900, 940, 110), events)
    written = {label.color: label.size_px for label in builder.labels}
    assert [written.get(THEME.roles[role]) for role in FIVE] == [20.0] * len(FIVE)


def test_a_loss_that_never_changes_has_its_value_beside_it(small_run, synthetic, tmp_path):
    written = []
    for each in small_run:
        capture = replace(capture_file.read(each.path), metrics={"loss": 4.6})
        written.append(synthetic.write_capture(tmp_path, capture))
    series = Series(written)
    builder = PlanBuilder(LAYOUTS["overview"], one_run(series), 1920, 1080, THEME)
    timeline(builder, Box(30, 930, 1860, 120), ())
    [value] = [label for label in builder.labels if label.text == "4.6"]
    (curve,) = builder.timeline.curves
    assert abs(value.y - curve.points[0, 1]) <= builder.px(8)
    assert tell_story(series, "loss").summary.endswith("loss stays at 4.6")
