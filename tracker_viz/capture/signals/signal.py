"""The interface of a signal: what it may look at during the probe's pass, and what it gives.

``ProbePass`` calls the methods in this order: ``saw_block`` for every block, ``saw_unembedding``,
then, when the pass has ended, ``saw_attention``, ``saw_max_logits`` and ``saw_logits``. A model
that takes the probe's rows one after the other runs through all blocks for each part of the rows,
so a signal must place what it is given by ``first_row``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, slots=True)
class SignalArray:
    """One array of a capture, still on its device.

    Attributes:
        name: as it is stored.
        values: float32 or float16; small.
        axes: names of its axes.
        is_tokens: the values are ids of tokens, float32. Their texts are stored as the labels
            ``name``, in the order of the flattened array.
    """

    name: str
    values: Tensor
    axes: tuple[str, ...]
    is_tokens: bool = False


class Signal:
    """One thing that is measured during one pass of the probe. A signal overrides the methods of
    what it looks at; a new one is made for every pass.

    Every method runs inside ``isolated``, so without gradients. It must not change what it is
    given, and should keep little of it: a stream of all blocks does not fit beside a model.
    """

    # Rows of the probe whose logits it reads: only these are computed.
    logit_rows: Sequence[int] = ()
    # Whether it overrides ``saw_final_norm``.
    reads_final_norm = False

    def hooks(self, model: nn.Module) -> Iterable[RemovableHandle]:
        """Look at other modules, too: register hooks for the pass, which are removed after it."""
        return ()

    def saw_block(self, block: int, stream: Tensor, first_row: int) -> None:
        """Take the residual stream behind a block: [row, position, d_model], in the model's dtype.

        Args:
            first_row: number, in the probe, of the first row of ``stream``.
        """

    def saw_final_norm(self, norm: nn.Module, entering: Tensor, first_row: int) -> None:
        """Take the module whose output is what enters the projection to the vocabulary, and its
        input: [row, position, d_model]. Not called where there is no such module."""

    def saw_unembedding(
        self, entering: Tensor, weight: Tensor, bias: Tensor | None, first_row: int
    ) -> None:
        """Take what enters the projection to the vocabulary, and that projection.

        Not called where the model does not call ``F.linear`` with as many outputs as its embedding
        has entries.

        Args:
            entering: [row, position, d_model], behind the final norm.
            weight: [vocabulary, d_model], whole also where it is sharded at rest.
            bias: [vocabulary], or None.
        """

    def saw_attention(self, block: int, pattern: Tensor) -> None:
        """Take the attention of all heads of a block: float16 [probe, head, query, key]."""

    def saw_max_logits(self, block: int, max_logits: Tensor) -> None:
        """Take the largest attention logit of every head of a block, before its softmax: float32
        [probe, head], NaN where it is not known."""

    def saw_logits(self, logits: Mapping[int, Tensor]) -> None:
        """Take what the model returned: row of ``logit_rows`` -> [position, vocabulary], with all
        that the model does to them (scale, softcap). Not called where it returns no logits."""

    def arrays(self) -> Iterable[SignalArray]:
        """Return what was measured, when the pass has ended; nothing where it could not be."""
        return ()

    def missing(self) -> str:
        """Return why nothing was measured, in words, when the pass has ended; empty if it was."""
        return ""
