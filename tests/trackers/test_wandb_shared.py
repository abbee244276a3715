"""W&B's shared mode: others put films into a run that goes on, and nothing of it is overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import wandb
from wandb_server.fixtures import wandb_server, wandb_service  # noqa: F401

from tracker_viz.errors import RunActiveError
from tracker_viz.trackers.testing import write_captures
from tracker_viz.trackers.values import MetricPoint
from tracker_viz.trackers.wandb.tracker import WandbTracker

# Its service refuses a run's id that it has open: another process has a service of its own.
ATTACH = """
import pathlib, sys
from tracker_viz.trackers import open_run
from tracker_viz.types import RunRef

run = open_run(RunRef.parse(sys.argv[1]))
video, page = pathlib.Path("overview.webm"), pathlib.Path("overview.html")
video.write_bytes(b"a film")
page.write_text("<p>a page</p>")
run.put_live_video(video, layout="overview", last_step=2)
run.put_file(page, "overview.html")
run.set_summary({"tracker_viz/story": "what it became"})
assert run.info().state == "running"
"""


# A training of ours that was killed, started again.
CONTINUE = """
import sys
from tracker_viz.trackers import connect
from tracker_viz.trackers.values import MetricPoint
from tracker_viz.types import RunRef

run = connect("wandb").open_run(RunRef.parse(sys.argv[1]), ours=True)
run.log_metrics([MetricPoint(3, {"loss": 0.5})])
sys.stdin.readline()
run.log_metrics([MetricPoint(4, {"loss": 0.25})])
run.finish("finished")
"""
# What must not rename the run that others put something into.
THEIRS = {
    "WANDB_NAME": "other",
    "WANDB_NOTES": "other",
    "WANDB_RUN_GROUP": "other",
    "WANDB_JOB_TYPE": "other",
    "WANDB_TAGS": "other",
}


def started(code, ref, directory, **environment):
    """Start another process that writes into a run."""
    directory.mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", code, str(ref)]
    return subprocess.Popen(command, cwd=directory, env=kept | environment, text=True, **pipes)


def ended(process):
    _, words = process.communicate("\n", timeout=120)
    assert process.returncode == 0, words


def attach(ref, directory, **environment):
    """Put a film into a run from another process."""
    process = started(ATTACH, ref, directory, **environment)
    return process.communicate(timeout=120)[1]


def until(is_there):
    limit = time.monotonic() + 60
    while not is_there():
        assert time.monotonic() < limit
        time.sleep(0.02)


def losses(stored):
    return [row["loss"] for row in stored.history if "loss" in row]


@pytest.fixture
def ours(wandb_server, monkeypatch):
    """A run of ours that is being written in shared mode, with three points."""
    monkeypatch.setenv("WANDB_MODE", "shared")
    run = WandbTracker(project="shared").create_run(name="a", config={"lr": 0.1})
    monkeypatch.delenv("WANDB_MODE")
    run.log_metrics([MetricPoint(step, {"loss": 3.0 - step}) for step in range(3)])
    until(lambda: losses(wandb_server.run(run.ref.path)) == [3.0, 2.0, 1.0])
    yield run
    run.finish("finished")


def test_a_process_that_attaches_late_adds_and_overwrites_nothing(wandb_server, ours, tmp_path):
    stored = wandb_server.run(ours.ref.path)
    before, config = list(stored.history), stored.config["lr"]
    attributes = dict(stored.attributes)
    ended(started(ATTACH, ours.ref, tmp_path / "elsewhere", **THEIRS))
    assert stored.history[: len(before)] == before
    assert stored.values("tracker_viz/overview")[0]["_type"] == "video-file"
    assert stored.values("tracker_viz/overview_html")
    assert stored.values("tracker_viz/render") == [1, 2]
    assert stored.summary["tracker_viz/story"] == "what it became"
    assert (stored.config["lr"], stored.state, stored.exit_code) == (config, "running", None)
    assert stored.display_name == "a"
    assert stored.attributes == attributes

    # The training goes on as if nobody had been there.
    ours.log_metrics([MetricPoint(3, {"loss": 0.5})])
    ours.put_captures(write_captures([3], tmp_path / "captures"))
    ours.finish("finished")
    assert losses(stored) == [3.0, 2.0, 1.0, 0.5]
    assert [ref.step for ref in ours.list_captures()] == [3]
    assert (stored.state, stored.exit_code) == ("finished", 0)
    assert stored.summary["tracker_viz/story"] == "what it became"


def test_a_training_that_goes_on_after_a_kill_overwrites_no_row_of_others(
    wandb_server, ours, tmp_path
):
    stored = wandb_server.run(ours.ref.path)
    training = started(CONTINUE, ours.ref, tmp_path / "elsewhere")
    until(lambda: losses(stored) == [3.0, 2.0, 1.0, 0.5])
    ours.log_metrics([MetricPoint(3, {"of_others": 1.0})])
    until(lambda: stored.values("of_others") == [1.0])
    before = list(stored.history)
    ended(training)
    assert stored.history[: len(before)] == before
    assert losses(stored) == [3.0, 2.0, 1.0, 0.5, 0.25]
    points = [MetricPoint(step, {"loss": 1.0}) for step in range(6)]
    assert ours.shown_points(points) == {0, 1, 2, 3, 4}
    assert (stored.state, stored.exit_code) == ("finished", 0)


def test_a_run_of_one_writer_is_left_alone_as_before(wandb_server, tmp_path):
    run = WandbTracker(project="alone").create_run(name="a", config={})
    assert RunActiveError.__name__ in attach(run.ref, tmp_path / "elsewhere")
    run.finish("finished")


def test_the_users_own_shared_run_takes_our_rows_beside_theirs(wandb_server):
    settings = wandb.Settings(mode="shared", silent=True, console="off", reinit="create_new")
    theirs = wandb.init(project="theirs", settings=settings)
    joined = WandbTracker().join(theirs)
    theirs.log({"loss": 1.0})
    joined.log_metrics([MetricPoint(0, {"attn/induction_max": 0.5})])
    theirs.log({"loss": 0.5})
    stored = wandb_server.run(joined.ref.path)
    until(lambda: losses(stored) == [1.0, 0.5] and stored.values("attn/induction_max") == [0.5])
    joined.finish("finished")
    assert stored.state == "running"
    theirs.finish()
    assert stored.state == "finished"
