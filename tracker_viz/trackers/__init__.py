"""Experiment trackers behind one protocol: the interface, the registry and the adapters.

An adapter's SDK is imported by its own module only, and that module only when it is asked for.
"""

from tracker_viz.trackers.base import Run, Tracker
from tracker_viz.trackers.registry import connect, join, open_run

__all__ = ["Run", "Tracker", "connect", "join", "open_run"]
