"""Find the first module of a model that turns finite numbers into NaN or infinity on the probe.

Called by ``Camera`` where the residual stream is not finite: it takes a pass of its own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture.distributed import first_of, local_part
from tracker_viz.capture.isolation import Forward
from tracker_viz.capture.signals.signal import SignalArray


def are_finite(measured: Sequence[SignalArray]) -> bool:
    """Return whether the residual stream was finite wherever it was measured."""
    streams = [each.values for each in measured if each.name.endswith(".stream")]
    return not streams or bool(torch.isfinite(torch.cat(streams)[..., 0]).all())


def description_of(module: str | None) -> dict[str, str]:
    """Return the entry of ``Capture.model`` about the first module that is not finite; none where
    all are."""
    return {} if module is None else {"not_finite": module}


def first_not_finite(
    model: nn.Module, input_ids: Tensor, forward: Forward, *, sharded: bool = False
) -> str | None:
    """Run the probe, inside ``isolated``; return the first module, in the order in which modules
    end, whose output is not finite, with the words ``(its parameter ... is not finite)`` where that
    is so. None where all outputs are finite.

    Args:
        sharded: each process looks at its own part of what is sharded, and the first module that
            any of them finds is returned (a collective).
    """
    found = ""
    n_ended = 0

    def looking(name: str) -> Callable[..., None]:
        def look(module: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal found, n_ended
            if found:
                return
            n_ended += 1
            if not all(map(_is_finite, _tensors(output))):
                found = f"{name or 'the model itself'}{_broken_parameter(module)}"

        return look

    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_hook(looking(name)).remove)
        forward(model, input_ids)
    if sharded:
        found = first_of(n_ended if found else sys.maxsize, found)
    return found or None


def _broken_parameter(module: nn.Module) -> str:
    for name, parameter in module.named_parameters(recurse=False):
        if not _is_finite(parameter):
            return f" (its parameter {name} is not finite)"
    return ""


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for each in output:
            if isinstance(each, Tensor):
                yield each


def _is_finite(tensor: Tensor) -> bool:
    held = local_part(tensor.detach())
    return not held.is_floating_point() or bool(torch.isfinite(held).all())
