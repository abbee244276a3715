"""Take a run's alarms: ask the recorder for denser captures, then tell the user's own function.
Called on the writer thread, by ``Scores``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tracker_viz.metrics import Alarm

if TYPE_CHECKING:
    from tracker_viz.capture import Recorder


class AlarmListener:
    """Calls ``on_alarm`` with every alarm, after captures were asked to come densely.

    Attributes:
        recorder: None until there is one; it is made after the first capture.
    """

    def __init__(self, on_alarm: Callable[[Alarm], object] | None) -> None:
        self.recorder: Recorder | None = None
        self._on_alarm = on_alarm

    def __call__(self, alarm: Alarm) -> None:
        if self.recorder is not None:
            self.recorder.come_densely()
        if self._on_alarm is not None:
            self._on_alarm(alarm)
