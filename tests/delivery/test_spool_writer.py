"""From the training thread to the spool: what the disk, and what is done with a capture on the way,
may cost."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace

import numpy as np
from local_runs import steps_at

from tracker_viz import capture_file
from tracker_viz.delivery import Outbox
from tracker_viz.errors import ConfigError
from tracker_viz.trackers.local import LocalRun
from tracker_viz.trackers.testing import make_capture


def nbytes(capture):
    return sum(array.nbytes for array in capture.arrays.values())


def test_a_full_queue_waits_for_the_disk_and_loses_nothing(tmp_path, caplog):
    slow = threading.Semaphore(0)

    def prepare(capture):
        slow.acquire()
        return capture

    two = 2 * nbytes(make_capture(0))
    with Outbox(tmp_path / "spool", name="a", prepare=prepare, queue_bytes=two) as outbox:
        putting = threading.Thread(
            target=lambda: [outbox.submit(make_capture(step)) for step in range(6)]
        )
        putting.start()
        putting.join(0.3)
        assert putting.is_alive(), "the queue holds two; the third to wait must wait"
        for _ in range(6):
            slow.release()
        putting.join(60)
    assert steps_at(outbox.run) == list(range(6))
    assert outbox.close().lost == ()
    assert outbox._writer.n_waits >= 1
    assert caplog.text.count("training waits at step") == 1, "said once"


def test_small_captures_do_not_hold_training_up_by_their_number(tmp_path, caplog):
    slow = threading.Event()
    with Outbox(tmp_path / "spool", name="a", prepare=lambda c: (slow.wait(60), c)[1]) as outbox:
        for step in range(30):
            outbox.submit(make_capture(step))
        slow.set()
    assert steps_at(outbox.run) == list(range(30))
    assert outbox._writer.n_waits == 0
    assert "training wait" not in caplog.text


def test_a_disk_that_takes_nothing_is_waited_for_once_and_what_it_cost_is_told(
    tmp_path, monkeypatch, caplog
):
    stuck, begun = threading.Event(), threading.Event()
    outbox = Outbox(
        tmp_path / "spool",
        name="a",
        prepare=lambda c: (begun.set(), stuck.wait(60), c)[2],
        queue_bytes=nbytes(make_capture(0)),
        max_stall_s=0.5,
    )
    outbox.submit(make_capture(0))
    assert begun.wait(60)
    changed, waited_at_most_s = outbox._writer._changed, []
    wait_for = changed.wait_for
    with monkeypatch.context() as patch:
        patch.setattr(
            changed,
            "wait_for",
            lambda done, timeout_s: (waited_at_most_s.append(timeout_s), wait_for(done, timeout_s))[
                1
            ],
        )
        for step in range(1, 9):
            outbox.submit(make_capture(step))
    assert waited_at_most_s == [0.5, 0, 0, 0, 0, 0, 0], "one finds room, one waits, and no other"
    stuck.set()
    outbox.flush()
    outbox.submit(make_capture(9))
    report = outbox.close()
    assert report.lost == tuple(range(2, 9))
    assert steps_at(outbox.run) == [0, 1, 9], "a disk that is back is used again"
    assert "step 2 is lost" in caplog.text


def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path, monkeypatch):
    from tracker_viz.delivery import spool_writer

    monkeypatch.setattr(spool_writer, "DISK_RETRY_S", 0.01)
    write_atomically, failures = capture_file.write_atomically, iter([True, True])

    def full_at_first(contents, path):
        if path.suffix == ".safetensors" and next(failures, False):
            raise OSError(28, "No space left on device")
        write_atomically(contents, path)

    monkeypatch.setattr(capture_file, "write_atomically", full_at_first)
    with Outbox(tmp_path / "spool", name="a") as outbox:
        outbox.submit(make_capture(0))
    assert steps_at(outbox.run) == [0]
    assert outbox.close().lost == ()


def test_a_capture_that_cannot_be_prepared_is_kept_raw_and_told_once(tmp_path, caplog):
    def prepare(capture):
        raise ZeroDivisionError("a bug in a score")

    with Outbox(tmp_path / "spool", name="a", prepare=prepare) as outbox:
        outbox.submit(make_capture(0))
        outbox.submit(make_capture(1))
    assert steps_at(outbox.run) == [0, 1]
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


def test_a_capture_that_cannot_be_stored_as_prepared_is_kept_raw(tmp_path):
    def prepare(capture):
        return replace(capture, arrays={"bad name!": np.zeros(3, np.float32)})

    with Outbox(tmp_path / "spool", name="a", prepare=prepare) as outbox:
        outbox.submit(make_capture(0))
    assert capture_file.read_header(
        outbox.run.directory / "captures/step-00000000.safetensors"
    ).arrays.keys() == {"blocks.0.attn.pattern"}


def test_a_fork_must_not_put_captures(tmp_path):
    capture = make_capture(0)
    with Outbox(tmp_path / "spool", name="a") as outbox:
        child = os.fork()
        if child == 0:
            try:
                outbox.submit(capture)
            except ConfigError:
                os._exit(42)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
        outbox.submit(make_capture(1))
    assert steps_at(outbox.run) == [1]


def test_a_program_that_never_closes_leaves_its_captures_on_the_disk(tmp_path):
    program = """
    import sys, time
    from tracker_viz.delivery import Outbox
    from tracker_viz.trackers.testing import make_capture
    outbox = Outbox(sys.argv[1], name="a", prepare=lambda capture: (time.sleep(0.2), capture)[1])
    for step in range(5):
        outbox.submit(make_capture(step))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "spool")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "training ended without close()" in done.stderr
    assert steps_at(LocalRun(tmp_path / "spool")) == [0, 1, 2, 3, 4]


def test_a_disk_that_is_full_when_the_loops_metrics_are_new_loses_nothing(tmp_path, monkeypatch):
    from tracker_viz.delivery import spool_writer

    monkeypatch.setattr(spool_writer, "DISK_RETRY_S", 0.01)
    describe, failures = LocalRun.describe, iter([True, True])

    def full_at_first(run, **changes):
        if "loop_metrics" in changes and next(failures, False):
            raise OSError(28, "No space left on device")
        describe(run, **changes)

    monkeypatch.setattr(LocalRun, "describe", full_at_first)
    with Outbox(tmp_path / "spool", name="a") as outbox:
        outbox.submit(make_capture(0, metrics={"loss": 2.0}))
    assert outbox.close().lost == ()
    assert steps_at(outbox.run) == [0]


def test_what_is_no_mere_exception_does_not_end_the_writer(tmp_path):
    """A panic in an extension written in Rust derives from BaseException, and the captures to come
    must not be lost for it."""

    def prepare(capture):
        if capture.step == 0:
            sys.exit("a panic")
        return capture

    with Outbox(tmp_path / "spool", name="a", prepare=prepare) as outbox:
        outbox.submit(make_capture(0))
        outbox.submit(make_capture(1))
        assert outbox.flush(10)
    assert steps_at(outbox.run) == [0, 1]


def test_a_capture_that_is_not_written_in_time_is_told_and_does_not_come_later(tmp_path):
    slow, began = threading.Event(), threading.Event()
    outbox = Outbox(
        tmp_path / "spool",
        name="a",
        prepare=lambda c: (began.set(), slow.wait(30), c)[2],
        max_stall_s=0.1,
    )
    outbox.submit(make_capture(0))
    outbox.submit(make_capture(1))
    began.wait(10)
    report = outbox.close(timeout_s=0.1)
    assert report.lost == (0, 1)
    slow.set()
    outbox._writer._thread.join(10)
    assert steps_at(outbox.run) == [], "another process may have the spool by now"


def test_a_fork_that_leaves_the_block_ends_nothing(tmp_path, there):
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(make_capture(0))
        outbox.flush()
        child = os.fork()
        if child == 0:
            try:
                outbox.__exit__(SystemExit, SystemExit(), None)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert outbox.run.info().state == "running"
        outbox.submit(make_capture(1))
    assert outbox.close().complete
    assert steps_at(outbox.runs[0]) == [0, 1]
