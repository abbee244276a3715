"""Connect to MLflow: the embedded SQLite store, any server, any artifact store that its client
knows.

Only the client interface with explicit run ids is used: the fluent one would set a finished run to
running and rewrite its end. This module imports MLflow only when a tracker is created, see
``trackers.base.Tracker``.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_viz import __version__
from tracker_viz.errors import (
    ConfigError,
    RunNotFoundError,
    TrackerError,
    TrackerVizError,
    TransientTrackerError,
)
from tracker_viz.trackers.redaction import without_userinfo
from tracker_viz.trackers.run_config import as_name
from tracker_viz.trackers.tracker import Tracker, server_health
from tracker_viz.trackers.values import Health, LoggerRun
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    import mlflow

    from tracker_viz.trackers.mlflow.run import MlflowRun

log = logging.getLogger(__name__)

RUN_ID_VARIABLE = "MLFLOW_RUN_ID"
_UNTRIED = "MLFLOW_TRACKING_URI=... mlflow experiments search  says whether it answers"
_ELSEWHERE = "choose another place: MLFLOW_TRACKING_URI=sqlite:////<directory>/mlflow.db"


class MlflowTracker(Tracker):
    """One MLflow service.

    Args:
        tracking_uri: as MLflow takes it; None uses what MLflow itself is set to, else ``mlflow.db``
            where the program was started.
        experiment: name for new runs, created if it does not exist; None:
            ``MLFLOW_EXPERIMENT_NAME``, ``MLFLOW_EXPERIMENT_ID``, ``mlflow.set_experiment``, else
            MLflow's own ``Default``.
        ui_url: address of the UI if a proxy serves it elsewhere than at the tracking URI.
        run_id: an existing run that ``create_run`` continues, except for runs of a sweep; None:
            ``MLFLOW_RUN_ID``. As with ``mlflow.start_run``, the variable counts for the first run
            of a process.
        workspace: on a server that has several; None: ``MLFLOW_WORKSPACE``,
            ``mlflow.set_workspace``. As with these, it counts for the whole process.

    Raises:
        ConfigError: the URI names a store that MLflow gave up, or none at all; ``ui_url`` is no
            address of a web page.
    """

    scheme = "mlflow"
    reference_pattern = r"[\w-]{1,256}"
    reference_form = "mlflow:<run_id>"
    install = "pip install 'tracker-viz[mlflow]'"
    client = "mlflow"
    live_run = "an MLflow run"
    report_to = "mlflow"
    lightning_loggers = ("MLFlowLogger",)
    has_sweeps = True

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        ui_url: str | None = None,
        run_id: str | None = None,
        workspace: str | None = None,
    ) -> None:
        from tracker_viz.trackers.mlflow import service

        if workspace:
            service.enter_workspace(workspace)
        self._workspace = service.current_workspace()
        self._given_uri = service.absolute_uri(tracking_uri) if tracking_uri else None
        self._uri, self._experiment, self._experiment_id = service.service_and_experiment(
            tracking_uri, experiment
        )
        self._ui_url = service.checked_ui_url(ui_url)
        self._run_id = run_id or os.environ.get(RUN_ID_VARIABLE) or None

    @property
    def options(self) -> Mapping[str, str]:
        options = {
            "tracking_uri": without_userinfo(self._uri),
            "experiment": self._experiment,
            "ui_url": self._ui_url,
            "run_id": self._run_id,
            "workspace": self._workspace,
        }
        return {name: value for name, value in options.items() if value is not None}

    def create_run(
        self,
        *,
        name: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        parent: RunRef | None = None,
        key: str | None = None,
    ) -> MlflowRun:
        from tracker_viz.trackers.mlflow import service
        from tracker_viz.trackers.mlflow.errors import mlflow_errors
        from tracker_viz.trackers.mlflow.run import MlflowRun

        service.ensure_reachable(self._uri)
        if self._run_id and parent is None:
            return self._resumed(self._run_id, config)
        service.initialize_embedded(self._uri, self._experiment)
        client = service.client(self._uri)
        with mlflow_errors(self._uri, "create a run"):
            experiment_id = self._experiment_id or _ensure_experiment(
                client, self._experiment or "Default"
            )
            made = _find_by_key(client, experiment_id, key)
            if made is None:
                all_tags = _tags_of_new_run(tags or {}, parent, key)
                made = client.create_run(experiment_id, run_name=as_name(name), tags=all_tags)
            if key and self._uri.startswith("http"):
                _delete_twins(client, experiment_id, key, made.info.run_id)
        run = MlflowRun(client, self._uri, made, ours=True, ui_url=self._ui_url)
        try:
            run.log_config(config)
            run.ensure_store()
        except TransientTrackerError:
            raise
        except TrackerVizError:
            run.finish("failed")
            raise
        return run

    def keeps_below(self, parent: RunRef, options: Mapping[str, str]) -> bool:
        there = options.get("tracking_uri", self.options["tracking_uri"])
        return parent.scheme == "mlflow" and there == self.options["tracking_uri"]

    def _resumed(self, run_id: str, config: Mapping[str, Any]) -> MlflowRun:
        """Continue a run as ``mlflow.start_run`` does: it is shown as running again."""
        from tracker_viz.trackers.mlflow.errors import mlflow_errors

        run = self.open_run(RunRef("mlflow", run_id), ours=True)
        with mlflow_errors(self._uri, f"take up run {run_id}"):
            run.restart()
        run.log_config(config)
        if os.environ.get(RUN_ID_VARIABLE) == run_id:
            del os.environ[RUN_ID_VARIABLE]
        return run

    def open_run(self, ref: RunRef, *, ours: bool = False) -> MlflowRun:
        from tracker_viz.trackers.mlflow import service
        from tracker_viz.trackers.mlflow.run import MlflowRun, existing_run

        service.ensure_reachable(self._uri)
        database = service.database_path(self._uri)
        if database and not database.is_file():
            raise RunNotFoundError(
                f"{ref} cannot be found: there is no database {database}; pass "
                "its address with tracking_uri=..."
            )
        service.initialize_embedded(self._uri, None)
        client = service.client(self._uri)
        return MlflowRun(
            client,
            self._uri,
            existing_run(client, self._uri, ref.path),
            ours=ours,
            ui_url=self._ui_url,
        )

    def active_run(self) -> MlflowRun | None:
        import mlflow

        from tracker_viz.trackers.mlflow import service

        active = mlflow.active_run()
        if active is None:
            return None
        fluent = service.absolute_uri(mlflow.get_tracking_uri())
        if self._given_uri not in (None, fluent):
            log.warning(
                "the active MLflow run is in %s, not in %s: it is not joined",
                *map(without_userinfo, (fluent, str(self._given_uri))),
            )
            return None
        return self._joined(active)

    def join(self, live: Any) -> MlflowRun:
        import mlflow

        if not isinstance(live, mlflow.entities.Run):
            raise ConfigError(
                "an MLflow run is an mlflow.entities.Run, as mlflow.start_run() gives; got "
                f"{type(live).__qualname__}"
            )
        return self._joined(live)

    @classmethod
    def run_of_logger(cls, logger: Any) -> LoggerRun:
        ref = RunRef("mlflow", logger.run_id)
        return LoggerRun(ref, {"tracking_uri": logger._tracking_uri})

    def start_live_run(self, name: str | None, config: Mapping[str, Any]) -> bool:
        import mlflow

        from tracker_viz.trackers.mlflow.errors import mlflow_errors

        with mlflow_errors(self._uri, "start a run"):
            mlflow.start_run(run_name=name)
            mlflow.log_params(dict(config), synchronous=True)
        return True

    @classmethod
    def options_of_logger(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        # Without an address the logger writes files into save_dir, a store that MLflow gave up.
        return {
            "tracking_uri": arguments.get("tracking_uri"),
            "experiment": arguments.get("experiment_name", "lightning_logs"),
        }

    def health(self, timeout_s: float) -> Health:
        """Check that the server answers, or that the database's directory can be written."""
        address = without_userinfo(self._uri)
        if address.startswith("http"):
            return server_health(address, timeout_s)
        if not address.startswith("sqlite:///"):
            return Health(False, f"{address} is not tried here", _UNTRIED)

        database = Path(address.removeprefix("sqlite:///").partition("?")[0])
        if os.access(database if database.exists() else database.parent, os.W_OK):
            return Health(True, f"embedded, {address}")
        return Health(False, f"{address} cannot be written", _ELSEWHERE)

    def _joined(self, live: mlflow.entities.Run) -> MlflowRun:
        import mlflow

        from tracker_viz.trackers.mlflow import service
        from tracker_viz.trackers.mlflow.run import MlflowRun

        # The run's object does not know its service; the fluent interface, which made it, does.
        uri = self._given_uri or service.absolute_uri(mlflow.get_tracking_uri())
        client = service.client(uri)
        return MlflowRun(client, uri, live, ours=False, ui_url=self._ui_url)


def _tags_of_new_run(
    tags: Mapping[str, str], parent: RunRef | None, key: str | None
) -> dict[str, str]:
    """Return the user's tags, those that MLflow finds out about the program, and ours."""
    from mlflow.tracking.context.registry import resolve_tags

    from tracker_viz.trackers.mlflow.limits import MAX_TAG_CHARACTERS, legal_name
    from tracker_viz.trackers.mlflow.run import KEY_TAG, PARENT_TAG

    given = {legal_name(tag): str(value)[:MAX_TAG_CHARACTERS] for tag, value in tags.items()}
    # MLflow's own tags may hold a git remote with its password.
    found = {tag: without_userinfo(value) for tag, value in resolve_tags(given).items()}
    found["tracker_viz.version"] = __version__
    if key:
        found[KEY_TAG] = key
    if parent:
        found[PARENT_TAG] = parent.path
    return found


def _ensure_experiment(client: mlflow.MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            # Another process made it between the two calls.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        restored = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise TrackerError(
            f"the experiment {name!r} was deleted; choose another with experiment=..., or restore "
            f"it: {restored}"
        )
    return str(found.experiment_id)


def _delete_twins(client: mlflow.MlflowClient, experiment_id: str, key: str, run_id: str) -> None:
    """Delete other runs that the key made: where an answer is lost on its way, MLflow's client asks
    the server for the run once more, and it makes a second one. Nothing is in them yet."""
    from tracker_viz.trackers.mlflow.run import KEY_TAG

    for twin in client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'"):
        if twin.info.run_id != run_id:
            client.delete_run(twin.info.run_id)


def _find_by_key(
    client: mlflow.MlflowClient, experiment_id: str, key: str | None
) -> mlflow.entities.Run | None:
    from mlflow.entities import ViewType

    from tracker_viz.trackers.mlflow.run import KEY_TAG, OLD_KEY_TAG

    if key is None:
        return None
    if not re.fullmatch(r"[0-9a-f]{32}", key):
        raise ConfigError(f"a run's key is 32 hexadecimal digits; got {key!r}")
    for tag in (KEY_TAG, OLD_KEY_TAG):
        wanted = f"tags.`{tag}` = '{key}'"
        found = client.search_runs([experiment_id], wanted, ViewType.ACTIVE_ONLY, max_results=1)
        if found:
            return found[0]
    return None
