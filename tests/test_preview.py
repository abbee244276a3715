"""Previews come while a training goes on, from a process that takes nothing from it."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import tracker_viz as tv
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.errors import ConfigError, TrackerError
from tracker_viz.pipeline.recording import preview as previews
from tracker_viz.trackers.local import LocalRun
from tracker_viz.video.opencv import import_cv2

WAIT_S = 240.0


@pytest.fixture(autouse=True)
def _own_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def fair_share(monkeypatch):
    """The priority of everybody, so that the film comes beside other tests, too."""
    monkeypatch.setattr(previews, "_LOWEST", 0)


def make_model():
    torch.manual_seed(0)
    sizes = {"n_blocks": 1, "n_heads": 2, "n_kv_heads": 1, "d_model": 16, "d_ffn": 32}
    return Decoder(ModelConfig(**sizes, context_length=32, vocab_size=40))


def losses_of(n_steps, at_step, **options):
    """Train with captures, and return the losses; ``at_step`` is called in between."""
    model = make_model()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    with tv.watch(model, run="local", every=1, score_rows=0, **options) as watcher:
        for step in range(n_steps):
            batch = torch.randint(40, (2, 17), generator=generator)
            logits = model(batch[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(step, loss=loss)
            losses.append(loss.item())
            at_step(step, watcher)
    return losses


def wait(is_there):
    limit = time.monotonic() + WAIT_S
    while not is_there():
        assert time.monotonic() < limit, "it did not come"
        time.sleep(0.02)


def test_its_low_priority_counts_beside_the_training_and_ctrl_c_is_not_for_it(tmp_path):
    with tv.watch(make_model(), run="local", spool=tmp_path / "spool", preview="0s") as watcher:
        wait(lambda: watcher._preview._process is not None)
        process = watcher._preview._process.pid
        wait(lambda: os.getpriority(os.PRIO_PROCESS, process) == 19)
        assert os.getsid(process) == os.getsid(0)  # among sessions, priorities count for nothing
        assert os.getpgid(process) != os.getpgid(0)


@pytest.mark.usefixtures("fair_share")
def test_a_film_comes_while_it_trains_and_the_losses_stay_the_same_to_the_bit(tmp_path):
    spool = tmp_path / "with"
    seen = {}

    def at_step(step, watcher):
        if step != 3:
            return
        wait(lambda: (spool / "overview.html").is_file())
        process = watcher._preview._process
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        seen["environment"] = {b"CUDA_VISIBLE_DEVICES=", b"OMP_NUM_THREADS=1"} <= set(environment)
        loaded = Path(f"/proc/{process.pid}/maps").read_text()
        seen["torch"] = "libtorch" in loaded
        seen["process"] = process
        assert import_cv2().VideoCapture(str(spool / "overview.webm")).read()[0]

    with_them = losses_of(6, at_step, spool=spool, preview="0s")
    assert with_them == losses_of(6, lambda step, watcher: None, spool=tmp_path / "without")
    assert (seen["environment"], seen["torch"]) == (True, False)
    assert seen["process"].returncode is not None
    assert not (spool / ".preview").exists()
    assert list((spool / ".taps").iterdir()) == []
    assert [ref.step for ref in LocalRun(spool).list_captures()] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("fair_share")
def test_killed_it_is_started_again_and_what_fails_ends_no_training(tmp_path, caplog, monkeypatch):
    spool, killed = tmp_path / "spool", []

    def refused(self, video, *, layout, last_step):
        raise TrackerError("no room")

    monkeypatch.setattr(LocalRun, "put_live_video", refused)

    def at_step(step, watcher):
        process = watcher._preview._process
        if step == 1:
            wait(lambda: watcher._preview._process is not None)
            killed.append(watcher._preview._process.pid)
            os.kill(killed[0], signal.SIGKILL)
            wait(lambda: watcher._preview._process.pid != killed[0])
            wait(lambda: "did not reach" in caplog.text)
        assert step == 0 or process is not None or step == 1

    with caplog.at_level(logging.WARNING):
        assert len(losses_of(4, at_step, spool=spool, preview="0s")) == 4
    assert caplog.text.count("was killed; it is started again") == 1
    assert caplog.text.count("no room") == 1
    assert json.loads((spool / "run.json").read_text())["state"] == "finished"


def test_a_time_that_is_none_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match="15min"):
        tv.watch(make_model(), run="local", spool=tmp_path / "spool", preview="soon")
    assert not (tmp_path / "spool").exists()


def test_a_process_that_cannot_be_started_is_said_and_ends_no_training(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(previews.sys, "executable", str(tmp_path / "no python"))
    spool = tmp_path / "spool"
    assert len(losses_of(2, lambda step, watcher: None, spool=spool, preview="15min")) == 2
    assert "there are no more previews; training and captures go on" in caplog.text
