"""Write and read ``scores/heads.safetensors``: the scores of all captures of a run in one small
file, written when training ends.

A comparison of a thousand runs needs every head's scores and no attention map: with this file it
downloads a megabyte of a run instead of gigabytes of captures. The file is a shortcut, never the
truth: each row carries the hash of its capture. Readers get the scores of captures that are missing
here (after a crash) or were replaced since from the captures themselves.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from tracker_viz.errors import CaptureFileError, ConfigError
from tracker_viz.files import check_tensor_header
from tracker_viz.metrics.series import HEAD_PREFIX, MIXING_PREFIX, SD_PREFIX, ScoreSeries
from tracker_viz.metrics.tables import onset_table
from tracker_viz.types import Capture, CaptureRef, capture_file_name

SCORE_FILE = "scores/heads.safetensors"
SCHEMA_VERSION = 1
MAX_FILE_BYTES = 1 << 30
_METADATA_KEY = "tracker_viz_scores"
_OF_HEAD = "head."
# Without a dot: readers from before these were written take names with one for scores.
_SPREAD = "head_sd:"
_OF_MIXER = "mixing:"
_CHARTS = ("attn/", "weights/")  # metrics that are computed from the scores


@dataclass(frozen=True, slots=True)
class ScoreFile:
    """The contents of a score file.

    Attributes:
        captures: the capture of each row of ``series``, in its order.
        series: the heads' scores, their spread, those of mixing maps, tokens and metrics; no
            scores of weights, and no metrics that are computed from scores of heads or weights.
        probe, rows: the probe batch as a capture describes it, and the labels of its rows.
    """

    captures: tuple[CaptureRef, ...]
    series: ScoreSeries
    probe: Mapping[str, Any]
    rows: tuple[str, ...]

    def scored(self, wanted: Collection[CaptureRef]) -> Iterator[Capture]:
        """Yield those of the ``wanted`` captures that are here, with scores and metrics alone."""
        series = self.series
        model = {
            "uniform_scores": series.uniform,
            "score_rows": series.n_rows,
            "score_definitions": series.definitions,
        }
        for index, ref in enumerate(self.captures):
            if ref not in wanted:
                continue
            arrays: dict[str, NDArray[Any]] = {}
            by_prefix = (
                (HEAD_PREFIX, series.heads),
                (SD_PREFIX, series.spread),
                (MIXING_PREFIX, series.mixers),
            )
            for prefix, scores in by_prefix:
                arrays |= {f"{prefix}{name}": values[index] for name, values in scores.items()}
            tokens = series.tokens_seen[index]
            yield Capture(
                ref.step,
                arrays,
                tokens_seen=int(tokens) if np.isfinite(tokens) else None,
                metrics={name: float(values[index]) for name, values in series.metrics.items()},
                model=model,
            )


def score_bytes(
    series: ScoreSeries,
    captures: Mapping[int, CaptureRef],
    probe: Mapping[str, Any],
    rows: Sequence[str],
) -> bytes:
    """Return the file's contents. ``captures``: step -> the capture; steps of ``series`` that are
    not among them are left out."""
    kept = [index for index, step in enumerate(series.steps.tolist()) if step in captures]
    refs = [captures[int(series.steps[index])] for index in kept]
    tensors: dict[str, NDArray[Any]] = {}
    by_prefix = ((_OF_HEAD, series.heads), (_SPREAD, series.spread), (_OF_MIXER, series.mixers))
    for prefix, scores in by_prefix:
        for name, values in scores.items():
            tensors[f"{prefix}{name}"] = np.ascontiguousarray(values[kept], np.float32)
    metrics = {}
    for name, scalars in series.metrics.items():
        if not name.startswith(_CHARTS):
            metrics[name] = scalars[kept]
    tensors["tokens_seen"] = np.ascontiguousarray(series.tokens_seen[kept], np.float64)
    tensors["metrics"] = np.array([*metrics.values()], np.float64).reshape(len(metrics), len(kept))
    described = {
        "schema": SCHEMA_VERSION,
        "captures": [[ref.step, ref.nbytes, ref.sha256] for ref in refs],
        "metrics": list(metrics),
        "uniform": {name: value for name, value in series.uniform.items() if np.isfinite(value)},
        "score_rows": dict(series.n_rows),
        "score_definitions": series.definitions,
        "probe": dict(probe),
        "rows": list(rows),
        # For readers without this package; we compute them from the scores.
        "onsets": onset_table(series),
    }
    return safetensors.numpy.save(tensors, {_METADATA_KEY: json.dumps(described, allow_nan=False)})


def read_score_file(path: Path) -> ScoreFile:
    """Read a score file.

    Raises:
        CaptureFileError: it is not such a file, is damaged, or was written by a newer tracker_viz.
    """
    try:
        file_nbytes = path.stat().st_size
        if file_nbytes > MAX_FILE_BYTES:
            raise CaptureFileError(
                f"{path} has {file_nbytes:,} bytes; a file of scores has at most {MAX_FILE_BYTES:,}"
            )
        check_tensor_header(path)
        with safetensors.safe_open(str(path), framework="numpy") as file:
            described = json.loads((file.metadata() or {})[_METADATA_KEY])
            if described["schema"] != SCHEMA_VERSION:
                raise CaptureFileError(
                    f"{path} has schema {described['schema']}; this tracker_viz reads "
                    f"{SCHEMA_VERSION}"
                )
            captures = []
            for step, nbytes, sha256 in described["captures"]:
                captures.append(CaptureRef(step, capture_file_name(step), nbytes, sha256))
            series = _read_series(file, described, captures)
            rows = tuple(map(str, described["rows"]))
            return ScoreFile(tuple(captures), series, dict(described["probe"]), rows)
    except (
        safetensors.SafetensorError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
        ConfigError,
        OSError,
    ) as error:
        raise CaptureFileError(f"{path} is not a whole file of scores ({error!r})") from error


def _read_series(
    file: Any, described: Mapping[str, Any], captures: Sequence[CaptureRef]
) -> ScoreSeries:
    n_captures = len(captures)
    heads = _read_scores(file, _OF_HEAD, n_captures)
    spread = _read_scores(file, _SPREAD, n_captures)
    shapes = {values.shape for values in (*heads.values(), *spread.values())}
    if len(shapes) > 1:
        raise ValueError("scores of different shapes")
    metric_names = list(map(str, described["metrics"]))
    metrics = _tensor(file, "metrics", "F64", (len(metric_names), n_captures))
    return ScoreSeries(
        steps=np.array([ref.step for ref in captures], np.int64),
        heads=heads,
        uniform={str(name): float(value) for name, value in described["uniform"].items()},
        tokens_seen=_tensor(file, "tokens_seen", "F64", (n_captures,)),
        metrics=dict(zip(metric_names, metrics, strict=True)),
        spread=spread,
        mixers=_read_scores(file, _OF_MIXER, n_captures),
        n_rows={str(name): int(n) for name, n in described.get("score_rows", {}).items()},
        definitions=int(described.get("score_definitions", 1)),
    )


def _read_scores(file: Any, prefix: str, n_captures: int) -> dict[str, Any]:
    """Return name without ``prefix`` -> float32 [capture, block, head]."""
    scores = {}
    for name in file.keys():  # noqa: SIM118
        if name.startswith(prefix):
            shape = (n_captures, None, None)
            scores[name.removeprefix(prefix)] = _tensor(file, name, "F32", shape)
    return scores


def _tensor(file: Any, name: str, dtype: str, shape: tuple[int | None, ...]) -> Any:
    """Read one tensor, checked before it is allocated. None in ``shape``: any size."""
    found = file.get_slice(name)
    size = found.get_shape()
    fits = len(size) == len(shape)
    for wanted, there in zip(shape, size, strict=False):
        fits = fits and wanted in (None, there)
    if not fits or found.get_dtype() != dtype:
        raise ValueError(f"{name} must be {dtype} {shape}; it is {found.get_dtype()} {size}")
    return file.get_tensor(name)
