"""End a spool's uploaders in bounded time, and report what became of the captures. For the outbox
and ``push``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tracker_viz.delivery.delivery_status import DeliveryStatus
from tracker_viz.delivery.spool import Spool
from tracker_viz.delivery.uploader import Uploader
from tracker_viz.notebook import count
from tracker_viz.trackers import RunState

log = logging.getLogger(__name__)

SLOWEST_BYTES_PER_S = 250_000
POLL_S = 0.05

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a delivery. ``complete``: every capture is where it should be.

    Attributes:
        deliveries: one per destination.
        lost: steps that could not be written to the disk, and are gone.
        command: the command that finishes the upload later; None when nothing is left.
    """

    deliveries: tuple[DeliveryStatus, ...]
    lost: tuple[int, ...]
    command: str | None

    @property
    def complete(self) -> bool:
        damaged = any(delivery.damaged for delivery in self.deliveries)
        return self.command is None and not self.lost and not damaged

    @property
    def words(self) -> str:
        """Say in one line how it went."""
        if self.complete:
            return "all captures were delivered"
        left = sum(delivery.left for delivery in self.deliveries)
        n_damaged = sum(len(delivery.damaged) for delivery in self.deliveries)
        parts = [f"captures left: {left}"]
        if n_damaged:
            parts.append(f"damaged: {n_damaged}")
        if self.lost:
            parts.append(f"never written to the disk: {len(self.lost)}")
        if self.command:
            parts.append(f"finish with: {self.command}")
        return "; ".join(parts)

    def __repr__(self) -> str:
        return f"Report({self.words})"


def close_all(
    spool: Spool,
    uploaders: Sequence[Uploader],
    state: RunState,
    deadline: float,
    progress: Progress | None,
    *,
    lost: tuple[int, ...] = (),
    patience_s: float | None = None,
    away_s: float | None = None,
) -> Report:
    """Let every uploader finish.

    Args:
        deadline: until when (of ``time.monotonic``).
        progress: called now and then with (captures delivered, captures in all).
        lost: steps that the writer gave up.
        patience_s: move the deadline on with each delivered capture, to so many seconds later, and
            give captures in flight the time that their bytes take over a slow line.
        away_s: give up earlier a tracker whose every call fails for so many seconds.
    """
    for uploader in uploaders:
        uploader.close(state, deadline=deadline, away_s=away_s)
    try:
        unfinished = _wait(uploaders, state, deadline, progress, patience_s)
    finally:
        for uploader in uploaders:
            uploader.dismiss()
    unfinished = [uploader for uploader in unfinished if not uploader.join(0)]

    report = Report(tuple(uploader.status() for uploader in uploaders), lost, None)
    if all(status.complete for status in report.deliveries) and not unfinished:
        spool.make_room()
        return report
    return replace(report, command=spool.push_command)


def _wait(
    uploaders: Sequence[Uploader],
    state: RunState,
    deadline: float,
    progress: Progress | None,
    patience_s: float | None,
) -> list[Uploader]:
    """Return the uploaders that were still at work at the deadline."""
    n_sent_before, moved = -1, time.monotonic()
    waiting = list(uploaders)
    while waiting and time.monotonic() < deadline:
        pause_s = POLL_S / len(waiting)
        waiting = [uploader for uploader in waiting if not uploader.join(pause_s)]

        statuses = [uploader.status() for uploader in uploaders]
        n_sent = sum(status.sent for status in statuses)
        if progress:
            progress(n_sent, n_sent + sum(status.left for status in statuses))
        if n_sent != n_sent_before:
            n_sent_before, moved = n_sent, time.monotonic()

        if patience_s is not None:
            nbytes = max(uploader.nbytes_in_flight for uploader in uploaders)
            deadline = moved + patience_s + nbytes / SLOWEST_BYTES_PER_S
            for uploader in waiting:
                uploader.close(state, deadline=deadline)
    return waiting


def warn_of_what_is_left(report: Report, spool: Spool) -> None:
    """Log what has not reached its destination, why, and the command that finishes the upload."""
    if report.command is None:
        return
    for status in report.deliveries:
        if not status.complete:
            _warn_about(status)
    log.warning("they are kept in %s; finish with: %s", spool.directory, report.command)


def _warn_about(status: DeliveryStatus) -> None:
    what = "the end of the run has"
    if status.left:
        what = f"{count(status.left, 'capture')} {'has' if status.left == 1 else 'have'}"
    log.warning("%s not reached %s (%s)", what, status.name, status.error or "out of time")
