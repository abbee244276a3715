"""The examples run as a newcomer would run them, in an empty directory, and leave a video in the
run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("example", "video"),
    [("own_loop", "overview"), ("huggingface", "overview"), ("mixture", "experts")],
)
def test_the_example_trains_and_puts_its_video_into_the_run(example, video, tmp_path, mlflow_store):
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "WANDB_"))
    }
    environment = clean | {
        "PYTHONPATH": str(EXAMPLES),
        "OMP_NUM_THREADS": "1",
        "TRACKER_VIZ_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", f"import {example}; {example}.main(steps=8)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    client = mlflow.MlflowClient(mlflow_store)
    (run,) = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()]
    )
    assert run.info.status == "FINISHED"
    assert f"{video}.webm" in {file.path for file in client.list_artifacts(run.info.run_id)}


@pytest.mark.usefixtures("mlflow_store")
def test_the_fine_tune_ranks_the_heads_by_what_lora_changed(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "import lora_finetune; lora_finetune.main(steps=4, base_steps=2)"],
        cwd=tmp_path, env=environment | {"TRACKER_VIZ_CACHE": str(tmp_path / "cache")},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    _, _, ranking = done.stdout.partition("most changed attention first:\n")
    heads = [line.split()[0] for line in ranking.splitlines() if line.startswith("  L")]
    assert sorted(heads) == [f"L{block}H{head}" for block in range(2) for head in range(4)]
    assert (tmp_path / "lora" / "overview.webm").exists()
