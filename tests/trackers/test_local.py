"""The directory as a tracker: the contract, and what is its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracker_viz.errors import CaptureFileError, ConfigError, RunNotFoundError, TrackerError
from tracker_viz.files import append_lines, read_lines
from tracker_viz.trackers import connect, open_run
from tracker_viz.trackers.download import pull
from tracker_viz.trackers.file_run import FileRun
from tracker_viz.trackers.local import LocalRun, LocalTracker
from tracker_viz.trackers.testing import TrackerContract, write_captures
from tracker_viz.types import RunRef


class TestLocalTracker(TrackerContract):
    @pytest.fixture
    def tracker(self, tmp_path):
        return LocalTracker(tmp_path / "runs")

    @pytest.fixture
    def reader(self, tracker):
        return connect("local", **tracker.options)

    def stored_metrics(self, ref):
        stored = {}
        for line in read_lines(Path(ref.path) / "metrics.jsonl"):
            for name in line.keys() - {"step", "time"}:
                stored.setdefault(name, {})[line["step"]] = line[name]
        return stored

    def truncate(self, ref, capture):
        os.truncate(Path(ref.path) / "captures" / capture.file_name, capture.nbytes // 2)

    def missing_ref(self):
        return RunRef("local", "/nowhere/at/all")


def test_runs_of_one_name_get_directories_of_their_own(tmp_path):
    tracker = LocalTracker(tmp_path)
    made = [tracker.create_run(name="my run / 1", config={}).directory.name for _ in range(3)]
    assert made == ["my-run-1", "my-run-1-2", "my-run-1-3"]


@pytest.mark.parametrize("contents", ["[1]", "{", '{"parent": 3}', '{"schema": 99}'])
def test_a_run_file_of_somebody_else_hides_no_run_beside_it(tmp_path, contents, caplog):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text(contents)
    tracker = LocalTracker(tmp_path)
    parent = tracker.create_run(name="sweep", config={}, key="a" * 32)
    child = tracker.create_run(name="job", config={}, key="b" * 32, parent=parent.ref)
    assert tracker.create_run(name="job", config={}, key="b" * 32).ref == child.ref
    assert parent.children() == [child.ref]
    assert f"{tmp_path / 'other'} is not taken for a run" in caplog.text


def test_a_folder_that_only_holds_captures_and_their_index_is_a_run(tmp_path):
    run = LocalTracker(tmp_path).create_run(name="a", config={})
    run.put_captures(write_captures([0, 5], tmp_path / "source"))
    (run.directory / "run.json").unlink()
    copied = open_run(run.ref)
    assert [ref.step for ref in copied.list_captures()] == [0, 5]
    assert copied.info().name == "a"


def test_an_empty_folder_is_no_run(tmp_path):
    with pytest.raises(RunNotFoundError, match=r"run\.json or captures/"):
        open_run(RunRef("local", str(tmp_path)))


def test_an_entry_whose_file_never_came_is_not_listed(tmp_path):
    run = LocalTracker(tmp_path).create_run(name="a", config={})
    first, second = write_captures([0, 1], tmp_path / "source")
    run.put_captures([first])
    run.write_entry(second.ref, 1.0)
    assert run.list_captures() == [first.ref]


def test_links_and_strangers_among_the_captures_are_not_listed(tmp_path):
    run = LocalTracker(tmp_path / "runs").create_run(name="a", config={})
    first, second = write_captures([0, 1], tmp_path / "source")
    run.put_captures([first])
    run.write_entry(second.ref, 1.0)
    (run.directory / "captures" / second.ref.file_name).symlink_to(second.path)
    (run.directory / "captures" / "index" / "step-00000009.5.nonsense.json").write_text("{}")
    (run.directory / "captures" / ".step-00000003.safetensors.partial").write_bytes(b"half")
    assert run.list_captures() == [first.ref]


def test_a_line_that_a_kill_left_torn_is_skipped_and_closed_off(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_lines(['{"a": 1}'], path)
    with path.open("a") as file:
        file.write('{"a": 2')
    append_lines(['{"a": 3}'], path)
    assert [line["a"] for line in read_lines(path)] == [1, 3]


def test_a_reference_to_a_file_outside_is_refused_even_through_a_link(tmp_path):
    run = LocalTracker(tmp_path / "runs").create_run(name="a", config={})
    (tmp_path / "secret.txt").write_text("secret")
    (run.directory / "report.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(Exception, match="has no file"):
        run.get_file("report.txt", tmp_path / "back")


def test_joining_an_object_that_is_no_run_is_refused():
    from tracker_viz.trackers import join

    with pytest.raises(ConfigError, match="a run is a name"):
        join(object())


def test_a_local_run_needs_no_tracker_package():
    program = (
        "import sys, tracker_viz.trackers.local;"
        "print([name for name in ('mlflow', 'wandb', 'torch') if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_a_file_of_the_right_size_with_other_bytes_is_found_out(tmp_path):
    run = LocalTracker(tmp_path / "runs").create_run(name="a", config={})
    (capture,) = write_captures([0], tmp_path / "source")
    run.put_captures([capture])
    stored = run.directory / "captures" / capture.ref.file_name
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    with pytest.raises(CaptureFileError, match="another sha256"):
        run.fetch(capture.ref, tmp_path)


def test_what_is_stored_has_its_name_on_the_disk_before_the_spool_lets_go_of_it(
    tmp_path, monkeypatch
):
    (capture,) = write_captures([0], tmp_path / "source")
    run = LocalTracker(tmp_path).create_run(name="a", config={})
    stored = run.directory / "captures" / capture.ref.file_name
    order, fsync = [], os.fsync

    def noted(descriptor):
        order.append((os.readlink(f"/proc/self/fd/{descriptor}"), stored.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    run.put_captures([capture])
    (file, is_named), last = order[-2:]
    assert (file.endswith(".partial"), is_named) == (True, False), "its bytes before its name"
    assert last == (str(stored.parent), True)


def test_a_capture_that_is_delivered_while_it_is_looked_at_is_told_as_any_other_that_is_gone(
    tmp_path, monkeypatch
):
    """Another process may read a spool while its training delivers from it."""
    run = LocalTracker(tmp_path / "runs").create_run(name="a run", config={})
    (capture,) = write_captures([4], tmp_path / "written")
    run.put_captures([capture])
    is_file = Path.is_file

    def delivered_then(path):
        found = is_file(path)
        if path.name == capture.ref.file_name:
            path.unlink()
        return found

    monkeypatch.setattr(Path, "is_file", delivered_then)
    with pytest.raises(CaptureFileError, match="is listed, but its file is not there"):
        run.fetch(capture.ref, tmp_path)


def test_a_run_name_longer_than_a_file_name_may_be_is_kept_whole_in_the_run(tmp_path):
    name = "sweep " + "x" * 400
    first, second = (LocalTracker(tmp_path).create_run(name=name, config={}) for _ in range(2))
    assert first.ref != second.ref
    assert first.info().name == second.info().name == name


class Copied(LocalRun):
    """A run whose captures have to be brought here first, as from a server."""

    def fetch(self, ref, directory):
        return FileRun.fetch(self, ref, directory)


def test_a_cache_that_takes_nothing_is_said_with_the_way_out(tmp_path):
    run = LocalTracker(tmp_path / "runs").create_run(name="a", config={})
    run.put_captures(write_captures([0, 1], tmp_path / "source"))
    (tmp_path / "file").touch()
    with pytest.raises(TrackerError, match=r"cannot be kept in .*/file/.*; is the disk .* cache="):
        pull(Copied(run.directory), tmp_path / "file")
