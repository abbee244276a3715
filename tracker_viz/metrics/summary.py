"""Sum up a run: the values and tags by which a tracker's table sorts and finds runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tracker_viz.metrics.charts import over_finite
from tracker_viz.metrics.evidence import gather_evidence
from tracker_viz.metrics.labels import NO_ROLE, head_roles
from tracker_viz.metrics.onsets import run_onsets
from tracker_viz.metrics.roles import ROLES
from tracker_viz.metrics.series import ScoreSeries

# Roles that every run is asked about; others only where a head has them.
_ALWAYS_SHOWN = frozenset(("previous_token", "induction"))


def run_summary(series: ScoreSeries) -> dict[str, float | int]:
    """Return the values that a tracker's table of runs sorts a sweep by; all names begin with
    ``specialisation/``.

    * ``<role>_max``: the highest score that any head reached at any capture;
    * ``<role>_heads``: heads that have the role at the last capture (of several on one kind of
      probe row the one with the greatest margin), and ``heads_specialised`` those that have any;
    * ``<role>_onset_step``: when the run formed the role (``onsets.RunOnset``), and
      ``<role>_onset_after`` the step of the last capture without it; absent where no head has it;
    * ``share_specialised``: of all heads; ``index_mean``: mean specialisation score of all heads at
      the last capture.

    Empty without captures or head scores.
    """
    if not series.n_captures or not series.heads:
        return {}
    values: dict[str, float | int] = {}
    evidence = gather_evidence(series)
    final = head_roles(series)[0][-1]
    found = run_onsets(series)
    last_scores = np.stack([scores[-1] for scores in series.heads.values()])
    n_heads = int(np.isfinite(last_scores).any(0).sum())
    for index, role in enumerate(ROLES):
        if role.name not in evidence:
            continue
        labels = head_roles(series, rows=role.rows)[0][-1]
        values[f"specialisation/{role.name}_max"] = over_finite(np.max, evidence[role.name].scores)
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
        values["specialisation/index_mean"] = over_finite(
            np.mean, series.heads["specialisation"][-1]
        )
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
