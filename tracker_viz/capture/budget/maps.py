"""Cut attention and mixing maps to a number of bytes: rows of the probe first, then positions,
heads and blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.capture.budget.shares import BYTES
from tracker_viz.types import Capture

Maps = Mapping[str, NDArray[Any]]

PATTERN, MIXING = ".attn.pattern", ".mixer.mixing"
# Fewer positions show no repetition.
_LEAST_POSITIONS = 64


@dataclass(frozen=True, slots=True)
class MapSize:
    """The part of the maps that is kept: which rows of the probe, and how much of each other
    axis."""

    rows: tuple[int, ...]
    heads: int
    positions: int
    blocks: int

    def description(self) -> dict[str, int]:
        """Return the size as ``Capture.model`` holds it, JSON-like."""
        return {
            "probe_rows": len(self.rows),
            "heads": self.heads,
            "positions": self.positions,
            "blocks": self.blocks,
        }


def whole_size(maps: Maps) -> MapSize:
    """Return the size of maps that are not cut."""
    n_rows, _, length, _ = next(iter(maps.values())).shape
    most_heads = max(array.shape[1] for array in maps.values())
    return MapSize(tuple(range(n_rows)), most_heads, length, len(maps))


def size_that_fits(maps: Maps, capture: Capture, nbytes: float) -> MapSize:
    """Return the size to which maps are cut, so that they take ``nbytes``; at least one head of one
    block, even where that is too much."""
    whole = whole_size(maps)
    shown = tuple(_shown_rows(capture, len(whole.rows)))
    first = shown[:1]
    least_positions = min(whole.positions, _LEAST_POSITIONS)
    for rows, positions in (
        (shown, whole.positions),
        (first, whole.positions),
        (first, least_positions),
    ):
        if _nbytes(maps, len(rows), whole.heads, positions) <= nbytes:
            return MapSize(rows, whole.heads, positions, whole.blocks)

    heads = whole.heads
    while heads > 1 and _nbytes(maps, 1, heads, least_positions) > nbytes:
        heads -= 1
    per_block = _nbytes(maps, 1, heads, least_positions) / whole.blocks
    blocks = min(whole.blocks, max(1, math.floor(nbytes / per_block)))
    return MapSize(first, heads, least_positions, blocks)


def cut_map(array: NDArray[Any], size: MapSize, heads: Sequence[int]) -> NDArray[Any]:
    """Return the rows, positions and these heads of one map."""
    rows_and_heads = array[np.ix_(np.asarray(size.rows), np.asarray(heads))]
    return rows_and_heads[:, :, : size.positions, : size.positions]


def labels_of_mixing(
    name: str, array: NDArray[Any], chosen: Sequence[int], capture: Capture
) -> dict[str, tuple[str, ...]]:
    """Return which heads, or channels, of a mixing map remain."""
    axis = f"{name.removesuffix(MIXING)}.mixing_{capture.axes[name][1]}"
    there = capture.labels.get(axis, tuple(map(str, range(array.shape[1]))))
    return {axis: tuple(there[index] for index in chosen)}


def cut_probe(probe: Mapping[str, Any], size: MapSize) -> Mapping[str, Any]:
    """Return the description of the probe with the rows and positions that are kept."""
    described = probe.get("rows")
    if not described:
        return probe
    rows = [_shortened(described[row], size.positions) for row in size.rows]
    return {**probe, "length": size.positions, "rows": rows}


def _shown_rows(capture: Capture, n_rows: int) -> list[int]:
    """Return the indices of the first repeated row and the first text row, which pictures show."""
    kinds = [row.get("kind") for row in capture.probe.get("rows", ())]
    if len(kinds) != n_rows:
        return list(range(min(n_rows, 2)))
    return [kinds.index(kind) for kind in ("repeated", "text") if kind in kinds] or [0]


def _nbytes(maps: Maps, rows: int, heads: int, positions: int) -> int:
    n_cells = 0
    for array in maps.values():
        _, n_heads, length, _ = array.shape
        n_cells += rows * min(n_heads, heads) * min(length, positions) ** 2
    return n_cells * BYTES


def _shortened(row: Mapping[str, Any], length: int) -> dict[str, Any]:
    per_token = {name: list(row[name])[:length] for name in ("tokens", "ids") if name in row}
    return {**row, **per_token}
