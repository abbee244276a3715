"""Fixtures for tests that let a real ``wandb`` client talk to the stand-in. Import them by name
where they are used.

The client keeps one service process and one set of settings per process: so a test module has one
server, and the client is torn down after the module. A request that the stand-in refused fails the
test during which it came.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import wandb

from wandb_server.httpd import ENTITY, WandbServer
from wandb_server.state import Run


@pytest.fixture(scope="module")
def wandb_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    """The module's server, with this process's client pointed at it."""
    with pytest.MonkeyPatch.context() as patch, WandbServer() as server, own_client():
        isolate(patch, server, tmp_path_factory.mktemp("wandb"))
        # reads the environment once for all runs: not while the module's first test has it say
        # "offline"
        wandb.setup()
        yield server


@contextmanager
def own_client() -> Iterator[None]:
    """No client of an earlier test, and none left: its service has for good the environment of
    whoever started it, also for processes that are started here later.
    """
    _end_client()
    yield
    _end_client()


def _end_client() -> None:
    wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture
def wandb_server(wandb_service: WandbServer) -> Iterator[WandbServer]:
    """The module's server, held against what the test sent it."""
    del wandb_service.refused[:]
    wandb_service.delay_s, wandb_service.loses, wandb_service.pages_behind = 0.0, "", 0
    for kept in (wandb_service.slow, wandb_service.awaited, wandb_service.most_in_flight):
        kept.clear()
    yield wandb_service
    refused = list(wandb_service.refused)
    assert not refused, f"the client sent what the stand-in does not know: {refused}"


def isolate(patch: pytest.MonkeyPatch, server: WandbServer, directory: Path) -> None:
    """Nothing of the user's W&B set-up is seen, and nothing of it can be written."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    for name, value in server.environment(directory).items():
        patch.setenv(name, value)


def train(
    server: WandbServer,
    *,
    exit_code: int = 0,
    steps: int = 4,
    counted: bool = True,
    **identity: Any,
) -> Run:
    """Somebody's training, by the plain client: console, metadata, definitions, tags and all.
    Returns the run as the service has it.

    Args:
        counted: whether its loop says the steps of its rows.
    """
    settings = wandb.Settings(reinit="create_new", silent=True, console="wrap")
    run = wandb.init(
        project="theirs", config={"lr": 0.1, "model": {"d": 8}}, settings=settings, **identity
    )
    run.define_metric("epoch")
    run.define_metric("val/*", step_metric="epoch", summary="min")
    for step in range(steps):
        print(f"training step {step}")
        run.log(
            {"loss": 1 / (1 + step), "val/loss": 1.0, "epoch": step / 2},
            step=step if counted else None,
        )
    run.summary["best"] = {"loss": 0.25}
    run.finish(exit_code=exit_code)
    return server.run(f"{ENTITY}/theirs/{run.id}")
