"""How a job of a sweep knows the run above it: one environment variable, set by
``integrations.hydra.SweepCallback``, read by ``watch``."""

from __future__ import annotations

import os

from tracker_viz.types import RunRef

PARENTS = "TRACKER_VIZ_PARENT_RUNS"


def parent_runs() -> dict[str, RunRef]:
    """Tracker -> the run above this job's; empty outside a sweep."""
    refs = [RunRef.parse(text) for text in os.environ.get(PARENTS, "").split()]
    return {ref.scheme: ref for ref in refs}
