"""Runs ``tracker-viz`` in this process, as its entry point would."""

from __future__ import annotations

import copy
import logging
import sys
from dataclasses import dataclass

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from tracker_viz import jobs
from tracker_viz.trackers.local import LocalTracker
from tracker_viz.trackers.testing import write_captures


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Hydra sets up logging for a process of its own, on the standard error of the moment."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.fixture(autouse=True)
def config_store_as_it_was(monkeypatch):
    """Restore Hydra's store: a job's configuration is meant for a process of its own."""
    Plugins.instance()  # they are found once, and store their own
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))


@pytest.fixture
def tracker_viz(monkeypatch, capsys, tmp_path):
    """``tracker_viz("render", "run=...")`` in an empty directory."""
    directory = tmp_path / "cwd"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["tracker-viz", *map(str, words)])
        try:
            jobs.main()
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
            if isinstance(left.code, str):
                sys.stderr.write(left.code)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def run(tmp_path):
    """A finished local run with three captures."""
    made = LocalTracker(tmp_path / "runs").create_run(name="demo", config={})
    made.put_captures(write_captures([0, 10, 20], tmp_path / "taken"))
    made.finish("finished")
    return made
