"""Tell the jobs of a sweep which run is above them, in one environment variable.

``integrations.hydra.SweepCallback`` sets it, ``watch`` reads it.
"""

from __future__ import annotations

import json
import os

from tracker_viz.types import RunRef

PARENTS = "TRACKER_VIZ_PARENT_RUNS"


def parent_runs() -> dict[str, RunRef]:
    """Return tracker -> the run above this job's; empty outside a sweep.

    The variable is a JSON list of references, because a W&B project may hold spaces; a plain list
    with spaces between them is read too.
    """
    text = os.environ.get(PARENTS, "").strip()
    texts = json.loads(text) if text.startswith("[") else text.split()
    refs = map(RunRef.from_stored, texts)
    return {ref.scheme: ref for ref in refs}
