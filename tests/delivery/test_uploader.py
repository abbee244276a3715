"""One destination's uploader: its states, its chunks, and the run that it may write to."""

from __future__ import annotations

import logging
import threading

import pytest
from local_runs import only_run, steps_at

from tracker_viz.delivery import Destination, Outbox, push
from tracker_viz.delivery import outbox as outbox_module
from tracker_viz.delivery.backlog import Backlog
from tracker_viz.delivery.journal import Journal
from tracker_viz.delivery.uploader import State
from tracker_viz.errors import TrackerError, TransientTrackerError
from tracker_viz.trackers import ChunkPolicy
from tracker_viz.trackers.local import LocalRun, LocalTracker
from tracker_viz.trackers.testing import make_capture
from tracker_viz.types import CaptureRef


def ref(step, nbytes=10):
    return CaptureRef(step, f"step-{step:08d}.safetensors", nbytes, f"{step:064x}")


def steps(refs):
    return [each.step for each in refs]


def state(outbox):
    (uploader,) = outbox._uploaders
    return uploader._state


def backlog_of(*refs):
    backlog = Backlog()
    for each in refs:
        backlog.add(each)
    return backlog


def test_a_chunk_ends_with_the_captures_or_the_bytes_that_one_call_carries():
    backlog = backlog_of(*(ref(step, 40) for step in range(5)))
    assert steps(backlog.next_chunk(ChunkPolicy(captures=3))) == [0, 1, 2]
    assert steps(backlog.next_chunk(ChunkPolicy(captures=9, nbytes=100))) == [0, 1]
    assert steps(backlog.next_chunk(ChunkPolicy(captures=9, nbytes=1))) == [0], "a big one alone"


def test_a_chunk_that_is_not_full_waits_for_more():
    patient = ChunkPolicy(captures=3, nbytes=100, seconds=1000)
    backlog = backlog_of(ref(0, 40), ref(1, 40))
    assert backlog.due_in_s(backlog.next_chunk(patient), patient) == pytest.approx(1000, abs=60)
    backlog.add(ref(2, 40))
    assert backlog.due_in_s(backlog.next_chunk(patient), patient) == 0, "no more bytes fit"
    assert backlog.due_in_s([], patient) is None
    waiting = backlog_of(ref(0, 40))
    waiting._waiting_since[ref(0, 40)] -= 900
    waiting.add(ref(1, 40))
    chunk = waiting.next_chunk(patient)
    assert waiting.due_in_s(chunk, patient) == pytest.approx(100, abs=60), "as the oldest waits"
    hasty = ChunkPolicy(captures=9, seconds=0)
    assert backlog.due_in_s(backlog.next_chunk(hasty), hasty) == 0


def test_what_was_sent_is_no_longer_left_and_what_waits_for_push_is():
    backlog = backlog_of(ref(0), ref(1))
    backlog.remove([ref(0)])
    backlog.add(ref(1))
    assert backlog.n_left == 1
    backlog.remove([ref(1)])
    backlog.deferred.add(ref(1))
    assert backlog.n_left == 1


def test_a_capture_is_delivered_with_its_metrics_and_by_its_content(tmp_path):
    path = tmp_path / "there.jsonl"
    Journal(path).note_captures([ref(1, 40)])
    journal = Journal(path)
    assert journal.has(ref(1, 40))
    assert not journal.has_all_of(ref(1, 40)), "its metrics are still to be sent"
    assert not journal.has(ref(1, 41)), "another capture took its step"
    journal.note_metrics([ref(1).file_name])
    assert Journal(path).has_all_of(ref(1, 40))


def test_an_uploader_goes_through_its_states(tmp_path, there, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    put_captures, calls = LocalRun.put_captures, threading.Semaphore(0)
    seen, tried = [], threading.Semaphore(0)

    def away_once(run, captures):
        seen.append(state(outbox))
        tried.release()
        calls.acquire()
        if len(seen) == 1:
            raise TransientTrackerError("connection refused")
        put_captures(run, captures)

    monkeypatch.setattr(LocalRun, "put_captures", away_once)
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    assert state(outbox) is State.UPLOADING
    outbox.submit(make_capture(0))
    tried.acquire()
    calls.release()
    tried.acquire()
    assert seen == [State.UPLOADING, State.AWAY]
    assert "connection refused" in outbox._uploaders[0].status().error
    calls.release()
    assert outbox.close().complete
    assert state(outbox) is State.FINISHED
    assert "local is back" in caplog.text


def test_after_an_attempt_without_an_answer_only_what_is_missing_is_sent(
    tmp_path, there, monkeypatch
):
    put_captures, attempts = LocalRun.put_captures, []

    def put_without_answer(run, captures):
        attempts.append([capture.ref.step for capture in captures])
        put_captures(run, captures)
        if len(attempts) == 1:
            raise TransientTrackerError("no answer")

    monkeypatch.setattr(LocalRun, "put_captures", put_without_answer)
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(make_capture(0))
    assert outbox.close().complete
    assert attempts == [[0]]


def test_an_uploader_that_hangs_is_dismissed_with_its_captures_left(tmp_path, there, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(LocalRun, "put_captures", lambda *_: released.wait(60))
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    outbox.submit(make_capture(0))
    report = outbox.close(timeout_s=0.2)
    assert state(outbox) is State.DISMISSED
    assert (report.deliveries[0].left, report.complete) == (1, False)
    released.set()
    outbox._uploaders[0].join(60)
    assert state(outbox) is State.DISMISSED, "it ended late, and changed nothing"
    assert not (tmp_path / "spool/sent").exists()


def test_a_tracker_that_stays_away_does_not_hold_up_the_end(tmp_path, there, monkeypatch):
    """The end may take ten minutes; a tracker that is away gets only the patience for that."""

    def away(self, captures):
        raise TransientTrackerError("nobody answers")

    monkeypatch.setattr(LocalRun, "put_captures", away)
    monkeypatch.setattr(outbox_module, "AWAY_PATIENCE_S", 0.3)
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    outbox.submit(make_capture(0))
    report = outbox.close(timeout_s=600)
    assert report.deliveries[0].left == 1
    assert "tracker-viz push" in report.command


def test_a_tracker_that_answers_too_late_for_the_start_is_used_from_then_on(
    tmp_path, there, monkeypatch
):
    create_run, answered = LocalTracker.create_run, threading.Event()

    def slow(tracker, **described):
        answered.wait(60)
        return create_run(tracker, **described)

    monkeypatch.setattr(LocalTracker, "create_run", slow)
    outbox = Outbox(tmp_path / "spool", [there], name="a", start_timeout_s=0.05)
    assert state(outbox) is State.AWAY
    assert outbox._uploaders[0].status().error is None
    outbox.submit(make_capture(0))
    answered.set()
    assert outbox.close().complete
    assert steps_at(only_run(tmp_path / "there")) == [0]


def test_of_two_trainings_in_one_run_at_the_same_time_one_is_refused(tmp_path, caplog):
    """Two processes may be given the same run; each of them sees it empty at its start."""
    shared = LocalTracker(tmp_path / "there").create_run(name="shared", config={})
    first, second = (
        Outbox(tmp_path / f"spool-{number}", [Destination("local", ref=shared.ref)], name="a")
        for number in (1, 2)
    )
    first.submit(make_capture(0))
    first.submit(make_capture(1))
    assert first.close().complete

    second.submit(make_capture(0, seed=9))
    second.submit(make_capture(2, seed=9))
    report = second.close()
    assert not report.complete
    assert "a separate run" in report.deliveries[0].error
    assert steps_at(shared) == [0, 1]
    assert shared.missing(first.written.values()) == []
    assert steps_at(second.run) == [0, 2], "nothing is lost"

    again = push(tmp_path / "spool-2")
    assert "a separate run" in again.deliveries[0].error, "push does not overwrite it either"
    assert shared.missing(first.written.values()) == []


def test_a_training_finds_out_that_another_one_replaced_its_captures(tmp_path):
    shared = LocalTracker(tmp_path / "there").create_run(name="shared", config={})
    outbox = Outbox(tmp_path / "spool", [Destination("local", ref=shared.ref)], name="a")
    outbox.submit(make_capture(0))
    while not outbox._uploaders[0].status().sent:
        outbox.flush()
    with Outbox(tmp_path / "other", [Destination("local", ref=shared.ref)], name="b") as other:
        other.submit(make_capture(0, seed=9))  # watch() would refuse; a race may get this far
    report = outbox.close()
    assert "of step 0 from another training" in report.deliveries[0].error


def test_steps_that_a_continued_run_had_before_may_be_captured_again(tmp_path):
    run = LocalTracker(tmp_path / "there").create_run(name="a", config={})
    for seed, spool in enumerate(("first", "second")):
        with Outbox(tmp_path / spool, [Destination("local", ref=run.ref)], name="a") as outbox:
            outbox.submit(make_capture(0, seed=seed))
        assert outbox.close().complete
        assert run.missing(outbox.written.values()) == []


def test_a_joined_run_is_put_below_the_sweeps_run_unless_it_is_below_one(tmp_path):
    tracker = LocalTracker(tmp_path / "there")
    sweep, other = (tracker.create_run(name=name, config={}) for name in ("sweep", "other"))
    free, taken = (
        tracker.create_run(name="free", config={}),
        tracker.create_run(name="taken", config={}, parent=other.ref),
    )
    for number, joined in enumerate((free, taken)):
        destinations = [Destination("local", ref=joined.ref, parent=sweep.ref)]
        Outbox(tmp_path / f"spool-{number}", destinations, name="a").close()
    assert sweep.children() == [free.ref]
    assert other.children() == [taken.ref]


def test_a_sweep_that_a_tracker_cannot_show_costs_no_capture(tmp_path, monkeypatch, caplog):
    def refuse(run, parent):
        raise TrackerError("a tracker without sweeps")

    monkeypatch.setattr(LocalRun, "set_parent", refuse)
    tracker = LocalTracker(tmp_path / "there")
    sweep, joined = (tracker.create_run(name=name, config={}) for name in ("sweep", "joined"))
    destination = Destination("local", ref=joined.ref, parent=sweep.ref)
    with Outbox(tmp_path / "spool", [destination], name="a") as outbox:
        outbox.submit(make_capture(0))
    assert outbox.close().complete
    assert "a tracker without sweeps" in caplog.text
    assert steps_at(joined) == [0]
