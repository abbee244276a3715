"""The governor leaves due steps out where captures would cost too much."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tracker_viz.capture.governor import CostLimit, Governor, cores_are_busy
from tracker_viz.capture.schedule import Schedule

SHARE_ONLY = CostLimit(0.02, free_s=0)
OUR_OWN = [Schedule.open_ended(), Schedule.for_total(5000)]


def simulate(schedule, *, step_s, capture_s, steps, limit):
    """Steps that were captured, and their share of the wall time, if each capture takes
    ``capture_s``."""
    governor = Governor(schedule, limit)
    captured, since, due = [], 0, schedule.next_due(0)
    while due is not None and due <= steps:
        governor.add_training(due - since, (due - since) * step_s)
        governor.add_capture(capture_s)
        captured.append(due)
        since = due
        due, _ = governor.next_step(since)
    total_s = steps * step_s + len(captured) * capture_s
    return captured, len(captured) * capture_s / total_s if total_s else 0.0


def test_a_cheap_capture_leaves_the_schedule_as_it_is():
    schedule = Schedule.for_total(1000, captures=100)
    captured, overhead = simulate(
        schedule, step_s=0.1, capture_s=0.01, steps=1000, limit=SHARE_ONLY
    )
    assert captured == list(schedule.steps[1:])
    assert overhead < 0.02


@pytest.mark.parametrize("capture_s", [0.05, 0.2, 0.5])
def test_an_expensive_capture_thins_the_schedule_to_the_limit_and_keeps_the_last_step(capture_s):
    schedule = Schedule.for_total(1000, captures=100)
    captured, overhead = simulate(
        schedule, step_s=0.1, capture_s=capture_s, steps=1000, limit=SHARE_ONLY
    )
    assert overhead <= 0.02 + capture_s / 100
    assert overhead >= 0.01  # nor is the allowance wasted
    assert captured[-1] == 1000
    gaps = [after - before for before, after in itertools.pairwise(captured[1:-1])]
    assert max(gaps) <= 12 * max(min(gaps), 10)  # evenly, not all at the start


def test_the_last_of_the_listed_steps_is_taken_whatever_it_costs():
    governor = Governor(Schedule.at([10, 20, 30]), SHARE_ONLY)
    governor.add_training(10, seconds=1.0)
    governor.add_capture(100.0)
    assert governor.next_step(10) == (30, 1)


def test_a_share_is_one_of_the_whole_wall_time():
    half = CostLimit(0.5, free_s=0)
    assert half.allowed_s(100) == half.paid_after_s(100) == pytest.approx(100)


@pytest.mark.parametrize("schedule", [Schedule.every(10), Schedule.open_ended()])
def test_without_a_known_end_captures_wait_until_training_has_paid_for_them(schedule):
    captured, overhead = simulate(
        schedule, step_s=0.1, capture_s=0.5, steps=10_000, limit=SHARE_ONLY
    )
    assert overhead <= 0.025
    assert len(captured) >= 20


def test_one_capture_that_costs_more_than_everything_still_leaves_the_last():
    captured, _ = simulate(
        Schedule.for_total(100, captures=50),
        step_s=0.01,
        capture_s=5.0,
        steps=100,
        limit=SHARE_ONLY,
    )
    assert captured[-1] == 100
    assert len(captured) == 2


@pytest.mark.parametrize(
    "schedule", [Schedule.every(1), Schedule.every(1, 5000), Schedule.for_total(5000)]
)
def test_captures_that_leave_training_no_time_at_all_are_all_but_stopped(schedule):
    captured, _ = simulate(schedule, step_s=0.0, capture_s=0.01, steps=5000, limit=SHARE_ONLY)
    assert len(captured) <= 10


# -- seconds that are free whatever their share


@pytest.mark.parametrize(("total", "captures"), [(60, 60), (51, 51)])
def test_a_first_try_of_seconds_is_filmed_in_full(total, captures):
    captured, overhead = simulate(
        Schedule.for_total(total), step_s=0.02, capture_s=0.3, steps=total, limit=CostLimit()
    )
    assert len(captured) == captures
    assert overhead > 0.9


@pytest.mark.parametrize(("capture_s", "captures"), [(0.05, 45), (0.3, 33), (1.0, 15)])
def test_so_is_one_that_does_not_say_how_long_it_is(capture_s, captures):
    captured, overhead = simulate(
        Schedule.open_ended(), step_s=0.02, capture_s=capture_s, steps=60, limit=CostLimit()
    )
    assert len(captured) >= captures
    assert overhead > 0.6


@pytest.mark.parametrize("schedule", OUR_OWN)
@pytest.mark.parametrize("capture_s", [0.5, 2.0, 8.0])
def test_captures_take_the_larger_of_the_share_and_the_free_seconds(schedule, capture_s):
    limit = CostLimit(0.02, free_s=30)
    for steps, step_s in ((100, 0.1), (5000, 0.1), (5000, 2.0)):
        if schedule.total is not None and steps < schedule.total:
            continue
        captured, _ = simulate(
            schedule, step_s=step_s, capture_s=capture_s, steps=steps, limit=limit
        )
        allowed_s = max(30, steps * step_s * 0.02 / 0.98)
        assert len(captured) * capture_s <= allowed_s + 2 * capture_s
        assert len(captured) >= 3


def test_free_seconds_of_an_open_end_are_spread_over_the_start_and_not_spent_on_the_first_steps():
    captured, _ = simulate(
        Schedule.open_ended(), step_s=0.5, capture_s=1.5, steps=5000, limit=CostLimit(0.02, 30)
    )
    ratios = [after / before for before, after in itertools.pairwise(captured)]
    assert max(ratios) <= 3.0
    assert len(captured) * 1.5 <= 5000 * 0.5 * 0.02 / 0.98 + 3.0


def test_no_free_seconds_hold_the_share_from_the_first_second():
    captured, overhead = simulate(
        Schedule.open_ended(), step_s=0.1, capture_s=0.1, steps=2000, limit=SHARE_ONLY
    )
    assert overhead <= 0.02
    assert len(captured) >= 15


# -- no limit


def test_before_any_training_was_timed_nothing_is_left_out():
    for schedule in (Schedule.every(1), Schedule.every(1, 5000)):
        governor = Governor(schedule, SHARE_ONLY)
        governor.add_training(0, 0.0)  # the first call of a loop finds a step due
        governor.add_capture(0.5)
        assert governor.next_step(1) == (2, 0)


@pytest.mark.parametrize("schedule", [Schedule.every(1), Schedule.every(1, 20)])
def test_captures_that_take_no_time_that_a_clock_could_tell_are_all_taken(schedule):
    captured, _ = simulate(schedule, step_s=0.01, capture_s=0.0, steps=20, limit=SHARE_ONLY)
    assert captured == list(range(1, 21))


@pytest.mark.parametrize("limit", [None, CostLimit(1.0, 0), CostLimit(math.inf, 0)])
@pytest.mark.parametrize("schedule", [Schedule.every(1), Schedule.for_total(20, 21, power=1)])
def test_no_limit_and_a_share_of_1_leave_the_schedule_as_it_is(limit, schedule):
    captured, _ = simulate(schedule, step_s=0.01, capture_s=5.0, steps=20, limit=limit)
    assert captured == list(range(1, 21))


# -- what counts


def test_what_other_threads_did_before_training_began_is_no_cost_of_captures():
    now, background = [0.0], [5.0]
    governor = Governor(Schedule.every(1), clock=lambda: now[0], background_s=lambda: background[0])
    governor.start(1)
    now[0], background[0] = 10.0, 7.0
    with governor.timing(5, torch.device("meta")):
        now[0] += 1.0
    busy = cores_are_busy(torch.device("meta"))
    assert governor.spent_s == pytest.approx(1.0 + 2.0 * busy)
    assert governor.trained_s == pytest.approx(10.0 - 2.0 * busy)


def test_two_processes_with_a_thread_each_keep_two_cores_busy(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not cores_are_busy(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cores_are_busy(torch.device("cpu"))
    assert cores_are_busy(torch.device("cuda"))  # each launches kernels from a thread of its own


def taken_after_an_alarm(limit, *, alarm_at, capture_s=0.1, steps=4000, step_s=0.1):
    """The captured steps of a simulated training whose captures come densely after ``alarm_at``,
    and its governor."""
    schedule = Schedule.every(200, steps)
    governor = Governor(schedule, limit)
    step, taken = 0, []
    while True:
        due, _ = governor.next_step(step)
        if due is None:
            return taken, governor
        governor.add_training(due - step, (due - step) * step_s)
        governor.add_capture(capture_s)
        step = due
        taken.append(step)
        if step == alarm_at:
            governor.come_densely()


def test_after_an_alarm_captures_come_densely_for_a_while_and_then_as_scheduled():
    taken, _ = taken_after_an_alarm(CostLimit(0.02, 0.0), alarm_at=2000)
    around = [step for step in taken if 2000 <= step < 2200]
    assert around == [2000, 2001, 2002, 2003, 2005, 2008, 2013, 2021, 2034]
    assert [step for step in taken if not 2000 < step < 2200] == [*range(200, 4001, 200)]


def test_dense_captures_stay_within_a_share_of_the_limit_that_holds_on_the_whole():
    limit = CostLimit(0.02, 0.0)
    taken, governor = taken_after_an_alarm(limit, alarm_at=2000, capture_s=0.2)
    assert governor.overhead <= 0.02 + 1e-9
    dense = [step for step in taken if step % 200]
    # 2 % of 200 s of training are 4.1 s, of which a quarter is for dense captures.
    assert len(dense) == 5


def test_steps_that_the_user_chose_are_joined_by_all_dense_ones():
    taken, _ = taken_after_an_alarm(None, alarm_at=2000, capture_s=100.0)
    assert sum(step % 200 != 0 for step in taken) == 8
