"""Paths as people type them, ``~/runs``; a working directory that is gone; users without a home."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tracker_viz as tv
from tracker_viz import files
from tracker_viz.delivery import Outbox
from tracker_viz.demo import Decoder, ModelConfig
from tracker_viz.errors import ConfigError
from tracker_viz.rendering import kept, resolve_layout

SMALL = {"size": "640x360", "hold_s": 0.1, "seconds_per_capture": 0.1}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home directory, and an empty directory to work in."""
    directory = tmp_path / "home"
    directory.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.setenv("TRACKER_VIZ_CACHE", "~/cache")
    yield directory
    assert not list((tmp_path / "work").glob("~*")), "~ was taken for a name"


def train(**options):
    torch.manual_seed(0)
    shape = ModelConfig(
        n_blocks=2, n_heads=2, d_model=16, d_ffn=32, context_length=32, vocab_size=40
    )
    with tv.watch(Decoder(shape), **{"run": "local", "every": 1, **options}) as recorder:
        recorder.step(1, loss=1.0)
    return recorder


def test_a_tilde_is_the_home_directory_wherever_a_path_is_taken(home):
    assert train(spool="~/spool").ref.path == str(home / "spool")
    train(spool="~/other", tracker_options={"local": {"directory": "~/runs"}})
    assert len(list((home / "runs").iterdir())) == 1
    assert [capture.step for capture in tv.load_captures("local:~/spool")] == [0, 1]

    made = tv.render("local:~/spool", output="~/film", upload=False, video=SMALL, progress=False)
    assert made.pictures[0].path.parent == home
    made = tv.render("local:~/spool", upload=False, format="poster", video=SMALL, progress=False)
    assert made.pictures[0].path.is_relative_to(home / "cache")


def test_a_working_directory_that_is_gone_is_said_in_words(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match=r"was deleted; .*spool=/"):
        train()


def test_training_and_rendering_go_on_where_the_working_directory_is_deleted(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))
    gone.rmdir()
    recorder = train(spool=tmp_path / "spool")
    assert recorder.close().complete
    made = tv.render(recorder, format="poster", video=SMALL, progress=False)
    assert made.pictures[0].path.is_file()


def refusing(number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("call", ["chmod", "fsync"])
def test_a_file_system_without_modes_or_synced_directories_takes_files(tmp_path, monkeypatch, call):
    real = getattr(os, call)

    def some(target, *arguments):
        is_directory = call == "fsync" and os.path.isdir(f"/proc/self/fd/{target}")
        if call == "chmod" or is_directory:
            refusing(errno.EPERM if call == "chmod" else errno.EINVAL)()
        return real(target, *arguments)

    monkeypatch.setattr(os, call, some)
    files.write_atomically(b"x", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"x"
    monkeypatch.setattr(os, call, refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(b"x", tmp_path / "b")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_told_with_the_way_out(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    with pytest.raises(ConfigError, match=r"has no file locks .*spool=/tmp/"):
        Outbox(tmp_path / "spool", name="a")
    with (
        pytest.raises(ConfigError, match="has no file locks"),
        files.locked(tmp_path / "x.lock", timeout_s=1),
    ):
        pass


def test_a_user_without_a_home_has_a_cache(monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "TRACKER_VIZ_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert files.default_cache().name == f"tracker_viz-{os.getuid()}"
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    assert kept.fonts() is None
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve_layout("~/none.yaml")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(files.default_cache()) == "/home/me/cache/tracker_viz"


def test_a_client_that_needs_a_home_is_said_with_the_way_out(tmp_path):
    program = """
import pwd
import subprocess
import sys
from tracker_viz import trackers

def nobody(uid):
    raise KeyError(uid)

pwd.getpwuid = nobody
trackers.connect("mlflow")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={name: value for name, value in os.environ.items() if name != "HOME"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "ConfigError: mlflow cannot be imported" in ended.stderr
    assert "HOME=/tmp" in ended.stderr


@pytest.mark.parametrize("name", ["what?", "50%25"])
def test_a_directory_that_an_address_of_sqlite_cannot_name_is_refused(tmp_path, monkeypatch, name):
    pytest.importorskip("mlflow")
    from tracker_viz.trackers.mlflow import service

    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("mlflow.tracking.is_tracking_uri_set", lambda: False)
    for ask in (service.default_uri, lambda: service.absolute_uri("sqlite:///mlflow.db")):
        with pytest.raises(ConfigError, match=r"because of its \? or %: choose another place"):
            ask()
    assert service.database_path("sqlite:////x/mlflow.db?timeout=5") == Path("/x/mlflow.db")
