"""Compute attention logits and probabilities from queries and keys, in float32. ``AttentionWatch``
calls these functions with the arguments of the calls it sees."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# A causal map is exactly 0 above its diagonal; models that mask with -10,000 come this close.
_CAUSAL_TOLERANCE = 1e-6


def looks_back_only(pattern: Tensor) -> bool:
    """Return whether no query gives weight to a later key. NaN passes: a model gone to NaN still
    shows where."""
    return not bool((pattern.detach().triu(1) > _CAUSAL_TOLERANCE).any())


def softmaxed(logits: Tensor) -> Tensor:
    """Return probabilities, float32 [..., query, key], of logits in which masked keys are -inf:
    rows sum to 1, or are 0 where every key is masked."""
    with torch.autocast(logits.device.type, enabled=False):
        # The softmax of a row that masks every key is NaN, where torch's kernels give 0.
        masked_rows = (logits == -math.inf).all(dim=-1, keepdim=True)
        return torch.softmax(logits, dim=-1).masked_fill(masked_rows, 0.0)


def attention_logits(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return the logits inside ``scaled_dot_product_attention``, whose softmax multiplies its
    values (Vaswani et al. 2017, equation 1).

    Args:
        query: [..., head, query, channel].
        key: [..., kv_head, key, channel].
        attn_mask: bool (True attends) or additive, broadcastable to the result.

    Returns:
        float32 [..., head, query, key]; -inf where a key is masked.
    """
    if enable_gqa:
        key = repeated(key, query.shape[-3])
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1])
    with torch.autocast(query.device.type, enabled=False):
        logits = torch.matmul(query.float() * scale, key.float().transpose(-2, -1))
        if is_causal:
            seen = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
            logits = logits.masked_fill(~seen, -math.inf)
        if attn_mask is not None:
            mask = attn_mask
            if hasattr(mask, "_materialize"):  # torch.nn.attention.bias.CausalBias
                mask = mask._materialize(logits.device)
            if mask.dtype == torch.bool:
                logits = logits.masked_fill(~mask, -math.inf)
            else:
                logits = logits + mask.float()
        return logits


def flex_logits(
    query: Tensor,
    key: Tensor,
    score_mod: Any,
    mask_mod: Any,
    scale: float,
    score_buffers: tuple[Any, ...],
    mask_buffers: tuple[Any, ...],
) -> Tensor:
    """Return the logits inside ``flex_attention``: float32 [batch, head, query, key], -inf where a
    key is masked.

    ``score_mod(score, batch, head, query, key)`` changes one logit, ``mask_mod(batch, head, query,
    key)`` says whether it counts.
    """
    # Lets a score_mod index a table by position under vmap, as torch's own flex_attention does.
    # Imported here: a model that calls flex_attention has loaded it already.
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    keys = repeated(key, query.shape[-3]).float()
    logits = torch.matmul(query.float() * scale, keys.transpose(-2, -1))
    places = [torch.arange(size, device=query.device) for size in logits.shape]
    with TransformGetItemToIndex():
        logits = _over_all_places(score_mod, 1, len(score_buffers))(logits, *places, *score_buffers)
        seen = _over_all_places(mask_mod, 0, len(mask_buffers))(*places, *mask_buffers)
    return logits.masked_fill(~seen, -math.inf)


def _over_all_places(function: Any, n_before: int, n_after: int) -> Any:
    """Vectorize a function of one (batch, head, query, key) over all of them.

    The ``n_before`` arguments before these have all four axes; the ``n_after`` buffers have none.
    """
    for axis in (3, 2, 1, 0):
        which = tuple(0 if axis == place else None for place in range(4))
        function = torch.vmap(function, in_dims=(0,) * n_before + which + (None,) * n_after)
    return function


def rows_sum_to_one(pattern: Tensor) -> bool:
    """Return whether rows sum to 1 within 1 %. NaN passes, as in ``looks_back_only``."""
    return not bool(((pattern.detach().float().sum(dim=-1) - 1).abs() > 1e-2).any())


def repeated(kv: Tensor, n_heads: int) -> Tensor:
    """Return keys or values repeated for every query head of their group."""
    n_kv_heads = kv.shape[-3]
    if n_kv_heads == n_heads:
        return kv
    return kv.repeat_interleave(n_heads // n_kv_heads, dim=-3)
