"""The processes of a trial: a training run, a follower, and a renderer of another layout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from fault_trials.training import LENGTH, VOCAB_SIZE, make_model, step_once

import tracker_viz as tv
from follow_trials.services import Service
from tracker_viz.delivery import Spool
from tracker_viz.types import RunRef

SCRIPT = Path(__file__).resolve().parents[1] / "followed.py"
VIDEO = {"size": "640x360", "key_frames": 0, "max_mb": 20}
BESIDE = {"size": "640x360", "key_frames": 0, "seconds_per_capture": 0.05, "hold_s": 0.1}
KILLS_ARE_OVER = "kills-are-over"  # a file that tells the training so
HELD = 3  # captures that the training takes after the kills


def train(
    spool: Path, store: str, options: dict[str, Any], n_captures: int, pause_s: float
) -> None:
    """Train, in a process that may be killed; continue after the captures that are there."""
    model, generator = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    watcher = tv.watch(
        model,
        probe=tv.make_probe(VOCAB_SIZE, LENGTH, bos_id=0),
        run=[store],
        every=1,
        total_steps=n_captures - 1,
        score_rows=0,
        spool=spool,
        name="followed",
        tracker_options={store: options},
    )
    assert watcher.outbox is not None
    done = watcher.outbox.captured_steps
    with watcher, (spool.parent / "written.jsonl").open("a") as written:
        for step in range(n_captures):
            loss = step_once(model, optimizer, generator)
            while step >= n_captures - HELD and not (spool.parent / KILLS_ARE_OVER).exists():
                time.sleep(0.1)
            if step in done:
                continue
            watcher.step(step, loss=loss)
            watcher.flush()
            ref = watcher.outbox.written[step]
            written.write(json.dumps([step, ref.sha256]) + "\n")
            written.flush()
            time.sleep(pause_s)


class Processes:
    """The processes of a trial.

    Attributes:
        kills: how often each of them was killed.
        n_renderings: how many renderings ended while the run trained.
    """

    def __init__(self, service: Service, directory: Path, n_captures: int, pause_s: float) -> None:
        self.service, self.directory = service, directory
        self.n_captures, self.pause_s = n_captures, pause_s
        self.spool = directory / "spool"
        self.kills = dict.fromkeys(("trainer", "follower", "renderer", "server"), 0)
        self.n_renderings = 0
        began = time.monotonic()
        self.trainer = self.start_trainer()
        while (ref := self._ref()) is None:
            assert self.trainer.poll() is None, (directory / "trainer.log").read_text()
            time.sleep(0.2)
        self.start_s, self.ref = time.monotonic() - began, ref
        self.follower = self.start_follower()
        self.renderer = self.start_renderer()

    def _ref(self) -> RunRef | None:
        """Return the training's run once it has a capture."""
        destinations = Spool(self.spool).destinations()
        has_any = (self.directory / "written.jsonl").exists()
        return destinations[0].ref if has_any and destinations else None

    def start_trainer(self) -> subprocess.Popen[bytes]:
        """Start the training, or continue it."""
        arguments = [self.service.scheme, str(self.spool), json.dumps(self.service.options)]
        code = [sys.executable, str(SCRIPT), "--train", *arguments]
        code += ["--captures", str(self.n_captures), "--pause", str(self.pause_s)]
        return self._started("trainer", code, **self.service.environment)

    def start_follower(self) -> subprocess.Popen[bytes]:
        """Start ``tracker-viz follow`` on the run."""
        pace = ["every=2s", "poll_s=0.5", "give_up=20min"]
        return self._command("follow", *pace, video=VIDEO)

    def start_renderer(self) -> subprocess.Popen[bytes]:
        """Start ``tracker-viz render`` of another layout of the run."""
        return self._command("render", "layout=heads", video=BESIDE)

    def _command(self, name: str, *more: str, video: dict[str, Any]) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("tracker-viz")), name, f"run={self.ref}"]
        if uri := self.service.options.get("tracking_uri"):
            command += [f"tracking_uri={uri}"]
        options = [f"video.{key}={value}" for key, value in video.items()]
        cache = f"cache={self.directory / name}"
        return self._started(name, [*command, *more, *options, cache])

    def _started(
        self, name: str, command: list[str], **environment: str
    ) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                command,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )

    def kill(self, who: str) -> None:
        """Kill a process, or stop the server, and start it again."""
        self.kills[who] += 1
        if who == "server":
            self.service.stop()
            time.sleep(1.0)
            self.service.start()
            return
        process = getattr(self, who)
        process.send_signal(signal.SIGKILL)
        process.wait()
        setattr(self, who, getattr(self, f"start_{who}")())

    def keep_going(self) -> None:
        """Start again what ended before the training did."""
        assert self.trainer.poll() in (None, 0), (self.directory / "trainer.log").read_text()
        if self.trainer.poll() == 0:
            return
        if self.renderer.poll() is not None:
            self.n_renderings += self.renderer.returncode == 0
            self.renderer = self.start_renderer()
        if self.follower.poll() is not None:
            self.follower = self.start_follower()

    def end(self) -> None:
        """End everything."""
        for process in (self.trainer, self.follower, self.renderer):
            process.kill()
        self.service.stop()
