"""The calls that bring one run up to date with a spool. No thread and no retry: each call may
block, may raise, and may be repeated.

The order of every delivery: the captures go up, the journal notes them, their metrics go up, the
journal notes those, and only then may the spool drop the files. A kill between any two of these
repeats a call that is safe to repeat.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tracker_viz.capture_file import check_file
from tracker_viz.delivery.destinations import StoredDestination
from tracker_viz.delivery.points import alarms_of, logged_points, metric_point
from tracker_viz.delivery.spool import Spool
from tracker_viz.errors import (
    CaptureFileError,
    TrackerError,
    TrackerVizError,
    TransientTrackerError,
)
from tracker_viz.metrics import shown_summary
from tracker_viz.notebook import count
from tracker_viz.trackers import (
    Run,
    RunConfig,
    RunState,
    Tracker,
    connect,
    is_in_sweep,
    parent_run,
    tracker_class,
)
from tracker_viz.types import CaptureRef, capture_file_name, capture_step

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences between the spool and a run.

    Attributes:
        left: captures that the run lacks, wholly or their metrics.
        damaged: steps of which neither has a whole capture.
    """

    left: tuple[CaptureRef, ...]
    damaged: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of sending one chunk.

    Attributes:
        whole: captures that the run has now, or had to be deferred.
        damaged: steps whose file in the spool is not whole.
    """

    whole: tuple[CaptureRef, ...]
    damaged: tuple[int, ...]


class Transfer:
    """From one spool into one run.

    Args:
        tracker: opens or creates the run; None where ``run`` is open already.
        spool_access: entered around everything that changes the spool or the journal; it raises
            once the spool belongs to somebody else.
        may_replace: captures that a run which is not ours has already may be replaced, as somebody
            has looked at them; False trusts only those that the journal has.

    Attributes:
        run: None until ``open`` has succeeded.
        steps_before: steps that the run had captures of before this process sent any.
        nbytes_in_flight: size of what is being sent at this moment.
    """

    def __init__(
        self,
        spool: Spool,
        destination: StoredDestination,
        tracker: Tracker | None,
        run: Run | None,
        spool_access: Callable[[], AbstractContextManager[Any]],
        *,
        may_replace: bool,
    ) -> None:
        self.run = run
        self.destination = destination
        self.journal = spool.journal(destination.name)
        self.steps_before: frozenset[int] = frozenset()
        self.nbytes_in_flight = 0
        self._spool = spool
        self._tracker = tracker
        self._spool_access = spool_access
        self._may_replace = may_replace
        self._n_sends = 0
        self._existed = destination.ref is not None
        # Whether the run may have more than the journal says
        self._doubtful = self._existed

    def open(self) -> Run:
        """Open the run, or create it."""
        if self.run is None:
            self.run = self._opened()
        return self.run

    def n_unconfirmed(self) -> int:
        """Return how many captures of the spool the journal does not have as delivered; 0 while the
        disk is away."""
        try:
            here = self._spool.run.list_captures()
        except OSError:
            return 0
        return sum(not self.journal.has(ref) for ref in here)

    def compare(self, run: Run) -> Comparison:
        """Compare what the spool and the journal have with what the run says it has. Captures that
        turn out to be delivered leave the spool."""
        here = self._listed()
        in_spool = set(here)
        gone = [ref for ref in self.journal.captures.values() if ref not in in_spool]
        missing: set[CaptureRef] = set()
        if self._existed:
            self.steps_before = frozenset(ref.step for ref in run.list_captures())
            missing = self._missing(run, here, gone)
            with self._spool_access():
                self.journal.forget([ref for ref in here if ref in missing])
            self._doubtful = False

        left: list[CaptureRef] = []
        delivered: list[CaptureRef] = []
        for ref in here:
            is_left = ref in missing or not self.journal.has_all_of(ref)
            (left if is_left else delivered).append(ref)
        if delivered:
            # A kill came after the journal's last line and before they were deleted.
            with self._spool_access():
                self._spool.remove_delivered(delivered)
        return Comparison(tuple(left), self._damaged(gone, missing))

    def _missing(
        self, run: Run, here: Sequence[CaptureRef], gone: Sequence[CaptureRef] = ()
    ) -> set[CaptureRef]:
        """Ask the run which captures it lacks, and note in the journal which it has.

        Args:
            here: captures in the spool.
            gone: captures that the run confirmed and the spool deleted.
        """
        missing = set(run.missing([*here, *gone]))
        arrived = [ref for ref in here if ref not in missing and not self.journal.has(ref)]
        with self._spool_access():
            self.journal.note_captures(arrived)
        return missing

    def _damaged(self, gone: Sequence[CaptureRef], missing: set[CaptureRef]) -> tuple[int, ...]:
        """Return the steps whose captures are whole in neither place, each with a warning."""
        damaged = sorted(ref.step for ref in gone if ref in missing)
        for step in damaged:
            log.warning(
                "%s has a damaged capture of step %d, and the spool no longer has a copy",
                self.destination.name,
                step,
            )
        return tuple(damaged)

    def repeat_points(self, run: Run) -> None:
        """Send chart points again that a process before this one gave to a client, which may have
        been killed with them. Those that the service shows are not sent twice."""
        if run.confirms_points or not run.online or not self._existed:
            return
        unsure = set(self.journal.enqueued)
        unsure |= {ref.file_name for ref in self._listed() if not self.journal.has_metrics_of(ref)}
        known = logged_points(self._spool.run, without=self._names_of_loop())
        points = [known[step] for step in sorted(map(capture_step, unsure)) if step in known]
        if not points:
            return
        shown = run.shown_points(points)
        with self._spool_access():
            self.journal.note_metrics([capture_file_name(step) for step in sorted(shown)])
        # Points that were never given to a client go up with their captures.
        enqueued = set(map(capture_step, self.journal.enqueued))
        again = [point for point in points if point.step in enqueued]
        if again:
            points_again = count(len(again), "chart point")
            log.info("sending %s again to %s", points_again, self.destination.name)
            run.log_metrics([point for point in again if point.values])

    def join_sweep(self, run: Run) -> None:
        """Put a run that the user's own code made below the run of the sweep that this job is of.
        Without it the captures are still worth delivering."""
        if self.destination.ours or not (self.destination.parent or is_in_sweep()):
            return
        if not tracker_class(run.ref.scheme).has_sweeps:
            return
        try:
            parent = self.destination.parent
            if parent is None:
                parent = parent_run(connect(run.ref.scheme, **run.sibling_options()))
            if parent is not None and parent != run.ref:
                run.set_parent(parent)
        except TransientTrackerError:
            raise
        except TrackerVizError as error:
            log.warning("%s could not be put below the sweep's parent run: %s", run.ref, error)

    def send(self, run: Run, chunk: Sequence[CaptureRef]) -> Sent:
        """Send captures and their metrics. Where the run is offline, the captures stay in the
        spool.

        Raises:
            TrackerError: another training records into the run, too.
        """
        whole = [ref for ref in chunk if self._is_whole(ref)]
        if run.online:
            self._check_only_writer(run, whole)
            self._put(run, whole)
        logged = self._log_metrics(run, whole)
        with self._spool_access():
            self._note_logged(run, logged)
            self._spool.remove_delivered(whole)
        damaged = [ref.step for ref in chunk if ref not in whole]
        return Sent(tuple(whole), tuple(damaged))

    def last_calls(self, run: Run, state: RunState) -> Iterator[Callable[[], object]]:
        """Yield the calls that end a run, one after the other: summary, tables, files, state."""
        # An absent spool has no tables and no summary to send, which is no reason to end without.
        yield self._spool.check_there
        if run.online:
            yield partial(self._check_only_writer, run, ())
        if summary := self._spool.summary():
            yield partial(run.set_summary, shown_summary(summary))
        for name, rows in self._spool.tables().items():
            yield partial(run.put_table, rows, name)
        for artifact, file in self._spool.files().items():
            yield partial(run.put_file, file, artifact)
        yield partial(run.finish, state)
        yield partial(self._confirm_points, run)

    def _opened(self) -> Run:
        assert self._tracker is not None
        if self.destination.ref:
            return self._tracker.open_run(self.destination.ref, ours=self.destination.ours)

        description = self._spool.description()
        run = self._tracker.create_run(
            name=description["name"],
            config=RunConfig(description["config"], description.get("at_default", ())),
            tags=description["tags"],
            parent=self.destination.parent or parent_run(self._tracker),
            key=self.destination.key,
        )
        with self._spool_access():
            self.destination = self._spool.note_run(self.destination.name, run.ref)
        if run.resumed:
            # An earlier process may have stored captures in it.
            self._existed = self._doubtful = True
        return run

    def _check_only_writer(self, run: Run, refs: Sequence[CaptureRef]) -> None:
        """Compare what a run that is not ours lists with what we sent and are about to send. Two
        trainings that record into one run overwrite each other's captures."""
        # Listing a long run takes time: look at the sends 1, 2, 4, 8, ..., and at the end.
        self._n_sends += 1
        created_here = self.destination.ours and not run.resumed
        if created_here or (refs and self._n_sends.bit_count() > 1):
            return

        known = {*self.journal.captures.values(), *refs}
        steps = {ref.step for ref in known}
        if self._may_replace:
            steps -= self.steps_before
        for ref in run.list_captures():
            if ref.step in steps and ref not in known:
                raise TrackerError(
                    f"{run.ref} has a capture of step {ref.step} from another "
                    "training run, and the two would overwrite each other: give "
                    "this one a separate run"
                )

    def _put(self, run: Run, refs: Sequence[CaptureRef]) -> None:
        """Store captures that the journal does not have, and note them there."""
        refs = [ref for ref in refs if not self.journal.has(ref)]
        if self._doubtful:
            # An earlier attempt ended without an answer: some of it may have arrived.
            missing = self._missing(run, refs)
            refs = [ref for ref in refs if ref in missing]

        self._doubtful = True
        if refs:
            self.nbytes_in_flight = sum(ref.nbytes for ref in refs)
            try:
                run.put_captures(self._spool.capture_paths(refs))
            finally:
                self.nbytes_in_flight = 0
            with self._spool_access():
                self.journal.note_captures(refs)
        self._doubtful = False

    def _note_logged(self, run: Run, file_names: Sequence[str]) -> None:
        if run.confirms_points:
            self.journal.note_metrics(file_names)
        else:
            self.journal.note_enqueued(file_names)

    def _confirm_points(self, run: Run) -> None:
        """Note the points that a client took: it has sent them all where the run was ended here."""
        waiting = sorted(self.journal.enqueued)
        if not waiting or not run.online:
            return
        if self.destination.ours:
            with self._spool_access():
                self.journal.note_metrics(waiting)
            return
        log.info(
            "the client of %s queues %s, to be sent before the run ends; if it is killed first, "
            "run: %s",
            self.destination.name,
            count(len(waiting), "chart point"),
            self._spool.push_command,
        )

    def _log_metrics(self, run: Run, refs: Sequence[CaptureRef]) -> list[str]:
        """Log the metrics of captures that were not logged before; return their file names."""
        new = [ref for ref in refs if not self.journal.has_metrics_of(ref)]
        # The alarms first: all of this is repeated where one fails, which would double the points.
        for ref in new:
            self._send_alarms(run, ref)
        without = self._names_of_loop()
        points = [metric_point(self._spool.run, ref, without=without) for ref in new]
        points = [point for point in points if point.values]
        if points:
            run.log_metrics(points)
        return [ref.file_name for ref in new]

    def _send_alarms(self, run: Run, ref: CaptureRef) -> None:
        """Send the alarms that begin with a capture. A tracker that takes none still gets the
        captures."""
        try:
            for alarm in alarms_of(self._spool.run, ref):
                run.alert(alarm.kind, alarm.step, alarm.sentence)
        except TransientTrackerError:
            raise
        except TrackerVizError as error:
            log.warning(
                "the alarm of step %d could not be sent to %s: %s", ref.step, run.ref, error
            )

    def _names_of_loop(self) -> frozenset[str]:
        """Return the metrics that a run which is not ours has already, from the user's logger."""
        if self.destination.ours:
            return frozenset()
        return self._spool.loop_metrics()

    def _listed(self) -> list[CaptureRef]:
        """Return the captures of the spool.

        Raises:
            OSError: it is away.
        """
        self._spool.check_there()
        here = self._spool.run.list_captures()
        self._spool.check_there()
        return here

    def _is_whole(self, ref: CaptureRef) -> bool:
        """Return whether the spool has the capture whole.

        Raises:
            OSError: it is away.
        """
        self._spool.check_there()
        try:
            check_file(self._spool.path(ref), ref)
        except CaptureFileError as error:
            self._spool.check_there()
            log.error(
                "the capture of step %d cannot be uploaded to %s: %s",
                ref.step,
                self.destination.name,
                error,
            )
            return False
        return True
