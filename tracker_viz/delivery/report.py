"""The end of a spool's uploaders: they get a bounded time for what is left, and what became of it
is said. For the outbox and ``push``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracker_viz.delivery.spool import Spool
from tracker_viz.delivery.uploader import DeliveryStatus, Uploader
from tracker_viz.trackers.base import RunState

log = logging.getLogger(__name__)

SLOWEST_BYTES_PER_S = 250_000


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the captures.

    Attributes:
        deliveries: one per destination.
        lost: steps that could not be written to the disk, and are gone.
        command: what finishes the upload later; None when nothing is left.
    """

    deliveries: tuple[DeliveryStatus, ...]
    lost: tuple[int, ...]
    command: str | None

    @property
    def complete(self) -> bool:
        return self.command is None and not self.lost


def close_all(
    spool: Spool,
    uploaders: Sequence[Uploader],
    state: RunState,
    deadline: float,
    progress: Callable[[int, int], None] | None,
    *,
    lost: tuple[int, ...] = (),
    patience_s: float | None = None,
) -> Report:
    """Let every uploader finish until ``deadline``; with ``patience_s`` each delivered capture
    moves the deadline on, and what is on its way has the time that its bytes take over a slow
    line."""
    for uploader in uploaders:
        uploader.close(state, deadline=deadline)
    delivered, moved = -1, time.monotonic()
    waiting = list(uploaders)
    try:
        while waiting and time.monotonic() < deadline:
            waiting = [uploader for uploader in waiting if not uploader.join(0.05 / len(waiting))]
            deliveries = [uploader.delivery() for uploader in uploaders]
            n_sent = sum(delivery.sent for delivery in deliveries)
            if progress:
                progress(n_sent, n_sent + sum(delivery.left for delivery in deliveries))
            if n_sent != delivered:
                delivered, moved = n_sent, time.monotonic()
            if patience_s is not None:
                on_its_way = max(uploader.nbytes_on_their_way for uploader in uploaders)
                deadline = moved + patience_s + on_its_way / SLOWEST_BYTES_PER_S
                for uploader in waiting:
                    uploader.close(state, deadline=deadline)
    finally:
        for uploader in uploaders:
            uploader.dismiss()
    waiting = [uploader for uploader in waiting if not uploader.join(0)]
    report = Report(tuple(uploader.delivery() for uploader in uploaders), lost, None)
    unfinished = [delivery for delivery in report.deliveries if not delivery.complete]
    if unfinished or waiting:
        report = Report(report.deliveries, lost, spool.push_command)
        for delivery in unfinished:
            what = f"{delivery.left} captures have" if delivery.left else "the end of the run has"
            log.warning(
                "%s not reached %s (%s)", what, delivery.name, delivery.error or "out of time"
            )
        log.warning("they are kept in %s; finish with: %s", spool.directory, spool.push_command)
    else:
        spool.make_room()
    return report
