"""Find which head holds which role at each capture, for the borders around its maps."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from tracker_viz.metrics import NO_ROLE, ROLES, head_roles, score_series
from tracker_viz.rendering.plan import Roles
from tracker_viz.rendering.series import Series


def find_roles(series: Series, known: Collection[str]) -> Roles:
    """Return the role of each head at each capture, as the run's summary has them.

    Args:
        known: roles that have a color.
    """
    scored_roles = tuple(
        role for role in ROLES if role.name in known and f"scores.head.{role.name}" in series.arrays
    )
    if not scored_roles:
        return Roles()
    names = [f"scores.head.{role.name}" for role in scored_roles]
    scored = score_series(series.capture(index, names) for index in range(len(series)))
    states, margins = head_roles(scored, scored_roles)
    held = []
    for state in states:
        holders = np.argwhere(state != NO_ROLE).tolist()
        held.append({(b, h): scored_roles[state[b, h]].name for b, h in holders})
    return Roles(tuple(role.name for role in scored_roles), states, margins, held)
