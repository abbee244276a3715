"""Compute the Frobenius and spectral norm of a whole weight matrix, on its own device, where a
capture keeps only a sample of it.

The largest singular value of a sample is not the matrix's: a direction that all rows share stands
out of the noise by the root of their number, so a sample of a tenth of them hides it. Called by
``Camera`` for every matrix that it makes smaller.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tracker_viz.capture.distributed import piece_of
from tracker_viz.capture.weights.matrices import Projection, laid_flat, part_of

# Two products with the matrix a step. After eight the largest singular value is at most 3 % too
# small where none stands out (noise), and right to four digits where one does.
STEPS = 8

_MULTIPLIED = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


def krylov(parameters: Mapping[str, Tensor], projection: Projection) -> Tensor:
    """Return what ``norms`` needs of one matrix: float32 [STEPS + 1, STEPS], on its device.

    Lanczos' method (Golub & Kahan 1965) with full reorthogonalization from a fixed start, so that
    equal matrices give equal norms. The matrix is not gathered: of a sharded one each process
    multiplies its own rows. Collective for sharded parameters: call on every process.

    NaN for a mean over experts, which is no matrix of the model, and for dtypes that torch
    does not multiply (float8).
    """
    parameters, projection = laid_flat(parameters, projection)
    stored = parameters[projection.parameters[0]].detach()
    is_mean = len(projection.parameters) > 1 or (stored.ndim == 3 and projection.expert is None)
    if is_mean or stored.dtype not in _MULTIPLIED:
        return torch.full((STEPS + 1, STEPS), torch.nan, device="cpu")
    piece = piece_of(stored)
    matrix = part_of(piece, projection)
    if matrix.shape[1] < projection.shape[1]:
        matrix = matrix.t()  # so that it is rows that are on different processes
    basis = torch.zeros(STEPS, matrix.shape[1], device=matrix.device)
    # Drawn on the CPU whatever the default device is: the same on every machine.
    start = torch.randn(
        matrix.shape[1], generator=torch.Generator("cpu").manual_seed(0), device="cpu"
    ).to(matrix.device, non_blocking=True)
    images = []
    for step in range(STEPS):
        # The clamp keeps a matrix of zeros from giving NaN.
        basis[step] = start / start.norm().clamp_min(1e-30)
        image = matrix @ basis[step].to(matrix.dtype)
        images.append(image.float())
        if step < STEPS - 1:
            back = piece.summed((matrix.t() @ image).float())
            start = torch.addmv(back, basis.t(), basis @ back, alpha=-1)
    stacked = torch.stack(images)
    squares = torch.linalg.vector_norm(matrix, dtype=torch.float32).square().expand(1, STEPS)
    return piece.summed(torch.cat([stacked @ stacked.t(), squares]))


def norms(summed: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return Frobenius norm, spectral norm, rows and columns of a matrix, float32 [4], from the
    result of ``krylov``; both norms are NaN where that is not finite."""
    frobenius = largest = np.nan
    if np.isfinite(summed).all():
        largest = np.sqrt(max(np.linalg.eigvalsh(summed[:-1].astype(np.float64))[-1], 0.0))
        frobenius = np.sqrt(summed[-1, 0])
    return np.array([frobenius, largest, *shape], np.float32)
