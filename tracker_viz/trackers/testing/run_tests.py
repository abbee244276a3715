"""The contract: runs, their configuration, parents, links and health."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tracker_viz import plugins
from tracker_viz.errors import RunNotFoundError, TrackerError
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.testing.supplied import CONFIG, Supplied
from tracker_viz.trackers.tracker import Tracker
from tracker_viz.types import RunRef


class RunTests(Supplied):
    """Runs are created, opened, found and ended."""

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
