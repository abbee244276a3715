"""Recognize quantized layers, which store something other than the matrix they multiply by, and
recover that matrix.

A layer is recognized by what it stores, not by its library: tensors that know how to dequantize
themselves (torchao, optimum-quanto, torch.ao) do so; for every other format (bitsandbytes, HQQ,
GPTQ, scaled float8) the layer is asked. Called by ``stored.StoredWeights`` and by the search for
projections.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture.weights.asking import asked
from tracker_viz.errors import UnsupportedModelError

_OUT_AND_IN = (("out_features", "in_features"), ("outfeatures", "infeatures"))


def named_matrices(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a layer's own parameters, and for a packed layer the one matrix that they stand for:
    ``weight``, an empty tensor on the meta device, float32 [out, in]."""
    shape = packed_shape(layer)
    if shape is not None:
        yield "weight", torch.empty(shape, device="meta")
        return
    yield from layer.named_parameters(recurse=False)


def is_quantized(layer: nn.Module) -> bool:
    """Return whether what a layer stores is not what it multiplies by."""
    return packed_shape(layer) is not None or any(map(dequantizes, layer._parameters.values()))


def dequantizes(stored: Any) -> bool:
    """Return whether a tensor is of a quantized type that gives plain numbers by itself."""
    return isinstance(stored, Tensor) and type(stored).dequantize is not Tensor.dequantize


def packed_shape(layer: Any) -> tuple[int, int] | None:
    """Return (out, in) of the matrix that a layer holds as codes and scales; None for a layer that
    holds it as numbers, and for all other modules."""
    if hasattr(layer, "base_layer"):
        return None  # the layer inside this adapter does
    stored = getattr(layer, "weight", None)
    if isinstance(stored, Tensor) and stored.is_floating_point():
        is_scaled = stored.element_size() == 1 and _has_scale(layer) and not dequantizes(stored)
        if not is_scaled or stored.ndim != 2:
            return None
        return stored.shape[0], stored.shape[1]
    if not (callable(stored) or _holds_codes(layer)):
        return None
    for out, into in _OUT_AND_IN:
        n_out, n_in = getattr(layer, out, None), getattr(layer, into, None)
        if isinstance(n_out, int) and isinstance(n_in, int):
            return n_out, n_in
    return None


def unpacked(layer: Any, device: torch.device) -> Tensor:
    """Return the matrix of a packed layer, [out, in].

    Raises:
        UnsupportedModelError: neither its tensors nor the layer itself give it.
    """
    stored = getattr(layer, "weight", None)
    if callable(stored):
        stored = stored()  # torch.ao
        if stored.is_quantized:
            return stored.dequantize()
    shape = packed_shape(layer)
    if shape is None:
        raise UnsupportedModelError(f"{type(layer).__name__} does not state its width")
    return asked(layer, shape[1], device)


def _holds_codes(layer: nn.Module) -> bool:
    """Return whether a layer's own tensors are whole numbers, and none of them is a matrix."""
    tensors = [*layer._parameters.values(), *layer._buffers.values()]
    held = [tensor for tensor in tensors if tensor is not None]
    has_codes = any(not tensor.is_floating_point() and tensor.ndim >= 2 for tensor in held)
    parameters = [tensor for tensor in layer._parameters.values() if tensor is not None]
    return has_codes and not any(
        tensor.is_floating_point() and tensor.ndim >= 2 for tensor in parameters
    )


def _has_scale(layer: nn.Module) -> bool:
    return any("scale" in name for name in (*layer._parameters, *layer._buffers))
