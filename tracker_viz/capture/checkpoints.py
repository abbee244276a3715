"""Find saved checkpoints, load them into a model and capture it. Called by ``pipeline.backfill``
and ``pipeline.verify``.

Checkpoints are safetensors files, files of ``torch.save`` (read with ``weights_only=True``: no code
in them is run), or the directories that Hugging Face writes. The step is part of the name.
"""

from __future__ import annotations

import glob
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from tracker_viz.capture.camera import Camera
from tracker_viz.errors import CaptureError, ConfigError, TrackerError
from tracker_viz.files import read_json
from tracker_viz.stored import ShardIndex
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
_LONGEST_PREFIX = 3
_NAMES_SHOWN = 4
# ``torch.save`` packs nothing; who zips again what it wrote saves a little.
_MOST_UNPACKED = 4


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved model. ``step``: optimizer steps that it was trained for."""

    step: int
    path: Path


def find_checkpoints(pattern: str) -> list[Checkpoint]:
    """Return the checkpoints that a glob pattern (``**`` too) matches, by step.

    Raises:
        ConfigError: none match, one has no number in its name, or two have the same.
    """
    matches = [Path(path) for path in glob.glob(pattern, recursive=True)]
    paths = [path for path in matches if path.is_dir() or path.suffix in _SUFFIXES]
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
    """Read the step in a name: ``checkpoint-500/model.safetensors``, ``ckpt_step=500.pt``,
    ``model_500.pt`` -> 500.

    Raises:
        ConfigError: neither the file's name nor its directory's holds a number.
    """
    own_name = path.stem
    if path.is_dir():
        own_name = path.name  # a dot in it is no suffix
    for name in (own_name, path.parent.name):
        numbers = _STEP.findall(name) or re.findall(r"\d+", name)
        if numbers:
            return int(numbers[-1])
    raise ConfigError(
        f"no step in the name {str(path)!r}; expected something like checkpoint-500 or "
        "step_000500.safetensors"
    )


def capture_checkpoints(
    camera: Camera, checkpoints: Iterable[Checkpoint], *, captured: Collection[int] = ()
) -> Iterator[Capture]:
    """Load one checkpoint after the other into the camera's model, by step, and yield its capture.

    Args:
        camera: has looked at the model (``explore``), whose weights are overwritten.
        captured: steps that the run holds already; their checkpoints are not even opened.

    Raises:
        CaptureError: a checkpoint does not fit the model.
    """
    for checkpoint in sorted(checkpoints, key=lambda checkpoint: checkpoint.step):
        if checkpoint.step not in captured:
            load_checkpoint(camera.model, checkpoint.path)
            yield camera.take(checkpoint.step, None, {})


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Put saved weights into the model, without the prefixes of wrappers (``module.``,
    ``_orig_mod.``, ``model.``).

    Raises:
        CaptureError: it is no checkpoint, or its names or shapes are not the model's.
    """
    saved = _named_like(model, read_weights(path))
    own = model.state_dict()
    _check_fit(model, own, saved, path)
    model.load_state_dict({name: saved[name] for name in own if name in saved}, strict=False)


def check_checkpoint(model: nn.Module, path: Path) -> None:
    """Compare a checkpoint's names and shapes with the model's and load nothing. Only the
    headers of safetensors files are read.

    Raises:
        CaptureError: as ``load_checkpoint``.
    """
    saved: dict[str, Tensor] = {}
    for file in _files_of(path):
        saved |= _shapes_in(file)
    _check_fit(model, model.state_dict(), _named_like(model, saved), path)


def _check_fit(
    model: nn.Module, own: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path
) -> None:
    missing, wrong = [], []
    for name, tensor in own.items():
        if name not in saved:
            if not _is_tied(model, name, saved):
                missing.append(name)
        elif saved[name].shape != tensor.shape:
            wrong.append(f"{name} is {tuple(saved[name].shape)}, the model's {tuple(tensor.shape)}")
    if wrong or missing:
        reason = f"other shapes: {_some(wrong)}"
        if missing:
            reason = f"it lacks {_some(missing)}"
        raise CaptureError(
            f"checkpoint {path} does not fit {type(model).__name__}: {reason}; it holds "
            f"{_some(list(saved))}"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint by name, on the CPU.

    Raises:
        CaptureError: it holds no weights, or something that could run code.
    """
    weights: dict[str, Tensor] = {}
    for file in _files_of(path):
        weights |= _read_file(file)
    return weights


def _files_of(path: Path) -> list[Path]:
    """Return the files that hold a checkpoint's weights: itself, or those of a directory."""
    if path.is_dir():
        inside = [path / name for name in _IN_DIRECTORY if (path / name).is_file()]
        if not inside:
            raise CaptureError(f"directory {path} holds none of {', '.join(_IN_DIRECTORY)}")
        path = inside[0]
    if path.suffix != ".json":
        return [path]
    try:
        shards = sorted(set(ShardIndex.of(read_json(path), path).weight_map.values()))
    except TrackerError as error:
        raise CaptureError(f"checkpoint {error}") from error
    return [path.parent / Path(shard).name for shard in shards]


def _shapes_in(path: Path) -> dict[str, Tensor]:
    """Return tensors of the shapes that a file holds, without their values where it says its
    shapes in a header."""
    if path.suffix != ".safetensors":
        return _read_file(path)
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return {
                name: torch.empty(file.get_slice(name).get_shape(), device="meta")
                for name in file.keys()  # noqa: SIM118
            }
    except (OSError, safetensors.SafetensorError) as error:
        raise CaptureError(
            f"checkpoint {path} is not a whole safetensors file ({error})"
        ) from error


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        _check_unpacked(path)
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


def _check_unpacked(path: Path) -> None:
    """Check what the directory of a zip file promises, before any of it is read: a packed file of
    600 KB can hold tensors of 600 MB, and entries that overlap more than that.

    Raises:
        ValueError: it holds far more than its own bytes.
        zipfile.BadZipFile: it has no such directory.
    """
    if not zipfile.is_zipfile(path):
        return  # torch.save's older format
    with zipfile.ZipFile(path) as file:
        promised = sum(entry.file_size for entry in file.infolist())
    nbytes = path.stat().st_size
    if promised > _MOST_UNPACKED * nbytes:
        raise ValueError(f"it has {nbytes:,} bytes, and {promised:,} once it is unpacked")


def _named_like(model: nn.Module, saved: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the saved weights without the prefix that makes most of them fit the model's names."""
    own = list(model.state_dict())
    prefixes = {""}
    for name in saved:
        prefixes |= _prefixes(name)

    def n_fitting(prefix: str) -> int:
        return sum(prefix + name in saved for name in own)

    # The shortest of several that fit equally well.
    best = max(sorted(prefixes, key=len), key=n_fitting)
    named = {}
    for name, tensor in saved.items():
        if name.startswith(best):
            named[name.removeprefix(best)] = tensor
    return named


def _prefixes(name: str) -> set[str]:
    parts = name.split(".")
    longest = min(len(parts) - 1, _LONGEST_PREFIX)
    return {".".join(parts[:count]) + "." for count in range(1, longest + 1)}


def _is_tied(model: nn.Module, name: str, saved: Mapping[str, Tensor]) -> bool:
    """Return whether a weight need not be in a checkpoint: it is shared and saved under its other
    name, or it is a buffer that is the same in every run."""
    named = dict(model.named_parameters(remove_duplicate=False))
    if name not in named:
        return True
    twins = [other for other, weight in named.items() if weight is named[name] and other != name]
    return any(twin in saved for twin in twins)


def _some(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    shown = ", ".join(names[:_NAMES_SHOWN])
    n_more = len(names) - _NAMES_SHOWN
    if n_more > 0:
        shown += f" and {n_more} more"
    return shown
