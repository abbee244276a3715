"""Ask a layer for the matrix that it multiplies by, whatever it stores.

A linear layer called with the identity returns its matrix. That holds for packed and quantized
weights, and for adapters of any kind, without a word about their formats. Called by
``stored.StoredWeights`` for the layers whose stored tensors are no matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tracker_viz.capture.isolation import isolated
from tracker_viz.errors import UnsupportedModelError

# Rows of the identity that are passed at once: the largest piece is as wide as the layer.
_ROWS_AT_ONCE = 1024
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The most that a layer's output may differ from what its matrix gives, as a share of its norm:
# bfloat16 rounds by 4e-3, and quantized layers may round what enters them to eight bits.
_ROUNDING = 3e-2


def asked(layer: nn.Module, n_inputs: int, device: torch.device) -> Tensor:
    """Return the matrix of a linear layer, float32 [out, in].

    Args:
        n_inputs: width of what the layer takes.

    Raises:
        UnsupportedModelError: the layer does not run by itself, or is not linear.
    """
    output = _Output(layer, n_inputs, device)
    nothing = output(torch.zeros(1, n_inputs, device=device))
    columns = []
    for first in range(0, n_inputs, _ROWS_AT_ONCE):
        n_rows = min(_ROWS_AT_ONCE, n_inputs - first)
        rows = torch.zeros(n_rows, n_inputs, device=device)
        rows[:, first : first + n_rows].fill_diagonal_(1)
        columns.append(output(rows) - nothing)
    matrix = torch.cat(columns).t().contiguous()
    if not is_right(layer, matrix):
        raise UnsupportedModelError(
            f"{type(layer).__name__} is not a linear layer: its output differs "
            "from the product with its matrix"
        )
    return matrix


def is_right(layer: nn.Module, matrix: Tensor) -> bool:
    """Return whether a layer's output on one random token is what ``matrix``, [out, in], gives,
    within the rounding of the layer's dtype."""
    n_inputs = matrix.shape[1]
    # Drawn on the CPU whatever the default device is.
    generator = torch.Generator("cpu").manual_seed(0)
    token = torch.randn(1, n_inputs, generator=generator, device="cpu").to(matrix.device)
    output = _Output(layer, n_inputs, matrix.device)
    seen = output(token) - output(torch.zeros_like(token))
    error = (token @ matrix.float().t() - seen).norm()
    return bool(error <= _ROUNDING * seen.norm())


class _Output:
    """Calls a layer by itself, without its own hooks, in the first dtype that it takes."""

    def __init__(self, layer: nn.Module, n_inputs: int, device: torch.device) -> None:
        self._layer = layer
        self._shape = (1, n_inputs)
        self._device = device
        with isolated(layer):
            self._dtype = self._taken_dtype()

    def __call__(self, rows: Tensor) -> Tensor:
        with isolated(self._layer):
            return self._layer.forward(rows.to(self._dtype)).float()

    def _taken_dtype(self) -> torch.dtype:
        first_error: Exception | None = None
        for dtype in _DTYPES:
            try:
                self._layer.forward(torch.zeros(self._shape, dtype=dtype, device=self._device))
            except Exception as error:  # noqa: BLE001
                first_error = first_error or error
            else:
                return dtype
        raise UnsupportedModelError(
            f"{type(self._layer).__name__} cannot run by itself: {first_error}"
        ) from first_error
