"""Find weights that accelerate keeps on the CPU or on the disk between a layer's calls, where the
model itself holds meta tensors.

Found through accelerate's hooks, which are attributes of the modules; it is not imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def is_offloaded(model: nn.Module, name: str) -> bool:
    """Return whether a hook holds the values of this parameter."""
    return any(key in hook.weights_map for hook, key in _hooks_of(model, name))


def offloaded(model: nn.Module, name: str) -> Tensor | None:
    """Return the values that a hook holds of this parameter, or None."""
    for hook, key in _hooks_of(model, name):
        if key in hook.weights_map:
            return torch.as_tensor(hook.weights_map[key])
    return None


def execution_device(model: nn.Module) -> torch.device | None:
    """Return where a model whose weights are offloaded runs, or None."""
    for module in model.modules():
        for hook in _hooks(module):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return None


def _hooks_of(model: nn.Module, name: str) -> Iterator[tuple[Any, str]]:
    """Yield the hooks around a parameter that hold weights, innermost first, and its name there."""
    path, _, key = name.rpartition(".")
    while True:
        for hook in _hooks(model.get_submodule(path)):
            if getattr(hook, "weights_map", None) is not None:
                yield hook, key
        if not path:
            return
        path, _, own_name = path.rpartition(".")
        key = f"{own_name}.{key}"


def _hooks(module: nn.Module) -> Iterator[Any]:
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        yield from getattr(hook, "hooks", (hook,))
