"""Find adapters around layers (LoRA, DoRA, IA3 and others), and compute the *effective* matrix that
such a layer multiplies by.

Adapters are recognized by their structure, so that PEFT need not be installed. Where their formula
is known it is worked out in float32, since a small update of a bfloat16 matrix would round away:

* LoRA: ``W + scale B A`` (Hu et al. 2021, arXiv:2106.09685, equation 3); rank-stabilized LoRA has
  another scale (arXiv:2312.03732); AdaLoRA is ``W + scale B diag(E) A`` (arXiv:2303.10512).
* DoRA: the rows of that, each to its own length ``m`` (Liu et al. 2024, arXiv:2402.09353, equation
  5).
* IA3: rows, or columns, of ``W`` times a vector (Liu et al. 2022, arXiv:2205.05638, section 3.3).

Every other adapter is asked (``asking.asked``). Called by ``stored.StoredWeights``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from tracker_viz.capture.distributed import whole_tensor

# The name of a layer inside the adapter that took its place. The adapter gets the same input.
_INSIDE_ADAPTER = frozenset({"base_layer", "base", "linear", "original", "original_module"})
# Adapters that are written into a layer of somebody's own (litgpt, torchtune, loralib).
_OWN_ADAPTER = re.compile(r"lora_(a|b|down|up)$", re.IGNORECASE)
# Classes of layers, and variants of LoRA, whose formula is known.
_FAMILIES = {"LoraLayer", "AdaLoraLayer", "IA3Layer"}
_PLAIN_VARIANTS = {"NoneType", "DoraLinearVariant"}


@dataclass(frozen=True, slots=True)
class OwnMatrix:
    """One of the two low-rank matrices of an adapter.

    Attributes:
        name: ``lora_a`` or ``lora_b``; of a second adapter ``lora_a.<its name>``.
        parameter: its name in the model.
        shape: (rank, in) or (out, rank).
        is_first: it is what takes the layer's input, ``lora_a``.
    """

    name: str
    parameter: str
    shape: tuple[int, int]
    is_first: bool


def owner(model: nn.Module, parameter: str) -> str:
    """Return the name of the module that multiplies with a parameter, adapters around it
    included."""
    name = parameter.rpartition(".")[0]
    while name:
        parent, _, own_name = name.rpartition(".")
        is_list = isinstance(model.get_submodule(name), ParametrizationList)
        if not (is_list or own_name in {*_INSIDE_ADAPTER, "parametrizations"}):
            break
        name = parent
    return name


def adapters_around(model: nn.Module, parameter: str) -> list[nn.Module]:
    """Return the adapters that change a weight, innermost first."""
    name, _, own_name = parameter.rpartition(".")
    found = []
    while name:
        module = model.get_submodule(name)
        if _changes(module, parameter.removeprefix(f"{name}."), own_name):
            found.append(module)
        parent, _, inside = name.rpartition(".")
        if inside not in _INSIDE_ADAPTER:
            break
        name = parent
    return found


def effective(adapters: Sequence[nn.Module], base: Tensor) -> Tensor | None:
    """Return the matrix that a layer with these adapters multiplies by, float32, stored as ``base``
    is; None where no formula is known.

    Args:
        base: the layer's own weight, adapters left out unless they are merged into it.
    """
    weight = base = _whole(base)
    for adapter in adapters:
        if not _is_wrapper(adapter):
            return None
        for name in active_adapters(adapter):
            applied = _applied(adapter, name, base, weight)
            if applied is None:
                return None
            weight = applied
    return weight


def active_adapters(layer: Any) -> tuple[str, ...]:
    """Return the adapters of a wrapped layer that take part in its forward pass beside its own
    weight: none where they are disabled, or merged into that."""
    if getattr(layer, "disable_adapters", False) or getattr(layer, "merged", False):
        return ()
    active = layer.active_adapters
    return (active,) if isinstance(active, str) else tuple(active)


def kinds(model: nn.Module) -> tuple[str, ...]:
    """Return what kinds of adapters a model has, in words: ``LoRA r=8``, ``IA3``; each once."""
    found: dict[str, None] = {}
    for module in model.modules():
        if _is_wrapper(module):
            found |= dict.fromkeys(_kinds_of(module))
        elif _has_own_adapter(module):
            found["LoRA"] = None
    virtual = virtual_tokens(model)
    if virtual:
        found[f"{virtual} virtual tokens"] = None
    return tuple(found)


def virtual_tokens(model: Any) -> int:
    """Return how many trained tokens an adapter puts before every row (prompt and prefix tuning);
    0 where there is none."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, dict):
        return 0
    active = configs.get(getattr(model, "active_adapter", None))
    return int(getattr(active, "num_virtual_tokens", None) or 0)


def inside_wrapper(model: nn.Module) -> nn.Module:
    """Return the model that an adapter's wrapper (PEFT's ``PeftModel``) was made of."""
    unwrap: Any = getattr(model, "get_base_model", None)
    if hasattr(model, "peft_config") and callable(unwrap):
        inner = unwrap()
        if isinstance(inner, nn.Module):
            return inner
    return model


def own_matrices(model: nn.Module, parameter: str) -> Iterator[OwnMatrix]:
    """Yield the low-rank matrices of the adapters that are active around a weight."""
    around = [module for module in adapters_around(model, parameter) if _is_wrapper(module)]
    if len(around) != 1 or getattr(around[0], "parameter_name", None) is not None:
        return
    (layer,) = around
    path = owner(model, parameter)
    for number, active in enumerate(active_adapters(layer)):
        suffix = f".{active}" if number else ""
        for kind in ("lora_A", "lora_B"):
            matrix = _member(layer, kind, active)
            if matrix is None or matrix.ndim != 2:
                continue
            name = f"{path}.{kind}.{active}"
            if isinstance(getattr(layer, kind)[active], nn.Module):
                name += ".weight"
            yield OwnMatrix(kind.lower() + suffix, name, _shape(matrix), kind == "lora_A")


def _shape(matrix: Tensor) -> tuple[int, int]:
    n_rows, n_columns = matrix.shape
    return n_rows, n_columns


def _is_wrapper(module: Any) -> bool:
    return isinstance(getattr(module, "base_layer", None), nn.Module) and hasattr(
        module, "active_adapters"
    )


def _has_own_adapter(module: nn.Module) -> bool:
    members = (*module._parameters, *module._modules)
    return not _is_wrapper(module) and any(map(_OWN_ADAPTER.match, members))


def _changes(module: nn.Module, path: str, own_name: str) -> bool:
    """Return whether an adapter changes the parameter at ``path`` within it."""
    if _is_wrapper(module):
        # One parameter of a module that holds several (a mixture's stacks of experts).
        wanted = getattr(module, "parameter_name", None)
        return wanted is None or wanted == own_name
    return _has_own_adapter(module) and not _OWN_ADAPTER.match(path.split(".")[0])


def _kinds_of(layer: Any) -> Iterator[str]:
    for name in _names_of(layer):
        if not _is_low_rank(layer, name):
            yield type(layer).__module__.split(".")[-2].upper()
            continue
        kind = "LoRA"
        if _member(layer, "lora_magnitude_vector", name) is not None:
            kind = "DoRA"
        elif _member(layer, "lora_E", name) is not None:
            kind = "AdaLoRA"
        yield f"{kind} r={layer.r[name]}"


def _is_low_rank(layer: Any, name: str) -> bool:
    held = (getattr(layer, kind, {}) for kind in ("lora_A", "lora_embedding_A"))
    return any(name in members for members in held)


def _names_of(layer: Any) -> list[str]:
    names: dict[str, None] = {}
    for kind in getattr(layer, "adapter_layer_names", ()):
        held = getattr(layer, kind, None)
        if isinstance(held, nn.ModuleDict | nn.ParameterDict):
            names |= dict.fromkeys(held.keys())
    return list(names)


def _applied(layer: Any, name: str, base: Tensor, weight: Tensor) -> Tensor | None:
    """Return ``weight`` with one more adapter, or None where its formula is not known.

    Args:
        base: the weight without any.
    """
    if not _has_formula(layer, name):
        return None
    vector = _member(layer, "ia3_l", name)
    if vector is not None:
        return weight * _as_stored(layer, vector)
    if getattr(layer, "parameter_name", None) is not None:
        if name not in layer.lora_A:
            return weight
        return weight + layer.get_delta_weight(name).detach().float()
    a, b = _member(layer, "lora_A", name), _member(layer, "lora_B", name)
    if a is None or b is None:
        return weight  # an adapter that other layers have
    scale = layer.scaling[name]
    singular = _member(layer, "lora_E", name)
    if singular is not None:
        a = a * singular
        # 1e-5 as in PEFT's AdaLoRA layer.
        scale = scale / (float(layer.ranknum[name]) + 1e-5)
    change = (b @ a) * scale
    magnitude = _member(layer, "lora_magnitude_vector", name)
    if magnitude is None:
        return weight + _as_stored(layer, change)
    lengths = torch.linalg.vector_norm(_as_stored(layer, base) + change, dim=1)
    turned = (_as_stored(layer, weight) + change) * (magnitude / lengths)[:, None]
    return _as_stored(layer, turned)


def _has_formula(layer: Any, name: str) -> bool:
    variant = type(getattr(layer, "lora_variant", {}).get(name)).__name__
    families = {family.__name__ for family in type(layer).__mro__}
    return bool(families & _FAMILIES) and variant in _PLAIN_VARIANTS


def _as_stored(layer: Any, matrix: Tensor) -> Tensor:
    """Turn [out, in] to what the layer stores, or back."""
    if getattr(layer, "fan_in_fan_out", False):
        return matrix.t()
    return matrix


def _member(layer: Any, kind: str, name: str) -> Tensor | None:
    """Return one adapter's tensor of a kind, float32 and whole (a collective where it is sharded);
    None where it has none."""
    held = getattr(layer, kind, None)
    if not isinstance(held, nn.ModuleDict | nn.ParameterDict) or name not in held:
        return None
    member: Any = held[name]
    tensor: Any = getattr(member, "weight", member)
    return _whole(tensor)


def _whole(tensor: Any) -> Tensor:
    return whole_tensor(tensor).detach().float()


def layers_of(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a block without those that are an adapter's own."""
    kept: dict[str, str] = {}
    for name, module in block.named_modules():
        if any(_is_beside(name, wrapper, inside) for wrapper, inside in kept.items()):
            continue
        for inside in ("base_layer", "original_module"):
            if isinstance(getattr(module, inside, None), nn.Module):
                kept[f"{name}.".lstrip(".")] = inside
        yield name, module


def _is_beside(name: str, wrapper: str, inside: str) -> bool:
    """Return whether a module is in a wrapper and not in the layer that this wraps."""
    within = name.removeprefix(wrapper)
    return name.startswith(wrapper) and within.split(".")[0] not in ("", inside)
