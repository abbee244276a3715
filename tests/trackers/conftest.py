"""Fixtures for trackers: nothing of this machine's settings, short retries, and stores that
are slow to make."""

from __future__ import annotations

import threading

import pytest
import requests

from tracker_viz.delivery import Destination, uploader
from tracker_viz.trackers.mlflow.tracker import MlflowTracker


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_RUN_ID",
        "TRACKER_VIZ_MLFLOW_UI_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr(uploader, "FIRST_RETRY_S", 0.02)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory, put_mlflow_store):
    """One SQLite store for all tests that need any."""
    uri = put_mlflow_store(tmp_path_factory.mktemp("embedded"))
    MlflowTracker(uri, "contract").create_run(name="first", config={}).finish("finished")
    return uri


@pytest.fixture
def run(embedded):
    run = MlflowTracker(embedded, "contract").create_run(name="a", config={})
    yield run
    run.finish("finished")


@pytest.fixture
def asking(monkeypatch):
    """The threads of this process that asked a server for anything, from here on."""
    threads, send = set(), requests.Session.send

    def noted(session, request, **options):
        threads.add(threading.current_thread())
        return send(session, request, **options)

    monkeypatch.setattr(requests.Session, "send", noted)
    return threads


@pytest.fixture
def there(tmp_path):
    """A destination on another 'disk'."""
    return Destination("local", {"directory": str(tmp_path / "there")})
