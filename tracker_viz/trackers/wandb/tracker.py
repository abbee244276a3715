"""Weights & Biases behind the tracker protocols, through its real client.

    captures   versions of the artifact ``captures-<run id>``, many steps in one: artifacts.py
    metrics    the run's history, with ``tracker_viz/step`` as the charts' axis: history.py
    videos     media under ``tracker_viz/<layout>``, and pictures, pages, tables: media.py
    files      the run's Files tab, under the path they were put as
    sweeps     group = the parent's run id, job type ``trial``; results about a sweep are one run
               of job type ``compare`` in its group
    inputs     used artifacts: lineage.py

The run of a training is made here, or is the user's own ``wandb.run``, which is never ended and
whose step counter never moves. A finished run is resumed for a moment and left as it was:
session.py. Nothing here runs on the training thread.

This module loads the client only when a tracker is made, see ``trackers.base.Tracker``.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tracker_viz.errors import ConfigError, RunNotFoundError, TrackerError, TrackerVizError
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.redaction import without_secrets
from tracker_viz.trackers.run_config import as_name
from tracker_viz.trackers.tracker import Tracker, server_health
from tracker_viz.trackers.values import Health, LoggerRun
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    from tracker_viz.trackers.wandb.run import WandbRun

DEFAULT_PROJECT = "tracker_viz"
NAME_CHARACTERS = 128

log = logging.getLogger(__name__)

# As the client itself takes them.
_NAME = re.compile(r"[^/\\#?%:]{1,128}")

# W&B forbids only what has a meaning in an address, so its projects and run ids may contain spaces,
# dots, '=' and any script.
_ENTITY = r"[^/\\#?%:\s]+"
_PROJECT = r"[^/\\#?%:]{1,128}"
_RUN_ID = r"(?!\s)[^/:;,#?']+(?<!\s)"


class WandbTracker(Tracker):
    """One W&B server and the project that new runs go to.

    Args:
        project: for new runs; None is that of the sweep's run above a run, because a group is in
            one project, else ``WANDB_PROJECT``, else ``tracker_viz``.
        entity: who owns the project; None is the account's own.
        base_url: the server; None uses ``WANDB_BASE_URL`` or the client's configuration.
        settings: more ``wandb.Settings`` for new runs, ``{"console": "wrap", "x_disable_stats":
            True}``.
        run_id: id of the run that ``create_run`` makes, except for runs of a sweep; None:
            ``WANDB_RUN_ID``, else a new one.
        resume: how to treat a run that has this id already: ``allow``, ``must``, ``never`` or
            ``auto``, as for ``wandb.init``; None: ``WANDB_RESUME``.
    """

    scheme = "wandb"
    reference_pattern = f"{_ENTITY}/{_PROJECT}/{_RUN_ID}"
    reference_form = "wandb:<entity>/<project>/<run_id>"
    install = "pip install 'tracker-viz[wandb]'"
    client = "wandb"
    live_run = "a wandb.Run"
    report_to = "wandb"
    lightning_loggers = ("WandbLogger",)
    has_sweeps = True

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        base_url: str | None = None,
        settings: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        resume: str | None = None,
    ) -> None:
        import wandb

        from tracker_viz.trackers.wandb.service import WandbService

        for name, value in (("project", project), ("entity", entity)):
            if value is not None and not _NAME.fullmatch(value):
                raise ConfigError(
                    f"{name} must be at most 128 characters without any of /\\#?%:; got {value!r}"
                )
        self._project, self._entity = project, entity
        self._settings = dict(settings or {})
        if unknown := self._settings.keys() - wandb.Settings.model_fields.keys():
            raise ConfigError(
                f"settings must be fields of wandb.Settings; got {', '.join(sorted(unknown))}"
            )
        self._service = WandbService(base_url)
        self._run_id = run_id or os.environ.get("WANDB_RUN_ID") or None
        self._resume = resume or os.environ.get("WANDB_RESUME") or None

    @property
    def options(self) -> Mapping[str, str]:
        chosen = {
            "project": self._project or os.environ.get("WANDB_PROJECT"),
            "entity": self._entity,
            "run_id": self._run_id,
            "resume": self._resume,
        }
        return {name: value for name, value in chosen.items() if value} | self._service.environment

    def create_run(
        self,
        *,
        name: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        parent: RunRef | None = None,
        key: str | None = None,
    ) -> WandbRun:
        from tracker_viz.trackers.wandb import session
        from tracker_viz.trackers.wandb.run import JOB_TYPE, WandbRun
        from tracker_viz.trackers.wandb.service import OWN_CONFIG, SHARED

        mode = self._service.mode
        if mode == "disabled":
            raise TrackerError(
                "with WANDB_MODE=disabled W&B stores nothing; unset it, or log "
                "to another tracker: run='mlflow' in Python, tracker=mlflow on "
                "the command line"
            )
        identity = self._identity(parent, key, mode)
        entity, project = self._home(parent)
        open_already = self._open_here(entity, project, identity["id"])
        if open_already:
            return open_already
        noted: dict[str, Any] = {"tags": dict(tags or {})}
        if parent:
            noted["parent"] = str(parent)
        if mode == "online":
            self._service.check()
            if self._service.is_shared:
                # Other processes put films into it while this one trains.
                mode = noted["mode"] = SHARED
                identity["resume"] = None
        sdk_run = session.start(
            self._service,
            settings=self._settings,
            entity=entity,
            project=project,
            **identity,
            name=as_name(name, NAME_CHARACTERS),
            config={**without_secrets(config), OWN_CONFIG: noted},
            tags=_tags(tags or {}),
            mode=mode,
            group=parent.path.rpartition("/")[2] if parent else None,
            job_type=JOB_TYPE if parent else None,
        )
        return WandbRun(self._service, session.ref_of(sdk_run), sdk_run=sdk_run, ours=True)

    def _open_here(self, entity: str | None, project: str, run_id: str | None) -> WandbRun | None:
        """Return the run with this id if this process writes it already."""
        from tracker_viz.trackers.wandb import session
        from tracker_viz.trackers.wandb.run import WandbRun
        from tracker_viz.trackers.wandb.service import DEFAULT_ENTITY

        if run_id is None:
            return None
        live = session.live_run(RunRef("wandb", f"{entity or DEFAULT_ENTITY}/{project}/{run_id}"))
        if live is None:
            return None
        ours = session.is_ours(live)
        ref = session.ref_of(live)
        return WandbRun(self._service, ref, sdk_run=live, ours=ours, joined=not ours)

    def _identity(self, parent: RunRef | None, key: str | None, mode: str) -> dict[str, Any]:
        """Return the id of a new run and how to resume it, as ``wandb.init`` takes both."""
        named = self._run_id if parent is None else None
        if mode != "online":
            return {"id": named or _new_id(key), "resume": None}
        if named:
            # As the client has it: without a word about resuming, the run starts over.
            return {"id": named, "resume": self._resume}
        if self._resume == "auto" and parent is None:
            return {"id": None, "resume": "auto"}  # the client keeps the id in a file
        # The same key means the same run: its maker may have been killed before it noted it.
        return {"id": _new_id(key), "resume": "allow"}

    def _home(self, parent: RunRef | None) -> tuple[str | None, str]:
        """Return entity and project of a new run."""
        from tracker_viz.trackers.wandb.service import DEFAULT_ENTITY

        if parent is None or parent.scheme != "wandb":
            return self._entity, self._project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
        entity, project, _ = parent.path.split("/")
        if self._project in (None, project):
            return self._entity or (None if entity == DEFAULT_ENTITY else entity), project
        log.warning(
            "%s is the run of a sweep in another project than %r: W&B does not show the sweep's "
            "runs together",
            parent,
            self._project,
        )
        return self._entity, self._project

    def keeps_below(self, parent: RunRef, options: Mapping[str, str]) -> bool:
        """Return whether the parent is in this tracker's project: a group of W&B is in one."""
        from tracker_viz.trackers.wandb.service import DEFAULT_ENTITY

        here = self.options.get("base_url")
        if parent.scheme != "wandb" or options.get("base_url", here) != here:
            return False
        entity, project, _ = parent.path.split("/")
        same_entity = self._entity in (None, entity) or entity == DEFAULT_ENTITY
        return same_entity and self._project in (None, project)

    def open_run(self, ref: RunRef, *, ours: bool = False) -> Run:
        from tracker_viz.trackers.wandb import session
        from tracker_viz.trackers.wandb.agent_sweep import find_sweep
        from tracker_viz.trackers.wandb.run import WandbRun
        from tracker_viz.trackers.wandb.service import DEFAULT_ENTITY

        if ref.scheme != "wandb":
            raise ConfigError(
                f"a W&B run must look like 'wandb:<entity>/<project>/<run_id>'; got '{ref}'"
            )
        if live := session.live_run(ref):
            return WandbRun(
                self._service,
                session.ref_of(live),
                sdk_run=live,
                ours=ours,
                joined=not session.is_ours(live),
            )
        if ours and self._service.mode == "offline":
            # Training goes on without a server: a further offline log under the same id, which
            # `wandb sync` adds to the first.
            entity, project, run_id = ref.path.split("/")
            identity = {
                "entity": None if entity == DEFAULT_ENTITY else entity,
                "project": project,
                "id": run_id,
                "resume": "allow",
            }
            sdk_run = session.start(
                self._service, settings=self._settings, mode="offline", **identity
            )
            return WandbRun(self._service, session.ref_of(sdk_run), sdk_run=sdk_run, ours=True)
        try:
            self._service.fetch_run(ref)
        except RunNotFoundError:
            sweep = find_sweep(self._service, ref)
            if sweep is None:
                raise
            return sweep
        return WandbRun(self._service, self._service.resolved(ref), ours=ours)

    def active_run(self) -> WandbRun | None:
        import wandb

        from tracker_viz.trackers.wandb import session

        active = wandb.run
        if active is None or active.disabled or session.is_finished(active):
            return None
        return self.join(active)

    def join(self, live: Any) -> WandbRun:
        import wandb

        from tracker_viz.trackers.wandb import session
        from tracker_viz.trackers.wandb.run import WandbRun
        from tracker_viz.trackers.wandb.service import WandbService

        if not isinstance(live, wandb.Run):
            raise ConfigError(
                "a W&B run is joined by its wandb.Run; got "
                f"{type(live).__module__}.{type(live).__qualname__}"
            )
        if session.is_finished(live):
            raise ConfigError(
                f"the W&B run {live.id} is finished; give its reference instead: "
                f"{session.ref_of(live)}"
            )
        return WandbRun(
            WandbService(live.settings.base_url),
            session.ref_of(live),
            sdk_run=live,
            ours=False,
            joined=True,
        )

    @classmethod
    def run_of_logger(cls, logger: Any) -> LoggerRun:
        return LoggerRun(logger.experiment)

    @classmethod
    def options_of_logger(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        # The logger's own default is WANDB_PROJECT, then this name.
        project = os.environ.get("WANDB_PROJECT", "lightning_logs")
        return {
            "project": arguments.get("project", project),
            "entity": arguments.get("entity"),
        }

    @classmethod
    def switched_off(cls, live: Any = None) -> str | None:
        if os.environ.get("WANDB_MODE") == "disabled":
            return "WANDB_MODE=disabled"
        try:
            import wandb
        except ImportError:
            return None  # Connecting says what to install.
        run = live or wandb.run
        if run is not None:
            return "mode='disabled'" if run.disabled else None
        if "WANDB_MODE" not in os.environ and wandb.setup().settings.mode == "disabled":
            return "'wandb disabled' (undone by 'wandb enabled')"
        return None

    @classmethod
    def agent_settings(cls) -> Mapping[str, Any]:
        """Read the parameters that ``wandb agent`` wrote for this process."""
        path = os.environ.get("WANDB_SWEEP_PARAM_PATH")
        if not path or not Path(path).is_file():
            return {}
        written = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        config = {}
        for name, described in written.items():
            if isinstance(described, Mapping) and "value" in described:
                config[name] = described["value"]
        return config

    @property
    def offline_because(self) -> str:
        mode = self._service.mode
        return "" if mode == "online" else f"WANDB_MODE={mode}"

    def health(self, timeout_s: float) -> Health:
        """Check that the client's server answers, and that there is a key for it."""
        address = self._service.base_url
        found = server_health(address, timeout_s)
        if not found.usable:
            return found
        try:
            self._service.require_credentials()
        except TrackerVizError as error:
            return Health(False, f"{address} answers, but cannot be written to", str(error))
        return found


def _new_id(key: str | None) -> str:
    return key[:12] if key else secrets.token_hex(4)


def _tags(tags: Mapping[str, str]) -> list[str]:
    """Return tags as W&B has them, ``name`` or ``name:value``, without those that are too long."""
    from tracker_viz.trackers.wandb.session import TAG_CHARACTERS

    named = [f"{name}:{value}" if value else name for name, value in tags.items()]
    return [tag for tag in named if len(tag) <= TAG_CHARACTERS]
