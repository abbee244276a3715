"""Upload what a crashed or offline process left in its spool: ``tracker-viz push``."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracker_viz.delivery.destinations import StoredDestination
from tracker_viz.delivery.report import Progress, Report, close_all, warn_of_what_is_left
from tracker_viz.delivery.spool import Spool
from tracker_viz.delivery.uploader import Uploader
from tracker_viz.errors import ConfigError, TransientTrackerError
from tracker_viz.notebook import count
from tracker_viz.notice import is_result_printed
from tracker_viz.trackers import connect, schemes
from tracker_viz.types import RunRef

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
ANOTHER_PUSH_S = 24 * 3600.0


def push(
    directory: str | Path,
    *,
    into: RunRef | str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    timeout_s: float | None = None,
    patience_s: float = PATIENCE_S,
    progress: Progress | None = None,
) -> Report:
    """Upload what a crashed or offline process left in its spool, and end its runs. It is safe to
    repeat, and to run twice at once.

    Args:
        directory: the spool.
        into: a run, or a tracker in which to create a new one, if the spool's run was deleted or it
            has none. It replaces the spool's run of the same tracker; not where the spool has no
            captures left, which would leave an empty run.
        options: tracker -> options that the spool lacks, or that have changed (a new address, ...).
        timeout_s: give up after this many seconds; None: continue while there is progress.
        patience_s: give up if nothing was delivered for this many seconds.
        progress: called regularly with (captures delivered, all captures), over all destinations.

    Raises:
        ConfigError: the directory is not a spool, or does not say where its captures go, or
            ``timeout_s`` is invalid.
        RunActiveError: its training process is still running.
        TransientTrackerError: a setting such as ``WANDB_MODE=offline`` keeps this process offline.
        MissingDependencyError: a destination's package is not installed.
    """
    spool = Spool(directory)
    wait_s = ANOTHER_PUSH_S if timeout_s is None else checked_wait(timeout_s)
    wanted = None if into is None else _new_destination(into, options or {})
    _check_spool(spool, wanted)
    # The journals are read with the lock held: another push may just have finished the work.
    lock = spool.lock("push", wait_s=wait_s)
    try:
        if wanted is not None and _has_captures(spool, wanted):
            spool.create(name=spool.directory.name, config={}, tags={})
            spool.redirect(wanted)
        uploaders = [_uploader(spool, each, options or {}) for each in spool.destinations()]
        # A training holds the lock until its end: a spool still marked as running was killed.
        state = spool.run.info().state
        if state == "running":
            state = "killed"
        for uploader in uploaders:
            uploader.start()

        patient = timeout_s is None
        deadline = time.monotonic() + (patience_s if timeout_s is None else timeout_s)
        report = close_all(
            spool,
            uploaders,
            state,
            deadline,
            progress,
            patience_s=patience_s if patient else None,
        )
        if not is_result_printed():
            warn_of_what_is_left(report, spool)
        return report
    finally:
        lock.release()


def _new_destination(
    into: RunRef | str, options: Mapping[str, Mapping[str, Any]]
) -> StoredDestination:
    if isinstance(into, str) and into in schemes():
        return StoredDestination(into, into, dict(options.get(into, {})))
    ref = RunRef.parse(str(into))
    return StoredDestination(
        ref.scheme, ref.scheme, dict(options.get(ref.scheme, {})), ref=ref, ours=False
    )


def _check_spool(spool: Spool, wanted: StoredDestination | None) -> None:
    """Check that the directory is a spool, and says where its captures go.

    Raises:
        ConfigError: it is none, or does not.
    """
    n_captures = len(spool.run.list_captures())
    if not spool.exists() and not n_captures:
        raise ConfigError(
            f"spool must be a directory with a run.json that training wrote; got {spool.directory}"
        )
    if wanted is None and n_captures and "destinations" not in spool.description():
        raise ConfigError(
            f"{spool.directory} has {count(n_captures, 'capture')} and does not say where they "
            "go: its run.json was lost. Send them into a new run with: "
            f"{spool.push_into_command('mlflow')} (or wandb, or mlflow:<run_id>, ...)"
        )


def _has_captures(spool: Spool, wanted: StoredDestination) -> bool:
    """Return whether the spool has captures for ``wanted``; where it has none, say where they
    went."""
    if spool.run.list_captures():
        return True
    went = "the spool holds no captures"
    parts = []
    for each in spool.destinations():
        if n_sent := len(spool.journal(each.name).captures):
            parts.append(f"{count(n_sent, 'capture')} went into {each.ref}")
    if parts:
        went = ", ".join(parts)
    log.warning("nothing is left to upload into %s: %s", wanted.ref or wanted.scheme, went)
    return False


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
    tracker = connect(scheme, **chosen)
    if tracker.offline_because:
        raise TransientTrackerError(
            f"{tracker.offline_because} keeps this process from {destination.name}: unset it where "
            "the service can be reached, and try again"
        )
    return Uploader(spool, destination, tracker)
