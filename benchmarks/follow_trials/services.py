"""The servers that a run is followed in: a real MLflow, and a stand-in for W&B."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlflow import MlflowClient
from mlflow_server import MlflowServer
from wandb_server import WandbServer

from tracker_viz.types import RunRef


class Service(ABC):
    """A tracker's server, which can be stopped and started again.

    Attributes:
        scheme: the name of the tracker.
        options: those of the tracker's adapter.
        environment: variables of the training process alone.
        seen: versions of the film that were in the run, by digest.
        overwritten: how often an earlier row of the history had changed.
    """

    scheme: str
    options: dict[str, Any]
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self) -> None:
        self.seen: dict[str, bytes] = {}
        self.overwritten = 0

    @abstractmethod
    def start(self) -> None:
        """Start the server again."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the server at once."""

    @abstractmethod
    def look(self, ref: RunRef) -> None:
        """Keep new versions of the film, and compare the history with what it was."""

    @abstractmethod
    def charted(self, ref: RunRef) -> list[int]:
        """Return the steps of all points of the loss."""

    def refused(self) -> int:
        """Return how many requests the server did not know."""
        return 0

    def _keep(self, film: bytes) -> None:
        if film:
            self.seen.setdefault(hashlib.sha256(film).hexdigest(), film)


class Mlflow(Service):
    """A real MLflow server."""

    scheme = "mlflow"

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._server = MlflowServer(directory / "server").start()
        self.options = {"tracking_uri": self._server.uri, "experiment": "followed"}

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.kill()

    def look(self, ref: RunRef) -> None:
        for film in self._server.artifacts.rglob("artifacts/overview.webm"):
            self._keep(film.read_bytes())

    def charted(self, ref: RunRef) -> list[int]:
        history = MlflowClient(self._server.uri).get_metric_history(ref.path, "loss")
        return [point.step for point in history]


class Wandb(Service):
    """W&B in shared mode, with the tests' stand-in server. A stopped server keeps its runs."""

    scheme = "wandb"
    environment = MappingProxyType({"WANDB_MODE": "shared"})

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._server = WandbServer().start()
        (directory / "home").mkdir()
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(self._server.environment(directory))
        self.options = {"project": "followed"}
        self._history: list[dict[str, Any]] = []

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def look(self, ref: RunRef) -> None:
        run = self._server.run(ref.path)
        with self._server.state.lock:
            history, files = run.history, dict(run.files)
        self.overwritten += history[: len(self._history)] != self._history
        self._history = history
        for row in history:
            if film := row.get("tracker_viz/overview"):
                self._keep(files.get(film["path"], b""))

    def charted(self, ref: RunRef) -> list[int]:
        rows = self._server.run(ref.path).history
        return [row["tracker_viz/step"] for row in rows if "loss" in row]

    def refused(self) -> int:
        return len(self._server.refused)


SERVICES = {"mlflow": Mlflow, "wandb": Wandb}
