"""Experiment trackers behind one interface: its base classes, the registry and the adapters.

An adapter's SDK is imported only when the tracker is reached.
"""

from tracker_viz.plugins import schemes, tracker_class
from tracker_viz.trackers.base import (
    Cell,
    ChunkPolicy,
    Health,
    LoggerRun,
    MetricPoint,
    Run,
    RunInfo,
    RunState,
    Tracker,
    checked_artifact,
    flatten,
)
from tracker_viz.trackers.file_run import FileRun
from tracker_viz.trackers.registry import (
    connect,
    join,
    open_run,
    reported_to,
    run_of_logger,
    scheme_of,
    switched_off,
)

__all__ = [
    "Cell",
    "ChunkPolicy",
    "FileRun",
    "Health",
    "LoggerRun",
    "MetricPoint",
    "Run",
    "RunInfo",
    "RunState",
    "Tracker",
    "checked_artifact",
    "connect",
    "flatten",
    "join",
    "open_run",
    "reported_to",
    "run_of_logger",
    "scheme_of",
    "schemes",
    "switched_off",
    "tracker_class",
]
