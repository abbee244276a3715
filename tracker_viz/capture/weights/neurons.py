"""Measure how strongly the feed-forward neurons act on the probe: sum up the input of each block's
down projection, on its device.

A neuron is one input of ``mlp.w_down`` (``mlp.w_out`` without a gate): what the nonlinearity, and
the gate where there is one, made of it. Seen by hooks that live as long as the probe's own pass.
Called by ``Camera``; what it sums up is scored by ``metrics.weights``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture.distributed import whole_tensor
from tracker_viz.capture.weights.adapters import owner
from tracker_viz.capture.weights.matrices import Projection

_DOWN = ("w_down", "w_out")
_WEIGHT = ".weight"


class NeuronWatch:
    """Follows the inputs of linear layers through one pass over the probe.

    Args:
        n_tokens: of the probe, rows times positions. A layer that is given another number of
            tokens, as an expert of a mixture is, is not summed up: a neuron that saw only some of
            the tokens cannot be called dead.
        n_counted: of these, from the first on, are summed up: those of the rows that are drawn.
    """

    def __init__(self, n_tokens: int, n_counted: int) -> None:
        self._n_tokens = n_tokens
        self._n_counted = n_counted
        self._calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    @contextmanager
    def following(self, modules: Iterable[nn.Module]) -> Iterator[NeuronWatch]:
        """Sum up what enters these layers, inside the ``with``."""
        handles = []
        try:
            for module in modules:
                handles.append(module.register_forward_pre_hook(self._enter))
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def activity(self, model: nn.Module, projections: Sequence[Projection]) -> dict[str, Tensor]:
        """Return the activity of every down projection that was seen, float32, on its own device:

        * ``<array name>.peak`` [neuron]: the largest magnitude that the neuron reached on any
          token;
        * ``<array name>.spread`` [2, token]: mean, and root of the mean square, of the magnitudes
          of all neurons.
        """
        seen: dict[str, Tensor] = {}
        turns: dict[nn.Module, int] = {}
        for projection in projections:
            module = _module(model, projection)
            if module is None:
                continue
            # Blocks may share a layer: each is shown its own call.
            turn = turns[module] = turns.get(module, -1) + 1
            calls = self._calls.get(module, [])
            if turn < len(calls):
                peak, spread = calls[turn]
                seen[f"{projection.array_name}.peak"] = peak
                seen[f"{projection.array_name}.spread"] = spread
        return seen

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        entering = inputs[0] if inputs else None
        if not isinstance(entering, Tensor) or not entering.is_floating_point():
            return
        if entering.ndim < 2 or entering.numel() != self._n_tokens * entering.shape[-1]:
            return
        neurons = entering.detach().reshape(self._n_tokens, -1)[: self._n_counted]
        n_neurons = neurons.shape[1]
        # Norms that are summed up in at least float32, without a copy of the neurons.
        summed_in = torch.promote_types(neurons.dtype, torch.float32)
        mean = torch.linalg.vector_norm(neurons, 1, dim=1, dtype=summed_in) / n_neurons
        norm = torch.linalg.vector_norm(neurons, 2, dim=1, dtype=summed_in)
        spread = torch.stack([mean, norm / n_neurons**0.5]).float()
        peak = neurons.abs().amax(0).float()
        # Under tensor parallelism each process has its own neurons (a collective).
        peak, spread = whole_tensor(peak), whole_tensor(spread)
        self._calls.setdefault(module, []).append((peak, spread))


def down_layers(model: nn.Module, projections: Sequence[Projection]) -> list[nn.Module]:
    """Return the layers whose inputs are neurons, each once."""
    layers = dict.fromkeys(_module(model, projection) for projection in projections)
    return [layer for layer in layers if layer is not None]


def linear_layers(model: nn.Module) -> list[nn.Module]:
    """Return all that may turn out to be one, before a model's projections are known."""
    layers = []
    for module in model.modules():
        weight = getattr(module, "weight", None)
        # FSDP1 and ZeRO-3 keep a part of it, in another shape.
        is_layer = isinstance(module, nn.Linear)
        if is_layer or (isinstance(weight, Tensor) and weight.ndim == 2):
            layers.append(module)
    return layers


def _module(model: nn.Module, projection: Projection) -> nn.Module | None:
    """Return the layer whose weight a down projection is; None for other projections, for experts,
    and for what is no layer of its own."""
    parameter, *others = projection.parameters
    is_down = projection.name.rpartition(".")[2] in _DOWN
    is_of_experts = ".experts." in projection.name or others
    if not is_down or is_of_experts or not parameter.endswith(_WEIGHT):
        return None
    # An adapter around the layer may scale what enters it.
    return model.get_submodule(owner(model, parameter))
