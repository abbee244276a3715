"""Outages, kills and offline clusters: training never feels them, and after ``push`` every capture
is in the run exactly once.

Training runs in a process of its own, with the real client and its service process; the server is
stopped and started under it. Our patience with the service is set to two seconds there, so that an
outage of a few seconds outlasts it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from own_port import own_port
from wandb_server import WandbServer
from wandb_server.fixtures import wandb_server, wandb_service  # noqa: F401
from wandb_server.httpd import API_KEY

from tracker_viz import capture_file
from tracker_viz.delivery import push
from tracker_viz.errors import CaptureFileError, TransientTrackerError
from tracker_viz.trackers.download import pull
from tracker_viz.trackers.local import LocalRun
from tracker_viz.trackers.testing import make_capture, write_captures
from tracker_viz.trackers.wandb.download import download
from tracker_viz.trackers.wandb.service import WandbService
from tracker_viz.trackers.wandb.tracker import WandbTracker
from tracker_viz.types import RunRef

N_STEPS = 8

TRAINING = """
    import json, logging, sys, time
    import numpy as np
    from tracker_viz.trackers.wandb import artifacts as wandb_artifacts
    from tracker_viz.trackers.wandb import service as wandb_service
    from tracker_viz.delivery import Destination, Outbox
    from tracker_viz.trackers.testing import make_capture

    spool, n_steps, pause_s, timeout_s, start_s, finish_s, *more = sys.argv[1:]
    wandb_service.API_TIMEOUT_S = wandb_artifacts.UPLOAD_S = 2
    logging.basicConfig(level=logging.INFO)
    wandb = Destination("wandb", {"settings": {"finish_timeout": float(finish_s)}})
    mlflow = [Destination("mlflow", {"tracking_uri": uri}) for uri in more]
    outbox = Outbox(spool, [wandb, *mlflow], name="faults", start_timeout_s=float(start_s))
    weight, rng = 1.0, np.random.default_rng(0)
    for step in range(int(n_steps)):
        weight -= 0.1 * (weight + rng.normal(scale=0.01))
        capture = make_capture(step, metrics={"loss": weight**2})
        outbox.submit(capture)
        print("step", step, repr(weight**2), flush=True)
        time.sleep(float(pause_s))
    outbox.flush()
    print("trained", flush=True)
    report = outbox.close(timeout_s=float(timeout_s))
    print("closed", report.complete, flush=True)
"""


class Training:
    """A training process that is watched line by line."""

    def __init__(
        self,
        server,
        directory,
        *arguments,
        pause_s=0.05,
        timeout_s=120,
        start_s=60,
        finish_s=60,
        environment=None,
    ):
        self.spool = directory / "spool"
        options = map(str, (self.spool, N_STEPS, pause_s, timeout_s, start_s, finish_s))
        program = [sys.executable, "-c", textwrap.dedent(TRAINING), *options, *arguments]
        (directory / "home").mkdir(parents=True, exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        self.process = subprocess.Popen(
            program,
            env=clean | server.environment(directory) | (environment or {}),
            cwd=directory,
            text=True,
            stdout=subprocess.PIPE,
            stderr=(directory / "stderr.txt").open("w"),
        )
        self.lines: list[str] = []
        self.errors = directory / "stderr.txt"

    def until(self, start):
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if line.startswith(start):
                return
        raise AssertionError(
            f"training ended before {start!r}: {self.lines}\n{self.errors.read_text()}"
        )

    def until_it_says(self, message):
        """Until its log has it."""
        self.until_it_has(lambda: message in self.errors.read_text())

    def until_it_has(self, done):
        while not done():
            assert self.process.poll() is None, self.errors.read_text()
            time.sleep(0.05)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def end(self):
        """Wait for the process."""
        out, _ = self.process.communicate(timeout=240)
        self.lines += out.split("\n")
        assert self.process.returncode == 0, self.errors.read_text()

    @property
    def losses(self):
        return [line.split()[2] for line in self.lines if line.startswith("step ")]

    @property
    def delivered(self):
        return "closed True" in self.lines


@pytest.fixture(scope="module")
def losses():
    """The loss curve of the same training without any tracker."""
    program = "\n".join(
        line
        for line in textwrap.dedent(TRAINING).split("\n")
        if not re.search(r"outbox|wandb|mlflow|report", line)
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "-", str(N_STEPS), "0", "0", "0", "0"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split()[2] for line in done.stdout.split("\n") if line.startswith("step ")]


def only_run(server):
    (run,) = server.runs
    return run


def assert_exactly_once(server, steps=range(N_STEPS)):
    """Every capture is in one version of the run's artifact and in no other; every point is in the
    charts."""
    run = only_run(server)
    files = [
        (name, contents)
        for artifact in server.artifacts(run.path, "tracker-viz-capture")
        for name, contents in artifact.files.items()
    ]
    assert Counter(name for name, _ in files) == Counter(
        make_capture(step).file_name for step in steps
    )
    refs = (
        WandbTracker(base_url=server.base_url).open_run(RunRef("wandb", run.path)).list_captures()
    )
    assert [ref.step for ref in refs] == list(steps)
    assert sorted(row["tracker_viz/step"] for row in run.history if "loss" in row) == list(steps)


@pytest.fixture
def server(wandb_server):
    """A server of this test's own: it is empty, and may be killed."""
    with WandbServer() as own:
        yield own
    assert own.refused == []


@pytest.fixture(autouse=True)
def no_service_process_outlives_its_training(tmp_path):
    """Each training has one, also those that are killed."""
    yield
    deadline = time.monotonic() + 60
    while (left := service_processes(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


@pytest.fixture
def at(server, monkeypatch):
    """Point this process's pushes and readers at the test's own server."""
    monkeypatch.setenv("WANDB_BASE_URL", server.base_url)


def test_down_at_the_start_and_there_later(server, at, losses, tmp_path):
    server.stop()
    training = Training(server, tmp_path, start_s=2)
    training.until("trained")
    training.until_it_says("wandb is away")
    server.start()
    training.end()
    assert training.losses == losses
    assert training.delivered, training.errors.read_text()
    assert re.search(r"wandb is away .*wandb is back", training.errors.read_text(), re.DOTALL)
    assert_exactly_once(server)
    assert only_run(server).state == "finished"


def test_down_in_the_middle_and_back(server, at, losses, tmp_path):
    training = Training(server, tmp_path)
    training.until("step 2")
    server.stop()
    training.until("trained")
    time.sleep(3)  # longer than our patience
    server.start()
    training.end()
    assert training.losses == losses
    assert training.delivered, training.errors.read_text()
    assert_exactly_once(server)


def test_a_slow_service_is_sent_nothing_twice(server, at, losses, tmp_path):
    server.slow["CommitArtifact"] = 7.0
    training = Training(server, tmp_path)
    training.end()
    assert training.losses == losses
    assert training.delivered, training.errors.read_text()
    assert "has not confirmed" in training.errors.read_text()
    assert_exactly_once(server)
    assert server.counts()["CreateArtifact"] == len(server.artifacts(only_run(server).path)) == 1


def test_never_there_costs_a_bounded_time_and_touches_no_other_tracker(
    server, at, losses, tmp_path, mlflow_store
):
    server.stop()
    client = MlflowClient(mlflow_store)
    training = Training(server, tmp_path, mlflow_store, timeout_s=15, start_s=2, finish_s=4)
    training.end()  # which comes by itself, as the server does not
    assert training.losses == losses
    assert "closed False" in training.lines
    assert "Traceback" not in training.errors.read_text()
    (run,) = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()]
    )
    assert run.info.status == "FINISHED"
    assert (
        len(
            [file for file in client.list_artifacts(run.info.run_id, "captures") if not file.is_dir]
        )
        == N_STEPS
    )
    server.start()
    assert push(training.spool).complete
    assert_exactly_once(server)
    assert only_run(server).state == "finished"
    assert push(training.spool).complete
    assert_exactly_once(server)


def test_killed_during_an_outage(server, at, losses, tmp_path):
    training = Training(server, tmp_path, pause_s=0.3)
    training.until("step 2")
    server.stop()
    training.until("step 6")
    training.until_it_has(lambda: len(list(training.spool.glob("captures/step-*"))) >= 7)
    training.kill()
    server.start()
    report = push(training.spool)
    assert report.complete, report
    n_kept = len(only_run(server).history)
    assert n_kept >= 7
    assert_exactly_once(server, range(n_kept))
    assert only_run(server).state == "killed"
    assert training.losses == losses[: len(training.losses)]


def test_killed_while_all_is_well(server, at, tmp_path):
    training = Training(server, tmp_path, pause_s=0.1)
    training.until("step 5")
    assert service_processes(tmp_path)  # or what looks for them after each test would see nothing
    training.kill()
    assert push(training.spool).complete
    assert_exactly_once(server, range(len(only_run(server).history)))


def test_chart_points_that_only_a_killed_client_had_are_sent_again_and_not_twice(
    server, at, tmp_path
):
    """The client sends rows when it finds time, captures at once: a power cut takes the rows.

    Here they are lost on their way: a long interval between the client's posts does not always hold
    them back.
    """
    server.cut.add("file_stream")
    training = Training(server, tmp_path)
    training.until("trained")
    journal = training.spool / "sent/wandb.jsonl"
    training.until_it_has(lambda: journal.exists() and "enqueued" in journal.read_text())
    for process, _ in service_processes(tmp_path):
        os.kill(int(process), signal.SIGKILL)
    training.kill()
    assert only_run(server).history == []
    server.cut.clear()
    assert push(training.spool).complete
    assert_exactly_once(server)
    assert push(training.spool).complete
    assert_exactly_once(server)

    # One that a client had sent, and of which the journal does not know it yet
    lines = [line for line in journal.read_text().splitlines() if '"metrics"' not in line]
    journal.write_text("\n".join(lines) + "\n")
    assert push(training.spool).complete
    assert_exactly_once(server)


def test_offline_then_synced_and_pushed_into_one_run(server, at, losses, tmp_path):
    training = Training(server, tmp_path, environment={"WANDB_MODE": "offline"})
    training.end()
    assert training.losses == losses
    assert server.requests == []
    (directory,) = tmp_path.rglob("offline-run-*")
    first = f"first, where W&B can be reached: wandb sync {directory}"
    assert f"wandb works offline in this process; {first}" in training.errors.read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        with pytest.raises(TransientTrackerError, match="WANDB_MODE=offline keeps this process"):
            push(training.spool, timeout_s=2)
    assert list(tmp_path.rglob("offline-run-*")) == [directory], "no second log"
    # Rendering needs the spool only.
    captures = pull(LocalRun(training.spool), tmp_path / "cache").captures
    assert [capture_file.read(capture.path).step for capture in captures] == list(range(N_STEPS))

    report = push(training.spool, timeout_s=2)
    assert "wandb sync" in str(report.deliveries[0].error)
    (directory,) = (tmp_path / "wandb").glob("offline-run-*")
    synced = subprocess.run(
        [Path(sys.executable).parent / "wandb", "sync", str(directory)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | server.environment(tmp_path),
    )
    assert synced.returncode == 0, synced.stdout + synced.stderr
    assert push(training.spool).complete
    assert_exactly_once(server)
    assert only_run(server).state == "finished"
    before = list(server.artifacts(only_run(server).path))
    assert push(training.spool).complete
    assert server.artifacts(only_run(server).path) == before


def test_no_secret_is_written_down(server, at, tmp_path):
    training = Training(server, tmp_path)
    training.end()
    written = [path for path in [*training.spool.rglob("*"), training.errors] if path.is_file()]
    assert [path for path in written if API_KEY.encode() in path.read_bytes()] == []
    assert API_KEY not in "\n".join(training.lines)


def service_processes(root):
    """Those that work in a directory below ``root``, as their trainings do."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, directory = (process / "cmdline").read_bytes(), (process / "cwd").readlink()
        except OSError:
            continue
        if b"wandb-core" in command and directory.is_relative_to(root):
            found.append((process.name, directory))
    return found


def test_a_download_ends_at_the_bytes_that_were_promised(wandb_server, tmp_path):
    run = WandbTracker(project="large").create_run(name="a", config={})
    run.put_captures(write_captures([0], tmp_path / "captures"))
    run.finish("finished")
    (artifact,) = wandb_server.artifacts(run.ref.path)
    for digest in artifact.contents:
        artifact.contents[digest] += bytes(1 << 20)
    with pytest.raises(CaptureFileError, match="at most"):
        run.fetch(run.list_captures()[0], tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


def test_only_the_service_itself_is_sent_the_key(wandb_server, tmp_path):
    asked = []

    def answer():
        connection, _ = elsewhere.accept()
        with connection:
            asked.append(connection.recv(1 << 16))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with own_port() as elsewhere:
        elsewhere.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        file = SimpleNamespace(url=f"http://127.0.0.1:{elsewhere.getsockname()[1]}/x")
        options = {"max_bytes": 2, "what": "x"}
        download(WandbService(None), file, tmp_path / "x", **options)
        thread.join()
    assert (tmp_path / "x").read_bytes() == b"ok"
    assert b"authorization" not in asked[0].lower()
