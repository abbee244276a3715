"""Fixtures for several folders: an MLflow server, started once also when tests run in several
processes, and a real Chromium."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest
from mlflow_server import QUIET, MlflowServer
from slow_link import SlowLink

os.environ.update(QUIET)
# As train.py does: OpenMP threads that spin while they wait take the cores from the other workers.
# Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# Programs that tests start would compile all of tracker_viz, each for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Those with a cache of their own would list all fonts, which takes matplotlib three seconds.
os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]


# Whole trainings by train.py: begun last, they would leave one of two workers idle for a minute.
LONGEST_FILES = ("test_train.py", "test_wandb_agent.py", "test_user_process.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let Python look for garbage rarely, and not in what is imported by now: going through all of
    torch, mlflow and transformers again and again takes a quarter of a test's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """Make SIGINT interrupt tests and the programs that they start. In the background of a script
    (``make test &``, ``nohup``) it is ignored from the start, and children inherit that."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def no_hydra_job_is_left_behind() -> Iterator[None]:
    """Hydra keeps the last job's configuration for good, and MLflow's default store is where a
    Hydra job was started."""
    yield
    if "hydra.core.hydra_config" in sys.modules:
        from hydra.core.hydra_config import HydraConfig

        HydraConfig.instance().cfg = None


@pytest.fixture(autouse=True)
def no_experiment_is_left_behind() -> Iterator[None]:
    """``mlflow.set_experiment`` counts for the rest of the process, whatever store comes next."""
    before = os.environ.get("MLFLOW_EXPERIMENT_ID")
    yield
    if before is None:
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    else:
        os.environ["MLFLOW_EXPERIMENT_ID"] = before
    if "mlflow.tracking.fluent" in sys.modules:
        sys.modules["mlflow.tracking.fluent"]._active_experiment_id = None


@pytest.fixture(autouse=True)
def no_disabled_wandb_run_is_left_behind() -> Iterator[None]:
    """A trainer opens one under WANDB_MODE=disabled and leaves it to the end of the process."""
    yield
    run = getattr(sys.modules.get("wandb"), "run", None)
    if run is not None and run.disabled:
        run.finish()


@pytest.fixture(scope="session")
def put_mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Put an empty MLflow store into a directory and return its address: making the tables of a
    new one takes three seconds, a copy none."""
    from tracker_viz.trackers.mlflow.service import initialize_embedded

    original = tmp_path_factory.mktemp("empty-mlflow-store") / "mlflow.db"
    initialize_embedded(f"sqlite:///{original}", "Default")

    def put(directory: Path, name: str = "mlflow.db") -> str:
        path = directory / name
        shutil.copy(original, path)
        places = original.parent.as_uri(), directory.as_uri()
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute(
                "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)",
                places,
            )
        return f"sqlite:///{path}"

    return put


@pytest.fixture
def mlflow_store(put_mlflow_store: Callable[..., str], tmp_path: Path) -> str:
    """The address of an empty store, ``mlflow.db`` in ``tmp_path``."""
    return put_mlflow_store(tmp_path)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One server for the whole test run; the last test process that used it ends it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root
    directory = root / "mlflow-server"
    noted = root / "mlflow-server.json"
    server = MlflowServer(directory)
    with filelock.FileLock(f"{noted}.lock"):
        state = json.loads(noted.read_text()) if noted.exists() else {"users": 0}
        if state["users"] == 0:
            server.start()
            state = {"users": 0, "uri": server.uri, "port": server.port, "pid": server.pid}
        server.uri, server.port, server.pid = state["uri"], state["port"], state["pid"]
        noted.write_text(json.dumps(state | {"users": state["users"] + 1}))
    yield server
    with filelock.FileLock(f"{noted}.lock"):
        state = json.loads(noted.read_text())
        state["users"] -= 1
        noted.write_text(json.dumps(state))
        if state["users"] == 0:
            server.kill()


@pytest.fixture
def server_link(mlflow_server: MlflowServer) -> Iterator[SlowLink]:
    """A way to that server which a test may cut."""
    with SlowLink(("127.0.0.1", mlflow_server.port)) as link:
        yield link


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser, as playwright drives it."""
    executable = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if executable is None:
        pytest.skip("needs a Chromium (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=CHROMIUM_FLAGS, timeout=300_000
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """An empty page in a window of its own."""
    context = chromium.new_context(viewport={"width": 1600, "height": 1000})
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()
