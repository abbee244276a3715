"""Measure what heads write: how much each one raises the logit of the token that comes next, and
whether it copies.

An induction head does both halves of its definition (Olsson et al. 2022): it looks back to what
followed last time, which attention shows, and it raises the logit of that token, which is measured
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tracker_viz.capture.attention.calls import first_output
from tracker_viz.capture.discover.model_info import ModelStructure
from tracker_viz.capture.probe import Probe
from tracker_viz.capture.signals.attribution import (
    FrozenNorm,
    candidate_attributions,
    frozen_norm,
    head_attributions,
)
from tracker_viz.capture.signals.signal import Signal, SignalArray
from tracker_viz.capture.signals.whole import is_of_probe, whole_projections
from tracker_viz.capture.weights.matrices import Projection, read

PREFIX = "scores.write."
# Positions at which the words are kept that a head raises most, and how many words.
MAX_POSITIONS, N_RAISED = 12, 3
# Multiplications of one capture up to which it is more than one position.
_MOST_ON_ACCELERATOR, _MOST_ON_CPU = 2e12, 50e9
# How far a block's output may lie from the sum of what its parts give, relative to what heads give.
_TOLERANCE = 0.02
_CHECKED_POSITIONS = 8


class HeadWrites(Signal):
    """Gives ``scores.write.<name>``, float32 [block, head], over the rows that are drawn:

    ``right_repeated``, ``right_text``: by how much the head raises the logit of the right next
    token over the mean of all tokens, with the final norm's scale frozen: of repeats among later
    copies, of text everywhere. In logits, of any sign.

    ``copying``: share, 0..1, of the positions in later copies at which the head raises the right
    next token most of all tokens of the row; by chance 1 / period.

    NaN for heads that are not there, and in blocks that change what heads give before they add it.

    Also, for the last positions of the first text row, at most ``MAX_POSITIONS`` of them: ids of
    the tokens that each head raises most, ``write.top`` [block, head, position, rank], by how much
    over the mean of all tokens, ``write.top_logit``, and ids of the tokens that are read there and
    come next, ``write.token`` and ``write.right`` [position].
    """

    reads_final_norm = True

    def __init__(self, probe: Probe, structure: ModelStructure) -> None:
        self._rows = [(row, at) for at, row in enumerate(probe.rows) if not row.hidden]
        self._ids = probe.input_ids
        self._structure = structure
        self._parameters: dict[str, Tensor] = {}
        # block -> what enters and what leaves its output projection, of the drawn rows
        self._outputs: dict[int, tuple[Tensor, Tensor]] = {}
        # block -> whether its output is the sum of its input, its heads and another part
        self._is_sum: dict[int, bool] = {}
        self._parts: list[Tensor] = []
        self._norm: tuple[nn.Module, Tensor] | None = None
        self._scores: dict[str, Tensor] = {}
        # block -> what each head raises most: [id or logit, head, position, rank]
        self._raised: dict[int, Tensor] = {}
        self._read_at = range(0)
        self._why = (
            "what heads write: the pass was not seen to end in a final norm and a projection to "
            "the vocabulary"
        )

    def hooks(self, model: nn.Module) -> Iterable[RemovableHandle]:
        """Follow the output projections, and the parts of which blocks are a sum."""
        self._parameters = dict(model.named_parameters())
        for projection in self._projections().values():
            module = model.get_submodule(projection.parameters[0].rpartition(".")[0])
            yield module.register_forward_hook(self._leaving_heads(projection.block))
        for block in self._projections():
            module = model.get_submodule(self._structure.blocks[block])
            for part in module.children():
                yield part.register_forward_hook(self._leaving_part)
            yield module.register_forward_hook(self._leaving_block(block))

    def saw_final_norm(self, norm: nn.Module, entering: Tensor, first_row: int) -> None:
        """Keep the norm with its input."""
        if len(entering) == len(self._ids):
            self._norm = norm, entering[self._drawn]

    def saw_unembedding(
        self, entering: Tensor, weight: Tensor, bias: Tensor | None, first_row: int
    ) -> None:
        """Score every head."""
        if self._norm is None:
            return
        self._why = self._obstacle()
        if self._why:
            return
        frozen = frozen_norm(self._norm[0], self._norm[1], entering[self._drawn])
        if frozen is None:
            self._why = "what heads write: the final norm is neither a LayerNorm nor an RMSNorm"
            return
        shape = (len(self._structure.n_heads), max(self._structure.n_heads))
        self._read_at = self._positions(weight)
        for block, is_sum in self._is_sum.items():
            if not is_sum:
                continue
            w_o = read(self._parameters, self._projections()[block])
            if self._read_at:
                self._raised[block] = self._most_raised(block, w_o, frozen, weight)
            for name, values in self._of_block(block, w_o, frozen, weight).items():
                if name not in self._scores:
                    self._scores[name] = values.new_full(shape, torch.nan)
                self._scores[name][block, : len(values)] = values

    def arrays(self) -> Iterable[SignalArray]:
        """Return the scores of those rows that the probe has."""
        for name, values in self._scores.items():
            yield SignalArray(f"{PREFIX}{name}", values, ("block", "head"))
        if not self._raised:
            return
        some = next(iter(self._raised.values()))
        shape = (len(some), len(self._structure.n_heads), max(self._structure.n_heads))
        raised = some.new_full((*shape, *some.shape[2:]), torch.nan)
        for block, values in self._raised.items():
            raised[:, block, : values.shape[1]] = values
        axes = ("block", "head", "position", "rank")
        yield SignalArray("write.top", raised[0], axes, is_tokens=True)
        yield SignalArray("write.top_logit", raised[1], axes)
        ids = self._ids[self._text_row].float()
        first, last = self._read_at[0], self._read_at[-1] + 1
        yield SignalArray("write.token", ids[first:last], ("position",), is_tokens=True)
        yield SignalArray("write.right", ids[first + 1 : last + 1], ("position",), is_tokens=True)

    def missing(self) -> str:
        """Return why no head was scored."""
        return self._why

    def _obstacle(self) -> str:
        """Return why no block can be scored; empty where one can."""
        if not self._outputs:
            return (
                "what heads write: no block has an output projection that is one matrix, whole on "
                "this process"
            )
        if not any(self._is_sum.values()):
            return (
                "what heads write: no block's output is the sum of its input, what its heads give "
                "and one other part"
            )
        return ""

    @property
    def _text_row(self) -> int:
        """Index of the first row of text among all rows; -1: there is none."""
        return next((at for row, at in self._rows if row.kind == "text"), -1)

    def _positions(self, weight: Tensor) -> range:
        """Return the positions at which words are read: as many as their price allows."""
        if self._text_row < 0:
            return range(0)
        per_position = sum(self._structure.n_heads) * weight.numel()
        most = _MOST_ON_CPU if weight.device.type == "cpu" else _MOST_ON_ACCELERATOR
        n_positions = max(1, min(MAX_POSITIONS, int(most / per_position)))
        last = self._ids.shape[1] - 1
        return range(max(0, last - n_positions), last)

    def _most_raised(self, block: int, w_o: Tensor, frozen: FrozenNorm, weight: Tensor) -> Tensor:
        """Return ids of the tokens that each head raises most, and by how much: float32 [id or
        logit, head, position, rank]."""
        place = self._drawn.index(self._text_row)
        positions = list(self._read_at)
        n_heads = self._structure.n_heads[block]
        heads = self._outputs[block][0][place, positions].float().unflatten(-1, (n_heads, -1))
        written = torch.einsum("phc,dhc->hpd", heads, w_o.unflatten(1, (n_heads, -1)))
        # A norm that takes the mean off does the same to what enters it and to directions.
        added = (frozen.turned_input(written) / frozen.scales[place, positions][:, None]).to(weight)
        logits = (added @ weight.T).float()
        logits -= logits.mean(-1, keepdim=True)
        top = logits.topk(min(N_RAISED, logits.shape[-1]), dim=-1)
        return torch.stack([top.indices.float(), top.values])

    @property
    def _drawn(self) -> list[int]:
        return [at for _, at in self._rows]

    def _projections(self) -> dict[int, Projection]:
        """Return block -> its output projection, where that is one parameter, whole on this
        process, and splits evenly by head."""
        found = {}
        whole = whole_projections(self._structure, self._parameters, "attn.w_o")
        for block, projection in whole.items():
            n_heads = self._structure.n_heads[block]
            if n_heads > 0 and projection.shape[1] % n_heads == 0:
                found[block] = projection
        return found

    def _leaving_heads(self, block: int) -> Callable[..., None]:
        def leave(_module: nn.Module, inputs: Any, output: Any) -> None:
            entering = inputs[0] if inputs else None
            if self._is_whole(entering) and self._is_whole(output):
                self._outputs[block] = entering[self._drawn], output[self._drawn]

        return leave

    def _leaving_part(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        leaving = first_output(output)
        if self._is_whole(leaving):
            self._parts.append(leaving[:1, :_CHECKED_POSITIONS].float())

    def _leaving_block(self, block: int) -> Callable[..., None]:
        def leave(_module: nn.Module, inputs: Any, output: Any) -> None:
            leaving = first_output(output)
            entering = inputs[0] if inputs else None
            if block in self._outputs and self._is_whole(entering) and self._is_whole(leaving):
                self._is_sum[block] = self._adds_up(entering, self._outputs[block][1], leaving)
            self._parts = []

        return leave

    def _adds_up(self, entering: Tensor, written: Tensor, leaving: Tensor) -> bool:
        """Return whether what leaves a block is what enters it, what its heads have written, and
        one of the parts that were seen inside; looked at in a few positions."""
        few = (slice(0, 1), slice(0, _CHECKED_POSITIONS))
        of_heads = written[few].float()
        rest = leaving[few].float() - entering[few].float() - of_heads
        # The stream may be far larger than what heads add, and rounds as it is large.
        rounding = 4 * torch.finfo(leaving.dtype).eps * leaving[few].abs().max().float()
        most = _TOLERANCE * of_heads.abs().max() + rounding
        alike = [part for part in self._parts if part.shape == rest.shape]
        return any(bool((rest - part).abs().max() <= most) for part in alike)

    def _is_whole(self, tensor: Any) -> TypeGuard[Tensor]:
        return is_of_probe(tensor, self._ids)

    def _of_block(
        self, block: int, w_o: Tensor, frozen: FrozenNorm, weight: Tensor
    ) -> dict[str, Tensor]:
        """Return score -> float32 [head]."""
        n_heads = self._structure.n_heads[block]
        mean = weight.mean(0, dtype=torch.float32)
        values: dict[str, list[Tensor]] = {}
        for place, (row, at) in enumerate(self._rows):
            ids = self._ids[at].to(weight.device)
            outputs = self._outputs[block][0][place]
            first = 0
            if row.kind == "repeated":
                first = int(row.start or 0) + int(row.period or 0)
            read_at = torch.arange(first, len(ids) - 1, device=weight.device)
            if not len(read_at):
                continue
            right = ids[read_at + 1]
            directions = frozen.turned(weight[right].float() - mean)
            directions = directions / frozen.scales[place, read_at][:, None]
            added = head_attributions(outputs[read_at][None], w_o, directions[None], n_heads)[0]
            values.setdefault(f"right_{row.kind}", []).append(added.mean(0))
            if row.kind == "repeated":
                candidates, place_of = torch.unique(ids, return_inverse=True)
                turned = frozen.turned(weight[candidates].float())
                each = candidate_attributions(outputs[read_at], w_o, turned, n_heads)
                is_right = each.argmax(-1) == place_of[read_at + 1][:, None]
                values.setdefault("copying", []).append(is_right.float().mean(0))
        return {name: torch.stack(rows).mean(0) for name, rows in values.items()}
