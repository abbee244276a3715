"""A spool that a crashed or offline process left -> its destinations. ``tracker-viz push`` is
this."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tracker_viz.delivery.report import Report, close_all
from tracker_viz.delivery.spool import Spool
from tracker_viz.delivery.uploader import Uploader
from tracker_viz.errors import ConfigError
from tracker_viz.trackers import connect

PATIENCE_S = 60.0


def push(
    directory: str | Path,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    timeout_s: float | None = None,
    patience_s: float = PATIENCE_S,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Upload what a crashed or offline process left in its spool, and end its runs. Safe to repeat,
    and to run twice at once.

    Args:
        directory: the spool.
        options: scheme -> options that the spool does not hold, or that changed since (a new
            address, ...).
        timeout_s: give up after this long; None: as long as anything moves.
        patience_s: give up when nothing was delivered for this long.
        progress: called now and then with (captures delivered, captures in all), over all
            destinations.

    Raises:
        ConfigError: the directory is no spool, or ``timeout_s`` no time that can be waited.
        RunActiveError: its training process is still at work.
        MissingDependencyError: a destination's package is not installed.
    """
    if timeout_s is not None:
        checked_wait(timeout_s)
    spool = Spool(directory)
    if not spool.exists():
        raise ConfigError(
            f"spool must be a directory with a run.json that training wrote; got {spool.directory}"
        )
    # The journals are read once the lock is held: another push may just have finished the work.
    with spool.held("push", wait_s=timeout_s or 24 * 3600):
        uploaders = []
        for addressee in spool.addressees():
            tracker = connect(
                addressee.scheme,
                **{**addressee.options, **(options or {}).get(addressee.scheme, {})},
            )
            uploaders.append(Uploader(spool, addressee, tracker))
        # Whoever trained holds the lock until the end: a spool still marked as running was killed.
        state = spool.run.info().state
        state = "killed" if state == "running" else state
        for uploader in uploaders:
            uploader.start()
        deadline = time.monotonic() + (timeout_s if timeout_s is not None else patience_s)
        return close_all(
            spool,
            uploaders,
            state,
            deadline,
            progress,
            patience_s=None if timeout_s is not None else patience_s,
        )


def checked_wait(timeout_s: float) -> float:
    """Return ``timeout_s`` if it can be waited for.

    Raises:
        ConfigError: not a finite number above 0; ``None`` means no limit where that is allowed.
    """
    if not 0 < timeout_s < math.inf:
        raise ConfigError(
            f"timeout_s must be a finite number of seconds above 0; got {timeout_s:g}"
        )
    return timeout_s
