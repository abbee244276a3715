"""Work out what each head adds to the logits of tokens: direct logit attribution.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (the residual stream
is a sum, so logits are, too); Wang et al. 2022 (arXiv:2211.00593) for its use on heads. The final
norm is no sum; its scale is frozen at what it was in the pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

# How far the frozen norm may lie from the model's own, relative to its size: bfloat16 rounds by
# 0.4 %.
_TOLERANCE = 0.02
# Larger than any epsilon that norms add to a variance.
_LARGE = 1e3


@dataclass(frozen=True, slots=True)
class FrozenNorm:
    """A LayerNorm or RMSNorm whose scale does not follow its input any more, so that it is linear.

    Attributes:
        gain: float32 [d_model], of each channel.
        scales: float32 [row, position], what the input was divided by.
        is_centered: the mean over channels is subtracted first.
    """

    gain: Tensor
    scales: Tensor
    is_centered: bool

    def turned(self, directions: Tensor) -> Tensor:
        """Return the directions of the norm's input [..., d_model] whose products are those of
        directions of its output, but for the scale."""
        turned = directions * self.gain
        if self.is_centered:
            turned = turned - turned.mean(-1, keepdim=True)
        return turned

    def turned_input(self, written: Tensor) -> Tensor:
        """Return what the norm makes of a part of its input [..., d_model], but for the scale."""
        if self.is_centered:
            written = written - written.mean(-1, keepdim=True)
        return written * self.gain


def frozen_norm(norm: nn.Module, entering: Tensor, leaving: Tensor) -> FrozenNorm | None:
    """Return a final norm with its scale frozen, from what it did in a pass; None where it is
    neither a LayerNorm nor an RMSNorm in what it does.

    Args:
        entering, leaving: [row, position, d_model].
    """
    x, y = entering.float(), leaving.float()
    d_model = x.shape[-1]
    # Of mean 0, and of size 1 in every channel: both norms give back their own gain.
    signs = torch.ones(d_model, device=x.device)
    signs[1::2] = -1
    asked = torch.stack([signs, -signs, torch.ones_like(signs)])[None] * _LARGE
    plus, minus, flat = norm.forward(asked.to(entering.dtype))[0].float()
    gain, bias = (plus - minus) / 2 * signs, (plus + minus) / 2
    is_centered = bool((flat - bias).abs().max() < 0.1 * gain.abs().max())
    if is_centered:
        x = x - x.mean(-1, keepdim=True)
    shaped, given = x * gain, y - bias
    scales = shaped.square().sum(-1) / (shaped * given).sum(-1)
    again = shaped / scales[..., None]
    if not bool((again - given).abs().max() <= _TOLERANCE * given.abs().max()):
        return None
    return FrozenNorm(gain, scales, is_centered)


def head_attributions(outputs: Tensor, w_o: Tensor, directions: Tensor, n_heads: int) -> Tensor:
    """Return what each head adds along a direction at every position: float32 [row, position,
    head].

    Args:
        outputs: [row, position, head * channel], what heads give to the output projection.
        w_o: [d_model, head * channel], float32.
        directions: float32 [row, position, d_model].
    """
    # Once through the projection backward, instead of once forward for each head.
    facing = directions @ w_o
    return (facing * outputs.float()).unflatten(-1, (n_heads, -1)).sum(-1)


def candidate_attributions(
    outputs: Tensor, w_o: Tensor, candidates: Tensor, n_heads: int
) -> Tensor:
    """Return what each head adds along each of some directions: float32 [position, head,
    candidate].

    Args:
        outputs: [position, head * channel].
        candidates: float32 [candidate, d_model].
    """
    facing = (candidates @ w_o).unflatten(-1, (n_heads, -1))
    heads = outputs.float().unflatten(-1, (n_heads, -1))
    return torch.einsum("phd,chd->phc", heads, facing)
