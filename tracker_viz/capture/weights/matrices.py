"""Read the weight matrices of a decoder block: a ``Projection`` says which parameter it is and how.

Every matrix is given as ``[out, in]``, as it multiplies a column vector, whatever the model stores:
fused projections are split, transposed ones turned. ``read`` copies no more than it is asked for:
the whole matrix, or a smaller map of it, made on its own device. Which parameter is which is found
once, in ``discover.naming``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tracker_viz.capture.distributed import Piece, piece_of, whole_tensor

# How a matrix becomes smaller. ``sample``: evenly spaced rows and columns; stays linear, so that
# the change since initialization can be taken later, and its scores are those of weights. ``mean``,
# ``rms``: over rectangles, so that every weight counts; rms has no signs.
Pooling = Literal["sample", "mean", "rms"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

# Half-open ranges of rows of an [out, in] matrix.
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Projection:
    """One weight matrix of one block, and where it is in the model.

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
        heads_along: the parameter's leading axis is that of the heads, which are laid side by side
            along ``out`` or ``in``; None: it has none.
    """

    block: int
    name: str
    parameters: tuple[str, ...]
    shape: tuple[int, int]
    transposed: bool = False
    rows: Ranges | None = None
    stride: int = 1
    expert: int | None = None
    heads_along: Literal["out", "in"] | None = None

    @property
    def array_name(self) -> str:
        return f"blocks.{self.block}.{self.name}"

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        """Return indices into the rows, int64 [out], and the columns, int64 [in], of the stored
        matrix, turned to [out, in]."""
        columns = np.arange(self.shape[1])
        if self.rows is None:
            return np.arange(0, self.shape[0] * self.stride, self.stride), columns
        ranges = [np.arange(first, last, self.stride) for first, last in self.rows]
        return np.concatenate(ranges), columns


def laid_flat(
    parameters: Mapping[str, Tensor], projection: Projection
) -> tuple[Mapping[str, Tensor], Projection]:
    """Return a stack [head, ...] as one matrix [out, in], and the projection that reads it; any
    other projection as it is. Collective for sharded parameters."""
    if projection.heads_along is None:
        return parameters, projection
    (name,) = projection.parameters
    stack = whole_tensor(parameters[name].detach())
    if projection.transposed:
        stack = stack.transpose(-2, -1)
    if projection.heads_along == "in":
        stack = stack.transpose(0, 1)
    flat = stack.reshape(projection.shape)
    return {name: flat}, replace(projection, transposed=False, heads_along=None)


def read(
    parameters: Mapping[str, Tensor],
    projection: Projection,
    max_shape: tuple[int, int] | None = None,
    pooling: Pooling = "sample",
) -> Tensor:
    """Return the matrix, made smaller where it exceeds ``max_shape``: float32 [min(out, limit),
    min(in, limit)], a copy, on its own device.

    Of a sharded parameter each process reads its own slice, and what is summed over processes is as
    small as the result. Collective for sharded parameters: call on every process.
    """
    parameters, projection = laid_flat(parameters, projection)
    n_rows, n_columns = np.minimum(projection.shape, max_shape or projection.shape).tolist()
    if (n_rows, n_columns) == projection.shape:
        pooling = "sample"
    stored_rows, stored_columns = projection.stored()
    rows = _Axis.of(stored_rows, n_rows, pooling)
    columns = _Axis.of(stored_columns, n_columns, pooling)
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
    if pooling == "rms":
        return total.sqrt()
    return total


def evenly_spaced(size: int, limit: int) -> np.ndarray:
    """Return ``min(size, limit)`` indices from 0 to size - 1, as evenly spaced as whole numbers can
    be; the same for every capture of a run."""
    count = min(size, limit)
    return (np.arange(count) * size) // count


@dataclass(frozen=True, slots=True)
class _Axis:
    """The stored indices that are read along one axis, and the cell of the result that each goes
    to, ascending; the number of indices per cell."""

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
        """Return indices into a slice of the stored axis, and their cells."""
        here = (self.stored >= start) & (self.stored < start + size)
        return self.stored[here] - start, self.cell[here]


def part_of(piece: Piece, projection: Projection) -> Tensor:
    """Return what this process holds of one projection, in the dtype it is stored in: [out, in],
    fewer rows or columns where it is sharded.

    A view where all stored rows are the projection's. Not for a mean over experts.
    """
    stored_rows, stored_columns = projection.stored()
    rows = _Axis.of(stored_rows, len(stored_rows), "sample")
    columns = _Axis.of(stored_columns, len(stored_columns), "sample")
    part, _ = _selected(piece.values, piece.start, projection, rows, columns)
    if part.ndim == 3:
        part = part.sum(0)  # of one expert, or of none
    return part


def _made_of(
    stored: Tensor,
    start: tuple[int, ...],
    projection: Projection,
    rows: _Axis,
    columns: _Axis,
    pooling: Pooling,
) -> Tensor:
    """Return what a slice adds to the result, float32 [row cells, column cells]: sums of its
    values, or of their squares for ``rms``."""
    stored, cells = _selected(stored, start, projection, rows, columns)
    # copy=True: training goes on writing into the parameter.
    values = stored.to(torch.float32, copy=True)
    if pooling == "rms":
        values.square_()
    if values.ndim == 3:
        values = values.sum(dim=0)
    for axis, along, cell in ((-2, rows, cells[0]), (-1, columns, cells[1])):
        n_cells = len(along.n_each)
        if not np.array_equal(cell, np.arange(n_cells)):
            shape = list(values.shape)
            shape[axis] = n_cells
            values = values.new_zeros(shape).index_add_(axis, _to(values.device, cell), values)
    return values.contiguous()


def _selected(
    stored: Tensor, start: tuple[int, ...], projection: Projection, rows: _Axis, columns: _Axis
) -> tuple[Tensor, tuple[np.ndarray, np.ndarray]]:
    """Return what is read of a slice, [..., out, in], and the cells that its rows and its columns
    go into."""
    if projection.transposed:
        stored, start = stored.transpose(-2, -1), (*start[:-2], start[-1], start[-2])
    if projection.expert is not None:
        first = projection.expert - start[0]
        # Empty where the expert is in another slice.
        stored = stored[max(first, 0) : max(first + 1, 0)]
    cells = []
    for axis, along in ((-2, rows), (-1, columns)):
        size = stored.shape[axis]
        index, cell = along.within(start[axis], size)
        cells.append(cell)
        is_whole = len(index) == size and (size == 0 or (index[0] == 0 and index[-1] == size - 1))
        if not is_whole:
            # A copy: the whole axis stays a view.
            stored = stored.index_select(axis, _to(stored.device, index))
    return stored, (cells[0], cells[1])


def _to(device: torch.device, index: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(index)).to(device)
