"""Say what a torch function does with its operands: multiply them, activate them, attend with
them, or take their form alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

PRODUCTS = {
    F.linear,
    F.bilinear,
    F.conv1d,
    torch.conv1d,
    torch.einsum,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    torch.mm,
    Tensor.mm,
    torch.bmm,
    Tensor.bmm,
    torch.addmm,
    Tensor.addmm,
    torch.baddbmm,
    Tensor.baddbmm,
    torch.tensordot,
}
# Product -> position of the weight among its arguments
WEIGHT_ARGUMENT = {
    F.linear: 1,
    torch.matmul: 1,
    Tensor.matmul: 1,
    Tensor.__matmul__: 1,
    torch.mm: 1,
    Tensor.mm: 1,
    torch.bmm: 1,
    Tensor.bmm: 1,
    torch.addmm: 2,
    Tensor.addmm: 2,
    torch.baddbmm: 2,
}
for _module, _name in ((F, "grouped_mm"), (torch, "_grouped_mm")):
    if hasattr(_module, _name):  # newer versions of torch have it
        PRODUCTS.add(getattr(_module, _name))
        WEIGHT_ARGUMENT[getattr(_module, _name)] = 1
# The first of their operands is added, not multiplied.
WITH_ADDEND = {torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm}
CONVOLUTIONS = {F.conv1d, torch.conv1d}
ACTIVATIONS = {
    F.silu,
    F.gelu,
    F.relu,
    F.sigmoid,
    F.softplus,
    torch.relu,
    Tensor.relu,
    torch.sigmoid,
    Tensor.sigmoid,
    torch.tanh,
    Tensor.tanh,
    F.tanh,
    F.mish,
    F.relu6,
    F.elu,
    F.leaky_relu,
    F.hardswish,
}
_MATRIX_PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}
# flex_attention and fused kernels: query, key and value come first.
_KERNEL_WORDS = ("attention", "attn", "flash")


def is_matrix_product(func: Any) -> bool:
    """Return whether ``func`` is ``left @ right``, under one of its names."""
    return func in _MATRIX_PRODUCTS


def takes_query_key_value(func: Any) -> bool:
    """Return whether the function attends, and takes query, key and value first."""
    if func is F.scaled_dot_product_attention:
        return True
    if isinstance(func, HigherOrderOperator):
        return func.name() == "flex_attention"
    if not isinstance(func, OpOverload | OpOverloadPacket):
        return False
    return any(word in str(func) for word in _KERNEL_WORDS)


def rows_are_second(args: Sequence[Any]) -> bool:
    """Return whether the rows of what ``einsum`` gives are those of its second operand."""
    equation = args[0] if args and isinstance(args[0], str) else ""
    operands, _, result = equation.replace(" ", "").partition("->")
    _, _, second = operands.partition(",")
    return len(result) >= 2 and result[-2] in second and result[-1] not in second


def makes_new(func: Any) -> bool:
    """Return whether only the form of an operand is taken, as by ``zeros_like``."""
    name = getattr(func, "__name__", "")
    return name.endswith("_like") or name.startswith("new_")


def takes_form_of_second(func: Any) -> bool:
    """Return whether only the first operand's values are taken, as by ``key.type_as(query)``."""
    name = getattr(func, "__name__", "")
    return name == "to" or (name.endswith("_as") and not name.startswith("__"))


def is_in_place(func: Any) -> bool:
    """Return whether the function writes into its first operand, as by ``add_`` and ``+=``."""
    name = getattr(func, "__name__", "")
    return name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
