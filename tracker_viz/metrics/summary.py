"""Scores -> what trackers show natively: a few scalars per capture, and one summary and one table
per run.

``chart_metrics`` is called by ``scorer`` for every capture. Thousands of metric keys break both
trackers' chart pages, so the number of keys is bounded whatever the model's size. Both draw one
group of charts per prefix, MLflow up to the last slash:

* ``attn/<score>_max`` or ``_mean``: over all heads;
* ``attn/sink_share``: share of heads whose sink exceeds 0.3 on a sequence, mean over the probe's
  kinds of sequence (the metric of Gu et al. 2024, where there is one of each);
* ``attn/<score>/block_03``: the strongest head of a block, for the scores in ``CHARTED_BY_BLOCK``,
  up to 64 blocks;
* ``attn/<score>/L03H01``: every head, for the same scores, up to 64 heads;
* ``weights/<score>/attn_w_q``: one projection's mean over the blocks, for the scores in
  ``CHARTED_WEIGHTS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.roles import NO_ROLE, ROLES, Role, first_onsets, head_roles, onsets
from tracker_viz.metrics.series import ScoreSeries

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
CHARTED_WEIGHTS = ("stable_rank", "distance", "update", "kurtosis", "dead_share", "active_share")
MAX_CHARTED_BLOCKS = 64
MAX_CHARTED_HEADS = 64
MAX_CHARTED_PROJECTIONS = 12
SINK_THRESHOLD = 0.3


def chart_metrics(
    heads: Mapping[str, Floats], weights: Mapping[str, Floats], projections: Sequence[str]
) -> dict[str, float]:
    """Scalars of one capture: name -> value; at most about 450 names. NaN where no head is finite;
    without a finite matrix there is none.

    Args:
        heads: score -> [block, head]. weights: score -> [block, projection].
    """
    metrics: dict[str, float] = {}
    for name, reduction in CHARTED_OVERALL.items():
        if name in heads:
            metrics[f"attn/{name}_{reduction}"] = _finite(
                np.max if reduction == "max" else np.mean, heads[name]
            )
    if sinks := [heads[name] for name in ("sink_repeated", "sink_text") if name in heads]:
        metrics["attn/sink_share"] = _finite(
            np.mean, np.where(np.isfinite(sinks), np.stack(sinks) > SINK_THRESHOLD, np.nan)
        )
    for name in CHARTED_BY_BLOCK:
        metrics |= _by_block_and_head(name, heads[name]) if name in heads else {}
    if len(projections) <= MAX_CHARTED_PROJECTIONS:
        for name in CHARTED_WEIGHTS:
            for index, projection in enumerate(projections if name in weights else ()):
                if np.isfinite(weights[name][:, index]).any():
                    # a dot in a name means a level of nesting to W&B
                    metrics[f"weights/{name}/{projection.replace('.', '_')}"] = _finite(
                        np.mean, weights[name][:, index]
                    )
    return metrics


def run_summary(series: ScoreSeries, roles: tuple[Role, ...] = ROLES) -> dict[str, float | int]:
    """What a tracker's table of runs sorts a sweep by; all names begin with ``specialisation/``.

    * ``<role>_max``: the highest score that any head reached at any capture;
    * ``<role>_heads``: heads that have the role at the last capture (of several at once the one
      with the greatest margin), and ``heads_specialised`` those that have any;
    * ``<role>_onset_step``: the earliest step at which one of those heads took the role and kept
      it; absent where none did;
    * ``share_specialised``: of all heads; ``index_mean``: mean specialisation score of all heads at
      the last capture.

    Empty without captures or head scores.
    """
    if not series.n_captures or not series.heads:
        return {}
    values: dict[str, float | int] = {}
    final = head_roles(series, roles)[0][-1]
    found = first_onsets(series, roles)
    n_heads = int(
        np.isfinite(np.stack([scores[-1] for scores in series.heads.values()])).any(0).sum()
    )
    for index, role in enumerate(roles):
        if role.name not in series.heads:
            continue
        values[f"specialisation/{role.name}_max"] = _finite(np.max, series.heads[role.name])
        values[f"specialisation/{role.name}_heads"] = int((final == index).sum())
        if role.name in found:
            values[f"specialisation/{role.name}_onset_step"] = found[role.name].step
    n_specialised = int((final != NO_ROLE).sum())
    values["specialisation/heads_specialised"] = n_specialised
    if n_heads:
        values["specialisation/share_specialised"] = n_specialised / n_heads
    if "specialisation" in series.heads:
        values["specialisation/index_mean"] = _finite(np.mean, series.heads["specialisation"][-1])
    return {name: value for name, value in values.items() if np.isfinite(value)}


def run_tags(series: ScoreSeries, roles: tuple[Role, ...] = ROLES) -> dict[str, str]:
    """Text to find runs by: ``specialisation/roles``, those that heads have at the last capture:
    ``previous_token, induction``; ``none``.

    Empty without captures or head scores.
    """
    if not series.n_captures or not series.heads:
        return {}
    final = head_roles(series, roles)[0][-1]
    held = [role.name for index, role in enumerate(roles) if (final == index).any()]
    return {"specialisation/roles": ", ".join(held) or "none"}


def head_table(
    series: ScoreSeries, roles: tuple[Role, ...] = ROLES
) -> list[dict[str, str | float | int | None]]:
    """One row per head, in order of block and head.

    Columns: ``head`` (``L03H01``), ``block``, ``index``, ``role`` at the last capture (None: none),
    its ``margin`` above uniform attention (0..1), ``onset_step`` of that role (None: none that
    lasted), then every score at the last capture (None: not measured).
    """
    if not series.n_captures or not series.heads:
        return []
    final_roles, margins = (values[-1] for values in head_roles(series, roles))
    steps = {
        (onset.block, onset.head, onset.role): onset.step
        for onset in onsets(series, roles)
        if onset.until is None
    }
    rows: list[dict[str, str | float | int | None]] = []
    for block, head in np.ndindex(series.shape):
        scores = {name: _or_none(values[-1, block, head]) for name, values in series.heads.items()}
        if all(value is None for value in scores.values()):
            continue
        role = None if final_roles[block, head] == NO_ROLE else roles[final_roles[block, head]].name
        rows.append(
            {
                "head": head_name(block, head),
                "block": block,
                "index": head,
                "role": role,
                "margin": _or_none(margins[block, head]),
                "onset_step": steps.get((block, head, role)) if role else None,
                **scores,
            }
        )
    return rows


def head_name(block: int, head: int) -> str:
    """``L03H01``: sorts by block, then head."""
    return f"L{block:02d}H{head:02d}"


def _by_block_and_head(name: str, scores: Floats) -> dict[str, float]:
    metrics = {}
    there = ~np.isnan(scores).all(1)
    if scores.shape[0] <= MAX_CHARTED_BLOCKS:
        metrics = {
            f"attn/{name}/block_{block:02d}": _finite(np.max, scores[block])
            for block in np.flatnonzero(there)
        }
    if scores.size <= MAX_CHARTED_HEADS:
        heads = map(tuple, np.argwhere(np.isfinite(scores)).tolist())
        metrics |= {f"attn/{name}/{head_name(*head)}": float(scores[head]) for head in heads}
    return metrics


def _finite(reduction: Callable[..., Any], values: NDArray[np.floating]) -> float:
    finite = values[np.isfinite(values)]
    return float(reduction(finite)) if finite.size else float("nan")


def _or_none(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
