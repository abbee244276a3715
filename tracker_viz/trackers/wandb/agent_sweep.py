"""A sweep of W&B's own agent as the parent of its runs: ``wandb:<entity>/<project>/<sweep id>``.

It is no run, so it holds no files; results about it go into a run of its group. Made by
``WandbTracker.open_run``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from tracker_viz.errors import TrackerError
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.values import MetricPoint, RunInfo, RunState
from tracker_viz.trackers.wandb.run import RESULTS, WandbRun, results_run
from tracker_viz.trackers.wandb.service import WandbService, translated
from tracker_viz.types import CapturePath, CaptureRef, RunRef

_STATES: Mapping[str, RunState] = {
    "FINISHED": "finished",
    "CANCELED": "killed",
    "CRASHED": "failed",
    "FAILED": "failed",
}


def find_sweep(service: WandbService, ref: RunRef) -> AgentSweep | None:
    """Return the sweep whose id is in the place of a run's, or None."""
    ref = service.resolved(ref)
    try:
        with translated(service.base_url, ref):
            return AgentSweep(service, ref, service.api().sweep(ref.path))
    # The client does not tell a sweep that is not there from a server that is away.
    except TrackerError:
        return None


class AgentSweep(Run):
    """The sweep, with the runs below it; writing to it and reading files from it is refused."""

    def __init__(self, service: WandbService, ref: RunRef, sweep: Any) -> None:
        self._service = service
        self._ref = ref
        self._sweep = sweep

    @property
    def ref(self) -> RunRef:
        return self._ref

    @property
    def environment(self) -> Mapping[str, str]:
        return self._service.environment

    def info(self) -> RunInfo:
        described = self._sweep.config
        name = described.get("name") or self._sweep.id
        state = _STATES.get(str(self._sweep.state).upper(), "running")
        return RunInfo(self._ref, str(name), state, {})

    def url(self, artifact: str | None = None) -> str:
        entity, project, sweep_id = map(quote, self._ref.path.split("/"))
        return f"{self._service.app_url}/{entity}/{project}/sweeps/{sweep_id}"

    def children(self) -> list[RunRef]:
        entity, project, sweep_id = self._ref.path.split("/")
        api = self._service.api()
        with translated(self._service.base_url, self._ref):
            runs = list(api.runs(f"{entity}/{project}", filters={"sweep": sweep_id}))
        trials = [run.id for run in runs if run.job_type != RESULTS]
        return [RunRef("wandb", f"{entity}/{project}/{trial}") for trial in trials]

    def results_run(self) -> WandbRun:
        return results_run(self._service, self._ref, self.info().name)

    def list_captures(self) -> list[CaptureRef]:
        return []

    def list_files(self) -> list[str]:
        return []

    def fetch(self, ref: CaptureRef, directory: Path) -> Path:
        self._refuse()

    def get_file(self, artifact: str, directory: Path) -> Path:
        self._refuse()

    def put_captures(self, captures: Sequence[CapturePath]) -> None:
        self._refuse()

    def log_metrics(self, points: Sequence[MetricPoint]) -> None:
        self._refuse()

    def put_file(self, file: Path, artifact: str) -> str:
        self._refuse()

    def finish(self, state: RunState) -> None:
        """Do nothing: its agents end it."""

    def _refuse(self) -> NoReturn:
        raise TrackerError(f"{self._ref} is a sweep of W&B's agent: it has runs, and no files")
