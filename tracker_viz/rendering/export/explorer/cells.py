"""Turn a run's captures into the bytes of the explorer's page.

A page holds parts (the heads of a probe row, one weight matrix, one score map, the roles). A part
gives the same number of bytes for each capture: positions on its color scale in 254 steps, and two
more codes for what has no position. Called by ``page``, which puts the bytes into the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tracker_viz.capture_file import ArrayKey
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.sources import HeadMap, Moment, Source, future, needs_of
from tracker_viz.types import HeadId

LEVELS = 254  # 0..253; cells.js has the same three numbers
BLANK = 254  # it compares with the previous capture, and there is none
NONFINITE = 255
ELSEWHERE = 128  # added to a role's code where the head has it on other probe rows only


class Part(Protocol):
    """One piece of a page's cells.

    Attributes:
        needs: the arrays that it reads.
        compares: "first" or "previous" when it reads the same arrays of that capture, too.
        n_cells: bytes for each capture.
    """

    @property
    def needs(self) -> tuple[ArrayKey, ...]: ...
    @property
    def compares(self) -> Literal["first", "previous"] | None: ...
    @property
    def n_cells(self) -> int: ...
    def cells(self, index: int, moment: Moment) -> NDArray[np.uint8]:
        """Return uint8 [n_cells] of the capture at ``index``."""
        ...

    def described(self) -> dict[str, Any]:
        """Return what the page has to know of it, as JSON."""
        ...


@dataclass(frozen=True)
class Block:
    """The heads of one attention array: ``positions`` along its head axis, ``heads`` their
    numbers in the model."""

    block: int
    name: str
    positions: tuple[int, ...]
    heads: tuple[int, ...]


@dataclass(frozen=True)
class HeadsPart:
    """Attention of heads of the same size, pooled; of a causal head the lower triangle only.

    Attributes:
        row: number of the page's attention row that these heads belong to.
        first: one of the heads, for everything that they share.
    """

    row: int
    first: HeadMap
    scale_key: str
    scale: ColorScale
    is_causal: bool
    blocks: tuple[Block, ...]

    @property
    def sources(self) -> list[HeadMap]:
        """One source for each attention array, that is for each block."""
        return [_source_of(self.first, block) for block in self.blocks]

    @property
    def needs(self) -> tuple[ArrayKey, ...]:
        return tuple(needs_of(self.sources))

    @property
    def compares(self) -> Literal["first", "previous"] | None:
        return self.first.compares

    @property
    def n_heads(self) -> int:
        return sum(len(block.heads) for block in self.blocks)

    @property
    def n_cells(self) -> int:
        return self.n_heads * head_cells(self.first, self.is_causal)

    def cells(self, index: int, moment: Moment) -> NDArray[np.uint8]:
        side = self.first.shape[0]
        kept = ~future(side) if self.is_causal else np.ones((side, side), bool)
        coded = []
        for source, block in zip(self.sources, self.blocks, strict=True):
            # All heads of a block at once: ten times as fast as each by itself.
            maps = source.values_of(slice(None), moment)[list(block.positions)]
            coded.append(encode(maps, self.scale)[:, kept].reshape(-1))
        return np.concatenate(coded)

    def described(self) -> dict[str, Any]:
        return {
            "kind": "heads",
            "row": self.row,
            "side": self.first.shape[0],
            "pool": self.first.pool,
            "causal": self.is_causal,
            "scale": self.scale_key,
            "heads": [[block.block, list(block.heads)] for block in self.blocks],
        }


@dataclass(frozen=True)
class MapPart:
    """One matrix or one score map, as the picture draws it; ``words``: how the page names it."""

    source: Source
    scale_key: str
    scale: ColorScale
    words: Mapping[str, Any]

    @property
    def needs(self) -> tuple[ArrayKey, ...]:
        return self.source.needs

    @property
    def compares(self) -> Literal["first", "previous"] | None:
        return self.source.compares

    @property
    def n_cells(self) -> int:
        rows, columns = self.source.shape
        return rows * columns

    def cells(self, index: int, moment: Moment) -> NDArray[np.uint8]:
        return encode(self.source.values(moment), self.scale).reshape(-1)

    def described(self) -> dict[str, Any]:
        rows, columns = self.source.shape
        return {"rows": rows, "columns": columns, "scale": self.scale_key, **self.words}


@dataclass(frozen=True)
class RolesPart:
    """The role of each head, as the border around its map on one attention row says it: 0 for none,
    else one more than the role's place in ``names``; plus ``ELSEWHERE`` where the head has it on
    other rows of the probe only.

    Attributes:
        row: number of the page's attention row.
        borders: for each capture, (block, head) -> (role, whether it has it on this row).
        shape: blocks and heads.
    """

    row: int
    names: tuple[str, ...]
    borders: Sequence[Mapping[HeadId, tuple[str, bool]]]
    shape: tuple[int, int]

    needs: tuple[ArrayKey, ...] = ()
    compares: Literal["first", "previous"] | None = None

    @property
    def n_cells(self) -> int:
        return self.shape[0] * self.shape[1]

    def cells(self, index: int, moment: Moment) -> NDArray[np.uint8]:
        codes = np.zeros(self.shape, np.uint8)
        for head, (role, is_here) in self.borders[index].items():
            code = self.names.index(role) + 1
            codes[head] = code if is_here else code + ELSEWHERE
        return codes.reshape(-1)

    def described(self) -> dict[str, Any]:
        rows, columns = self.shape
        names = list(self.names)
        return {"kind": "roles", "row": self.row, "rows": rows, "columns": columns, "names": names}


def head_cells(source: HeadMap, is_causal: bool) -> int:
    """Return how many cells of one head a page holds."""
    side = source.shape[0]
    if is_causal:
        return side * (side + 1) // 2
    return side * side


def encode(values: NDArray[Any], scale: ColorScale) -> NDArray[np.uint8]:
    """Return positions on the color scale as 0..253; NONFINITE where a value is not finite."""
    drawn = np.ascontiguousarray(scale.drawn(values))
    return _levels(scale)[drawn.view(np.uint16)]


@lru_cache(maxsize=64)
def _levels(scale: ColorScale) -> NDArray[np.uint8]:
    """Return the level of every float16 by its bit pattern: uint8 [65536]."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        positions = np.ma.filled(scale.mpl_norm()(np.where(finite, values, 0.0)), 0.0)
    levels = np.rint(np.clip(np.nan_to_num(positions), 0, 1) * (LEVELS - 1))
    return np.where(finite, levels, NONFINITE).astype(np.uint8)


def coded_captures(
    series: Series, parts: Sequence[Part], indices: Sequence[int]
) -> NDArray[np.uint8]:
    """Return the cells of all parts, one after the other: uint8 [capture, cell]."""
    needs = needs_of(parts)
    previous_needs = needs_of(parts, "previous")
    first = series.read(0, needs_of(parts, "first"))
    coded = np.empty((len(indices), sum(part.n_cells for part in parts)), np.uint8)
    for place, index in enumerate(indices):
        previous = series.read(max(0, index - 1), previous_needs)
        moment = Moment(series.read(index, needs), first, previous, index)
        start = 0
        for part in parts:
            end = start + part.n_cells
            is_blank = index == 0 and part.compares == "previous"
            coded[place, start:end] = BLANK if is_blank else part.cells(index, moment)
            start = end
    return coded


def _source_of(first: HeadMap, block: Block) -> HeadMap:
    return replace(
        first, name=block.name, head=0, weighted_by=block.heads if first.weighted_by else ()
    )
