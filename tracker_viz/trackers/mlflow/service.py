"""Find an MLflow service, check that it answers, and build the links to its UI. Used by the adapter
only; imports the SDK.

A service is a tracking URI: ``http(s)://`` for a server, ``sqlite:////absolute/mlflow.db`` for the
embedded store, ``postgresql://`` and the like for a database used directly, ``databricks``.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from mlflow.utils.workspace_context import get_request_workspace, set_workspace

from tracker_viz.errors import ConfigError, TransientTrackerError
from tracker_viz.files import home_expanded, locked, user_path, working_directory
from tracker_viz.trackers.mlflow.errors import mlflow_errors
from tracker_viz.trackers.redaction import without_userinfo

PROBE_TIMEOUT_S = 5.0
INIT_LOCK_TIMEOUT_S = 120.0
_WORKFLOW = "?workflowType=machine_learning"
EMBEDDED_UI = "http://127.0.0.1:5000"

_FILE_STORE_HINT = (
    "MLflow's file store ({uri}) is no longer written to by MLflow itself; use a database: "
    "tracking_uri=sqlite:////absolute/mlflow.db, "
    "or bring the old runs along with: mlflow migrate-filestore --source <directory> --target "
    "sqlite:////absolute/mlflow.db"
)
_initialized: set[str] = set()
_initializing = threading.Lock()
_printing = threading.Lock()
_UI_VARIABLE = "TRACKER_VIZ_MLFLOW_UI_URL"
_NO_LINKS = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"


def service_and_experiment(
    tracking_uri: str | None, experiment: str | None
) -> tuple[str, str | None, str | None]:
    """Return where new runs go: the service's address, and the experiment's name or, if only that
    is known, its id."""
    uri = absolute_uri(tracking_uri or default_uri())
    if tracking_uri and uri == without_userinfo(uri):
        uri = _with_credentials_of_environment(uri)
    if experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        return uri, experiment or os.environ["MLFLOW_EXPERIMENT_NAME"], None
    # mlflow.set_experiment() sets this variable too, so it covers the fluent interface.
    experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
    return uri, None if experiment_id else "Default", experiment_id


def default_uri() -> str:
    """Return the URI that MLflow itself is set to (``mlflow.set_tracking_uri``,
    ``MLFLOW_TRACKING_URI``), else that of ``mlflow.db`` where the program was started.

    Hydra may change every job's directory, and each would get its own database.
    """
    if mlflow.tracking.is_tracking_uri_set():
        return str(mlflow.get_tracking_uri())
    start = None
    if "hydra.core.hydra_config" in sys.modules:
        from hydra.core.hydra_config import HydraConfig

        if HydraConfig.initialized():
            start = Path(HydraConfig.get().runtime.cwd)
    return f"sqlite:///{_named_by_sqlite(start or working_directory()) / 'mlflow.db'}"


def _named_by_sqlite(directory: Path) -> Path:
    """Return a directory that an SQLite address can name.

    Raises:
        ConfigError: what follows a ? is taken for options there, and % for a letter.
    """
    if {"?", "%"}.intersection(str(directory)):
        raise ConfigError(
            f"an SQLite address cannot contain {directory}, because of its ? or "
            "%: choose another place, "
            "tracking_uri=sqlite:////<directory>/mlflow.db, or start in another "
            "directory"
        )
    return directory


def _with_credentials_of_environment(uri: str) -> str:
    """Add the password that the environment has for the same service; stored ones have none."""
    named = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    return named if named and without_userinfo(named) == uri else uri


def absolute_uri(uri: str) -> str:
    """Return a URI that names the same service from every directory.

    Raises:
        ConfigError: no tracking URI, or one of a store that MLflow gave up.
    """
    uri = str(uri).strip()
    scheme = urlsplit(uri).scheme.lower()
    if scheme == "sqlite":
        path = uri.removeprefix("sqlite:///")
        if path == uri or path.startswith(":memory:") or not path:
            raise ConfigError(
                f"an SQLite store is named like sqlite:////absolute/mlflow.db; got {uri!r}"
            )
        file, mark, options = path.partition("?")
        if not home_expanded(file).is_absolute():
            _named_by_sqlite(working_directory())
        return f"sqlite:///{user_path(file)}{mark}{options}"
    if scheme in {"file", ""} and not uri.startswith("databricks"):
        raise ConfigError(_FILE_STORE_HINT.format(uri=uri or "an empty path"))
    known = {
        "http",
        "https",
        "databricks",
        "databricks-uc",
        "uc",
        *DATABASE_ENGINES,
        *_plugin_schemes(),
    }
    if (scheme and scheme.partition("+")[0] not in known) or (
        scheme in {"http", "https"} and not urlsplit(uri).hostname
    ):
        plugins = "".join(f", {name}://..." for name in sorted(_plugin_schemes()))
        raise ConfigError(
            "a tracking URI looks like http://mlflow.mylab.org, https://..., "
            "sqlite:////absolute/mlflow.db, postgresql://..., mysql://..., "
            f"mssql://..., databricks{plugins}; got {without_userinfo(uri)!r}"
        )
    return uri.rstrip("/")


def _plugin_schemes() -> set[str]:
    """Return the URI schemes that other packages teach MLflow."""
    return {entry.name for entry in importlib.metadata.entry_points(group="mlflow.tracking_store")}


def database_path(uri: str) -> Path | None:
    """Return the embedded store's file; None for any other store."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def ensure_reachable(uri: str) -> None:
    """Check that a server answers, so that a dead one costs seconds. MLflow's own retries would
    take minutes.

    Raises:
        TransientTrackerError: nothing answers there now.
        TrackerError: the connection is refused for good (a certificate that is not trusted).
    """
    if not uri.startswith(("http://", "https://")):
        return
    with mlflow_errors(uri, "reach the server"):
        response = http_request(
            get_default_host_creds(uri),
            "/health",
            "GET",
            max_retries=0,
            timeout=PROBE_TIMEOUT_S,
            raise_on_status=False,
        )
        if response.status_code in {502, 503, 504}:
            raise TransientTrackerError(
                f"{without_userinfo(uri)} answers HTTP {response.status_code}: the server behind "
                "it is not up"
            )


def is_guarded(uri: str, ui_url: str | None, address: str) -> bool:
    """Return whether the UI refuses the file at ``address`` without a log-in, or redirects to a
    log-in page.

    Raises:
        TransientTrackerError: nothing answers there now.
    """
    base = ui_base(uri, ui_url)
    if base == EMBEDDED_UI:
        return False  # not up yet, and it knows no log-in
    stranger = get_default_host_creds(base)
    stranger.username = stranger.password = stranger.token = stranger.auth = None
    stranger.aws_sigv4 = False
    with mlflow_errors(base, "ask for a file as a stranger"):
        response = http_request(
            stranger,
            address,
            "GET",
            max_retries=0,
            timeout=PROBE_TIMEOUT_S,
            raise_on_status=False,
            stream=True,
        )
        response.close()
    return response.status_code != 200 or response.headers.get("Content-Type", "").startswith(
        "text/html"
    )


def initialize_embedded(uri: str, experiment: str | None) -> None:
    """Create the database file and the experiment under a lock, because MLflow's own first use
    fails when two processes race for it.

    Artifacts go to ``mlruns`` beside the database, whatever directory a process runs in.
    """
    path = database_path(uri)
    if path is None:
        return
    with _initializing:
        if f"{uri} {experiment}" in _initialized:
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        with mlflow_errors(uri, "open the database"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_name(f"{path.name}.init.lock"), timeout_s=INIT_LOCK_TIMEOUT_S):
                store = SqlAlchemyStore(uri, (path.parent / "mlruns").as_uri())
                if experiment is not None and store.get_experiment_by_name(experiment) is None:
                    store.create_experiment(experiment)
        _initialized.add(f"{uri} {experiment}")


def current_workspace() -> str | None:
    """Return the workspace that MLflow's client is in; None on a server that has none."""
    return get_request_workspace()


def enter_workspace(name: str) -> None:
    """Move this process's client to a workspace, as ``mlflow.set_workspace`` does.

    Raises:
        ConfigError: no workspace can have that name.
    """
    try:
        set_workspace(name)
    except MlflowException as error:
        raise ConfigError(f"workspace must be a workspace's name; got {name!r} ({error})") from None


def client(uri: str) -> MlflowClient:
    with mlflow_errors(uri, "reach the service"):
        return MlflowClient(tracking_uri=uri)


@contextmanager
def no_printed_links() -> Iterator[None]:
    """Keep MLflow's client from printing a run's link when it ends one: without the UI's prefix,
    and with the password in an address."""
    with _printing:
        before = os.environ.get(_NO_LINKS)
        os.environ[_NO_LINKS] = "true"
        try:
            yield
        finally:
            os.environ.pop(_NO_LINKS)
            if before is not None:
                os.environ[_NO_LINKS] = before


# -- links -----------------------------------------------------------------------------------------


def checked_ui_url(ui_url: str | None) -> str | None:
    """Check and return the adapter's ``ui_url``, and check the environment's.

    Raises:
        ConfigError: one of them is no address of a web page.
    """
    for name, address in (("ui_url", ui_url), (_UI_VARIABLE, os.environ.get(_UI_VARIABLE))):
        if address and not re.match(r"https?://[^/]", address):
            raise ConfigError(
                f"{name} must look like 'https://mlflow.mylab.org' or 'http://127.0.0.1:5000'; got "
                f"{without_userinfo(address)!r}"
            )
    return ui_url


def ui_base(uri: str, ui_url: str | None) -> str:
    """Return the UI's address without a trailing slash: the tracking URI, including a server's
    ``--static-prefix``, unless ``ui_url`` or ``TRACKER_VIZ_MLFLOW_UI_URL`` names another."""
    address = ui_url or os.environ.get(_UI_VARIABLE)
    if address:
        return without_userinfo(address).rstrip("/")
    return without_userinfo(uri) if uri.startswith("http") else EMBEDDED_UI


def ui_command(uri: str, ui_url: str | None) -> str | None:
    """Return the command that serves a store which has no server yet; None for others."""
    if uri.startswith(("http", "databricks")) or ui_url or os.environ.get(_UI_VARIABLE):
        return None
    return f"mlflow ui --backend-store-uri {shlex.quote(without_userinfo(uri))}"


def run_link(
    base: str,
    experiment_id: str,
    run_id: str,
    artifact: str | None,
    *,
    workspace: str | None = None,
) -> str:
    """Return ``<base>/#/experiments/<id>/runs/<id>``, or the artifact page with the file open.
    MLflow shows its GenAI side unless the link says otherwise."""
    page = f"{base}/#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}"
    if artifact:
        page = f"{page}/artifacts/{quote(artifact)}"
    return page + _WORKFLOW + (f"&workspace={quote(workspace)}" if workspace else "")
