"""Watch the trainings of somebody's Trainer; a failure to record never ends one.

A Trainer may train several times in one process and in one run of the tracker: after running out of
memory, for the trials of a search, or because it is called twice. A film shows one training, so an
attempt that failed is replaced by the next one, and a training that ended is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tracker_viz import trackers
from tracker_viz.delivery import Destination
from tracker_viz.errors import RunTakenError, TrackerError, TrackerVizError
from tracker_viz.notice import results_printed
from tracker_viz.pipeline import Watcher, new_directory, watch
from tracker_viz.trackers import Run
from tracker_viz.types import RunRef

log = logging.getLogger(__name__)

EARLIER_TIMEOUT_S = 15.0


class Recording:
    """The trainings that one callback records, one after the other.

    Attributes:
        watcher: of the latest training; None before the first, and where nothing is recorded.
    """

    def __init__(self) -> None:
        self.watcher: Watcher | None = None
        self._ended = True
        self._taken: set[RunRef] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Trainers copy and send their callbacks. A copy records trainings of its own.
        return {"watcher": None, "_ended": True, "_taken": set()}

    def begin(self, model: Any, *, run: Any, start_step: int, **options: Any) -> None:
        """Start watching, as ``watch`` does.

        Args:
            run: as in ``watch``; an empty list keeps captures on this machine only.
            start_step: 0 for a training that starts over.
        """
        if self.watcher is not None:
            self._leave_earlier(self.watcher, start_step == 0, keeps_spool="spool" in options)
        runs = run if isinstance(run, list | tuple) else [run]
        # Only a training that starts over would mix its captures with others.
        taken = self._taken if start_step == 0 else set()
        tracker_options = options.get("tracker_options") or {}
        chosen = [_apart(each, tracker_options, taken) for each in runs]
        options |= {"start_step": start_step}

        self._ended = False
        try:
            self.watcher = watch(model, run=chosen, **options)
        except RunTakenError as error:
            log.warning("%s. This training is recorded in a separate run", error)
            chosen = [_own_run(each, tracker_options) for each in runs]
            self.watcher = watch(model, run=chosen, **options | {"spool": None})

    def end(self) -> None:
        """Close after a training that came to its end."""
        if self.watcher is None:
            return
        self.watcher.close()
        self._ended = True
        if self.watcher.outbox is not None:
            self._taken |= {run.ref for run in self.watcher.outbox.joined_runs}

    def _leave_earlier(self, earlier: Watcher, starts_over: bool, *, keeps_spool: bool) -> None:
        """Close an attempt that failed, and make room for one that starts over.

        Args:
            keeps_spool: the next attempt's captures go into the same directory.
        """
        if self._ended:
            return
        # Trainers say nothing when a training fails, and the model may no longer be what failed.
        earlier.forget_latest()
        with results_printed():
            # Its captures do not stay where they are.
            earlier.close("failed", timeout_s=EARLIER_TIMEOUT_S)
        if starts_over and earlier.outbox is not None:
            self._taken |= _clear(earlier.outbox.joined_runs)
            if keeps_spool:
                spool = earlier.outbox.directory
                spool.rename(new_directory(spool.with_name(f"{spool.name}-failed")))


def _clear(runs: Sequence[Run]) -> set[RunRef]:
    """Remove the captures of a failed attempt, and return the runs that cannot give theirs up."""
    kept = set()
    for run in runs:
        try:
            run.clear_captures()
        except TrackerError as error:
            log.warning("the captures of the failed attempt stay in %s: %s", run.ref, error)
            kept.add(run.ref)
    return kept


def _apart(run: Any, tracker_options: Mapping[str, Any], taken: Collection[RunRef]) -> Any:
    """Return ``run``, or a new run of its tracker where it holds another training."""
    if not taken or _ref_of(run, tracker_options) not in taken:
        return run
    log.warning("the run already holds a training run; this one is recorded in a separate run")
    return _own_run(run, tracker_options)


def _own_run(run: Any, tracker_options: Mapping[str, Any]) -> Destination:
    """Return a destination that makes a new run in the tracker of ``run``."""
    if isinstance(run, str):
        scheme = run.partition(":")[0]
    elif isinstance(run, Run):
        scheme = run.ref.scheme
    elif isinstance(run, RunRef | Destination):
        scheme = run.scheme
    else:
        scheme = trackers.scheme_of(run)
    return Destination(scheme, tracker_options.get(scheme, {}), join_active=False)


def _ref_of(run: Any, tracker_options: Mapping[str, Any]) -> RunRef | None:
    """Return the existing run that ``run`` stands for, or None."""
    if isinstance(run, str) and run not in trackers.schemes():
        return RunRef.parse(run)
    if isinstance(run, RunRef):
        return run
    if isinstance(run, Run | Destination):
        return run.ref
    try:
        if isinstance(run, str):
            active = trackers.connect(run, **tracker_options.get(run, {})).active_run()
        else:
            active = trackers.join(run)
    except TrackerVizError:
        # watch() says what is wrong with it.
        return None
    return active.ref if active else None
