"""Limit the size of a capture: choose what is copied off the device, and what of that is written.

``Recorder`` asks ``weight_side`` before it copies anything; ``Budget.fit`` runs later, off the
training thread and after scoring, and cuts a capture to its size. How much is kept follows from
shapes and the budget alone, so every capture of a run is cut alike; which heads, from their scores.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.capture.routing.cut import (
    ROUTER_SHARE,
    router_bytes,
    routers_of,
    shown_of_routers,
    thinned_routers,
)
from tracker_viz.capture.weights.matrices import evenly_spaced
from tracker_viz.capture_file import compact
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import PROBE_LOSS
from tracker_viz.types import Capture

log = logging.getLogger("tracker_viz.capture")

DEFAULT_MAX_MB = 10.0

# A head that reaches this on one of these scores is kept. Sinks are not among them: in a large
# model most heads are sinks.
ROLE_SCORE = 0.3
ROLE_SCORES = (
    "induction_min",
    "duplicate_token_min",
    "previous_token_repeated",
    "previous_token_text",
    "current_token_repeated",
    "current_token_text",
)

_BYTES = 2  # float16
# Attention's share where attention and weights do not both fit.
_ATTENTION_SHARE = 0.6
# Set aside for a capture file's JSON header, token ids not included.
_HEADER_BYTES = 64 * 1024
_BYTES_AN_ID = 8  # as text, with comma and space
# A weight map of fewer rows and columns than this shows nothing.
_LEAST_SIDE = 8
# Fewer positions show no repetition.
_LEAST_POSITIONS = 64
_PATTERN, _MIXING, _HEAD_AXIS = ".attn.pattern", ".mixer.mixing", ".head"
_MAPS = (_PATTERN, _MIXING)
_NORMS = ".attn.value_norm"  # of all heads, whichever maps are kept
_SPECIALISATION = "scores.head.specialisation"


def weight_side(shapes: Sequence[tuple[int, int]], nbytes: float) -> int:
    """Return the most rows, and columns, that a matrix may keep so that all of ``shapes`` together
    fit ``nbytes`` as float16; at least 8, even where that is too much."""
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
    """Return the bytes that ``fit`` leaves to weights however large the attention is."""
    # 0.9: a tenth is set aside for scores, which do not exist yet.
    return (1 - _ATTENTION_SHARE) * (max_mb * 1e6 - _HEADER_BYTES) * 0.9


class Budget:
    """Cuts the captures of one run to size, all alike. Call it from one thread at a time, in the
    order of steps.

    Where not all heads of a model fit, it keeps the same number of every block, chosen by their
    scores at the first capture, and keeps them for the whole run. A head that takes a role later
    (``ROLE_SCORES``) comes in for the one that has shown least, until the heads of a block all hold
    roles; what has a role never leaves. Which heads a capture holds is in its labels: pictures show
    a head only from the capture on that has it.

    Args:
        max_mb: megabytes (10**6 bytes) that the arrays of a capture may take.
    """

    def __init__(self, max_mb: float = DEFAULT_MAX_MB) -> None:
        if not max_mb > 0:
            raise ConfigError(f"max_mb must be greater than 0; got {max_mb}")
        self.max_mb = max_mb
        # Axis of a block's heads -> label of a kept head -> the most that it has shown so far.
        self._kept: dict[str, dict[str, float]] = {}
        self._was_said = False
        self._routers_were_said = False

    def resume(self, labels: Mapping[str, Sequence[str]], scored: Iterable[Capture]) -> None:
        """Go on with a run.

        Args:
            labels: of its last capture.
            scored: its captures so far, of which only the scores are used.
        """
        axes = [axis for axis in labels if axis.endswith(_HEAD_AXIS)]
        self._kept = {axis: dict.fromkeys(labels[axis], 0.0) for axis in axes}
        for capture in scored:
            for axis, kept in self._kept.items():
                shown = _shown_by_heads(axis, list(kept), capture)
                for label, value in zip(list(kept), shown, strict=True):
                    kept[label] = max(kept[label], value)

    def fit(self, capture: Capture) -> Capture:
        """Return the capture as float16, cut until its arrays take at most ``max_mb``.

        Scores are never cut, and hidden rows of the probe, which are there for the scores alone,
        are always dropped. Attention and mixing maps go first, in this order: probe rows beyond the
        first repeated and the first text one, then all but one row, positions beyond 64 (a causal
        map's first rows are whole without the later ones), then heads, then blocks, evenly spaced.
        Weights become evenly spaced samples. Routers keep the rows and positions that attention
        keeps; where they take more than a fifth of the whole, the routers of some blocks are kept,
        evenly spaced. What was left out is said in ``labels`` (``probe``, ``blocks.<i>.head``), in
        ``model['cut']``, and once in the log.
        """
        capture = without_hidden_rows(capture)
        routers = routers_of(capture.arrays)
        patterns: dict[str, NDArray[Any]] = {}
        weights: dict[str, NDArray[Any]] = {}
        others: dict[str, NDArray[Any]] = {}
        for name, array in capture.arrays.items():
            if name.endswith(_MAPS):
                patterns[name] = array
            elif capture.axes.get(name) == ("out", "in"):
                weights[name] = array
            elif name not in routers and not _is_by_position(name):
                others[name] = array
        available = self.max_mb * 1e6 - _HEADER_BYTES - _bytes_of_ids(capture.probe)
        available -= sum(array.size * array.itemsize for array in others.values())
        # A budget below a capture's own header leaves nothing, not less than nothing.
        for_routers = min(ROUTER_SHARE * max(available, 0.0), router_bytes(routers))
        available -= for_routers
        weight_bytes = sum(array.size for array in weights.values()) * _BYTES
        pattern_bytes = sum(array.size for array in patterns.values()) * _BYTES
        for_patterns = available
        if weights:
            for_patterns = max(_ATTENTION_SHARE * available, available - weight_bytes)
        kept = patterns | routers
        kept |= {name: each for name, each in capture.arrays.items() if _is_by_position(name)}
        labels: dict[str, tuple[str, ...]] = {}
        probe, cut = capture.probe, dict[str, Any]()
        if pattern_bytes > for_patterns:
            kept, labels, probe, cut = self._fit_patterns(patterns, capture, for_patterns)
        kept, n_routers, n_routers_there = thinned_routers(kept, for_routers)
        if n_routers < n_routers_there:
            cut["router_blocks"] = n_routers
            self._say_routers_once(n_routers, n_routers_there)

        left = available + for_routers - sum(array.size for array in kept.values()) * _BYTES
        if weight_bytes > left:
            side = weight_side([array.shape for array in weights.values()], left)
            cut["weight_side"] = side
            weights = {name: sample(array, side) for name, array in weights.items()}
        arrays = others | {name: compact(array) for name, array in (kept | weights).items()}
        return replace(
            capture,
            arrays=arrays,
            axes={name: axes for name, axes in capture.axes.items() if name in arrays},
            labels={**capture.labels, **labels},
            probe=probe,
            model={**capture.model, "cut": cut} if cut else capture.model,
        )

    def _fit_patterns(
        self, patterns: Mapping[str, NDArray[Any]], capture: Capture, nbytes: float
    ) -> tuple[
        dict[str, NDArray[Any]], dict[str, tuple[str, ...]], Mapping[str, Any], dict[str, Any]
    ]:
        size = _size_that_fits(patterns, capture, nbytes)
        kept, labels = {}, dict[str, tuple[str, ...]]()
        for name in evenly_chosen(list(patterns), size.blocks):
            array = patterns[name]
            if name.endswith(_MIXING):
                spaced = evenly_spaced(array.shape[1], size.heads).tolist()
                kept[name] = _cut_map(array, size, spaced)
                if len(spaced) < array.shape[1]:
                    labels |= _labels_of_cut(name, array, spaced, capture)
                continue
            axis = name.removesuffix(_PATTERN) + _HEAD_AXIS
            there = capture.labels.get(axis, tuple(map(str, range(array.shape[1]))))
            chosen = self._chosen_heads(axis, there, size.heads, capture)
            kept[name] = _cut_map(array, size, chosen)
            if len(chosen) < len(there) or axis in capture.labels:
                labels[axis] = tuple(there[index] for index in chosen)
        if "probe" in capture.labels:
            labels["probe"] = tuple(capture.labels["probe"][row] for row in size.rows)
        kept |= shown_of_routers(capture.arrays, size.rows, size.positions)
        for name, array in capture.arrays.items():
            if _is_by_position(name):
                kept[name] = array[list(size.rows), ..., : size.positions]
        n_rows, _, length, _ = next(iter(patterns.values())).shape
        most_heads = max(array.shape[1] for array in patterns.values())
        cut = {
            "probe_rows": len(size.rows),
            "heads": size.heads,
            "positions": size.positions,
            "blocks": size.blocks,
        }
        whole = {
            "probe_rows": n_rows,
            "heads": most_heads,
            "positions": length,
            "blocks": len(patterns),
        }
        self._say_once(cut, whole)
        probe = _cut_probe(capture.probe, size.rows, min(size.positions, length))
        return kept, labels, probe, {**cut, "of": whole}

    def _chosen_heads(
        self, axis: str, there: Sequence[str], most: int, capture: Capture
    ) -> list[int]:
        """Return the indices of the heads to keep of those that are ``there``, in their order."""
        if len(there) <= most:
            return list(range(len(there)))

        shown = _shown_by_heads(axis, there, capture)
        by_label = dict(zip(there, shown, strict=True))
        kept = self._kept.get(axis, {})
        if len(kept) != most or not kept.keys() <= set(there):
            strongest = sorted(range(len(there)), key=lambda index: (-shown[index], index))[:most]
            kept = {there[index]: 0.0 for index in strongest}
        kept = {label: max(most_shown, by_label[label]) for label, most_shown in kept.items()}
        self._kept[axis] = _with_role_holders(kept, by_label)
        return [index for index, label in enumerate(there) if label in self._kept[axis]]

    def _say_once(self, cut: Mapping[str, int], whole: Mapping[str, int]) -> None:
        if self._was_said:
            return
        self._was_said = True
        names = {"heads": "heads a block", "probe_rows": "probe rows"}
        parts = []
        for name in ("probe_rows", "positions", "heads", "blocks"):
            if cut[name] < whole[name]:
                parts.append(f"{cut[name]} of {whole[name]} {names.get(name, name)}")
        log.info(
            "to fit max_mb=%g, captures keep the attention of %s; scores still "
            "cover all heads, rows and positions",
            self.max_mb,
            ", ".join(parts),
        )

    def _say_routers_once(self, n_kept: int, n_there: int) -> None:
        if self._routers_were_said:
            return
        self._routers_were_said = True
        log.info(
            "to fit max_mb=%g, captures keep the routers of %d of %d blocks "
            "token by token; scores still cover all experts and tokens",
            self.max_mb,
            n_kept,
            n_there,
        )


def fit(capture: Capture, max_mb: float = DEFAULT_MAX_MB) -> Capture:
    """Return one capture cut to ``max_mb``, as ``Budget.fit`` does. Heads are chosen by this
    capture alone: for captures of one run use one ``Budget``."""
    return Budget(max_mb).fit(capture)


def without_hidden_rows(capture: Capture) -> Capture:
    """Return the capture without what was seen on rows that are scored and never drawn."""
    rows = capture.probe.get("rows", ())
    drawn = [index for index, row in enumerate(rows) if not row.get("hidden")]
    if len(drawn) == len(rows):
        return capture
    of_rows = {name for name in capture.arrays if name.endswith(_MAPS)}
    of_rows |= routers_of(capture.arrays).keys()
    of_rows |= set(filter(_is_by_position, capture.arrays))
    arrays = dict(capture.arrays)
    for name in of_rows:
        arrays[name] = arrays[name][drawn]
    labels = dict(capture.labels)
    if "probe" in labels:
        labels["probe"] = tuple(labels["probe"][row] for row in drawn)
    probe = {**capture.probe, "rows": [rows[row] for row in drawn]}
    return replace(capture, arrays=arrays, labels=labels, probe=probe)


def _is_by_position(name: str) -> bool:
    """Return whether an array is (probe, ..., position), and small."""
    return name == PROBE_LOSS or name.endswith(_NORMS)


def sample(matrix: NDArray[Any], side: int) -> NDArray[Any]:
    """Return evenly spaced rows and columns of a matrix, at most ``side`` of each."""
    rows, columns = (evenly_spaced(size, side) for size in matrix.shape)
    return matrix[np.ix_(rows, columns)]


def _bytes_of_ids(probe: Mapping[str, Any]) -> int:
    """Return about how many bytes a file's header takes for the ids of all rows, drawn and
    scored."""
    rows = (*probe.get("rows", ()), *probe.get("scored", ()))
    return _BYTES_AN_ID * sum(len(row.get("ids", ())) for row in rows)


def evenly_chosen(names: Sequence[str], most: int) -> list[str]:
    """Return at most ``most`` of the names, evenly spaced, in their order."""
    return [names[index] for index in evenly_spaced(len(names), most)]


@dataclass(frozen=True, slots=True)
class _Size:
    """The part of the attention that is kept: which probe rows, and how much of each other axis."""

    rows: tuple[int, ...]
    heads: int
    positions: int
    blocks: int


def _size_that_fits(patterns: Mapping[str, NDArray[Any]], capture: Capture, nbytes: float) -> _Size:
    n_rows, _, length, _ = next(iter(patterns.values())).shape
    display = tuple(_display_rows(capture, n_rows))
    most_heads = max(array.shape[1] for array in patterns.values())
    n_blocks = len(patterns)
    least_positions = min(length, _LEAST_POSITIONS)
    for rows, positions in (
        (display, length),
        (display[:1], length),
        (display[:1], least_positions),
    ):
        if _pattern_bytes(patterns, len(rows), most_heads, positions) <= nbytes:
            return _Size(rows, most_heads, positions, n_blocks)

    heads = most_heads
    while heads > 1 and _pattern_bytes(patterns, 1, heads, least_positions) > nbytes:
        heads -= 1
    per_block = _pattern_bytes(patterns, 1, heads, least_positions) / n_blocks
    blocks = min(n_blocks, max(1, math.floor(nbytes / per_block)))
    return _Size(display[:1], heads, least_positions, blocks)


def _cut_map(array: NDArray[Any], size: _Size, heads: Sequence[int]) -> NDArray[Any]:
    rows_and_heads = array[np.ix_(np.asarray(size.rows), np.asarray(heads))]
    return rows_and_heads[:, :, : size.positions, : size.positions]


def _labels_of_cut(
    name: str, array: NDArray[Any], chosen: Sequence[int], capture: Capture
) -> dict[str, tuple[str, ...]]:
    """Return which heads, or channels, of a mixing map remain."""
    axis = f"{name.removesuffix(_MIXING)}.mixing_{capture.axes[name][1]}"
    there = capture.labels.get(axis, tuple(map(str, range(array.shape[1]))))
    return {axis: tuple(there[index] for index in chosen)}


def _shown_by_heads(axis: str, labels: Sequence[str], capture: Capture) -> list[float]:
    """Return how much each head shows of a role, 0..1; without any score of one, how far its
    attention is from even."""
    block = int(axis.split(".")[1])
    numbers = [int(label.lstrip("Hh")) for label in labels]
    of_roles = [f"scores.head.{name}" for name in ROLE_SCORES]
    names = [name for name in of_roles if name in capture.arrays]
    names = names or [name for name in (_SPECIALISATION,) if name in capture.arrays]
    if not names:
        return [0.0] * len(labels)
    scores = np.stack([capture.arrays[name][block, numbers] for name in names])
    return [float(shown) for shown in np.nan_to_num(scores, nan=0.0).max(0)]


def _with_role_holders(kept: Mapping[str, float], shown: Mapping[str, float]) -> dict[str, float]:
    """Return the kept heads, those that have shown least replaced by heads that have come to hold a
    role; each with the most that it has shown."""
    kept = dict(kept)
    waiting = [label for label in shown if label not in kept and shown[label] >= ROLE_SCORE]
    for label in sorted(waiting, key=lambda label: -shown[label]):
        least = min(kept, key=lambda label: kept[label])
        if kept[least] >= ROLE_SCORE:
            break
        del kept[least]
        kept[label] = shown[label]
    return kept


def _display_rows(capture: Capture, n_rows: int) -> list[int]:
    """Return the indices of the first repeated row and the first text row, which pictures show."""
    kinds = [row.get("kind") for row in capture.probe.get("rows", ())]
    if len(kinds) != n_rows:
        return list(range(min(n_rows, 2)))
    return [kinds.index(kind) for kind in ("repeated", "text") if kind in kinds] or [0]


def _pattern_bytes(
    patterns: Mapping[str, NDArray[Any]], rows: int, heads: int, positions: int
) -> int:
    n_cells = 0
    for array in patterns.values():
        _, n_heads, length, _ = array.shape
        n_cells += rows * min(n_heads, heads) * min(length, positions) ** 2
    return n_cells * _BYTES


def _cut_probe(probe: Mapping[str, Any], rows: Sequence[int], length: int) -> Mapping[str, Any]:
    described = probe.get("rows")
    if not described:
        return probe
    return {**probe, "length": length, "rows": [_shortened(described[row], length) for row in rows]}


def _shortened(row: Mapping[str, Any], length: int) -> dict[str, Any]:
    per_token = {name: list(row[name])[:length] for name in ("tokens", "ids") if name in row}
    return {**row, **per_token}
