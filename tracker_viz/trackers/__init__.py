"""Experiment trackers behind one interface: its base classes, the registry and the adapters.

An adapter's SDK is imported only when the tracker is reached.
"""

from tracker_viz.plugins import schemes, tracker_class
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.download import (
    Pulled,
    at_once,
    cache_directory,
    default_cache,
    folder_name,
    pull,
)
from tracker_viz.trackers.file_run import FileRun
from tracker_viz.trackers.local import LocalRun, directory_name
from tracker_viz.trackers.redaction import shown_override, without_secrets
from tracker_viz.trackers.registry import (
    connect,
    join,
    open_run,
    reported_to,
    run_of_logger,
    scheme_of,
    switched_off,
)
from tracker_viz.trackers.run_config import RunConfig, as_config, as_name, as_tags
from tracker_viz.trackers.sweep import (
    JOB,
    PARENTS,
    Parent,
    SweepJob,
    create_parent,
    is_in_sweep,
    job_settings,
    note_parents,
    noted_parents,
    parent_run,
    parent_runs,
)
from tracker_viz.trackers.tracker import Tracker
from tracker_viz.trackers.values import (
    Cell,
    ChunkPolicy,
    Health,
    LoggerRun,
    MetricPoint,
    RunInfo,
    RunState,
    checked_artifact,
    flatten,
    state_after,
)

__all__ = [
    "JOB",
    "PARENTS",
    "Cell",
    "ChunkPolicy",
    "FileRun",
    "Health",
    "LocalRun",
    "LoggerRun",
    "MetricPoint",
    "Parent",
    "Pulled",
    "Run",
    "RunConfig",
    "RunInfo",
    "RunState",
    "SweepJob",
    "Tracker",
    "as_config",
    "as_name",
    "as_tags",
    "at_once",
    "cache_directory",
    "checked_artifact",
    "connect",
    "create_parent",
    "default_cache",
    "directory_name",
    "flatten",
    "folder_name",
    "is_in_sweep",
    "job_settings",
    "join",
    "note_parents",
    "noted_parents",
    "open_run",
    "parent_run",
    "parent_runs",
    "pull",
    "reported_to",
    "run_of_logger",
    "scheme_of",
    "schemes",
    "shown_override",
    "state_after",
    "switched_off",
    "tracker_class",
    "without_secrets",
]
