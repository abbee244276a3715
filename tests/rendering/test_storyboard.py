"""Order and time of the pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tracker_viz.errors import ConfigError
from tracker_viz.metrics import DeadExperts, LossFall, RoleEvent
from tracker_viz.rendering import storyboard
from tracker_viz.rendering.story import Story
from tracker_viz.rendering.storyboard import Shot

STEPS = [0, 10, 30, 100, 1000]


def times(shots, kind="capture"):
    return [shot.duration_s for shot in shots if shot.kind == kind]


def test_captures_stay_equally_long_unless_told_otherwise():
    shots = storyboard(STEPS, seconds_per_capture=0.4)
    assert [shot.index for shot in shots] == [0, 1, 2, 3, 4]
    assert times(shots) == pytest.approx([0.4] * 4)
    assert shots[-1] == Shot(4, 0.0, 3.0, "end")


def test_pace_step_is_as_training_went_and_log_gives_the_early_steps_room():
    by_step = times(storyboard(STEPS, pace="step", seconds_per_capture=10))
    assert by_step == pytest.approx(np.array([10, 20, 70, 900]) / 250 * 10)
    by_log = times(storyboard(STEPS, pace="log", seconds_per_capture=10))
    assert by_log[0] > by_log[1]
    assert sum(by_log) == pytest.approx(sum(by_step)) == pytest.approx(40)
    assert by_log == pytest.approx(
        times(storyboard([step + 500 for step in STEPS], pace="log", seconds_per_capture=10))
    )


def test_a_whole_video_lasts_about_half_a_minute_whatever_the_number_of_captures():
    for n_captures in (60, 100, 400):
        assert sum(shot.duration_s for shot in storyboard(range(n_captures))) == pytest.approx(
            24 + 3
        )
    assert times(storyboard(range(5))) == pytest.approx([0.5] * 4), (
        "few captures do not stay for seconds"
    )
    assert sum(shot.duration_s for shot in storyboard(range(4000))) == pytest.approx(3999 / 30 + 3)


def test_interpolated_pictures_are_marked_share_their_captures_time_and_never_flash_by():
    shots = storyboard(STEPS, seconds_per_capture=0.3, interpolate=2)
    assert [(shot.index, round(shot.part, 2), shot.kind) for shot in shots[:4]] == [
        (0, 0.0, "capture"),
        (0, 0.33, "interpolated"),
        (0, 0.67, "interpolated"),
        (1, 0.0, "capture"),
    ]
    assert sum(shot.duration_s for shot in shots[:-1]) == pytest.approx(1.2)
    for mean_s in (1 / 30, 0.05, 0.1):
        quick = storyboard(STEPS, seconds_per_capture=mean_s, interpolate=60)
        assert min(shot.duration_s for shot in quick) >= 1 / 30 - 1e-9
        assert sum(shot.duration_s for shot in quick[:-1]) == pytest.approx(4 * mean_s), (
            "no picture is put in that has no room"
        )


def test_the_pictures_of_captures_are_told_from_the_others():
    shots = storyboard(STEPS[:3], seconds_per_capture=0.3, interpolate=1, title_s=2.0)
    assert [shot.kind for shot in shots if shot.is_capture] == ["capture", "capture", "end"]
    assert [shot.kind for shot in shots if not shot.is_capture] == [
        "title",
        "interpolated",
        "interpolated",
    ]


def test_one_capture_is_held():
    assert [shot.kind for shot in storyboard([5])] == ["end"]


def test_a_title_card_comes_first():
    assert storyboard(STEPS, title_s=2.0)[0] == Shot(len(STEPS) - 1, 0.0, 2.0, "title")


@pytest.mark.parametrize(
    "options",
    [
        {"pace": "steps"},
        {"seconds_per_capture": 0.0},
        {"seconds_per_capture": float("nan")},
        {"interpolate": -1},
    ],
)
def test_options_without_a_meaning_are_errors(options):
    with pytest.raises(ConfigError):
        storyboard(STEPS, **options)


def story_of(events=(), change=(1, 1, 1, 1)):
    return Story(tuple(STEPS), tuple(events), np.array(change, float))


def test_a_story_gives_half_of_the_time_to_where_something_changes():
    story = story_of(change=(0, 0, 9, 0))
    stays = [shot.duration_s for shot in storyboard(STEPS, story=story, hold_s=0)[:4]]
    assert stays[2] == pytest.approx(sum(stays) * (0.5 / 4 + 0.5))
    assert stays[0] == stays[1] == stays[3] == pytest.approx(sum(stays) * 0.5 / 4)


def test_an_event_rests_at_the_capture_that_completes_it_and_its_heads_blink():
    event = RoleEvent(STEPS[1], STEPS[2], ((0, 0),), "sink", strength=1.0)
    shots = storyboard(STEPS, story=story_of([event]))
    rests = [shot for shot in shots if shot.event == 0]
    assert {shot.index for shot in rests} == {2}
    assert sum(shot.duration_s for shot in rests) == pytest.approx(2.2)
    assert {shot.blink for shot in rests} == {True, False}
    assert [shot.index for shot in shots] == sorted(shot.index for shot in shots)


def test_a_film_of_heads_does_not_rest_at_events_of_experts_and_tells_heads_first():
    heads = RoleEvent(STEPS[1], STEPS[2], ((0, 0),), "sink", strength=0.4)
    experts = DeadExperts(STEPS[1], STEPS[2], experts=((0, 3),), strength=0.9)
    story = story_of([heads, experts])
    assert {shot.event for shot in storyboard(STEPS, story=story)} == {None, 0}
    assert story.current(2) == story.latest(3) == 0
    of_experts = dataclasses.replace(story, about="experts")
    assert {shot.event for shot in storyboard(STEPS, story=of_experts)} == {None, 1}
    assert of_experts.current(2) == of_experts.latest(3) == 1


def test_a_story_without_scores_shows_every_capture_equally_long():
    assert storyboard(STEPS, pace="story") == storyboard(STEPS, pace="capture")


def test_events_that_end_with_the_run_rest_too():
    event = LossFall(STEPS[0], STEPS[-1], metric="loss", before=2.0, after=1.0)
    shots = storyboard(STEPS, story=story_of([event]))
    assert shots[-2].event == 0
    assert shots[-1].kind == "end"
