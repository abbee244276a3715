"""Turn ``run=``, as users pass it, into destinations of captures; no tracker is reached yet."""

from __future__ import annotations

import logging
from typing import Any

from tracker_viz import trackers
from tracker_viz.delivery import Destination
from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.pipeline.load import TrackerOptions
from tracker_viz.trackers import Run, parent_runs
from tracker_viz.types import RunRef

log = logging.getLogger(__name__)


def destinations_of(run: Any, tracker_options: TrackerOptions) -> list[Destination | Run]:
    """Return the destinations of captures, without reaching for them.

    Raises:
        ConfigError: ``run`` names no tracker and no run.
    """
    runs = run if isinstance(run, list | tuple) else [run]
    switches, found = [], []
    for each in runs:
        switch = _switched_off(each)
        if switch:
            switches.append(switch)
        else:
            found.append(_destination(each, tracker_options))
    if switches:
        # A debug switch must not end a training: the other trackers still get the captures.
        where = "go to the other trackers only"
        if not found:
            where = "stay on this machine, in the spool; tv.render(recorder) draws them from there"
        log.warning("%s: captures %s", ", ".join(switches), where)
    return found


def _switched_off(run: Any) -> str | None:
    """Return the setting that keeps the run's tracker from recording, or None."""
    if isinstance(run, Run):
        return None
    if isinstance(run, Destination | RunRef):
        scheme = run.scheme
    elif isinstance(run, str):
        scheme = run.partition(":")[0]
    else:
        return trackers.switched_off(trackers.scheme_of(run), run)
    return trackers.switched_off(scheme) if scheme in trackers.schemes() else None


def _destination(run: Any, tracker_options: TrackerOptions) -> Destination | Run:
    if isinstance(run, str) and run in trackers.schemes():
        return Destination(run, tracker_options.get(run, {}), parent=parent_runs().get(run))
    if isinstance(run, str) and ":" not in run:
        raise ConfigError(
            f"{unknown_name('tracker', run, trackers.schemes())}; an existing run looks like "
            "mlflow:<run_id>"
        )
    if isinstance(run, str | RunRef):
        ref = RunRef.parse(run) if isinstance(run, str) else run
        return Destination(ref.scheme, tracker_options.get(ref.scheme, {}), ref=ref)
    if isinstance(run, Destination | Run):
        return run
    return trackers.join(run, **tracker_options.get(trackers.scheme_of(run), {}))
