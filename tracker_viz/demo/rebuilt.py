"""Rebuild a finished training of ``train.py`` from its run: the model, the checkpoints and held-out
rows. Called by ``pipeline.verify``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracker_viz.demo import checkpoint
from tracker_viz.demo.checkpoint import Checkpoint, FileStore
from tracker_viz.demo.data import DataConfig, Mixture, repeated_spans
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.errors import ConfigError, TrackerError


@dataclass(frozen=True, slots=True)
class StoredTraining:
    """A finished training.

    Attributes:
        model: of the run's shape; its weights are random until a checkpoint is loaded.
        checkpoints: step -> the file, downloaded.
        repeated, text: held-out rows, int64 [row, context_length + 1]. There is no text where the
            files that the run was trained on are not on this machine.
    """

    model: Decoder
    checkpoints: Mapping[int, Path]
    repeated: Tensor
    text: Tensor | None


def stored_training(
    run: FileStore, steps: Sequence[int] | None, *, n_rows: int, directory: Path
) -> StoredTraining:
    """Download checkpoints of ``run`` into ``directory`` and rebuild their model and rows. No
    global random state changes.

    Args:
        steps: of the checkpoints; None: the last one.
        n_rows: held-out rows of each kind.

    Raises:
        ConfigError: the run has no checkpoint of such a step, or was not trained by ``train.py``.
    """
    newest = checkpoint.read(checkpoint.download_latest(run, directory))
    if not {"model", "data"} <= set(newest.config):
        raise ConfigError("the run's checkpoint does not say which model and data it is of")
    found = {step: _downloaded(run, step, newest, directory) for step in steps or (newest.step,)}
    with torch.random.fork_rng():
        model = Decoder(ModelConfig.of(newest.config["model"]))
    repeated, text = _held_out_rows(newest.config, n_rows)
    return StoredTraining(model, found, repeated, text)


def _downloaded(run: FileStore, step: int, newest: Checkpoint, directory: Path) -> Path:
    try:
        return run.get_file(f"checkpoints/step-{step:08d}.safetensors", directory)
    except TrackerError as error:
        every = newest.config.get("trainer", {}).get("checkpoint_every")
        raise ConfigError(
            f"the run has no checkpoint of step {step}; it has the last one, of "
            f"step {newest.step}, and of those saved every {every} steps the ones "
            "that were uploaded in time"
        ) from error


def _held_out_rows(config: Mapping[str, Any], n_rows: int) -> tuple[Tensor, Tensor | None]:
    model, data = ModelConfig.of(config["model"]), DataConfig.of(config["data"])
    try:
        if data.path is not None:
            # A run from a server must not decide which files of this machine are read.
            raise ConfigError(f"the run was trained on {data.path}")
        mixture = Mixture(data, model.context_length, batch_size=1, seed=0)
    except ConfigError:
        generator = torch.Generator().manual_seed(2**31 - 1)
        return repeated_spans(n_rows, model.context_length + 1, data, generator), None
    text, repeated = mixture.validation_rows(n_rows)
    return repeated, text
