"""The contract: captures go in and come back whole."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tracker_viz.errors import CaptureFileError, TrackerError
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.testing.sample_captures import write_captures
from tracker_viz.trackers.testing.supplied import Supplied
from tracker_viz.trackers.tracker import Tracker
from tracker_viz.types import CapturePath


class CaptureTests(Supplied):
    """Captures are stored, listed, replaced and fetched."""

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
        halves = []
        for first in (0, 1):
            halves.append(write_captures(list(range(first, 12, 2)), tmp_path / f"writer-{first}"))
        together = threading.Barrier(2)

        def write(half: list[CapturePath]) -> None:
            together.wait()
            for capture in half:
                run.put_captures([capture])

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, halves))
        assert [ref.step for ref in run.list_captures()] == list(range(12))
