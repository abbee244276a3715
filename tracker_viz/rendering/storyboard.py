"""Decide in which order, and for how long, the pictures of a run are shown.

Arithmetic on steps and events; the pipeline hands the result to the video's writer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.rendering.story import NO_STORY, Story

Pace = Literal["story", "capture", "step", "log"]
PACES: tuple[Pace, ...] = get_args(Pace)

SHORTEST_S = 1 / 30
_WANTED_S = 24.0  # how long a video lasts when nobody says how long a capture stays

# An event rests for this long, at the capture that completes it: long enough to read its caption.
# At its beginning the frames of its heads blink, so that the eye finds them.
_REST_S, _BLINKS, _BLINK_S = 2.2, 3, 0.18


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of the film.

    Attributes:
        index: number of the capture.
        part: 0..1, how far the picture is on the way to the next capture.
        duration_s: how long it is shown.
        kind: ``title`` (the title card), ``capture``, ``interpolated``, or ``end`` (the last
            picture, held).
        event: number of the event whose caption is shown; None: the one that happens now.
        blink: the frames of that event's heads are drawn bright and thick.
    """

    index: int
    part: float
    duration_s: float
    kind: Literal["title", "capture", "interpolated", "end"] = "capture"
    event: int | None = None
    blink: bool = False

    @property
    def is_capture(self) -> bool:
        """True if this shows a capture as it was taken, not interpolated and no title card."""
        return self.kind in ("capture", "end")


def storyboard(
    steps: Sequence[int],
    *,
    story: Story = NO_STORY,
    pace: Pace = "story",
    seconds_per_capture: float | None = None,
    interpolate: int = 0,
    title_s: float = 0.0,
    hold_s: float = 3.0,
) -> tuple[Shot, ...]:
    """Return the shots of a run whose captures were taken at ``steps`` (rising).

    Args:
        story: what happened in the run; ``pace="story"`` goes by it.
        pace: how the time is shared out. ``story``: half of it evenly, half where the heads and the
            loss change, with a rest at each event. ``capture``: every capture stays equally long.
            ``step``: as long as training took to the next one. ``log``: as the logarithm of that.
        seconds_per_capture: mean time that a capture stays; None: so that the whole lasts about 24
            s, within 1/30 to 0.5 s.
        interpolate: how many pictures to blend between two captures; they are marked as such.
        title_s: how long a title card is shown first; 0 for none.
        hold_s: how long the last picture stays.
    """
    _check(pace, seconds_per_capture, interpolate, title_s, hold_s)
    gaps = len(steps) - 1
    mean_s = seconds_per_capture or min(0.5, max(SHORTEST_S, _WANTED_S / max(1, gaps)))
    shots = [Shot(gaps, 0.0, title_s, "title")] if title_s else []
    stays_s = (_stays(np.asarray(steps, np.float64), pace, story) * mean_s).tolist()
    for index, stay_s in enumerate(stays_s):
        if pace == "story":
            shots += _rests(index, story)

        # No picture is shorter than a thirtieth of a second: a player would leave it out. 1e-9 is
        # for a stay of exactly n of these, which may come out just below.
        n_between = min(interpolate, max(0, int(stay_s / SHORTEST_S + 1e-9) - 1))
        each_s = max(SHORTEST_S, stay_s / (n_between + 1))
        shots.append(Shot(index, 0.0, each_s))
        shots += [
            Shot(index, number / (n_between + 1), each_s, "interpolated")
            for number in range(1, n_between + 1)
        ]
    if pace == "story":
        shots += _rests(gaps, story)
    return (*shots, Shot(gaps, 0.0, max(hold_s, mean_s), "end"))


def _check(
    pace: str, seconds_per_capture: float | None, interpolate: int, title_s: float, hold_s: float
) -> None:
    if pace not in PACES:
        raise ConfigError(unknown_name("pace", pace, PACES))
    if interpolate < 0 or title_s < 0 or hold_s < 0:
        raise ConfigError(
            f"interpolate, title_s and hold_s are not negative; got {interpolate}, {title_s}, "
            f"{hold_s}"
        )
    if seconds_per_capture is not None and not (
        math.isfinite(seconds_per_capture) and seconds_per_capture > 0
    ):
        raise ConfigError(f"seconds_per_capture is a positive number; got {seconds_per_capture}")


def _stays(steps: NDArray[np.float64], pace: Pace, story: Story) -> NDArray[np.float64]:
    """Return how long each capture but the last stays, relative to the mean, as float64
    [capture - 1]."""
    even = np.ones(len(steps) - 1)
    if len(steps) < 2 or pace == "capture":
        return even
    if pace == "story":
        if len(story.change) != len(even) or not story.change.sum() > 0:
            return even
        return 0.5 * even + 0.5 * story.change / story.change.mean()
    lengths = np.diff(np.log1p(steps - steps[0]) if pace == "log" else steps)
    return np.asarray(lengths / lengths.mean())


def _rests(index: int, story: Story) -> Iterator[Shot]:
    """Yield shots that hold the capture at ``index`` for every event that is complete there, if the
    picture shows what it is about."""
    for number, event in enumerate(story.events):
        if event.last_step != story.steps[index] or not story.is_shown(number):
            continue
        for _ in range(_BLINKS):
            yield Shot(index, 0.0, _BLINK_S, event=number, blink=True)
            yield Shot(index, 0.0, _BLINK_S, event=number)
        yield Shot(index, 0.0, _REST_S - 2 * _BLINKS * _BLINK_S, event=number)
