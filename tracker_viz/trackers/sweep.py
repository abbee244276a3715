"""Find the runs above those of a sweep's jobs, and create such a run in a tracker where nobody
named one.

``integrations.hydra.SweepCallback`` describes the sweep in the job's environment. ``watch`` reads
there the name of the job's run, and the uploaders which run is its parent.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tracker_viz import plugins
from tracker_viz.errors import TrackerVizError, TransientTrackerError
from tracker_viz.files import locked, read_json, write_json
from tracker_viz.stored import ParentsFile
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.tracker import Tracker
from tracker_viz.types import RunRef

log = logging.getLogger(__name__)

PARENTS = "TRACKER_VIZ_PARENT_RUNS"
JOB = "TRACKER_VIZ_SWEEP_JOB"
PARENTS_FILE = "tracker_viz_parents.json"
LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class SweepJob:
    """One job of a sweep.

    Attributes:
        directory: of the sweep, shared by its jobs.
        name: of the sweep's parent runs.
        overrides: what the sweep was started with, one a line.
        settings: this job's values of what differs among the jobs, by dotted name.
    """

    directory: str
    name: str
    overrides: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_text(self) -> str:
        return json.dumps(asdict(self), default=str)


@dataclass(frozen=True, slots=True)
class Parent:
    """A run above the jobs' runs, and the options with which its tracker is reached.

    Attributes:
        online: False: it is in a log on this machine, and cannot be changed from here.
    """

    ref: RunRef
    options: Mapping[str, str]
    online: bool = True


def current_job() -> SweepJob | None:
    """Return the sweep job that this process is in, or None."""
    text = os.environ.get(JOB)
    return SweepJob(**json.loads(text)) if text else None


def job_settings() -> Mapping[str, Any]:
    """Return this process's values of what differs among the jobs of its sweep, by dotted name;
    empty outside a sweep. A tracker's own agent may run the sweep, too."""
    job = current_job()
    if job is not None:
        return job.settings
    for tracker in plugins.tracker_classes().values():
        settings: Mapping[str, Any] = tracker.agent_settings()
        if settings:
            return settings
    return {}


def is_in_sweep() -> bool:
    return bool(os.environ.get(JOB) or os.environ.get(PARENTS))


def parent_runs() -> dict[str, RunRef]:
    """Return tracker -> the run above this job's; empty outside a sweep.

    The variable is a JSON list of references, because a W&B project may hold spaces; a plain list
    with spaces between them is read too.
    """
    text = os.environ.get(PARENTS, "").strip()
    texts = json.loads(text) if text.startswith("[") else text.split()
    refs = map(RunRef.from_stored, texts)
    return {ref.scheme: ref for ref in refs}


def parent_run(tracker: Tracker) -> RunRef | None:
    """Return the run above the runs that this job has in ``tracker``, or None outside a sweep.

    Where neither the application's config nor an earlier job named a parent there, create it now:
    the job's own run says best which server, project and experiment the sweep is in.

    Raises:
        TransientTrackerError: the tracker is away.
    """
    if not tracker.has_sweeps:
        return None
    for ref in parent_runs().values():
        if tracker.keeps_below(ref, {}):
            return ref
    job = current_job()
    if job is None:
        return None
    try:
        return _noted_or_created(job, tracker)
    except TransientTrackerError:
        raise
    except (TrackerVizError, OSError) as error:
        log.warning("this run gets no parent in %s: %s", tracker.scheme, error)
        return None


def noted_parents(directory: Path) -> list[Parent]:
    """Return the parents of the sweep in ``directory``, in the order of their creation."""
    path = directory / PARENTS_FILE
    if not path.is_file():
        return []
    noted = ParentsFile.of(read_json(path), path).parents
    return [Parent(RunRef.from_stored(each.ref), each.options, each.online) for each in noted]


def note_parents(parents: Sequence[Parent], directory: Path) -> None:
    noted = []
    for each in parents:
        noted.append({"ref": str(each.ref), "options": dict(each.options), "online": each.online})
    write_json({"parents": noted}, directory / PARENTS_FILE)


def create_parent(tracker: Tracker, job: SweepJob) -> Run:
    """Create a sweep's run, and leave it open nowhere: W&B's client would hand a run that is open
    in a process to the next ``wandb.init()`` of the user's code there."""
    run = tracker.create_run(
        name=job.name,
        config={"overrides": job.overrides},
        tags={"tracker_viz.sweep": job.directory},
    )
    run.finish("finished")
    return run


def _noted_or_created(job: SweepJob, tracker: Tracker) -> RunRef:
    directory = Path(job.directory)
    directory.mkdir(parents=True, exist_ok=True)
    # Jobs run at the same time, and the first of them creates the parent of all.
    with locked(directory / f".{PARENTS_FILE}.lock", timeout_s=LOCK_TIMEOUT_S):
        parents = noted_parents(directory)
        for parent in parents:
            if tracker.keeps_below(parent.ref, parent.options):
                return parent.ref

        made = create_parent(tracker, job)
        note_parents([*parents, Parent(made.ref, tracker.options, made.online)], directory)
        log.info("sweep: %s %s", made.ref, made.url())
        return made.ref
