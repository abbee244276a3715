"""A real ``mlflow server`` for tests, as a process group that can be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from own_port import own_port

START_TIMEOUT_S = 300.0
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class MlflowServer:
    """A real ``mlflow server`` with proxied artifacts, in a process group of its own."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        store: str | None = None,
        env: dict[str, str] | None = None,
        prefix: str = "",
        ca: Path | None = None,
    ) -> None:
        self.directory = directory
        self.artifacts = directory / "artifacts"
        self._held = own_port()
        self.port = self._held.getsockname()[1]
        self.uri = f"{'https' if ca else 'http'}://127.0.0.1:{self.port}"
        self.ca = ca
        self._prefix = prefix
        self._command = [
            *(
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--workers",
                "1",
            ),
            *(
                "--backend-store-uri",
                store or f"sqlite:///{directory / 'server.db'}",
                "--artifacts-destination",
                str(self.artifacts),
            ),
            *arguments,
        ]
        self._env = (
            {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
            | QUIET
            | (env or {})
        )
        self.pid: int | None = None

    def start(self) -> MlflowServer:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "server.log").open("ab") as out:
            process = subprocess.Popen(
                self._command,
                env=self._env,
                stdout=out,
                stderr=out,
                cwd=self.directory,
                start_new_session=True,
            )
        self.pid = process.pid
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if requests.get(
                    f"{self.uri}{self._prefix}/health",
                    timeout=2,
                    verify=str(self.ca) if self.ca else None,
                ).ok:
                    return self
            except requests.RequestException:
                time.sleep(0.1)
        self.kill()
        pytest.fail(
            f"mlflow server did not start:\n{(self.directory / 'server.log').read_text()[-3000:]}"
        )

    def kill(self) -> None:
        if self.pid is not None:
            kill_group(self.pid)
        self.pid = None

    def stored(self, run_id: str) -> Path:
        """Where the server keeps a run's artifacts."""
        (found,) = self.artifacts.glob(f"*/{run_id}/artifacts")
        return found


def kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
