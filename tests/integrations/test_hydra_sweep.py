"""A multirun of anybody's Hydra application is one sweep in the tracker: by config only, whatever
launches the jobs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from tracker_viz import trackers
from tracker_viz.integrations.hydra import SweepCallback
from tracker_viz.integrations.named_trackers import named_trackers
from tracker_viz.trackers.sweep import PARENTS, parent_runs
from tracker_viz.types import RunRef

TRAIN = Path(__file__).parents[2] / "train.py"

APPLICATION = """
import hydra
from tracker_viz import trackers
from tracker_viz.trackers.sweep import parent_runs

@hydra.main(version_base="1.3", config_path=".", config_name="theirs")
def main(cfg):
    parent = parent_runs().get("mlflow")
    tracker = trackers.connect("mlflow", **cfg.tracker.mlflow)
    run = tracker.create_run(name=f"x={cfg.x}", config={"x": cfg.x}, parent=parent)
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
def application(tmp_path, put_mlflow_store):
    put_mlflow_store(tmp_path, "store.db")
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "theirs.yaml").write_text(CONFIG.replace("STORE", str(tmp_path / "store.db")))
    return lambda *words: run_python("app.py", *words, cwd=tmp_path)


def run_python(*words, cwd):
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "HYDRA_", "TRACKER_VIZ_"))
    }
    environment = clean | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cwd / "cache")}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


# Hydra's own launcher, one job after the other, is that of the other tests.
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_every_job_is_a_run_below_the_sweeps_run(application, tmp_path, launcher):
    done = application("-m", "x=0,1", f"hydra/launcher={launcher}")
    assert "this job fails" in done.stdout + done.stderr
    (note,) = tmp_path.glob("multirun/*/*/tracker_viz_sweep.json")
    (parent_ref,) = [RunRef.parse(text) for text in json.loads(note.read_text())]
    service = trackers.connect("mlflow", tracking_uri=f"sqlite:///{tmp_path}/store.db")
    parent = service.open_run(parent_ref)
    infos = {
        info.name: info for info in (service.open_run(child).info() for child in parent.children())
    }
    assert {name: info.state for name, info in infos.items()} == {
        "x=0": "finished",
        "x=1": "failed",
    }
    assert {info.parent for info in infos.values()} == {parent_ref}
    assert (
        f"tracker-viz compare sweep={parent_ref} tracking_uri=sqlite:///{tmp_path}/store.db"
        in done.stdout
    )
    assert parent.info().name == "ablation"
    assert parent.info().state == "failed"


def test_a_single_run_has_no_parent(application, tmp_path):
    done = application("x=0")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("**/tracker_viz_sweep.json"))


def test_a_tracker_that_is_away_costs_the_parent_and_not_the_jobs(tmp_path, caplog):
    callback = SweepCallback({"mlflow": {"tracking_uri": "sqlite:////proc/no/such/place.db"}})
    hydra = {
        "runtime": {"cwd": str(tmp_path)},
        "sweep": {"dir": "multirun"},
        "overrides": {"task": ["x=0,1"]},
    }
    callback.on_multirun_start(OmegaConf.create({"hydra": hydra}))
    assert "the runs of this sweep get no parent in mlflow" in caplog.text
    callback.on_multirun_end(OmegaConf.create({}))


@pytest.mark.parametrize("failed", [False, True])
def test_a_sweep_without_runs_names_a_reason_only_if_its_jobs_did_not_fail(
    failed, tmp_path, caplog
):
    callback = SweepCallback({"local": {"directory": str(tmp_path / "runs")}})
    hydra = {
        "runtime": {"cwd": str(tmp_path)},
        "sweep": {"dir": "multirun"},
        "overrides": {"task": ["x=0,1"]},
    }
    callback.on_multirun_start(OmegaConf.create({"hydra": hydra}))
    if failed:
        callback._end("failed")  # as at exit, because Hydra calls nothing then
    else:
        callback.on_multirun_end(OmegaConf.create({}))
    assert ("no run of this sweep is below" in caplog.text) is not failed


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("tracker: wandb", {"wandb": {}}),
        ("tracker: [mlflow, tensorboard]", {"mlflow": {}}),
        ("tracker: {name: wandb, project: p, mode: online}", {"wandb": {"project": "p"}}),
        ("tracker: {type: mlflow}", {"mlflow": {}}),
        (
            "tracker: {mlflow: {experiment: e}, wandb: null, csv: {dir: x}}",
            {"mlflow": {"experiment": "e"}, "wandb": {}},
        ),
        (
            "tracker: {_target_: lightning.pytorch.loggers.WandbLogger, project: p}",
            {"wandb": {"project": "p"}},
        ),
        (
            "p: ${oc.env:NO_SUCH}\nlogger: {many: [{_target_: a.MLFlowLogger, tracking_uri: u, "
            "experiment_name: e, save_dir: '${p}'}]}",
            {"mlflow": {"tracking_uri": "u", "experiment": "e"}},
        ),
        ("tracker: {_target_: my.Logger, project: p}", {}),
        ("tracker: {name: baseline}", {}),
        ("tracker: [3, null]", {}),
        ("tracker: ???", {}),
        ("tracker: null", {}),
        ("tracker: ${nope}", {}),
        ("x: 1", {}),
    ],
)
def test_the_trackers_are_read_however_an_application_writes_them(config, named):
    assert named_trackers(OmegaConf.create(config)) == named


OWN_RUNS = """
import hydra, mlflow, torch
from omegaconf import OmegaConf
import tracker_viz as tv

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = torch.nn.Sequential(torch.nn.Embedding(16, 8), encoder)
    mlflow.set_experiment(f"experiment {cfg.x}")
    with mlflow.start_run():
        with tv.watch(model, probe=torch.arange(6).repeat(2)[None]) as watcher:
            watcher.step(0, loss=1.0)

main()
"""


def test_the_one_line_makes_a_sweep_of_an_application_that_names_no_tracker(tmp_path, mlflow_store):
    (tmp_path / "app.py").write_text(OWN_RUNS)
    line = "+hydra.callbacks.sweep._target_=tracker_viz.integrations.hydra.SweepCallback"
    done = run_python("app.py", "-m", "+x=0,1", line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the config names no tracker" in done.stdout
    (command,) = re.findall(r"tracker-viz compare sweep=(mlflow:\w+)", done.stdout)
    parent = trackers.open_run(command, tracking_uri=mlflow_store)
    children = [trackers.open_run(ref, tracking_uri=mlflow_store) for ref in parent.children()]
    assert len(children) == 2
    assert [len(run.list_captures()) for run in children] == [2, 2]
    assert (parent.info().name, parent.info().state) == ("sweep", "finished")


def test_parents_are_read_from_the_environment(monkeypatch):
    monkeypatch.delenv(PARENTS, raising=False)
    assert parent_runs() == {}
    monkeypatch.setenv(PARENTS, "mlflow:abc wandb:me/proj/xyz")
    assert parent_runs() == {
        "mlflow": RunRef("mlflow", "abc"),
        "wandb": RunRef("wandb", "me/proj/xyz"),
    }


def test_a_sweeper_optimizes_a_score_of_the_heads(tmp_path):
    """The real Optuna sweeper; its trials are runs of one sweep like any other's."""
    options = (
        "experiment=smoke",
        "tracker=local",
        "render=false",
        "optimize=specialisation/previous_token_max",
    )
    search = (
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.direction=maximize",
        "hydra.sweeper.n_jobs=1",
    )
    done = run_python(
        TRAIN, "-m", *options, *search, "trainer.learning_rate=interval(0.0005,0.005)", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (results,) = tmp_path.glob("multirun/*/*/optimization_results.yaml")
    best = yaml.safe_load(results.read_text())
    summaries = [
        json.loads(path.read_text()) for path in results.parent.glob("*/spool/summary.json")
    ]
    assert len(summaries) == 3
    assert best["best_value"] == max(
        summary["specialisation/previous_token_max"] for summary in summaries
    )
    assert set(best["best_params"]) == {"trainer.learning_rate"}


FOREIGN = """
import hydra, torch
from omegaconf import OmegaConf
import tracker_viz as tv

@hydra.main(version_base="1.3", config_path="conf", config_name="ours")
def main(cfg):
    torch.manual_seed(cfg.x)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = torch.nn.Sequential(torch.nn.Embedding(16, 8), encoder)
    plain = OmegaConf.to_container(cfg, resolve=True)
    probe = torch.arange(6).repeat(2)[None]
    options = {"tracker_options": plain["tracker"], "config": {"x": cfg.x}, "name": f"x={cfg.x}"}
    with tv.watch(model, probe=probe, run=list(plain["tracker"]), total_steps=4, **options,
                  **plain["capture"]) as watcher:
        for step in range(4):
            watcher.step(step, loss=1.0)
            if cfg.x == 2:
                raise RuntimeError("this job fails")
    tv.render(watcher.ref, layout=plain["layout"], video=plain["video"],
              tracker_options=plain["tracker"], progress=False)

main()
"""
FOREIGN_CONFIG = """
defaults:
  - capture: default
  - tracker: mlflow
  - layout: heads
  - video: default
  - _self_
x: 0
capture: {max_overhead: .inf}
tracker: {mlflow: {experiment: theirs}}
video: {size: 720p, seconds_per_capture: 0.1, hold_s: 0.1, key_frames: 0}
hydra:
  job: {chdir: true}
  searchpath: [pkg://tracker_viz.conf]
  callbacks: {sweep: {_target_: tracker_viz.integrations.hydra.SweepCallback, name: ablation}}
"""


def test_an_application_of_another_takes_our_groups_and_its_sweep_gets_a_page_though_a_job_failed(
    tmp_path, mlflow_store
):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "ours.yaml").write_text(FOREIGN_CONFIG)
    (tmp_path / "app.py").write_text(FOREIGN)
    done = run_python("app.py", "-m", "x=0,1,2", cwd=tmp_path)
    assert "this job fails" in done.stderr
    (note,) = tmp_path.glob("multirun/*/*/tracker_viz_sweep.json")
    (noted,) = json.loads(note.read_text())
    parent = trackers.open_run(noted, tracking_uri=mlflow_store)
    children = [trackers.open_run(ref, tracking_uri=mlflow_store) for ref in parent.children()]
    assert [run.info().state for run in (parent, *children)] == [
        "failed",
        "finished",
        "finished",
        "failed",
    ]
    page = parent.get_file("in_step.html", tmp_path / "back").read_text().replace("\\u0026", "&")
    assert [f"heads.webm&run_uuid={run.ref.path}" in page for run in children] == [
        True,
        True,
        False,
    ]
