"""Notice a ``forward`` that gives the model some rows of the probe after the others, because the
model takes one sequence: ``forward=lambda model, input_ids: [model(row) for row in input_ids]``.

Used by ``blocks.discover`` and ``blocks.attend`` around a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.errors import ProbeError

_WHOLE_NUMBERS = (torch.int64, torch.int32)


class RowLoop:
    """Counts the rows that a model was given in parts.

    Args:
        shape: of the probe, (rows, tokens a row).
        begin: is called before each part, with its number of rows.
    """

    def __init__(self, shape: Sequence[int], begin: Callable[[int], None]) -> None:
        self.n_rows_seen = 0
        self._n_rows, self._length = shape
        self._begin = begin
        self._depth = 0

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[RowLoop]:
        """Count the rows that ``forward`` gives the model, inside the ``with``."""
        # Where the model is in a module of somebody else's (Lightning's), forward may call it.
        modules = [model]
        for child in model.children():
            if not isinstance(child, nn.Embedding):
                modules.append(child)
        handles = []
        try:
            for module in modules:
                handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
                handles.append(module.register_forward_hook(self._leave, always_call=True))
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def check(self) -> None:
        """Raise ProbeError if the parts were not all rows."""
        if self.n_rows_seen and self.n_rows_seen != self._n_rows:
            raise ProbeError(
                f"forward gave the model {self.n_rows_seen} of the probe's {self._n_rows} rows; "
                "for a model that takes one sequence pass forward=lambda model, input_ids: "
                "[model(row) for row in input_ids], or a probe of one row with score_rows=0"
            )

    def _enter(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.dtype in _WHOLE_NUMBERS:
                n_rows, rest = divmod(value.numel(), self._length)
                if not rest and 0 < n_rows < self._n_rows:
                    self.n_rows_seen += n_rows
                    self._begin(n_rows)
                return

    def _leave(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        self._depth -= 1
