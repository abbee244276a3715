"""A multirun of anybody's Hydra application is one sweep in the tracker: by config only, whatever launches the jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tracker_viz import trackers
from tracker_viz.integrations.hydra import SweepCallback
from tracker_viz.trackers.sweep import PARENTS, parent_runs
from tracker_viz.types import RunRef

APPLICATION = """
import hydra
from tracker_viz import trackers
from tracker_viz.trackers.sweep import parent_runs

@hydra.main(version_base="1.3", config_path=".", config_name="theirs")
def main(cfg):
    parent = parent_runs().get("mlflow")
    run = trackers.connect("mlflow", **cfg.tracker.mlflow).create_run(name=f"x={cfg.x}", config={"x": cfg.x}, parent=parent)
    run.finish("failed" if cfg.x == 1 else "finished")
    if cfg.x == 1:
        raise RuntimeError("this job fails")

main()
"""
CONFIG = """
x: 0
tracker:
  mlflow: {tracking_uri: "sqlite:///STORE", experiment: theirs}
hydra:
  callbacks:
    sweep: {_target_: tracker_viz.integrations.hydra.SweepCallback, name: ablation}
"""


@pytest.fixture
def application(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "theirs.yaml").write_text(CONFIG.replace("STORE", str(tmp_path / "store.db")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}

    def run(*words):
        return subprocess.run(
            [sys.executable, "app.py", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
        )

    return run


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_every_job_is_a_run_below_the_sweeps_run(application, tmp_path, launcher):
    done = application("-m", "x=0,1,2", f"hydra/launcher={launcher}")
    assert "this job fails" in done.stderr
    (note,) = tmp_path.glob("multirun/*/*/tracker_viz_sweep.json")
    (parent_ref,) = [RunRef.parse(text) for text in json.loads(note.read_text())]
    service = trackers.connect("mlflow", tracking_uri=f"sqlite:///{tmp_path}/store.db")
    parent = service.open_run(parent_ref)
    infos = {info.name: info for info in (service.open_run(child).info() for child in parent.children())}
    assert {name: info.state for name, info in infos.items()} == {"x=0": "finished", "x=1": "failed", "x=2": "finished"}
    assert {info.parent for info in infos.values()} == {parent_ref}
    assert parent.info().name == "ablation"
    assert parent.info().state == "failed"


def test_a_single_run_has_no_parent(application, tmp_path):
    done = application("x=0")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("**/tracker_viz_sweep.json"))


def test_a_tracker_that_is_away_costs_the_parent_and_not_the_jobs(tmp_path, caplog):
    from omegaconf import OmegaConf

    callback = SweepCallback({"mlflow": {"tracking_uri": "sqlite:////proc/no/such/place.db"}})
    hydra = {"runtime": {"cwd": str(tmp_path)}, "sweep": {"dir": "multirun"}, "overrides": {"task": ["x=0,1"]}}
    callback.on_multirun_start(OmegaConf.create({"hydra": hydra}))
    assert "the runs of this sweep get no parent in mlflow" in caplog.text
    callback.on_multirun_end(OmegaConf.create({}))


def test_parents_are_read_from_the_environment(monkeypatch):
    monkeypatch.delenv(PARENTS, raising=False)
    assert parent_runs() == {}
    monkeypatch.setenv(PARENTS, "mlflow:abc wandb:me/proj/xyz")
    assert parent_runs() == {"mlflow": RunRef("mlflow", "abc"), "wandb": RunRef("wandb", "me/proj/xyz")}
