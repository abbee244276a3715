"""Turn the scores of one capture into scalars, and choose those of them that trackers chart.

Called by ``scorer`` for every capture, which keeps all of them:

* ``attn/<score>_max`` or ``_mean``: over all heads;
* ``attn/sink_share``: share of heads whose sink exceeds 0.3 on a sequence, mean over the probe's
  kinds of sequence (the metric of Gu et al. 2024, where there is one of each);
* ``attn/<score>/block_03``: the strongest head of a block, and ``attn/<score>/blocks_08_15`` of
  several together, for the scores in ``BY_BLOCK``;
* ``attn/<score>/top_2`` and ``top_3``: the second and the third strongest head of all, for the same
  scores;
* ``attn/<score>/L03H01``: every head, for the same scores, up to 64 heads;
* ``weights/<score>/attn_w_q``: one projection's mean over the blocks, and ``weights/<score>_attn``
  that of a part of the block, for the scores in ``OF_WEIGHTS``;
* ``router/<score>_mean``: over the blocks of a mixture that have a router, ``router/<score>_max``
  the highest of them for the scores in ``WORST_ROUTER``;
* ``probe/<name>``: losses on the probe, see ``probe_loss``.

Trackers draw one chart for each name and one group of charts for each prefix. ``charted`` picks the
fifteen or so that they get, whatever the model's size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.head_names import head_name
from tracker_viz.metrics.series import ROUTER_PREFIX

Floats = NDArray[np.float32]

# score -> how its values over all heads become one number
OVERALL = {
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
    "max_logit": "max",
}
BY_BLOCK = ("previous_token", "induction", "sink")
OF_WEIGHTS = ("stable_rank", "distance", "update", "kurtosis", "dead_share", "active_share")
WORST_ROUTER = ("dead_share", "imbalance")
RANKS = (2, 3)
MAX_BLOCKS = 64
MAX_HEADS = 64
MAX_PROJECTIONS = 12
MAX_GROUPS = 4  # of blocks
MAX_PARTS = 3  # of a block that have weights: attn, mlp
SINK_THRESHOLD = 0.3

_COMPUTED = re.compile(r"(attn|weights|router|probe)/")
_CHARTED = re.compile(
    r"attn/(previous_token|induction|sink|max_logit)_max|attn/entropy_mean|attn/sink_share"
    r"|attn/(previous_token|induction)/blocks?_[0-9_]+|attn/induction/top_2"
    r"|weights/(distance|dead_share)_\w+"
    r"|router/(entropy|dead_share|changed)_mean|router/imbalance_max"
    r"|probe/(loss_later_copies|in_context)"
)


def chart_metrics(
    heads: Mapping[str, Floats], weights: Mapping[str, Floats], projections: Sequence[str]
) -> dict[str, float]:
    """Return the scalars of one capture: name -> value; at most about 500 names.

    NaN where no head is finite; of a matrix that was not measured there is none.

    Args:
        heads: score -> [block, head]. weights: score -> [block, projection].
        projections: name of each projection: ``attn.w_q``.
    """
    metrics: dict[str, float] = {}
    for name, reduction in OVERALL.items():
        if name in heads:
            reduce = np.max if reduction == "max" else np.mean
            metrics[f"attn/{name}_{reduction}"] = over_finite(reduce, heads[name])

    sinks = [heads[name] for name in ("sink_repeated", "sink_text") if name in heads]
    if sinks:
        exceeds = np.where(np.isfinite(sinks), np.stack(sinks) > SINK_THRESHOLD, np.nan)
        metrics["attn/sink_share"] = over_finite(np.mean, exceeds)

    for name in BY_BLOCK:
        if name in heads:
            metrics |= _by_block(name, heads[name]) | _by_rank(name, heads[name])
            metrics |= _by_head(name, heads[name])
    for name in OF_WEIGHTS:
        if name in weights:
            metrics |= _by_part(name, weights[name], projections)
            metrics |= _by_projection(name, weights[name], projections)
    return metrics


def router_metrics(scores: Mapping[str, Floats]) -> dict[str, float]:
    """Return the scalars of one capture of a mixture: name -> value; empty without routers.

    Args:
        scores: ``scores.router.<name>`` -> [block, 1]; others are left out.
    """
    metrics = {}
    for full_name, values in scores.items():
        name = full_name.removeprefix(ROUTER_PREFIX)
        if name == full_name or not np.isfinite(values).any():
            continue
        metrics[f"router/{name}_mean"] = over_finite(np.mean, values)
        if name in WORST_ROUTER:
            metrics[f"router/{name}_max"] = over_finite(np.max, values)
    return metrics


def charted(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a capture that trackers draw: what the training loop logged, and about
    fifteen of those that ``chart_metrics`` computed."""
    is_deep = any("/blocks_" in name for name in metrics)
    shown = {}
    for name, value in metrics.items():
        if _COMPUTED.match(name):
            is_single_block = is_deep and "/block_" in name
            if is_single_block or not _CHARTED.fullmatch(name):
                continue
        shown[name] = value
    return shown


def over_finite(reduction: Callable[..., Any], values: NDArray[np.floating]) -> float:
    """Return ``np.max`` or another reduction over the finite values; NaN without any."""
    finite = values[np.isfinite(values)]
    return float(reduction(finite)) if finite.size else float("nan")


def _by_block(name: str, scores: Floats) -> dict[str, float]:
    """Return the score of the strongest head of each block, and where there are many, of each group
    of blocks. Groups depend on the number of blocks only, so that a chart means the same at every
    step."""
    n_blocks = len(scores)
    n_each = -(-n_blocks // MAX_GROUPS)
    metrics = {}
    if n_blocks <= MAX_BLOCKS:
        for block in np.flatnonzero(~np.isnan(scores).all(1)):
            metrics[f"attn/{name}/block_{block:02d}"] = over_finite(np.max, scores[block])
    if n_each > 1:
        for first in range(0, n_blocks, n_each):
            last = min(first + n_each, n_blocks) - 1
            group = scores[first : last + 1]
            if not np.isnan(group).all():
                metrics[f"attn/{name}/blocks_{first:02d}_{last:02d}"] = over_finite(np.max, group)
    return metrics


def _by_rank(name: str, scores: Floats) -> dict[str, float]:
    """Return the scores of the next strongest heads of all: they show how many heads share what the
    strongest does."""
    finite = np.sort(scores[np.isfinite(scores)])
    ranks = [rank for rank in RANKS if rank <= finite.size]
    return {f"attn/{name}/top_{rank}": float(finite[-rank]) for rank in ranks}


def _by_head(name: str, scores: Floats) -> dict[str, float]:
    if scores.size > MAX_HEADS:
        return {}
    heads = np.argwhere(np.isfinite(scores)).tolist()
    return {
        f"attn/{name}/{head_name(block, head)}": float(scores[block, head]) for block, head in heads
    }


def _by_part(name: str, scores: Floats, projections: Sequence[str]) -> dict[str, float]:
    """Return the mean over each part of a block: attention, feed-forward."""
    columns: dict[str, list[int]] = {}
    for index, projection in enumerate(projections):
        columns.setdefault(projection.partition(".")[0], []).append(index)

    metrics = {}
    for part in list(columns)[:MAX_PARTS]:
        measured = scores[:, columns[part]]
        if np.isfinite(measured).any():
            metrics[f"weights/{name}_{part}"] = over_finite(np.mean, measured)
    return metrics


def _by_projection(name: str, scores: Floats, projections: Sequence[str]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if len(projections) > MAX_PROJECTIONS:
        return metrics
    for index, projection in enumerate(projections):
        if np.isfinite(scores[:, index]).any():
            # a dot in a name means a level of nesting to W&B
            label = projection.replace(".", "_")
            metrics[f"weights/{name}/{label}"] = over_finite(np.mean, scores[:, index])
    return metrics
