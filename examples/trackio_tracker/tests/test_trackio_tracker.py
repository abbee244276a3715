"""Trackio held to the contract that tracker_viz ships, and used as a person would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trackio
from trackio.sqlite_storage import SQLiteStorage

import tracker_viz as tv
from tracker_viz import trackers
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.errors import TrackerError
from tracker_viz.trackers.testing import TrackerContract
from tracker_viz.types import RunRef

MODEL = ModelConfig(n_blocks=2, n_heads=2, d_model=16, d_ffn=32, context_length=32, vocab_size=64)


def files_of(ref: RunRef) -> Path:
    project, _, run_id = ref.path.partition("/")
    return trackio.get_project_media_path(project, relative_path=run_id)


def rows_of(ref: RunRef) -> list[dict]:
    project, _, run_id = ref.path.partition("/")
    return SQLiteStorage.get_logs(project, run_id=run_id)


class TestTrackioTracker(TrackerContract):
    @pytest.fixture
    def tracker(self):
        return trackers.connect("trackio", project="contract")

    @pytest.fixture
    def reader(self, tracker):
        return trackers.connect("trackio", **tracker.options)

    def stored_metrics(self, ref):
        stored = {}
        for row in rows_of(ref):
            for name in row.keys() - {"step", "timestamp"}:
                stored.setdefault(name, {})[row["step"]] = row[name]
        return stored

    def truncate(self, ref, capture):
        os.truncate(files_of(ref) / "captures" / capture.file_name, capture.nbytes // 2)

    def missing_ref(self):
        return RunRef("trackio", "contract/no-such-run")

    def check_video(self, ref, video):
        super().check_video(ref, video)
        played = [row["tracker_viz/heads"] for row in rows_of(ref) if "tracker_viz/heads" in row]
        assert {each["_type"] for each in played} == {"trackio.video"}
        last = trackio.utils.MEDIA_DIR / played[-1]["file_path"]
        assert last.read_bytes() == video.read_bytes(), "the Media tab plays the latest"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Decoder(MODEL)


def test_a_training_is_watched_and_its_film_lands_in_its_run(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tv.watch(model, run="trackio", every=2, name="mine") as watcher:
        for step in range(5):
            watcher.step(step, loss=1.0 / (1 + step))
    ref = watcher.ref
    assert (ref.scheme, ref.path.partition("/")[0]) == ("trackio", "tracker_viz")
    assert [capture.step for capture in tv.load_captures(ref)] == [0, 2, 4, 5]

    film = tv.render(ref, layout="heads", video={"size": "640x360"}, progress=False)
    assert Path(film).stat().st_size > 0
    assert "heads.webm" in trackers.open_run(ref).list_files()
    assert any("tracker_viz/heads" in row for row in rows_of(ref))


def test_the_run_that_the_users_code_has_open_is_joined_and_left_open(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    theirs = trackio.init(project="theirs", name="training", config={"lr": 0.1})
    with tv.watch(model, run="trackio", every=2) as watcher:
        for step in range(3):
            watcher.step(step, loss=1.0)
            trackio.log({"train/loss": 1.0}, step=step)
    assert str(watcher.ref) == f"trackio:theirs/{theirs.id}"
    trackio.log({"train/loss": 0.5}, step=3)
    trackio.finish()
    by_name = trackers.open_run("trackio:theirs/training")
    assert by_name.ref == watcher.ref
    assert [ref.step for ref in by_name.list_captures()] == [0, 2, 3]
    assert [row["train/loss"] for row in rows_of(watcher.ref) if "train/loss" in row][-1] == 0.5
    assert by_name.info().config["lr"] == 0.1


def test_the_hugging_face_trainer_reports_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    transformers = pytest.importorskip("transformers")
    from tracker_viz.integrations.hf import TrackerVizCallback

    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 64}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape))
    rows = [{"input_ids": list(range(16)), "labels": list(range(16))} for _ in range(16)]
    callback = TrackerVizCallback(every=2)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), report_to="trackio", project="hf", run_name="tiny", max_steps=4,
        per_device_train_batch_size=2, use_cpu=True, logging_steps=1, save_strategy="no",
    )  # fmt: skip
    transformers.Trainer(gpt2, arguments, train_dataset=rows, callbacks=[callback]).train()

    run = trackers.open_run("trackio:hf/tiny")
    assert [ref.step for ref in run.list_captures()] == [0, 2, 4]
    assert any("train/loss" in row for row in rows_of(run.ref)), "the Trainer's own charts"


def test_the_commands_know_it(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    with tv.watch(model, run="trackio", every=2, name="from the shell") as watcher:
        for step in range(3):
            watcher.step(step)

    def tracker_viz(*words: str) -> str:
        program = "from tracker_viz.jobs import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "trackio" in tracker_viz("doctor", "timeout_s=1")
    printed = tracker_viz("render", f"run={watcher.ref}", "layout=heads", "video.size=640x360")
    assert "Watch it in the run: http://127.0.0.1:7860/" in printed
    assert "trackio show --project tracker_viz" in printed


def test_a_run_on_a_space_is_refused_with_a_reason():
    live = trackio.Run.__new__(trackio.Run)
    live.url, live.name = "https://me-space.hf.space", "remote"
    with pytest.raises(TrackerError, match="expected a run on this machine"):
        trackers.join(live)
