"""Find the argument of a kernel's call that holds the values it mixes.

Kernels are recognized by the names of their functions and arguments. Any other function that takes
queries and keys by name may be one, too; ``asking.ask`` checks.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from torch._ops import OpOverload, OpOverloadPacket

QUERIES = ("q", "query", "queries", "query_states", "query_layer", "xq", "r", "receptance")
KEYS = ("k", "key", "keys", "key_states", "key_layer", "xk")
_VALUES = ("v", "value", "values", "value_states", "value_layer", "xv")


@dataclass(frozen=True, slots=True)
class KernelKind:
    """A family of kernels.

    Attributes:
        names: pattern of the names of its functions.
        values: names that the argument with the values may have.
        is_softmax: rows are a softmax's, even where a sink leaves them below 1.
        left_out: arguments that scale the output of each channel afterwards: the question is asked
            without them.
        channel_axes: where every channel mixes in its own way, each argument that differs by
            channel and its axis of channels. Empty where heads do.
        is_asked: False where values pass other layers inside, so that no matrix mixes them.
        way_round: advice to the user where a kernel of the family cannot be asked.
    """

    names: re.Pattern[str]
    values: tuple[str, ...] = _VALUES
    is_softmax: bool = False
    left_out: tuple[str, ...] = ()
    channel_axes: Mapping[str, int] = field(default_factory=dict)
    is_asked: bool = True
    way_round: str = "its form in plain torch can be run for the probe (forward=, watch's option)"


# Argument that differs by channel -> its axis of channels.
_BY_CHANNEL = ("hidden_states", "u", "delta", "dt")
_SELECTIVE_SCAN = {**dict.fromkeys(_BY_CHANNEL, 1), **dict.fromkeys(("A", "D", "delta_bias"), 0)}
_RNN_SCAN = {
    **dict.fromkeys(("hidden_states", "x", "recurrent_gate", "a", "g"), 2),
    **dict.fromkeys(("recurrent_states", "initial_state"), 1),
}
_WKV = {"time_decay": 0, "time_first": 0, "key": 2, "value": 2}

_KINDS = (
    KernelKind(
        re.compile(
            r"_*(flash_?attn|flash_?attention|memory_efficient_attention|varlen_attn|sage_?attn)\w*"
        ),
        is_softmax=True,
    ),
    KernelKind(
        re.compile(r"(mamba_split_conv1d_scan|mamba2_split_conv1d_scan|mamba_inner)\w*"),
        is_asked=False,
        way_round="use_mem_eff_path=False (use_fast_path=False) runs its steps apart",
    ),
    KernelKind(
        re.compile(r"(mamba|mamba2|ssd)_chunk_scan\w*"),
        values=("x", "hidden_states"),
        left_out=("z",),
    ),
    KernelKind(
        re.compile(r"(mamba_)?selective_scan(_fn|_ref)?"),
        values=("u", "hidden_states"),
        left_out=("z",),
        channel_axes=_SELECTIVE_SCAN,
    ),
    KernelKind(
        re.compile(r"rwkv_linear_attention(_cpu)?"),
        channel_axes=_WKV,
    ),
    KernelKind(
        re.compile(r"_?rnn_scan|\w+_hgrn"),
        values=("hidden_states", "x"),
        channel_axes=_RNN_SCAN,
    ),
    KernelKind(
        re.compile(
            r"(torch_|naive_)?(chunk|recurrent|fused_recurrent|fused_chunk|parallel)_\w+"
            r"|lightning_attn\w*|lightning_attention\w*|rwkv\d?_linear_attention\w*"
        ),
    ),
)
_SUPPOSED = KernelKind(re.compile(r"\w+"))


@dataclass(frozen=True, slots=True)
class Kernel:
    """A function that mixes values, and how it is called.

    Attributes:
        name: shown to the user.
        parameters: names of its arguments, in order.
        value: the one that holds the values.
        is_known: its family is known; False: only its arguments look like a kernel's.
        written: arguments that it writes into.
    """

    name: str
    kind: KernelKind
    parameters: tuple[str, ...]
    value: str
    is_known: bool
    written: tuple[str, ...] = ()

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the arguments of a call by name; None where there are more than it has names."""
        if len(args) > len(self.parameters):
            return None
        return {**dict(zip(self.parameters, args, strict=False)), **kwargs}


@lru_cache(maxsize=4096)
def known_kernel(function: Callable[..., Any], name: str = "") -> Kernel | None:
    """Return how a Python function mixes values, or None if nothing says that it does.

    Args:
        name: under which the model calls it, if not its own.
    """
    parameters = _parameters(function)
    own_name = getattr(function, "__name__", "")
    if own_name == "forward":  # a module that takes queries, keys and values: say which
        own_name = ".".join(function.__qualname__.split(".")[-2:])
    for called in filter(None, (name, own_name)):
        for kind in _KINDS:
            if kind.names.fullmatch(called):
                return _made(own_name or called, kind, parameters, is_known=True)
    if set(parameters) & {*KEYS} and set(parameters) & {*QUERIES}:
        return _made(own_name or name, _SUPPOSED, parameters, is_known=False)
    return None


@lru_cache(maxsize=512)
def known_operator(operator: Any) -> Kernel | None:
    """Return how a torch operator mixes values, from the names of its arguments."""
    name = _operator_name(operator)
    parameters, written = _arguments(operator)
    lowered = {each.lower() for each in parameters}
    if not lowered & {*KEYS} or not lowered & {*QUERIES}:
        return None
    own_name = name.rpartition(".")[2]
    kind = next((each for each in _KINDS if each.names.fullmatch(own_name)), _SUPPOSED)
    return _made(name, kind, parameters, is_known=True, written=written)


def supposed_operator(operator: Any, position: int) -> Kernel:
    """Return the kernel that a torch operator is if its values are its argument ``position``."""
    parameters, written = _arguments(operator)
    name = _operator_name(operator)
    return Kernel(name, _SUPPOSED, parameters, parameters[position], True, written)


def _operator_name(operator: Any) -> str:
    return str(operator).removesuffix(".default")


def _arguments(operator: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of an operator's arguments, and of those that it writes into."""
    overload = operator
    if isinstance(operator, OpOverloadPacket):
        overload = getattr(operator, operator.overloads()[0])
    assert isinstance(overload, OpOverload)
    names, written = [], []
    for argument in overload._schema.arguments:
        names.append(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            written.append(argument.name)
    return tuple(names), tuple(written)


def _made(
    name: str,
    kind: KernelKind,
    parameters: tuple[str, ...],
    *,
    is_known: bool,
    written: tuple[str, ...] = (),
) -> Kernel | None:
    values = [each for each in parameters if each.lower() in kind.values]
    if not values and kind.is_asked:
        return None
    value = values[0] if values else ""
    return Kernel(name, kind, parameters, value, is_known, written)


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # functions of a C extension have no signature
        return ()
    names = []
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            names.append(parameter.name)
    return tuple(names)
