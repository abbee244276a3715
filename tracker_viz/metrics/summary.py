"""Scores -> the few scalars that a tracker draws as native charts. Called by ``scorer`` for every capture.

Thousands of metric keys break both trackers' chart pages, so the number of keys is bounded whatever the model's size:

* ``attn/<score>/max`` or ``/mean``: over all heads; ``attn/sink/share``: heads whose sink exceeds 0.3 (Gu et al. 2024);
* ``attn/<score>/block_03``: the strongest head of a block, for the scores in ``CHARTED_BY_BLOCK``, up to 64 blocks;
* ``attn/<score>/L03H01``: every head, for the same scores, up to 64 heads;
* ``weights/<score>/<projection>``: mean over the blocks, for the scores in ``CHARTED_WEIGHTS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# score -> how its values over all heads become one number
CHARTED_OVERALL = {
    "previous_token": "max",
    "induction": "max",
    "duplicate_token": "max",
    "current_token": "max",
    "sink": "max",
    "specialisation": "max",
    "entropy": "mean",
    "confidence": "mean",
    "distance": "mean",
    "divergence": "mean",
}
CHARTED_BY_BLOCK = ("previous_token", "induction", "sink")
CHARTED_WEIGHTS = ("stable_rank", "distance", "update", "kurtosis")
MAX_CHARTED_BLOCKS = 64
MAX_CHARTED_HEADS = 64
MAX_CHARTED_PROJECTIONS = 12
SINK_THRESHOLD = 0.3


def chart_metrics(heads: Mapping[str, Floats], weights: Mapping[str, Floats], projections: Sequence[str]) -> dict[str, float]:
    """Scalars of one capture: name -> value; at most about 450 names. A value is NaN where no head or matrix is finite.

    Args:
        heads: score -> [block, head]. weights: score -> [block, projection].
    """
    metrics: dict[str, float] = {}
    for name, reduction in CHARTED_OVERALL.items():
        if name in heads:
            metrics[f"attn/{name}/{reduction}"] = _finite(np.max if reduction == "max" else np.mean, heads[name])
    if "sink" in heads:
        metrics["attn/sink/share"] = _finite(np.mean, np.where(np.isfinite(heads["sink"]), heads["sink"] > SINK_THRESHOLD, np.nan))
    for name in CHARTED_BY_BLOCK:
        metrics |= _by_block_and_head(name, heads[name]) if name in heads else {}
    if len(projections) <= MAX_CHARTED_PROJECTIONS:
        for name in CHARTED_WEIGHTS:
            for index, projection in enumerate(projections if name in weights else ()):
                metrics[f"weights/{name}/{projection}"] = _finite(np.mean, weights[name][:, index])
    return metrics


def head_name(block: int, head: int) -> str:
    """``L03H01``: sorts by block, then head."""
    return f"L{block:02d}H{head:02d}"


def _by_block_and_head(name: str, scores: Floats) -> dict[str, float]:
    metrics = {}
    there = ~np.isnan(scores).all(1)
    if scores.shape[0] <= MAX_CHARTED_BLOCKS:
        metrics = {f"attn/{name}/block_{block:02d}": _finite(np.max, scores[block]) for block in np.flatnonzero(there)}
    if scores.size <= MAX_CHARTED_HEADS:
        heads = map(tuple, np.argwhere(np.isfinite(scores)).tolist())
        metrics |= {f"attn/{name}/{head_name(*head)}": float(scores[head]) for head in heads}
    return metrics


def _finite(reduction: Callable[..., Any], values: NDArray[np.floating]) -> float:
    finite = values[np.isfinite(values)]
    return float(reduction(finite)) if finite.size else float("nan")
