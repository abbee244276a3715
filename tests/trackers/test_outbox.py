"""From the training thread to several destinations: nothing is lost, nothing comes twice, nothing is waited for."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from tracker_viz import capture_file
from tracker_viz.errors import ConfigError, MissingDependencyError, RunActiveError, TrackerError, TransientTrackerError
from tracker_viz.trackers import uploader as uploader_module
from tracker_viz.trackers.local import LocalRun, LocalTracker, read_lines
from tracker_viz.trackers.outbox import Destination, Outbox
from tracker_viz.trackers.push import push
from tracker_viz.trackers.testing import make_capture
from tracker_viz.types import RunRef


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch):
    monkeypatch.setattr(uploader_module, "FIRST_RETRY_S", 0.01)


@pytest.fixture
def there(tmp_path):
    """A destination on another 'disk'."""
    return Destination("local", {"directory": str(tmp_path / "there")})


def steps_at(run):
    return [ref.step for ref in run.list_captures()]


def only_run(directory):
    (made,) = [path.parent for path in directory.glob("*/run.json")]
    return LocalRun(made)


def test_every_capture_reaches_the_destination_byte_for_byte(tmp_path, there):
    with Outbox(tmp_path / "spool", [there], name="a", keep_captures=True) as outbox:
        for step in (0, 1, 5):
            outbox.put(make_capture(step))
    (run,) = outbox.runs
    assert steps_at(run) == [0, 1, 5] == steps_at(outbox.run)
    for ref in run.list_captures():
        assert (run.directory / "captures" / ref.file_name).read_bytes() == capture_file.to_bytes(make_capture(ref.step))
    assert run.info().state == "finished"


def test_metrics_come_from_the_captures_with_the_time_they_were_taken(tmp_path, there):
    before = time.time()
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.put(make_capture(3))
        outbox.set_summary({"best_head": "L0H1"})
    (line,) = read_lines(outbox.runs[0].directory / "metrics.jsonl")
    assert (line["step"], line["loss"]) == (3, 1.0)
    assert before <= line["time"] <= time.time()
    assert json.loads((outbox.runs[0].directory / "summary.json").read_text()) == {"best_head": "L0H1"}


def test_delivered_captures_leave_the_spool_and_are_still_known(tmp_path, there):
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.put(make_capture(0))
    assert steps_at(outbox.run) == []
    assert not list((tmp_path / "spool/captures").glob("**/step-*"))
    assert outbox.captured_steps == {0}


def test_a_spool_that_is_a_destination_itself_keeps_what_the_others_have(tmp_path, there):
    with Outbox(tmp_path / "spool", [there, Destination("local")], name="a") as outbox:
        outbox.put(make_capture(0))
    assert [ref.path for ref in outbox.refs][1:] == [str(tmp_path / "spool")]
    push(tmp_path / "spool")
    assert steps_at(outbox.runs[0]) == steps_at(outbox.runs[1]) == [0]


def test_final_tables_reach_the_destination_also_when_it_was_away_until_push(tmp_path, there, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LocalTracker, "create_run", lambda *_, **__: (_ for _ in ()).throw(TransientTrackerError("connection refused")))
        outbox = Outbox(tmp_path / "spool", [there], name="a")
        outbox.put_table([{"head": "L00H00", "role": None, "onset_step": 4, "score": 0.5}], "head_roles")
        outbox.close(timeout_s=0.3)
    given = []
    monkeypatch.setattr(LocalRun, "put_table", lambda run, rows, name: given.append((run.ref, rows, name)))
    assert push(tmp_path / "spool").complete
    ref = only_run(tmp_path / "there").ref
    assert given == [(ref, [{"head": "L00H00", "role": None, "onset_step": 4, "score": 0.5}], "head_roles")]


def test_without_destinations_the_spool_is_the_run(tmp_path):
    for destinations in ([], [Destination("local")], [Destination("local", {"directory": str(tmp_path / "spool")})]):
        with Outbox(tmp_path / "spool", destinations, name="a") as outbox:
            if 0 not in outbox.captured_steps:
                outbox.put(make_capture(0))
        assert outbox.close().complete
        assert outbox.refs == [RunRef("local", str(tmp_path / "spool"))]
        assert steps_at(outbox.run) == [0]


def test_putting_does_not_wait_for_a_destination_that_hangs(tmp_path, there, monkeypatch):
    released = threading.Event()
    put_captures = LocalRun.put_captures
    monkeypatch.setattr(LocalRun, "put_captures", lambda run, captures: (released.wait(30), put_captures(run, captures)))
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    for step in range(30):
        outbox.put(make_capture(step))
    outbox.flush()
    assert steps_at(outbox.run) == list(range(30))
    assert outbox.close(timeout_s=0.2).deliveries[0].left == 30
    released.set()


def test_a_full_queue_waits_for_the_disk_and_loses_nothing(tmp_path):
    slow = threading.Semaphore(0)

    def prepare(capture):
        slow.acquire()
        return capture

    with Outbox(tmp_path / "spool", name="a", prepare=prepare, queue_captures=2) as outbox:
        putting = threading.Thread(target=lambda: [outbox.put(make_capture(step)) for step in range(6)])
        putting.start()
        putting.join(0.3)
        assert putting.is_alive(), "the queue holds two; the third to wait must wait"
        for _ in range(6):
            slow.release()
        putting.join(10)
    assert steps_at(outbox.run) == list(range(6))
    assert outbox.close().lost == ()


def test_a_disk_that_takes_nothing_is_waited_for_once_and_what_it_cost_is_told(tmp_path, caplog):
    stuck = threading.Event()
    outbox = Outbox(tmp_path / "spool", name="a", prepare=lambda c: (stuck.wait(30), c)[1], queue_captures=1, max_stall_s=0.5)
    before = time.monotonic()
    for step in range(9):
        outbox.put(make_capture(step))
    assert 0.5 <= time.monotonic() - before < 1.0, "not once for every capture"
    stuck.set()
    outbox.flush()
    outbox.put(make_capture(9))
    report = outbox.close()
    assert report.lost == tuple(range(2, 9))
    assert steps_at(outbox.run) == [0, 1, 9], "a disk that is back is used again"
    assert "step 2 is lost" in caplog.text


def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path, monkeypatch):
    from tracker_viz.trackers import writer

    monkeypatch.setattr(writer, "DISK_RETRIES_S", (0.01, 0.01, 0.01))
    write_atomically, failures = capture_file.write_atomically, iter([True, True])

    def full_at_first(contents, path):
        if path.suffix == ".safetensors" and next(failures, False):
            raise OSError(28, "No space left on device")
        write_atomically(contents, path)

    monkeypatch.setattr(capture_file, "write_atomically", full_at_first)
    with Outbox(tmp_path / "spool", name="a") as outbox:
        outbox.put(make_capture(0))
    assert steps_at(outbox.run) == [0]
    assert outbox.close().lost == ()


def test_a_capture_that_cannot_be_prepared_is_kept_raw_and_told_once(tmp_path, caplog):
    def prepare(capture):
        raise ZeroDivisionError("a bug in a score")

    with Outbox(tmp_path / "spool", name="a", prepare=prepare) as outbox:
        outbox.put(make_capture(0))
        outbox.put(make_capture(1))
    assert steps_at(outbox.run) == [0, 1]
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


def test_a_capture_that_cannot_be_stored_as_prepared_is_kept_raw(tmp_path):
    def prepare(capture):
        return replace(capture, arrays={"bad name!": np.zeros(3, np.float32)})

    with Outbox(tmp_path / "spool", name="a", prepare=prepare) as outbox:
        outbox.put(make_capture(0))
    assert capture_file.read_header(outbox.run.directory / "captures/step-00000000.safetensors").arrays.keys() == {"blocks.0.attn.pattern"}


def test_only_transient_errors_are_retried_until_they_pass(tmp_path, there, monkeypatch, caplog):
    put_captures, failures = LocalRun.put_captures, iter(range(5))

    def away(run, captures):
        if next(failures, None) is not None:
            raise TransientTrackerError("connection refused")
        put_captures(run, captures)

    monkeypatch.setattr(LocalRun, "put_captures", away)
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.put(make_capture(0))
    assert outbox.close().complete
    assert steps_at(outbox.runs[0]) == [0]
    assert caplog.text.count("is away") == 1


def test_a_refusal_is_not_retried_is_told_and_leaves_the_captures_for_push(tmp_path, there, monkeypatch, caplog):
    tries = []

    def refuse(run, captures):
        tries.append(captures)
        raise TrackerError("permission denied: the token was revoked")

    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "put_captures", refuse)
        outbox = Outbox(tmp_path / "spool", [there], name="a")
        outbox.put(make_capture(0))
        outbox.flush()
        report = outbox.close(timeout_s=10)
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
    destinations = [Destination("local", {"directory": str(tmp_path / name)}) for name in ("bad", "good")]
    outbox = Outbox(tmp_path / "spool", destinations, name="a")
    for step in range(3):
        outbox.put(make_capture(step))
    report = outbox.close(timeout_s=10)
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
    outbox.put(make_capture(0))
    back.set()
    assert outbox.close(timeout_s=10).complete
    assert only_run(tmp_path / "there").info().config == {"lr": 0.1}
    assert steps_at(only_run(tmp_path / "there")) == [0]


def test_a_destination_that_never_comes_is_left_to_push(tmp_path, there, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LocalTracker, "create_run", lambda *_, **__: (_ for _ in ()).throw(TransientTrackerError("connection refused")))
        outbox = Outbox(tmp_path / "spool", [there], name="a")
        outbox.put(make_capture(0))
        report = outbox.close("failed", timeout_s=0.3)
        assert (report.deliveries[0].left, report.deliveries[0].ref) == (1, None)
        assert not push(tmp_path / "spool", patience_s=0.3).complete
    assert push(tmp_path / "spool").complete
    assert push(tmp_path / "spool").complete
    run = only_run(tmp_path / "there")
    assert steps_at(run) == [0]
    assert run.info().state == "failed"


def test_what_waiting_cannot_mend_raises_before_training(tmp_path, there, monkeypatch):
    with pytest.raises(ConfigError, match="unknown tracker 'mlfow'"):
        Outbox(tmp_path / "spool", [Destination("mlfow")], name="a")
    monkeypatch.setattr(LocalTracker, "create_run", lambda *_, **__: (_ for _ in ()).throw(TrackerError("HTTP 403: no permission")))
    with pytest.raises(TrackerError, match="no permission"):
        Outbox(tmp_path / "spool", [there], name="a")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delitem(sys.modules, "tracker_viz.trackers.mlflow", raising=False)
    with pytest.raises(MissingDependencyError, match="pip install mlflow"):
        Outbox(tmp_path / "spool", [Destination("mlflow")], name="a")


def test_a_refusal_at_the_start_ends_the_run_that_another_destination_made(tmp_path, monkeypatch):
    create_run = LocalTracker.create_run

    def refuse_bad(tracker, **described):
        if "bad" in tracker.options["directory"]:
            raise TrackerError("no")
        return create_run(tracker, **described)

    monkeypatch.setattr(LocalTracker, "create_run", refuse_bad)
    destinations = [Destination("local", {"directory": str(tmp_path / name)}) for name in ("good", "bad")]
    with pytest.raises(TrackerError):
        Outbox(tmp_path / "spool", destinations, name="a")
    assert only_run(tmp_path / "good").info().state == "failed"


def test_a_joined_run_is_not_ended_and_does_not_get_the_loops_own_metrics_twice(tmp_path):
    theirs = LocalTracker(tmp_path / "there").create_run(name="theirs", config={})
    score = {"attn/induction_max": 0.5}
    for destination in (Destination("local", ref=theirs.ref), LocalRun(theirs.directory)):
        spool = tmp_path / f"spool-{type(destination).__name__}"
        with Outbox(spool, [destination], name="a", prepare=lambda c: replace(c, metrics={**c.metrics, **score})) as outbox:
            outbox.put(make_capture(7 if isinstance(destination, Destination) else 8, metrics={"loss": 2.0}))
    assert theirs.info().state == "running"
    assert steps_at(theirs) == [7, 8]
    assert [line.keys() - {"step", "time"} for line in read_lines(theirs.directory / "metrics.jsonl")] == [set(score), set(score)]


def test_training_goes_on_in_its_spool_and_says_which_steps_are_there(tmp_path, there):
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.put(make_capture(0))
        outbox.put(make_capture(10))
    with Outbox(tmp_path / "spool", [there], name="ignored now") as again:
        assert again.captured_steps == {0, 10}
        again.put(make_capture(20))
    assert again.refs == outbox.refs
    assert steps_at(only_run(tmp_path / "there")) == [0, 10, 20]
    assert only_run(tmp_path / "there").info().name == "a"


def test_training_goes_on_in_a_run_from_another_machine(tmp_path, there):
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.put(make_capture(0))
    (ref,) = outbox.refs
    with Outbox(tmp_path / "elsewhere", [Destination("local", ref=ref)], name="a") as again:
        assert again.captured_steps == {0}
        again.put(make_capture(5))
    assert steps_at(only_run(tmp_path / "there")) == [0, 5]


def test_a_spool_of_one_run_refuses_to_record_another(tmp_path, there):
    Outbox(tmp_path / "spool", [there], name="a").close()
    other = LocalTracker(tmp_path / "there").create_run(name="other", config={})
    with pytest.raises(ConfigError, match="give it another directory"):
        Outbox(tmp_path / "spool", [Destination("local", ref=other.ref)], name="a")


def test_a_spool_that_is_in_use_is_left_alone(tmp_path):
    with Outbox(tmp_path / "spool", name="a"):
        for attempt in (lambda: push(tmp_path / "spool"), lambda: Outbox(tmp_path / "spool", name="a")):
            with pytest.raises(RunActiveError, match=f"process {os.getpid()}"):
                attempt()
    assert push(tmp_path / "spool").complete


def test_another_thread_may_close_and_the_spool_is_free_then(tmp_path):
    outbox = Outbox(tmp_path / "spool", name="a")
    closing = threading.Thread(target=outbox.close)
    closing.start()
    closing.join(10)
    assert push(tmp_path / "spool").complete


def test_push_mends_what_the_destination_damaged_while_the_spool_has_it(tmp_path, there, caplog):
    with Outbox(tmp_path / "spool", [there], name="a", keep_captures=True) as outbox:
        for step in range(3):
            outbox.put(make_capture(step))
    run = only_run(tmp_path / "there")
    os.truncate(run.directory / "captures/step-00000001.safetensors", 100)
    assert push(tmp_path / "spool").complete
    for ref in run.list_captures():
        run.fetch(ref, tmp_path)
    assert len(read_lines(run.directory / "metrics.jsonl")) == 3
    (tmp_path / "spool/captures/step-00000002.safetensors").unlink()
    os.truncate(run.directory / "captures/step-00000002.safetensors", 100)
    assert push(tmp_path / "spool").deliveries[0].damaged == (2,)
    assert "step 2 damaged" in caplog.text


def test_push_of_something_else_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.json"):
        push(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_in_the_spool_is_not_uploaded(tmp_path, there, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "put_captures", lambda *_: (_ for _ in ()).throw(TransientTrackerError("away")))
        outbox = Outbox(tmp_path / "spool", [there], name="a")
        outbox.put(make_capture(0))
        outbox.put(make_capture(1))
        outbox.close(timeout_s=0.2)
    os.truncate(tmp_path / "spool/captures/step-00000000.safetensors", 100)
    push(tmp_path / "spool")
    assert steps_at(only_run(tmp_path / "there")) == [1]
    assert "step 0 cannot be uploaded" in caplog.text


def test_a_fork_must_not_put_captures(tmp_path):
    with Outbox(tmp_path / "spool", name="a") as outbox:
        child = os.fork()
        if child == 0:
            try:
                outbox.put(make_capture(0))
            except ConfigError:
                os._exit(42)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
        outbox.put(make_capture(1))
    assert steps_at(outbox.run) == [1]


TRAINING = """
    import os, sys, time
    from tracker_viz.trackers.outbox import Destination, Outbox
    from tracker_viz.trackers.testing import make_capture
    from tracker_viz.trackers.local import LocalRun

    put_captures = LocalRun.put_captures
    LocalRun.put_captures = lambda run, captures: (time.sleep(0.05), put_captures(run, captures))
    outbox = Outbox(sys.argv[1], [Destination("local", {"directory": sys.argv[2]})], name="killed")
    for step in range(int(sys.argv[3])):
        outbox.put(make_capture(step, size=64))
        outbox.flush()
        print(step, flush=True)
"""


def train_and_kill(tmp_path, n_steps):
    """Let a process train and kill it after ``n_steps`` captures; returns the last step that it said was on the disk."""
    program = [sys.executable, "-c", textwrap.dedent(TRAINING), str(tmp_path / "spool"), str(tmp_path / "there"), "1000"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    said = [int(process.stdout.readline()) for _ in range(n_steps)]
    process.send_signal(signal.SIGKILL)
    said += [int(line) for line in process.stdout.read().split("\n")[:-1]]
    process.wait()
    process.stdout.close()
    return said[-1]


@pytest.mark.parametrize("n_steps", [1, 7, 20])
def test_after_a_kill_push_finishes_exactly_once(tmp_path, n_steps):
    last = train_and_kill(tmp_path, n_steps)
    report = push(tmp_path / "spool")
    assert report.complete
    run = only_run(tmp_path / "there")
    steps = steps_at(run)
    assert steps == list(range(len(steps)))
    assert len(steps) >= last + 1
    for ref in run.list_captures():
        assert run.fetch(ref, tmp_path).read_bytes() == capture_file.to_bytes(make_capture(ref.step, size=64))
    logged = {(line["step"], line["time"]) for line in read_lines(run.directory / "metrics.jsonl")}
    assert sorted(step for step, _ in logged) == steps
    assert run.info().state == "killed"


def test_two_pushes_at_once_do_the_work_once(tmp_path):
    train_and_kill(tmp_path, 20)
    program = "import sys; from tracker_viz.trackers.push import push; print(push(sys.argv[1]).complete)"
    pushes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "spool")], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in pushes] == ["True", "True"]
    run = only_run(tmp_path / "there")
    assert steps_at(run) == list(range(len(steps_at(run))))
    assert sorted({(line["step"], line["time"]) for line in read_lines(run.directory / "metrics.jsonl")}) == sorted(
        {(line["step"], line["time"]) for line in read_lines(tmp_path / "spool/metrics.jsonl")}
    )


def test_a_program_that_never_closes_leaves_its_captures_on_the_disk(tmp_path):
    program = """
    import sys, time
    from tracker_viz.trackers.outbox import Outbox
    from tracker_viz.trackers.testing import make_capture
    outbox = Outbox(sys.argv[1], name="a", prepare=lambda capture: (time.sleep(0.2), capture)[1])
    for step in range(5):
        outbox.put(make_capture(step))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "spool")], capture_output=True, text=True, check=True
    )
    assert "training ended without close()" in done.stderr
    assert steps_at(LocalRun(tmp_path / "spool")) == [0, 1, 2, 3, 4]


def test_progress_counts_up_to_everything(tmp_path, there, caplog):
    caplog.set_level(logging.INFO)
    seen = []
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    for step in range(5):
        outbox.put(make_capture(step))
    outbox.close(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)


def test_a_worker_that_outlives_its_killed_parent_does_not_hold_the_spool(tmp_path):
    program = """
    import os, sys, time
    from tracker_viz.trackers.outbox import Outbox
    from tracker_viz.trackers.testing import make_capture
    outbox = Outbox(sys.argv[1], name="a")
    outbox.put(make_capture(0))
    outbox.flush()
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "spool")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        worker = int(process.stdout.readline())
        try:
            process.kill()
            process.wait()
            assert push(tmp_path / "spool").complete
        finally:
            os.kill(worker, signal.SIGKILL)
