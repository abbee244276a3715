"""Weight matrices of a decoder block: which parameter plays which part, and how it is read.

Every matrix is given as ``[out, in]``, as it multiplies a column vector, whatever the model stores: fused projections are
split, transposed ones turned. ``read`` copies no more than it is asked for: the whole matrix, or an evenly spaced sample of
its rows and columns (a sample stays linear, so the change since initialisation can be taken later, and sorted).
Which parameter is which is found once, in ``projections.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tracker_viz.capture.distributed import whole

# Half-open ranges of rows of an [out, in] matrix.
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Projection:
    """One weight matrix of one block, and where it lies in the model.

    Attributes:
        block: index of the block.
        name: ``attn.w_q`` ... ``mlp.w_down``; of a single expert of a mixture ``mlp.experts.3.w_gate``.
        parameters: names in the model; several are averaged (the experts of a mixture, pooled).
        shape: (out, in).
        transposed: the model stores [in, out].
        rows: which rows of the stored matrix, turned to [out, in], are this projection's; None: all.
        stride: take every ``stride``-th of those rows (fused matrices that alternate row by row).
        expert: index along the parameter's leading expert axis; None: no such axis, or the mean along it.
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

    def stored_rows(self) -> np.ndarray:
        """Indices into the stored matrix's rows, int64 [out]."""
        if self.rows is None:
            return np.arange(0, self.shape[0] * self.stride, self.stride)
        return np.concatenate([np.arange(first, last, self.stride) for first, last in self.rows])


def read(parameters: Mapping[str, Tensor], projection: Projection, max_shape: tuple[int, int] | None = None) -> Tensor:
    """The matrix, or an evenly spaced sample of it: float32 [min(out, max_shape[0]), min(in, max_shape[1])], a copy, on its own device.

    A sharded parameter is gathered here, one at a time; with one, every process must call this.
    """
    out_limit, in_limit = max_shape or projection.shape
    rows = projection.stored_rows()[evenly_spaced(projection.shape[0], out_limit)]
    columns = evenly_spaced(projection.shape[1], in_limit)
    total: Tensor | None = None
    for name in projection.parameters:
        matrix = _experts_pooled(_taken(whole(parameters[name].detach()), projection, rows, columns))
        total = matrix if total is None else total + matrix
    assert total is not None, "a projection names at least one parameter"
    return total / len(projection.parameters) if len(projection.parameters) > 1 else total


def evenly_spaced(size: int, limit: int) -> np.ndarray:
    """``min(size, limit)`` indices from 0 to size - 1, as evenly spaced as whole numbers can be; the same for every capture of a run."""
    count = min(size, limit)
    return (np.arange(count) * size) // count


def _taken(stored: Tensor, projection: Projection, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    if projection.expert is not None:
        stored = stored[projection.expert]
    if projection.transposed:
        stored = stored.transpose(-2, -1)
    for axis, index in ((-2, rows), (-1, columns)):
        size = stored.shape[axis]
        if len(index) == size and index[0] == 0 and index[-1] == size - 1:
            continue
        stored = stored.index_select(axis, torch.from_numpy(np.ascontiguousarray(index)).to(stored.device))
    # copy=True: training goes on writing into the parameter.
    return stored.to(torch.float32, copy=True).contiguous()


def _experts_pooled(matrix: Tensor) -> Tensor:
    return matrix.mean(dim=0) if matrix.ndim == 3 else matrix
