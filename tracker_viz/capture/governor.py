"""Holds what captures cost under a share of the training time, by leaving out due steps evenly.
Asked by the Recorder.

Only due steps are timed; off them nothing is measured. The first capture, taken before training,
counts as part of the start. What a capture takes is the training thread's time, and what is done
for it behind the training thread where that has no core to itself.
"""

from __future__ import annotations

import math
import os

import torch

from tracker_viz.capture.schedule import Schedule
from tracker_viz.cores import usable_cores

# What is done behind the training thread may take all the time that there was between two captures.
_LEAST_STEP_S = 1e-6


class Governor:
    """Decides, after each capture, which due step is the next to be taken.

    Args:
        max_overhead: most of the wall time that captures may take, 0..1; infinity: no limit.
        free: captures that are allowed whatever they cost, where the length of the training is not
            known.
    """

    def __init__(self, schedule: Schedule, max_overhead: float, *, free: int = 5) -> None:
        self.schedule = schedule
        self.max_overhead = max_overhead
        self.spent_s = 0.0
        self.trained_s = 0.0
        self.captures = 0
        self._steps = 0
        self._free = free

    @property
    def overhead(self) -> float:
        """Captures' share of the wall time so far, 0..1."""
        whole_s = self.spent_s + self.trained_s
        return self.spent_s / whole_s if whole_s > 0 else 0.0

    def trained(self, steps: int, seconds: float) -> None:
        """``steps`` training steps took ``seconds``, captures not included."""
        self._steps += steps
        self.trained_s += seconds

    def captured(self, seconds: float) -> None:
        self.captures += 1
        self.spent_s += seconds

    def next_step(self, step: int) -> tuple[int | None, int]:
        """After a capture at ``step``: the next step to capture (None: no more), and how many due
        steps are left out before it."""
        due = self.schedule.next_due(step)
        if due is None or self.spent_s <= 0 or self._steps == 0 or math.isinf(self.max_overhead):
            return due, 0
        keep_every = self._keep_every(step)
        skipped = 0
        while skipped < keep_every - 1:
            following = self.schedule.next_due(due)
            if following is None:
                break  # the last due step is always taken
            due, skipped = following, skipped + 1
        return due, skipped

    def _keep_every(self, step: int) -> int:
        cost_s = self.spent_s / self.captures
        step_s = max(self.trained_s / self._steps, _LEAST_STEP_S)
        if self.schedule.total is not None:
            remaining = sum(1 for due in self.schedule.steps if due > step)
            allowance_s = self.max_overhead * step_s * self.schedule.total - self.spent_s
            affordable = allowance_s / cost_s
            return (
                max(1, math.ceil(remaining / affordable)) if affordable >= 1 else max(remaining, 1)
            )
        # Unknown length: no further capture before the training done by then pays for it.
        allowance_s = self.max_overhead * self.trained_s + self._free * cost_s
        if allowance_s >= self.spent_s + cost_s:
            return 1
        pays_at = step + math.ceil(
            (self.spent_s + cost_s - allowance_s) / (self.max_overhead * step_s)
        )
        keep, due = 1, self.schedule.next_due(step)
        while due is not None and due < pays_at and keep < 1000:
            keep, due = keep + 1, self.schedule.next_due(due)
        return keep


def cores_are_busy(device: torch.device) -> bool:
    """Whether whatever else this process does is done on training's time: it computes on as many
    threads as there are cores."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return threads * int(os.environ.get("LOCAL_WORLD_SIZE", "1")) >= usable_cores()
