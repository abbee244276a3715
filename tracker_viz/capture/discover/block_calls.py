"""Group the attention calls of a pass: by block, over the rows and the heads that were seen apart.

Used by ``blocks``, for the first pass and for every one after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tracker_viz.capture import distributed
from tracker_viz.capture.attention.calls import AttentionCall
from tracker_viz.capture.discover.block_names import Block
from tracker_viz.capture.discover.model_info import Site
from tracker_viz.capture.weights.matrices import Projection


def by_site(calls: Iterable[AttentionCall]) -> dict[Site, AttentionCall]:
    """Return site -> its call, over all rows of the probe where it was called for some at a
    time."""
    parts: dict[Site, list[AttentionCall]] = {}
    for call in calls:
        parts.setdefault(call.site, []).append(call)
    return {site: _all_rows(of_site) for site, of_site in parts.items()}


def _all_rows(parts: Sequence[AttentionCall]) -> AttentionCall:
    """Return the calls of one place, for some rows of the probe each, as one."""
    if len(parts) == 1:
        return parts[0]
    errors = [part.error for part in parts if part.error is not None]
    return replace(
        parts[0],
        pattern=torch.cat([part.pattern for part in parts]),
        max_logit=torch.cat([max_logit_of(part) for part in parts]),
        error=max(errors, default=None),
    )


def all_heads(calls: Sequence[AttentionCall], group: Any) -> list[AttentionCall]:
    """Return the calls with the heads of all processes of ``group`` (a collective)."""
    gathered = []
    for call in calls:
        pattern = distributed.gathered_heads(distributed.whole_tensor(call.pattern), group)
        n_times = pattern.shape[1] // call.pattern.shape[1]
        n_kv_heads = call.n_kv_heads and call.n_kv_heads * n_times
        max_logit = distributed.whole_tensor(max_logit_of(call))
        max_logit = distributed.gathered_heads(max_logit, group)
        gathered.append(replace(call, pattern=pattern, n_kv_heads=n_kv_heads, max_logit=max_logit))
    return gathered


def looking_back(calls: list[AttentionCall], rejected: list[str]) -> list[AttentionCall]:
    """Return the calls that look back only, where any does: an encoder beside a decoder, and the
    decoder's attention to it, look ahead. Name the others in ``rejected``."""
    attention = [call for call in calls if call.kind == "attention"]
    ahead = [call for call in attention if not _looks_back(call)]
    if len(ahead) == len(attention):
        return calls
    for call in ahead:
        rejected.append(f"attention that looks ahead, in {call.module or 'the model itself'}")
    return [call for call in calls if call not in ahead]


def calls_by_block(
    calls: Sequence[AttentionCall], blocks: Sequence[Block]
) -> tuple[list[list[AttentionCall]], list[AttentionCall]]:
    """Return the calls of every block, and those of none. A block that is run again is shown as it
    ran first."""
    per_block: list[list[AttentionCall]] = [[] for _ in blocks]
    elsewhere = []
    for call in calls:
        around = [index for index, block in enumerate(blocks) if _is_around(block, call)]
        if not around:
            elsewhere.append(call)
            continue
        inside = blocks[around[0]].first_inside(call.modules)
        if inside is None or call.entries[call.modules.index(inside)] == 1:
            per_block[around[0]].append(call)
    return [_each_once(block_calls) for block_calls in per_block], elsewhere


def n_kv_heads_of(
    calls: Sequence[AttentionCall], n_heads: int, projections: Sequence[Projection]
) -> int:
    """Count the key/value heads. Keys may be repeated before they reach the attention function: the
    weights then tell how many there are."""
    if not n_heads:
        return 0
    out = {projection.name: projection.shape[0] for projection in projections}
    entering = {projection.name: projection.shape[1] for projection in projections}
    if {"attn.w_q", "attn.w_k"} <= set(out):
        head_dim = out["attn.w_q"] // n_heads
        if out["attn.w_q"] == 2 * entering.get("attn.w_o", 0):
            head_dim //= 2  # the other half of the queries' rows are a gate (Qwen3-Next)
        if head_dim and out["attn.w_k"] % head_dim == 0 and out["attn.w_k"] // head_dim <= n_heads:
            return out["attn.w_k"] // head_dim
    return sum(call.n_kv_heads or call.pattern.shape[1] for call in calls)


def callers_within(block: str, calls: Sequence[AttentionCall]) -> list[str]:
    """Return the names, within a block, of the modules that made its attention calls."""
    inside = [call.module for call in calls if call.module.startswith(block)]
    return [module.removeprefix(block).strip(".") for module in inside]


def heads_of(calls: Sequence[AttentionCall]) -> Tensor:
    """Return the heads of all calls of a block, [probe, head, query, key]; an empty tensor where
    there is none."""
    if not calls:
        return torch.empty(0)
    if len(calls) == 1:
        return calls[0].pattern
    return torch.cat([call.pattern for call in calls], dim=1)


def max_logit_of(call: AttentionCall) -> Tensor:
    """Return the call's largest logits, float32 [probe, head]; NaN where they are not known."""
    if call.max_logit is not None:
        return call.max_logit
    return call.pattern.new_full(call.pattern.shape[:2], torch.nan, dtype=torch.float32)


def maps_of(calls: Sequence[Sequence[AttentionCall]]) -> dict[int, Tensor]:
    """Return block -> the heads of its calls, of the blocks that have any."""
    return {index: heads_of(of_block) for index, of_block in enumerate(calls) if of_block}


def stored(call: AttentionCall, dtype: torch.dtype) -> AttentionCall:
    """Return the call with its attention in ``dtype``; mixing maps have no bound to fit float16."""
    if call.kind == "mixing":
        return replace(call, pattern=call.pattern.float())
    return replace(call, pattern=call.pattern.to(dtype))


def _looks_back(call: AttentionCall) -> bool:
    # 1e-3 is above float16's rounding. NaN compares as False, so it passes.
    return not bool((call.pattern.triu(1) > 1e-3).any())


def _is_around(block: Block, call: AttentionCall) -> bool:
    return block.name == "" or block.first_inside(call.modules) is not None


def _each_once(calls: Sequence[AttentionCall]) -> list[AttentionCall]:
    """Leave out what shows the same map again: one attention applied to two halves of its
    values."""
    kept: list[AttentionCall] = []
    for call in calls:
        of_module = [other.pattern for other in kept if other.module == call.module]
        if not any(torch.equal(call.pattern, pattern) for pattern in of_module):
            kept.append(call)
    return kept
