"""In which order, and for how long, the pictures of a run are shown. Arithmetic on steps; the
pipeline hands the result to the video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from tracker_viz.errors import ConfigError, unknown_name

Pace = Literal["capture", "step", "log"]
PACES: tuple[Pace, ...] = get_args(Pace)

SHORTEST_S = 1 / 30
_WANTED_S = 24.0  # how long a video lasts when nobody says how long a capture stays


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture: capture ``index``, or ``part`` (0..1) of the way to the next one, shown for
    ``duration_s``.

    ``kind``: ``title`` (the title card), ``capture``, ``interpolated``, or ``end`` (the last
    picture, held).
    """

    index: int
    part: float
    duration_s: float
    kind: Literal["title", "capture", "interpolated", "end"] = "capture"

    @property
    def is_capture(self) -> bool:
        """Whether this shows a capture as it was taken."""
        return self.kind in ("capture", "end")


def storyboard(
    steps: Sequence[int],
    *,
    pace: Pace = "capture",
    seconds_per_capture: float | None = None,
    interpolate: int = 0,
    title_s: float = 0.0,
    hold_s: float = 3.0,
) -> tuple[Shot, ...]:
    """The shots of a run whose captures were taken at ``steps`` (rising).

    Args:
        pace: every capture stays equally long (``capture``), or as long as training took to the
            next one (``step``), or as the logarithm of that (``log``). The whole lasts the same.
        seconds_per_capture: mean time that a capture stays; None: so that the whole lasts about 24
            s, within 1/30 to 0.5 s.
        interpolate: how many pictures to blend between two captures; they are marked as such.
        title_s: how long a title card is shown first; 0 for none.
        hold_s: how long the last picture stays.
    """
    if pace not in PACES:
        raise ConfigError(unknown_name("pace", str(pace), PACES))
    if interpolate < 0 or title_s < 0 or hold_s < 0:
        raise ConfigError(
            f"interpolate, title_s and hold_s are not negative; got {interpolate}, {title_s}, "
            f"{hold_s}"
        )
    if seconds_per_capture is not None and not (
        math.isfinite(seconds_per_capture) and seconds_per_capture > 0
    ):
        raise ConfigError(f"seconds_per_capture is a positive number; got {seconds_per_capture}")
    gaps = len(steps) - 1
    mean_s = seconds_per_capture or min(0.5, max(SHORTEST_S, _WANTED_S / max(1, gaps)))
    shots = [Shot(0, 0.0, title_s, "title")] if title_s else []
    for index, stay_s in enumerate(_stays(np.asarray(steps, np.float64), pace) * mean_s):
        # No picture is shorter than a thirtieth of a second: a player would leave it out.
        n_between = min(interpolate, max(0, int(stay_s / SHORTEST_S + 1e-9) - 1))
        each_s = max(SHORTEST_S, stay_s / (n_between + 1))
        shots.append(Shot(index, 0.0, each_s))
        shots += [
            Shot(index, number / (n_between + 1), each_s, "interpolated")
            for number in range(1, n_between + 1)
        ]
    return (*shots, Shot(len(steps) - 1, 0.0, max(hold_s, mean_s), "end"))


def _stays(steps: np.ndarray, pace: Pace) -> np.ndarray:
    """float64 [capture - 1]: how long each capture but the last stays, relative to the mean."""
    if len(steps) < 2 or pace == "capture":
        return np.ones(len(steps) - 1)
    lengths = np.diff(np.log1p(steps - steps[0]) if pace == "log" else steps)
    return lengths / lengths.mean()
