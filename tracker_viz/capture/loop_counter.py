"""Count optimizer steps by a training loop's own counter. Used by ``Recorder``."""

from __future__ import annotations

import logging
from typing import Any

from tracker_viz.capture import distributed
from tracker_viz.capture.checks import whole
from tracker_viz.errors import ConfigError

log = logging.getLogger("tracker_viz.capture")


class LoopCounter:
    """Turn a loop's own counter into finished optimizer steps.

    Attributes:
        offset: what is added to the counter: 1 for a loop that counts from 0, else 0.
    """

    def __init__(self, start_step: int, counts_from: int | None) -> None:
        if counts_from not in (None, 0, 1):
            raise ConfigError(f"counts_from is 0 or 1, or None to find out; got {counts_from!r}")
        self.start_step = start_step
        self.offset = 0
        self._is_known = counts_from is not None
        self._highest = -1  # before it went back
        if counts_from == 0:
            self.offset = 1

    def finished(self, step: Any) -> int:
        """Return how many optimizer steps are finished at the loop's ``step``; the first call shows
        whether the loop counts from 0 or from 1.

        Raises:
            ConfigError: it is not a whole number.
        """
        number = whole("step", step, 0)
        if not self._is_known:
            self._is_known = True
            self.offset = int(number == self.start_step)
        return number + self.offset

    def note_going_back(self, before: int, step: int, next_call: int | None) -> None:
        """Note that the loop's counter went back, and warn the first time.

        Args:
            next_call: the step at which a capture is due; None: none is due any more.
        """
        if self._highest < 0 and distributed.is_main_process():
            next_one = "none is due any more"
            if next_call is not None:
                next_one = f"the next capture is at step {next_call}"
            log.warning(
                "step went back from %d to %d: captures are numbered by the "
                "optimizer steps of the whole run, so %s; pass a counter that "
                "does not restart each epoch",
                before,
                step,
                next_one,
            )
        self._highest = max(self._highest, before)

    def is_behind(self, step: int) -> bool:
        """Return whether the counter went back, and has not passed again where it was: its number
        is not that of the optimizer step."""
        return step <= self._highest
