"""How big a capture may be: what is copied off the device, and what of it is written.

``Recorder`` asks ``weight_side`` before it copies anything; ``fit`` runs later, off the training
thread and after scoring, and cuts a capture to its size. Both follow from shapes and the budget
alone, so every capture of a run is cut alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.capture.weights import evenly_spaced
from tracker_viz.capture_file import compact
from tracker_viz.errors import ConfigError
from tracker_viz.types import Capture

DEFAULT_MAX_MB = 10.0

_BYTES = 2  # float16
_ATTENTION_SHARE = 0.6
_HEADER_BYTES = 64 * 1024
# A weight map of fewer rows and columns than this shows nothing.
_LEAST_SIDE = 8


def weight_side(shapes: Sequence[tuple[int, int]], nbytes: float) -> int:
    """Most rows, and most columns, that a weight matrix may keep so that all of ``shapes`` together
    fit ``nbytes`` as float16."""
    largest = max((max(shape) for shape in shapes), default=1)
    low, high = _LEAST_SIDE, max(largest, _LEAST_SIDE)
    while low < high:
        side = (low + high + 1) // 2
        if sum(min(out, side) * min(into, side) for out, into in shapes) * _BYTES <= nbytes:
            low = side
        else:
            high = side - 1
    return low


def weights_share(max_mb: float) -> float:
    """Bytes that ``fit`` leaves to weights whatever attention asks for, scores aside."""
    return (1 - _ATTENTION_SHARE) * (max_mb * 1e6 - _HEADER_BYTES) * 0.9


def fit(capture: Capture, max_mb: float = DEFAULT_MAX_MB) -> Capture:
    """The capture as float16, cut until its arrays take at most ``max_mb`` megabytes (10**6 bytes).

    Scores are never cut, and hidden rows of the probe, which are there for the scores alone, are
    always dropped. Attention goes first, in this order: probe rows beyond the first repeated
    and the first text one, then all but one row, heads beyond 8 a block, positions beyond 64 (a
    causal map's first rows are whole without the later ones), heads beyond 4, 2, 1, then blocks,
    evenly spaced. Weights become evenly spaced samples. What was left out is said in ``labels``
    (``probe``, ``blocks.<i>.head``) and in ``model['cut']``.
    """
    if not max_mb > 0:
        raise ConfigError(f"max_mb must be greater than 0; got {max_mb}")
    capture = without_hidden_rows(capture)
    patterns = {
        name: array for name, array in capture.arrays.items() if name.endswith(".attn.pattern")
    }
    weights = {
        name: array
        for name, array in capture.arrays.items()
        if capture.axes.get(name) == ("out", "in")
    }
    others = {
        name: array
        for name, array in capture.arrays.items()
        if name not in patterns and name not in weights
    }
    available = (
        max_mb * 1e6 - _HEADER_BYTES - sum(array.size * array.itemsize for array in others.values())
    )
    weight_bytes = sum(array.size for array in weights.values()) * _BYTES
    pattern_bytes = sum(array.size for array in patterns.values()) * _BYTES
    for_patterns = (
        available if not weights else max(_ATTENTION_SHARE * available, available - weight_bytes)
    )
    kept, labels, probe, cut = (
        _fit_patterns(patterns, capture, for_patterns)
        if pattern_bytes > for_patterns
        else (patterns, {}, capture.probe, {})
    )
    left = available - sum(array.size for array in kept.values()) * _BYTES
    side = (
        weight_side([array.shape for array in weights.values()], left) if weight_bytes > left else 0
    )
    if side:
        cut["weight_side"] = side
        weights = {name: sample(array, side) for name, array in weights.items()}
    arrays = {
        **others,
        **{name: compact(array) for name, array in (*kept.items(), *weights.items())},
    }
    return replace(
        capture,
        arrays=arrays,
        axes={name: axes for name, axes in capture.axes.items() if name in arrays},
        labels={**capture.labels, **labels},
        probe=probe,
        model={**capture.model, "cut": cut} if cut else capture.model,
    )


def without_hidden_rows(capture: Capture) -> Capture:
    """Return the capture without the attention on rows that are scored and never drawn."""
    rows = capture.probe.get("rows", ())
    drawn = [index for index, row in enumerate(rows) if not row.get("hidden")]
    if len(drawn) == len(rows):
        return capture
    arrays = {
        name: array[drawn] if name.endswith(".attn.pattern") else array
        for name, array in capture.arrays.items()
    }
    labels = dict(capture.labels)
    if "probe" in labels:
        labels["probe"] = tuple(labels["probe"][row] for row in drawn)
    probe = {**capture.probe, "rows": [rows[row] for row in drawn]}
    return replace(capture, arrays=arrays, labels=labels, probe=probe)


def sample(matrix: NDArray[Any], side: int) -> NDArray[Any]:
    """Evenly spaced rows and columns of a matrix, at most ``side`` of each."""
    rows, columns = (evenly_spaced(size, side) for size in matrix.shape)
    return matrix[np.ix_(rows, columns)]


def _fit_patterns(
    patterns: Mapping[str, NDArray[Any]], capture: Capture, nbytes: float
) -> tuple[dict[str, NDArray[Any]], dict[str, tuple[str, ...]], Mapping[str, Any], dict[str, Any]]:
    n_rows, _, length, _ = next(iter(patterns.values())).shape
    display = _display_rows(capture, n_rows)
    most_heads = max(array.shape[1] for array in patterns.values())
    choices: list[tuple[list[int], int, int]] = [
        (display, most_heads, length),
        (display[:1], most_heads, length),
    ]
    choices += [(display[:1], 8, length)]
    choices += [(display[:1], heads, 64) for heads in (8, 4, 2, 1)]
    rows, heads, positions = choices[-1]
    for rows, heads, positions in choices:
        if _pattern_bytes(patterns, len(rows), heads, positions) <= nbytes:
            break
    names = list(patterns)
    per_block = _pattern_bytes(patterns, len(rows), heads, positions) / len(names)
    names = [
        names[index] for index in evenly_spaced(len(names), max(1, math.floor(nbytes / per_block)))
    ]
    kept, labels = {}, {}
    for name in names:
        array = patterns[name]
        chosen = evenly_spaced(array.shape[1], heads)
        kept[name] = array[np.ix_(np.asarray(rows), chosen)][:, :, :positions, :positions]
        axis = name.removesuffix(".attn.pattern") + ".head"
        if len(chosen) < array.shape[1]:
            before = capture.labels.get(axis, tuple(map(str, range(array.shape[1]))))
            labels[axis] = tuple(before[index] for index in chosen)
    cut = {"probe_rows": len(rows), "heads": heads, "positions": positions, "blocks": len(names)}
    if "probe" in capture.labels:
        labels["probe"] = tuple(capture.labels["probe"][row] for row in rows)
    return kept, labels, _cut_probe(capture.probe, rows, min(positions, length)), cut


def _display_rows(capture: Capture, n_rows: int) -> list[int]:
    """The first repeated row and the first text row: what a picture shows."""
    kinds = [row.get("kind") for row in capture.probe.get("rows", ())]
    if len(kinds) != n_rows:
        return list(range(min(n_rows, 2)))
    return [kinds.index(kind) for kind in ("repeated", "text") if kind in kinds] or [0]


def _pattern_bytes(
    patterns: Mapping[str, NDArray[Any]], rows: int, heads: int, positions: int
) -> int:
    return (
        sum(
            rows * min(array.shape[1], heads) * min(array.shape[2], positions) ** 2
            for array in patterns.values()
        )
        * _BYTES
    )


def _cut_probe(probe: Mapping[str, Any], rows: Sequence[int], length: int) -> Mapping[str, Any]:
    described = probe.get("rows")
    if not described:
        return probe
    return {**probe, "length": length, "rows": [_shortened(described[row], length) for row in rows]}


def _shortened(row: Mapping[str, Any], length: int) -> dict[str, Any]:
    per_token = {name: list(row[name])[:length] for name in ("tokens", "ids") if name in row}
    return {**row, **per_token}
