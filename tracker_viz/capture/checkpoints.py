"""Captures of checkpoints that were saved earlier: files in, Captures into a sink. Called by
``pipeline.backfill``.

Checkpoints are safetensors files, files of ``torch.save`` (read with ``weights_only=True``: no code
in them is run), or the directories that Hugging Face writes. The step stands in the name.
"""

from __future__ import annotations

import glob
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from tracker_viz.capture.recorder import Recorder
from tracker_viz.capture.schedule import Schedule
from tracker_viz.errors import CaptureError, ConfigError
from tracker_viz.types import Capture

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_STEP = re.compile(
    r"(?:step|iter|iteration|checkpoint|ckpt|global_step)[-_=]?0*(\d+)", re.IGNORECASE
)
_IN_DIRECTORY = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Where training scripts put the model's weights inside what they save.
_NESTED = ("state_dict", "model_state_dict", "model", "module", "weights")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved model, and how many optimiser steps it had behind it."""

    step: int
    path: Path


def find_checkpoints(pattern: str) -> list[Checkpoint]:
    """Checkpoints that a glob pattern (``**`` too) matches, by step.

    Raises:
        ConfigError: none match, one has no number in its name, or two have the same.
    """
    paths = [Path(path) for path in glob.glob(pattern, recursive=True)]
    paths = [path for path in paths if path.is_dir() or path.suffix in _SUFFIXES]
    if not paths:
        raise ConfigError(
            f"no checkpoint matches {pattern!r}; expected directories or files ending in "
            f"{', '.join(_SUFFIXES)}"
        )
    found: dict[int, Path] = {}
    for path in sorted(paths):
        step = step_of(path)
        if step in found:
            raise ConfigError(
                f"{found[step]} and {path} are both of step {step}; narrow the pattern, so that "
                "each step is matched once"
            )
        found[step] = path
    return [Checkpoint(step, found[step]) for step in sorted(found)]


def step_of(path: Path) -> int:
    """``checkpoint-500/model.safetensors``, ``ckpt_step=500.pt``, ``model_500.pt`` -> 500.

    Raises:
        ConfigError: there is no number in the file's name, nor in that of its directory.
    """
    for name in (path.name if path.is_dir() else path.stem, path.parent.name):
        named = _STEP.findall(name)
        numbers = named or re.findall(r"\d+", name)
        if numbers:
            return int(numbers[-1])
    raise ConfigError(
        f"no step in the name {str(path)!r}; expected something like checkpoint-500 or "
        "step_000500.safetensors"
    )


def capture_checkpoints(
    model: nn.Module,
    checkpoints: Iterable[Checkpoint],
    probe: Any,
    sink: Callable[[Capture], None],
    *,
    captured: Collection[int] = (),
    loaded: Callable[[Checkpoint], None] = lambda checkpoint: None,
    **recorder_options: Any,
) -> list[int]:
    """Load one checkpoint after the other into ``model`` and capture it.

    Args:
        model: of the class and configuration that was saved; its weights are overwritten.
        captured: steps that the run holds already; their checkpoints are not even opened.
        loaded: told of each checkpoint before it is captured.
        recorder_options: as ``Recorder`` takes them.

    Returns:
        The steps that were captured now.

    Raises:
        CaptureError: a checkpoint does not fit the model.
    """
    taken: list[int] = []
    recorder: Recorder | None = None
    for checkpoint in sorted(checkpoints, key=lambda checkpoint: checkpoint.step):
        if checkpoint.step in captured:
            continue
        load_checkpoint(model, checkpoint.path)
        loaded(checkpoint)
        if recorder is None:
            schedule = Schedule.at([checkpoint.step])
            options = {"max_overhead": math.inf, **recorder_options}
            recorder = Recorder(
                model,
                probe,
                schedule,
                sink,
                start_step=checkpoint.step,
                captured=captured,
                **options,
            )
        recorder.capture_now(checkpoint.step)
        taken.append(checkpoint.step)
    if recorder is not None:
        recorder.close()
    return taken


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Put saved weights into the model; wrappers' prefixes (``module.``, ``_orig_mod.``,
    ``model.``) are looked through.

    Raises:
        CaptureError: the file is none, or its names or shapes are not the model's.
    """
    saved = _named_like(model, read_weights(path))
    own = model.state_dict()
    wrong = [
        f"{name} is {tuple(saved[name].shape)}, the model's {tuple(own[name].shape)}"
        for name in own
        if _differs(saved, own, name)
    ]
    missing = [name for name in own if name not in saved and not _is_tied(model, name, saved)]
    if wrong or missing:
        lacks = f"it lacks {_some(missing)}" if missing else f"other shapes: {_some(wrong)}"
        raise CaptureError(
            f"checkpoint {path} does not fit {type(model).__name__}: {lacks}; it holds "
            f"{_some(list(saved))}"
        )
    model.load_state_dict({name: saved[name] for name in own if name in saved}, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by name, on the CPU.

    Raises:
        CaptureError: it holds no weights, or something that could run code.
    """
    if path.is_dir():
        inside = next((path / name for name in _IN_DIRECTORY if (path / name).is_file()), None)
        if inside is None:
            raise CaptureError(f"directory {path} holds none of {', '.join(_IN_DIRECTORY)}")
        path = inside
    if path.suffix == ".json":
        shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        return {
            name: tensor
            for shard in shards
            for name, tensor in _read_file(path.parent / Path(shard).name).items()
        }
    return _read_file(path)


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CaptureError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: {error}); "
            "save weights alone, as safetensors or with torch.save(model.state_dict())"
        ) from error
    for key in _NESTED:
        if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping):
            saved = saved[key]
    if not isinstance(saved, Mapping):
        raise CaptureError(
            f"checkpoint {path} holds a {type(saved).__name__}; expected weights by name"
        )
    weights = {str(name): tensor for name, tensor in saved.items() if isinstance(tensor, Tensor)}
    if not weights:
        raise CaptureError(
            f"checkpoint {path} holds no weights by name; it has {_some(list(map(str, saved)))}"
        )
    return weights


def _named_like(model: nn.Module, saved: dict[str, Tensor]) -> dict[str, Tensor]:
    """The saved weights under the model's names: without the prefix that makes most of them fit."""
    own = list(model.state_dict())
    prefixes = sorted({"", *(prefix for name in saved for prefix in _prefixes(name))}, key=len)
    fitting = {prefix: sum(prefix + name in saved for name in own) for prefix in prefixes}
    best = max(prefixes, key=lambda prefix: fitting[prefix])
    return {
        name.removeprefix(best): tensor for name, tensor in saved.items() if name.startswith(best)
    }


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) + "." for count in range(1, min(len(parts), 4))]


def _differs(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> bool:
    return name in saved and saved[name].shape != own[name].shape


def _is_tied(model: nn.Module, name: str, saved: Mapping[str, Tensor]) -> bool:
    """A weight shared with another is saved once, under either name; buffers that are the same in
    every run may be left out."""
    named = dict(model.named_parameters(remove_duplicate=False))
    if name not in named:
        return True
    return any(
        other is named[name] and twin in saved for twin, other in named.items() if twin != name
    )


def _some(names: Sequence[str]) -> str:
    return (
        ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        if names
        else "nothing"
    )
