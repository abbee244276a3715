"""Schedules choose the steps that are captured."""

from __future__ import annotations

import itertools

import pytest

from tracker_viz.capture.schedule import Schedule
from tracker_viz.errors import ConfigError


def due(schedule, until):
    steps, step = [], -1
    while (step := schedule.next_due(step)) is not None and step <= until:
        steps.append(step)
    return steps


def test_a_known_total_is_covered_from_the_first_to_the_last_step_and_more_densely_at_the_start():
    steps = due(Schedule.for_total(1000, captures=100), 10_000)
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    assert (steps[0], steps[-1]) == (0, 1000)
    assert 90 <= len(steps) <= 100
    assert gaps == sorted(gaps) or max(abs(a - b) for a, b in itertools.pairwise(sorted(gaps))) <= 1
    assert gaps[0] <= 2
    assert gaps[-1] >= 12


def test_each_step_is_due_once_even_if_there_are_fewer_steps_than_captures():
    assert due(Schedule.for_total(5, captures=100), 100) == [0, 1, 2, 3, 4, 5]


def test_equal_gaps_end_on_the_last_step():
    assert due(Schedule.every(40, total_steps=100), 1000) == [0, 40, 80, 100]
    assert due(Schedule.every(50, total_steps=100), 1000) == [0, 50, 100]


def test_equal_gaps_go_on_without_end():
    assert due(Schedule.every(40), 200) == [0, 40, 80, 120, 160, 200]


def test_steps_may_be_listed():
    assert due(Schedule.at([7, 3, 3]), 100) == [0, 3, 7]


def test_a_run_of_unknown_length_begins_dense_and_doubles_its_gaps_up_to_the_period():
    steps = due(Schedule.open_ended(1000), 20_000)
    assert steps[:33] == list(range(33))
    assert steps[32:49] == list(range(32, 65, 2))
    assert steps[-4:] == [17_000, 18_000, 19_000, 20_000]
    for before, after in itertools.pairwise(steps):
        assert after - before <= max(1, min(before / 16, 1000))
    assert due(Schedule.open_ended(1), 3) == [0, 1, 2, 3]


@pytest.mark.parametrize(("steps", "captures"), [(60, 47), (1000, 112), (16_384, 177)])
def test_a_run_of_unknown_length_has_enough_captures_for_a_film_wherever_it_ends(steps, captures):
    assert len(due(Schedule.open_ended(), steps)) == captures


def test_asking_from_the_middle_gives_what_asking_from_the_start_gives():
    schedule = Schedule.for_total(777, captures=31)
    steps = due(schedule, 777)
    for step in range(777):
        assert schedule.next_due(step) == next(later for later in steps if later > step)
        assert schedule.is_due(step) == (step in steps)
    assert schedule.next_due(777) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule.for_total(0), "total_steps must be a whole number of at least 1; got 0"),
        (
            lambda: Schedule.for_total(10, captures=1),
            "captures must be a whole number of at least 2; got 1",
        ),
        (lambda: Schedule.for_total(10, power=0), "power must be greater than 0"),
        (lambda: Schedule.every(0), "every must be a whole number of at least 1; got 0"),
        (lambda: Schedule.every(2.5), "every must be a whole number of at least 1; got 2.5"),
        (lambda: Schedule.at([-1]), "steps must be a whole number of at least 0; got -1"),
    ],
)
def test_an_impossible_schedule_says_what_was_expected(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
