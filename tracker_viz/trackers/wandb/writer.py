"""Who writes one W&B run: the session that is open in this process, one that is opened again for a
run of ours until it ends, or a short visit. Used by ``run.py``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tracker_viz.errors import TrackerError, TransientTrackerError
from tracker_viz.trackers.values import RunState
from tracker_viz.trackers.wandb import session
from tracker_viz.trackers.wandb.history import JoinedRows, OwnRows, Rows
from tracker_viz.trackers.wandb.service import OWN_CONFIG, SHARED, WandbService
from tracker_viz.trackers.wandb.snapshot import EXIT_CODES, STATES
from tracker_viz.types import RunRef

log = logging.getLogger(__name__)


class RunWriter:
    """Opens one run for writing. May be called from several threads at once.

    Args:
        sdk_run, ours, joined: see ``WandbRun``.
    """

    def __init__(
        self, service: WandbService, ref: RunRef, *, sdk_run: Any, ours: bool, joined: bool
    ) -> None:
        self._service, self._ref = service, ref
        self._sdk_run, self._ours, self._joined = sdk_run, ours, joined
        self._reopened: session.Resumed | session.Attached | None = None
        self._rows: Rows | None = None
        self._lock = threading.RLock()

    @property
    def resumed(self) -> bool:
        """Whether the run was there before this process wrote it, as far as is known by now."""
        if self._reopened is not None:
            return True
        return self._sdk_run is not None and bool(self._sdk_run.resumed)

    def current(self) -> Any:
        """Return the client's object if this process is writing the run, through us or not."""
        if self._sdk_run is not None and not session.is_finished(self._sdk_run):
            return self._sdk_run
        return session.live_run(self._ref)

    @contextmanager
    def writing(self) -> Iterator[tuple[Any, Rows]]:
        """Open the run for writing: use the open session, resume our own run until ``finish``, or
        visit another run for a moment.

        Raises:
            RunActiveError: another process is writing it.
        """
        with self._lock:
            sdk_run = self.current()
            if sdk_run is None and self._ours:
                self._reopened = self._reopen()
                sdk_run, self._joined, self._rows = self._reopened.sdk_run, False, None
            if sdk_run is not None and (self._sdk_run is not sdk_run or self._rows is None):
                self._sdk_run = sdk_run
                # In shared mode rows have no common counter that one of ours could disturb.
                if self._joined and not session.is_shared(sdk_run):
                    self._rows = JoinedRows(sdk_run)
                else:
                    self._rows = OwnRows(sdk_run, every_metric=not self._joined)
            rows = self._rows
        if sdk_run is not None and rows is not None:
            yield sdk_run, rows
            return
        run = self._service.fetch_run(self._ref)
        is_shared = run.state == "running" and self._is_shared(run)
        with session.visit(self._service, self._ref, is_shared=is_shared) as visited:
            rows = OwnRows(
                visited.sdk_run,
                every_metric=False,
                counted=visited.before.counted and not is_shared,
                n_renders=visited.before.n_renders,
            )
            yield visited.sdk_run, rows

    def finish(self, state: RunState) -> None:
        """See ``base.Run.finish``."""
        with self._lock:
            rows, self._rows = self._rows, None
            if rows:
                rows.close()
            if not self._ours:
                return
            self._ours = False
            if self._reopened:
                self._reopened.end(self._service, exit_code=EXIT_CODES[state], keep_clock=False)
            elif self._sdk_run is None:
                is_now = self._service.fetch_run(self._ref).state
                if STATES.get(is_now, "running") != state:
                    self._reopen().end(self._service, exit_code=EXIT_CODES[state], keep_clock=True)
            elif not session.is_finished(self._sdk_run):
                self._end(state)

    def _reopen(self) -> session.Resumed | session.Attached:
        """Open our own run, whose maker is gone, until ``finish``. In shared mode others may be
        adding rows, which a resumed writer would overwrite."""
        if self._is_shared(self._service.fetch_run(self._ref)):
            return session.attach(self._service, self._ref, ends=True)
        return session.resume(self._service, self._ref, ours=True, ends=True)

    def _is_shared(self, run: Any) -> bool:
        """Return whether several processes write the run, in shared mode: as the user's environment
        says, or as was noted when we made it."""
        noted = run.config.get(OWN_CONFIG)
        is_noted = isinstance(noted, Mapping) and noted.get("mode") == SHARED
        return is_noted or self._service.is_shared

    def _end(self, state: RunState) -> None:
        try:
            session.end(self._service, self._sdk_run, state)
        except TransientTrackerError as error:
            command = f"wandb sync --include-online {session.sync_directory(self._sdk_run)}"
            raise TrackerError(
                f"not all of the run's charts reached W&B ({error}); they are "
                f"kept; upload them with: {command}"
            ) from error
        if session.is_offline(self._sdk_run):
            log.info(
                "trained offline; where W&B can be reached: wandb sync %s",
                session.sync_directory(self._sdk_run),
            )
