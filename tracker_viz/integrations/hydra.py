"""Make a Hydra multirun one sweep in the trackers: a parent run with every job's run below it. Any
Hydra application, by config only:

    hydra:
      callbacks:
        sweep: {_target_: tracker_viz.integrations.hydra.SweepCallback}

The process that starts the multirun creates the parent (an MLflow parent run, a W&B run whose id is
the group of the others) in the trackers that the config names. Where it names none, the first job
that records a run creates the parent beside it. Each job finds the sweep in its environment, under
any launcher: joblib, submitit on SLURM, Ray. A tracker that cannot be reached costs the parent,
never the jobs. When the last job has ended, the parent gets a page that plays its runs' videos in
step, where the tracker can show one.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf

from tracker_viz import commands, trackers
from tracker_viz.errors import TrackerError, TrackerVizError
from tracker_viz.files import write_atomically
from tracker_viz.integrations.named_trackers import named_trackers, plain, read_trackers
from tracker_viz.pipeline import put_sweep_page
from tracker_viz.trackers import (
    JOB,
    PARENTS,
    Parent,
    Run,
    RunState,
    SweepJob,
    create_parent,
    note_parents,
    noted_parents,
    shown_override,
    without_secrets,
)
from tracker_viz.types import RunRef

log = logging.getLogger(__name__)

NOTE = "tracker_viz_sweep.json"


class SweepCallback(Callback):
    """Create the parent run of a multirun, tell the jobs about it, and end it after the last one.

    Args:
        tracker: the trackers of the sweep, in a form that ``named_trackers`` reads: ``mlflow``,
            ``{"mlflow": {"experiment": "ablation"}}``; by default what the application's own config
            names.
        name: of the parent run.
    """

    def __init__(self, tracker: Any = None, name: str = "sweep") -> None:
        self.tracker = tracker
        self.name = name
        self._job: SweepJob | None = None
        self._varied: frozenset[str] = frozenset()
        self._refs: list[str] = []
        # As they were passed, with passwords in addresses, which are stored nowhere.
        self._options: dict[RunRef, dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Launchers send the callback to the jobs, which do not end the sweep.
        return self.__dict__ | {"_options": {}}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        directory = _sweep_directory(config)
        overrides = list(config.hydra.overrides.task)
        shown = "\n".join(map(shown_override, overrides))
        self._job = SweepJob(str(directory), self.name, shown)
        self._varied = _varied_keys(overrides, plain(config, "hydra"))

        noted = []
        for scheme, options in self._named_trackers(config).items():
            noted += self._create_parent(scheme, options)
        self._refs = [str(parent.ref) for parent in noted]
        # Hydra does not say when a multirun ends with an error.
        atexit.register(self._end, "failed")
        note_parents(noted, directory)
        write_atomically(json.dumps(self._refs).encode(), directory / NOTE)

    def on_job_start(
        self, config: DictConfig, *, task_function: TaskFunction, **kwargs: Any
    ) -> None:
        if self._job is None:
            return
        settings = _settings(config.hydra.overrides.task, self._varied)
        job = SweepJob(self._job.directory, self._job.name, self._job.overrides, settings)
        os.environ[JOB] = job.to_text()
        if self._refs:
            os.environ[PARENTS] = json.dumps(self._refs)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        os.environ.pop(JOB, None)
        os.environ.pop(PARENTS, None)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        self._end("finished")

    def _named_trackers(self, config: DictConfig) -> dict[str, dict[str, Any]]:
        chosen = self.tracker
        if OmegaConf.is_config(chosen):
            chosen = OmegaConf.to_container(chosen, resolve=True)
        named = named_trackers(config) if chosen is None else read_trackers(chosen)
        if not named:
            log.warning(
                "%s: the sweep's parent run is created in the tracker of the "
                "first recorded run. To choose the tracker, write 'tracker: "
                "mlflow' or 'tracker: wandb' next to the _target_ of the "
                "SweepCallback",
                "the config names no tracker" if chosen is None else f"no tracker in {chosen!r}",
            )
        return named

    def _create_parent(self, scheme: str, options: Mapping[str, Any]) -> list[Parent]:
        assert self._job is not None, "on_multirun_start describes the sweep first"
        if not trackers.tracker_class(scheme).has_sweeps:
            return []
        try:
            switch = trackers.switched_off(scheme)
            if switch:
                raise TrackerError(f"{switch} switches it off")
            made = create_parent(trackers.connect(scheme, **options), self._job)
        except TrackerVizError as error:
            log.warning("the runs of this sweep get no parent in %s: %s", scheme, error)
            return []
        self._options[made.ref] = dict(options)
        log.info("sweep: %s %s", made.ref, made.url())
        return [Parent(made.ref, made.environment, made.online)]

    def _end(self, state: RunState) -> None:
        if self._job is None:
            return
        atexit.unregister(self._end)
        directory, self._job = Path(self._job.directory), None
        for noted in noted_parents(directory):
            options = self._options.get(noted.ref, noted.options)
            if not noted.online:
                _say_how_to_compare(noted.ref, noted.options)
                continue
            try:
                tracker = trackers.connect(noted.ref.scheme, **options)
                parent = tracker.open_run(noted.ref, ours=True)
            except TrackerVizError as error:
                log.warning("the sweep's run %s could not be opened: %s", noted.ref, error)
            else:
                _end_parent(parent, options, state)


def _end_parent(parent: Run, options: Mapping[str, Any], state: RunState) -> None:
    try:
        n_runs = len(parent.children())
        page = put_sweep_page(parent.ref, tracker_options={parent.ref.scheme: options})
    except TrackerVizError as error:
        log.warning("the sweep's run %s has no page of its videos: %s", parent.ref, error)
        n_runs, page = None, None
    if page:
        log.info("the videos of its runs, in step: %s", page)

    try:
        parent.finish(state)
    except TrackerVizError as error:
        log.warning("the sweep's run %s could not be ended: %s", parent.ref, error)
    if n_runs == 0 and state == "failed":
        return  # the jobs' own error says why
    if n_runs == 0:
        log.warning(
            "no run of this sweep is below %s: its jobs recorded none there "
            "(call watch(), or use a Trainer callback)",
            parent.ref,
        )
        return
    _say_how_to_compare(parent.ref, parent.environment)


def _say_how_to_compare(parent: RunRef, environment: Mapping[str, str]) -> None:
    command = commands.compare_sweep(parent, environment)
    log.info("to compare its runs, from any directory: %s", command)


def _varied_keys(overrides: list[str], hydra: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the dotted names that the sweep sets to several values."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    varied = {each.key_or_group for each in parsed if each.is_sweep_override()}
    # Sweepers take their space from the config too: hydra.sweeper.params.
    params = ((hydra or {}).get("sweeper") or {}).get("params") or {}
    return frozenset(varied | {str(name).lstrip("+~") for name in params})


def _settings(overrides: list[str], varied: frozenset[str]) -> dict[str, Any]:
    """Return what a job's overrides set the varied names to."""
    settings: dict[str, Any] = {}
    for each in OverridesParser.create().parse_overrides(list(overrides)):
        if each.key_or_group in varied and not each.is_delete():
            settings[each.key_or_group] = each.value()
    return without_secrets(settings)


def _sweep_directory(config: DictConfig) -> Path:
    """Return the sweep's directory, the same for all jobs: with ``hydra.job.chdir`` each of them
    works in a directory of its own."""
    return Path(config.hydra.runtime.cwd, config.hydra.sweep.dir)
