"""Turn scores into scalars of a capture, those of them that trackers chart, and one summary and one
table per run.

``chart_metrics`` is called by ``scorer`` for every capture, which keeps all of them:

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
fifteen or so that they get, whatever the model's size, and ``shown_summary`` values of a summary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.onsets import onset_curve, onsets, run_onsets
from tracker_viz.metrics.probe_rows import RowKind
from tracker_viz.metrics.roles import (
    NO_ROLE,
    ROLES,
    Evidence,
    gather_evidence,
    head_roles,
    labels_near_line,
)
from tracker_viz.metrics.series import ROUTER_PREFIX, ScoreSeries
from tracker_viz.types import HeadId

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
# Roles that every run is asked about; others only where a head has them.
_ALWAYS_SHOWN = frozenset(("previous_token", "induction"))


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
            metrics[f"attn/{name}_{reduction}"] = _finite(reduce, heads[name])

    sinks = [heads[name] for name in ("sink_repeated", "sink_text") if name in heads]
    if sinks:
        exceeds = np.where(np.isfinite(sinks), np.stack(sinks) > SINK_THRESHOLD, np.nan)
        metrics["attn/sink_share"] = _finite(np.mean, exceeds)

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
        metrics[f"router/{name}_mean"] = _finite(np.mean, values)
        if name in WORST_ROUTER:
            metrics[f"router/{name}_max"] = _finite(np.max, values)
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


def shown_summary(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a summary that trackers get, because each is one more column, and in
    MLflow one more chart: all but roles that no head has, and the captures before onsets."""
    shown = {}
    for name, value in values.items():
        role = re.sub(r"^specialisation/|_(max|heads)$", "", name)
        n_heads = values.get(f"specialisation/{role}_heads")
        is_of_no_head = n_heads == 0 and role not in _ALWAYS_SHOWN
        if not is_of_no_head and not name.endswith("_onset_after"):
            shown[name] = value
    return shown


def run_summary(series: ScoreSeries) -> dict[str, float | int]:
    """Return the values that a tracker's table of runs sorts a sweep by; all names begin with
    ``specialisation/``.

    * ``<role>_max``: the highest score that any head reached at any capture;
    * ``<role>_heads``: heads that have the role at the last capture (of several on one kind of
      probe row the one with the greatest margin), and ``heads_specialised`` those that have any;
    * ``<role>_onset_step``: step of the first capture in which the strongest of those heads had the
      role, and ``<role>_onset_after`` that of the capture before; absent where no head has it;
    * ``share_specialised``: of all heads; ``index_mean``: mean specialisation score of all heads at
      the last capture.

    Empty without captures or head scores.
    """
    if not series.n_captures or not series.heads:
        return {}
    values: dict[str, float | int] = {}
    evidence = gather_evidence(series)
    final = head_roles(series, evidence=evidence)[0][-1]
    found = run_onsets(series, evidence=evidence)
    last_scores = np.stack([scores[-1] for scores in series.heads.values()])
    n_heads = int(np.isfinite(last_scores).any(0).sum())
    for index, role in enumerate(ROLES):
        if role.name not in evidence:
            continue
        labels = head_roles(series, rows=role.rows, evidence=evidence)[0][-1]
        values[f"specialisation/{role.name}_max"] = _finite(np.max, evidence[role.name].scores)
        values[f"specialisation/{role.name}_heads"] = int((labels == index).sum())
        onset = found[role.name]
        if onset.step is not None:
            values[f"specialisation/{role.name}_onset_step"] = onset.step
        if onset.step is not None and onset.after is not None:
            values[f"specialisation/{role.name}_onset_after"] = onset.after
    n_specialized = int((final != NO_ROLE).sum())
    values["specialisation/heads_specialised"] = n_specialized
    if n_heads:
        values["specialisation/share_specialised"] = n_specialized / n_heads
    if "specialisation" in series.heads:
        values["specialisation/index_mean"] = _finite(np.mean, series.heads["specialisation"][-1])
    return {name: value for name, value in values.items() if np.isfinite(value)}


def run_tags(series: ScoreSeries) -> dict[str, str]:
    """Return the tags to find runs by: ``specialisation/roles``, the roles that heads have at the
    last capture: ``previous_token, induction``; ``none``.

    Empty without captures or head scores.
    """
    if not series.n_captures or not series.heads:
        return {}
    found = run_onsets(series)
    held = [name for name, onset in found.items() if onset.formed]
    return {"specialisation/roles": ", ".join(held) or "none"}


TableRow = dict[str, str | float | int | bool | None]


def head_table(series: ScoreSeries) -> list[TableRow]:
    """Return one row per head, in order of block and head; numbers rounded to three decimals.

    Columns: ``head`` (``L03H01``), ``role`` at the last capture (None: none), ``onset_after`` and
    ``onset_step``: the last capture before it had that role for good and the first one with it
    (None: it has none, or had it from the first capture), ``margin`` above uniform attention
    (0..1), ``near_line``: another draw of the probe could change the label, ``also``: further roles
    that it has, ``block``, ``index``, then every score at the last capture (None: not measured).
    """
    if not series.n_captures or not series.heads:
        return []
    evidence = gather_evidence(series)
    labels, margins = (values[-1] for values in head_roles(series, evidence=evidence))
    of_head = {}
    for onset in onsets(series, evidence=evidence):
        if onset.until is None:
            of_head[onset.block, onset.head, onset.role] = onset
    is_near = _near_any_line(evidence, series.shape)
    rows: list[TableRow] = []
    for block, head in np.ndindex(series.shape):
        scores = {name: _or_none(values[-1, block, head]) for name, values in series.heads.items()}
        if all(value is None for value in scores.values()):
            continue
        role = None if labels[block, head] == NO_ROLE else ROLES[labels[block, head]].name
        taken = of_head.get((block, head, role)) if role else None
        held = [name for name, known in evidence.items() if known.states[-1, block, head]]
        row: TableRow = {
            "head": head_name(block, head),
            "role": role,
            "onset_after": taken.after if taken else None,
            "onset_step": taken.step if taken else None,
            "margin": _or_none(margins[block, head]),
            "near_line": bool(is_near[block, head]),
            "also": ", ".join(name for name in held if name != role) or None,
            "block": block,
            "index": head,
        }
        rows.append({**row, **scores})
    return rows


def onset_table(series: ScoreSeries) -> list[TableRow]:
    """Return one row per role that the captures measure: when the run formed it, and how much that
    depends on the threshold.

    Columns: ``role``, ``head`` (the strongest), ``heads`` (number that have the role),
    ``onset_after``, ``onset_step`` (None: not formed; then ``onset_after`` is the step up to which
    that is known), ``near_line``, ``censored``, and ``onset_at_0.1`` to ``onset_at_0.9``: the
    onset of the strongest head at other thresholds.
    """
    evidence = gather_evidence(series)
    found = run_onsets(series, evidence=evidence)
    rows = []
    for index, role in enumerate(ROLES):
        onset = found.get(role.name)
        if onset is None:
            continue
        labels = head_roles(series, rows=role.rows, evidence=evidence)[0][-1]
        row: TableRow = {
            "role": role.name,
            "head": head_name(*onset.head) if onset.head else None,
            "heads": int((labels == index).sum()),
            "onset_after": onset.after,
            "onset_step": onset.step,
            "near_line": onset.near_line,
            "censored": onset.censored,
        }
        curve = onset_curve(series, role, head=onset.head, evidence=evidence)
        rows.append({**row, **{f"onset_at_{level}": step for level, step in curve.items()}})
    return rows


def head_name(block: int, head: int) -> str:
    """Return a head's name in tables and charts: ``L03H01`` sorts by block, then head."""
    return f"L{block:02d}H{head:02d}"


def head_of(name: str) -> HeadId:
    """Return the (block, head) that ``head_name`` wrote.

    Raises:
        ValueError: it is no such name.
    """
    block, head = name.removeprefix("L").split("H")
    return int(block), int(head)


def shown_heads(text: str) -> str:
    """Return ``text`` with every head's name as pictures show it: ``L3H1`` for ``L03H01``."""
    return re.sub(r"\bL0*(\d+)H0*(\d+)\b", r"L\1H\2", text)


def _by_block(name: str, scores: Floats) -> dict[str, float]:
    """Return the score of the strongest head of each block, and where there are many, of each group
    of blocks. Groups depend on the number of blocks only, so that a chart means the same at every
    step."""
    n_blocks = len(scores)
    n_each = -(-n_blocks // MAX_GROUPS)
    metrics = {}
    if n_blocks <= MAX_BLOCKS:
        for block in np.flatnonzero(~np.isnan(scores).all(1)):
            metrics[f"attn/{name}/block_{block:02d}"] = _finite(np.max, scores[block])
    if n_each > 1:
        for first in range(0, n_blocks, n_each):
            last = min(first + n_each, n_blocks) - 1
            group = scores[first : last + 1]
            if not np.isnan(group).all():
                metrics[f"attn/{name}/blocks_{first:02d}_{last:02d}"] = _finite(np.max, group)
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
            metrics[f"weights/{name}_{part}"] = _finite(np.mean, measured)
    return metrics


def _by_projection(name: str, scores: Floats, projections: Sequence[str]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if len(projections) > MAX_PROJECTIONS:
        return metrics
    for index, projection in enumerate(projections):
        if np.isfinite(scores[:, index]).any():
            # a dot in a name means a level of nesting to W&B
            label = projection.replace(".", "_")
            metrics[f"weights/{name}/{label}"] = _finite(np.mean, scores[:, index])
    return metrics


def _finite(reduction: Callable[..., Any], values: NDArray[np.floating]) -> float:
    finite = values[np.isfinite(values)]
    return float(reduction(finite)) if finite.size else float("nan")


def _or_none(value: np.floating) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None


def _near_any_line(evidence: Evidence, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the heads of which any label could be another one: bool [block, head]."""
    is_near = np.zeros(shape, bool)
    kinds: tuple[RowKind, ...] = ("repeated", "text")
    for rows in kinds:
        near = labels_near_line(evidence, rows=rows)
        if near is not None:
            is_near |= near
    return is_near
