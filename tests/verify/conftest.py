"""A run whose heads do what their labels say, because they were built to."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import induction_model

import tracker_viz as tv
from tracker_viz.types import RunRef

BUILT_AT = 5


@dataclass(frozen=True)
class Recorded:
    """A run and the checkpoints of its training: random until ``BUILT_AT``, built from then on."""

    ref: RunRef
    directory: Path

    @property
    def checkpoints(self) -> str:
        return str(self.directory / "ckpt_*.pt")


def record(directory: Path, run: str = "local", **options) -> Recorded:
    model = induction_model.build(trained=False)
    directory.mkdir(parents=True)
    with tv.watch(
        model, run=run, every=1, counts_from=1, spool=directory / "spool", **options
    ) as watcher:
        for step in range(1, induction_model.LAST_STEP + 1):
            if step == BUILT_AT:
                model.load_state_dict(induction_model.build().state_dict())
            if step in (2, induction_model.LAST_STEP):
                torch.save(model.state_dict(), directory / f"ckpt_{step}.pt")
            watcher.step(step)
    return Recorded(watcher.ref, directory)


@pytest.fixture(scope="session")
def recorded_once(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("recorded") / "run")


@pytest.fixture
def recorded(recorded_once: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """A copy of the run for each test, and a cache of its own."""
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "recorded"
    shutil.copytree(recorded_once.directory, directory)
    return Recorded(RunRef("local", str(directory / "spool")), directory)
