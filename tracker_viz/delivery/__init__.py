"""Captures on their way from the training thread to every tracker: spool, uploaders, push."""

from tracker_viz.delivery.outbox import Destination, Outbox
from tracker_viz.delivery.push import checked_wait, push
from tracker_viz.delivery.report import Report

__all__ = ["Destination", "Outbox", "Report", "checked_wait", "push"]
