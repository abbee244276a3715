"""Read what the model would say if it ended behind each block: the logit lens.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens". The residual stream behind a block
goes through the model's own final norm and projection to the vocabulary. Belrose et al. 2023
(arXiv:2303.08112) show its limits: early blocks may write in other directions than the last one
reads, so that words that seem absent are there all the same. What a model does to its logits after
that (a softcap, a scale) is left out.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_viz.capture.probe import Probe
from tracker_viz.capture.signals.signal import Signal, SignalArray

MAX_POSITIONS = 24
# How far what the model's own pass gave may lie from the same norm on the same stream, relative to
# its size: bfloat16 rounds by 0.4 %.
_TOLERANCE = 0.02
_AXES = ("block", "position")


class LogitLens(Signal):
    """Gives, for the last positions of the first text row that is drawn, at most ``MAX_POSITIONS``
    of them and each with a next token, float32 [block, position]:

    ``lens.top``: id of the most probable next token, ``lens.top_probability``: its probability;
    ``lens.right_probability``, ``lens.right_rank``: those of the token that does come next, rank 0
    being the most probable. NaN for blocks that were not seen. ``lens.token`` and ``lens.right``
    [position]: ids of the token there and of the next one.
    """

    reads_final_norm = True

    def __init__(self, probe: Probe) -> None:
        kinds = [row.kind for row in probe.rows if not row.hidden]
        self._row = kinds.index("text") if "text" in kinds else None
        first = max(0, probe.length - 1 - MAX_POSITIONS)
        self._positions = range(first, probe.length - 1)
        self._tokens = self._right = torch.empty(0, dtype=torch.int64, device="cpu")
        if self._row is not None:
            self._tokens = probe.input_ids[self._row, first:-1]
            self._right = probe.input_ids[self._row, first + 1 :]
        # block -> its stream at the positions, [position, d_model]
        self._streams: dict[int, Tensor] = {}
        self._norm: nn.Module | None = None
        self._normed: Tensor | None = None
        # block -> [measure, position]
        self._found: dict[int, Tensor] = {}
        self._why = "the logit lens: its pass was not seen to end in a projection to its vocabulary"

    def saw_block(self, block: int, stream: Tensor, first_row: int) -> None:
        """Keep the stream of the row at the positions."""
        kept = self._of_row(stream, first_row)
        if kept is not None:
            self._streams[block] = kept.clone()

    def saw_final_norm(self, norm: nn.Module, entering: Tensor, first_row: int) -> None:
        """Keep the norm if its input is the stream behind the last block."""
        kept = self._of_row(entering, first_row)
        if kept is None or not self._streams:
            return
        if torch.equal(kept, self._streams[max(self._streams)]):
            self._norm = norm

    def saw_unembedding(
        self, entering: Tensor, weight: Tensor, bias: Tensor | None, first_row: int
    ) -> None:
        """Project every kept stream as the model projects its last one."""
        self._normed = self._of_row(entering, first_row)
        if self._normed is None or not self._streams:
            return
        if self._norm is None:
            self._why = (
                "the logit lens: no module between the last block and the projection to the "
                "vocabulary takes the one's output and gives the other's input"
            )
            return
        if not self._is_their_own(self._normed):
            self._why = "the logit lens: the final norm does not give again what it gave the model"
            return
        self._why = ""
        for block, stream in self._streams.items():
            logits = F.linear(self._norm.forward(stream[None])[0], weight, bias).float()
            self._found[block] = _read(logits, self._right.to(logits.device))

    def arrays(self) -> Iterable[SignalArray]:
        """Return the arrays, of as many blocks as the last one that was seen."""
        if not self._found:
            return
        last = max(self._found)
        nothing = torch.full_like(self._found[last], float("nan"))
        found = torch.stack([self._found.get(block, nothing) for block in range(last + 1)], dim=1)
        names = ("top", "top_probability", "right_probability", "right_rank")
        for name, values in zip(names, found, strict=True):
            yield SignalArray(f"lens.{name}", values, _AXES, is_tokens=name == "top")
        for name, ids in (("token", self._tokens), ("right", self._right)):
            yield SignalArray(f"lens.{name}", ids.float(), ("position",), is_tokens=True)

    def missing(self) -> str:
        """Return why there is no lens; a probe without text is no fault of the model."""
        if self._row is None:
            return "the logit lens: the probe has no row of text"
        return self._why

    def _of_row(self, rows: Tensor, first_row: int) -> Tensor | None:
        """Return [position, channel] of the row that is read, or None where it is not among
        these."""
        if self._row is None or not first_row <= self._row < first_row + len(rows):
            return None
        return rows[self._row - first_row, list(self._positions)]

    def _is_their_own(self, normed: Tensor) -> bool:
        """Return whether the norm gives for the last stream what the model's own pass gave."""
        assert self._norm is not None, "checked by the caller"
        again = self._norm.forward(self._streams[max(self._streams)][None])[0]
        if again.shape != normed.shape:
            return False
        # NaN passes: a model that has diverged still has a lens, of NaN.
        largest = normed.abs().max()
        return not bool((again - normed).abs().max() > _TOLERANCE * largest)


def _read(logits: Tensor, right: Tensor) -> Tensor:
    """Return float32 [measure, position] of logits [position, vocabulary]: the id of the most
    probable token, its probability, that of the right one, and its rank."""
    log_probabilities = logits.log_softmax(-1)
    top_probability, top = log_probabilities.max(-1)
    right_logit = logits.gather(-1, right[:, None])
    right_probability = log_probabilities.gather(-1, right[:, None])[:, 0].exp()
    rank = (logits > right_logit).sum(-1)
    measures = [top.float(), top_probability.exp(), right_probability, rank.float()]
    return torch.stack(measures)
