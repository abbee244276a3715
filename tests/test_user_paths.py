"""Paths as people type them, ``~/runs``, and a working directory that is gone."""

from __future__ import annotations

import pytest
import torch

import tracker_viz as tv
from tracker_viz.demo import Decoder, ModelConfig
from tracker_viz.errors import ConfigError

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
