"""Weight matrices of a decoder block: which parameter plays which part, and how it is read.

Every matrix is given as ``[out, in]``, as it multiplies a column vector, whatever the model stores:
fused projections are split, transposed ones turned. ``read`` copies no more than it is asked for:
the whole matrix, or a smaller map of it, made on its own device. Which parameter is which is found
once, in ``projections.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tracker_viz.capture.distributed import Piece, piece_of

# How a matrix becomes smaller. ``sample``: evenly spaced rows and columns; stays linear, so that
# the change since initialisation can be taken later, and its scores are those of weights. ``mean``,
# ``rms``: over rectangles, so that every weight counts; rms has no signs.
Pooling = Literal["sample", "mean", "rms"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

# Half-open ranges of rows of an [out, in] matrix.
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Projection:
    """One weight matrix of one block, and where it lies in the model.

    Attributes:
        block: index of the block.
        name: ``attn.w_q`` ... ``mlp.w_down``; of a single expert of a mixture
            ``mlp.experts.3.w_gate``.
        parameters: names in the model; several are averaged (the experts of a mixture, pooled).
        shape: (out, in).
        transposed: the model stores [in, out].
        rows: which rows of the stored matrix, turned to [out, in], are this projection's; None:
            all.
        stride: take every ``stride``-th of those rows (fused matrices that alternate row by row).
        expert: index along the parameter's leading expert axis; None: no such axis, or the mean
            along it.
    """

    block: int
    name: str
    parameters: tuple[str, ...]
    shape: tuple[int, int]
    transposed: bool = False
    rows: Ranges | None = None
    stride: int = 1
    expert: int | None = None

    @property
    def array_name(self) -> str:
        return f"blocks.{self.block}.{self.name}"

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices into the rows, int64 [out], and into the columns, int64 [in], of the stored
        matrix, turned to [out, in]."""
        columns = np.arange(self.shape[1])
        if self.rows is None:
            return np.arange(0, self.shape[0] * self.stride, self.stride), columns
        return np.concatenate(
            [np.arange(first, last, self.stride) for first, last in self.rows]
        ), columns


def read(
    parameters: Mapping[str, Tensor],
    projection: Projection,
    max_shape: tuple[int, int] | None = None,
    pooling: Pooling = "sample",
) -> Tensor:
    """The matrix, made smaller where it exceeds ``max_shape``: float32 [min(out, limit), min(in,
    limit)], a copy, on its own device.

    Of a sharded parameter each process reads its own slice, and what is summed over processes is as
    small as the result. With one, every process must call this.
    """
    shape = tuple(
        min(size, limit)
        for size, limit in zip(projection.shape, max_shape or projection.shape, strict=True)
    )
    pooling = "sample" if shape == projection.shape else pooling
    rows, columns = (
        _Axis.of(stored, limit, pooling)
        for stored, limit in zip(projection.stored(), shape, strict=True)
    )
    total: Tensor | None = None
    n_pooled = len(projection.parameters) * rows.n_each[:, None] * columns.n_each[None, :]
    for name in projection.parameters:
        stored = parameters[name].detach()
        piece = piece_of(stored)
        made = piece.summed(_made_of(piece.values, piece.start, projection, rows, columns, pooling))
        total = made if total is None else total + made
    assert total is not None, "a projection names at least one parameter"
    if stored.ndim == 3 and projection.expert is None:
        n_pooled = n_pooled * stored.shape[0]
    if n_pooled.max() > 1:
        total = total / torch.from_numpy(n_pooled).to(total)
    return total.sqrt() if pooling == "rms" else total


def evenly_spaced(size: int, limit: int) -> np.ndarray:
    """``min(size, limit)`` indices from 0 to size - 1, as evenly spaced as whole numbers can be;
    the same for every capture of a run."""
    count = min(size, limit)
    return (np.arange(count) * size) // count


@dataclass(frozen=True, slots=True)
class _Axis:
    """Which stored indices are read along one axis, and into which cell of the result each goes,
    ascending; how many into each cell."""

    stored: np.ndarray
    cell: np.ndarray
    n_each: np.ndarray

    @classmethod
    def of(cls, stored: np.ndarray, n_cells: int, pooling: Pooling) -> _Axis:
        if pooling == "sample":
            stored = stored[evenly_spaced(len(stored), n_cells)]
        cell = (np.arange(len(stored)) * n_cells) // len(stored)
        return cls(stored, cell, np.bincount(cell, minlength=n_cells))

    def within(self, start: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a slice of the stored axis: indices into it, and their cells."""
        here = (self.stored >= start) & (self.stored < start + size)
        return self.stored[here] - start, self.cell[here]


def part_of(piece: Piece, projection: Projection) -> Tensor:
    """What this process holds of one projection, in the dtype it is stored in: [out, in], fewer
    rows or columns where it is sharded.

    A view where all stored rows are the projection's. Not for a mean over experts.
    """
    rows, columns = (_Axis.of(stored, len(stored), "sample") for stored in projection.stored())
    part = _selected(piece.values, piece.start, projection, rows, columns)[0]
    return part.sum(0) if part.ndim == 3 else part  # of one expert, or of none


def _made_of(
    stored: Tensor,
    start: tuple[int, ...],
    projection: Projection,
    rows: _Axis,
    columns: _Axis,
    pooling: Pooling,
) -> Tensor:
    """What a slice adds to the result, float32 [row cells, column cells]: sums of its values, or of
    their squares for ``rms``."""
    stored, cells = _selected(stored, start, projection, rows, columns)
    # copy=True: training goes on writing into the parameter.
    values = stored.to(torch.float32, copy=True)
    values = values.square_() if pooling == "rms" else values
    values = values.sum(dim=0) if values.ndim == 3 else values
    for axis, along, cell in ((-2, rows, cells[0]), (-1, columns, cells[1])):
        n_cells = len(along.n_each)
        if not np.array_equal(cell, np.arange(n_cells)):
            shape = [n_cells if each == axis else values.shape[each] for each in (-2, -1)]
            values = values.new_zeros(shape).index_add_(axis, _to(values.device, cell), values)
    return values.contiguous()


def _selected(
    stored: Tensor, start: tuple[int, ...], projection: Projection, rows: _Axis, columns: _Axis
) -> tuple[Tensor, tuple[np.ndarray, np.ndarray]]:
    """Of a slice what is read, [..., out, in], and the cells that its rows and its columns go
    into."""
    if projection.transposed:
        stored, start = stored.transpose(-2, -1), (*start[:-2], start[-1], start[-2])
    if projection.expert is not None:
        first = projection.expert - start[0]
        stored = stored[max(first, 0) : max(first + 1, 0)]  # of an expert in another slice: nothing
    cells = []
    for axis, along in ((-2, rows), (-1, columns)):
        size = stored.shape[axis]
        index, cell = along.within(start[axis], size)
        cells.append(cell)
        if len(index) < size or (len(index) and (index[0] != 0 or index[-1] != size - 1)):
            stored = stored.index_select(axis, _to(stored.device, index))
    return stored, (cells[0], cells[1])


def _to(device: torch.device, index: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(index)).to(device)
