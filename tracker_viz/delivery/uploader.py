"""Brings one destination up to date with the spool, on a thread of its own. Started by the outbox
and by ``push``.

The order of every delivery: the captures go up, the journal notes them, their metrics go up, the
journal notes those, and only then may the spool drop the files. A kill between any two of these
repeats a call that is safe to repeat.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tracker_viz.capture_file import check_file
from tracker_viz.delivery.spool import Spool, StoredDestination
from tracker_viz.errors import (
    CaptureFileError,
    TrackerError,
    TrackerVizError,
    TransientTrackerError,
)
from tracker_viz.trackers import connect, tracker_class
from tracker_viz.trackers.base import Run, RunState, Tracker
from tracker_viz.trackers.run_config import RunConfig
from tracker_viz.trackers.sweep import is_in_sweep, parent_run
from tracker_viz.types import CaptureRef, RunRef

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 60.0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """How far one destination is.

    Attributes:
        sent: captures that it has confirmed, in this process or an earlier one.
        left: captures that wait in the spool for it.
        damaged: steps of which neither it nor the spool has a whole capture.
        error: why something is left, or what failed last; None when all is well.
    """

    name: str
    ref: RunRef | None
    url: str | None
    sent: int
    left: int
    damaged: tuple[int, ...]
    error: str | None

    @property
    def complete(self) -> bool:
        return self.left == 0 and self.error is None


class _PatienceEnded(Exception):
    """Internal: whoever waits for this uploader waits no longer."""


class Uploader:
    """One destination's thread and its state. All of the public methods may be called from any
    thread."""

    def __init__(
        self,
        spool: Spool,
        addressee: StoredDestination,
        tracker: Tracker | None,
        run: Run | None = None,
    ) -> None:
        self.name = addressee.name
        self.run = run
        self.failure: Exception | None = None
        self.steps_there: frozenset[int] = frozenset()
        self.nbytes_on_their_way = 0
        # Processor seconds that this thread took so far.
        self.busy_s = 0.0
        self._spool = spool
        self._addressee = addressee
        self._tracker = tracker
        self._journal = spool.journal(addressee.name)
        self._pending: dict[CaptureRef, float] = {}
        self._deferred: set[CaptureRef] = set()
        self._damaged: tuple[int, ...] = ()
        self._trouble: str | None = None
        self._existed = addressee.ref is not None
        self._doubtful = self._existed
        self._closing: RunState | None = None
        self._deadline: float | None = None
        self._changed = threading.Condition()
        self._settled = threading.Event()
        self._left_to_itself = False
        self._at_work = threading.Lock()
        self._dismissed = False
        self._thread = threading.Thread(
            target=self._work, name=f"tracker_viz-upload-{self.name}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def wait_settled(self, timeout_s: float) -> None:
        """Until the destination was reached, refused us or turned out to be away; raises what
        refused us."""
        self._left_to_itself = not self._settled.wait(timeout_s)
        if self.failure:
            raise self.failure

    def add(self, ref: CaptureRef) -> None:
        """A capture is in the spool."""
        with self._changed:
            self._pending.setdefault(ref, time.monotonic())
            self._changed.notify_all()

    def close(self, state: RunState, *, deadline: float) -> None:
        """Send what is left and end the run; give up at ``deadline`` (of ``time.monotonic``). Does
        not wait, see ``join``."""
        with self._changed:
            self._closing, self._deadline = state, deadline
            self._changed.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Whether the thread has ended, or never began."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def dismiss(self) -> None:
        """From the return on the thread changes nothing in the spool, whatever its tracker still
        answers. Before the spool is let go of.

        A request that hung may come back long after its time, when another process has the spool.
        """
        with self._at_work:
            self._dismissed = True

    def delivery(self) -> DeliveryStatus:
        with self._changed:
            left = len(self._pending) + len(self._deferred)
            damaged = self._damaged
            error = str(self.failure) if self.failure else self._trouble
            if self._deferred and error is None:
                error = f"{self.name} works offline in this process"
        url = self.run.url() if self.run else None
        return DeliveryStatus(
            self.name, self._addressee.ref, url, len(self._journal.captures), left, damaged, error
        )

    # -- the thread
    # -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            run = self._retried(self._open)
            self.run = run
            self._retried(lambda: self._join_sweep(run))
            self._retried(lambda: self._compare(run))
            self.busy_s = time.thread_time()
            self._settled.set()
            while chunk := self._next_chunk(run):
                self._retried(lambda: self._deliver(run, chunk))
                self.busy_s = time.thread_time()
            self._end(run)
        except _PatienceEnded:
            with self._changed:
                self._trouble = self._trouble or "out of time"
        except TrackerVizError as error:
            self._fail(error)
        except BaseException as error:
            # An adapter let something through that is not ours: training and the other destinations
            # must not feel it.
            log.exception("uploading to %s stopped", self.name)
            self._fail(error if isinstance(error, Exception) else TrackerError(repr(error)))
        finally:
            self._settled.set()

    @contextmanager
    def _in_spool(self) -> Iterator[None]:
        """Around all that changes the spool or the journal."""
        with self._at_work:
            if self._dismissed:
                raise _PatienceEnded
            yield

    def _fail(self, error: Exception) -> None:
        if self._dismissed:
            return
        with self._changed:
            self.failure = error
        # Before that, whoever waits for the start is told by an exception.
        if self._settled.is_set() or self._left_to_itself:
            log.error(
                "uploading to %s stopped: %s. Captures are kept in %s; once that is mended: %s",
                self.name, error, self._spool.directory, self._spool.push_command,
            )  # fmt: skip

    def _open(self) -> Run:
        if self.run:
            return self.run
        assert self._tracker is not None
        if self._addressee.ref:
            return self._tracker.open_run(self._addressee.ref, ours=self._addressee.ours)
        described = self._spool.run.description()
        parent = self._addressee.parent or parent_run(self._tracker)
        run = self._tracker.create_run(
            name=described["name"],
            config=RunConfig(described["config"], described.get("at_default", ())),
            tags=described["tags"],
            parent=parent,
            key=self._addressee.key,
        )
        with self._in_spool():
            self._addressee = self._spool.note_run(self.name, run.ref)
        if run.resumed:
            self._existed = self._doubtful = True
        return run

    def _join_sweep(self, run: Run) -> None:
        """Put a run that the user's own code made below the run of the sweep that this job is of.
        Without it the captures are still worth delivering."""
        if self._addressee.ours or not is_in_sweep():
            return
        if not tracker_class(run.ref.scheme).has_sweeps:
            return
        try:
            parent = parent_run(connect(run.ref.scheme, **run.sibling_options()))
            if parent is not None and parent != run.ref:
                run.set_parent(parent)
        except TransientTrackerError:
            raise
        except TrackerVizError as error:
            log.warning("%s is not put below the sweep's run: %s", run.ref, error)

    def _compare(self, run: Run) -> None:
        """Hold the spool and the journal against what the destination says it has."""
        here = self._spool.run.list_captures()
        gone = [ref for ref in self._journal.captures.values() if ref not in set(here)]
        missing: set[CaptureRef] = set()
        if self._existed:
            self.steps_there = frozenset(ref.step for ref in run.list_captures())
            missing = set(run.missing([*here, *gone]))
            with self._in_spool():
                self._journal.note_captures(
                    [ref for ref in here if ref not in missing and not self._journal.has(ref)]
                )
                self._journal.forget([ref for ref in here if ref in missing])
            self._doubtful = False
        left = [ref for ref in here if ref in missing or not self._journal.has_all_of(ref)]
        with self._changed:
            self._damaged = tuple(sorted(ref.step for ref in gone if ref in missing))
            for ref in left:
                self._pending.setdefault(ref, time.monotonic())
        for step in self._damaged:
            log.warning(
                "%s holds the capture of step %d damaged, and the spool no longer has it",
                self.name,
                step,
            )

    def _next_chunk(self, run: Run) -> list[CaptureRef]:
        """Wait until the tracker's chunk is full or its oldest capture has waited long enough;
        empty when all is done."""
        policy = run.chunk
        with self._changed:
            while True:
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    raise _PatienceEnded
                chunk: list[CaptureRef] = []
                nbytes = 0
                for ref in self._pending:
                    if chunk and nbytes + ref.nbytes > policy.nbytes:
                        break
                    chunk.append(ref)
                    nbytes += ref.nbytes
                    if len(chunk) == policy.captures:
                        break
                if self._closing is not None:
                    return chunk
                full = bool(chunk) and (
                    len(chunk) >= policy.captures
                    or len(chunk) < len(self._pending)
                    or nbytes >= policy.nbytes
                )
                waited_s = time.monotonic() - self._pending[chunk[0]] if chunk else 0.0
                if full or (chunk and waited_s >= policy.seconds):
                    return chunk
                self._changed.wait(policy.seconds - waited_s if chunk else None)

    def _deliver(self, run: Run, chunk: Sequence[CaptureRef]) -> None:
        whole = [ref for ref in chunk if self._is_whole(ref)]
        if run.online:
            self._put(run, whole)
        # A run that is not ours has the loop's own metrics already, from the user's logger.
        without = frozenset() if self._addressee.ours else self._spool.loop_metrics()
        names = [ref.file_name for ref in whole if ref.file_name not in self._journal.metrics]
        points = [
            self._spool.metric_point(ref, without=without)
            for ref in whole
            if ref.file_name in names
        ]
        points = [point for point in points if point.values]
        if points:
            run.log_metrics(points)
        with self._in_spool():
            self._journal.note_metrics(names)
            self._spool.remove_delivered(whole)
            with self._changed:
                self._damaged = tuple(
                    sorted({*self._damaged, *(ref.step for ref in chunk if ref not in whole)})
                )
                for ref in chunk:
                    self._pending.pop(ref, None)
                if not run.online:
                    self._deferred.update(whole)

    def _put(self, run: Run, refs: Sequence[CaptureRef]) -> None:
        refs = [ref for ref in refs if not self._journal.has(ref)]
        if self._doubtful:
            # An earlier attempt ended without an answer: some of it may have arrived.
            missing = set(run.missing(refs))
            with self._in_spool():
                self._journal.note_captures([ref for ref in refs if ref not in missing])
            refs = [ref for ref in refs if ref in missing]
        self._doubtful = True
        if refs:
            self.nbytes_on_their_way = sum(ref.nbytes for ref in refs)
            try:
                run.put_captures(self._spool.capture_paths(refs))
            finally:
                self.nbytes_on_their_way = 0
            with self._in_spool():
                self._journal.note_captures(refs)
        self._doubtful = False

    def _is_whole(self, ref: CaptureRef) -> bool:
        try:
            check_file(self._spool.path(ref), ref)
        except CaptureFileError as error:
            log.error(
                "the capture of step %d cannot be uploaded to %s: %s", ref.step, self.name, error
            )
            return False
        return True

    def _end(self, run: Run) -> None:
        summary: Mapping[str, Any] = self._spool.summary()
        state = self._closing
        assert state is not None
        if summary:
            self._retried(lambda: run.set_summary(summary))
        for name, rows in self._spool.tables().items():
            self._retried(lambda: run.put_table(rows, name))  # noqa: B023
        for artifact, file in self._spool.files().items():
            self._retried(lambda: run.put_file(file, artifact))  # noqa: B023
        self._retried(lambda: run.finish(state))

    def _retried(self, call: Callable[[], Result]) -> Result:
        """The one place where anything is retried, longer and longer apart: what the adapter calls
        transient, and our own disk's errors.

        A full disk becomes free by uploading, so that must not end with it.
        """
        pause_s = FIRST_RETRY_S
        away = self.name
        while True:
            was_closing = self._closing is not None
            if self._dismissed:
                raise _PatienceEnded
            try:
                result = call()
            except (TransientTrackerError, OSError) as error:
                if not isinstance(error, TransientTrackerError):
                    with self._in_spool():
                        self._spool.make_room()
                if self._trouble is None:
                    away = (
                        self.name
                        if isinstance(error, TransientTrackerError)
                        else "the spool's disk"
                    )
                    log.warning(
                        "%s is away (%s); captures wait in %s and go up when it is back",
                        away,
                        error,
                        self._spool.directory,
                    )
                with self._changed:
                    self._trouble = str(error)
                self._settled.set()
                with self._changed:
                    if self._closing is not None and not was_closing:
                        pause_s = FIRST_RETRY_S
                    wait_s = pause_s * random.uniform(0.75, 1.25)
                    if self._deadline is not None and time.monotonic() + wait_s >= self._deadline:
                        raise _PatienceEnded from error
                    self._changed.wait_for(
                        lambda: self._closing is not None and not was_closing,  # noqa: B023
                        wait_s,
                    )
                pause_s = min(2 * pause_s, LONGEST_RETRY_S)
            else:
                if self._trouble is not None:
                    log.info("%s is back", away)
                with self._changed:
                    self._trouble = None
                return result
