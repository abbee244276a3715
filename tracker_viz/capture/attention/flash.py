"""Compute what the kernels of the flash_attn package compute, in plain torch, from the arguments of
a call. ``AttentionWatch`` calls this instead of the kernel, which takes no float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracker_viz.capture.attention.probabilities import repeated


@dataclass(frozen=True, slots=True)
class FlashCall:
    """One call of ``_flash_attn_forward``.

    Attributes:
        query, key, value: [batch, position, head, channel], of equal length.
        scale: factor of the logits.
        window: how many keys before and after its own each query sees; -1: all.
        softcap: bound on the logits by tanh (Gemma 2, arXiv:2408.00118); 0: none.
        alibi_slopes: [head] or [batch, head], bias a position (ALiBi, arXiv:2108.12409).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    window: tuple[int, int]
    softcap: float
    alibi_slopes: Tensor | None

    def logits(self) -> Tensor:
        """Return the logits: float32 [batch, head, query, key], -inf where a key is masked."""
        query, key = self.query.transpose(1, 2).float(), self.key.transpose(1, 2).float()
        per_head = repeated(key, query.shape[1])
        logits = torch.matmul(query * self.scale, per_head.transpose(-2, -1))
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        place = torch.arange(logits.shape[-1], device=logits.device)
        ahead = place[None, :] - place[:, None]
        if self.alibi_slopes is not None:
            slopes = self.alibi_slopes.float().reshape(-1, logits.shape[1], 1, 1)
            logits = logits - slopes * ahead.abs()
        before, after = self.window
        hidden = (ahead > after) & (after >= 0) | (ahead < -before) & (before >= 0)
        return logits.masked_fill(hidden, -math.inf)

    def outputs(self, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what the kernel returns. The tensors that only a backward pass needs are empty."""
        per_head = repeated(self.value.transpose(1, 2), self.query.shape[2]).float()
        mixed = torch.matmul(probabilities, per_head).transpose(1, 2)
        nothing = self.query.new_empty(0, dtype=torch.float32)
        return mixed.to(self.query.dtype), nothing, nothing.clone(), nothing.clone()


def flash_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    *_rest: Any,
    **_options: Any,
) -> FlashCall:
    """Return a call, from the kernel's own arguments. Dropout is left out."""
    window = window_size_left, 0 if causal else window_size_right
    return FlashCall(query, key, value, softmax_scale, window, softcap, alibi_slopes)
