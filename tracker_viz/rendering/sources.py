"""Which numbers a box shows: pure functions from captures to a matrix, as small frozen values that a plan holds.

Every source names the arrays it reads and turns a Moment into a matrix [rows, columns]; NaN and infinities pass through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tracker_viz.types import Capture

Show = Literal["change", "value", "step"]
Reduce = Literal["mean", "rms"]

_COMPARES: Mapping[Show, Literal["first", "previous"] | None] = {"value": None, "change": "first", "step": "previous"}


@dataclass(frozen=True, slots=True)
class Moment:
    """What can be drawn at one capture: its arrays, and those of the run's first and of the previous capture where a source asks."""

    capture: Capture
    first: Mapping[str, NDArray[Any]]
    previous: Mapping[str, NDArray[Any]]


class Source(Protocol):
    """Where a box's values come from.

    Attributes:
        needs: names of the arrays read from the capture.
        compares: "first" or "previous" when the same arrays of that capture are read too, else None.
        blends: whether values between two captures may be interpolated; scores never are.
    """

    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def compares(self) -> Literal["first", "previous"] | None: ...
    @property
    def blends(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def values(self, moment: Moment) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class HeadMap:
    """Attention of one head, float16 [query, key] in 0..1, each cell the maximum of ``pool`` x ``pool`` entries.

    ``show="step"`` and ``"change"``: the absolute difference to the previous and to the first capture, as float32.
    """

    name: str
    probe: int | None
    head: int
    length: int
    pool: int = 1
    show: Show = "value"

    blends = True

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def compares(self) -> Literal["first", "previous"] | None:
        return _COMPARES[self.show]

    @property
    def shape(self) -> tuple[int, int]:
        cells = -(-self.length // self.pool)
        return cells, cells

    def values(self, moment: Moment) -> NDArray[Any]:
        pattern = self._pattern(moment.capture.arrays)
        if self.show == "value":
            return max_pool(pattern, self.pool)
        other = self._pattern(moment.first if self.show == "change" else moment.previous)
        return max_pool(np.abs(pattern.astype(np.float32) - other.astype(np.float32)), self.pool)

    def _pattern(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        array = arrays[self.name]
        return array[self.head] if self.probe is None else array[self.probe, self.head]


@dataclass(frozen=True, slots=True)
class WeightMap:
    """One weight matrix, float32 [rows, columns], pooled to ``shape``: its value, or its change since the first or previous capture.

    Rows and columns stand in one fixed order for the whole video: ``flat_order`` is the flattened gather, int [rows * columns].
    """

    name: str
    matrix_shape: tuple[int, int]
    shape: tuple[int, int]
    flat_order: NDArray[np.intp]
    show: Show = "change"
    reduce: Reduce = "rms"

    blends = True

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def compares(self) -> Literal["first", "previous"] | None:
        return _COMPARES[self.show]

    def values(self, moment: Moment) -> NDArray[np.float32]:
        matrix = moment.capture.arrays[self.name].astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # a diverged run is drawn, not warned of
            if self.show != "value":
                matrix -= (moment.first if self.show == "change" else moment.previous)[self.name]
            ordered = matrix.reshape(-1).take(self.flat_order).reshape(self.matrix_shape)
            return pool(ordered, self.shape, self.reduce)


@dataclass(frozen=True, slots=True)
class WeightSummary:
    """How large each matrix is, or how much it changed, float32 [block, matrix]: RMS of its entries; NaN where there is none."""

    names: tuple[tuple[str | None, ...], ...]
    show: Show = "change"

    blends = False

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(name for row in self.names for name in row if name)

    @property
    def compares(self) -> Literal["first", "previous"] | None:
        return _COMPARES[self.show]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.names), len(self.names[0])

    def values(self, moment: Moment) -> NDArray[np.float32]:
        matrix = np.full(self.shape, np.nan, np.float32)
        for row, names in enumerate(self.names):
            for column, name in enumerate(names):
                if not name:
                    continue
                with np.errstate(invalid="ignore", over="ignore"):
                    entries = moment.capture.arrays[name].astype(np.float32)
                    if self.show != "value":
                        entries -= (moment.first if self.show == "change" else moment.previous)[name]
                    matrix[row, column] = np.sqrt(np.mean(np.square(entries)))
        return matrix


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """One score of every head or weight matrix: [block, head] or [block, projection]; NaN where there is none."""

    name: str
    shape: tuple[int, int]

    blends = False
    compares: Literal["first", "previous"] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.name,)

    def values(self, moment: Moment) -> NDArray[Any]:
        return moment.capture.arrays[self.name]


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Many heads as one matrix: maps of equal size in a grid, ``gap`` cells apart. ``maps[row][column]`` is None where there is no head."""

    maps: tuple[tuple[HeadMap | None, ...], ...]
    gap: int = 1
    causal: bool = True

    blends = True

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(source.name for row in self.maps for source in row if source))

    @property
    def compares(self) -> Literal["first", "previous"] | None:
        return self._one.compares

    @property
    def _one(self) -> HeadMap:
        return next(source for row in self.maps for source in row if source)

    @property
    def cells(self) -> int:
        return self._one.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        pitch = self.cells + self.gap
        return len(self.maps) * pitch - self.gap, len(self.maps[0]) * pitch - self.gap

    def values(self, moment: Moment) -> NDArray[Any]:
        pitch = self.cells + self.gap
        matrix = np.zeros(self.shape, np.float16 if self._one.show == "value" else np.float32)
        for row, sources in enumerate(self.maps):
            maps = _all_heads(sources, moment) if self._one.show == "value" else None
            for column, source in enumerate(sources):
                if source:
                    y, x = row * pitch, column * pitch
                    values = source.values(moment) if maps is None else maps[source.head]
                    matrix[y : y + self.cells, x : x + self.cells] = values
        return matrix

    def mask(self) -> NDArray[np.bool_]:
        """bool [rows, columns]: cells that show nothing: gaps, absent heads, and the future of every head."""
        pitch = self.cells + self.gap
        mask = np.ones(self.shape, bool)
        for row, sources in enumerate(self.maps):
            for column, source in enumerate(sources):
                if source:
                    mask[row * pitch : row * pitch + self.cells, column * pitch : column * pitch + self.cells] = self.causal & future(
                        self.cells
                    )
        return mask


def _all_heads(sources: tuple[HeadMap | None, ...], moment: Moment) -> NDArray[Any]:
    """The maps of all heads of one block, pooled at once: what each HeadMap gives by itself, ten times faster."""
    one = next(source for source in sources if source)
    array = moment.capture.arrays[one.name]
    return max_pool(array if one.probe is None else array[one.probe], one.pool)


def future(cells: int) -> NDArray[np.bool_]:
    """bool [query, key]: True where a causal head can not look. A pooled cell is future only when all of its entries are."""
    return np.triu(np.ones((cells, cells), bool), 1)


def max_pool(pattern: NDArray[Any], size: int) -> NDArray[Any]:
    """Maximum of every ``size`` x ``size`` window of [..., query, key]; the last windows may be smaller. NaN wins over every number."""
    if size == 1:
        return pattern
    queries, keys = (np.arange(0, length, size) for length in pattern.shape[-2:])
    if pattern.dtype != np.float16:
        return np.maximum.reduceat(np.maximum.reduceat(pattern, queries, axis=-2), keys, axis=-1)
    # numpy compares float16 by converting each entry. The bit patterns of probabilities, as integers, order the same way, ten times faster.
    bits = np.ascontiguousarray(pattern).view(np.int16)
    if bits.min(initial=0) < 0:  # a sign bit: negative values, -0.0 or a NaN with its sign set
        return max_pool(pattern.astype(np.float32), size).astype(np.float16)
    return np.maximum.reduceat(np.maximum.reduceat(bits, queries, axis=-2), keys, axis=-1).view(np.float16)


def pool(matrix: NDArray[np.float32], shape: tuple[int, int], reduce: Reduce) -> NDArray[np.float32]:
    """Reduce a matrix to ``shape`` (at most its own) over windows as even as whole numbers allow."""
    if matrix.shape == shape:
        return np.abs(matrix) if reduce == "rms" else matrix
    rows, columns, sizes = _windows(matrix.shape, shape)
    entries = np.square(matrix) if reduce == "rms" else matrix
    mean = np.add.reduceat(np.add.reduceat(entries, rows, axis=0), columns, axis=1)  # rows first: whole rows are added at once
    mean /= sizes
    return np.sqrt(mean, out=mean) if reduce == "rms" else mean


@lru_cache(maxsize=256)
def _windows(matrix_shape: tuple[int, ...], shape: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Where the windows of ``pool`` begin, in rows and in columns, and how many entries each has, float32 [rows, columns]."""
    edges = [np.arange(cells) * length // cells for length, cells in zip(matrix_shape, shape, strict=True)]
    high, wide = (np.diff(edge, append=length) for edge, length in zip(edges, matrix_shape, strict=True))
    return edges[0], edges[1], np.multiply.outer(high, wide).astype(np.float32)


def order_by_norm(change: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of ``change`` [rows, columns], those that changed most first."""
    squares = np.square(_finite(change))
    return np.argsort(-squares.sum(1), kind="stable"), np.argsort(-squares.sum(0), kind="stable")


def order_by_direction(change: NDArray[Any], iterations: int = 30) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of ``change`` [rows, columns] by their entry in its first singular vectors (power iteration).

    Rows that changed in the same direction come to stand together, so that signed averages do not cancel.
    """
    matrix = _finite(change)
    right = np.square(matrix).sum(0) + 1e-30
    for _ in range(iterations):
        left = matrix @ right
        right = matrix.T @ left
        norm = np.linalg.norm(right)
        if norm == 0:
            return np.arange(matrix.shape[0]), np.arange(matrix.shape[1])
        right /= norm
    return np.argsort(-(matrix @ right), kind="stable"), np.argsort(-right, kind="stable")


def flat_order(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.intp]:
    """The gather, int [rows * columns], that puts a flattened matrix in the order ``rows`` x ``columns``."""
    return (rows[:, None] * len(columns) + columns[None, :]).reshape(-1)


def _finite(change: NDArray[Any]) -> NDArray[np.float64]:
    """An entry that is not finite counts as unchanged when rows are sorted; where it is drawn it stays visible."""
    return np.nan_to_num(change.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
