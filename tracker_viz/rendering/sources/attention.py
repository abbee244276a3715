"""Maps of attention and of other token mixing, pooled to cells: of one head, and of many in one
matrix."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.capture_file import ArrayKey
from tracker_viz.rendering.sources.moment import COMPARES, Moment, Show, needs_of


@dataclass(frozen=True, slots=True)
class HeadMap:
    """Attention of one head, float16 [query, key] in 0..1, each cell the maximum of ``pool`` x
    ``pool`` entries.

    Of a mixing map, which is signed, a cell has the entry of largest size.

    ``show="step"`` and ``"change"``: the absolute difference to the previous and to the first
    capture, as float32.

    ``name`` may be the choice of an indexer of sparse attention, which is 0 or 1.

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

    @property
    def blends(self) -> bool:
        return not self.is_choice

    @property
    def is_choice(self) -> bool:
        """Whether these are the keys that an indexer chose, 1 or 0, and no attention."""
        return self.name.endswith(".indexer")

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
        return COMPARES[self.show]

    @property
    def shape(self) -> tuple[int, int]:
        cells = -(-self.length // self.pool)
        return cells, cells

    def values(self, moment: Moment) -> NDArray[Any]:
        return self.values_of(self.head, moment)

    def values_of(self, heads: int | slice, moment: Moment) -> NDArray[Any]:
        """Return the values of another head of the array, or of several: [head, query, key]."""
        pattern = moment.arrays[self._key]
        if pattern.ndim == 2:  # an indexer chooses for all heads of its block
            pattern = pattern[None]
        pattern = pattern[heads]
        if self.weighted_by:
            norms = moment.arrays[self._norms_key][list(self.weighted_by)][heads]
            return max_pool(weighted(pattern, norms), self.pool)
        if self.show == "value":
            pooled = extreme_pool if self.name.endswith(".mixing") else max_pool
            return pooled(pattern, self.pool)
        other = moment.compared(self.show)[self._key][heads]
        return max_pool(np.abs(pattern.astype(np.float32) - other.astype(np.float32)), self.pool)


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


def indexer_name(pattern_name: str) -> str:
    """Return the array with the keys that the indexer of a block chose."""
    return pattern_name.removesuffix("pattern") + "indexer"


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
