"""Collect, during one pass of the probe, what signals look at: the residual stream behind every
block, the projection to the vocabulary, and the logits that the model returns.

``Camera`` makes a ``ProbePass`` for each pass. ``AttentionWatch`` asks it for the logits, because
they are the largest product of a pass: only rows that a signal reads are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tracker_viz.capture.attention.calls import first_output
from tracker_viz.capture.discover.model_info import ModelStructure
from tracker_viz.capture.distributed import is_dtensor, whole_tensor
from tracker_viz.capture.isolation import Forward
from tracker_viz.capture.signals.signal import Signal, SignalArray


class ProbePass:
    """One pass of the probe, as signals see it.

    Args:
        structure: of the model.
        input_ids: int64 [probe, position].
        signals: made for this pass.
        blocks: numbers of the blocks to look at.

    Attributes:
        missing: what could not be seen, in words.
        max_logits: to be filled during the pass: block -> the largest attention logit of every
            head, float32 [probe, head].
    """

    def __init__(
        self,
        structure: ModelStructure,
        input_ids: Tensor,
        signals: Sequence[Signal],
        blocks: Sequence[int],
    ) -> None:
        self.missing: list[str] = []
        self.max_logits: dict[int, Tensor] = {}
        self._structure = structure
        self._n_rows, self._length = input_ids.shape
        self._highest_id = int(input_ids.max())
        self._signals = signals
        self._logit_rows = sorted({row for signal in signals for row in signal.logit_rows})
        # Rows seen so far: of every block, and of the projection to the vocabulary.
        self._n_seen = dict.fromkeys(blocks, 0)
        self._n_unembedded = 0
        self._leaves_out_logits = False
        # Whether a projection outside of the blocks has as many outputs as the stream is wide.
        self._has_square_head = False
        self._output: Any = None
        # What the model returned for each part of the rows.
        self._outputs: list[Any] = []
        # The last call of a module outside of the blocks: that module, its input, its output.
        self._last_call: tuple[nn.Module, Tensor, Tensor] | None = None

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Look at the blocks of ``model`` inside the ``with``."""
        handles: list[RemovableHandle] = []
        try:
            if self._signals:
                for block in self._n_seen:
                    module = model.get_submodule(self._structure.blocks[block])
                    handles.append(module.register_forward_hook(self._leaving(block)))
            for signal in self._signals:
                handles += signal.hooks(model)
            if any(signal.reads_final_norm for signal in self._signals):
                for module in _outside(model, self._structure.blocks):
                    handles.append(module.register_forward_hook(self._calling_outside))
            if self._logit_rows:
                outside = _outside(model, self._structure.blocks)
                self._has_square_head = any(map(self._is_square_head, outside))
                handles.append(model.register_forward_hook(self._returning))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def calling(self, forward: Forward) -> Forward:
        """Return ``forward``, with what it returns noted."""

        def noted(model: nn.Module, input_ids: Tensor) -> Any:
            self._output = forward(model, input_ids)
            return self._output

        return noted

    def logits(self, entering: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return, in place of ``F.linear`` to the vocabulary, logits [..., vocabulary] that are
        zeros but in rows that a signal reads."""
        logits = entering.new_zeros(*entering.shape[:-1], weight.shape[0])
        self._leaves_out_logits = True
        # A vocabulary that is sharded over processes would have to be gathered.
        is_sharded = is_dtensor(entering) or is_dtensor(weight)
        rows = None if is_sharded else self._as_rows(entering)
        first_row = self._n_unembedded
        # A model may project more than once (several tokens ahead): the first time counts.
        if rows is None or first_row >= self._n_rows:
            return logits
        self._n_unembedded += len(rows)
        self._show_final_norm(entering, first_row)
        for signal in self._signals:
            signal.saw_unembedding(rows, weight, bias, first_row)

        by_row = self._as_rows(logits)
        assert by_row is not None  # it has the axes of what enters
        for row in self._logit_rows:
            if first_row <= row < first_row + len(rows):
                by_row[row - first_row] = F.linear(rows[row - first_row], weight, bias)
        return logits

    def arrays(self, attention: Sequence[Tensor]) -> Iterable[SignalArray]:
        """Return what the signals measured, when the pass has ended.

        Args:
            attention: of every block, float16 [probe, head, query, key].
        """
        for block in self._n_seen:
            for signal in self._signals:
                signal.saw_attention(block, attention[block])
        unseen = [block for block, n_rows in self._n_seen.items() if n_rows < self._n_rows]
        if self._signals and unseen:
            self.missing.append(f"the residual stream of blocks {unseen}")
        unknown = []
        for block in sorted(self.max_logits.keys() & self._n_seen.keys()):
            if bool(self.max_logits[block].isnan().all()):
                unknown.append(block)
            for signal in self._signals:
                signal.saw_max_logits(block, self.max_logits[block])
        if unknown:
            self.missing.append(f"the largest attention logits of blocks {unknown}")
        if self._logit_rows:
            logits = self._returned_logits()
            if logits is None:
                self.missing.append("logits [row, position, vocabulary], which it does not return")
            else:
                chosen = {row: logits[row] for row in self._logit_rows}
                for signal in self._signals:
                    signal.saw_logits(chosen)
        self._output, self._outputs = None, []
        for signal in self._signals:
            yield from signal.arrays()
            if why := signal.missing():
                self.missing.append(why)

    def _leaving(self, block: int) -> Callable[..., None]:
        def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden = first_output(output)
            stream = self._as_rows(hidden) if isinstance(hidden, Tensor) else None
            first_row = self._n_seen[block]
            # A block that runs again counts as it ran first.
            if stream is None or first_row >= self._n_rows:
                return
            self._n_seen[block] += len(stream)
            for signal in self._signals:
                signal.saw_block(block, stream, first_row)

        return leave

    def _calling_outside(self, module: nn.Module, inputs: Any, output: Any) -> None:
        entering = inputs[0] if inputs else None
        if isinstance(entering, Tensor) and isinstance(output, Tensor):
            self._last_call = module, entering, output

    def _show_final_norm(self, unembedded: Tensor, first_row: int) -> None:
        """Show signals the module that made what is unembedded, if the last one did."""
        if self._last_call is None:
            return
        module, entering, output = self._last_call
        self._last_call = None
        rows = self._as_rows(entering)
        is_same = output.data_ptr() == unembedded.data_ptr() and output.shape == unembedded.shape
        if rows is None or not is_same:
            return
        for signal in self._signals:
            signal.saw_final_norm(module, rows, first_row)

    def _is_square_head(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear) and module.out_features == self._structure.d_model

    def _returning(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._outputs.append(output)

    def _as_rows(self, tensor: Tensor) -> Tensor | None:
        """Return [row, position, channel] as a view, or None where it is nothing of the probe."""
        tensor = whole_tensor(tensor.detach())
        n_tokens = self._length
        if tensor.ndim == 3 and tensor.shape[1] == n_tokens and tensor.shape[0] <= self._n_rows:
            return tensor
        if tensor.ndim == 3 and tensor.shape[0] == n_tokens and tensor.shape[1] <= self._n_rows:
            return tensor.transpose(0, 1)
        if tensor.ndim != 2 or tensor.shape[0] % n_tokens:
            return None
        return tensor.unflatten(0, (-1, n_tokens))  # rows packed into one

    def _returned_logits(self) -> Tensor | None:
        """Return logits [row, position, vocabulary], or None where the model returns none, or
        those of our rows were left out."""
        if self._leaves_out_logits and self._n_unembedded < self._n_rows:
            return None
        for parts in ([self._output], _as_list(self._output), self._outputs):
            rows = [self._as_logits(part) for part in parts]
            found = [each for each in rows if each is not None]
            if found and sum(map(len, found)) == self._n_rows:
                return found[0] if len(found) == 1 else torch.cat(found)
        return None

    def _as_logits(self, output: Any) -> Tensor | None:
        named = output.get("logits") if isinstance(output, Mapping) else None
        named = getattr(output, "logits", named)
        logits = output if named is None else named
        if named is None and isinstance(output, tuple | list) and output:
            logits = output[0]
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            return None
        rows = self._as_rows(logits)
        if rows is None or rows.shape[-1] <= self._highest_id:
            return None
        # A model without a head returns its residual stream, which is no logits.
        is_as_wide = rows.shape[-1] == self._structure.d_model
        if named is None and is_as_wide and not self._has_square_head:
            return None
        return None if _are_probabilities(rows[0]) else rows


def _are_probabilities(row: Tensor) -> bool:
    """Return whether a model has put its logits, [position, vocabulary], through a softmax."""
    is_one = (row.sum(-1, dtype=torch.float32) - 1).abs() < 1e-2
    return bool((row >= 0).all() & is_one.all())


def _outside(model: nn.Module, blocks: Sequence[str]) -> list[nn.Module]:
    """Return the modules without children that lie in no block."""
    found = []
    for name, module in model.named_modules():
        inside = any(name == block or name.startswith(f"{block}.") for block in blocks)
        if not inside and not any(True for _ in module.children()):
            found.append(module)
    return found


def _as_list(output: Any) -> list[Any]:
    return list(output) if isinstance(output, tuple | list) else []
