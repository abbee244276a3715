"""The contract: tables, key frames, and the inputs of a result."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracker_viz.errors import ConfigError
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.testing.supplied import Supplied
from tracker_viz.trackers.tracker import Tracker
from tracker_viz.trackers.values import Cell
from tracker_viz.types import CapturePath, RunRef


class TableTests(Supplied):
    """Tables, key frames and inputs are shown."""

    def write_frames(
        self, steps: list[int], directory: Path, *, shade: int = 0
    ) -> list[tuple[int, Path]]:
        """Write small PNGs, another for every step and shade."""
        from PIL import Image

        frames = []
        directory.mkdir(parents=True, exist_ok=True)
        for step in steps:
            frames.append((step, directory / f"{step}.png"))
            Image.fromarray(np.full((8, 16, 3), (step, shade, 0), np.uint8)).save(frames[-1][1])
        return frames

    def shown_shades(self, ref: RunRef, steps: Sequence[int]) -> dict[int, list[tuple[int, ...]]]:
        """Return step -> color of each picture of the layout ``heads``; some services store a PNG
        of their own."""
        from PIL import Image

        def shade(picture: bytes) -> tuple[int, ...]:
            pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
            return tuple(pixels[0, 0].tolist())

        stored = self.stored_key_frames(ref, "heads", steps)
        return {step: [shade(each) for each in pictures] for step, pictures in stored.items()}

    ROWS: Sequence[Mapping[str, Cell]] = (
        {"head": "L00H00", "role": "induction", "onset_step": 40, "score": 0.5},
        {"head": "L00H01", "role": None, "onset_step": None, "score": 0.25},
    )

    def test_a_table_is_shown_as_it_was_put_last(self, run: Run, reader: Tracker) -> None:
        run.put_table(self.ROWS[:1], "head_roles")
        run.finish("finished")
        before = reader.open_run(run.ref).info()
        assert "://" in reader.open_run(run.ref).put_table(self.ROWS, "head_roles")
        assert self.stored_table(run.ref, "head_roles") == list(self.ROWS)
        assert reader.open_run(run.ref).info() == before

    def test_a_number_that_is_none_leaves_its_cell_empty(self, run: Run) -> None:
        run.put_table(
            [{"head": "L00H00", "score": float("nan")}, {"head": "L00H01", "score": 0.5}],
            "head_roles",
        )
        run.finish("finished")
        assert [row["score"] for row in self.stored_table(run.ref, "head_roles")] == [None, 0.5]

    @pytest.mark.parametrize(
        "rows", [[], [{"head": "a"}, {"head": "b", "score": 1.0}]], ids=["no rows", "other columns"]
    )
    def test_what_is_no_table_is_refused(self, run: Run, rows: list[dict[str, Any]]) -> None:
        with pytest.raises(ConfigError, match=r"at least one row|the same columns"):
            run.put_table(rows, "head_roles")

    def test_key_frames_stand_at_their_steps_and_putting_them_again_doubles_none(
        self, run: Run, reader: Tracker, tmp_path: Path
    ) -> None:
        run.finish("finished")
        before = reader.open_run(run.ref).info()
        frames = self.write_frames([0, 10, 40], tmp_path / "frames")
        for steps in ([0, 10], [0, 10, 40], [0, 10, 40]):
            assert "://" in reader.open_run(run.ref).put_key_frames(
                [frame for frame in frames if frame[0] in steps], "heads"
            )
        assert self.shown_shades(run.ref, [0, 10, 40]) == {
            0: [(0, 0, 0)],
            10: [(10, 0, 0)],
            40: [(40, 0, 0)],
        }
        assert reader.open_run(run.ref).info() == before

    def test_a_key_frame_that_changed_is_shown_in_place_of_the_earlier_one(
        self, run: Run, reader: Tracker, tmp_path: Path
    ) -> None:
        run.finish("finished")
        frames = self.write_frames([0, 10], tmp_path / "frames")
        changed = self.write_frames([10], tmp_path / "changed", shade=200)
        reader.open_run(run.ref).put_key_frames(frames, "heads")
        reader.open_run(run.ref).put_key_frames([frames[0], *changed], "heads")
        shown = self.shown_shades(run.ref, [0, 10])
        assert shown[0] == [(0, 0, 0)]
        assert shown[10][-1] == (10, 200, 0)

    def test_a_result_names_the_runs_that_it_was_made_of(
        self, start: Callable[..., Run], reader: Tracker, captures: list[CapturePath]
    ) -> None:
        made, *inputs = (start() for _ in range(3))
        for run in inputs:
            run.put_captures(captures[:2])
            run.finish("finished")
        made.finish("finished")
        refs = [*(run.ref for run in inputs), RunRef("local", "/somewhere/else")]
        for _ in range(2):
            reader.open_run(made.ref).link_inputs(refs)
        assert sorted(self.stored_inputs(made.ref)) == sorted(map(str, refs))
        assert reader.open_run(made.ref).info().state == "finished"

    def test_results_of_a_sweep_have_one_place(
        self, start: Callable[..., Run], reader: Tracker, tmp_path: Path
    ) -> None:
        parent = start()
        if type(reader).has_sweeps:
            start(parent=parent.ref).finish("finished")
        parent.finish("finished")
        refs = []
        for _ in range(2):
            results = reader.open_run(parent.ref).results_run()
            results.put_table(self.ROWS, "compare")
            results.finish("finished")
            refs.append(results.ref)
        assert refs[0] == refs[1]
        assert self.stored_table(refs[0], "compare") == list(self.ROWS)
        for ref in (parent.ref, refs[0]):
            assert reader.open_run(ref).info().state == "finished"
