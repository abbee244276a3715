"""Measure the loss of every token of the probe, from the logits that the model returns: how well it
copies shows beside the heads that make it copy.

Logits are the largest product of a pass, so they are formed for few rows: those that are drawn, and
hidden ones as far as ``MOST_LOGITS`` goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_viz.capture.probe import Probe
from tracker_viz.capture.signals.signal import Signal, SignalArray
from tracker_viz.metrics import PROBE_LOSS, PROBE_LOSS_AXES

# Logits, [row, position, vocabulary], of the rows that are measured: 64 MiB as float32.
MOST_LOGITS = 1 << 24
# At a time in float32, for the softmax over the vocabulary: 16 MiB.
_AT_ONCE = 1 << 22


class ProbeLoss(Signal):
    """Gives ``probe.loss``, float32 (probe, token), in nats: the loss of predicting each token from
    those before it; NaN at the first token, and in rows that were not measured.

    Args:
        vocabulary: number of tokens where logits are formed for this signal alone; None where the
            model forms them for all rows anyway.
    """

    def __init__(self, probe: Probe, vocabulary: int | None) -> None:
        self._ids = probe.input_ids
        self.logit_rows = rows_within(probe, vocabulary, MOST_LOGITS)
        self._losses: Tensor | None = None

    def saw_logits(self, logits: Mapping[int, Tensor]) -> None:
        """Measure the rows that were asked for."""
        losses = torch.full(self._ids.shape, torch.nan, device="cpu")
        for row in self.logit_rows:
            losses[row, 1:] = _token_losses(logits[row], self._ids[row]).cpu()
        self._losses = losses

    def arrays(self) -> Iterable[SignalArray]:
        """Return the losses, where the model returned logits."""
        if self._losses is not None:
            yield SignalArray(PROBE_LOSS, self._losses, PROBE_LOSS_AXES)


def rows_within(probe: Probe, vocabulary: int | None, most_logits: int) -> list[int]:
    """Return numbers of rows whose logits are at most so many: of those that are drawn, then of
    hidden ones, of each kind in turn."""
    per_row = probe.length * (vocabulary or int(probe.input_ids.max()) + 1)
    most = most_logits // per_row
    if most < probe.n_drawn:
        return list(range(most))
    return probe.rows_with_hidden(most - probe.n_drawn)


def _token_losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the loss of every token but the first: float32 [position - 1].

    Args:
        logits: [position, vocabulary].
        ids: int64 [position].
    """
    ids = ids.to(logits.device)
    at_once = max(1, _AT_ONCE // logits.shape[1])
    losses = []
    for start in range(0, len(ids) - 1, at_once):
        positions = slice(start, min(start + at_once, len(ids) - 1))
        predicted = logits[positions].float()
        following = ids[positions.start + 1 : positions.stop + 1]
        losses.append(F.cross_entropy(predicted, following, reduction="none"))
    return torch.cat(losses)
