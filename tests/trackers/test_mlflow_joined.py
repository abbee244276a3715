"""Runs that others make: joined and never ended, and told what Hydra knows about the job that they
are made in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap

import mlflow
import pytest
from mlflow import MlflowClient

from tracker_viz.delivery import Destination, Outbox
from tracker_viz.errors import ConfigError
from tracker_viz.trackers import join
from tracker_viz.trackers.mlflow.tracker import MlflowTracker
from tracker_viz.trackers.sweep import JOB, PARENTS, Parent, SweepJob, note_parents, noted_parents
from tracker_viz.trackers.testing import make_capture
from tracker_viz.types import RunRef


def stored(run):
    return MlflowClient(run.environment["tracking_uri"]).get_run(run.ref.path)


@pytest.fixture
def fluent(embedded, monkeypatch):
    """The fluent interface, set to the embedded store for one test."""
    mlflow.set_tracking_uri(embedded)
    yield mlflow
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)


def test_an_active_fluent_run_is_joined_and_left_running(fluent, tmp_path, embedded):
    with fluent.start_run() as theirs:
        with Outbox(tmp_path / "spool", [Destination("mlflow")], name="ignored") as outbox:
            outbox.submit(make_capture(0))
        assert outbox.refs == [RunRef("mlflow", theirs.info.run_id)]
        assert mlflow.active_run().info.run_id == theirs.info.run_id
        run = join(theirs)
        assert run.info().state == "running"
        assert [ref.step for ref in run.list_captures()] == [0]
        assert "loss" not in stored(run).data.metrics, "the loop's own metrics are its own to log"
    assert stored(run).info.status == "FINISHED"


def test_a_run_of_another_service_is_not_joined(fluent, tmp_path, caplog):
    with fluent.start_run():
        assert MlflowTracker(f"sqlite:///{tmp_path}/other.db").active_run() is None
    assert "is not joined" in caplog.text
    assert MlflowTracker().active_run() is None


def test_an_experiment_that_was_set_fluently_takes_the_runs(fluent, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "")
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    experiment = fluent.set_experiment("set fluently")
    run = MlflowTracker().create_run(name="a", config={})
    assert stored(run).info.experiment_id == experiment.experiment_id


def test_only_runs_are_joined():
    with pytest.raises(ConfigError, match=r"mlflow\.start_run"):
        MlflowTracker().join(mlflow.MlflowClient)


# -- Hydra -----------------------------------------------------------------------------------------

FOREIGN_APPLICATION = """
    import hydra, mlflow, sys

    @hydra.main(version_base=None, config_path=None, config_name=None)
    def main(config):
        assert not any(name.startswith("tracker_viz.pipeline") for name in sys.modules)
        mlflow.set_experiment("hydra")
        with mlflow.start_run(run_name="fluent"):
            mlflow.log_metric("loss", config.lr)

    main()
"""

OUR_APPLICATION = """
    import hydra
    from tracker_viz.trackers.mlflow.tracker import MlflowTracker

    @hydra.main(version_base=None, config_path=None, config_name=None)
    def main(config):
        MlflowTracker(experiment="hydra").create_run(name="ours", config={}).finish("finished")

    main()
"""


def multirun(application, directory, embedded, **env):
    """What the runs of a real multirun were tagged with, which began in ``directory``: job number,
    overrides, sweep."""
    shutil.copy(
        embedded.removeprefix("sqlite:///"), directory / "mlflow.db"
    )  # whose tables are made already
    (directory / "job.py").write_text(textwrap.dedent(application))
    overrides = [
        "+lr=0.1,0.2",
        "+db={user: me, password: s3cret}",
        "hydra.job.chdir=true",
        "hydra.sweep.dir=sweeps/first",
    ]
    env = {
        name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")
    } | env
    done = subprocess.run(
        [sys.executable, "job.py", "-m", *overrides],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(directory.rglob("mlflow.db"))) == 1, (
        "one database where the sweep was started, not one per job"
    )
    client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("hydra").experiment_id])
    assert "s3cret" not in str(runs)
    return sorted(
        tuple(run.data.tags[f"hydra.{name}"] for name in ("job.num", "overrides", "sweep.id"))
        for run in runs
    )


TAGGED = [
    (str(number), f"+lr={lr}\n+db={{user:me,password:***}}", "sweeps/first")
    for number, lr in enumerate(("0.1", "0.2"))
]


def test_fluent_runs_of_a_foreign_hydra_application_carry_its_overrides_job_and_sweep(
    tmp_path, embedded
):
    assert (
        multirun(
            FOREIGN_APPLICATION,
            tmp_path,
            embedded,
            MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db",
        )
        == TAGGED
    )


def test_runs_that_we_make_under_hydra_carry_them_too_and_share_one_database(tmp_path, embedded):
    assert multirun(OUR_APPLICATION, tmp_path, embedded) == TAGGED


def deliver(spool, *destinations):
    with Outbox(spool, destinations or [Destination("mlflow")], name="ignored") as outbox:
        outbox.submit(make_capture(0))
    return outbox.refs


@pytest.fixture
def sweep(fluent, embedded, monkeypatch):
    """The parent run of the sweep that this process is a job of."""
    parent = MlflowTracker(embedded, "sweeps").create_run(name="sweep", config={})
    monkeypatch.setenv(PARENTS, json.dumps([str(parent.ref)]))
    return parent


def test_runs_of_theirs_become_children_of_the_sweep_in_whatever_experiment(
    fluent, sweep, tmp_path
):
    found = []
    for number, experiment in enumerate(["here", "there"]):
        fluent.set_experiment(experiment)
        with fluent.start_run():
            found += deliver(tmp_path / f"spool-{number}")
    with fluent.start_run() as third:
        pass
    found += deliver(
        tmp_path / "spool-2", Destination("mlflow", ref=RunRef("mlflow", third.info.run_id))
    )
    assert sweep.children() == found
    assert {MlflowTracker().open_run(ref).info().parent for ref in found} == {sweep.ref}


def test_the_users_own_nesting_stays_and_the_sweep_finds_the_run(fluent, sweep, tmp_path):
    with fluent.start_run() as outer, fluent.start_run(nested=True) as inner:
        (ref,) = deliver(tmp_path / "spool")
    assert sweep.children() == [ref]
    tags = MlflowClient().get_run(inner.info.run_id).data.tags
    assert tags["mlflow.parentRunId"] == outer.info.run_id


def test_without_a_named_parent_the_first_job_creates_one_for_all(fluent, tmp_path, monkeypatch):
    monkeypatch.setenv(JOB, SweepJob(str(tmp_path), "ablation", "seed=0,1").to_text())
    fluent.set_experiment("theirs")
    found = []
    for number in range(2):
        with fluent.start_run():
            found += deliver(tmp_path / f"spool-{number}")
    found += deliver(tmp_path / "spool-2", Destination("mlflow", {"experiment": "ours"}))
    (noted,) = noted_parents(tmp_path)
    parent = MlflowTracker().open_run(noted.ref)
    assert parent.children() == found
    assert parent.info().name == "ablation"
    assert parent.info().config == {"overrides": "seed=0,1"}
    assert (
        stored(parent).info.experiment_id
        == stored(join(fluent.get_run(found[0].path))).info.experiment_id
    )


def test_a_parent_in_another_service_is_none_of_theirs(fluent, tmp_path, monkeypatch):
    other = MlflowTracker(f"sqlite:///{tmp_path}/other.db")
    above = other.create_run(name="sweep", config={})
    job = SweepJob(str(tmp_path), "ablation")
    monkeypatch.setenv(JOB, job.to_text())
    note_parents([Parent(above.ref, other.options)], tmp_path)
    with fluent.start_run():
        found = deliver(tmp_path / "spool")
    _, made = noted_parents(tmp_path)
    assert MlflowTracker().open_run(made.ref).children() == found
