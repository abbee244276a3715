"""MLflow through its real client: the contract on the embedded store and on a server, and what is MLflow's own."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

from tracker_viz.trackers import connect
from tracker_viz.trackers.mlflow import MlflowTracker
from tracker_viz.trackers.testing import TrackerContract
from tracker_viz.types import RunRef


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "TRACKER_VIZ_MLFLOW_UI_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """One SQLite store for all tests that need any: making its tables takes seconds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('embedded') / 'mlflow.db'}"
    MlflowTracker(uri, "contract").create_run(name="first", config={}).finish("finished")
    return uri


class MlflowContract(TrackerContract):
    def stored_metrics(self, ref):
        run = self.client.get_run(ref.path)
        return {name: {point.step: point.value for point in self.client.get_metric_history(ref.path, name)} for name in run.data.metrics}

    def stored_summary(self, ref):
        run = self.client.get_run(ref.path)
        return run.data.tags | run.data.metrics

    def truncate(self, ref, capture):
        os.truncate(self.artifacts(ref) / "captures" / capture.file_name, capture.nbytes // 2)

    def missing_ref(self):
        return RunRef("mlflow", "0" * 32)

    def check_video(self, ref, video):
        for name in ("heads.webm", "videos/heads/step_00000100.webm"):
            assert (self.artifacts(ref) / name).read_bytes() == video.read_bytes()


class TestEmbeddedStore(MlflowContract):
    @pytest.fixture
    def tracker(self, embedded):
        self.client = MlflowClient(embedded)
        return MlflowTracker(embedded, "contract")

    @pytest.fixture
    def reader(self, tracker):
        return connect("mlflow", **tracker.options)

    def artifacts(self, ref):
        return Path(local_file_uri_to_path(self.client.get_run(ref.path).info.artifact_uri))


class TestServer(MlflowContract):
    @pytest.fixture
    def tracker(self, mlflow_server):
        self.client = MlflowClient(mlflow_server.uri)
        self.artifacts = lambda ref: mlflow_server.stored(ref.path)
        return MlflowTracker(mlflow_server.uri, "contract")

    @pytest.fixture
    def reader(self, tracker):
        return connect("mlflow", **tracker.options)
