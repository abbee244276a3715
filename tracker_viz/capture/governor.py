"""Keep the cost of captures under a limit, by leaving out due steps evenly. Used by the Recorder.

Only captures and the stretches of training between them are timed; off due steps nothing is
measured. A capture costs the training thread's time, plus the processor time that other threads
spend on captures (scores, disk, uploads) where training leaves them no core of their own.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tracker_viz.capture.schedule import Schedule
from tracker_viz.cores import usable_cores

DEFAULT_MAX_OVERHEAD = 0.02
DEFAULT_FREE_S = 30.0

# Background work may use up all the time between two captures, which leaves no training time.
_LEAST_STEP_S = 1e-6
# Free seconds are spread over this many doublings of the step number.
_DOUBLINGS_AHEAD = 6.0
# After an alarm captures come at these distances, as far as this share of the whole limit pays:
# the steps around a spike are what people ask for, and the rest of the run must have its captures.
_DENSE_GAPS = (1, 1, 1, 2, 3, 5, 8, 13)
DENSE_SHARE = 0.25
# Look at most this many due steps ahead, because an open-ended schedule has no last one.
_MOST_LEFT_OUT = 1000


@dataclass(frozen=True, slots=True)
class CostLimit:
    """The larger of a share of the wall time and a number of seconds in all.

    Attributes:
        max_overhead: share of the wall time, above 0; 1 or more: no limit.
        free_s: seconds that captures may take in any case.
    """

    max_overhead: float = DEFAULT_MAX_OVERHEAD
    free_s: float = DEFAULT_FREE_S

    def allowed_s(self, trained_s: float) -> float:
        """Return how long captures may take beside ``trained_s`` seconds of training alone."""
        if self.max_overhead >= 1:
            return math.inf
        share_s = trained_s * self.max_overhead / (1 - self.max_overhead)
        return max(share_s, self.free_s)

    def paid_after_s(self, spent_s: float) -> float:
        """Return after how much training its share alone allows captures of ``spent_s``."""
        if self.max_overhead >= 1:
            return 0.0
        return spent_s * (1 - self.max_overhead) / self.max_overhead

    def __str__(self) -> str:
        if self.max_overhead >= 1:
            return "no limit"
        share = f"{100 * self.max_overhead:.3g} % of the wall time (max_overhead)"
        if not self.free_s:
            return share
        return f"{share} or {self.free_s:g} s in all (free_s), whichever is more"


class Governor:
    """Time captures and decide, after each one, which due step is the next to be taken.

    Args:
        schedule: which steps are due.
        limit: what captures may cost; None keeps the schedule whatever it costs.
        start_step: optimizer steps that were finished before.
        clock: the wall's time in seconds.
        background_s: processor seconds that other threads have spent on captures so far.

    Attributes:
        n_captures: how many were timed.
        n_left_out: due steps that were left out so far.
        spent_s: what captures cost so far; the first, taken before training, aside.
        trained_s: what training alone took so far.
    """

    def __init__(
        self,
        schedule: Schedule,
        limit: CostLimit | None = None,
        *,
        start_step: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        background_s: Callable[[], float] = float,
    ) -> None:
        self.schedule = schedule
        self.limit = limit
        self.n_captures = 0
        self.n_left_out = 0
        self.spent_s = 0.0
        self.trained_s = 0.0
        # Captures that an alarm asked for, beside the schedule.
        self._dense_s = 0.0
        self._dense_gaps: list[int] = []
        self._next_is_dense = False
        self._clock = clock
        self._background_s = background_s
        self._background_seen_s = 0.0
        self._n_steps = 0
        self._since_s = clock()
        self._since_step = start_step

    @property
    def overhead(self) -> float:
        """Captures' share of the wall time so far, 0..1."""
        whole_s = self.spent_s + self.trained_s
        return self.spent_s / whole_s if whole_s > 0 else 0.0

    def start(self, step: int) -> None:
        """Time training from here on, after ``step`` finished steps. What other threads did before
        (opening runs) is no cost of captures."""
        self._since_s, self._since_step = self._clock(), step
        self._background_seen_s = self._background_s()

    @contextmanager
    def timing(self, step: int, device: torch.device) -> Iterator[None]:
        """Time the training up to ``step`` finished steps, and the capture inside the block."""
        started_s = self._clock()
        background_s = self._take_background_s() if cores_are_busy(device) else 0.0
        trained_s = max(started_s - self._since_s - background_s, 0.0)
        self.add_training(step - self._since_step, trained_s)
        try:
            yield
        finally:
            self._since_s, self._since_step = self._clock(), step
            self.add_capture(self._since_s - started_s + background_s)

    def add_training(self, steps: int, seconds: float) -> None:
        """Count ``steps`` training steps that took ``seconds``, captures not included."""
        self._n_steps += steps
        self.trained_s += seconds

    def add_capture(self, seconds: float) -> None:
        """Count a capture that took so many seconds."""
        self.n_captures += 1
        if self._next_is_dense:
            self._dense_s += seconds
        self.spent_s += seconds

    def next_step(self, step: int) -> tuple[int | None, int]:
        """Return the next step to capture after a capture at ``step`` (None: no more), and how many
        due steps are left out before it."""
        if self._dense_gaps and self.pays_dense():
            self._next_is_dense = True
            return step + self._dense_gaps.pop(0), 0
        self._dense_gaps, self._next_is_dense = [], False
        due = self.schedule.next_due(step)
        earliest = self._earliest(step)
        left_out = 0
        while due is not None and due < earliest and left_out < _MOST_LEFT_OUT:
            following = self.schedule.next_due(due)
            if following is None:
                break  # the last due step is always taken
            due, left_out = following, left_out + 1
        self.n_left_out += left_out
        return due, left_out

    def come_densely(self) -> None:
        """Take the next captures a few steps apart, whatever the schedule says."""
        self._dense_gaps = list(_DENSE_GAPS)

    def pays_dense(self) -> bool:
        """Return whether one more capture beside the schedule is paid for: by the limit, and by the
        share of it that such captures have."""
        if self.limit is None:
            return True
        cost_s = self.spent_s / max(self.n_captures, 1)
        allowed_s = self.limit.allowed_s(self.trained_s)
        is_within_share = self._dense_s + cost_s <= DENSE_SHARE * allowed_s
        return is_within_share and self.spent_s + cost_s <= allowed_s

    def _take_background_s(self) -> float:
        """Return what other threads have spent since the last call."""
        before, self._background_seen_s = self._background_seen_s, self._background_s()
        return self._background_seen_s - before

    def _earliest(self, step: int) -> float:
        """Return the step before which no capture is to be taken again."""
        if self.limit is None or self.spent_s <= 0 or self._n_steps <= 0:
            return step
        cost_s = self.spent_s / self.n_captures
        step_s = max(self.trained_s / self._n_steps, _LEAST_STEP_S)
        if self.schedule.total is None:
            return step + self._gap(self.limit, cost_s, step_s)
        return self._spread_evenly(self.limit, step, self.schedule.total, cost_s, step_s)

    def _spread_evenly(
        self, limit: CostLimit, step: int, total: int, cost_s: float, step_s: float
    ) -> float:
        """Return the step of the next capture where the end is known: every n-th of the steps that
        are still due."""
        will_train_s = self.trained_s + step_s * max(total - step, 0)
        affordable = (limit.allowed_s(will_train_s) - self.spent_s) / cost_s
        remaining = [due for due in self.schedule.steps if due > step]
        if not remaining or affordable >= len(remaining):
            return step
        if affordable < 1:
            return remaining[-1]
        keep_every = math.ceil(len(remaining) / affordable)
        return remaining[min(keep_every, len(remaining)) - 1]

    def _gap(self, limit: CostLimit, cost_s: float, step_s: float) -> float:
        """Return the number of steps before the next capture where the end is not known.

        While captures are paid out of ``free_s``, what is left of it is spread evenly over the next
        doublings of the step number, at most to the step from which on the share pays for more.
        Spent at once, it would leave a long gap after the first steps; spread to the end of a long
        training, it would leave a short one without a film. Afterwards a capture waits until the
        share has paid for it.
        """
        n_free = (limit.free_s - self.spent_s) / cost_s  # captures
        share_pays_from = limit.paid_after_s(limit.free_s) / step_s  # steps
        if n_free >= 1 and self._n_steps < share_pays_from:
            doublings_left = math.log2(share_pays_from / self._n_steps)
            doublings_a_capture = min(doublings_left, _DOUBLINGS_AHEAD) / n_free
            return self._n_steps * (2**doublings_a_capture - 1)
        paid_after_s = limit.paid_after_s(self.spent_s + cost_s)
        return (paid_after_s - self.trained_s) / step_s


def cores_are_busy(device: torch.device) -> bool:
    """Return whether this process has no core to spare for other threads while it trains."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return threads * int(os.environ.get("LOCAL_WORLD_SIZE", "1")) >= usable_cores()
