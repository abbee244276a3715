"""Measure a model's losses on held-out rows, whole and without some of its heads.

A head is replaced in the input of its block's output projection (``outputs.py``), for the time of
one pass, by a hook: no weight is touched. ``mean`` puts the head's own mean over all rows of that
kind and all positions there, so that what a head always adds stays; ``zero`` puts nothing there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tracker_viz.capture.ablation.outputs import HeadOutputs, find_outputs
from tracker_viz.capture.ablation.rows import HeldOutRows, copied_tokens
from tracker_viz.capture.discover.blocks import discover
from tracker_viz.capture.discover.limits import check_parameters
from tracker_viz.capture.discover.model_info import describe
from tracker_viz.capture.isolation import Forward, default_forward, isolated, model_device
from tracker_viz.capture.weights.matrices import read
from tracker_viz.capture.weights.stored import StoredWeights
from tracker_viz.errors import CaptureError, UnsupportedModelError
from tracker_viz.types import HeadId

Ablation = Literal["mean", "zero"]
# Most logits in one batch, [row, position, vocabulary]: 256 MiB as float32.
_MOST_LOGITS = 1 << 26

# The output projection's input [..., head * d_head] -> its replacement, of the same shape.
_Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses in nats, by kind of token: ``later_copies``, ``first_copies``, ``text``.

    Attributes:
        sums: kind -> sum over the tokens of each row, float64 [row].
        counts: kind -> tokens of each row, int64 [row].
    """

    sums: Mapping[str, NDArray[np.float64]]
    counts: Mapping[str, NDArray[np.int64]]

    def means(self) -> dict[str, float]:
        """Return kind -> mean over all tokens."""
        return {
            kind: float(sums.sum() / self.counts[kind].sum()) for kind, sums in self.sums.items()
        }

    def changes_since(self, whole: Losses) -> dict[str, tuple[float, NDArray[np.float64]]]:
        """Return kind -> (change of the mean, residuals [row]).

        Both losses are of the same rows, so that what a row itself costs cancels. Rows hold
        different numbers of tokens, and the change is a ratio of means: the standard deviation of
        these residuals, over the root of the number of rows, is its standard error (Cochran 1977,
        eq. 6.13).
        """
        changes = {}
        for kind, sums in self.sums.items():
            counts = self.counts[kind]
            row_changes = sums - whole.sums[kind]
            change = float(row_changes.sum() / counts.sum())
            changes[kind] = change, (row_changes - change * counts) / counts.mean()
        return changes


class LossMeter:
    """Measures one model's losses on fixed rows, whole and without some of its heads.

    Args:
        blocks, projections: where blocks and weights are, as ``Camera`` takes them.
        forward: how to call the model on [row, position] ids; returns its logits, or what holds
            them.
        autocast: run under autocast to this dtype.

    Attributes:
        n_heads: heads of each block; 0 where it does not attend.
        model_info: what was found, as ``Capture.model`` holds it.

    Raises:
        UnsupportedModelError: no attention was seen, or its heads cannot be taken out.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: HeldOutRows,
        *,
        ablation: Ablation = "mean",
        blocks: str | Sequence[str] | None = None,
        projections: Mapping[str, str] | None = None,
        forward: Forward | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        check_parameters(model)
        buffers = dict(model.named_buffers())
        with isolated(model, autocast=autocast, written_buffers=buffers):
            structure, _ = discover(
                model,
                rows.repeated[:1, :-1].to(model_device(model)),
                forward=forward or default_forward,
                blocks=blocks,
                projections=projections,
            )
        self.n_heads = structure.n_heads
        self.model_info = describe(structure, model)
        self._projections = structure.projections
        self._model = model
        self._outputs = find_outputs(model, structure)
        self._ablation = ablation
        self._forward = forward or default_forward
        self._autocast = autocast
        kinds = {"repeated": rows.repeated, "text": rows.text}
        self._rows = {kind: ids for kind, ids in kinds.items() if ids is not None}
        # kind of row -> block -> mean of every head, float32 [head * d_head]
        self._means: dict[str, dict[int, Tensor]] = {}
        self._n_logits: int | None = None

    def whole(self) -> Losses:
        """Measure the whole model, and keep the mean of every head for ``without``.

        Raises:
            UnsupportedModelError: a block does not call its output projection as a module.
            CaptureError: the model does not return logits [row, position, vocabulary].
        """
        if self._n_logits is None:
            # One row shows the size of the vocabulary, from which the batch size follows.
            self._token_losses(self._rows["repeated"][:1], {})
        found = {}
        for kind, rows in self._rows.items():
            sums = {block: _Sum() for block in self._outputs}
            found[kind] = self._token_losses(
                rows, {block: total.add for block, total in sums.items()}
            )
            self._means[kind] = {block: self._mean(block, total) for block, total in sums.items()}
        return self._summed(found)

    def without(self, heads: Sequence[HeadId]) -> Losses:
        """Measure the model without these heads.

        Call ``whole`` first, and again after weights change: it finds the means of the heads.
        """
        by_block: dict[int, list[int]] = {}
        for block, head in heads:
            by_block.setdefault(block, []).append(head)
        found = {}
        for kind, rows in self._rows.items():
            changes = {}
            for block, chosen in by_block.items():
                changes[block] = self._replacing(block, chosen, kind)
            found[kind] = self._token_losses(rows, changes)
        return self._summed(found)

    def weights(self, name: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield name and values, float32 [out, in], of a weight in every block, such as
        ``attn.w_q``."""
        parameters = StoredWeights(self._model)
        for projection in self._projections:
            if projection.name == name:
                with torch.no_grad():
                    yield projection.array_name, read(parameters, projection).float().cpu().numpy()

    def _mean(self, block: int, total: _Sum) -> Tensor:
        if total.values is None:
            raise UnsupportedModelError(
                f"{self._outputs[block].module} was not called with the heads of "
                f"block {block}: its attention uses these weights in another way, "
                "so heads cannot be ablated"
            )
        return (total.values / total.count).float()

    def _replacing(self, block: int, heads: Sequence[int], kind: str) -> _Change:
        d_head = self._outputs[block].d_head
        mean = self._means[kind][block]

        def replaced(side_by_side: Tensor) -> Tensor:
            changed = side_by_side.clone()
            for head in heads:
                own = slice(head * d_head, (head + 1) * d_head)
                changed[..., own] = mean[own].to(changed) if self._ablation == "mean" else 0
            return changed

        return replaced

    def _token_losses(self, rows: Tensor, changes: Mapping[int, _Change]) -> Tensor:
        """Return the loss of every token but the first: float32 [row, token - 1], on the CPU."""
        device = model_device(self._model)
        losses = []
        start = 0
        buffers = dict(self._model.named_buffers())
        with (
            isolated(self._model, autocast=self._autocast, written_buffers=buffers),
            self._changing(changes),
        ):
            while start < len(rows):
                batch = rows[start : start + self._batch_size(rows)].to(device)
                read, following = batch[:, :-1], batch[:, 1:]
                logits = self._logits(read).float()
                of_tokens = F.cross_entropy(
                    logits.flatten(0, 1), following.flatten(), reduction="none"
                )
                losses.append(of_tokens.view(following.shape).cpu())
                start += len(batch)
        return torch.cat(losses)

    def _batch_size(self, rows: Tensor) -> int:
        if self._n_logits is None:
            return 1
        return max(1, _MOST_LOGITS // (self._n_logits * rows.shape[1]))

    def _logits(self, ids: Tensor) -> Tensor:
        output: Any = self._forward(self._model, ids)
        logits = getattr(output, "logits", output)
        if isinstance(logits, Mapping):
            logits = logits.get("logits")
        if isinstance(logits, tuple | list) and logits:
            logits = logits[0]
        is_logits = isinstance(logits, Tensor) and logits.ndim == 3
        if not is_logits or logits.shape[:2] != ids.shape:
            came = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
            raise CaptureError(
                f"the model must return logits [row, position, vocabulary] for ids "
                f"{tuple(ids.shape)}; it returned {came}. Pass forward=lambda model, input_ids: "
                "... that returns them"
            )
        self._n_logits = logits.shape[2]
        return logits

    @contextlib.contextmanager
    def _changing(self, changes: Mapping[int, _Change]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for block, change in changes.items():
                outputs = self._outputs[block]
                module = self._model.get_submodule(outputs.module)
                hook = _Hook(outputs, change)
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def _summed(self, found: Mapping[str, Tensor]) -> Losses:
        is_copied = copied_tokens(self._rows["repeated"])[:, 1:]
        parts = {
            "later_copies": (found["repeated"], is_copied),
            "first_copies": (found["repeated"], ~is_copied),
        }
        if "text" in found:
            parts["text"] = (found["text"], torch.ones_like(found["text"], dtype=torch.bool))

        sums, counts = {}, {}
        for kind, (losses, counted) in parts.items():
            sums[kind] = torch.where(counted, losses, 0.0).double().sum(1).numpy()
            counts[kind] = counted.sum(1).numpy()
        return Losses(sums, counts)


class _Sum:
    """Sum of the heads' outputs over rows and positions; changes nothing."""

    def __init__(self) -> None:
        self.values: Tensor | None = None
        self.count = 0

    def add(self, side_by_side: Tensor) -> Tensor:
        """Add [..., head * d_head] to the sum, and return it as it is."""
        flat = side_by_side.detach().flatten(0, -2)
        # float32 on the device, because not every device has float64
        added = flat.float().sum(0).cpu().double()
        self.values = added if self.values is None else self.values + added
        self.count += len(flat)
        return side_by_side


class _Hook:
    """Applies a change to the first argument of a module."""

    def __init__(self, outputs: HeadOutputs, change: _Change) -> None:
        self._outputs = outputs
        self._change = change

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (self._changed(args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: self._changed(kwargs[name])}

    def _changed(self, side_by_side: Any) -> Tensor:
        width = self._outputs.width
        if not isinstance(side_by_side, Tensor) or side_by_side.shape[-1] != width:
            came = getattr(side_by_side, "shape", type(side_by_side).__name__)
            raise UnsupportedModelError(
                f"{self._outputs.module} must take the {self._outputs.n_heads} "
                f"heads of block {self._outputs.block} concatenated, {width} "
                f"values; it got {came}"
            )
        return self._change(side_by_side)
