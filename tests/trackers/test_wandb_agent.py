"""Sweeps of W&B's own agent: the real ``wandb agent`` starts our entry points and somebody's
script, and its sweep is the parent of their runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from wandb_server.fixtures import wandb_server, wandb_service  # noqa: F401
from wandb_server.state import Sweep

from tracker_viz.errors import RunNotFoundError, TrackerError
from tracker_viz.pipeline import compare
from tracker_viz.trackers.wandb.tracker import WandbTracker
from tracker_viz.types import RunRef

TRAIN = Path(__file__).parents[2] / "train.py"
OUR_OVERRIDES = ["experiment=smoke", "tracker=wandb", "render=false", "capture.captures=3"]

SCRIPT = """
import sys
import torch, wandb
import tracker_viz as tv
from tracker_viz.demo.model import Decoder, ModelConfig

run = wandb.init()
torch.manual_seed(run.config.seed)
model = Decoder(ModelConfig(n_blocks=2, n_heads=2, d_model=16, d_ffn=32, context_length=16))
with tv.watch(model, run="wandb", spool=f"spool-{run.config.seed}", every=1) as recorder:
    for step in range(3):
        recorder.step(step, loss=1.0 / (1 + step))
run.finish()
"""


def run_agent(server, directory, program, *, command, settings):
    """Let one agent run all ``settings``; returns the sweep's reference and the output."""
    sweep = Sweep("sw33p", {"program": str(program), "command": command}, settings)
    server.state.sweeps[f"tester/agents-{directory.name}/sw33p"] = sweep
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WANDB_", "HYDRA_", "TRACKER_VIZ_"))
    }
    own = {
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(directory / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    (directory / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "agent", f"tester/agents-{directory.name}/sw33p"],
        cwd=directory,
        env=clean | server.environment(directory) | own,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return RunRef("wandb", f"tester/agents-{directory.name}/sw33p"), output


def test_an_agent_trains_by_train_py_and_its_sweep_is_compared(wandb_server, tmp_path):
    command = ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}", *OUR_OVERRIDES]
    settings = [{"seed": 0, "model.n_heads": 2}, {"seed": 1, "model.n_heads": 4}]
    ref, output = run_agent(wandb_server, tmp_path, TRAIN, command=command, settings=settings)
    sweep = WandbTracker().open_run(ref)
    children = [WandbTracker().open_run(child) for child in sweep.children()]
    assert [run.info().name for run in children] == [
        "smoke · n_heads=2 seed=0",
        "smoke · n_heads=4 seed=1",
    ], output
    assert [run.info().state for run in children] == ["finished", "finished"]
    assert [run.ref.path.rpartition("/")[2] for run in children] == ["sw33p-run1", "sw33p-run2"]
    assert [len(run.list_captures()) for run in children] == [3, 3]

    video = {"size": "960x540", "hold_s": 0.2, "seconds_per_capture": 0.1}
    result = compare(sweep=ref, video=video, output=tmp_path / "compare", progress=False)
    assert set(result.shown) == {run.ref for run in children}
    results = wandb_server.run(f"tester/agents-{tmp_path.name}/sw33p-compare")
    assert (results.attributes["groupName"], results.state) == ("sw33p", "finished")


def test_an_agent_runs_a_script_of_the_users(wandb_server, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = ["${env}", "${interpreter}", "${program}", "${args}"]
    settings = [{"seed": 0}]
    ref, output = run_agent(wandb_server, tmp_path, script, command=command, settings=settings)
    (child,) = WandbTracker().open_run(ref).children()
    assert len(WandbTracker().open_run(child).list_captures()) == 4, output


def test_what_is_neither_a_run_nor_a_sweep_is_reported_as_such(wandb_server):
    with pytest.raises(RunNotFoundError, match="tester/theirs/nothing"):
        WandbTracker().open_run(RunRef("wandb", "tester/theirs/nothing"))


def test_a_sweep_takes_no_captures(wandb_server, tmp_path):
    wandb_server.state.sweeps["tester/theirs/s1"] = Sweep("s1", {"program": "train.py"}, [])
    sweep = WandbTracker().open_run(RunRef("wandb", "tester/theirs/s1"))
    assert (sweep.children(), sweep.list_captures()) == ([], [])
    with pytest.raises(TrackerError, match="is a sweep of W&B's agent"):
        sweep.put_file(tmp_path / "page.html", "page.html")
