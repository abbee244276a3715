"""A job that is queued again goes on with its run where the environment names it, as it does with
the trackers' own clients."""

from __future__ import annotations

import os

import pytest
from mlflow import MlflowClient
from wandb_server.fixtures import wandb_server, wandb_service  # noqa: F401

from tracker_viz.delivery.outbox import Destination, Outbox
from tracker_viz.errors import RunNotFoundError, TrackerError
from tracker_viz.trackers.mlflow.tracker import MlflowTracker
from tracker_viz.trackers.testing import make_capture
from tracker_viz.trackers.wandb.tracker import WandbTracker
from tracker_viz.types import RunRef


def train(directory, destination, steps, state="finished"):
    """One job: returns its run and the steps that it found there."""
    with Outbox(directory, [destination], name="job", config={"lr": 0.1}) as outbox:
        found = sorted(outbox.captured_steps)
        for step in steps:
            outbox.submit(make_capture(step))
        report = outbox.close(state)
    assert report.command is None, report
    return outbox.refs[0], found


def steps_of(run):
    return [ref.step for ref in run.list_captures()]


def status(uri, ref):
    return MlflowClient(uri).get_run(ref.path).info.status


@pytest.fixture
def mlflow_run(embedded, tmp_path):
    """Return the run of the first job, which failed at step 2."""
    options = {"tracking_uri": embedded, "experiment": "requeued"}
    destination = Destination("mlflow", options)
    ref, found = train(tmp_path / "first", destination, range(3), state="failed")
    assert found == []
    return destination, ref


def test_mlflow_run_id_is_gone_on_with(embedded, mlflow_run, tmp_path, monkeypatch):
    destination, ref = mlflow_run
    monkeypatch.setenv("MLFLOW_RUN_ID", ref.path)
    with Outbox(tmp_path / "second", [destination], name="job") as outbox:
        assert outbox.captured_steps == {0, 1, 2}
        assert status(embedded, ref) == "RUNNING"
        outbox.submit(make_capture(3))
    assert outbox.refs == [ref]
    assert status(embedded, ref) == "FINISHED"
    assert steps_of(MlflowTracker(embedded).open_run(ref)) == [0, 1, 2, 3]


def test_mlflow_run_id_counts_for_the_first_run_of_a_process(mlflow_run, tmp_path, monkeypatch):
    destination, ref = mlflow_run
    monkeypatch.setenv("MLFLOW_RUN_ID", ref.path)
    assert train(tmp_path / "second", destination, [3]) == (ref, [0, 1, 2])
    assert "MLFLOW_RUN_ID" not in os.environ
    other, found = train(tmp_path / "third", destination, [0])
    assert other != ref
    assert found == []


def test_a_run_of_a_sweep_is_never_the_one_that_mlflow_run_id_names(
    embedded, mlflow_run, monkeypatch
):
    _, ref = mlflow_run
    monkeypatch.setenv("MLFLOW_RUN_ID", ref.path)
    job = MlflowTracker(embedded).create_run(name="job", config={}, parent=ref)
    assert job.ref != ref
    job.finish("finished")


def test_an_mlflow_run_id_that_names_no_run_is_refused_before_training(
    embedded, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(RunNotFoundError, match="0000"):
        train(tmp_path / "spool", Destination("mlflow", {"tracking_uri": embedded}), [0])


def test_push_from_elsewhere_goes_on_with_the_run_that_the_training_was_queued_for(
    embedded, mlflow_run, monkeypatch
):
    _, ref = mlflow_run
    monkeypatch.setenv("MLFLOW_RUN_ID", ref.path)
    stored = MlflowTracker(embedded).options
    monkeypatch.delenv("MLFLOW_RUN_ID")
    assert MlflowTracker(**stored).create_run(name="job", config={}).ref == ref


@pytest.mark.parametrize("resume", ["allow", "must"])
def test_wandb_run_id_is_gone_on_with_where_wandb_resume_says_so(
    wandb_server, tmp_path, monkeypatch, resume
):
    monkeypatch.setenv("WANDB_RUN_ID", f"queued again {resume}")
    monkeypatch.setenv("WANDB_RESUME", "allow")
    ref, found = train(tmp_path / "first", Destination("wandb"), range(3), state="failed")
    assert ref.path == f"tester/tracker_viz/queued again {resume}"
    assert found == []

    monkeypatch.setenv("WANDB_RESUME", resume)
    assert train(tmp_path / "second", Destination("wandb"), [3]) == (ref, [0, 1, 2])
    assert steps_of(WandbTracker().open_run(ref)) == [0, 1, 2, 3]
    assert wandb_server.run(ref.path).state == "finished"


def test_wandb_resume_must_without_such_a_run_is_refused_before_training(
    wandb_server, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_RUN_ID", "never-there")
    monkeypatch.setenv("WANDB_RESUME", "must")
    with pytest.raises(TrackerError, match="never-there"):
        train(tmp_path / "spool", Destination("wandb"), [0])


def test_wandb_run_id_alone_names_the_run_as_a_wandb_agent_does(
    wandb_server, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_RUN_ID", "from-the-agent")
    ref, _ = train(tmp_path / "spool", Destination("wandb"), [0])
    assert ref.path == "tester/tracker_viz/from-the-agent"


def test_a_run_of_a_sweep_is_never_the_one_that_wandb_run_id_names(wandb_server, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "the-sweep")
    parent = RunRef("wandb", "tester/tracker_viz/the-sweep")
    job = WandbTracker().create_run(name="job", config={}, parent=parent)
    assert job.ref != parent
    job.finish("finished")
