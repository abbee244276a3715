"""Store everything that a resumed run needs in one safetensors file, and keep it in the run.

A checkpoint holds tensors (weights, optimizer state, random states) and a JSON description (step,
config). In the run it is ``checkpoints/step-00000400.safetensors``; ``checkpoints/latest.json``
names the last one and its sha256. That file is sent after the tensors, so that a run whose upload
was cut off still names a whole checkpoint. ``train.py`` is the only caller.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
from torch import Tensor

from tracker_viz.errors import ConfigError, TrackerError, TrackerVizError
from tracker_viz.files import check_tensor_header, read_json, write_atomically
from tracker_viz.stored import CheckpointDescription, LatestCheckpoint

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
LATEST = "checkpoints/latest.json"
_METADATA_KEY = "tracker_viz_checkpoint"


class FileStore(Protocol):
    """The part of ``trackers.base.Run`` that checkpoints go through."""

    def put_file(self, file: Path, artifact: str) -> str: ...

    def get_file(self, artifact: str, directory: Path) -> Path: ...


@dataclass(frozen=True)
class Checkpoint:
    """A training run between two steps.

    Attributes:
        step: optimizer steps finished.
        tensors: name -> tensor, as the trainer named them.
        config: the run's configuration as plain data, for a resumed run.
    """

    step: int
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        return f"step-{self.step:08d}.safetensors"


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Write one checkpoint, whole or not at all. The tensors may change when this returns."""
    description = {"schema": SCHEMA_VERSION, "step": checkpoint.step, "config": checkpoint.config}
    metadata = {_METADATA_KEY: json.dumps(description)}
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        tensors[name] = tensor.detach().cpu().contiguous()
    write_atomically(safetensors.torch.save(tensors, metadata), path)


def read(path: Path) -> Checkpoint:
    """Read a checkpoint, its tensors on the CPU.

    Raises:
        ConfigError: the file is no checkpoint of this program, or one of a newer version.
    """
    try:
        check_tensor_header(path)
        with safetensors.safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY)
            if text is None:
                raise ConfigError(f"{path} is a safetensors file, but not a checkpoint of train.py")
            description = CheckpointDescription.read(text, path)
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except ConfigError:
        raise
    except TrackerError as error:
        raise ConfigError(f"{error}; resume from an earlier checkpoint") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a whole safetensors file ({error}); resume from an earlier checkpoint"
        ) from error
    return Checkpoint(description.step, tensors, description.config)


def fetch_latest(run: FileStore, directory: Path) -> Checkpoint:
    """Return the last whole checkpoint of ``run``, downloaded into ``directory``.

    Raises:
        ConfigError: the run has no checkpoint, or it is damaged.
    """
    return read(download_latest(run, directory))


def download_latest(run: FileStore, directory: Path) -> Path:
    """Return the file of the last whole checkpoint of ``run``, downloaded into ``directory``.

    Raises:
        ConfigError: the run has no checkpoint, or it is damaged.
    """
    try:
        stored = read_json(run.get_file(LATEST, directory))
    except TrackerVizError as error:
        raise ConfigError(
            f"this run has no checkpoint to resume from ({error}); runs have them when they are "
            "trained with trainer.checkpoint_every > 0"
        ) from error
    try:
        latest = LatestCheckpoint.of(stored, f"{LATEST} of the run")
    except TrackerError as error:
        raise ConfigError(
            f"{error}; a checkpoint is named like 'step-00000400.safetensors'; got "
            f"{stored.get('file')!r:.100}"
        ) from error
    name = latest.file
    path = run.get_file(f"checkpoints/{name}", directory)
    if _sha256(path) != latest.sha256:
        raise ConfigError(
            f"checkpoint {name} of the run is not what was uploaded (its sha256 differs from the "
            f"one in {LATEST})"
        )
    return path


class CheckpointUploader:
    """Write checkpoints into ``directory`` and send them to every run from a thread of its own.

    Training never waits for a tracker: when one is slow, only the newest checkpoint is sent. A run
    that could not be reached yet, or did not take it, is offered the newest once more at the end;
    what fails then is logged and stays in ``directory``.
    """

    def __init__(self, directory: Path, runs: Callable[[], Iterable[FileStore]]):
        self.directory = directory
        self._runs = runs
        self._pending: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        # Runs go by their id() here: two of one reference may be different services.
        self._sent: dict[int, Path] = {}
        self._offered: set[int] = set()
        self._newest: Path | None = None
        self._thread = threading.Thread(target=self._send_all, name="checkpoints", daemon=True)
        self._thread.start()

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint to the disk and queue it for the runs. A full disk costs the
        checkpoint, not the training."""
        path = self.directory / "checkpoints" / checkpoint.file_name
        try:
            write(checkpoint, path)
            latest = json.dumps(
                {"file": path.name, "step": checkpoint.step, "sha256": _sha256(path)}
            ).encode()
            # The next checkpoint overwrites the first file; the second lasts until this checkpoint
            # is sent.
            write_atomically(latest, self.directory / LATEST)
            write_atomically(latest, path.with_suffix(".json"))
        except OSError as error:
            log.error(
                "the checkpoint of step %d could not be written to %s (%s); training continues",
                checkpoint.step,
                path,
                error,
            )
        else:
            self._pending.put(path)
        return path

    def close(self, timeout_s: float = 120.0) -> bool:
        """Wait until everything is sent, and return whether it was within ``timeout_s``. Repeating
        it is harmless."""
        self._pending.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning(
                "checkpoints are still being uploaded; they are kept in %s",
                self.directory / "checkpoints",
            )
        return not self._thread.is_alive()

    def offer_late(self) -> None:
        """Send the newest checkpoint, after ``close``, to runs that were reached only since then,
        for example because their service was busy."""
        if self._newest is not None and not self._thread.is_alive():
            late = [run for run in self._runs() if id(run) not in self._offered]
            self._send(self._newest, late)

    def __enter__(self) -> CheckpointUploader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        # A user who interrupts the program does not want to wait for a tracker.
        self.close(0.0 if kind is KeyboardInterrupt else 120.0)

    def _send_all(self) -> None:
        is_last = False
        while not is_last:
            # Skip to the newest checkpoint of those that arrived during the last upload.
            waiting = [self._pending.get()]
            while not self._pending.empty():
                waiting.append(self._pending.get())
            for path in waiting:
                if path is None:
                    is_last = True
                else:
                    self._newest = path
            if self._newest is not None:
                self._send(self._newest, self._runs())

    def _send(self, path: Path, runs: Iterable[FileStore]) -> None:
        for run in runs:
            self._offered.add(id(run))
            if self._sent.get(id(run)) == path:
                continue
            try:
                run.put_file(path, f"checkpoints/{path.name}")
                run.put_file(path.with_suffix(".json"), LATEST)
                self._sent[id(run)] = path
            # Whatever a tracker's failure is, it must not end training.
            except Exception as error:  # noqa: BLE001
                log.warning(
                    "checkpoint %s could not be uploaded (%s); it is kept in %s",
                    path.name,
                    error,
                    path,
                )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
