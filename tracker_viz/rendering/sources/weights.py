"""Maps of weight matrices and of their change, pooled to cells, with rows and columns in a fixed
order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.capture_file import ArrayKey
from tracker_viz.rendering.sources.moment import COMPARES, Moment, Show

Reduce = Literal["mean", "rms"]
Order = tuple[NDArray[np.intp], NDArray[np.intp]]  # indices of rows, of columns


@dataclass(frozen=True, slots=True)
class WeightMap:
    """One weight matrix, float32 [rows, columns], pooled to ``shape``: its value, or its change
    since the first or previous capture.

    Rows and columns stand in one fixed order for the whole video: ``order``, the index of each in
    the matrix.
    """

    name: str
    shape: tuple[int, int]
    order: Order
    show: Show = "change"
    reduce: Reduce = "rms"

    blends = True

    @property
    def needs(self) -> tuple[ArrayKey, ...]:
        return (self.name,)

    @property
    def compares(self) -> Literal["first", "previous"] | None:
        return COMPARES[self.show]

    def values(self, moment: Moment) -> NDArray[np.float32]:
        matrix = moment.arrays[self.name].astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # a diverged run is drawn, not warned of
            if self.show != "value":
                matrix -= moment.compared(self.show)[self.name]
            return pool(matrix, self.shape, self.reduce, self.order)


@dataclass(frozen=True, slots=True)
class WeightSummary:
    """Size of each matrix, or of its change: float32 [block, matrix], RMS of its entries; NaN where
    there is none."""

    names: tuple[tuple[str | None, ...], ...]
    show: Show = "change"

    blends = False

    @property
    def needs(self) -> tuple[ArrayKey, ...]:
        return tuple(filter(None, chain.from_iterable(self.names)))

    @property
    def compares(self) -> Literal["first", "previous"] | None:
        return COMPARES[self.show]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.names), len(self.names[0])

    def values(self, moment: Moment) -> NDArray[np.float32]:
        matrix = np.full(self.shape, np.nan, np.float32)
        for row, names in enumerate(self.names):
            for column, name in enumerate(names):
                if name:
                    matrix[row, column] = self._size_of(name, moment)
        return matrix

    def _size_of(self, name: str, moment: Moment) -> np.float32:
        with np.errstate(invalid="ignore", over="ignore"):
            entries = moment.arrays[name].astype(np.float32)
            if self.show != "value":
                entries -= moment.compared(self.show)[name]
            size: np.float32 = np.sqrt(np.mean(np.square(entries)))
            return size


def pool(
    matrix: NDArray[np.float32], shape: tuple[int, int], reduce: Reduce, order: Order
) -> NDArray[np.float32]:
    """Put rows and columns of a matrix in order, and reduce it to ``shape`` (at most its own) over
    windows as even as can be."""
    in_rows, in_columns = order
    if matrix.shape == shape:
        ordered = matrix.take(in_rows, axis=0).take(in_columns, axis=1)
        return np.abs(ordered) if reduce == "rms" else ordered
    rows, columns = _windows(matrix.shape[0], shape[0]), _windows(matrix.shape[1], shape[1])
    entries = np.square(matrix) if reduce == "rms" else matrix
    # The first rows of all windows, then the second ones, ...: ten times as fast as numpy's
    # reduceat, which adds rows entry by entry.
    sums = entries.take(in_rows[rows.starts], axis=0)
    for windows, more in rows.further:
        sums[windows] += entries.take(in_rows[more], axis=0)
    mean = np.add.reduceat(sums.take(in_columns, axis=1), columns.starts, axis=1)
    mean /= np.multiply.outer(rows.sizes, columns.sizes)
    return np.sqrt(mean, out=mean) if reduce == "rms" else mean


@dataclass(frozen=True, slots=True)
class _Windows:
    """Windows over entries.

    Attributes:
        starts: first entry of each window.
        sizes: float32, entries of each window.
        further: ``further[k]`` tells which windows have more than k + 1 entries, and where the next
            of these lie.
    """

    starts: NDArray[np.intp]
    sizes: NDArray[np.float32]
    further: tuple[tuple[slice | NDArray[np.intp], NDArray[np.intp]], ...]


@lru_cache(maxsize=256)
def _windows(length: int, cells: int) -> _Windows:
    """Return ``cells`` windows over ``length`` entries, as even as whole numbers allow."""
    starts = np.arange(cells) * length // cells
    sizes = np.diff(starts, append=length)
    further: list[tuple[slice | NDArray[np.intp], NDArray[np.intp]]] = []
    for k in range(1, int(sizes.max())):
        longer = np.flatnonzero(sizes > k)
        # A slice adds to all windows in place; indices would copy them.
        windows = slice(None) if len(longer) == cells else longer
        further.append((windows, starts[longer] + k))
    return _Windows(starts, sizes.astype(np.float32), tuple(further))


def order_by_norm(change: NDArray[Any]) -> Order:
    """Sort rows and columns of ``change`` [rows, columns], those that changed most first."""
    squares = np.square(_finite(change))
    return np.argsort(-squares.sum(1), kind="stable"), np.argsort(-squares.sum(0), kind="stable")


def order_by_direction(change: NDArray[Any], iterations: int = 30) -> Order:
    """Sort rows and columns of ``change`` [rows, columns] by their entry in its first singular
    vectors (power iteration).

    Rows that changed in the same direction come to stand together, so that signed averages do not
    cancel.
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


def _finite(change: NDArray[Any]) -> NDArray[np.float64]:
    """Count entries that are not finite as unchanged, to sort rows; where they are drawn they stay
    visible."""
    return np.nan_to_num(change.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
