"""Count optimizer steps by a training loop's own counter. Used by ``Recorder``."""

from __future__ import annotations

import logging
from typing import Any

from tracker_viz.capture import distributed
from tracker_viz.capture.checks import whole
from tracker_viz.errors import ConfigError

log = logging.getLogger("tracker_viz.capture")


class LoopCounter:
    """Turns a loop's own counter into finished optimizer steps.

    Attributes:
        offset: what is added to the counter: 1 for a loop that counts from 0, else 0.
    """

    def __init__(self, start_step: int, counts_from: int | None) -> None:
        if counts_from not in (None, 0, 1):
            raise ConfigError(f"counts_from is 0 or 1, or None to find out; got {counts_from!r}")
        self.start_step = start_step
        self.offset = 0
        self._is_known = counts_from is not None
        self._went_back = False
        if counts_from == 0:
            self.offset = 1

    def finished(self, step: Any) -> int:
        """Return the number of finished steps that ``step`` stands for; the first call tells
        whether the loop counts from 0 or from 1.

        Raises:
            ConfigError: it is not a whole number.
        """
        number = whole("step", step, 0)
        if not self._is_known:
            self._is_known = True
            self.offset = int(number == self.start_step)
        return number + self.offset

    def warn_once_that_it_went_back(self, before: int, step: int, next_call: int) -> None:
        """Warn, at the first such step, that the loop's counter went back."""
        if not self._went_back and distributed.is_main_process():
            log.warning(
                "step went back from %d to %d: captures are numbered by the "
                "optimizer steps of the whole run, so the next capture is at "
                "step %d; pass a counter that does not restart each epoch",
                before,
                step,
                next_call,
            )
        self._went_back = True
