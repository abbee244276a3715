"""Captures from the training thread -> the spool -> every destination. ``Outbox.put`` is the
Recorder's sink.

    training thread ──put──▶ queue ──writer thread──▶ spool (on disk) ──one uploader thread per
    destination──▶ trackers

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracker_viz.delivery.report import Report, close_all
from tracker_viz.delivery.spool import Spool, StoredDestination
from tracker_viz.delivery.spool_writer import SpoolWriter
from tracker_viz.delivery.uploader import Uploader
from tracker_viz.errors import ConfigError
from tracker_viz.trackers import connect
from tracker_viz.trackers.base import Cell, Run, RunState, Tracker
from tracker_viz.trackers.local import LocalRun
from tracker_viz.types import Capture, CaptureRef, RunRef

log = logging.getLogger(__name__)

REFUSED_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Destination:
    """A tracker to send captures to.

    Attributes:
        scheme: ``mlflow``, ``wandb`` or ``local``.
        options: the adapter's own (``tracking_uri``, ``experiment``, ``project``, ...).
        ref: the run to join; None makes one, or joins the one that the user's own code has open
            when ``join_active``.
        ours: the run is ours to end; None says so of a run that we make, and of no other.
        parent: the sweep's run above a run that we make.
    """

    scheme: str
    options: Mapping[str, Any] = field(default_factory=dict)
    ref: RunRef | None = None
    ours: bool | None = None
    parent: RunRef | None = None
    join_active: bool = True


class Outbox:
    """Where a Recorder puts its captures. Close it, or use it as a context manager.

    Args:
        directory: the spool; one that an earlier process left is gone on with, into the same runs.
        destinations: trackers, or runs that are open already (joined, never ended). ``local``
            without a directory of its own is the spool itself, which then keeps its captures; so is
            an empty list.
        name, config, tags: for runs that are made here.
        prepare: turns a raw capture into the one that is kept (scores, then the budget's cuts);
            runs on the writer thread.
        keep_captures: keep capture files in the spool after every destination has confirmed them.
            They would let ``push`` repair a server's damage and ``local:<spool>`` render without a
            network, for a second copy of every byte; a sweep of long runs fills a training
            machine's disk that way, which costs more than either is worth, so the default is to
            drop what is confirmed. Without any destination everything is kept.
        start_timeout_s: how long to wait here for trackers that neither answer nor refuse; they are
            reached later.
        max_stall_s: how long ``put`` may wait for the disk before that capture is given up.
        queue_captures: captures in memory that wait for the writer.

    Raises:
        ConfigError, MissingDependencyError, RunNotFoundError, TrackerError: what waiting cannot
            mend, before any training.
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
        queue_captures: int = 8,
    ) -> None:
        self._max_stall_s = max_stall_s
        self._report: Report | None = None
        self._written: dict[int, CaptureRef] = {}
        self._pid = os.getpid()
        self._spool = Spool(directory)
        self._uploaders: list[Uploader] = []
        self._lock = self._spool.take("training", wait_s=start_timeout_s)
        try:
            # Only now: of two processes that start at once, the second must not write over what the
            # first has noted.
            self._spool.create(name=name, config=config or {}, tags=tags or {})
            if keep_captures:
                self._spool.keep_captures()
            self._is_destination = not destinations
            self._uploaders = self._uploaders_to(destinations)
            self._start_uploaders(start_timeout_s)
            self._spool.note_state("running")
            self._writer = SpoolWriter(
                self._spool,
                prepare,
                self._announce,
                max_stall_s=max_stall_s,
                queue_captures=queue_captures,
            )
        except BaseException:
            self._abandon()
            raise
        self._at_exit = _drain_at_exit(weakref.ref(self))

    # -- while training
    # -------------------------------------------------------------------------------------

    def put(self, capture: Capture) -> None:
        """Take one capture over; returns in microseconds unless the disk is far behind. Its arrays
        must not change afterwards."""
        if self.in_fork:
            raise ConfigError(
                f"captures are taken by the process that opened the spool ({self._pid}); this is a "
                f"fork of it ({os.getpid()})"
            )
        self._writer.put(capture)

    def set_summary(self, values: Mapping[str, float | int | str]) -> None:
        """Final values for the trackers' tables of runs; sent by ``close``, or by ``push``."""
        self._spool.run.set_summary(values)

    def put_table(self, rows: Sequence[Mapping[str, Cell]], name: str) -> None:
        """A final table for the trackers' own pages; sent by ``close``, or by ``push``."""
        self._spool.put_table(rows, name)

    def put_file(self, contents: bytes, artifact: str) -> None:
        """A final file for the runs, under the path that it has there; sent by ``close``, or by
        ``push``."""
        self._spool.put_file(contents, artifact)

    @property
    def written(self) -> dict[int, CaptureRef]:
        """Step -> its capture, of those that this process put and that lay in the spool once; whole
        after ``flush``."""
        return dict(self._written)

    @property
    def captured_steps(self) -> frozenset[int]:
        """Steps that need no capture: they are in the spool, or in all of the runs that are
        joined."""
        there = [uploader.steps_there for uploader in self._uploaders]
        return self._spool.known_steps() | (
            frozenset.intersection(*there) if there else frozenset()
        )

    @property
    def holds_captures(self) -> bool:
        """Whether the spool or one of the runs had captures before this process put any."""
        in_runs = any(uploader.steps_there for uploader in self._uploaders)
        return in_runs or bool(self._spool.known_steps())

    @property
    def background_s(self) -> float:
        """Processor seconds that scoring, writing and uploading took so far, on our threads."""
        return self._writer.busy_s + sum(uploader.busy_s for uploader in self._uploaders)

    @property
    def in_fork(self) -> bool:
        """Whether this is a fork of the process that opened the spool: it has neither the threads
        nor the spool."""
        return os.getpid() != self._pid

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called: from then on the spool is somebody else's."""
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
        return [uploader.run for uploader in self._uploaders if uploader.run] + [
            self._spool.run
        ] * self._is_destination

    def hold_captures(self) -> AbstractContextManager[Any]:
        """As ``Spool.hold_captures``."""
        return self._spool.hold_captures()

    @property
    def refs(self) -> list[RunRef]:
        return [run.ref for run in self.runs]

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything that was put lies in the spool, on the disk; whether it does."""
        return self._writer.flush(timeout_s)

    def _announce(self, ref: CaptureRef) -> None:
        self._written[ref.step] = ref
        for uploader in self._uploaders:
            uploader.add(ref)

    # -- the end
    # --------------------------------------------------------------------------------------------

    def close(
        self,
        state: RunState = "finished",
        *,
        timeout_s: float = 120.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Report:
        """Write and upload what is left, end the runs that are ours, and say what could not be
        done. Repeating it is harmless.

        In a fork, which may leave a ``with`` block that it never entered, this does nothing.

        Args:
            timeout_s: how long to wait for the trackers; what is left then stays in the spool.
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
            try:
                self._spool.note_state(state)
            except OSError as error:
                log.error(
                    "that the run is %s could not be noted in %s: %s", state, self.directory, error
                )
            self._report = close_all(
                self._spool, self._uploaders, state, deadline, progress, lost=lost
            )
        finally:
            if (
                self._report is None
            ):  # somebody would not wait (a second Ctrl-C), and what is left is for push
                self._report = Report(
                    tuple(uploader.delivery() for uploader in self._uploaders),
                    lost,
                    self._spool.push_command,
                )
                log.warning(
                    "the end was not waited for; what is not uploaded is kept in %s: %s",
                    self.directory,
                    self._report.command,
                )
            self._lock.release()
            atexit.unregister(self._at_exit)
        return self._report

    def __enter__(self) -> Outbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        stopped_by_hand = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.close("finished" if kind is None else "killed" if stopped_by_hand else "failed")

    # -- starting
    # -------------------------------------------------------------------------------------------

    def _uploaders_to(self, destinations: Sequence[Destination | Run]) -> list[Uploader]:
        names: Counter[str] = Counter()
        uploaders = []
        for destination in destinations:
            tracker, run = _reach(destination)
            scheme = run.ref.scheme if run else destination.scheme  # type: ignore[union-attr]
            names[scheme] += 1
            name = scheme if names[scheme] == 1 else f"{scheme}-{names[scheme]}"
            if self._is_spool(destination, run):
                self._is_destination = True
                self._spool.keep_captures()
                continue
            addressee = self._spool.address(_addressee(name, destination, tracker, run))
            uploaders.append(Uploader(self._spool, addressee, tracker, run))
        return uploaders

    def _start_uploaders(self, timeout_s: float) -> None:
        for uploader in self._uploaders:
            uploader.start()
        deadline = time.monotonic() + timeout_s
        for uploader in self._uploaders:
            uploader.wait_settled(max(0.0, deadline - time.monotonic()))

    def _abandon(self) -> None:
        """After a start that failed: a run that one tracker made a moment ago must not look as if
        it were going on."""
        try:
            for uploader in self._uploaders:
                uploader.close("failed", deadline=time.monotonic() + REFUSED_PATIENCE_S)
            for uploader in self._uploaders:
                uploader.join(REFUSED_PATIENCE_S)
        finally:
            for uploader in self._uploaders:
                uploader.dismiss()
            self._lock.release()

    def _is_spool(self, destination: Destination | Run, run: Run | None) -> bool:
        if isinstance(destination, Destination) and destination.scheme == "local" and run is None:
            wanted = (
                destination.ref.path if destination.ref else destination.options.get("directory")
            )
            return wanted is None or Path(wanted).absolute() == self._spool.directory
        return run is not None and run.ref == self._spool.run.ref


def _reach(destination: Destination | Run) -> tuple[Tracker | None, Run | None]:
    """A destination's tracker, and the run where one is open already. On the caller's thread: an
    SDK's active run is its thread's."""
    if not isinstance(destination, Destination):
        return None, destination
    if (
        destination.scheme == "local"
        and not destination.options.get("directory")
        and destination.ref is None
    ):
        return None, None
    tracker = connect(destination.scheme, **destination.options)
    active = tracker.active_run() if destination.ref is None and destination.join_active else None
    return tracker, active


def _addressee(
    name: str, destination: Destination | Run, tracker: Tracker | None, run: Run | None
) -> StoredDestination:
    if run is not None:
        return StoredDestination(name, run.ref.scheme, dict(run.environment), run.ref, ours=False)
    assert isinstance(destination, Destination)
    assert tracker is not None
    ours = destination.ref is None if destination.ours is None else destination.ours
    return StoredDestination(
        name,
        destination.scheme,
        dict(tracker.options),
        destination.ref,
        ours=ours,
        parent=destination.parent,
    )


def _drain_at_exit(outbox: weakref.ref[Outbox]) -> Callable[[], None]:
    """A program that ends without ``close`` still leaves all of its captures on the disk."""

    def drain() -> None:
        left = outbox()
        if left is None or left.closed or left.in_fork:
            return
        left._writer.stop(left._max_stall_s)
        log.warning(
            "training ended without close(); what is not uploaded is kept in %s: %s",
            left.directory,
            left._spool.push_command,
        )

    atexit.register(drain)
    return drain
