"""Describe one call that mixes tokens, and where in a model it was made.

``AttentionWatch`` makes ``AttentionCall`` values; ``ModuleStack`` tells it which modules are
running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

# Attention: rows are probabilities. Mixing: entries have any sign and rows any sum.
Kind = Literal["attention", "mixing"]
# How the source of a call begins that was seen by running its module again.
AGAIN = "its module, run again"


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call of a function that mixes tokens, during the pass.

    Attributes:
        modules: names of the modules that were running, outermost first.
        entries: how often each of them had been entered by then, this time included.
        ordinal: number of calls that the innermost module made before this one.
        source: the function that was seen, or the kernel that was asked.
        pattern: [probe, head, query, key], on the model's device. Of attention, rows sum to 1
            (below 1 where a sink takes the rest). A mixing map is signed, in float32.
        n_kv_heads: key/value heads; None where the call does not tell.
        error: largest ``|P V - output|`` over the call; None where there is nothing to compare.
        kind: what the rows of ``pattern`` are.
        channels: which channels ``pattern`` holds in place of heads, where every channel mixes in
            its own way; empty otherwise.
        max_logit: float32 [probe, head], the largest number that entered the softmax; None where
            it is not known.
    """

    modules: tuple[str, ...]
    entries: tuple[int, ...]
    ordinal: int
    source: str
    pattern: Tensor
    n_kv_heads: int | None = None
    error: float | None = None
    kind: Kind = "attention"
    channels: tuple[int, ...] = ()
    max_logit: Tensor | None = None

    @property
    def module(self) -> str:
        return self.modules[-1] if self.modules else ""

    @property
    def site(self) -> tuple[tuple[str, ...], int]:
        return self.modules, self.ordinal


class ModuleStack:
    """Names of the modules whose ``forward`` is running, outermost first. Its hooks come off when
    the ``with`` ends."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.entries: dict[str, int] = {}
        self.widths: dict[str, int] = {}  # module -> size of the last axis of what it returned last

    @contextmanager
    def following(self, modules: Iterable[tuple[str, nn.Module]]) -> Iterator[ModuleStack]:
        """Track these modules, given with their names, inside the ``with``."""
        handles = []
        try:
            for name, module in modules:
                handles.append(module.register_forward_pre_hook(self._enter(name)))
                # always_call: a name left on the stack by an error inside the model would
                # mislabel every later call.
                handles.append(module.register_forward_hook(self._leave(name), always_call=True))
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self.names.clear()

    @contextmanager
    def unmoved(self) -> Iterator[None]:
        """Forget, after the ``with``, what ran inside it."""
        names, entries = list(self.names), dict(self.entries)
        try:
            yield
        finally:
            self.names[:] = names
            self.entries.clear()
            self.entries.update(entries)

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(_module: nn.Module, _inputs: Any) -> None:
            self.names.append(name)
            self.entries[name] = self.entries.get(name, 0) + 1

        return enter

    def _leave(self, name: str) -> Callable[..., None]:
        def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden = first_output(output)
            if isinstance(hidden, Tensor) and hidden.ndim:
                self.widths[name] = hidden.shape[-1]
            if name in self.names:
                while self.names.pop() != name:
                    pass

        return leave


def first_output(output: Any) -> Any:
    """Return the first of several things that a module returns, which are its hidden states, or the
    only one."""
    return output[0] if isinstance(output, tuple | list) and output else output
