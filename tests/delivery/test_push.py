"""Captures that a killed or offline process left in its spool reach their destinations once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from local_runs import only_run, steps_at

from tracker_viz import capture_file
from tracker_viz.delivery import Outbox, push
from tracker_viz.delivery import report as report_module
from tracker_viz.delivery.uploader import Uploader
from tracker_viz.errors import ConfigError, TransientTrackerError
from tracker_viz.files import read_lines
from tracker_viz.trackers.local import LocalRun, LocalTracker
from tracker_viz.trackers.testing import make_capture


def test_a_destination_that_never_comes_is_left_to_push(tmp_path, there, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            LocalTracker,
            "create_run",
            lambda *_, **__: (_ for _ in ()).throw(TransientTrackerError("connection refused")),
        )
        outbox = Outbox(tmp_path / "spool", [there], name="a")
        outbox.submit(make_capture(0))
        report = outbox.close("failed", timeout_s=0.3)
        assert (report.deliveries[0].left, report.deliveries[0].ref) == (1, None)
        assert not push(tmp_path / "spool", patience_s=0.3).complete
    assert push(tmp_path / "spool").complete
    assert push(tmp_path / "spool").complete
    run = only_run(tmp_path / "there")
    assert steps_at(run) == [0]
    assert LocalRun(tmp_path / "spool").why_no_captures() == (
        f"none are left here; those that were uploaded are in {run.ref}"
    )
    assert run.info().state == "failed"


def test_final_tables_reach_the_destination_also_when_it_was_away_until_push(
    tmp_path, there, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(
            LocalTracker,
            "create_run",
            lambda *_, **__: (_ for _ in ()).throw(TransientTrackerError("connection refused")),
        )
        outbox = Outbox(tmp_path / "spool", [there], name="a")
        outbox.put_table(
            [{"head": "L00H00", "role": None, "onset_step": 4, "score": 0.5}], "head_roles"
        )
        outbox.close(timeout_s=0.3)
    given = []
    monkeypatch.setattr(
        LocalRun, "put_table", lambda run, rows, name: given.append((run.ref, rows, name))
    )
    assert push(tmp_path / "spool").complete
    ref = only_run(tmp_path / "there").ref
    assert given == [
        (ref, [{"head": "L00H00", "role": None, "onset_step": 4, "score": 0.5}], "head_roles")
    ]


def test_push_mends_what_the_destination_damaged_while_the_spool_has_it(tmp_path, there, caplog):
    with Outbox(tmp_path / "spool", [there], name="a", keep_captures=True) as outbox:
        for step in range(3):
            outbox.submit(make_capture(step))
    run = only_run(tmp_path / "there")
    os.truncate(run.directory / "captures/step-00000001.safetensors", 100)
    assert push(tmp_path / "spool").complete
    for ref in run.list_captures():
        run.fetch(ref, tmp_path)
    assert len(read_lines(run.directory / "metrics.jsonl")) == 3
    (tmp_path / "spool/captures/step-00000002.safetensors").unlink()
    os.truncate(run.directory / "captures/step-00000002.safetensors", 100)
    assert push(tmp_path / "spool").deliveries[0].damaged == (2,)
    assert "damaged capture of step 2" in caplog.text


def away(*_):
    raise TransientTrackerError("away")


def test_push_gives_up_on_a_tracker_that_is_away(tmp_path, there, monkeypatch):
    monkeypatch.setattr(LocalRun, "put_captures", away)
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    outbox.submit(make_capture(0))
    outbox.close(timeout_s=0.2)
    assert not push(tmp_path / "spool", patience_s=0.3).complete


def test_push_is_patient_with_many_bytes_on_a_slow_line(tmp_path, there, monkeypatch):
    """A backlog is sent in chunks of a hundred megabytes and more, which take minutes over a slow
    line."""
    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "put_captures", away)
        outbox = Outbox(tmp_path / "spool", [there], name="a")
        outbox.submit(make_capture(0))
        outbox.close(timeout_s=0.2)

    patience_s, bytes_take_s = 120.0, 36_000.0
    nbytes = (tmp_path / "spool/captures/step-00000000.safetensors").stat().st_size
    monkeypatch.setattr(report_module, "SLOWEST_BYTES_PER_S", nbytes / bytes_take_s)
    has_time_for_bytes = threading.Event()
    close, put_captures = Uploader.close, LocalRun.put_captures

    def noting_close(uploader, state, *, deadline, **options):
        if deadline > time.monotonic() + bytes_take_s / 2:
            has_time_for_bytes.set()
        close(uploader, state, deadline=deadline, **options)

    def put_slowly(run, captures):
        # Until push has given these bytes their time; if it never does, it fails.
        if not has_time_for_bytes.wait(patience_s):
            raise TransientTrackerError("away")
        put_captures(run, captures)

    monkeypatch.setattr(Uploader, "close", noting_close)
    monkeypatch.setattr(LocalRun, "put_captures", put_slowly)
    assert push(tmp_path / "spool", patience_s=patience_s).complete


def test_push_of_something_else_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.json"):
        push(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_in_the_spool_is_not_uploaded(tmp_path, there, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(
            LocalRun,
            "put_captures",
            lambda *_: (_ for _ in ()).throw(TransientTrackerError("away")),
        )
        outbox = Outbox(tmp_path / "spool", [there], name="a")
        outbox.submit(make_capture(0))
        outbox.submit(make_capture(1))
        outbox.close(timeout_s=0.2)
    os.truncate(tmp_path / "spool/captures/step-00000000.safetensors", 100)
    assert push(tmp_path / "spool").deliveries[0].damaged == (0,)
    assert steps_at(only_run(tmp_path / "there")) == [1]
    assert "step 0 cannot be uploaded" in caplog.text


TRAINING = """
    import os, sys, time
    from tracker_viz.delivery import Destination, Outbox
    from tracker_viz.trackers.testing import make_capture
    from tracker_viz.trackers.local import LocalRun

    put_captures = LocalRun.put_captures
    LocalRun.put_captures = lambda run, captures: (time.sleep(0.05), put_captures(run, captures))
    outbox = Outbox(sys.argv[1], [Destination("local", {"directory": sys.argv[2]})], name="killed")
    for step in range(int(sys.argv[3])):
        outbox.submit(make_capture(step, size=64))
        outbox.flush()
        print(step, flush=True)
"""


def train_and_kill(tmp_path, n_steps):
    """Let a process train and kill it after ``n_steps`` captures; returns the last step that it
    said was on the disk."""
    program = [
        sys.executable,
        "-c",
        textwrap.dedent(TRAINING),
        str(tmp_path / "spool"),
        str(tmp_path / "there"),
        "1000",
    ]
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
        assert run.fetch(ref, tmp_path).read_bytes() == capture_file.to_bytes(
            make_capture(ref.step, size=64)
        )
    logged = {(line["step"], line["time"]) for line in read_lines(run.directory / "metrics.jsonl")}
    assert sorted(step for step, _ in logged) == steps
    assert run.info().state == "killed"


def test_two_pushes_at_once_do_the_work_once(tmp_path):
    train_and_kill(tmp_path, 20)
    program = "import sys; from tracker_viz.delivery import push; print(push(sys.argv[1]).complete)"
    pushes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "spool")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [process.communicate(timeout=240)[0].strip() for process in pushes] == ["True", "True"]
    run = only_run(tmp_path / "there")
    assert steps_at(run) == list(range(len(steps_at(run))))
    assert sorted(
        {(line["step"], line["time"]) for line in read_lines(run.directory / "metrics.jsonl")}
    ) == sorted(
        {(line["step"], line["time"]) for line in read_lines(tmp_path / "spool/metrics.jsonl")}
    )


def test_a_worker_that_outlives_its_killed_parent_does_not_hold_the_spool(tmp_path):
    program = """
    import os, sys, time
    from tracker_viz.delivery import Outbox
    from tracker_viz.trackers.testing import make_capture
    outbox = Outbox(sys.argv[1], name="a")
    outbox.submit(make_capture(0))
    outbox.flush()
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(300)
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


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, float("inf"), float("nan")])
def test_a_time_that_cannot_be_waited_for_is_refused(tmp_path, timeout_s):
    with Outbox(tmp_path, name="a run"):
        pass
    with pytest.raises(
        ConfigError, match="timeout_s must be a finite number of seconds above 0; got"
    ):
        push(tmp_path, timeout_s=timeout_s)
