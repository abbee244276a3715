"""Captures in memory reach the disk before a signal ends somebody's own loop."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from local_runs import steps_at

from tracker_viz.delivery import Outbox
from tracker_viz.errors import ConfigError
from tracker_viz.pipeline.recording.watcher import Watcher
from tracker_viz.trackers.local import LocalRun
from tracker_viz.trackers.testing import make_capture

LOOP = """
    import signal, sys, time
    from tracker_viz.delivery import Outbox
    from tracker_viz.pipeline.recording.watcher import Watcher
    from tracker_viz.trackers.testing import make_capture

    def slow(capture):
        time.sleep(0.05)
        return capture

    def theirs(number, frame):
        print("requeued", flush=True)
        sys.exit(3)

    outbox = Outbox(sys.argv[1], name="a", prepare=slow)
    # Under nohup the tests, and so this program, begin with it ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if sys.argv[2] == "theirs":
        signal.signal(signal.SIGUSR1, theirs)
    if sys.argv[2] == "ignored":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if sys.argv[2] != "none":
        Watcher(outbox=outbox).flush_on_signals()
    for step in range(20):
        outbox.submit(make_capture(step))
    print("submitted", flush=True)
    while not sys.stdin.readline():
        pass
"""


@pytest.mark.parametrize(
    ("kind", "number", "code", "n_kept"),
    [
        ("default", signal.SIGTERM, -signal.SIGTERM, 20),
        ("default", signal.SIGHUP, -signal.SIGHUP, 20),
        ("theirs", signal.SIGUSR1, 3, 20),
        ("ignored", signal.SIGHUP, 0, 20),
        ("none", signal.SIGTERM, -signal.SIGTERM, None),
    ],
)
def test_what_was_captured_is_on_the_disk_when_a_signal_ends_the_program(
    tmp_path, kind, number, code, n_kept
):
    command = [sys.executable, "-c", textwrap.dedent(LOOP), str(tmp_path / "spool"), kind]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "submitted\n"
        process.send_signal(number)
        out, _ = process.communicate("go on\n", timeout=60)
        assert process.returncode == code
    steps = steps_at(LocalRun(tmp_path / "spool"))
    if n_kept is None:
        assert len(steps) < 20, "or there would be nothing to flush"
    else:
        assert steps == list(range(n_kept))
    assert ("requeued" in out) == (kind == "theirs")


def test_handlers_are_taken_away_unless_another_was_put_over_them(tmp_path):
    def later(number, frame):
        pass

    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)
    with Outbox(tmp_path / "spool", name="a") as outbox:
        watcher = Watcher(outbox=outbox)
        watcher.flush_on_signals()
        assert signal.getsignal(signal.SIGTERM) != before[1]
        signal.signal(signal.SIGUSR1, later)
        outbox.submit(make_capture(0))
        assert watcher.flush(60)
        assert steps_at(outbox.run) == [0]
        watcher.close()
    assert signal.getsignal(signal.SIGTERM) == before[1]
    assert signal.getsignal(signal.SIGUSR1) is later
    signal.signal(signal.SIGUSR1, before[0])
    Watcher().flush_on_signals()
    assert signal.getsignal(signal.SIGTERM) == before[1], "nothing is recorded there"
    assert Watcher().flush()


def test_another_thread_is_told_where_handlers_are_taken(tmp_path):
    said = []

    def ask():
        with Outbox(tmp_path / "spool", name="a") as outbox, pytest.raises(ConfigError) as caught:
            Watcher(outbox=outbox).flush_on_signals()
        said.append(str(caught.value))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(60)
    assert said == ["flush_on_signals() must be called on the main thread"]
