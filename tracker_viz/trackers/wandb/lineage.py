"""Link the runs that a result was made from to the run that holds it, as used artifacts: W&B's
lineage graph then leads from one to the other.

A run that is not on this service (of MLflow, in a directory) goes into the config as text,
``tracker_viz.inputs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import wandb

from tracker_viz.errors import RunNotFoundError, TransientTrackerError
from tracker_viz.trackers.wandb.artifacts import capture_versions
from tracker_viz.trackers.wandb.service import OWN_CONFIG, WandbService, translated
from tracker_viz.trackers.wandb.session import alone, live_run, require_unwritten
from tracker_viz.trackers.wandb.snapshot import LISTED_AT_ONCE
from tracker_viz.types import RunRef

INPUTS = "inputs"
# Requests: a training that lasted for days has hundreds of versions, each a link of its own.
AT_ONCE = 8


def link(service: WandbService, ref: RunRef, inputs: Sequence[RunRef]) -> None:
    """Link ``inputs`` to the run ``ref``, which may be finished: a link changes no state. Existing
    links are left alone.

    Raises:
        RunActiveError: another process writes the run, and an input has to go into its config.
        TransientTrackerError: a link does not show.
    """
    wanted: dict[str, wandb.Artifact] = {}
    elsewhere: list[RunRef] = []
    for each in inputs:
        if each == ref:
            continue
        if each.scheme == "wandb":
            with suppress(RunNotFoundError):  # one of another server
                for artifact in capture_versions(service, each):
                    wanted[str(artifact.id)] = artifact
                continue
        elsewhere.append(each)
    _use(service, ref, wanted)
    if elsewhere:
        _note(service, ref, elsewhere)


def _use(service: WandbService, ref: RunRef, wanted: dict[str, wandb.Artifact]) -> None:
    missing = wanted.keys() - _used(service, ref)
    if not missing:
        return
    run = service.fetch_run(ref)
    with translated(service.base_url, ref), ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run.use_artifact, (wanted[artifact_id] for artifact_id in missing)))
    if left := missing - _used(service, ref):
        raise TransientTrackerError(
            f"{ref} does not show {len(left)} of {len(wanted)} artifacts as used"
        )


def _used(service: WandbService, ref: RunRef) -> set[str]:
    run = service.fetch_run(ref)
    with translated(service.base_url, ref):
        return {str(artifact.id) for artifact in run.used_artifacts(per_page=LISTED_AT_ONCE)}


def _note(service: WandbService, ref: RunRef, inputs: Sequence[RunRef]) -> None:
    """Add references to the config's list."""
    live = live_run(ref)
    with alone(ref), translated(service.base_url, ref):
        run = live or service.fetch_run(ref)
        ours: dict[str, Any] = dict(run.config.get(OWN_CONFIG) or {})
        noted = sorted({*(ours.get(INPUTS) or []), *map(str, inputs)})
        if noted == ours.get(INPUTS):
            return
        if live:
            live.config.update({OWN_CONFIG: ours | {INPUTS: noted}}, allow_val_change=True)
        else:
            require_unwritten(run, ref)
            run.config[OWN_CONFIG] = ours | {INPUTS: noted}
            run.update()
