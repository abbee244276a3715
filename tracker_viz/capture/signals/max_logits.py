"""Keep the largest attention logit of every head, before its softmax: the number that grows where
training is about to become unstable (Dehghani et al. 2023, arXiv:2302.05442, section 3.2; Kimi K2,
arXiv:2507.20534, section 2.1, clips by it).

``AttentionWatch`` finds it on the way, see ``attention.max_logits``.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from tracker_viz.capture.signals.signal import Signal, SignalArray


class MaxLogits(Signal):
    """Gives ``blocks.<i>.attn.max_logit``, float32 (probe, head), NaN where it is not known."""

    def __init__(self) -> None:
        self._by_block: dict[int, Tensor] = {}

    def saw_max_logits(self, block: int, max_logits: Tensor) -> None:
        """Keep those of one block."""
        self._by_block[block] = max_logits

    def arrays(self) -> Iterable[SignalArray]:
        """Return one array for each block that attends."""
        for block, max_logits in sorted(self._by_block.items()):
            yield SignalArray(f"blocks.{block}.attn.max_logit", max_logits, ("probe", "head"))
