"""Take composition from the matrices that a capture holds, where it holds them whole. Called by
``scorer``; for larger models the camera measures on the model's device
(``capture.signals.composition``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.circuits.composition import (
    KINDS,
    MOST_HEADS,
    PREFIX,
    HeadMatrices,
    compositions,
    split_heads,
    thinned,
)
from tracker_viz.types import Capture

_MATRICES = ("w_q", "w_k", "w_v", "w_o")
AXES = ("block", "head", "earlier_block", "earlier_head")


def composition_scores(capture: Capture, n_blocks: int) -> dict[str, NDArray[Any]]:
    """Return ``scores.composition.<kind>`` float16 [block, head, earlier block, earlier head]; none
    where the capture has them already, holds no two blocks' matrices whole, or where the model has
    more than ``MOST_HEADS`` heads."""
    if any(f"{PREFIX}{kind}" in capture.arrays for kind in KINDS):
        return {}
    blocks: dict[int, HeadMatrices] = {}
    for block in range(n_blocks):
        found = _whole_matrices(capture, block)
        if found is not None:
            blocks[block] = found
    most_heads = max((block.n_heads for block in blocks.values()), default=0)
    if len(blocks) < 2 or n_blocks * most_heads > MOST_HEADS:
        return {}

    d_model = next(iter(blocks.values())).d_model
    kept = thinned(list(blocks), d_model)
    found_scores = compositions({block: blocks[block] for block in kept}, n_blocks)
    return {name: values.astype(np.float16) for name, values in found_scores.items()}


def _whole_matrices(capture: Capture, block: int) -> HeadMatrices | None:
    """Return a block's matrices by head; None where one of them is not there, or was made
    smaller."""
    if capture.model.get("pooling") or "weight_side" in capture.model.get("cut", {}):
        return None
    found = []
    for matrix in _MATRICES:
        name = f"blocks.{block}.attn.{matrix}"
        # The recorder measures norms of those matrices alone of which it keeps a part.
        if name not in capture.arrays or f"{name}.norms" in capture.arrays:
            return None
        found.append(capture.arrays[name].astype(np.float32))
    w_q, w_k, w_v, w_o = found
    n_heads = _count(capture.model, "n_heads", block)
    n_kv_heads = _count(capture.model, "n_kv_heads", block) or n_heads
    d_model = w_q.shape[1]
    is_split_evenly = (
        n_heads > 0
        and w_q.shape == (w_o.shape[1], d_model)
        and w_k.shape == w_v.shape
        and w_k.shape[0] * n_heads == w_q.shape[0] * n_kv_heads
        and w_o.shape[0] == w_k.shape[1] == d_model
        and n_heads % n_kv_heads == 0
        and w_q.shape[0] % n_heads == 0
    )
    if not is_split_evenly:
        return None
    return split_heads(w_q, w_k, w_v, w_o, n_heads=n_heads, n_kv_heads=n_kv_heads)


def _count(model: Mapping[str, Any], name: str, block: int) -> int:
    counts = model.get(name)
    if isinstance(counts, list):
        counts = counts[block] if block < len(counts) else None
    return counts if isinstance(counts, int) else 0
