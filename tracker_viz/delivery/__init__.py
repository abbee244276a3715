"""Captures on their way from the training thread to every tracker: spool, uploaders, push."""

from tracker_viz.delivery.destinations import Destination
from tracker_viz.delivery.outbox import Outbox
from tracker_viz.delivery.push import push
from tracker_viz.delivery.report import Report
from tracker_viz.delivery.spool import Spool
from tracker_viz.delivery.taps import TappedSpool, remove_dead_taps

__all__ = [
    "Destination",
    "Outbox",
    "Report",
    "Spool",
    "TappedSpool",
    "push",
    "remove_dead_taps",
]
