"""Hydra multirun -> one sweep in the trackers: a parent run with every job's run below it. Any
Hydra application, by config only:

    hydra:
      callbacks:
        sweep: {_target_: tracker_viz.integrations.hydra.SweepCallback}

The process that starts the multirun makes the parent (an MLflow parent run, a W&B run whose id is
the group of the others) and notes it in the sweep's directory, which the jobs of every launcher
share: joblib, submitit on SLURM, Ray. Each job puts it into its environment, where ``watch`` and
``train.py`` find it. A tracker that cannot be reached costs the parent, never the jobs. When the
last job has ended, the parent gets a page that plays its runs' videos in step, where the tracker
can show one.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf

from tracker_viz import capture_file, trackers
from tracker_viz.commands import override
from tracker_viz.errors import TrackerVizError
from tracker_viz.pipeline import put_sweep_page
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.redaction import shown_override
from tracker_viz.trackers.sweep import PARENTS

log = logging.getLogger(__name__)

NOTE = "tracker_viz_sweep.json"


class SweepCallback(Callback):
    """Makes the parent run of a multirun, tells the jobs of it, and ends it after the last one.

    Args:
        tracker: tracker -> options of its adapter, e.g. ``{"mlflow": {"experiment": "ablation"}}``;
            by default what the application's own key ``tracker`` holds in this form.
        name: of the parent run.
    """

    def __init__(
        self, tracker: Mapping[str, Mapping[str, Any]] | None = None, name: str = "sweep"
    ) -> None:
        self.tracker = tracker
        self.name = name
        self._options: Mapping[str, Mapping[str, Any]] = {}
        self._parents: list[Run] = []

    def __getstate__(self) -> dict[str, Any]:
        # Launchers send the callback to the jobs; the parents stay with the process that made them.
        return self.__dict__ | {"_parents": []}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        chosen: Any = (
            self.tracker if self.tracker is not None else OmegaConf.select(config, "tracker")
        )
        chosen = (
            OmegaConf.to_container(chosen, resolve=True)
            if isinstance(chosen, DictConfig)
            else chosen
        )
        directory = _sweep_directory(config)
        overrides = "\n".join(map(shown_override, config.hydra.overrides.task))
        self._options = {scheme: options or {} for scheme, options in (chosen or {}).items()}
        for scheme, options in self._options.items():
            try:
                if not trackers.tracker_class(scheme).has_sweeps:
                    continue
                made = trackers.connect(scheme, **options).create_run(
                    name=self.name,
                    config={"overrides": overrides},
                    tags={"tracker_viz.sweep": str(directory)},
                )
            except TrackerVizError as error:
                log.warning("the runs of this sweep get no parent in %s: %s", scheme, error)
            else:
                self._parents.append(made)
                log.info("sweep: %s %s", made.ref, made.url())
        atexit.register(
            self._end, "failed"
        )  # Hydra does not say when a multirun ends with an error
        note = json.dumps([str(parent.ref) for parent in self._parents]).encode()
        capture_file.write_atomically(note, directory / NOTE)

    def on_job_start(
        self, config: DictConfig, *, task_function: TaskFunction, **kwargs: Any
    ) -> None:
        note = _sweep_directory(config) / NOTE
        if (
            note.is_file()
            and OmegaConf.select(config, "hydra.job.num", throw_on_missing=False) is not None
        ):
            os.environ[PARENTS] = note.read_text()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        os.environ.pop(PARENTS, None)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        self._end("finished")

    def _end(self, state: Any) -> None:
        parents, self._parents = self._parents, []
        atexit.unregister(self._end)
        for parent in parents:
            try:
                if page := put_sweep_page(parent.ref, tracker_options=self._options):
                    log.info("the videos of its runs, in step: %s", page)
            except TrackerVizError as error:
                log.warning("the sweep's run %s got no page of its videos: %s", parent.ref, error)
            try:
                parent.finish(state)
            except TrackerVizError as error:
                log.warning("the sweep's run %s could not be ended: %s", parent.ref, error)
            words = [
                override("sweep", parent.ref),
                *(override(name, value) for name, value in parent.environment.items()),
            ]
            log.info(
                "to compare its runs, from any directory: tracker-viz compare %s", shlex.join(words)
            )


def _sweep_directory(config: DictConfig) -> Path:
    """Absolute, and the same for all jobs: with ``hydra.job.chdir`` each of them works in a
    directory of its own."""
    return Path(config.hydra.runtime.cwd, config.hydra.sweep.dir)
