"""Put the onsets that ``metrics`` finds on the axis of a comparison: an interval between two
captures, or not before the run ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tracker_viz.comparison.align import Axis, positions
from tracker_viz.metrics import ScoreSeries, run_onsets


@dataclass(frozen=True, slots=True)
class RoleOnset:
    """One run formed one role: at the onset of its strongest head.

    Attributes:
        after: the last capture without the role, None where the first capture had it. Of a run
            that did not form it: the last capture up to which that is known.
        at: the first capture with the role; None: the run did not form it before it ended.
        near_line: the strongest head is so close to the threshold that another draw of the probe
            could change the answer.
        censored: a head rose above the line, and the run ended before that was confirmed.
    """

    after: float | None
    at: float | None
    near_line: bool = False
    censored: bool = False

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


def role_onsets(series: ScoreSeries, *, axis: Axis = "step") -> Mapping[str, RoleOnset]:
    """Return role -> when the run formed it, for every role whose score the run has."""
    place_of = dict(zip(series.steps.tolist(), positions(series, axis).tolist(), strict=True))
    onsets = {}
    for name, onset in run_onsets(series).items():
        after = onset.after
        if not onset.formed and after is None:
            # Nothing is known about the run: it counts as watched up to its beginning.
            after = int(series.steps[0])
        onsets[name] = RoleOnset(
            after=None if after is None else place_of[after],
            at=None if onset.step is None else place_of[onset.step],
            near_line=onset.near_line,
            censored=onset.censored,
        )
    return onsets
