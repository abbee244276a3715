"""Read the matrix that a layer multiplies by from a parameter's name, wherever and however it is
stored.

A weight may be quantized, offloaded to the CPU or the disk, replaced (``modules_to_save``),
parametrized, or changed by an adapter. ``StoredWeights`` gives plain tensors for all of them, one
at a time, as ``matrices.read`` and ``norms.krylov`` take them. Where a layer stores no matrix that
can be read, it is asked for it; where that fails, ``try_to_read`` says why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture.isolation import model_device
from tracker_viz.capture.offload import offloaded
from tracker_viz.capture.weights import adapters
from tracker_viz.capture.weights.asking import asked, is_right
from tracker_viz.capture.weights.packed import (
    dequantizes,
    is_quantized,
    named_matrices,
    packed_shape,
    unpacked,
)

_REPLACED = "original_module"
_PARAMETRIZED = ".parametrizations."


class StoredWeights(Mapping[str, Tensor]):
    """A model's weights by the names of their parameters, and of the matrices that have none (see
    ``named_matrices``). Detached; shared with the model where they are stored as they are used.

    Collective for sharded parameters that an adapter changes: read on every process.

    Args:
        asked_for: weights whose layers are asked, where the known formula was seen not to hold.

    Raises:
        UnsupportedModelError: from ``[...]``: the weight cannot be read; says why.
    """

    def __init__(self, model: nn.Module, asked_for: Collection[str] = ()) -> None:
        self._model = model
        self._asked_for = asked_for
        # Blocks may share a layer. nn.Module's own: that of FSDP1's wrapper shortens the names.
        self._parameters = dict(nn.Module.named_parameters(model, remove_duplicate=False))
        self._latest: tuple[str, Tensor] | None = None

    def __getitem__(self, name: str) -> Tensor:
        # A fused projection is read for each of its parts, and again for its norms.
        if self._latest is None or self._latest[0] != name:
            self._latest = name, self._effective(name_in_use(self._model, name))
        return self._latest[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def _effective(self, name: str) -> Tensor:
        around = adapters.adapters_around(self._model, name)
        if not around:
            return self._base(name)
        changed = None
        if name not in self._asked_for:
            changed = adapters.effective(around, self._base(name))
        if changed is None:
            changed = self._asked(around[-1], name)
        return changed

    def _base(self, name: str) -> Tensor:
        """Return a weight without the adapters around it, dequantized."""
        path = name.rpartition(".")[0]
        if _PARAMETRIZED in f"{path}.":
            parametrized, _, of_layer = path.rpartition(_PARAMETRIZED)
            return getattr(self._model.get_submodule(parametrized), of_layer).detach()
        stored: Tensor | None = self._parameters.get(name)
        if stored is not None and stored.is_meta:
            stored = offloaded(self._model, name)
        if stored is not None and dequantizes(stored):
            return stored.dequantize().detach()
        layer = self._model.get_submodule(path)
        if stored is None or packed_shape(layer) is not None:
            return unpacked(layer, self._device(layer))
        return stored.detach()

    def _asked(self, layer: Any, name: str) -> Tensor:
        is_turned = bool(getattr(layer, "fan_in_fan_out", False))
        n_inputs = self._shape(name)[0 if is_turned else 1]
        matrix = asked(layer, n_inputs, self._device(layer))
        return matrix.t() if is_turned else matrix

    def _shape(self, name: str) -> tuple[int, ...]:
        path, _, own_name = name.rpartition(".")
        matrices = dict(named_matrices(self._model.get_submodule(path)))
        return tuple(matrices[own_name].shape)

    def _device(self, layer: nn.Module) -> torch.device:
        tensors = (*layer.parameters(), *layer.buffers())
        return model_device(layer if tensors else self._model)


def name_in_use(model: nn.Module, name: str) -> str:
    """Return the name of the weight that took the place of this one (``modules_to_save``)."""
    parts = name.split(".")
    if _REPLACED not in parts:
        return name
    place = parts.index(_REPLACED)
    before, after = ".".join(parts[:place]), ".".join(parts[place + 1 :])
    wrapper: Any = model.get_submodule(before)
    replacements = getattr(wrapper, "modules_to_save", {})
    for active in adapters.active_adapters(wrapper):
        if active in replacements:
            return f"{before}.modules_to_save.{active}.{after}"
    return name


@dataclass(frozen=True, slots=True)
class Readable:
    """The result of reading weights once.

    Attributes:
        asked_for: weights whose adapters have another formula than the known ones: their layers
            are asked (``StoredWeights``).
        refused: weights that cannot be read -> why.
    """

    asked_for: frozenset[str]
    refused: Mapping[str, str]


def try_to_read(model: nn.Module, names: Iterable[str]) -> Readable:
    """Read once every weight that is not stored as it is used, and compare what an adapter's
    formula gives with what its layer does. Not for sharded models, whose layers do not run alone.
    """
    asked_for, refused = set[str](), dict[str, str]()
    weights = StoredWeights(model)
    for name in names:
        around = adapters.adapters_around(model, name)
        layer = model.get_submodule(name.rpartition(".")[0])
        if not around and not is_quantized(layer):
            continue
        try:
            values = weights[name]
            if around and values.ndim == 2 and not _holds(around[-1], values):
                asked_for.add(name)
                _ = StoredWeights(model, asked_for)[name]
        except Exception as error:  # noqa: BLE001
            # Formats and adapters are somebody else's code.
            refused[name] = f"{type(error).__name__}: {error}"
    return Readable(frozenset(asked_for), refused)


def _holds(layer: Any, stored: Tensor) -> bool:
    """Return whether a layer multiplies by this matrix."""
    is_turned = bool(getattr(layer, "fan_in_fan_out", False))
    return is_right(layer, stored.t() if is_turned else stored)


def names_of_outputs(model: nn.Module) -> dict[nn.Module, str]:
    """Return the layers whose output is no plain product with a parameter -> the name that their
    matrix is read by."""
    names: dict[nn.Module, str] = {}
    for path, layer in model.named_modules():
        for own_name, matrix in named_matrices(layer):
            if matrix.ndim != 2:
                continue
            name = f"{path}.{own_name}".strip(".")
            around = adapters.adapters_around(model, name)
            if around:
                names[around[-1]] = name
            elif (in_use := name_in_use(model, name)) != name:
                names[model.get_submodule(in_use.rpartition(".")[0])] = name
            elif is_quantized(layer):
                names[layer] = name
    return names
