"""The part of the contract that a subclass supplies, and the fixtures that are built on it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tracker_viz.files import read_json
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.testing.sample_captures import write_captures
from tracker_viz.trackers.tracker import Tracker
from tracker_viz.trackers.values import INPUTS, SUMMARY, Cell
from tracker_viz.types import CapturePath, CaptureRef, RunRef

CONFIG = {"lr": 0.1, "model": {"n_heads": 2}}


class Supplied:
    """Fixtures and methods of the contract: those to supply come first."""

    # -- to be supplied ----------------------------------------------------------------------------

    @pytest.fixture
    def tracker(self) -> Tracker:
        """The service under test, reached as the training process does."""
        raise NotImplementedError("tracker")

    @pytest.fixture
    def reader(self) -> Tracker:
        """The same service, reached by a fresh adapter as if from another machine."""
        raise NotImplementedError("reader")

    def stored_metrics(self, ref: RunRef) -> dict[str, dict[int, float]]:
        """Return metric name -> step -> value as the service itself has them."""
        raise NotImplementedError

    def truncate(self, ref: RunRef, capture: CaptureRef) -> None:
        """Cut the stored file of one capture short, behind the adapter's back."""
        raise NotImplementedError

    def missing_ref(self) -> RunRef:
        """Return a well-formed reference to a run that does not exist."""
        raise NotImplementedError

    # -- what the service shows: files, unless a subclass knows better -----------------------------

    @pytest.fixture(autouse=True)
    def _stored_files(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        def stored_file(ref: RunRef, artifact: str) -> Path:
            reader: Tracker = request.getfixturevalue("reader")
            return reader.open_run(ref).get_file(artifact, tmp_path / "stored")

        self.stored_file = stored_file

    def metric_key(self, name: str) -> str:
        """Return the name under which the service's charts have our metric ``name``."""
        return name

    def stored_summary(self, ref: RunRef) -> dict[str, Any]:
        """Return the final values, or tags, by which the service's table of runs sorts."""
        return read_json(self.stored_file(ref, SUMMARY))

    def stored_table(self, ref: RunRef, name: str) -> list[dict[str, Any]]:
        """Return the rows that the service itself shows of a table."""
        with self.stored_file(ref, f"tables/{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{column: _cell(text) for column, text in row.items()} for row in rows]

    def stored_key_frames(
        self, ref: RunRef, layout: str, steps: Sequence[int]
    ) -> dict[int, list[bytes]]:
        """Return step -> the pictures behind the service's step slider, last the one that it
        shows. ``steps``: those that were put."""
        folder = f"key_frames/{layout}"
        files = {step: f"{folder}/step_{step:08d}.png" for step in steps}
        return {step: [self.stored_file(ref, file).read_bytes()] for step, file in files.items()}

    def stored_inputs(self, ref: RunRef) -> list[str]:
        """Return the runs that the service names as those from which this one was made."""
        inputs: list[str] = read_json(self.stored_file(ref, INPUTS))["inputs"]
        return inputs

    def check_video(self, ref: RunRef, video: Path) -> None:
        """Hold what the service plays against ``video``, put as layout ``heads``, last step 100."""
        for name in ("heads.webm", "videos/heads/step_00000100.webm"):
            assert self.stored_file(ref, name).read_bytes() == video.read_bytes()

    # -- fixtures built on those -------------------------------------------------------------------

    @pytest.fixture
    def start(self, tracker: Tracker) -> Iterator[Callable[..., Run]]:
        """Create a run; all of them are ended afterwards, which is harmless for those that ended
        already."""
        made: list[Run] = []

        def create(**options: Any) -> Run:
            run = tracker.create_run(**{"name": "contract", "config": CONFIG} | options)
            made.append(run)
            return run

        yield create
        for run in made:
            run.finish("finished")

    @pytest.fixture
    def run(self, start: Callable[..., Run]) -> Run:
        return start()

    @pytest.fixture
    def captures(self, tmp_path: Path) -> list[CapturePath]:
        return write_captures([0, 1, 2, 4, 100], tmp_path / "source")


def _cell(text: str) -> Cell:
    """Return what a CSV's text stands for: nothing, or ``nan``, for None; a number; else text."""
    if text in ("", "nan"):
        return None
    if text.lstrip("-")[:1].isdigit():
        number: float = json.loads(text)
        return number
    return text
