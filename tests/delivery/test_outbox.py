"""From the training thread to several destinations: nothing is lost, nothing comes twice, nothing
is waited for."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from local_runs import only_run, steps_at

from tracker_viz import capture_file
from tracker_viz.delivery import Destination, Outbox, journal, push
from tracker_viz.errors import (
    ConfigError,
    MissingDependencyError,
    RunActiveError,
    TrackerError,
    TransientTrackerError,
)
from tracker_viz.files import read_lines
from tracker_viz.trackers.local import LocalRun, LocalTracker
from tracker_viz.trackers.testing import make_capture
from tracker_viz.types import RunRef


def test_every_capture_reaches_the_destination_byte_for_byte(tmp_path, there):
    with Outbox(tmp_path / "spool", [there], name="a", keep_captures=True) as outbox:
        for step in (0, 1, 5):
            outbox.submit(make_capture(step))
    (run,) = outbox.runs
    assert steps_at(run) == [0, 1, 5] == steps_at(outbox.run)
    for ref in run.list_captures():
        assert (run.directory / "captures" / ref.file_name).read_bytes() == capture_file.to_bytes(
            make_capture(ref.step)
        )
    assert run.info().state == "finished"


def test_metrics_come_from_the_captures_with_the_time_they_were_taken(tmp_path, there):
    before = time.time()
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(make_capture(3))
        outbox.set_summary({"best_head": "L0H1"})
    (line,) = read_lines(outbox.runs[0].directory / "metrics.jsonl")
    assert (line["step"], line["loss"]) == (3, 1.0)
    assert before <= line["time"] <= time.time()
    assert json.loads((outbox.runs[0].directory / "summary.json").read_text()) == {
        "best_head": "L0H1"
    }


def test_delivered_captures_leave_the_spool_and_are_still_known(tmp_path, there):
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(make_capture(0))
    assert steps_at(outbox.run) == []
    assert not list((tmp_path / "spool/captures").glob("**/step-*"))
    assert outbox.captured_steps == {0}


def test_a_spool_that_is_a_destination_itself_keeps_what_the_others_have(tmp_path, there):
    with Outbox(tmp_path / "spool", [there, Destination("local")], name="a") as outbox:
        outbox.submit(make_capture(0))
    assert [ref.path for ref in outbox.refs][1:] == [str(tmp_path / "spool")]
    push(tmp_path / "spool")
    assert steps_at(outbox.runs[0]) == steps_at(outbox.runs[1]) == [0]


def test_without_destinations_the_spool_is_the_run(tmp_path):
    for destinations in (
        [],
        [Destination("local")],
        [Destination("local", {"directory": str(tmp_path / "spool")})],
    ):
        with Outbox(tmp_path / "spool", destinations, name="a") as outbox:
            if 0 not in outbox.captured_steps:
                outbox.submit(make_capture(0))
        assert outbox.close().complete
        assert outbox.refs == [RunRef("local", str(tmp_path / "spool"))]
        assert steps_at(outbox.run) == [0]


def test_putting_does_not_wait_for_a_destination_that_hangs(tmp_path, there, monkeypatch):
    released = threading.Event()
    put_captures = LocalRun.put_captures
    monkeypatch.setattr(
        LocalRun,
        "put_captures",
        lambda run, captures: (released.wait(60), put_captures(run, captures)),
    )
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    for step in range(30):
        outbox.submit(make_capture(step))
    outbox.flush()
    assert steps_at(outbox.run) == list(range(30))
    assert outbox.close(timeout_s=0.2).deliveries[0].left == 30
    released.set()


def test_only_transient_errors_are_retried_until_they_pass(tmp_path, there, monkeypatch, caplog):
    put_captures, failures = LocalRun.put_captures, iter(range(5))

    def away(run, captures):
        if next(failures, None) is not None:
            raise TransientTrackerError("connection refused")
        put_captures(run, captures)

    monkeypatch.setattr(LocalRun, "put_captures", away)
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(make_capture(0))
    assert outbox.close().complete
    assert steps_at(outbox.runs[0]) == [0]
    assert caplog.text.count("is away") == 1


def test_a_disk_that_is_full_for_a_while_does_not_end_uploading_which_frees_it(
    tmp_path, there, monkeypatch, caplog
):
    append_lines, failures = journal.append_lines, iter(range(3))

    def full_at_first(lines, path):
        if path.parent.name == "sent" and next(failures, None) is not None:
            raise OSError(28, "No space left on device")
        append_lines(lines, path)

    monkeypatch.setattr(journal, "append_lines", full_at_first)
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(make_capture(0))
    assert outbox.close().complete
    assert steps_at(outbox.runs[0]) == [0]
    assert steps_at(outbox.run) == [], "what is delivered makes room"
    assert len(read_lines(outbox.runs[0].directory / "metrics.jsonl")) == 1
    assert "the spool's disk is away" in caplog.text


def test_a_refusal_is_not_retried_is_told_and_leaves_the_captures_for_push(
    tmp_path, there, monkeypatch, caplog
):
    tries = []

    def refuse(run, captures):
        tries.append(captures)
        raise TrackerError("permission denied: the token was revoked")

    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "put_captures", refuse)
        outbox = Outbox(tmp_path / "spool", [there], name="a")
        outbox.submit(make_capture(0))
        outbox.flush()
        report = outbox.close(timeout_s=60)
    assert len(tries) == 1
    assert "token was revoked" in report.deliveries[0].error
    assert report.command == f"tracker-viz push spool={tmp_path / 'spool'}"
    assert report.command in caplog.text
    assert push(tmp_path / "spool").complete
    assert steps_at(only_run(tmp_path / "there")) == [0]
    assert only_run(tmp_path / "there").info().state == "finished"


def test_one_destination_failing_does_not_touch_the_other(tmp_path, monkeypatch):
    put_captures = LocalRun.put_captures

    def refuse_bad(run, captures):
        if "bad" in str(run.directory):
            raise TrackerError("no")
        put_captures(run, captures)

    monkeypatch.setattr(LocalRun, "put_captures", refuse_bad)
    destinations = [
        Destination("local", {"directory": str(tmp_path / name)}) for name in ("bad", "good")
    ]
    outbox = Outbox(tmp_path / "spool", destinations, name="a")
    for step in range(3):
        outbox.submit(make_capture(step))
    report = outbox.close(timeout_s=60)
    assert [delivery.complete for delivery in report.deliveries] == [False, True]
    assert steps_at(only_run(tmp_path / "good")) == [0, 1, 2]
    assert steps_at(outbox.run) == [0, 1, 2], "what one destination lacks stays in the spool"


def test_a_destination_that_is_away_at_the_start_gets_its_run_later(tmp_path, there, monkeypatch):
    create_run, back = LocalTracker.create_run, threading.Event()

    def away(tracker, **described):
        if not back.is_set():
            raise TransientTrackerError("connection refused")
        return create_run(tracker, **described)

    monkeypatch.setattr(LocalTracker, "create_run", away)
    outbox = Outbox(tmp_path / "spool", [there], name="a", config={"lr": 0.1})
    assert outbox.refs == []
    outbox.submit(make_capture(0))
    back.set()
    assert outbox.close(timeout_s=60).complete
    assert only_run(tmp_path / "there").info().config == {"lr": 0.1}
    assert steps_at(only_run(tmp_path / "there")) == [0]


def test_what_waiting_cannot_mend_raises_before_training(tmp_path, there, monkeypatch):
    with pytest.raises(ConfigError, match="unknown tracker 'mlfow'"):
        Outbox(tmp_path / "spool", [Destination("mlfow")], name="a")
    monkeypatch.setattr(
        LocalTracker,
        "create_run",
        lambda *_, **__: (_ for _ in ()).throw(TrackerError("HTTP 403: no permission")),
    )
    with pytest.raises(TrackerError, match="no permission"):
        Outbox(tmp_path / "spool", [there], name="a")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delitem(sys.modules, "tracker_viz.trackers.mlflow.tracker", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tracker-viz\[mlflow\]'"):
        Outbox(tmp_path / "spool", [Destination("mlflow")], name="a")


def test_a_refusal_at_the_start_ends_the_run_that_another_destination_made(tmp_path, monkeypatch):
    create_run = LocalTracker.create_run

    def refuse_bad(tracker, **described):
        if "bad" in tracker.options["directory"]:
            raise TrackerError("no")
        return create_run(tracker, **described)

    monkeypatch.setattr(LocalTracker, "create_run", refuse_bad)
    destinations = [
        Destination("local", {"directory": str(tmp_path / name)}) for name in ("good", "bad")
    ]
    with pytest.raises(TrackerError):
        Outbox(tmp_path / "spool", destinations, name="a")
    assert only_run(tmp_path / "good").info().state == "failed"


def test_a_joined_run_is_not_ended_and_does_not_get_the_loops_own_metrics_twice(tmp_path):
    theirs = LocalTracker(tmp_path / "there").create_run(name="theirs", config={})
    score = {"attn/induction_max": 0.5}
    for destination in (Destination("local", ref=theirs.ref), LocalRun(theirs.directory)):
        spool = tmp_path / f"spool-{type(destination).__name__}"
        with Outbox(
            spool,
            [destination],
            name="a",
            prepare=lambda c: replace(c, metrics={**c.metrics, **score}),
        ) as outbox:
            outbox.submit(
                make_capture(
                    7 if isinstance(destination, Destination) else 8, metrics={"loss": 2.0}
                )
            )
    assert theirs.info().state == "running"
    assert steps_at(theirs) == [7, 8]
    assert [
        line.keys() - {"step", "time"} for line in read_lines(theirs.directory / "metrics.jsonl")
    ] == [set(score), set(score)]


def test_training_goes_on_in_its_spool_and_says_which_steps_are_there(tmp_path, there):
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(make_capture(0))
        outbox.submit(make_capture(10))
    with Outbox(tmp_path / "spool", [there], name="ignored now") as again:
        assert again.captured_steps == {0, 10}
        again.submit(make_capture(20))
    assert again.refs == outbox.refs
    assert steps_at(only_run(tmp_path / "there")) == [0, 10, 20]
    assert only_run(tmp_path / "there").info().name == "a"


def test_training_goes_on_in_a_run_from_another_machine(tmp_path, there):
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(make_capture(0))
    (ref,) = outbox.refs
    with Outbox(tmp_path / "elsewhere", [Destination("local", ref=ref)], name="a") as again:
        assert again.captured_steps == {0}
        again.submit(make_capture(5))
    assert steps_at(only_run(tmp_path / "there")) == [0, 5]
    other = Destination("local", {"directory": str(tmp_path / "other")})
    with Outbox(tmp_path / "both", [Destination("local", ref=ref), other], name="a") as both:
        assert both.captured_steps == frozenset(), "the other run has none"


def test_a_spool_of_one_run_refuses_to_record_another(tmp_path, there):
    Outbox(tmp_path / "spool", [there], name="a").close()
    other = LocalTracker(tmp_path / "there").create_run(name="other", config={})
    with pytest.raises(ConfigError, match="give it another directory"):
        Outbox(tmp_path / "spool", [Destination("local", ref=other.ref)], name="a")


def test_a_spool_that_is_in_use_is_left_alone(tmp_path):
    with Outbox(tmp_path / "spool", name="a"):
        for attempt in (
            lambda: push(tmp_path / "spool"),
            lambda: Outbox(tmp_path / "spool", name="a"),
        ):
            with pytest.raises(RunActiveError, match=f"process {os.getpid()}"):
                attempt()
    assert push(tmp_path / "spool").complete


def test_a_directory_that_cannot_be_a_spool_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be used as a spool: .*Not a directory"):
        Outbox(tmp_path / "file" / "spool", name="a")


def test_another_thread_may_close_and_the_spool_is_free_then(tmp_path):
    outbox = Outbox(tmp_path / "spool", name="a")
    closing = threading.Thread(target=outbox.close)
    closing.start()
    closing.join(60)
    assert push(tmp_path / "spool").complete


def test_progress_counts_up_to_everything(tmp_path, there, caplog):
    caplog.set_level(logging.INFO)
    seen = []
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    for step in range(5):
        outbox.submit(make_capture(step))
    outbox.close(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)


def test_of_two_that_start_at_once_the_second_leaves_what_the_first_noted(
    tmp_path, there, monkeypatch
):
    create, looked, late = LocalRun.create, threading.Event(), threading.Event()

    def create_late(directory, **described):
        if threading.current_thread() is second:
            looked.set()
            late.wait(10)
        return create(directory, **described)

    def start():
        with contextlib.suppress(RunActiveError):
            opened.append(Outbox(tmp_path / "spool", [there], name="a"))

    monkeypatch.setattr(LocalRun, "create", create_late)
    opened: list[Outbox] = []
    second = threading.Thread(target=start)
    second.start()
    looked.wait(10)
    start()
    late.set()
    second.join(10)
    (outbox,) = opened
    assert len(json.loads((tmp_path / "spool/run.json").read_text())["destinations"]) == 1
    outbox.submit(make_capture(0))
    assert outbox.close().complete
    assert steps_at(only_run(tmp_path / "there")) == [0]


LEFT_OPEN = """
    import sys
    from tracker_viz.delivery import Destination, Outbox
    from tracker_viz.trackers.testing import make_capture

    there = [Destination("local", {"directory": each}) for each in sys.argv[2:]]
    outbox = Outbox(sys.argv[1], there, name="a")
    outbox.submit(make_capture(0))
"""


@pytest.mark.parametrize(
    ("elsewhere", "command"),
    [([], "tracker-viz render run=local:{spool}"), (["there"], "tracker-viz push spool={spool}")],
)
def test_a_program_that_ends_without_close_names_the_command_that_helps(
    tmp_path, elsewhere, command
):
    spool = tmp_path / "spool"
    program = [sys.executable, "-c", textwrap.dedent(LEFT_OPEN), spool]
    done = subprocess.run(
        [*program, *(tmp_path / each for each in elsewhere)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.rstrip().endswith(f"with: {command.format(spool=spool)}")


def test_captures_can_be_listed_while_they_are_written_and_delivered(tmp_path, there):
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    (run,) = outbox.runs
    seen, ended = [], threading.Event()

    def look():
        while not ended.is_set():
            seen.append((outbox.captured_steps, run.missing(run.list_captures())))

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        for step in range(100):
            outbox.submit(make_capture(step))
        outbox.close()
        ended.set()
        looking.result()
    sizes = [len(steps) for steps, _ in seen]
    assert sizes == sorted(sizes), (
        "a capture on its way from the spool to the run is known all the time"
    )
    assert not any(missing for _, missing in seen)


def test_an_end_that_came_too_late_is_left_to_push_and_told(tmp_path, there, monkeypatch, caplog):
    """Every capture is there, and the run still looks as if it were going on."""
    note_metrics = journal.Journal.note_metrics

    def noted_just_after_the_deadline(noted, names):
        (uploader,) = outbox._uploaders
        while uploader._ending is None or time.monotonic() < uploader._ending.deadline:
            time.sleep(0.001)
        note_metrics(noted, names)

    monkeypatch.setattr(journal.Journal, "note_metrics", noted_just_after_the_deadline)
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    outbox.submit(make_capture(0))
    outbox.flush()
    report = outbox.close(timeout_s=0.2)
    run = only_run(tmp_path / "there")
    assert (steps_at(run), run.info().state) == ([0], "running")
    assert not report.complete
    assert "the end of the run has not reached local" in caplog.text
    assert push(tmp_path / "spool").complete
    assert run.info().state == "finished"


def test_a_disk_that_captures_filled_becomes_free_by_uploading_them(tmp_path, there, monkeypatch):
    append_lines = journal.append_lines

    def full_to_the_reserve(lines, path):
        if path.parent.name == "sent" and (tmp_path / "spool/.reserve").exists():
            raise OSError(28, "No space left on device")
        append_lines(lines, path)

    monkeypatch.setattr(journal, "append_lines", full_to_the_reserve)
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    assert (tmp_path / "spool/.reserve").stat().st_size > 1 << 16
    outbox.submit(make_capture(0))
    assert outbox.close(timeout_s=10).complete
    assert steps_at(outbox.run) == []


def test_a_full_disk_at_the_end_neither_raises_nor_keeps_the_run_from_its_end(
    tmp_path, there, monkeypatch
):
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    outbox.submit(make_capture(0))
    outbox.flush()

    def full(**changes):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(outbox.run, "describe", full)
        assert outbox.close().complete
    assert only_run(tmp_path / "there").info().state == "finished"


def test_who_would_not_wait_for_the_end_leaves_the_spool_to_push(tmp_path, there, monkeypatch):
    """A second Ctrl-C, in a program or a notebook that goes on afterwards."""
    gone = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "put_captures", lambda *_: gone.wait(30))
        outbox = Outbox(tmp_path / "spool", [there], name="a")
        outbox.submit(make_capture(0))
        with pytest.raises(KeyboardInterrupt):
            outbox.close(progress=lambda *_: signal.raise_signal(signal.SIGINT))
        gone.set()
    assert push(tmp_path / "spool").complete
    report = outbox.close()
    assert report.deliveries[0].left == 1
    assert report.command == f"tracker-viz push spool={tmp_path / 'spool'}"


def test_an_adapter_that_leaves_the_program_costs_its_own_uploads_only(
    tmp_path, there, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "finish", lambda *_: sys.exit("an SDK that gives up"))
        outbox = Outbox(tmp_path / "spool", [there], name="a")
        outbox.submit(make_capture(0))
        report = outbox.close()
    assert "an SDK that gives up" in report.deliveries[0].error
    assert not report.complete
    assert push(tmp_path / "spool").complete


# -- alarms ----------------------------------------------------------------------------------------


def alarming(step):
    alarm = {"kind": "logit", "step": step, "sentence": f"step {step}: the largest logit is 134"}
    return replace(make_capture(step), model={"alarms": [alarm]})


def test_alarms_travel_with_their_capture_and_are_told_to_the_run(tmp_path, there):
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(make_capture(0))
        outbox.submit(alarming(8))
    told = list((outbox.runs[0].directory / "alarms").iterdir())
    assert [file.name for file in told] == ["logit_step_00000008.txt"]
    assert told[0].read_text() == "step 8: the largest logit is 134\n"


def test_an_alarm_that_is_sent_again_doubles_no_point(tmp_path, there, monkeypatch):
    alert = LocalRun.alert
    outages = [TransientTrackerError("away for a moment")]

    def away_once(self, kind, step, sentence):
        if outages:
            raise outages.pop()
        alert(self, kind, step, sentence)

    monkeypatch.setattr(LocalRun, "alert", away_once)
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(alarming(8))
    made = outbox.runs[0].directory
    assert [point["step"] for point in read_lines(made / "metrics.jsonl")] == [8]
    assert (made / "alarms" / "logit_step_00000008.txt").is_file()


def test_a_tracker_that_takes_no_alarm_still_gets_the_captures(
    tmp_path, there, monkeypatch, caplog
):
    def refuse(self, kind, step, sentence):
        raise TrackerError("no alerts in this plan")

    monkeypatch.setattr(LocalRun, "alert", refuse, raising=False)
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(alarming(8))
    assert steps_at(outbox.runs[0]) == [8]
    assert "the alarm of step 8 could not be sent" in caplog.text


def test_an_alarm_that_is_damaged_is_left_out_and_its_capture_is_not(tmp_path, there, caplog):
    broken = replace(make_capture(8), model={"alarms": [{"kind": "../x", "step": "soon"}]})
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(broken)
    assert steps_at(outbox.runs[0]) == [8]
    assert not (outbox.runs[0].directory / "alarms").exists()
