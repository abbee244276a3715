"""Captures may cost no more than a share of the wall time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tracker_viz.capture.governor import Governor, cores_are_busy
from tracker_viz.capture.schedule import Schedule


def simulate(schedule, *, step_s, capture_s, steps, max_overhead):
    """Steps that were captured, and their share of the wall time, if each capture takes
    ``capture_s``."""
    governor = Governor(schedule, max_overhead)
    captured, since, due = [], 0, schedule.next_due(0)
    while due is not None and due <= steps:
        governor.trained(due - since, (due - since) * step_s)
        governor.captured(capture_s)
        captured.append(due)
        since = due
        due, _ = governor.next_step(since)
    total_s = steps * step_s + len(captured) * capture_s
    return captured, len(captured) * capture_s / total_s if total_s else 0.0


def test_a_cheap_capture_leaves_the_schedule_as_it_is():
    schedule = Schedule.for_total(1000, captures=100)
    captured, overhead = simulate(
        schedule, step_s=0.1, capture_s=0.01, steps=1000, max_overhead=0.02
    )
    assert captured == list(schedule.steps[1:])
    assert overhead < 0.02


@pytest.mark.parametrize("capture_s", [0.05, 0.2, 0.5])
def test_an_expensive_capture_thins_the_schedule_to_the_limit_and_keeps_the_last_step(capture_s):
    schedule = Schedule.for_total(1000, captures=100)
    captured, overhead = simulate(
        schedule, step_s=0.1, capture_s=capture_s, steps=1000, max_overhead=0.02
    )
    assert overhead <= 0.02 + capture_s / 100
    assert overhead >= 0.01  # nor is the allowance wasted
    assert captured[-1] == 1000
    gaps = [after - before for before, after in itertools.pairwise(captured[1:])]
    assert max(gaps) <= 12 * max(min(gaps), 10)  # evenly, not all at the start


def test_without_a_known_end_captures_wait_until_training_has_paid_for_them():
    captured, overhead = simulate(
        Schedule.every(10), step_s=0.1, capture_s=0.5, steps=10_000, max_overhead=0.02
    )
    assert overhead <= 0.025
    assert 30 <= len(captured) <= 60


def test_one_capture_that_costs_more_than_everything_still_leaves_the_last():
    captured, _ = simulate(
        Schedule.for_total(100, captures=50),
        step_s=0.01,
        capture_s=5.0,
        steps=100,
        max_overhead=0.02,
    )
    assert captured[-1] == 100
    assert len(captured) == 2


@pytest.mark.parametrize(
    "schedule", [Schedule.every(1), Schedule.every(1, 5000), Schedule.for_total(5000)]
)
def test_captures_that_leave_training_no_time_at_all_are_all_but_stopped(schedule):
    captured, _ = simulate(schedule, step_s=0.0, capture_s=0.01, steps=5000, max_overhead=0.02)
    assert len(captured) <= 10


@pytest.mark.parametrize("schedule", [Schedule.every(1), Schedule.every(1, 5000)])
def test_before_any_training_was_timed_nothing_is_left_out(schedule):
    governor = Governor(schedule, 0.02)
    governor.trained(0, 0.0)  # the first call of a loop finds a step due
    governor.captured(0.5)
    assert governor.next_step(1) == (2, 0)


@pytest.mark.parametrize("schedule", [Schedule.every(1), Schedule.every(1, 20)])
def test_captures_that_take_no_time_that_a_clock_could_tell_are_all_taken(schedule):
    captured, _ = simulate(schedule, step_s=0.01, capture_s=0.0, steps=20, max_overhead=0.02)
    assert captured == list(range(1, 21))


def test_no_limit_leaves_the_schedule_as_it_is():
    schedule = Schedule.every(1)
    captured, _ = simulate(schedule, step_s=0.01, capture_s=5.0, steps=20, max_overhead=math.inf)
    assert captured == list(range(1, 21))


def test_two_processes_with_a_thread_each_keep_two_cores_busy(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not cores_are_busy(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cores_are_busy(torch.device("cpu"))
    assert cores_are_busy(torch.device("cuda"))  # each launches kernels from a thread of its own
