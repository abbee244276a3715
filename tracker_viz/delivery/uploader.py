"""Keep one destination up to date with the spool, on a thread of its own. Started by the outbox and
by ``push``. ``transfer.py`` makes the calls; here they are timed, retried and ended.

    STARTING ──reached──▶ UPLOADING ──finished──▶ FINISHED
        │                  │     ▲
        └────lost──▶ AWAY ◀┘     │
                      └───back───┘

    any of the three on the left ──refused──▶ FAILED        waiting cannot help
                                 ──expired──▶ EXPIRED       the deadline passed
                                 ──dismissed─▶ DISMISSED    the spool belongs to somebody else
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

from tracker_viz.delivery.backlog import Backlog
from tracker_viz.delivery.delivery_status import DeliveryStatus
from tracker_viz.delivery.destinations import StoredDestination
from tracker_viz.delivery.spool import Spool
from tracker_viz.delivery.transfer import Transfer
from tracker_viz.errors import (
    RunNotFoundError,
    TrackerError,
    TrackerVizError,
    TransientTrackerError,
)
from tracker_viz.trackers import Run, RunState, Tracker
from tracker_viz.types import CaptureRef

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 60.0

Result = TypeVar("Result")


class State(Enum):
    """The state of an uploader. It changes only in the methods of ``Uploader`` that the module's
    diagram names."""

    STARTING = auto()
    UPLOADING = auto()
    AWAY = auto()
    FINISHED = auto()
    FAILED = auto()
    EXPIRED = auto()
    DISMISSED = auto()


ACTIVE = frozenset({State.STARTING, State.UPLOADING, State.AWAY})


@dataclass(frozen=True, slots=True)
class _Ending:
    """The state to end the run in, and until when (of ``time.monotonic``) to try.

    Attributes:
        away_s: how long a tracker is waited for that fails at every call; None: until the deadline.
    """

    state: RunState
    deadline: float
    away_s: float | None = None


class _Stop(Exception):
    """Internal: nobody waits for this uploader any longer."""


class Uploader:
    """One destination's thread and its state. All public methods may be called from any thread.

    Args:
        tracker, run, may_replace: see ``Transfer``.
    """

    def __init__(
        self,
        spool: Spool,
        destination: StoredDestination,
        tracker: Tracker | None,
        run: Run | None = None,
        *,
        may_replace: bool = False,
    ) -> None:
        self.name = destination.name
        self._spool = spool
        self._transfer = Transfer(
            spool, destination, tracker, run, self._spool_access, may_replace=may_replace
        )
        # Processor seconds that the thread took so far
        self.busy_s = 0.0
        # Held by the thread while it changes the spool
        self._in_spool = threading.Lock()
        # The rest is guarded by _changed.
        self._changed = threading.Condition()
        self._state = State.STARTING
        self._error: Exception | None = None
        self._is_error_logged = False
        self._backlog = Backlog()
        self._compared = False
        self._ending: _Ending | None = None
        self._thread = threading.Thread(
            target=self._work, name=f"tracker_viz-upload-{self.name}", daemon=True
        )

    @property
    def run(self) -> Run | None:
        """The run, once it was reached."""
        return self._transfer.run

    @property
    def steps_before(self) -> frozenset[int]:
        """Steps that the run had captures of before this process sent any."""
        return self._transfer.steps_before

    @property
    def nbytes_in_flight(self) -> int:
        """Size of what is being sent at this moment."""
        return self._transfer.nbytes_in_flight

    @property
    def ours(self) -> bool:
        """True: we created the run and end it; False: it is the user's own."""
        return self._transfer.destination.ours

    def start(self) -> None:
        self._thread.start()

    def wait_started(self, timeout_s: float) -> None:
        """Wait until the destination was reached, refused us or turned out to be away.

        Raises:
            TrackerVizError: it refused us.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._state is not State.STARTING, timeout_s)
            if self._state is State.STARTING:
                self._state = State.AWAY
            if self._state is State.FAILED and self._error is not None:
                raise self._error

    def add(self, ref: CaptureRef) -> None:
        """Send a capture that is in the spool now."""
        with self._changed:
            self._backlog.add(ref)
            self._changed.notify_all()

    def close(self, state: RunState, *, deadline: float, away_s: float | None = None) -> None:
        """Send what is left and end the run. Does not wait, see ``join``. A later call moves the
        deadline.

        Args:
            deadline: when to give up (of ``time.monotonic``).
            away_s: give up earlier where every call fails for so many seconds; None: do not.
        """
        with self._changed:
            self._ending = _Ending(state, deadline, away_s)
            self._changed.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Return whether the thread has ended, or never began."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def dismiss(self) -> None:
        """Make sure that the thread changes nothing in the spool any more, whatever its tracker
        answers. Call it before the spool is released.

        A request that hung may return long after its time, when another process has the spool.
        """
        with self._in_spool, self._changed:
            if self._state in ACTIVE:
                self._state = State.DISMISSED

    def status(self) -> DeliveryStatus:
        with self._changed:
            left = self._backlog.n_left
            if not self._compared:
                # The run was never asked what it has: all that is not confirmed is left.
                left = max(left, self._transfer.n_unconfirmed())
            damaged = tuple(sorted(self._backlog.damaged))
            error = None if self._error is None else str(self._error)
            refused = self._state is State.FAILED
            if self._backlog.deferred and error is None:
                assert self.run is not None  # it was asked
                error = self.run.why_offline()
        run, ref = self.run, self._transfer.destination.ref
        url = run.url() if run else None
        sent = len(self._transfer.journal.captures)
        return DeliveryStatus(
            self.name, ref, url, sent, left, damaged, error, refused, self._is_error_logged
        )

    # -- the thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            run = self._retried(self._transfer.open)
            self._retried(run.remove_torn)
            self._retried(lambda: self._transfer.join_sweep(run))
            self._retried(lambda: self._compare(run))
            self._retried(lambda: self._transfer.repeat_points(run))
            self._reached()
            while chunk := self._next_chunk(run):
                self.busy_s = time.thread_time()
                self._retried(lambda: self._send(run, chunk))
            self._end(run)
            self._finished()
        except _Stop:
            self._expired()
        except TrackerVizError as error:
            self._refused(error)
        except BaseException as error:
            # An adapter let something through that is not ours: training and the other destinations
            # must not feel it.
            log.exception("uploading to %s stopped", self.name)
            self._refused(error if isinstance(error, Exception) else TrackerError(repr(error)))

    def _compare(self, run: Run) -> None:
        found = self._transfer.compare(run)
        with self._changed:
            self._compared = True
            self._backlog.damaged.update(found.damaged)
            for ref in found.left:
                self._backlog.add(ref)

    def _next_chunk(self, run: Run) -> list[CaptureRef]:
        """Wait until the tracker's chunk is full or its oldest capture has waited long enough;
        return an empty one when all is done."""
        policy = run.chunk
        with self._changed:
            while True:
                if self._ending is not None and time.monotonic() >= self._ending.deadline:
                    raise _Stop
                chunk = self._backlog.next_chunk(policy)
                wait_s = self._backlog.due_in_s(chunk, policy)
                if self._ending is not None or wait_s == 0:
                    return chunk
                self._changed.wait(wait_s)

    def _send(self, run: Run, chunk: list[CaptureRef]) -> None:
        sent = self._transfer.send(run, chunk)
        with self._changed:
            self._backlog.damaged.update(sent.damaged)
            self._backlog.remove(chunk)
            if not run.online:
                self._backlog.deferred.update(sent.whole)

    def _end(self, run: Run) -> None:
        assert self._ending is not None
        for call in self._transfer.last_calls(run, self._ending.state):
            self._retried(call)

    @contextmanager
    def _spool_access(self) -> Iterator[None]:
        """Hold this around everything that changes the spool or the journal.

        Raises:
            _Stop: the spool belongs to somebody else.
            OSError: it is away.
        """
        with self._in_spool:
            if self._state is State.DISMISSED:
                raise _Stop
            self._spool.check_there()
            yield

    # -- transitions -------------------------------------------------------------------------------

    def _reached(self) -> None:
        """Go from STARTING to UPLOADING."""
        with self._changed:
            if self._state is State.STARTING:
                self._state = State.UPLOADING
            self._changed.notify_all()

    def _lost(self, error: Exception) -> None:
        """Go from STARTING or UPLOADING to AWAY, with a warning the first time."""
        with self._changed:
            was_well = self._error is None
            self._is_error_logged = True
            self._error = error
            if self._state in ACTIVE:
                self._state = State.AWAY
            self._changed.notify_all()
        if was_well:
            log.warning(
                "%s is away (%s); captures wait in %s and are uploaded when it is back",
                self._place(error),
                error,
                self._spool.directory,
            )

    def _back(self) -> None:
        """Go from AWAY to UPLOADING."""
        with self._changed:
            error, self._error = self._error, None
            self._is_error_logged = False
            if self._state is State.AWAY:
                self._state = State.UPLOADING
        if error is not None:
            log.info("%s is back", self._place(error))

    def _finished(self) -> None:
        """Go from UPLOADING to FINISHED."""
        with self._changed:
            self._state = State.FINISHED

    def _expired(self) -> None:
        """Go to EXPIRED; an uploader that was dismissed stays so."""
        with self._changed:
            self._error = self._error or TrackerError("out of time")
            if self._state in ACTIVE:
                self._state = State.EXPIRED
            self._changed.notify_all()

    def _refused(self, error: Exception) -> None:
        """Go to FAILED. The error is logged, except during the start: there ``wait_started`` raises
        it."""
        if isinstance(error, RunNotFoundError) and self._transfer.destination.ref:
            way_out = self._spool.way_out_without_run(self._transfer.destination.scheme)
            error = RunNotFoundError(f"{error}. {way_out}")
        with self._changed:
            before = self._state
            if before not in ACTIVE:
                return
            self._state, self._error = State.FAILED, error
            self._is_error_logged = before is not State.STARTING
            self._changed.notify_all()
        if before is not State.STARTING:
            log.error(
                "uploading to %s stopped: %s. Captures are kept in %s; after fixing this, run: %s",
                self.name,
                error,
                self._spool.directory,
                self._spool.push_command,
            )

    def _place(self, error: Exception) -> str:
        return self.name if isinstance(error, TransientTrackerError) else "the spool's disk"

    # -- retrying ----------------------------------------------------------------------------------

    def _retried(self, call: Callable[[], Result]) -> Result:
        """Return what ``call`` returns, repeating it while it fails in a way that may pass. Nothing
        is retried anywhere else.

        Raises:
            _Stop: the deadline comes before the next try, or the uploader was dismissed.
        """
        pause_s = FIRST_RETRY_S
        failing_since = None
        while True:
            was_closed = self._ending is not None
            if self._state is State.DISMISSED:
                raise _Stop
            try:
                result = call()
            except TransientTrackerError as error:
                self._lost(error)
            except OSError as error:
                self._make_room()
                self._lost(error)
            else:
                self._back()
                return result
            if was_closed and failing_since is None:
                failing_since = time.monotonic()
            pause_s = self._pause(pause_s, was_closed=was_closed, failing_since=failing_since)

    def _make_room(self) -> None:
        """Free the reserve on our own disk: uploading frees a full disk, so a full disk must not
        end it."""
        # A disk that is away has no room to make.
        with contextlib.suppress(OSError), self._spool_access():
            self._spool.make_room()

    def _pause(self, pause_s: float, *, was_closed: bool, failing_since: float | None) -> float:
        """Wait before a call is repeated; return how long to wait the next time.

        Args:
            was_closed: before the call began; a close since then ends the wait.
            failing_since: when (of ``time.monotonic``) the first call failed after the close; None
                before it.

        Raises:
            _Stop: the deadline comes first.
        """

        def is_just_closed() -> bool:
            return self._ending is not None and not was_closed

        with self._changed:
            if is_just_closed():
                pause_s = FIRST_RETRY_S
            wait_s = pause_s * random.uniform(0.75, 1.25)
            if time.monotonic() + wait_s >= self._deadline(failing_since):
                raise _Stop
            self._changed.wait_for(is_just_closed, wait_s)
        return min(2 * pause_s, LONGEST_RETRY_S)

    def _deadline(self, failing_since: float | None) -> float:
        """Return until when (of ``time.monotonic``) a tracker that is away is waited for; forever
        before ``close``."""
        if self._ending is None:
            return math.inf
        if failing_since is None or self._ending.away_s is None:
            return self._ending.deadline
        return min(self._ending.deadline, failing_since + self._ending.away_s)
