"""Choose which training steps are captured: plain arithmetic on step numbers, used by the Recorder.

A step is the number of finished optimizer steps: 0 is the untrained model, ``total`` the trained
one. A schedule keeps no state, so a resumed run asks the same schedule and continues where it left
off.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass

from tracker_viz.capture.checks import whole
from tracker_viz.errors import ConfigError

# An open-ended schedule takes every step up to this one, then this many captures for every
# doubling of the step but one: gaps stay between 1/32 and 1/16 of the step.
_DENSE_STEPS = 32


@dataclass(frozen=True, slots=True)
class Schedule:
    """Explicit steps, then optionally every ``period`` steps without end.

    Attributes:
        steps: due steps, ascending, each once; 0 is always among them.
        period: after the last of ``steps``, every multiple of this is due too; None: nothing after
            them.
        total: number of the last training step, where it is known.
    """

    steps: tuple[int, ...]
    period: int | None = None
    total: int | None = None

    def __repr__(self) -> str:
        words = f"{len(self.steps)} steps from {self.steps[0]} to {self.steps[-1]}"
        if self.period is not None:
            words += f", then every {self.period}"
        return f"Schedule({words})"

    @classmethod
    def for_total(cls, total_steps: int, captures: int = 100, *, power: float = 1.5) -> Schedule:
        """Return ``captures`` steps from 0 to ``total_steps``, dense at the start, where a model
        changes fastest: ``S (i / N) ** power``.

        ``power`` 1.5 spread the change of a small decoder most evenly over the captures (largest
        change in one gap 3.2 %, against 4 % for equal gaps and 5.6 % for logarithmic ones). The
        result has fewer steps where neighbors round to the same one.
        """
        total_steps, captures = whole("total_steps", total_steps, 1), whole("captures", captures, 2)
        if not power > 0:
            raise ConfigError(f"power must be greater than 0; got {power}")
        gaps = captures - 1
        steps = {round(total_steps * (index / gaps) ** power) for index in range(captures)}
        return cls(tuple(sorted(steps)), None, total_steps)

    @classmethod
    def every(cls, period: int, total_steps: int | None = None) -> Schedule:
        """Return step 0, every multiple of ``period``, and the last step."""
        period = whole("every", period, 1)
        if total_steps is None:
            return cls((0,), period)
        total_steps = whole("total_steps", total_steps, 1)
        return cls((*range(0, total_steps, period), total_steps), None, total_steps)

    @classmethod
    def at(cls, steps: Iterable[int]) -> Schedule:
        """Return exactly these steps, and step 0."""
        return cls(tuple(sorted({0, *(whole("each of steps", step, 0) for step in steps)})))

    @classmethod
    def open_ended(cls, period: int = 1000) -> Schedule:
        """Return a schedule for a training of unknown length, dense enough for a film at any end.

        Every step up to 32, every second up to 64, every fourth up to 128, and so on until the gap
        would exceed ``period``; from there on every multiple of ``period``. With the default these
        are 49 captures of the first 64 steps, 112 of the first 1,000, and 177 of the first 16,384.
        """
        period = whole("every", period, 1)
        steps = [*range(_DENSE_STEPS)]
        gap = 1
        while 2 * gap < period:
            gap *= 2
            first = _DENSE_STEPS * gap // 2
            steps += range(first, 2 * first, gap)
        return cls(tuple(steps), period)

    def next_due(self, after: int) -> int | None:
        """Return the first due step greater than ``after``, or None where there is none."""
        index = bisect.bisect_right(self.steps, after)
        if index < len(self.steps):
            return self.steps[index]
        return None if self.period is None else (max(after, 0) // self.period + 1) * self.period

    def is_due(self, step: int) -> bool:
        return self.next_due(step - 1) == step
