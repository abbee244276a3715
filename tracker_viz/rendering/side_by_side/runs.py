"""Plain values that a picture of several runs is made of: the runs, and which capture of each is
shown at which point of time.

The pipeline fills these from the comparison (alignment, matching, roles); rendering only places and
paints them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.series import Series

Head = tuple[int, int]
NO_ROLE = -1
NOT_YET = -1


@dataclass(frozen=True, slots=True)
class RunTrack:
    """One run of a comparison.

    Attributes:
        label: what tells it from the others: ``n_heads=8 seed=1``.
        series: its captures.
        places: float64 [capture]: where each capture lies on the axis, rising.
        ranking: its heads as (block, head), those worth showing first at the front; a slot is None
            where it has no head to show there. Shown from the front where not all heads fit.
        order: block -> its heads from left to right, where all heads are shown; None in the place
            of a head that is not there.
        roles: int8 [capture, block, head]: index into the comparison's role names, or ``NO_ROLE``.
        onsets: role -> place on the axis at which its first head took the role for good.
    """

    label: str
    series: Series
    places: NDArray[np.float64]
    ranking: tuple[Head | None, ...]
    order: Mapping[int, tuple[int | None, ...]]
    roles: NDArray[np.int8]
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
