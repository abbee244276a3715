"""Captures on their way from the training thread to every tracker: spool, uploaders, push."""

from tracker_viz.delivery.destinations import Destination, StoredDestination
from tracker_viz.delivery.outbox import Outbox
from tracker_viz.delivery.push import checked_wait, push
from tracker_viz.delivery.report import Report
from tracker_viz.delivery.spool import Spool
from tracker_viz.delivery.uploader import DeliveryStatus

__all__ = [
    "DeliveryStatus",
    "Destination",
    "Outbox",
    "Report",
    "Spool",
    "StoredDestination",
    "checked_wait",
    "push",
]
