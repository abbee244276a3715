"""The contract that every tracker's adapter keeps, as tests to subclass. Shipped, so that a third
party's adapter can be held to it; needs pytest.

    class TestMyTracker(TrackerContract):
        @pytest.fixture
        def tracker(self, tmp_path):
            return MyTracker(...)

        @pytest.fixture
        def reader(self, tracker):           # the same service, as another machine would reach it
            return MyTracker(...)

        # what the service itself has, seen past the adapter
        def stored_metrics(self, ref): ...
        def truncate(self, ref, capture): ...
        def missing_ref(self): ...

The other ``stored_...`` methods need overriding only where the adapter overrides the default of
``Run``, which stores a file.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from tracker_viz import capture_file, plugins
from tracker_viz.errors import CaptureFileError, ConfigError, RunNotFoundError, TrackerError
from tracker_viz.files import read_json
from tracker_viz.trackers.base import INPUTS, SUMMARY, Cell, MetricPoint, Run, Tracker
from tracker_viz.types import Capture, CapturePath, CaptureRef, RunRef

HOSTILE_PATHS = [
    "../escaped.txt",
    "/etc/escaped.txt",
    "a/../../b.txt",
    "a\\b.txt",
    "%2e%2e/b.txt",
    ".hidden",
    "a//b.txt",
    "",
    "captures/x.txt",
]


CONFIG = {"lr": 0.1, "model": {"n_heads": 2}}


def make_capture(
    step: int, *, seed: int = 0, size: int = 8, metrics: Mapping[str, float] | None = None
) -> Capture:
    """A small capture whose contents depend on ``step`` and ``seed`` only. ``size``: side of its
    attention maps."""
    if metrics is None:
        metrics = {"loss": 4.0 / (1 + step), "attn/induction_max": step / 1000}
    rng = np.random.default_rng([seed, step])
    scores = rng.normal(size=(1, 2, size, size))
    scores[..., ~np.tri(size, dtype=bool)] = -np.inf
    attention = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return Capture(
        step=step,
        arrays={"blocks.0.attn.pattern": attention.astype(np.float16)},
        axes={"blocks.0.attn.pattern": ("probe", "head", "query", "key")},
        tokens_seen=step * 64,
        metrics=metrics,
        model={"name": "tiny", "n_blocks": 1, "n_heads": 2},
    )


def write_captures(
    steps: range | list[int], directory: Path, *, seed: int = 0, size: int = 8
) -> list[CapturePath]:
    """Capture files in ``directory``, as the spool would hand them to a tracker."""
    captures = []
    for step in steps:
        capture = make_capture(step, seed=seed, size=size)
        path = directory / capture.file_name
        captures.append(CapturePath(capture_file.write(capture, path), path))
    return captures


def _cell(text: str) -> Cell:
    """A CSV stores only text: nothing for None, ``nan`` for a number that is none."""
    if text in ("", "nan"):
        return None
    if text[0].isdigit():
        number: float = json.loads(text)
        return number
    return text


class TrackerContract:
    """What a subclass supplies comes first; the tests follow."""

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

    # -- runs --------------------------------------------------------------------------------------

    def test_a_created_run_can_be_opened_elsewhere_by_its_reference(
        self, run: Run, reader: Tracker
    ) -> None:
        assert run.ref.scheme == type(reader).scheme
        info = reader.open_run(RunRef.parse(str(run.ref))).info()
        assert info.ref == run.ref
        assert info.name == "contract"
        assert info.state == "running"
        assert info.parent is None

    def test_the_config_comes_back_flat(self, run: Run, reader: Tracker) -> None:
        config = reader.open_run(run.ref).info().config
        assert {name: str(config[name]) for name in ("lr", "model.n_heads")} == {
            "lr": "0.1",
            "model.n_heads": "2",
        }

    @pytest.mark.parametrize("state", ["finished", "failed"])
    def test_finishing_sets_the_state(self, run: Run, reader: Tracker, state: str) -> None:
        run.finish(state)  # type: ignore[arg-type]
        assert reader.open_run(run.ref).info().state == state

    def test_a_run_that_was_only_opened_is_not_finished(self, run: Run, reader: Tracker) -> None:
        reader.open_run(run.ref).finish("failed")
        assert reader.open_run(run.ref).info().state == "running"

    def test_a_run_of_ours_is_finished_by_a_later_process(
        self, start: Callable[..., Run], reader: Tracker
    ) -> None:
        run = start()
        reader.open_run(run.ref, ours=True).finish("failed")
        assert reader.open_run(run.ref).info().state == "failed"

    def test_a_missing_run_is_reported_as_such(self, reader: Tracker) -> None:
        with pytest.raises(RunNotFoundError):
            reader.open_run(self.missing_ref()).info()

    def test_creating_again_with_the_same_key_returns_the_same_run(
        self, start: Callable[..., Run], reader: Tracker
    ) -> None:
        key = uuid4().hex
        first = start(key=key)
        again = reader.create_run(name="contract", config=CONFIG, key=key)
        assert again.ref == first.ref
        assert start(key=uuid4().hex).ref != first.ref

    def test_children_are_found_by_their_parent(
        self, start: Callable[..., Run], reader: Tracker
    ) -> None:
        parent = start()
        if not type(reader).has_sweeps:
            with pytest.raises(TrackerError, match="without sweeps"):
                reader.open_run(parent.ref).children()
            return
        children = [start(parent=parent.ref) for _ in range(2)]
        found = reader.open_run(parent.ref).children()
        assert sorted(map(str, found)) == sorted(str(child.ref) for child in children)
        assert reader.open_run(children[0].ref).info().parent == parent.ref
        assert reader.open_run(children[0].ref).children() == []

    def test_its_class_describes_it_without_its_sdk(self, run: Run) -> None:
        """A reference is read, and a Trainer's loggers are looked at, where no SDK is wanted."""
        scheme = run.ref.scheme
        tracker = plugins.tracker_class(scheme)
        assert issubclass(tracker, Tracker)
        assert tracker.scheme == scheme
        assert tracker.reference_form.startswith(f"{scheme}:")
        program = (
            "import sys; from tracker_viz import plugins; "
            f"client = plugins.tracker_class({scheme!r}).client; "
            "sys.exit(bool(client) and client in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

    def test_its_health_is_examined_without_an_error(self, tracker: Tracker) -> None:
        health = tracker.health(60.0)
        assert health.detail
        assert health.usable or health.fix

    def test_options_and_environment_hold_text_that_json_can_carry(
        self, run: Run, tracker: Tracker
    ) -> None:
        for mapping in (tracker.options, run.environment):
            assert json.loads(json.dumps(dict(mapping))) == dict(mapping)

    def test_links_lead_to_the_run_and_to_a_file_in_it(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "note.txt").write_text("here")
        assert "://" in run.url()
        link = run.put_file(tmp_path / "note.txt", "notes/note.txt")
        assert link == run.url("notes/note.txt")
        assert link != run.url()

    # -- captures ----------------------------------------------------------------------------------

    def test_captures_come_back_byte_for_byte(
        self, run: Run, reader: Tracker, captures: list[CapturePath], tmp_path: Path
    ) -> None:
        run.put_captures(captures)
        elsewhere = reader.open_run(run.ref)
        assert elsewhere.list_captures() == [capture.ref for capture in captures]
        for capture in captures:
            fetched = elsewhere.fetch(capture.ref, tmp_path / "pulled")
            assert fetched.read_bytes() == capture.path.read_bytes()

    def test_captures_are_listed_by_step_whatever_their_order(
        self, run: Run, reader: Tracker, captures: list[CapturePath]
    ) -> None:
        run.put_captures(captures[3:])
        run.put_captures(captures[:3][::-1])
        assert [ref.step for ref in reader.open_run(run.ref).list_captures()] == [0, 1, 2, 4, 100]

    def test_a_run_without_captures_lists_none(self, run: Run, reader: Tracker) -> None:
        assert reader.open_run(run.ref).list_captures() == []

    def test_putting_the_same_captures_again_changes_nothing(
        self, run: Run, reader: Tracker, captures: list[CapturePath]
    ) -> None:
        run.put_captures(captures[:3])
        run.put_captures(captures[1:])
        run.put_captures(captures)
        assert reader.open_run(run.ref).list_captures() == [capture.ref for capture in captures]

    def test_a_step_that_is_captured_again_is_replaced(
        self, run: Run, reader: Tracker, captures: list[CapturePath], tmp_path: Path
    ) -> None:
        run.put_captures(captures[:2])
        replaced = write_captures([1], tmp_path / "again", seed=7, size=9)
        run.put_captures(replaced)
        elsewhere = reader.open_run(run.ref)
        assert elsewhere.list_captures() == [captures[0].ref, replaced[0].ref]
        fetched = elsewhere.fetch(replaced[0].ref, tmp_path / "pulled")
        assert fetched.read_bytes() == replaced[0].path.read_bytes()

    def test_a_training_that_starts_over_replaces_the_captures(
        self, run: Run, reader: Tracker, captures: list[CapturePath], tmp_path: Path
    ) -> None:
        """A tracker that cannot remove them says so and keeps them."""
        run.put_captures(captures[:1])
        run.put_captures(captures[1:])
        try:
            run.clear_captures()
        except TrackerError:
            assert len(reader.open_run(run.ref).list_captures()) == len(captures)
            return
        assert reader.open_run(run.ref).list_captures() == []
        again = [captures[0], *write_captures([2], tmp_path / "again", seed=7)]
        run.put_captures(again)
        assert reader.open_run(run.ref).list_captures() == [capture.ref for capture in again]
        run.clear_captures()
        run.clear_captures()

    def test_what_is_missing_is_named(
        self, run: Run, reader: Tracker, captures: list[CapturePath]
    ) -> None:
        refs = [capture.ref for capture in captures]
        assert run.missing(refs) == refs
        run.put_captures(captures[:2])
        assert reader.open_run(run.ref).missing(refs) == refs[2:]

    def test_a_second_fetch_finds_the_file_and_a_damaged_one_is_fetched_again(
        self, run: Run, reader: Tracker, captures: list[CapturePath], tmp_path: Path
    ) -> None:
        run.put_captures(captures[:1])
        elsewhere = reader.open_run(run.ref)
        ref = captures[0].ref
        first = elsewhere.fetch(ref, tmp_path / "pulled")
        made = first.stat().st_mtime_ns
        assert elsewhere.fetch(ref, tmp_path / "pulled") == first
        assert first.stat().st_mtime_ns == made
        if first.is_relative_to(tmp_path / "pulled"):
            first.write_bytes(b"\0" * ref.nbytes)
            again = elsewhere.fetch(ref, tmp_path / "pulled")
            assert again.read_bytes() == captures[0].path.read_bytes()

    def test_captures_are_fetched_by_several_threads_at_once(
        self, run: Run, reader: Tracker, captures: list[CapturePath], tmp_path: Path
    ) -> None:
        run.put_captures(captures)
        elsewhere = reader.open_run(run.ref)

        def fetched(capture: CapturePath) -> bytes:
            return elsewhere.fetch(capture.ref, tmp_path / "pulled").read_bytes()

        with ThreadPoolExecutor(4) as pool:
            contents = list(pool.map(fetched, captures * 2))
        assert contents == [capture.path.read_bytes() for capture in captures * 2]

    def test_a_capture_that_was_cut_short_on_the_server_is_found_out(
        self, run: Run, reader: Tracker, captures: list[CapturePath], tmp_path: Path
    ) -> None:
        run.put_captures(captures)
        self.truncate(run.ref, captures[2].ref)
        elsewhere = reader.open_run(run.ref)
        assert elsewhere.list_captures() == [capture.ref for capture in captures]
        with pytest.raises(CaptureFileError, match=captures[2].ref.file_name):
            elsewhere.fetch(captures[2].ref, tmp_path / "pulled")
        run.put_captures([captures[2]])
        repaired = elsewhere.fetch(captures[2].ref, tmp_path / "pulled")
        assert repaired.read_bytes() == captures[2].path.read_bytes()

    def test_two_writers_of_one_run_do_not_lose_each_others_captures(
        self, run: Run, tracker: Tracker, tmp_path: Path
    ) -> None:
        halves = [
            write_captures(list(range(first, 12, 2)), tmp_path / f"writer-{first}")
            for first in (0, 1)
        ]
        together = threading.Barrier(2)

        def write(half: list[CapturePath]) -> None:
            together.wait()
            for capture in half:
                run.put_captures([capture])

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, halves))
        assert [ref.step for ref in run.list_captures()] == list(range(12))

    # -- metrics, summary, files, videos -----------------------------------------------------------

    def test_metrics_reach_the_native_charts_at_their_training_step(self, run: Run) -> None:
        points = []
        for step in (0, 4, 2):
            values = {"loss": 1 / (1 + step), "attn/induction_max": step / 8}
            points.append(MetricPoint(step, values, time=1.7e9 + step))
        run.log_metrics(points[:1])
        run.log_metrics(points[1:])
        run.finish("finished")
        stored = self.stored_metrics(run.ref)
        assert stored[self.metric_key("loss")] == pytest.approx({0: 1.0, 4: 0.2, 2: 1 / 3})
        assert stored[self.metric_key("attn/induction_max")] == pytest.approx(
            {0: 0.0, 4: 0.5, 2: 0.25}
        )

    def test_the_summary_is_overwritten_by_name(self, run: Run) -> None:
        run.set_summary({"best_head": "L0H1", "induction": 0.5})
        run.set_summary({"induction": 0.75})
        run.finish("finished")
        stored = self.stored_summary(run.ref)
        assert (str(stored["best_head"]), float(stored["induction"])) == ("L0H1", 0.75)

    def test_files_come_back_as_they_were_put_last(
        self, run: Run, reader: Tracker, tmp_path: Path
    ) -> None:
        report = tmp_path / "report.html"
        for text in ("first", "second"):
            report.write_text(text)
            run.put_file(report, "reports/heads.html")
        run.put_file(report, "notes.txt")
        opened = reader.open_run(run.ref)
        assert opened.get_file("reports/heads.html", tmp_path / "back").read_text() == "second"
        assert "notes.txt" in opened.list_files()
        assert not any("heads.html" in name or name == "reports" for name in opened.list_files())

    def test_a_file_that_is_not_there_is_reported(self, run: Run, tmp_path: Path) -> None:
        with pytest.raises(TrackerError, match="nothing"):
            run.get_file("reports/nothing.html", tmp_path / "back")

    @pytest.mark.parametrize("artifact", HOSTILE_PATHS)
    def test_only_plain_relative_paths_are_written_or_read(
        self, run: Run, tmp_path: Path, artifact: str
    ) -> None:
        (tmp_path / "file.txt").write_text("harmless")
        with pytest.raises(ConfigError):
            run.put_file(tmp_path / "file.txt", artifact)
        with pytest.raises(ConfigError):
            run.get_file(artifact, tmp_path / "back")
        assert not (tmp_path / "back").exists()

    @pytest.mark.parametrize("state", ["finished", "failed"])
    def test_a_video_for_a_run_that_ended_leaves_the_run_as_it_was(
        self, start: Callable[..., Run], reader: Tracker, tmp_path: Path, state: str
    ) -> None:
        run = start()
        run.log_metrics([MetricPoint(3, {"loss": 2.0})])
        run.set_summary({"induction": 0.5})
        run.finish(state)  # type: ignore[arg-type]
        before, metrics = reader.open_run(run.ref).info(), self.stored_metrics(run.ref)
        video = tmp_path / "made.webm"
        for contents in (b"first", b"second, longer"):
            video.write_bytes(contents)
            link = reader.open_run(run.ref).put_video(video, layout="heads", last_step=100)
            assert "://" in link
        assert reader.open_run(run.ref).info() == before
        after = self.stored_metrics(run.ref)
        assert {name: after[name] for name in metrics} == metrics
        assert float(self.stored_summary(run.ref)["induction"]) == 0.5
        self.check_video(run.ref, video)

    # -- tables, key frames, inputs ----------------------------------------------------------------

    def write_frames(
        self, steps: list[int], directory: Path, *, shade: int = 0
    ) -> list[tuple[int, Path]]:
        """Small PNGs, another for every step and shade."""
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
