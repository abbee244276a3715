"""Upload what a crashed or offline process left in its spool: ``tracker-viz push``."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracker_viz.delivery.destinations import StoredDestination
from tracker_viz.delivery.report import Progress, Report, close_all
from tracker_viz.delivery.spool import Spool
from tracker_viz.delivery.uploader import Uploader
from tracker_viz.errors import ConfigError
from tracker_viz.trackers import connect

PATIENCE_S = 60.0
ANOTHER_PUSH_S = 24 * 3600.0


def push(
    directory: str | Path,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    timeout_s: float | None = None,
    patience_s: float = PATIENCE_S,
    progress: Progress | None = None,
) -> Report:
    """Upload what a crashed or offline process left in its spool, and end its runs. Safe to repeat,
    and to run twice at once.

    Args:
        directory: the spool.
        options: tracker -> options that the spool does not have, or that changed since (a new
            address, ...).
        timeout_s: give up after this many seconds; None: as long as anything moves.
        patience_s: give up when nothing was delivered for this many seconds.
        progress: called now and then with (captures delivered, captures in all), over all
            destinations.

    Raises:
        ConfigError: the directory is no spool, or ``timeout_s`` is not a time that can be waited.
        RunActiveError: its training process is still at work.
        MissingDependencyError: a destination's package is not installed.
    """
    spool = Spool(directory)
    wait_s = ANOTHER_PUSH_S if timeout_s is None else checked_wait(timeout_s)
    if not spool.exists():
        raise ConfigError(
            f"spool must be a directory with a run.json that training wrote; got {spool.directory}"
        )
    # The journals are read with the lock held: another push may just have finished the work.
    with spool.lock("push", wait_s=wait_s):
        uploaders = [_uploader(spool, each, options or {}) for each in spool.destinations()]
        # A training holds the lock until its end: a spool still marked as running was killed.
        state = spool.run.info().state
        if state == "running":
            state = "killed"
        for uploader in uploaders:
            uploader.start()

        patient = timeout_s is None
        deadline = time.monotonic() + (patience_s if timeout_s is None else timeout_s)
        return close_all(
            spool,
            uploaders,
            state,
            deadline,
            progress,
            patience_s=patience_s if patient else None,
        )


def checked_wait(timeout_s: float) -> float:
    """Return ``timeout_s`` if it can be waited for.

    Raises:
        ConfigError: not a finite number above 0.
    """
    if not 0 < timeout_s < math.inf:
        raise ConfigError(
            f"timeout_s must be a finite number of seconds above 0; got {timeout_s:g}"
        )
    return timeout_s


def _uploader(
    spool: Spool, destination: StoredDestination, options: Mapping[str, Mapping[str, Any]]
) -> Uploader:
    scheme = destination.scheme
    chosen = {**destination.options, **options.get(scheme, {})}
    return Uploader(spool, destination, connect(scheme, **chosen))
