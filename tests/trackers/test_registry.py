"""Trackers that other distributions bring: found by their entry point, asked by everybody, and
unable to break the others."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from tracker_viz import plugins, trackers
from tracker_viz.errors import ConfigError, MissingDependencyError
from tracker_viz.types import RunRef

MODULE = """
from pathlib import Path

from tracker_viz.trackers import LoggerRun, Tracker
from tracker_viz.trackers.local import LocalRun, LocalTracker
from tracker_viz.types import RunRef


class FolderTracker(LocalTracker):
    scheme = "folder"
    reference_pattern = r"[a-z]+/[a-z]+"
    reference_form = "folder:<shelf>/<name>"
    client = "folder_client"
    install = "pip install folder-client"
    live_run = "a folder_client.Run"
    report_to = "folders"
    lightning_loggers = ("FolderLogger",)

    def __init__(self, directory: str) -> None:
        super().__init__(directory)

    def join(self, live):
        return LocalRun.create(self._directory / live.name, name=live.name, config={})

    @classmethod
    def run_of_logger(cls, logger):
        return LoggerRun(RunRef("folder", logger.path), {"directory": logger.root})
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution on the path: ``install("folder", "module:Class", source)``."""

    def put(scheme: str, value: str, source: str = "") -> None:
        name = value.partition(":")[0]
        site = tmp_path / f"site-{name}"
        metadata = site / f"{name}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{scheme} = {value}\n")
        if source:
            (site / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(site))
        forget()

    yield put
    monkeypatch.undo()
    for name in [name for name in sys.modules if name.startswith("folder_")]:
        del sys.modules[name]
    forget()


def forget() -> None:
    plugins._installed.cache_clear()
    plugins._loaded.cache_clear()


@pytest.fixture
def folder(install, monkeypatch):
    install("folder", "folder_tracker:FolderTracker", MODULE)
    monkeypatch.setitem(sys.modules, "folder_client", types.ModuleType("folder_client"))


@pytest.mark.usefixtures("folder")
def test_a_tracker_of_another_distribution_is_one_of_ours(tmp_path):
    assert trackers.schemes() == ("mlflow", "wandb", "local", "folder")
    assert str(RunRef.parse("folder:shelf/name")) == "folder:shelf/name"
    with pytest.raises(ConfigError, match="must look like 'folder:<shelf>/<name>'"):
        RunRef.parse("folder:name")
    with pytest.raises(ConfigError, match="folder:<shelf>/<name>"):
        RunRef.parse("nonsense")
    run = trackers.connect("folder", directory=tmp_path).create_run(name="made", config={})
    assert run.info().name == "made"


@pytest.mark.usefixtures("folder")
def test_its_live_runs_and_loggers_are_found_by_what_its_class_says(tmp_path):
    live = type("Run", (), {"__module__": "folder_client.runs", "name": "alive"})()
    assert trackers.scheme_of(live) == "folder"
    assert trackers.join(live, directory=tmp_path).info().name == "alive"

    assert trackers.reported_to(["tensorboard", "folders", "wandb"]) == ["folder", "wandb"]

    base = type("FolderLogger", (), {"path": "shelf/name", "root": "/somewhere"})
    scheme, behind = trackers.run_of_logger(type("Mine", (base,), {})())
    assert (scheme, behind.run) == ("folder", RunRef("folder", "shelf/name"))
    assert behind.options == {"directory": "/somewhere"}
    assert trackers.run_of_logger(object()) is None


@pytest.mark.usefixtures("folder")
def test_its_options_are_those_of_its_class(tmp_path):
    with pytest.raises(ConfigError, match=r"option of tracker .folder..*did you mean .directory."):
        trackers.connect("folder", directry=tmp_path)


@pytest.mark.usefixtures("folder")
def test_a_tracker_without_its_client_says_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "folder_client", None)
    with pytest.raises(MissingDependencyError, match="pip install folder-client"):
        trackers.connect("folder", directory=tmp_path)


def test_a_tracker_that_cannot_be_loaded_breaks_no_other(install, caplog):
    install("broken", "folder_broken:Tracker", "raise ImportError('of an older version')")
    assert trackers.reported_to(["mlflow", "broken"]) == ["mlflow"]
    assert "of an older version" in caplog.text
    assert RunRef.parse("local:/a").path == "/a"
    with pytest.raises(ConfigError, match=r"folder_broken:Tracker.*reinstall"):
        trackers.connect("broken")


@pytest.mark.parametrize("scheme", ["mlflow", "Upper", "with space"])
def test_a_scheme_that_is_taken_or_cannot_be_written_is_ignored(install, caplog, scheme):
    install(scheme, "folder_tracker:FolderTracker", MODULE)
    assert trackers.schemes() == ("mlflow", "wandb", "local")
    assert trackers.tracker_class("mlflow").__name__ == "MlflowTracker"
    assert "is ignored" in caplog.text


def test_reading_a_reference_loads_no_sdk():
    program = (
        "import sys; from tracker_viz import trackers; from tracker_viz.types import RunRef; "
        "RunRef.parse('mlflow:abc'); RunRef.parse('wandb:a/b/c'); trackers.reported_to(['wandb']); "
        "print([name for name in ('mlflow', 'wandb', 'torch') if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert loaded == "[]"
