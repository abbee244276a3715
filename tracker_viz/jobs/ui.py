"""``tracker-viz ui``: print the link to a run's video, and run the tracker's UI until Ctrl-C where
nothing serves it yet."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from pydantic import Field

from tracker_viz import pipeline, trackers
from tracker_viz.delivery import Spool
from tracker_viz.errors import ConfigError, TrackerError
from tracker_viz.jobs.application import application
from tracker_viz.jobs.settings.config import Settings
from tracker_viz.trackers import Run
from tracker_viz.types import RunRef

log = logging.getLogger(__name__)

# Where train.py and watch() put spools, below the directory that they were started in
SPOOLS = ("outputs/*/*/spool*", "multirun/*/*/*/spool*", "spool/*")
STARTING_S = 120.0


class UiSettings(Settings):
    """Prints the link to a run's video, and starts the tracker's UI if no server shows it
    already."""

    usage = ("[run=<RunRef>] [key=value ...]",)

    run: str | None = None
    """The run; null: the latest run trained from this directory."""

    tracking_uri: str | None = None
    """Address of its MLflow; null: the one in the run's spool, else MLFLOW_TRACKING_URI, else
    mlflow.db in the working directory."""

    artifact: str | None = "overview.webm"
    """File of the run to show; null, or if the file does not exist yet: the run's page."""

    port: int = Field(5000, ge=1, le=65535)
    """Port for the UI."""


@application(UiSettings, name="ui")
def main(settings: UiSettings) -> None:
    ref, options = (RunRef.parse(settings.run), {}) if settings.run else last_trained(Path.cwd())
    if settings.tracking_uri:
        options["tracking_uri"] = settings.tracking_uri
    run = trackers.open_run(ref, **options)
    artifact = settings.artifact
    if artifact and lacks(run, artifact):
        # W&B has videos on the run's page, and not among its files
        print(
            f"{ref} has no file {artifact}: here is its page. To make its video, "
            "from any directory:"
        )
        print(f"  {pipeline.render_command(run)}", flush=True)
        artifact = None
    if run.ui_command is None:
        print(run.url(artifact))
        return
    address = f"http://127.0.0.1:{settings.port}"
    serve(
        run.ui_command,
        settings.port,
        ready=trackers.open_run(ref, **options | {"ui_url": address}).url(artifact),
    )


def lacks(run: Run, artifact: str) -> bool:
    """Return whether a link to the file would be broken. Files in folders are not looked for."""
    try:
        return "/" not in artifact and artifact not in run.list_files()
    except TrackerError as error:
        # The UI may show files of a store that has no credentials here.
        log.warning("could not check whether %s has %s: %s", run.ref, artifact, error)
        return False


def last_trained(directory: Path) -> tuple[RunRef, dict[str, str]]:
    """Return the run that was trained last from ``directory``, and the options of its tracker, from
    its spool.

    Raises:
        ConfigError: nothing was trained there, or into no tracker.
    """
    spools: list[Path] = []
    for pattern in SPOOLS:
        spools += directory.glob(f"{pattern}/run.json")
    for described in sorted(spools, key=lambda path: path.stat().st_mtime, reverse=True):
        for destination in Spool(described.parent).destinations():
            if destination.ref:
                return destination.ref, dict(destination.options)
    raise ConfigError(
        f"no run was trained from {directory}; name one: tracker-viz ui run=mlflow:<run_id> "
        "tracking_uri=..."
    )


def serve(command: str, port: int, *, ready: str) -> None:
    """Run the UI that ``command`` starts, print ``ready`` when it answers, and stay until it ends
    or Ctrl-C.

    Raises:
        ConfigError: the port is taken.
        TrackerError: the UI ended before it answered.
    """
    with socket.socket() as probe:
        # As servers do: a port that was in use a moment ago is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used ({error.strerror}); choose another: port={port + 1}"
            ) from error
    program, *words = shlex.split(command)
    print(f"Starting: {command} --port {port}", flush=True)
    with subprocess.Popen(
        [sys.executable, "-m", program, *words, "--port", str(port)],
        # its job runners are of no use for looking at runs
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/", server)
            print(f"Watch: {ready}\nCtrl-C ends it.", flush=True)
            server.wait()
        finally:
            server.terminate()


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTING_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TrackerError(
                f"the UI ended at once, with exit code {server.returncode}; run the command above "
                "to see why"
            )
        try:
            urllib.request.urlopen(address, timeout=2).close()
        except urllib.error.HTTPError:
            return  # an error page is an answer, too
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise TrackerError(f"the UI did not answer at {address} within {STARTING_S:.0f} s")
