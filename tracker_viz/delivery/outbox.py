"""Captures from the training thread -> the spool -> every destination. ``Outbox.submit`` is the
Recorder's sink.

    training thread ──submit──▶ queue ──writer thread──▶ spool (on disk)
                                                           └──one uploader thread each──▶ trackers

The training thread never waits for a tracker, and for our own disk ``max_stall_s`` at most.
``push`` finishes, from another process, what a killed or offline one left in its spool.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tracker_viz import commands
from tracker_viz.delivery.destinations import Destination, connected
from tracker_viz.delivery.report import Progress, Report, close_all, warn_of_what_is_left
from tracker_viz.delivery.spool import Spool
from tracker_viz.delivery.spool_writer import QUEUE_BYTES, SpoolWriter
from tracker_viz.delivery.uploader import Uploader
from tracker_viz.errors import ConfigError
from tracker_viz.files import user_path
from tracker_viz.trackers import Cell, LocalRun, Run, RunState, state_after
from tracker_viz.types import Capture, CaptureRef, RunRef

log = logging.getLogger(__name__)

REFUSED_PATIENCE_S = 5.0
# A tracker that fails at every call while the run ends is left to push after this.
AWAY_PATIENCE_S = 20.0


class Outbox:
    """The sink of a Recorder's captures. Close it, or use it as a context manager.

    Args:
        directory: the spool; one that an earlier process left is continued, into the same runs.
        destinations: trackers, or runs that are open already (joined, never ended). ``local``
            without a directory of its own is the spool itself, which then keeps its captures; so is
            an empty list.
        name, config, tags: for runs that are created here.
        prepare: turns a raw capture into the one that is kept (scores, then the budget's cuts);
            runs on the writer thread.
        keep_captures: keep capture files in the spool after every destination has confirmed them.
            They would let ``push`` repair a server's damage and ``local:<spool>`` render without a
            network, for a second copy of every byte; a sweep of long runs fills a training
            machine's disk that way, which costs more than either is worth, so the default is to
            drop what is confirmed. Without any destination everything is kept.
        start_timeout_s: how long to wait here for trackers that neither answer nor refuse; they are
            reached later.
        max_stall_s: how long ``submit`` may wait for the disk before that capture is given up.
        queue_bytes: arrays in memory that wait for the writer; when more come, ``submit`` waits.

    Raises:
        ConfigError, MissingDependencyError, RunNotFoundError, TrackerError: what waiting cannot
            fix, before any training.
        RunActiveError: another process works in this spool.
    """

    def __init__(
        self,
        directory: str | Path,
        destinations: Sequence[Destination | Run] = (),
        *,
        name: str,
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        prepare: Callable[[Capture], Capture] | None = None,
        keep_captures: bool = False,
        start_timeout_s: float = 15.0,
        max_stall_s: float = 60.0,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._max_stall_s = max_stall_s
        self._report: Report | None = None
        self._written: dict[int, CaptureRef] = {}
        self._pid = os.getpid()
        self._spool = Spool(directory)
        self._is_destination = not destinations
        self._uploaders: list[Uploader] = []
        self._lock = self._spool.lock("training", wait_s=start_timeout_s)
        try:
            # With the lock held: of two processes that start at once, the second must not overwrite
            # what the first has noted.
            self._spool.create(name=name, config=config or {}, tags=tags or {})
            if keep_captures:
                self._spool.keep_captures()
            self._add_uploaders(destinations)
            self._start_uploaders(start_timeout_s)
            self._spool.note_state("running")
            self._writer = SpoolWriter(
                self._spool,
                prepare,
                self._announce,
                max_stall_s=max_stall_s,
                queue_bytes=queue_bytes,
            )
        except BaseException:
            self._abandon()
            raise
        self._at_exit = _drain_at_exit(weakref.ref(self))

    # -- while training ----------------------------------------------------------------------------

    def submit(self, capture: Capture) -> None:
        """Take over one capture; returns in microseconds unless the disk is far behind. Its arrays
        must not change afterwards."""
        if self.in_fork:
            raise ConfigError(
                f"captures are taken by the process that opened the spool ({self._pid}); this is a "
                f"fork of it ({os.getpid()})"
            )
        self._writer.enqueue(capture)

    def set_summary(self, values: Mapping[str, float | int | str]) -> None:
        """Keep final values for the trackers' tables of runs; ``close``, or ``push``, sends
        them."""
        self._spool.run.set_summary(values)

    def put_table(self, rows: Sequence[Mapping[str, Cell]], name: str) -> None:
        """Keep a final table for the trackers' own pages; ``close``, or ``push``, sends it."""
        self._spool.put_table(rows, name)

    def put_file(self, contents: bytes, artifact: str) -> None:
        """Keep a final file for the runs, under the path that it has there; ``close``, or
        ``push``, sends it."""
        self._spool.put_file(contents, artifact)

    @property
    def written(self) -> dict[int, CaptureRef]:
        """Step -> capture, for those that this process submitted and that reached the spool;
        complete after ``flush``."""
        return dict(self._written)

    @property
    def captured_steps(self) -> frozenset[int]:
        """Steps that need no capture: they are in the spool, or in all of the runs that are
        joined."""
        steps = self._spool.known_steps()
        if self._uploaders:
            in_runs = [uploader.steps_before for uploader in self._uploaders]
            steps |= frozenset.intersection(*in_runs)
        return steps

    @property
    def holds_captures(self) -> bool:
        """True: the spool or one of the runs had captures before this process submitted any."""
        in_runs = any(uploader.steps_before for uploader in self._uploaders)
        return in_runs or bool(self._spool.known_steps())

    @property
    def background_s(self) -> float:
        """Processor seconds that scoring, writing and uploading took so far, on our threads."""
        return self._writer.busy_s + sum(uploader.busy_s for uploader in self._uploaders)

    @property
    def in_fork(self) -> bool:
        """True in a fork of the process that opened the spool: a fork has neither the threads nor
        the spool."""
        return os.getpid() != self._pid

    @property
    def closed(self) -> bool:
        """True once ``close`` was called: from then on the spool may belong to another process."""
        return self._report is not None

    @property
    def directory(self) -> Path:
        return self._spool.directory

    @property
    def run(self) -> LocalRun:
        """The spool, seen as a local run."""
        return self._spool.run

    @property
    def runs(self) -> list[Run]:
        """The destinations' runs that were reached so far; the spool itself where it is one of
        them, or the only one."""
        reached: list[Run] = [uploader.run for uploader in self._uploaders if uploader.run]
        if self._is_destination:
            reached.append(self._spool.run)
        return reached

    @property
    def joined_runs(self) -> list[Run]:
        """The runs of ``runs`` that the user's own code made."""
        joined = [uploader for uploader in self._uploaders if not uploader.ours]
        return [uploader.run for uploader in joined if uploader.run]

    @property
    def refs(self) -> list[RunRef]:
        return [run.ref for run in self.runs]

    def hold_captures(self) -> AbstractContextManager[Any]:
        """Hold this while listing the spool's captures and reading them: nothing is deleted until
        you leave."""
        return self._spool.hold_captures()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything that was submitted is in the spool, on the disk; return whether it
        is."""
        return self._writer.flush(timeout_s)

    @property
    def push_command(self) -> str | None:
        """The command that uploads what is on the disk by now, from any directory; None where no
        tracker waits for it."""
        return self._spool.push_command if self._uploaders else None

    def _announce(self, ref: CaptureRef) -> None:
        self._written[ref.step] = ref
        for uploader in self._uploaders:
            uploader.add(ref)

    # -- the end -----------------------------------------------------------------------------------

    def close(
        self,
        state: RunState = "finished",
        *,
        timeout_s: float = 120.0,
        progress: Progress | None = None,
    ) -> Report:
        """Write and upload what is left, end the runs that are ours, and report what could not be
        done. Safe to repeat.

        In a fork, which may leave a ``with`` block that it never entered, this does nothing.

        Args:
            timeout_s: how long to wait for the trackers; what is left then stays in the spool. One
                that is away is waited for 20 s.
            progress: called now and then with (captures delivered, captures in all), over all
                destinations.
        """
        if self._report:
            return self._report
        if self.in_fork:
            return Report((), (), None)
        deadline = time.monotonic() + timeout_s
        self._writer.stop(timeout_s + self._max_stall_s)
        lost = tuple(self._writer.lost)
        try:
            self._note_state(state)
            self._report = close_all(
                self._spool,
                self._uploaders,
                state,
                deadline,
                progress,
                lost=lost,
                away_s=AWAY_PATIENCE_S,
            )
            warn_of_what_is_left(self._report, self._spool)
        finally:
            if self._report is None:
                # A second Ctrl-C, for example; what is left is for push.
                self._report = self._unfinished(lost)
            self._lock.release()
            atexit.unregister(self._at_exit)
        return self._report

    def __enter__(self) -> Outbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        self.close(state_after(kind))

    def _note_state(self, state: RunState) -> None:
        try:
            self._spool.note_state(state)
        except OSError as error:
            log.error(
                "the run's state (%s) could not be saved in %s: %s", state, self.directory, error
            )

    def _unfinished(self, lost: tuple[int, ...]) -> Report:
        if not self._uploaders:
            return Report((), lost, None)
        log.warning(
            "did not wait for the uploads; the rest is kept in %s. Upload it with: %s",
            self.directory,
            self._spool.push_command,
        )
        statuses = tuple(uploader.status() for uploader in self._uploaders)
        return Report(statuses, lost, self._spool.push_command)

    # -- starting ----------------------------------------------------------------------------------

    def _add_uploaders(self, destinations: Sequence[Destination | Run]) -> None:
        counts: Counter[str] = Counter()
        for given in destinations:
            destination = Destination.joining(given) if isinstance(given, Run) else given
            scheme = destination.scheme
            counts[scheme] += 1
            if self._is_spool(destination):
                self._is_destination = True
                self._spool.keep_captures()
                continue

            found = connected(destination)
            name = scheme if counts[scheme] == 1 else f"{scheme}-{counts[scheme]}"
            stored = self._spool.add_destination(found.stored_as(name))
            uploader = Uploader(self._spool, stored, found.tracker, found.run, may_replace=True)
            self._uploaders.append(uploader)

    def _start_uploaders(self, timeout_s: float) -> None:
        for uploader in self._uploaders:
            uploader.start()
        deadline = time.monotonic() + timeout_s
        for uploader in self._uploaders:
            uploader.wait_started(max(0.0, deadline - time.monotonic()))

    def _abandon(self) -> None:
        """Undo a start that failed: a run that one tracker created a moment ago must not look as if
        it were running."""
        try:
            for uploader in self._uploaders:
                uploader.close("failed", deadline=time.monotonic() + REFUSED_PATIENCE_S)
            for uploader in self._uploaders:
                uploader.join(REFUSED_PATIENCE_S)
        finally:
            for uploader in self._uploaders:
                uploader.dismiss()
            self._lock.release()

    def _is_spool(self, destination: Destination) -> bool:
        if destination.run is not None:
            return destination.run.ref == self._spool.run.ref
        if destination.scheme != "local":
            return False
        wanted = destination.options.get("directory")
        if destination.ref:
            wanted = destination.ref.path
        return wanted is None or user_path(wanted) == self._spool.directory


def _drain_at_exit(outbox: weakref.ref[Outbox]) -> Callable[[], None]:
    """Make a program that ends without ``close`` leave all of its captures on the disk."""

    def drain() -> None:
        left = outbox()
        if left is None or left.closed or left.in_fork:
            return
        left._writer.stop(left._max_stall_s)
        if not left._uploaders:
            log.warning(
                "training ended without close(); its captures are kept in %s. Make the video "
                "with: %s",
                left.directory,
                commands.render(left.run.ref, left.run.environment),
            )
            return
        log.warning(
            "training ended without close(); captures that were not uploaded are "
            "kept in %s. Upload them with: %s",
            left.directory,
            left._spool.push_command,
        )

    atexit.register(drain)
    return drain
