"""When each run of a comparison formed each role: an interval between two captures, or not before
the run ended.

Built from the onsets that ``metrics`` finds, placed on the axis of the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tracker_viz.comparison.align import Axis, positions
from tracker_viz.metrics import CONFIRMATIONS, ROLES, Role, ScoreSeries, first_onsets


@dataclass(frozen=True, slots=True)
class RoleOnset:
    """When one run formed one role.

    Attributes:
        after: the last capture without the role, None where the first capture had it. Of a run
            that did not form it: the last capture at which it could have been seen.
        at: the first capture with the role; None: the run did not form it before it ended.
        near_line: the strongest head is so close to the threshold that another draw of the probe
            could change the answer.
    """

    after: float | None
    at: float | None
    near_line: bool = False

    @property
    def formed(self) -> bool:
        return self.at is not None

    @property
    def earliest(self) -> float:
        """Lower limit of when the role was formed."""
        return -np.inf if self.after is None else self.after

    @property
    def latest(self) -> float:
        """Upper limit of when the role was formed."""
        return np.inf if self.at is None else self.at


def role_onsets(
    series: ScoreSeries, *, axis: Axis = "step", roles: tuple[Role, ...] = ROLES
) -> Mapping[str, RoleOnset]:
    """Return role -> when the run formed it, for every role whose score the run has."""
    places = positions(series, axis)
    found = first_onsets(series, roles)
    # What happens in the last captures is not confirmed by later ones.
    last_seen = float(places[max(series.n_captures - 1 - CONFIRMATIONS, 0)])

    onsets = {}
    for role in roles:
        if role.name not in series.heads:
            continue
        if role.name not in found:
            onsets[role.name] = RoleOnset(after=last_seen, at=None)
            continue
        index = int(np.searchsorted(series.steps, found[role.name].step))
        before = float(places[index - 1]) if index else None
        onsets[role.name] = RoleOnset(after=before, at=float(places[index]))
    return onsets
