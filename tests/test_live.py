"""A page on this machine follows a training: each capture is in it as it comes, and nobody else
gets to see it."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

import tracker_viz as tv
from tracker_viz.delivery import Destination, Outbox
from tracker_viz.errors import ConfigError, MissingDependencyError, TransientTrackerError
from tracker_viz.pipeline.following import live_view
from tracker_viz.pipeline.following.live_view import LiveView
from tracker_viz.rendering import resolve_layout
from tracker_viz.trackers import download
from tracker_viz.trackers.local import LocalRun
from tracker_viz.trackers.testing import make_capture, write_captures


@pytest.fixture(autouse=True)
def _own_directories(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))


@contextmanager
def served(**options):
    """The port of a page that is served meanwhile."""
    ready, stop, ports, failed = threading.Event(), threading.Event(), [], []

    def on_ready(address):
        ports.append(int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", address)[1]))
        ready.set()

    def serve():
        try:
            tv.live(port=0, layout="heads", size="640x360", on_ready=on_ready, stop=stop, **options)
        except Exception as error:
            failed.append(error)
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait(60)
    try:
        yield ports[0]
    finally:
        stop.set()
        thread.join(60)
        assert not failed


def ask(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def events(response):
    """Yield what the server says, one after the other."""
    for line in response:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def until(said, is_it):
    return next(event for event in said if is_it(event))


def test_each_capture_of_a_training_is_shown_though_its_tracker_has_it_at_once(tmp_path):
    there = Destination("local", {"directory": str(tmp_path / "there")})
    with served(spool=tmp_path / "spool") as port:
        assert b"EventSource" in ask(port, "/").read()
        assert ask(port, "/picture.png").status == 404
        said = events(ask(port, "/events"))
        assert next(said)["step"] is None
        pictures = []
        with Outbox(tmp_path / "spool", [there], name="seen live") as outbox:
            for step in (0, 3, 9):
                outbox.submit(make_capture(step))
                found = until(said, lambda event, step=step: event["step"] == step)
                assert found["loss"] == pytest.approx(4 / (1 + step))
                assert not found["ended"]
                pictures.append(ask(port, "/picture.png").read())
        assert Image.open(io.BytesIO(pictures[0])).size == (640, 360)
        assert len(set(pictures)) == 3
        until(said, lambda event: event["page"] == 9 and event["ended"])
        page = ask(port, "/explorer").read().decode()
        assert "seen live" in page
        assert '"steps":[0,3,9]' in page
    assert not (tmp_path / "spool" / ".taps").exists()


def test_pages_of_other_sites_and_other_machines_are_refused(tmp_path):
    with served(spool=tmp_path / "spool") as port:
        assert ask(port, "/", Host=f"127.0.0.1:{port}").status == 200
        assert ask(port, "/", Host=f"localhost:{port}").status == 200
        for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1:{port + 1}", ""):
            for path in ("/", "/events", "/picture.png", "/explorer", "/nothing"):
                assert ask(port, path, Host=host).status in (400, 403), (host, path)
        for origin in ("http://evil.example", "null", f"https://localhost:{port}"):
            assert ask(port, "/events", Origin=origin).status == 403
        answer = ask(port, "/", Origin=f"http://127.0.0.1:{port}")
        assert answer.status == 200
        assert "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        with socket.socket() as elsewhere, pytest.raises(OSError):  # noqa: PT011
            elsewhere.connect((socket.gethostbyname(socket.gethostname()), port))
            if elsewhere.getpeername()[0].startswith("127."):
                raise OSError  # this machine's own name is the loopback interface


def test_a_run_of_many_captures_keeps_few_of_them_here(tmp_path, monkeypatch):
    monkeypatch.setattr(live_view, "MOST_SHOWN", 8)
    run = LocalRun.create(tmp_path / "run", name="a", config={})
    view = LiveView(run, resolve_layout("heads"), tmp_path / "view", size="640x360", theme="dark")
    assert not view.look()
    for start in range(0, 60, 20):
        run.put_captures(write_captures(range(start, start + 20), tmp_path / "made"))
        assert view.look()
        assert view.picture()[0] == start + 19
        assert len(list((tmp_path / "view" / "captures").iterdir())) <= 8
    assert b'"steps":[0,' in view.page()


def test_captures_that_could_not_be_pulled_are_asked_for_again(tmp_path, monkeypatch):
    run = LocalRun.create(tmp_path / "run", name="a", config={})
    view = LiveView(run, resolve_layout("heads"), tmp_path / "view", size="640x360", theme="dark")
    run.put_captures(write_captures([0, 1], tmp_path / "made"))

    def away(run, ref, directory):
        raise TransientTrackerError("away")

    with monkeypatch.context() as patched, pytest.raises(TransientTrackerError):
        patched.setattr(LocalRun, "fetch", away)
        patched.setattr(download, "RETRIES_S", ())
        view.look()
    assert view.look()
    assert view.picture()[0] == 1
    assert not view.look()


def test_ranges_that_hold_are_not_those_of_the_first_capture_alone(tmp_path):
    """At which no weight has changed yet."""
    run = LocalRun.create(tmp_path / "run", name="a", config={})
    view = LiveView(run, resolve_layout("heads"), tmp_path / "view", size="640x360", theme="dark")
    for steps, holds in (([0], False), ([1, 2, 3], True)):
        run.put_captures(write_captures(steps, tmp_path / "made"))
        assert view.look()
        assert bool(view._scales.ranges) == holds


def test_what_is_asked_wrongly_is_said_before_anything_is_served(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="give run=<RunRef>, or spool="):
        tv.live()
    with pytest.raises(ConfigError, match="give run=<RunRef>, or spool="):
        tv.live("local:x", spool="y")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be used"):
            tv.live(spool=tmp_path / "other", port=port)
    monkeypatch.setitem(sys.modules, "flask", None)
    with pytest.raises(MissingDependencyError, match="pip install flask"):
        tv.live(spool=tmp_path / "spool")


# Stands for both of what `make live` starts: ends as they do, and says so.
STARTED = """#!{python}
import os, signal, time
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    os.write(1, b"began\\n")
    time.sleep(60)
except KeyboardInterrupt:
    os.write(1, b"ended\\n")
"""


# Ctrl-C goes to all that the terminal started, kill to make alone.
@pytest.mark.parametrize(("end", "name"), [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)])
def test_make_live_leaves_nothing_behind_when_it_is_ended(tmp_path, end, name):
    temporary, programs = tmp_path / "temporary", tmp_path / "bin"
    for directory in (temporary, programs):
        directory.mkdir()
    for program in ("tracker-viz", "python"):
        (programs / program).write_text(STARTED.format(python=sys.executable))
        (programs / program).chmod(0o755)
    # -o: what it needs counts as installed
    made = subprocess.Popen(
        ["make", "--silent", "live", f"BIN={programs}", "-o", ".venv/.user"],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert [made.stdout.readline() for _ in range(2)] == ["began\n"] * 2
        assert len(list(temporary.iterdir())) == 1
        end(made.pid, name)
        said, _ = made.communicate(timeout=30)
        assert said.split() == ["ended"] * 2
        assert list(temporary.iterdir()) == []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(made.pid, signal.SIGKILL)


@pytest.mark.chromium
def test_a_browser_shows_the_newest_capture_and_the_explorer(tmp_path, page):
    with (
        served(spool=tmp_path / "spool") as port,
        Outbox(tmp_path / "spool", name="seen live") as outbox,
    ):
        failed = []
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/")
        for step in (0, 3):
            outbox.submit(make_capture(step))
            page.locator("#step", has_text=re.compile(f"^{step}$")).wait_for()
            decoded = "image => image.decode().then(() => image.naturalWidth)"
            assert page.locator("#now").evaluate(decoded) == 640
        page.set_viewport_size({"width": 390, "height": 844})
        box = page.locator("#now").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(640 / 360, rel=0.01)
        page.click("#switch")
        frame = page.frame_locator("#explorer")
        frame.locator("h1", has_text="seen live").wait_for()
        outbox.submit(make_capture(9))
        page.click("#newer")
        # The one before stays in sight until the newer one is painted.
        assert page.locator("#explorer").is_visible()
        page.locator(".coming").wait_for(state="detached")
        asked = "frame => frame.contentWindow.location.search"
        assert page.locator("#explorer").evaluate(asked) in ("?at=3", "?at=9")
        frame.locator("h1", has_text="seen live").wait_for()
        assert failed == []
        # A connection that is dead since the machine slept is noticed, and made anew.
        page.evaluate("() => { events.close(); listenIfLost(); }")
        outbox.submit(make_capture(12))
        page.locator("#step", has_text=re.compile("^12$")).wait_for()
        silent = """() => {
          const [before, isOpen] = [events, events.readyState !== EventSource.CLOSED];
          listenIfLost();
          const isKept = events === before;
          heardAt -= 60_000;
          listenIfLost();
          return [isOpen, isKept, events === before];
        }"""
        assert page.evaluate(silent) == [True, True, False]
