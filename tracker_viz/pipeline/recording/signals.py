"""Bring captures to the disk before a signal ends the program: for ``Watcher.flush_on_signals``."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from tracker_viz.errors import ConfigError

# Signals that schedulers send before they kill or requeue: SLURM SIGTERM, or with --signal one of
# your choice; submitit SIGUSR1 or SIGUSR2; a terminal that closes SIGHUP.
_NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
USUAL = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class FlushOnSignals:
    """Handlers that call ``flush`` and then do what was done before them: the user's own handler,
    or the signal's default, which ends the program.

    Raises:
        ConfigError: this is not the main thread, the only one where Python takes handlers.
    """

    def __init__(self, flush: Callable[[], object], signals: Sequence[signal.Signals]) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ConfigError("flush_on_signals() must be called on the main thread")
        self._flush = flush
        self._pid = os.getpid()
        # One object for all, by which ``remove`` knows that nobody came after us
        self._handler = self._handle
        self._before: dict[int, Any] = {}
        for number in signals:
            self._before[number] = signal.signal(number, self._handler)

    def remove(self) -> None:
        """Put the earlier handlers back, where no other was put over ours."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, before in self._before.items():
            if signal.getsignal(number) is self._handler and before is not None:
                signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A fork, such as a worker that loads data, has the handler and none of the captures.
        if os.getpid() == self._pid:
            self._flush()
        before = self._before[number]
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
