"""A decoder of 5,200 parameters that learns in seconds, and what its runs leave in a tracker.

``make.py`` stores what one version writes of it; ``tests/test_stored_runs.py`` holds later versions
to reading that, and to storing under the same names.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

import tracker_viz as tv
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.rendering import Layout, Scores

VOCAB_SIZE, LENGTH, BATCH_SIZE = 24, 16, 64
STEPS = 800  # at 72 induction heads have begun, at 372 a previous-token head
TEXT = [0, 1, 5, 15, 8, 7, 12, 23, 17, 17, 23, 12, 7, 8, 15, 5]

VIDEO = {"size": "640x360", "seconds_per_capture": 0.05, "hold_s": 0.1}


def make_model(seed: int) -> Decoder:
    torch.manual_seed(seed)
    shape = {"n_blocks": 2, "n_heads": 2, "d_model": 16, "d_ffn": 16}
    return Decoder(ModelConfig(context_length=LENGTH, vocab_size=VOCAB_SIZE, **shape))


def watch(model: Decoder, steps: int, **options: Any) -> Any:
    """Return the watcher of a training of ``steps`` steps; ``options`` are ``tv.watch``'s."""
    probe = tv.make_probe(VOCAB_SIZE, LENGTH, text_ids=TEXT, bos_id=0)
    # So few milliseconds a step leave captures no share of the time.
    return tv.watch(
        model, probe=probe, total_steps=steps, captures=6, max_overhead=float("inf"), **options
    )


def train(model: Decoder, watcher: Any, steps: Iterable[int], *, seed: int) -> None:
    """Train on random tokens that repeat with periods of 2 to 7."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, betas=(0.9, 0.95))
    for step in steps:
        period = int(torch.randint(2, 8, (1,), generator=generator))
        span = torch.randint(1, VOCAB_SIZE, (BATCH_SIZE, period), generator=generator)
        repeated = span.repeat(1, LENGTH)[:, :LENGTH]
        begun = torch.cat([torch.zeros_like(span[:, :1]), repeated[:, :-1]], 1)
        loss = nn.functional.cross_entropy(model(begun).flatten(0, 1), repeated.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watcher.step(step, tokens_seen=tokens_seen(step), loss=loss)


def tokens_seen(step: int) -> int:
    return (step + 1) * BATCH_SIZE * LENGTH


def train_into(options: dict[str, Any], spool: Path, steps: int = STEPS) -> list[tv.RunRef]:
    """Train one model into a new run of each tracker; ``options``: tracker -> its options."""
    model = make_model(0)
    watcher = watch(
        model,
        steps,
        run=list(options),
        spool=spool,
        name="tiny",
        config={"seed": 0, "model": {"n_heads": 2}},
        tags={"kind": "stored"},
        tracker_options=options,
    )
    with watcher:
        train(model, watcher, range(steps), seed=0)
    return watcher.refs


def draw_into(refs: list[tv.RunRef], options: dict[str, Any], format: Any = "video") -> None:
    """Draw the first run, small and plain, into all of them."""
    tv.render(
        refs[0],
        also_into=refs[1:],
        layout=Layout(name="scores", panels=(Scores(names=("head.induction",)),), timeline=False),
        format=format,
        video={**VIDEO, "encoder": "h264", "key_frames": 1},
        tracker_options=options,
        progress=False,
    )


# -- what lies where -----------------------------------------------------------------------------


def mlflow_description(client: Any, run_id: str) -> dict[str, Any]:
    """Return what MLflow knows of a run besides its files, as plain data."""
    run = client.get_run(run_id)
    # Who ran what from where is MLflow's own, and the machine's.
    of_machine = re.compile(r"mlflow\.(user|source\.)")
    history = {key: client.get_metric_history(run_id, key) for key in sorted(run.data.metrics)}
    return {
        "run_id": run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "params": dict(sorted(run.data.params.items())),
        "tags": {key: tag for key, tag in run.data.tags.items() if not of_machine.match(key)},
        "metrics": {
            key: [[point.step, point.value] for point in points] for key, points in history.items()
        },
    }


def wandb_description(server: Any, path: str) -> dict[str, Any]:
    """Return what the stand-in W&B server holds of a run, but for the bytes of files."""
    run = server.run(path)
    artifacts = [
        {
            "id": artifact.id,
            "collection": artifact.collection,
            "type": artifact.type,
            "digest": artifact.digest,
            "aliases": artifact.aliases,
            "version": artifact.version,
            "metadata": artifact.metadata,
            "manifest": json.loads(artifact.manifest),
        }
        for artifact in server.artifacts(path)
    ]
    return {
        "path": path,
        "name": run.display_name,
        "state": run.state,
        "config": {key: value for key, value in run.config.items() if key != "_wandb"},
        "summary": run.summary,
        "history_keys": sorted({key for row in run.history for key in row}),
        "files": sorted(run.files),
        "artifacts": artifacts,
    }


def all_names(
    directories: dict[str, Path], mlflow_run: dict[str, Any], wandb_run: dict[str, Any]
) -> dict[str, list[str]]:
    """Return every name under which a training is stored, without steps, sizes and ids.

    Args:
        directories: what each is called -> the run or spool that lies there.
        mlflow_run, wandb_run: as ``mlflow_description`` and ``wandb_description`` return them.
    """
    found: dict[str, set[str]] = {}
    for place, directory in directories.items():
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                name = _without_numbers(path.relative_to(directory).as_posix())
                found.setdefault(f"files in {place}", set()).add(name)
                if inside := _names_in(path):
                    found.setdefault(f"in {name}", set()).update(inside)
    found |= _names_in_mlflow(mlflow_run) | _names_in_wandb(wandb_run)
    return {kind: sorted(names) for kind, names in sorted(found.items())}


def _names_in_mlflow(run: dict[str, Any]) -> dict[str, set[str]]:
    ours = re.compile(r"tracker_viz|specialisation|mlflow\.(note|logged)")
    return {
        "MLflow metrics": set(map(_without_role, run["metrics"])),
        "MLflow params": set(run["params"]),
        "MLflow tags": set(filter(ours.match, run["tags"])),
    }


def _names_in_wandb(run: dict[str, Any]) -> dict[str, set[str]]:
    """Return our names; the client stores things of its own, often under random names."""
    run_id = run["path"].rpartition("/")[2]
    its_own = re.compile(r"_|wandb-|config\.yaml|media/|run-")
    collections = [each["collection"].replace(run_id, "<run>") for each in run["artifacts"]]
    files = [path for each in run["artifacts"] for path in each["manifest"]["contents"]]
    metadata = [json.loads(each["metadata"] or "{}") for each in run["artifacts"]]
    return {
        "W&B config": set(run["config"]),
        "W&B summary": {_without_role(key) for key in run["summary"] if not its_own.match(key)},
        "W&B history": {key for key in run["history_keys"] if not its_own.match(key)},
        "W&B files": {file for file in run["files"] if not its_own.match(file)},
        "W&B artifact types": {each["type"] for each in run["artifacts"]},
        "W&B artifacts": {each for each in collections if not its_own.match(each)},
        "W&B artifact files": set(map(_without_numbers, files)),
        "W&B artifact metadata": {key for each in metadata for key in each},
    }


def _names_in(path: Path) -> set[str]:
    if path.suffix == ".safetensors":
        return _names_in_tensors(path)
    if path.suffix == ".csv":
        return set(next(csv.reader(path.open(newline=""))))
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return {_without_role(key) for line in lines for key in line}
    if path.suffix == ".json":
        contents = json.loads(path.read_text())
        return {_without_step(key) for key in contents} if isinstance(contents, dict) else set()
    return set()


def _names_in_tensors(path: Path) -> set[str]:
    """Return the names of tensors, and of metadata: ``tracker_viz/probe/length``."""
    with safetensors.safe_open(str(path), framework="numpy") as file:
        names = {f"tensor {name}" for name in file.keys()}  # noqa: SIM118  not a dict
        for key, text in (file.metadata() or {}).items():
            for name, value in json.loads(text).items():
                names.add(f"{key}/{name}")
                if name in ("model", "probe", "labels", "metrics"):
                    names |= {f"{key}/{name}/{inner}" for inner in value}
    return names


def _without_numbers(name: str) -> str:
    name = re.sub(r"step-\d{8,12}\.\d+\.[0-9a-f]{64}", "step-<step>.<nbytes>.<sha256>", name)
    name = re.sub(r"step([-_+])\d+", r"step\1<step>", name)
    name = re.sub(r"timestamp\+\d+", "timestamp+<time>", name)  # MLflow's images
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{20,}", "<id>", name)


def _without_step(key: str) -> str:
    return _without_role("<step>" if key.isdecimal() else key)


def _without_role(key: str) -> str:
    """Name no role: which ones heads take, and so have an onset, differs from run to run."""
    return re.sub(r"specialisation/\w+_onset_(step|after)", r"specialisation/<role>_onset_\1", key)
