"""Build a run's tables: a row for each head, and a row for each role."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.evidence import Evidence, gather_evidence
from tracker_viz.metrics.head_names import head_name
from tracker_viz.metrics.labels import NO_ROLE, head_roles, labels_near_line
from tracker_viz.metrics.onsets import onset_curve, onsets, run_onsets
from tracker_viz.metrics.probe_rows import RowKind
from tracker_viz.metrics.roles import ROLES
from tracker_viz.metrics.series import ScoreSeries

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
    labels, margins = (values[-1] for values in head_roles(series))
    of_head = {}
    for onset in onsets(series):
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

    Columns: ``role``, ``head`` (see ``RunOnset.head``), ``heads`` (number that have the role),
    ``onset_after``, ``onset_step`` (None: not formed; then ``onset_after`` is the step up to which
    that is known), ``near_line``, ``censored``, and ``onset_at_0.1`` to ``onset_at_0.9``: the
    onset of this head at other thresholds.
    """
    found = run_onsets(series)
    rows = []
    for index, role in enumerate(ROLES):
        onset = found.get(role.name)
        if onset is None:
            continue
        labels = head_roles(series, rows=role.rows)[0][-1]
        row: TableRow = {
            "role": role.name,
            "head": head_name(*onset.head) if onset.head else None,
            "heads": int((labels == index).sum()),
            "onset_after": onset.after,
            "onset_step": onset.step,
            "near_line": onset.near_line,
            "censored": onset.censored,
        }
        curve = onset_curve(series, role, head=onset.head)
        rows.append({**row, **{f"onset_at_{level}": step for level, step in curve.items()}})
    return rows


def _near_any_line(evidence: Evidence, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the heads of which any label could be another one: bool [block, head]."""
    is_near = np.zeros(shape, bool)
    kinds: tuple[RowKind, ...] = ("repeated", "text")
    for rows in kinds:
        near = labels_near_line(evidence, rows=rows)
        if near is not None:
            is_near |= near
    return is_near


def _or_none(value: np.floating) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None
