"""Compare a probe, and what it is to be made of, with the model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tracker_viz.capture.probe.rows import Probe
from tracker_viz.errors import ProbeError

DEFAULT_LENGTH = 128


def check_probe(probe: Probe, *, vocab_size: int | None, context_length: int | None) -> None:
    """Compare a probe with what is known of a model (None: not known).

    Raises:
        ProbeError: an id outside the vocabulary, or more tokens than the context holds.
    """
    if context_length is not None and probe.length > context_length:
        raise ProbeError(
            f"the probe has {probe.length} tokens a row and the model's context holds "
            f"{context_length}; cut the probe"
        )
    if vocab_size is not None:
        check_ids(probe.input_ids, vocab_size)


def check_ids(input_ids: Tensor, vocab_size: int) -> None:
    """Check that all ids are in the vocabulary.

    Raises:
        ProbeError: one is not.
    """
    low, high = int(input_ids.min()), int(input_ids.max())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise ProbeError(
            f"token ids must lie in 0..{vocab_size - 1}, the model's vocabulary; the probe holds "
            f"{wrong}"
        )


def check_score_rows(score_rows: Any) -> None:
    """Check that the number of hidden rows is a whole number, 0 or more.

    Raises:
        ProbeError: it is not.
    """
    if isinstance(score_rows, bool) or not isinstance(score_rows, int) or score_rows < 0:
        raise ProbeError(
            f"score_rows is the number of hidden rows of each kind, 0 for none; got {score_rows!r}"
        )


def chosen_length(length: int | None, context_length: int | None, text: Tensor | None) -> int:
    """Return the tokens of a row: ``length``, or as many as context and text allow, at most 128.

    Raises:
        ProbeError: the model's context or the text is shorter, or a row cannot hold a repetition.
    """
    if length is None:
        limits = [DEFAULT_LENGTH]
        if context_length is not None:
            limits.append(context_length)
        if text is not None:
            limits.append(len(text))
        length = min(limits)
    elif context_length is not None and length > context_length:
        raise ProbeError(
            f"the probe would have {length} tokens a row and the model's context holds "
            f"{context_length}; cut the probe"
        )
    elif text is not None and len(text) < length:
        raise ProbeError(
            f"text_ids has {len(text)} tokens for a probe of {length}; give more text, or "
            f"length={len(text)}"
        )
    if length < 4:
        raise ProbeError(
            f"a probe needs at least 4 tokens a row to hold a repetition; got {length}"
        )
    return length
