"""Ask the kernel of one call that was seen for its mixing matrix, or say in words why it has none.
Called by ``KernelAsker``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tracker_viz.capture.attention.kernels.asking import Answer, ask, ask_channels, is_trivial
from tracker_viz.capture.attention.kernels.known_kernels import Kernel

# Arguments into which some kernels write their output.
_OUTPUTS = ("out", "out_", "output", "o")


def answered(
    kernel: Kernel,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    output: Any,
    shape: tuple[int, int],
) -> Answer | str:
    """Ask a kernel for its mixing matrix.

    Args:
        arguments: of the model's own call, by name.
        output: what that call returned.
        shape: of the probe, (rows, tokens a row).

    Returns:
        The matrix, or why there is none, as the end of a sentence about the kernel.
    """
    if not kernel.kind.is_asked:
        return "does more than mix its values"
    value = arguments.get(kernel.value)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return f"was called without a tensor of values ({kernel.value})"

    # Gates that scale the output channel by channel would hide what the heads have in common.
    gates = [name for name in kernel.kind.left_out if arguments.get(name) is not None]
    ungated = {**arguments, **dict.fromkeys(gates)}

    def call(asked: Mapping[str, Any]) -> Tensor:
        return _call(kernel, function, asked)

    def mix(values: Tensor) -> Tensor:
        return call({**ungated, kernel.value: values})

    try:
        mixed = None if gates else _first_tensor(kernel, arguments, output)
        by_channel = kernel.kind.channel_axes
        if by_channel:
            answer = ask_channels(call, ungated, mixed, kernel.value, by_channel, *shape)
        else:
            answer = ask(mix, value, mix(value) if mixed is None else mixed, *shape)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a kernel of somebody else's may fail in any way
        first_line = str(error).partition("\n")[0]
        return f"could not be asked ({type(error).__name__}: {first_line})"
    if answer is None:
        return "is not linear in its values, or mixes other tokens than the probe's"
    if is_trivial(answer.matrix):
        return "mixes no tokens"
    return answer


def _call(kernel: Kernel, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Tensor:
    arguments = dict(arguments)
    for name in (*kernel.written, *_OUTPUTS):
        if name != kernel.value and isinstance(arguments.get(name), Tensor):
            arguments[name] = arguments[name].clone()
    positional = []
    for name in kernel.parameters:
        if name not in arguments:
            break
        positional.append(arguments.pop(name))
    result = function(*positional, **arguments)
    return _first_tensor(kernel, dict(zip(kernel.parameters, positional, strict=False)), result)


def _first_tensor(kernel: Kernel, arguments: Mapping[str, Any], result: Any) -> Tensor:
    if isinstance(result, Tensor):
        return result
    if isinstance(result, tuple | list) and result and isinstance(result[0], Tensor):
        return result[0]
    for name in _OUTPUTS:
        written = arguments.get(name)
        if name in kernel.written and isinstance(written, Tensor):
            return written
    raise TypeError(f"it returned {type(result).__name__}, no tensor")
