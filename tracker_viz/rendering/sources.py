"""Say which numbers a box shows: pure functions from captures to a matrix, as small frozen values
that a plan holds.

Every source names the arrays it reads and turns a Moment into a matrix [rows, columns]; NaN and
infinities pass through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tracker_viz.capture_file import ArrayKey

Show = Literal["change", "value", "step"]
Reduce = Literal["mean", "rms"]
Order = tuple[NDArray[np.intp], NDArray[np.intp]]  # indices of rows, of columns

_COMPARES: Mapping[Show, Literal["first", "previous"] | None] = {
    "value": None,
    "change": "first",
    "step": "previous",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that can be drawn at one capture: its arrays, its index in the run, and the arrays
    of the run's first and of the previous capture where a source asks."""

    arrays: Mapping[ArrayKey, NDArray[Any]]
    first: Mapping[ArrayKey, NDArray[Any]]
    previous: Mapping[ArrayKey, NDArray[Any]]
    index: int = 0

    def compared(self, show: Show) -> Mapping[ArrayKey, NDArray[Any]]:
        """Return the arrays of the capture that a change or a step starts from."""
        return self.first if show == "change" else self.previous


class Source(Protocol):
    """The origin of a box's values.

    Attributes:
        needs: what is read from the capture: names of arrays, or (name, row) for one row of an
            array's first axis.
        compares: "first" or "previous" when the same arrays of that capture are read too, else
            None.
        blends: values between two captures may be interpolated; False for scores.
        shape: (rows, columns) of the matrix that ``values`` returns.
    """

    @property
    def needs(self) -> tuple[ArrayKey, ...]: ...
    @property
    def compares(self) -> Literal["first", "previous"] | None: ...
    @property
    def blends(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def values(self, moment: Moment) -> NDArray[Any]: ...


class Reader(Protocol):
    """Whatever reads arrays of a capture: a Source, or a part of the explorer's page."""

    @property
    def needs(self) -> tuple[ArrayKey, ...]: ...
    @property
    def compares(self) -> Literal["first", "previous"] | None: ...


def needs_of(
    readers: Iterable[Reader], compares: Literal["first", "previous"] | None = None
) -> list[ArrayKey]:
    """Return the arrays that some readers need, each once; those of another capture if
    ``compares`` names it."""
    needs: dict[ArrayKey, None] = {}
    for reader in readers:
        if compares in (None, reader.compares):
            needs |= dict.fromkeys(reader.needs)
    return list(needs)


@dataclass(frozen=True, slots=True)
class HeadMap:
    """Attention of one head, float16 [query, key] in 0..1, each cell the maximum of ``pool`` x
    ``pool`` entries.

    Of a mixing map, which is signed, a cell has the entry of largest size.

    ``show="step"`` and ``"change"``: the absolute difference to the previous and to the first
    capture, as float32.

    ``weighted_by``: numbers of the heads in the array, where values are weighted by what each token
    writes: ``a_ij ||v_j W_O||``, every row divided by its sum (Kobayashi et al. 2020). Empty: they
    are not.
    """

    name: str
    probe: int | None
    head: int
    length: int
    pool: int = 1
    show: Show = "value"
    weighted_by: tuple[int, ...] = ()

    blends = True

    @property
    def needs(self) -> tuple[ArrayKey, ...]:
        return (self._key, self._norms_key) if self.weighted_by else (self._key,)

    @property
    def _key(self) -> ArrayKey:
        return self.name if self.probe is None else (self.name, self.probe)

    @property
    def _norms_key(self) -> ArrayKey:
        name = norms_name(self.name)
        return name if self.probe is None else (name, self.probe)

    @property
    def compares(self) -> Literal["first", "previous"] | None:
        return _COMPARES[self.show]

    @property
    def shape(self) -> tuple[int, int]:
        cells = -(-self.length // self.pool)
        return cells, cells

    def values(self, moment: Moment) -> NDArray[Any]:
        return self.values_of(self.head, moment)

    def values_of(self, heads: int | slice, moment: Moment) -> NDArray[Any]:
        """Return the values of another head of the array, or of several: [head, query, key]."""
        pattern = moment.arrays[self._key][heads]
        if self.weighted_by:
            norms = moment.arrays[self._norms_key][list(self.weighted_by)][heads]
            return max_pool(weighted(pattern, norms), self.pool)
        if self.show == "value":
            pooled = extreme_pool if self.name.endswith(".mixing") else max_pool
            return pooled(pattern, self.pool)
        other = moment.compared(self.show)[self._key][heads]
        return max_pool(np.abs(pattern.astype(np.float32) - other.astype(np.float32)), self.pool)


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
        return _COMPARES[self.show]

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
        return _COMPARES[self.show]

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


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """One score of every head or weight matrix: [block, head] or [block, projection]; NaN where
    there is none."""

    name: str
    shape: tuple[int, int]

    blends = False
    compares: Literal["first", "previous"] | None = None

    @property
    def needs(self) -> tuple[ArrayKey, ...]:
        return (self.name,)

    def values(self, moment: Moment) -> NDArray[Any]:
        return moment.arrays[self.name]


@dataclass(frozen=True, slots=True)
class RouterMap:
    """Probabilities of one router on one row of the probe: [expert, token], each cell the maximum
    of ``pool`` neighboring experts."""

    name: str
    probe: int
    experts: int
    tokens: int
    pool: int = 1

    blends = True
    compares: Literal["first", "previous"] | None = None

    @property
    def needs(self) -> tuple[ArrayKey, ...]:
        return ((self.name, self.probe),)

    @property
    def shape(self) -> tuple[int, int]:
        return -(-self.experts // self.pool), self.tokens

    def values(self, moment: Moment) -> NDArray[Any]:
        of_experts = moment.arrays[self.name, self.probe].T
        if self.pool == 1:
            return of_experts
        return np.maximum.reduceat(of_experts, np.arange(0, self.experts, self.pool), axis=0)


@dataclass(frozen=True, slots=True, eq=False)
class CodedMap:
    """Numbers of colors that were found from the whole run: ``codes`` uint16 [capture, row,
    column]."""

    codes: NDArray[np.uint16]

    needs: tuple[ArrayKey, ...] = ()
    blends = False
    compares: Literal["first", "previous"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[1], self.codes.shape[2]

    def values(self, moment: Moment) -> NDArray[np.float16]:
        """Return the codes as float16, which holds whole numbers up to 2,048 exactly."""
        return self.codes[moment.index].astype(np.float16)


@dataclass(frozen=True, slots=True, eq=False)
class HeldMap:
    """Numbers that were taken from all captures when the picture was planned: ``held`` float16
    [capture, row, column]."""

    held: NDArray[np.float16]

    needs: tuple[ArrayKey, ...] = ()
    blends = True
    compares: Literal["first", "previous"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.held.shape[1], self.held.shape[2]

    def values(self, moment: Moment) -> NDArray[np.float16]:
        return self.held[moment.index]


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Many heads as one matrix: maps of equal size in a grid, ``gap`` cells apart.
    ``maps[row][column]`` is None where there is no head."""

    maps: tuple[tuple[HeadMap | None, ...], ...]
    gap: int = 1
    causal: bool = True

    blends = True

    @property
    def needs(self) -> tuple[ArrayKey, ...]:
        return tuple(needs_of(filter(None, chain.from_iterable(self.maps))))

    @property
    def compares(self) -> Literal["first", "previous"] | None:
        return self.first.compares

    @property
    def first(self) -> HeadMap:
        return next(filter(None, chain.from_iterable(self.maps)))

    @property
    def cells(self) -> int:
        return self.first.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        pitch = self.cells + self.gap
        return len(self.maps) * pitch - self.gap, len(self.maps[0]) * pitch - self.gap

    def values(self, moment: Moment) -> NDArray[Any]:
        matrix = np.zeros(self.shape, np.float16 if self.first.show == "value" else np.float32)
        for row, sources in enumerate(self.maps):
            # All heads of a block at once: ten times as fast as each by itself.
            maps = next(source for source in sources if source).values_of(slice(None), moment)
            for column, source in enumerate(sources):
                if source:
                    matrix[self._cells_of(row, column)] = maps[source.head]
        return matrix

    def _cells_of(self, row: int, column: int) -> tuple[slice, slice]:
        """Return the rows and columns of the matrix that one map fills."""
        y, x = row * (self.cells + self.gap), column * (self.cells + self.gap)
        return slice(y, y + self.cells), slice(x, x + self.cells)

    def mask(self) -> NDArray[np.bool_]:
        """Return the cells that show nothing, bool [rows, columns]: gaps, absent heads, and the
        future of every head."""
        mask = np.ones(self.shape, bool)
        hidden = self.causal & future(self.cells)
        for row, sources in enumerate(self.maps):
            for column, source in enumerate(sources):
                if source:
                    mask[self._cells_of(row, column)] = hidden
        return mask


def future(cells: int) -> NDArray[np.bool_]:
    """Return bool [query, key]: True where a causal head can not look; a pooled cell is future only
    when all of its entries are."""
    return np.triu(np.ones((cells, cells), bool), 1)


def norms_name(pattern_name: str) -> str:
    """Return the array with the norms of values that belongs to a block's attention."""
    return pattern_name.removesuffix("pattern") + "value_norm"


def weighted(pattern: NDArray[Any], norms: NDArray[Any]) -> NDArray[np.float16]:
    """Return attention [..., query, key] times the norms of values [..., key], every row divided by
    its sum: float16, NaN where that is 0."""
    products = pattern.astype(np.float32) * norms.astype(np.float32)[..., None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: NDArray[np.float16] = (products / products.sum(-1, keepdims=True)).astype(
            np.float16
        )
    return shares


def extreme_pool(mixing: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the entry of largest size of every ``size`` x ``size`` window of [..., query, key]; of
    two that are equally large the positive one. NaN wins over every number."""
    if size == 1:
        return mixing
    signed = mixing.astype(np.float32)
    above, below = max_pool(signed, size), -max_pool(-signed, size)
    return np.where(below + above < 0, below, above)


def max_pool(pattern: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the maximum of every ``size`` x ``size`` window of [..., query, key]; the last windows
    may be smaller. NaN wins over every number."""
    if size == 1:
        return pattern
    if pattern.dtype == np.float16:
        # numpy compares float16 by converting each entry. The bit patterns of probabilities, as
        # integers, order the same way.
        bits = np.ascontiguousarray(pattern).view(np.int16)
        if bits.min(initial=0) < 0:  # a sign bit: negative values, -0.0 or a NaN with its sign set
            return max_pool(pattern.astype(np.float32), size).astype(np.float16)
        return max_pool(bits, size).view(np.float16)
    return _max_of_rows(_max_of_rows(pattern, size).swapaxes(-1, -2), size).swapaxes(-1, -2)


def _max_of_rows(pattern: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the maximum of every ``size`` rows of [..., row, column].

    Taking the first rows of all windows, then the second ones, is ten times as fast as numpy's
    reduceat, which goes from entry to entry.
    """
    largest = pattern[..., ::size, :].copy()
    for offset in range(1, min(size, pattern.shape[-2])):
        rows = pattern[..., offset::size, :]
        windows = largest[..., : rows.shape[-2], :]
        np.maximum(windows, rows, out=windows)
    return largest


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
