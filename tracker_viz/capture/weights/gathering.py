"""Gather for a moment the parameters that a wrapper hides from every single process: those of FSDP1
(``FullyShardedDataParallel``), which it lays flat and splits, and those of DeepSpeed ZeRO-3.

Called by ``Camera`` and ``discover``: for the probe's pass every unit of FSDP1 gathers its own
parameters while it runs, and weights are read block by block. No process ever holds the whole
model. Everything here is a collective: call it on every process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from tracker_viz.capture.distributed import fsdp1_units, is_partitioned


class Gatherer:
    """Gathers the hidden parameters of one model; does nothing for any other."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._units = fsdp1_units(model)
        self._is_partitioned = is_partitioned(model)

    @property
    def is_needed(self) -> bool:
        """The model hides parameters, so that they have to be looked up again once gathered."""
        return self._is_partitioned or bool(self._units)

    @property
    def n_parameters(self) -> int:
        """How many numbers the parameters of the whole model are."""
        if self._units:
            return sum(_n_flat(unit) for unit in self._units.values())
        parameters = self._model.parameters()
        return sum(getattr(each, "ds_numel", each.numel()) for each in parameters)

    @contextlib.contextmanager
    def of_modules(self, names: Sequence[str]) -> Iterator[None]:
        """Hold all values of the parameters of these modules inside the ``with``, under their own
        names and in their own shapes.

        Args:
            names: of modules, such as those of one block.
        """
        with contextlib.ExitStack() as stack:
            for unit in self._units_of(names):
                stack.enter_context(_whole(unit))
            if self._is_partitioned:
                stack.enter_context(_departitioned(self._model, names))
            yield

    @contextlib.contextmanager
    def while_running(self) -> Iterator[None]:
        """Let every unit of FSDP1 gather its parameters while it runs, in place of the way that it
        has for training, which shows them as parts of one flat tensor. DeepSpeed's own way is
        seen as it is."""
        # accelerate puts a forward of its own on the outermost unit.
        before = [(unit, vars(unit).get("forward")) for unit in self._units.values()]
        try:
            for unit, _ in before:
                vars(unit)["forward"] = _forward_of(unit)
            yield
        finally:
            for unit, own in before:
                del vars(unit)["forward"]
                if own is not None:
                    vars(unit)["forward"] = own

    def _units_of(self, names: Sequence[str]) -> list[Any]:
        """Return the units whose parameters are those of the modules, or inside them: outermost
        first."""
        chosen = []
        for name in names:
            around = [unit for unit in self._units if _is_inside(name, unit)]
            inside = [unit for unit in self._units if _is_inside(unit, name)]
            # The nearest one around holds what is in no unit of its own.
            chosen += [*around[-1:], *inside]
        return [self._units[unit] for unit in self._units if unit in chosen]


def _is_inside(name: str, other: str) -> bool:
    """Return whether a module is another one, or inside it."""
    return not other or name == other or name.startswith(f"{other}.")


def _whole(unit: Any) -> contextlib.AbstractContextManager[None]:
    context: contextlib.AbstractContextManager[None] = type(unit).summon_full_params(
        unit, recurse=False, writeback=False
    )
    return context


def _forward_of(unit: Any) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        with _whole(unit):
            return unit.module(*args, **kwargs)

    return forward


def _n_flat(unit: Any) -> int:
    """Return how many numbers a unit has laid flat, those of units inside it aside."""
    # None where all of its parameters are in other units.
    handle = unit._handle
    return 0 if handle is None else sum(handle.flat_param._numels)


@contextlib.contextmanager
def _departitioned(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    import deepspeed

    parameters = {}
    for name in names:
        for parameter in model.get_submodule(name).parameters():
            parameters[id(parameter)] = parameter
    with deepspeed.zero.GatheredParameters(list(parameters.values())):
        yield
