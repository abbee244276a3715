"""Store what this version writes, for the versions to come: ``python make.py <directory>``.

``0.1.0/`` was made by version 0.1.0 as it was first released, in the root of its repository:

    PYTHONPATH=tests/trackers OMP_NUM_THREADS=1 python tests/stored/make.py tests/stored/0.1.0

One training goes into a directory, into MLflow and into W&B (a stand-in server); a second one is
killed before it could reach MLflow; ``train.py`` leaves a third with a checkpoint.

    local/                a finished run in a directory, with its video
    delivered/            the spool that it came from, closed
    mlflow/ mlflow.json   the same run in MLflow: its files, and what else the store knows
    wandb.json            the same run in W&B: what the service knows, without the files' bytes
    crashed/              a spool as kill -9 leaves it: no capture has reached MLflow
    crashed_local/        the run in a directory that did get these captures; the last holds NaN
    demo/                 a run of train.py with the checkpoint of its last step
    same_bytes.json       file that is not stored again -> file with the same bytes
    expected.json         what the captures hold

``kinds/`` holds what other kinds of models leave: ``kinds.py`` makes it.

Paths and addresses of the machine became ``/machine``, ``http://mlflow`` and ``http://wandb``.
A spool's ``.reserve`` (random bytes) is left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tiny_run
import torch

import tracker_viz as tv
from tracker_viz import capture_file

NOBODY = "http://127.0.0.1:9"  # the discard port: refused at once
TRAIN = Path(__file__).parents[2] / "train.py"
DEMO = (
    *("experiment=smoke", "tracker=local", "spool=demo", "render=false", "name=demo"),
    *("model.n_blocks=1", "model.n_heads=2", "model.n_kv_heads=1", "model.d_model=8"),
    *("model.d_ffn=16", "model.context_length=16", "data.min_period=3", "data.max_period=7"),
    *("trainer.steps=20", "trainer.checkpoint_every=20", "trainer.threads=1"),
    *("capture.captures=2", "capture.projections=[mlp.w_gate]"),
)
CRASHED_STEPS, BROKEN_STEP, KILLED_STEP = 200, 10, 30
STORED_TWICE_BYTES = 1000  # smaller files are


def main(target: Path) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        os.chdir(work)
        wandb_url = train_into_three_trackers(work)
        subprocess.run([sys.executable, __file__, "--crash"], check=False)
        subprocess.run([sys.executable, TRAIN, *DEMO], check=True)
        replaced = {
            f"sqlite:///{work}/mlflow.db": "http://mlflow",
            NOBODY: "http://mlflow",
            wandb_url: "http://wandb",
            f"{work}/runs/tiny": "/machine/local",
            f"{work}/crashed_runs/killed": "/machine/crashed_local",
            str(work): "/machine",
        }
        shutil.rmtree(target, ignore_errors=True)
        collect(work, target, replaced)
    write_expected(target)
    store_once(target)


def train_into_three_trackers(work: Path) -> str:
    """Train, put the video into every run, and describe the runs; returns W&B's address."""
    import mlflow
    import wandb
    from wandb_server import WandbServer

    uri = f"sqlite:///{work}/mlflow.db"
    with WandbServer() as server:
        os.environ.update(server.environment(work / "wandb-files"))
        options: dict[str, Any] = {
            "local": {"directory": str(work / "runs")},
            "mlflow": {"tracking_uri": uri, "experiment": "stored"},
            "wandb": {"project": "stored", "base_url": server.base_url},
        }
        refs = tiny_run.train_into(options, work / "delivered")
        tiny_run.draw_into(refs, options)
        write_json(tiny_run.wandb_description(server, refs[2].path), work / "wandb.json")
        wandb.teardown()
    client = mlflow.MlflowClient(uri)
    files = client.get_run(refs[1].path).info.artifact_uri.removeprefix("file://")
    shutil.copytree(work / files, work / "mlflow")
    write_json(tiny_run.mlflow_description(client, refs[1].path), work / "mlflow.json")
    return server.base_url


def crash() -> None:
    """Train, and be killed when the directory has every capture and MLflow none."""
    model = tiny_run.make_model(1)
    watcher = tiny_run.watch(
        model,
        CRASHED_STEPS,
        run=["local", "mlflow"],
        spool="crashed",
        name="killed",
        config={"seed": 1},
        tracker_options={
            "local": {"directory": "crashed_runs"},
            "mlflow": {"tracking_uri": NOBODY, "experiment": "stored"},
        },
        projections=["mlp.w_gate"],
        start_timeout_s=1.0,
    )
    tiny_run.train(model, watcher, range(BROKEN_STEP), seed=1)
    with torch.no_grad():
        model.blocks[1].mlp.gate_proj.weight[0, 0] = torch.nan
    for step in range(BROKEN_STEP, KILLED_STEP):
        watcher.step(step, tokens_seen=tiny_run.tokens_seen(step), loss=float("nan"))
    wait_for_delivery(len(watcher.captured_steps))
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_delivery(n_captures: int) -> None:
    journal = Path("crashed/sent/local.jsonl")
    while not journal.is_file() or journal.read_text().count('"metrics"') < n_captures:
        time.sleep(0.1)


def collect(work: Path, target: Path, replaced: dict[str, str]) -> None:
    """Copy what is stored; ``replaced``: text of this machine -> what stands for it."""
    (work / "runs" / "tiny").rename(work / "local")
    (work / "crashed_runs" / "killed").rename(work / "crashed_local")
    for name in ("local", "delivered", "mlflow", "crashed", "crashed_local", "demo"):
        shutil.copytree(work / name, target / name, ignore=shutil.ignore_patterns(".reserve"))
    for name in ("mlflow.json", "wandb.json"):
        shutil.copy(work / name, target / name)
    for path in target.rglob("*.json*"):
        text = path.read_text()
        for here, there in replaced.items():
            text = text.replace(here, there)
        path.write_text(re.sub(r'"host": "[^"]*"', '"host": "elsewhere"', text))


def write_expected(target: Path) -> None:
    """Note what every run's captures hold, as this version reads it."""
    expected = {}
    for name in ("local", "crashed", "demo"):
        paths = sorted((target / name / "captures").glob("*.safetensors"))
        captures = [capture_file.read(path) for path in paths]
        expected[name] = described(captures)
    write_json(expected, target / "expected.json")


def described(captures: list[tv.Capture]) -> dict[str, Any]:
    """Return what captures of one run hold."""
    return {
        "axes": {array: list(captures[0].axes[array]) for array in captures[0].arrays},
        "labels": {axis: list(names) for axis, names in captures[0].labels.items()},
        "captures": [
            {
                "step": capture.step,
                "tokens_seen": capture.tokens_seen,
                "loss": str(capture.metrics["loss"]),
                "arrays_sha256": arrays_sha256(capture),
            }
            for capture in captures
        ],
    }


def arrays_sha256(capture: tv.Capture) -> str:
    """Hash names, types, shapes and bytes of all arrays, in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(capture.arrays):
        array = capture.arrays[name]
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def store_once(target: Path) -> None:
    """Leave out larger files whose bytes another file has, and note which."""
    first: dict[bytes, Path] = {}
    same: dict[str, str] = {}
    for path in sorted(target.rglob("*"), key=lambda path: ("local/" not in str(path), path)):
        if path.is_file() and path.stat().st_size > STORED_TWICE_BYTES:
            kept = first.setdefault(path.read_bytes(), path)
            if kept != path:
                same[path.relative_to(target).as_posix()] = kept.relative_to(target).as_posix()
                path.unlink()
    write_json(same, target / "same_bytes.json")


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write a line for each key."""
    lines = [f"{json.dumps(key)}: {json.dumps(values[key])}" for key in sorted(values)]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    crash() if sys.argv[1] == "--crash" else main(Path(sys.argv[1]).absolute())
