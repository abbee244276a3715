"""Checkpoints: whole or not there, safe to read, and never in training's way."""

from __future__ import annotations

import json
import logging
import threading

import pytest
import safetensors.torch
import torch

from tracker_viz.demo.checkpoint import (
    LATEST,
    Checkpoint,
    CheckpointUploader,
    fetch_latest,
    read,
    write,
)
from tracker_viz.errors import ConfigError, TrackerError
from tracker_viz.trackers.local import LocalTracker
from tracker_viz.types import RunRef

CONFIG = {"seed": 0, "model": {"n_heads": 4, "n_kv_heads": None}}


def checkpoint(step=40):
    return Checkpoint(
        step,
        {
            "model.weight": torch.full((3, 2), float(step)),
            "random.data": torch.arange(9, dtype=torch.uint8),
        },
        CONFIG,
    )


@pytest.fixture
def run(tmp_path):
    return LocalTracker(tmp_path / "runs").create_run(name="demo", config={})


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path):
    write(checkpoint(), tmp_path / "c.safetensors")
    restored = read(tmp_path / "c.safetensors")
    assert (restored.step, restored.config) == (40, CONFIG)
    assert all(
        torch.equal(restored.tensors[name], tensor) for name, tensor in checkpoint().tensors.items()
    )
    assert restored.tensors["random.data"].dtype == torch.uint8


def test_what_was_saved_last_is_what_a_run_gives_back(tmp_path, run):
    uploader = CheckpointUploader(tmp_path / "spool", lambda: [run])
    uploader.save(checkpoint(40))
    uploader.save(checkpoint(80))
    assert uploader.close()
    restored = fetch_latest(run, tmp_path / "elsewhere")
    assert restored.step == 80
    assert restored.tensors["model.weight"][0, 0] == 80


def test_saving_does_not_wait_for_a_slow_tracker_and_sends_only_the_newest_then(tmp_path, run):
    sent, sending, may_go_on = [], threading.Event(), threading.Event()

    class Slow:
        def put_file(self, file, artifact):
            sending.set()
            may_go_on.wait(60)
            sent.append(artifact)
            return run.put_file(file, artifact)

    uploader = CheckpointUploader(tmp_path / "spool", lambda: [Slow()])
    uploader.save(checkpoint(10))
    assert sending.wait(60)
    for step in (20, 30, 40):
        uploader.save(checkpoint(step))
    assert sent == []
    may_go_on.set()
    assert uploader.close()
    assert [name for name in sent if name != LATEST] == [
        f"checkpoints/step-000000{step}.safetensors" for step in (10, 40)
    ]
    assert fetch_latest(run, tmp_path / "elsewhere").step == 40


def test_a_tracker_that_fails_is_reported_and_the_others_get_theirs(tmp_path, run, caplog):
    class Broken:
        def put_file(self, file, artifact):
            raise ConnectionError("no route to host")

    uploader = CheckpointUploader(tmp_path / "spool", lambda: [Broken(), run])
    path = uploader.save(checkpoint())
    assert uploader.close()
    assert "could not be uploaded (no route to host)" in caplog.text
    assert str(path) in caplog.text
    assert read(path).step == fetch_latest(run, tmp_path / "elsewhere").step == 40


def test_a_run_that_is_reached_after_the_last_checkpoint_gets_it_at_the_end(tmp_path, run):
    reached, looked = [], threading.Event()

    def runs():
        try:
            return list(reached)
        finally:
            looked.set()

    uploader = CheckpointUploader(tmp_path / "spool", runs)
    uploader.save(checkpoint())
    assert looked.wait(60)
    reached.append(run)
    assert uploader.close()
    assert fetch_latest(run, tmp_path / "elsewhere").step == 40


def test_a_run_that_is_reached_only_at_the_close_gets_the_last_checkpoint_and_no_other_is_asked(
    tmp_path, run
):
    asked = []

    class Broken:
        def put_file(self, file, artifact):
            asked.append(artifact)
            raise ConnectionError("no route to host")

    reached = [Broken()]
    uploader = CheckpointUploader(tmp_path / "spool", lambda: reached)
    uploader.save(checkpoint())
    assert uploader.close()
    n_asked = len(asked)
    reached.append(run)
    uploader.offer_late()
    assert fetch_latest(run, tmp_path / "elsewhere").step == 40
    assert len(asked) == n_asked


def test_an_upload_that_breaks_off_leaves_the_last_whole_checkpoint_named(tmp_path, run):
    class Breaking:
        def put_file(self, file, artifact):
            if "step-00000080" in artifact:
                raise ConnectionError("broke off")
            return run.put_file(file, artifact)

    for step in (40, 80):
        uploader = CheckpointUploader(tmp_path / "spool", lambda: [Breaking()])
        uploader.save(checkpoint(step))
        uploader.close()
    assert fetch_latest(run, tmp_path / "elsewhere").step == 40


def test_a_disk_that_takes_nothing_costs_the_checkpoint_only(tmp_path, run, caplog):
    (tmp_path / "spool").write_text("a file where the directory should be")
    uploader = CheckpointUploader(tmp_path / "spool", lambda: [run])
    uploader.save(checkpoint())
    assert uploader.close()
    assert "the checkpoint of step 40 could not be written" in caplog.text


def test_closing_gives_up_on_a_tracker_that_never_answers(tmp_path, caplog):
    never = threading.Event()

    class Hanging:
        def put_file(self, file, artifact):
            never.wait(60)

    uploader = CheckpointUploader(tmp_path / "spool", lambda: [Hanging()])
    uploader.save(checkpoint())
    with caplog.at_level(logging.WARNING):
        assert not uploader.close(timeout_s=0.1)
    assert "still being uploaded" in caplog.text
    never.set()


def test_the_spool_itself_can_be_resumed_from(tmp_path):
    directory = LocalTracker(tmp_path).create_run(name="spool", config={}).directory
    uploader = CheckpointUploader(directory, list)
    uploader.save(checkpoint())
    uploader.close()
    assert (
        fetch_latest(
            LocalTracker().open_run(RunRef("local", str(directory))), tmp_path / "elsewhere"
        ).step
        == 40
    )


def test_a_run_without_a_checkpoint_says_how_runs_get_one(tmp_path, run):
    with pytest.raises(
        ConfigError, match=r"no checkpoint to resume from .* trainer.checkpoint_every > 0"
    ):
        fetch_latest(run, tmp_path)


def test_a_checkpoint_that_changed_on_its_way_is_refused(tmp_path, run):
    uploader = CheckpointUploader(tmp_path / "spool", lambda: [run])
    uploader.save(checkpoint())
    uploader.close()
    write(checkpoint(41), run.directory / "checkpoints" / "step-00000040.safetensors")
    with pytest.raises(ConfigError, match="is not what was uploaded"):
        fetch_latest(run, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "step-00000040.pt", "/tmp/step-00000040.safetensors"]
)
def test_a_run_cannot_point_outside_its_checkpoints(tmp_path, run, name):
    (tmp_path / "latest.json").write_text(
        json.dumps({"file": name, "step": 40, "sha256": "0" * 64})
    )
    run.put_file(tmp_path / "latest.json", LATEST)
    with pytest.raises(ConfigError, match="a checkpoint is named like"):
        fetch_latest(run, tmp_path / "elsewhere")


def test_other_and_damaged_files_are_no_checkpoints(tmp_path):
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="is a safetensors file, but not a checkpoint"):
        read(tmp_path / "other.safetensors")
    write(checkpoint(), tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="not a whole safetensors file"):
        read(tmp_path / "cut.safetensors")


def test_a_tracker_error_other_than_absence_is_told_too(tmp_path):
    class Refusing:
        def get_file(self, artifact, directory):
            raise TrackerError("permission denied")

    with pytest.raises(ConfigError, match="permission denied"):
        fetch_latest(Refusing(), tmp_path)
