"""Make held-out rows of tokens to measure losses on, and find which of their tokens can be
copied."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tracker_viz.capture.probe import make_probe
from tracker_viz.errors import ProbeError


@dataclass(frozen=True, slots=True)
class HeldOutRows:
    """Rows that the model was not trained on, on the CPU.

    Attributes:
        repeated: random tokens that repeat, int64 [row, token].
        text: int64 [row, token]; None where there is none.
    """

    repeated: Tensor
    text: Tensor | None = None

    def __repr__(self) -> str:
        shapes = f"repeated {tuple(self.repeated.shape)}"
        if self.text is not None:
            shapes += f", text {tuple(self.text.shape)}"
        return f"HeldOutRows({shapes})"

    def __post_init__(self) -> None:
        for name in ("repeated", "text"):
            rows = getattr(self, name)
            if rows is None and name == "text":
                continue
            is_rows = isinstance(rows, Tensor) and rows.ndim == 2 and min(rows.shape) >= 2
            if not is_rows or rows.is_floating_point():
                came = f"{rows.dtype} {tuple(rows.shape)}" if isinstance(rows, Tensor) else rows
                raise ProbeError(
                    f"{name} rows are token ids [row, token], at least two rows of two tokens, "
                    f"because the spread is measured between rows; got {came}"
                )
        if not bool(copied_tokens(self.repeated).any(dim=1).all()):
            raise ProbeError(
                "every repeated row must hold tokens that can be copied: the "
                "same span at least twice; make them with repeated_rows()"
            )


def copied_tokens(rows: Tensor) -> Tensor:
    """Return which tokens followed the same token earlier in their row, so that looking back
    predicts them: bool [row, token]."""
    is_same = rows[:, :, None] == rows[:, None, :]
    is_same_pair = is_same[:, 1:, 1:] & is_same[:, :-1, :-1]
    copied = torch.zeros_like(rows, dtype=torch.bool)
    # tril(-1): of two equal pairs only the later one is a copy.
    copied[:, 1:] = is_same_pair.tril(-1).any(dim=2)
    return copied


def repeated_rows(
    vocab_size: int,
    length: int,
    *,
    n_rows: int,
    periods: tuple[int, int],
    bos_id: int | None = None,
    token_range: tuple[int, int] | None = None,
    seed: int,
) -> Tensor:
    """Return rows of repeated random tokens, int64 [row, length], each with a period and tokens of
    its own.

    Args:
        periods: shortest and longest period; rows cycle through all from one to the other.
        bos_id: first token of every row; None: no such token.
        token_range: random tokens are ``first <= id < last``; None: the whole vocabulary.

    Raises:
        ProbeError: the periods do not fit the length or the vocabulary.
    """
    first, last = periods
    rows = []
    for index in range(n_rows):
        period = first + index % (last - first + 1)
        # Seeds far above those of probes, so that no held-out row is also a probe row.
        drawn = make_probe(
            vocab_size,
            length=length,
            period=period,
            bos_id=bos_id,
            token_range=token_range,
            seed=10_000 + seed + index,
            score_rows=0,
        )
        rows.append(drawn.input_ids[0])
    return torch.stack(rows)
