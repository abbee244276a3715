"""``tracker-viz ui``: it finds the run that was trained last, starts what shows it, and says when
that answers."""

from __future__ import annotations

import os
import socket

import pytest
from own_port import own_port

from tracker_viz.delivery import Destination, Outbox
from tracker_viz.errors import ConfigError, TrackerError
from tracker_viz.jobs.ui import last_trained, serve
from tracker_viz.trackers.local import LocalTracker

# A UI that ends by itself once it was looked at
SERVER = """
import http.server, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
with http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler) as server:
    server.handle_request()
"""


@pytest.fixture
def port():
    with own_port() as held:
        yield held.getsockname()[1]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Puts a module where ``python -m`` finds it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda name, source: (tmp_path / f"{name}.py").write_text(source)


def test_the_link_is_printed_once_the_ui_answers(capsys, module, port):
    module("some_ui", SERVER)
    serve("some_ui serve --store here", port, ready=f"http://127.0.0.1:{port}/#/runs/1")
    out = capsys.readouterr().out
    assert f"Starting: some_ui serve --store here --port {port}\n" in out
    assert f"Watch: http://127.0.0.1:{port}/#/runs/1\n" in out


def test_a_ui_that_ends_at_once_is_an_error(capsys, module, port):
    module("broken_ui", "raise SystemExit(3)")
    with pytest.raises(TrackerError, match="the UI ended at once, with exit code 3"):
        serve("broken_ui", port, ready="never printed")
    assert "never printed" not in capsys.readouterr().out


def test_a_taken_port_is_told_before_anything_is_started(port):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(
            ConfigError, match=f"port {port} cannot be used .* choose another: port={port + 1}"
        ):
            serve("never_started", port, ready="")


def test_the_run_trained_last_from_a_directory_is_remembered_by_its_spool(tmp_path):
    for age, place in (
        (200, "outputs/day/early/spool"),
        (0, "outputs/day/late/spool"),
        (100, "spool/middle"),
    ):
        with Outbox(
            tmp_path / place,
            [Destination("local", {"directory": str(tmp_path / "runs")})],
            name=place.replace("/", "-"),
        ):
            pass
        described = tmp_path / place / "run.json"
        os.utime(described, (described.stat().st_mtime - age,) * 2)
    ref, options = last_trained(tmp_path)
    assert ref.path == f"{tmp_path}/runs/outputs-day-late-spool"
    assert options == {"directory": str(tmp_path / "runs")}


def test_a_directory_without_a_trained_run_is_an_error(tmp_path):
    with pytest.raises(
        ConfigError, match=r"no run was trained from .* name one: tracker-viz ui run="
    ):
        last_trained(tmp_path)


def test_a_run_without_a_video_is_shown_itself_with_the_command_that_makes_one(
    tracker_viz, tmp_path
):
    run = LocalTracker(tmp_path / "runs").create_run(name="a run", config={})
    without = tracker_viz("ui", f"run={run.ref}")
    assert without.out.splitlines()[-1] == run.url()
    assert (
        "has no file overview.webm: here is its page. To make its video, from any directory:"
        in without.out
    )
    assert f"\n  tracker-viz render run={run.ref}\n" in without.out
    (run.directory / "overview.webm").write_bytes(b"a video")
    assert tracker_viz("ui", f"run={run.ref}").out == f"{run.url('overview.webm')}\n"
    assert tracker_viz("ui", f"run={run.ref}", "artifact=null").out == f"{run.url()}\n"
