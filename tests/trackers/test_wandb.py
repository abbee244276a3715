"""The W&B adapter, by the real client against the stand-in: first the contract of every tracker, then what is W&B's own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from wandb_server.fixtures import wandb_server, wandb_service  # noqa: F401

from tracker_viz.trackers.testing import TrackerContract
from tracker_viz.trackers.wandb import WandbTracker
from tracker_viz.types import CaptureRef, RunRef


class TestWandbTracker(TrackerContract):
    @pytest.fixture(autouse=True)
    def server(self, wandb_server):  # noqa: F811
        self.server = wandb_server

    @pytest.fixture
    def tracker(self, server):
        return WandbTracker()

    @pytest.fixture
    def reader(self, server):
        return WandbTracker(base_url=self.server.base_url)

    def stored_metrics(self, ref: RunRef) -> dict[str, dict[int, float]]:
        stored: dict[str, dict[int, float]] = {}
        for row in self.server.run(ref.path).history:
            for name, value in row.items():
                if not name.startswith(("_", "tracker_viz/")):
                    stored.setdefault(name, {})[row["tracker_viz/step"]] = value
        return stored

    def stored_summary(self, ref: RunRef) -> dict[str, float | str]:
        return self.server.run(ref.path).summary

    def truncate(self, ref: RunRef, capture: CaptureRef) -> None:
        for artifact in self.server.artifacts(ref.path):
            if entry := artifact.entries.get(capture.file_name):
                artifact.contents[entry["digest"]] = artifact.contents[entry["digest"]][:-10]

    def missing_ref(self) -> RunRef:
        return RunRef("wandb", "tester/tracker_viz/nothing")

    def check_video(self, ref: RunRef, video: Path) -> None:
        run = self.server.run(ref.path)
        shown = run.summary["tracker_viz/heads"]
        assert shown["sha256"] == hashlib.sha256(video.read_bytes()).hexdigest()
        assert run.files[shown["path"]] == video.read_bytes()
        assert [media["sha256"] for media in run.values("tracker_viz/heads")][-1] == shown["sha256"]
        assert run.values("tracker_viz/render") == [1, 2]
