"""Progress on standard error: a bar for a terminal, plain lines for a log file."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import termios

from tracker_viz.progress import LINE_EVERY_S, PlainLines, progress_bar

WORK = """
from tracker_viz.progress import progress_bar
with progress_bar("drawing", "frames", shown=True) as advance:
    for done in range(1, 501):
        advance(done, 500, f"loss {done}")
"""


def test_a_log_file_gets_a_plain_line_now_and_then(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    now_s = 0.0
    lines = PlainLines("drawing", "frames", clock=lambda: now_s)
    for done in range(1, 201):
        now_s = done * LINE_EVERY_S / 100
        lines.advance(done, 200, "loss 3.2" if done > 100 else "")
    assert log.getvalue() == ("drawing: 100 of 200 frames\ndrawing: 200 of 200 frames, loss 3.2\n")


def test_short_work_leaves_a_log_file_alone(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with progress_bar("drawing", "frames", shown=True) as advance:
        for done in range(500):
            advance(done, 500)
    assert log.getvalue() == ""


def test_no_carriage_return_reaches_a_log_file():
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, check=True)
    assert b"\r" not in done.stderr


def test_a_terminal_gets_a_bar():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    environment = os.environ | {"TQDM_MININTERVAL": "0"}
    with subprocess.Popen([sys.executable, "-c", WORK], stderr=theirs, env=environment) as worker:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:
            pass  # how a terminal says that its last writer left
    os.close(ours)
    assert worker.returncode == 0
    assert b"drawing" in shown
    assert b"loss" in shown
    assert b"\r" in shown


def test_hidden_progress_prints_nothing(capsys):
    with progress_bar("drawing", "frames", shown=False) as advance:
        advance(1, 2)
    assert capsys.readouterr().err == ""
