"""Captures from the training thread -> the spool, on a thread of its own: the outbox's first half.

    training thread ──enqueue──▶ queue ──writer thread: prepare, write, fsync──▶ spool

The training thread only ever waits for our own disk, and for ``max_stall_s`` at most: after that,
captures are given up without a wait until the disk takes one again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from tracker_viz.delivery.spool import Spool
from tracker_viz.errors import CaptureFileError, ConfigError
from tracker_viz.types import Capture, CaptureRef

log = logging.getLogger(__name__)

QUEUE_BYTES = 1 << 30
# Short pauses: what a disk takes again must not wait for the end of a long one.
DISK_RETRY_S = 0.5
DISK_PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class _Queued:
    """A raw capture, when it was taken (seconds since 1970), and the size of its arrays."""

    capture: Capture
    taken: float
    nbytes: int


class _Phase(Enum):
    """Taking captures; writing those that are left after ``stop``; given up, because that took too
    long."""

    OPEN = auto()
    STOPPING = auto()
    GIVEN_UP = auto()


class SpoolWriter:
    """The queue and its thread.

    Args:
        prepare: turns a raw capture into the one that is kept; runs on the writer thread. None
            keeps it as it is.
        written: called on the writer thread with every capture that is now in the spool.
        max_stall_s: how long ``enqueue`` may wait for a disk that takes nothing.
        queue_bytes: arrays in memory that wait for the writer; a single capture may be bigger.

    Attributes:
        lost: steps that could not be written, and are gone.
        n_waits, waited_s: how often ``enqueue`` waited for the writer, and how long in all.
        busy_s: processor seconds that preparing and writing took so far.
    """

    def __init__(
        self,
        spool: Spool,
        prepare: Callable[[Capture], Capture] | None,
        written: Callable[[CaptureRef], None],
        *,
        max_stall_s: float,
        queue_bytes: int,
    ) -> None:
        self.lost: list[int] = []
        self.n_waits = 0
        self.waited_s = 0.0
        self.busy_s = 0.0
        self._spool = spool
        self._prepare = prepare
        self._report_written = written
        self._max_stall_s = max_stall_s
        self._queue_bytes = queue_bytes
        # These are guarded by _changed.
        self._changed = threading.Condition()
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._in_hand: _Queued | None = None
        self._phase = _Phase.OPEN
        # Whether ``enqueue`` waited in vain and the disk has taken nothing since
        self._is_stuck = False
        # These belong to the writer thread.
        self._prepare_failed = False
        # Whether the latest capture was lost to the disk
        self._disk_failed = False
        self._loop_metrics: frozenset[str] = frozenset()
        self._thread = threading.Thread(
            target=self._write_all, name="tracker_viz-writer", daemon=True
        )
        self._thread.start()

    def enqueue(self, capture: Capture) -> None:
        """Take over one capture; returns in microseconds unless the disk is far behind."""
        with self._changed:
            if self._phase is not _Phase.OPEN:
                raise ConfigError(
                    f"the outbox of {self._spool.directory} is closed; step {capture.step} came "
                    "too late"
                )
            queued = _Queued(capture, time.time(), _nbytes(capture))
            if not self._has_room(queued):
                self._wait_for_room(queued)
            if self._is_stuck:
                self._lose(
                    capture.step,
                    f"the disk of {self._spool.directory} took no capture for "
                    f"{self._max_stall_s:g} s",
                )
                return
            self._queue.append(queued)
            self._queued_bytes += queued.nbytes
            self._changed.notify_all()

    def flush(self, timeout_s: float | None) -> bool:
        """Wait until everything that was enqueued is in the spool, on the disk; return whether it
        is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._queue and self._in_hand is None, timeout_s
            )

    def stop(self, timeout_s: float) -> None:
        """Write everything to the disk and end the thread; what is not written after ``timeout_s``
        is given up."""
        with self._changed:
            if self._phase is _Phase.OPEN:
                self._phase = _Phase.STOPPING
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self.n_waits > 1:
            log.warning(
                "training waited %d times for captures to be written, %.1f s in total",
                self.n_waits,
                self.waited_s,
            )
        with self._changed:
            given_up = [*self._queue]
            if self._in_hand is not None:
                given_up.insert(0, self._in_hand)
            self._queue.clear()
            self._queued_bytes = 0
            if given_up:
                self._phase = _Phase.GIVEN_UP
        for queued in given_up:
            self._lose(queued.capture.step, f"it was not written within {timeout_s:.0f} s")

    def _has_room(self, queued: _Queued) -> bool:
        room = not self._queue or self._queued_bytes + queued.nbytes <= self._queue_bytes
        if room:
            self._is_stuck = False
        return room

    def _wait_for_room(self, queued: _Queued) -> None:
        """Hold training up until the writer has caught up; count it, and say so once."""
        if self.n_waits == 0:
            log.warning(
                "training waits at step %d: captures come faster than they are scored and written, "
                "and %.2f GB of them are in memory; take fewer (every=, captures=) or smaller ones "
                "(max_mb=)",
                queued.capture.step,
                self._queued_bytes / 1e9,
            )
        self.n_waits += 1
        began = time.monotonic()
        # A disk that hangs is waited for once, not at every capture.
        wait_s = 0.0 if self._is_stuck else self._max_stall_s
        self._is_stuck = not self._changed.wait_for(lambda: self._has_room(queued), wait_s)
        self.waited_s += time.monotonic() - began

    # -- the thread --------------------------------------------------------------------------------

    def _write_all(self) -> None:
        while queued := self._next():
            try:
                self._write(queued)
            # A panic in an extension is no Exception, and a thread that ended would write nothing
            # more.
            except BaseException as error:
                step = queued.capture.step
                log.exception("the capture of step %d could not be written", step)
                self._lose(step, repr(error))
            finally:
                with self._changed:
                    self.busy_s = time.thread_time()
                    self._in_hand = None
                    self._changed.notify_all()

    def _next(self) -> _Queued | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._phase is not _Phase.OPEN)
            if not self._queue:
                return None
            self._in_hand = self._queue.popleft()
            self._queued_bytes -= self._in_hand.nbytes
            self._changed.notify_all()
            return self._in_hand

    def _write(self, queued: _Queued) -> None:
        raw = queued.capture
        prepared = self._prepared(raw)
        try:
            ref = self._written(prepared, queued)
        except CaptureFileError:
            if prepared is raw:
                raise
            log.exception(
                "the scored capture of step %d cannot be stored; the unscored capture is kept",
                raw.step,
            )
            ref = self._written(raw, queued)
        if ref:
            self._report_written(ref)

    def _prepared(self, raw: Capture) -> Capture:
        if self._prepare is None:
            return raw
        try:
            return self._prepare(raw)
        except BaseException:
            if not self._prepare_failed:
                log.exception(
                    "captures cannot be scored and reduced to their budget, "
                    "first at step %d; they are kept in full",
                    raw.step,
                )
            self._prepare_failed = True
            return raw

    def _written(self, capture: Capture, queued: _Queued) -> CaptureRef | None:
        """Write to the spool, trying again while the disk is full or away; after a capture was lost
        that way, later ones are tried once. A spool that was deleted is made again.

        Returns:
            The capture's reference; None if it was lost.

        Raises:
            CaptureFileError: its arrays are of a kind that a capture file does not hold.
        """
        deadline = None
        while self._phase is not _Phase.GIVEN_UP:
            try:
                self._note_loop_metrics(queued.capture)
                ref = self._spool.write(capture, taken=queued.taken)
            except OSError as error:
                if deadline is None:
                    deadline = time.monotonic() + DISK_PATIENCE_S
                    self._say_that_it_tries_again(error)
                if not self._disk_failed and time.monotonic() < deadline:
                    time.sleep(DISK_RETRY_S)
                elif not self._remade():
                    self._disk_failed = True
                    self._lose(capture.step, f"{self._spool.directory} cannot be written: {error}")
                    return None
            else:
                self._disk_failed = False
                return ref
        return None

    def _say_that_it_tries_again(self, error: OSError) -> None:
        if not self._disk_failed:
            log.warning(
                "the spool %s cannot be written (%s); trying again", self._spool.directory, error
            )

    def _remade(self) -> bool:
        """Make the spool again if it was deleted, and stayed so; return whether that was done."""
        try:
            if self._spool.exists():
                return False
            self._spool.remake()
        except OSError:
            return False
        log.error(
            "the spool %s was deleted, with all captures that were not uploaded "
            "yet; it is created again for later captures",
            self._spool.directory,
        )
        return True

    def _note_loop_metrics(self, raw: Capture) -> None:
        new_names = frozenset(raw.metrics) - self._loop_metrics
        if new_names:
            self._spool.note_loop_metrics(new_names)
            self._loop_metrics |= new_names

    def _lose(self, step: int, why: str) -> None:
        self.lost.append(step)
        log.error("the capture of step %d is lost: %s", step, why)


def _nbytes(capture: Capture) -> int:
    return sum(array.nbytes for array in capture.arrays.values())
