"""The places that captures go to, each made once and used for all trials: every trial has an
experiment, a project or a directory of its own there."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow_server import MlflowServer
from postgres_server import Postgres
from wandb_server import WandbServer

from fault_trials.forks import Host, forked
from tracker_viz.trackers.mlflow.service import initialize_embedded
from tracker_viz.types import RunRef


class Store(ABC):
    """One of them. Start it in the process that forks; everything else is called in forks.

    Args:
        directory: its own.
    """

    scheme: str
    address: tuple[str, int] | None = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def start(self) -> None:
        return

    def stop(self) -> None:
        return

    @abstractmethod
    def options(self, trial: str, uri: str | None = None) -> dict[str, Any]:
        """Return the adapter's options for a trial. ``uri``: reach the service there instead."""

    @abstractmethod
    def n_runs(self, trial: str) -> int:
        """Return how many runs the trial left."""

    @abstractmethod
    def charted(self, ref: RunRef) -> list[int]:
        """Return the steps of all points of the loss that the run charts."""

    def torn(self, trial: str) -> int:
        """Return how many half-written files the trial left in the store."""
        return 0

    def settle(self, ref: RunRef) -> None:
        """Let the time pass after which the service takes the next writer of a run."""
        return

    def extra(self, ref: RunRef) -> int:
        """Return how many copies of captures there are beside the first of each."""
        return 0


class LocalStore(Store):
    scheme = "local"

    def options(self, trial: str, uri: str | None = None) -> dict[str, Any]:
        return {"directory": str(self.directory / trial)}

    def n_runs(self, trial: str) -> int:
        return len(list((self.directory / trial).glob("*/run.json")))

    def charted(self, ref: RunRef) -> list[int]:
        file = Path(ref.path, "metrics.jsonl")
        if not file.exists():
            return []
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        return [line["step"] for line in lines if "loss" in line]

    def torn(self, trial: str) -> int:
        return len(list((self.directory / trial).rglob("*.partial")))


class MlflowStore(Store):
    """MLflow without a server, in SQLite."""

    scheme = "mlflow"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.directory}/mlflow.db"

    @property
    def artifacts(self) -> Path:
        return self.directory / "mlruns"

    def start(self) -> None:
        ended = forked(
            lambda: initialize_embedded(self.uri, "Default"), self.directory / "start.log"
        )
        assert not ended.failed, (self.directory / "start.log").read_text()

    def options(self, trial: str, uri: str | None = None) -> dict[str, Any]:
        return {"tracking_uri": uri or self.uri, "experiment": trial}

    def n_runs(self, trial: str) -> int:
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name(trial)
        return len(client.search_runs([experiment.experiment_id])) if experiment else 0

    def charted(self, ref: RunRef) -> list[int]:
        history = MlflowClient(self.uri).get_metric_history(ref.path, "loss")
        return [point.step for point in history]

    def torn(self, trial: str) -> int:
        left = list(self.artifacts.rglob("*.partial"))
        for file in left:
            file.unlink()  # counted once
        return len(left)


class MlflowServerStore(MlflowStore):
    """``mlflow server`` on SQLite."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.server: MlflowServer | None = None

    @property
    def uri(self) -> str:
        assert self.server is not None
        return self.server.uri

    @property
    def artifacts(self) -> Path:
        return self.directory / "artifacts"

    def start(self) -> None:
        self.server = MlflowServer(self.directory, store=self._store()).start()
        self.address = ("127.0.0.1", self.server.port)

    def stop(self) -> None:
        assert self.server is not None
        self.server.kill()

    def _store(self) -> str | None:
        return None


class PostgresStore(MlflowServerStore):
    """``mlflow server`` on PostgreSQL."""

    def _store(self) -> str | None:
        self.postgres = Postgres.found()
        self.postgres.start()
        return self.postgres.uri

    def stop(self) -> None:
        super().stop()
        self.postgres.remove()


class WandbStore(Store):
    """The real client against the stand-in for the service."""

    scheme = "wandb"

    def start(self) -> None:
        home = self.directory / "home"
        home.mkdir(parents=True)
        self._host = Host(WandbHost)
        url, environment = self._host.call("reached", self.directory)
        self.url = url
        self.address = ("127.0.0.1", int(url.rpartition(":")[2]))
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(environment)

    def stop(self) -> None:
        print("refused by the stand-in:", self._host.call("refused"), flush=True)
        self._host.end()

    def options(self, trial: str, uri: str | None = None) -> dict[str, Any]:
        return {"project": trial, "base_url": uri or self.url}

    def n_runs(self, trial: str) -> int:
        return self._host.call("n_runs", trial)

    def charted(self, ref: RunRef) -> list[int]:
        return self._host.call("charted", ref.path)

    def settle(self, ref: RunRef) -> None:
        self._host.call("crash", ref.path)

    def extra(self, ref: RunRef) -> int:
        return self._host.call("extra", ref.path)


class WandbHost:
    """What the stand-in's process answers."""

    def __init__(self) -> None:
        self._server = WandbServer().start()

    def reached(self, directory: Path) -> tuple[str, dict[str, str]]:
        return self._server.base_url, self._server.environment(directory)

    def refused(self) -> list[str]:
        return self._server.refused

    def n_runs(self, project: str) -> int:
        return sum(run.project == project for run in self._server.runs)

    def charted(self, path: str) -> list[int]:
        rows = self._server.run(path).history
        return [row["tracker_viz/step"] for row in rows if "loss" in row]

    def extra(self, path: str) -> int:
        versions = self._server.artifacts(path, "tracker-viz-capture")
        names = Counter(name for version in versions for name in version.files)
        return sum(names.values()) - len(names)

    def crash(self, path: str) -> None:
        """As if the run's process had been silent for five minutes."""
        self._server.run(path).crash()

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.start()


STORES: dict[str, type[Store]] = {
    "local": LocalStore,
    "mlflow": MlflowStore,
    "mlflow-server": MlflowServerStore,
    "mlflow-postgresql": PostgresStore,
    "wandb": WandbStore,
}
