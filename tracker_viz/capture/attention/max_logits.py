"""Find the largest logit of every head: the largest number that enters its softmax.

Where kernels compute logits inside, these are worked out from queries and keys. The result counts
only if its softmax gives the probabilities that were seen: a scale, a bias or a cap that is not
known here would otherwise give a wrong number. ``AttentionWatch`` calls these functions.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_viz.capture.attention.kernels.asking import Answer
from tracker_viz.capture.attention.kernels.axes import possible_axes
from tracker_viz.capture.attention.kernels.known_kernels import KEYS, QUERIES
from tracker_viz.capture.attention.probabilities import repeated

_SCALES = ("softmax_scale", "scale", "sm_scale", "softmax_scale_", "scaling")
_SOFTCAPS = ("softcap", "logits_soft_cap", "softcap_")
# Largest difference between probabilities and the softmax of logits that are taken for theirs:
# rounding of kernels in half precision.
_TOLERANCE = 1e-2


def largest(logits: Tensor) -> Tensor:
    """Return the largest logit over queries and keys: float32 [...] of [..., query, key].

    NaN where one is NaN; masked logits are -inf or far below the others.
    """
    return logits.detach().amax((-2, -1)).float()


def largest_of_softmax(logits: Any, probabilities: Tensor) -> Tensor | None:
    """Return the largest logit that a softmax was given: float32 [...].

    None where every row's largest is 0 and others are not: the model has subtracted it before.

    Args:
        logits: [..., query, key], what the model gave to ``softmax``; maybe with a column more, an
            attention sink, which is no logit of a token.
        probabilities: [..., query, key], without that column.
    """
    if not isinstance(logits, Tensor):
        return None
    if not bool(logits.detach().amax(-1).any()):
        of_tokens = logits.detach()[..., : probabilities.shape[-1]]
        if bool(((of_tokens != 0) & (probabilities > 0)).any()):
            return None
    return largest(logits[..., : probabilities.shape[-1]])


def largest_of_kernel(
    arguments: Mapping[str, Any], answer: Answer, n_rows: int, length: int
) -> Tensor | None:
    """Return the largest logit inside a kernel that was asked: float32 [row, head]; None where its
    arguments do not tell.

    Args:
        arguments: of its call, by name.
        answer: its matrix.
    """
    by_name = {name.lower(): value for name, value in arguments.items()}
    query, key = _first_tensor(by_name, QUERIES), _first_tensor(by_name, KEYS)
    if query is None or key is None or answer.channels:
        return None
    scale = _first_number(by_name, _SCALES) or 1 / math.sqrt(query.shape[-1])
    softcap = _first_number(by_name, _SOFTCAPS)
    n_heads = answer.matrix.shape[1]
    for axes in possible_axes(query.shape, n_rows, length):
        if not axes.fit(key.shape):
            continue
        queries = axes.canonical(query).transpose(1, 2).float()
        keys = axes.canonical(key).transpose(1, 2).float()
        if queries.shape[1] != n_heads or n_heads % keys.shape[1]:
            continue
        logits = torch.matmul(queries * scale, repeated(keys, n_heads).transpose(-2, -1))
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        found = _checked(logits, answer.matrix)
        if found is not None:
            return found
    return None


_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


def largest_of_multi_head(args: Any, kwargs: Any, probabilities: Tensor) -> Tensor | None:
    """Return the largest logit inside ``F.multi_head_attention_forward``: float32 [row, head]; None
    for keys that its projections do not make (``bias_k``, ``add_zero_attn``, ``static_k``).

    Args:
        args, kwargs: of the call.
        probabilities: [row, head, query, key], or without rows.
    """
    call = _MULTI_HEAD.bind(*args, **kwargs)
    call.apply_defaults()
    given = call.arguments
    if given["bias_k"] is not None or given["add_zero_attn"] or given["static_k"] is not None:
        return None
    weights = [given["q_proj_weight"], given["k_proj_weight"]]
    if not given["use_separate_proj_weight"]:
        weights = given["in_proj_weight"].chunk(3)[:2]
    biases = [None, None]
    if given["in_proj_bias"] is not None:
        biases = given["in_proj_bias"].chunk(3)[:2]
    n_heads = given["num_heads"]
    heads = []
    for name, weight, bias in zip(("query", "key"), weights, biases, strict=True):
        made = F.linear(given[name], weight, bias).unflatten(-1, (n_heads, -1)).float()
        heads.append(made.transpose(0, -2))  # [head, (row,) position, channel]
    queries, keys = heads
    logits = torch.matmul(queries / math.sqrt(queries.shape[-1]), keys.transpose(-2, -1))
    if logits.ndim == 4:
        logits = logits.transpose(0, 1)
    mask = given["attn_mask"]
    if mask is not None and mask.is_floating_point():
        # [query, key], or [row * head, query, key]
        logits = logits + (mask if mask.ndim == 2 else mask.unflatten(0, (-1, n_heads))).float()
    return _checked(logits, probabilities)


def _checked(logits: Tensor, probabilities: Tensor) -> Tensor | None:
    """Return the largest of the logits that count, or None where they do not make these
    probabilities."""
    if logits.shape != probabilities.shape:
        return None
    # NaN counts: a model gone to NaN still shows where.
    logits = logits.masked_fill(probabilities == 0, -math.inf)
    difference = torch.softmax(logits, dim=-1) - probabilities.float()
    if bool((difference.abs() > _TOLERANCE).any()):
        return None
    return largest(logits)


def _first_tensor(arguments: Mapping[str, Any], names: tuple[str, ...]) -> Tensor | None:
    found = (arguments[name] for name in names if isinstance(arguments.get(name), Tensor))
    return next(found, None)


def _first_number(arguments: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    found = (arguments[name] for name in names if isinstance(arguments.get(name), int | float))
    return next(found, None)
