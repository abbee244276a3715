"""Hold the runs that a picture shows, one or several, and which capture of each is shown at which
point of time.

For a comparison the pipeline fills these (alignment, matching, roles); rendering only places and
paints them. One run is a comparison of one: each of its captures is a point of time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.plan import Roles
from tracker_viz.rendering.series import Series
from tracker_viz.types import HeadId

NOT_YET = -1


@dataclass(frozen=True, slots=True)
class RunTrack:
    """One run of a picture.

    Attributes:
        label: what tells it from the others: ``n_heads=8 seed=1``.
        series: its captures.
        places: float64 [capture]: where each capture lies on the axis, rising.
        ranking: its heads as (block, head), those worth showing first at the front; a slot is None
            where it has no head to show there. Shown from the front where not all heads fit.
        order: block -> its heads from left to right, where all heads are shown; None in the place
            of a head that is not there.
        roles: of its heads at each capture.
        onsets: role -> place on the axis at which its first head took the role for good.
    """

    label: str
    series: Series
    places: NDArray[np.float64]
    ranking: tuple[HeadId | None, ...] = ()
    order: Mapping[int, tuple[int | None, ...]] = field(default_factory=dict)
    roles: Roles = field(default_factory=Roles)
    onsets: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timing:
    """The capture of each run that is shown at each point of time.

    Attributes:
        points: float64 [point], rising: steps, tokens, or progress 0..1.
        captures: int64 [run, point]: index into the run's captures; ``NOT_YET`` before its first.
        ended: bool [run, point]: the run was over by then, and its last capture stands still.
    """

    axis: Literal["step", "tokens", "progress"]
    points: NDArray[np.float64]
    captures: NDArray[np.int64]
    ended: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Subject:
    """The runs that a picture shows, in the order in which they stand.

    Attributes:
        title, subtitle: what the header says; the subtitle's clauses stand between `` · ``.
        note: what one must know before one compares.
        is_matched: the heads stand in an order of their own in every run, so each map says whose it
            is.
    """

    runs: tuple[RunTrack, ...]
    timing: Timing
    title: str
    subtitle: str = ""
    note: str = ""
    is_matched: bool = False

    @property
    def is_one_run(self) -> bool:
        return len(self.runs) == 1


def one_run(series: Series) -> Subject:
    """Return a run as the only one of its picture: each capture is shown at its own step."""
    places = np.array(series.steps, np.float64)
    timing = Timing(
        "step", places, np.arange(len(series))[None], np.zeros((1, len(series)), np.bool_)
    )
    track = RunTrack(series.title, series, places)
    return Subject((track,), timing, series.title, series.subtitle)
