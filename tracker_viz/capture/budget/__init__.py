"""Limit the size of a capture: choose what is copied off the device, and what of that is written.

The camera asks ``weight_side`` before it copies anything; ``Budget.fit`` runs later, off the
training thread and after scoring, and cuts a capture to its size. How much is kept follows from
shapes and the budget alone, so every capture of a run is cut alike; which heads, from their scores.
"""

from tracker_viz.capture.budget.budget import Budget, fit
from tracker_viz.capture.budget.shares import DEFAULT_MAX_MB, sample, weight_side, weights_share

__all__ = ["DEFAULT_MAX_MB", "Budget", "fit", "sample", "weight_side", "weights_share"]
