"""Color scales of a film that goes on while its run does: what comes later is not known yet.

The rule: a scale keeps its range until a value passes an end. Then that end moves out by doublings,
until the value fits. It never moves back. Frames that are drawn already keep their range, and every
frame says since which step its ranges hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tracker_viz.stored import FollowFile

if TYPE_CHECKING:
    from tracker_viz.rendering import ColorScale

Range = FollowFile.Range


class HeldScales:
    """The ranges that hold now.

    Attributes:
        ranges: key of a scale -> its range.
        has_changed: whether the last ``hold`` widened one that was known.
    """

    def __init__(self, ranges: Mapping[str, Range]) -> None:
        self.ranges = dict(ranges)
        self.has_changed = False

    def hold(self, scales: Mapping[str, ColorScale]) -> dict[str, ColorScale]:
        """Return the scales with the ranges that hold; a range that does not fit grows."""
        held = {}
        self.has_changed = False
        for key, scale in scales.items():
            before = self.ranges.get(key)
            range_ = widened(before, scale)
            self.has_changed |= before is not None and range_ != before
            self.ranges[key] = range_
            held[key] = replace(
                scale,
                minimum=range_.minimum,
                maximum=range_.maximum,
                linear_within=range_.linear_within,
            )
        return held


def widened(before: Range | None, scale: ColorScale) -> Range:
    """Return a range that holds ``scale``: the one before, with ends doubled until it does."""
    if before is None:
        return Range(
            minimum=scale.minimum, maximum=scale.maximum, linear_within=scale.linear_within
        )
    low, high = before.minimum, before.maximum
    is_from_zero = low == 0 <= scale.minimum or high == 0 >= scale.maximum
    if scale.norm == "log":
        # Both ends move by the same factor: the decades that it spans stay.
        factor = _doublings(high, scale.maximum)
        low, high = low * factor, high * factor
    elif low < 0 < high or is_from_zero:
        low, high = low * _doublings(-low, -scale.minimum), high * _doublings(high, scale.maximum)
    else:
        # Only ends that were passed: to compute the others would round them.
        if scale.minimum < low:
            low = high - (high - low) * _doublings(high - low, high - scale.minimum)
        if scale.maximum > high:
            high = low + (high - low) * _doublings(high - low, scale.maximum - low)
    return before.model_copy(update={"minimum": low, "maximum": high})


def _doublings(length: float, wanted: float) -> float:
    """Return the power of two, at least 1, by which ``length`` becomes at least ``wanted``."""
    factor = 1.0
    while 0 < length * factor < wanted:
        factor *= 2.0
    return factor
