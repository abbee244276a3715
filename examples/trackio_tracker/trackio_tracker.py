"""Trackio as a tracker of tracker_viz: ``run="trackio"``, or ``run="trackio:<project>/<run>"``.

Trackio keeps a project's runs in a database and its files in a directory, both below
``TRACKIO_DIR``. The captures, films and tables of a run are files there, which the dashboard's
Files tab lists; the film is played in its Media tab, too. Runs on a Hugging Face Space are refused.
"""

from __future__ import annotations

import os
import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tracker_viz.errors import NoSuchFileError, RunNotFoundError, TrackerError
from tracker_viz.files import copy_atomically, read_json, write_json
from tracker_viz.trackers import FileRun, Health, MetricPoint, RunInfo, RunState, Tracker, flatten
from tracker_viz.types import RunRef


class TrackioTracker(Tracker):
    """Trackio on this machine.

    Args:
        project: for runs that are created here; None takes ``TRACKIO_PROJECT``, else
            ``tracker_viz``.
    """

    scheme = "trackio"
    reference_pattern = r"[^/]+/.+"
    reference_form = "trackio:<project>/<run>"
    install = "pip install trackio"
    client = "trackio"
    live_run = "a trackio.Run"
    report_to = "trackio"

    def __init__(self, project: str | None = None) -> None:
        self._project = project or os.environ.get("TRACKIO_PROJECT") or "tracker_viz"

    @property
    def options(self) -> Mapping[str, str]:
        return {"project": self._project}

    def create_run(
        self, *, name: str, config: Mapping[str, Any], key: str | None = None, **_: Any
    ) -> TrackioRun:
        run = TrackioRun(self._project, key or uuid.uuid4().hex, name, ours=True)
        if not run.marker.is_file():
            # Trackio shows a run once it has a row.
            run.log_row({}, 0, log_id="created", config=dict(config))
            write_json({"state": "running"}, run.marker)
        return run

    def open_run(self, ref: RunRef, *, ours: bool = False) -> TrackioRun:
        """Open a run by its id or its name; of several with one name, the latest."""
        from trackio.sqlite_storage import SQLiteStorage

        project, _, wanted = ref.path.partition("/")
        for record in reversed(SQLiteStorage.get_run_records(project)):
            if wanted in (record["id"], record["name"]):
                return TrackioRun(project, str(record["id"]), str(record["name"]), ours=ours)
        raise RunNotFoundError(f"{ref} is not there; was it trained with another TRACKIO_DIR?")

    def active_run(self) -> TrackioRun | None:
        from trackio import context_vars

        live = context_vars.current_run.get()
        return None if live is None else self.join(live)

    def join(self, live: Any) -> TrackioRun:
        if live.url is not None:
            raise TrackerError(f"{live.name!r} is on {live.url}; expected a run on this machine")
        return TrackioRun(live.project, live.id, live.name, live=True)

    def health(self, timeout_s: float) -> Health:
        from trackio.utils import TRACKIO_DIR

        there = next(each for each in (TRACKIO_DIR, *TRACKIO_DIR.parents) if each.exists())
        if os.access(there, os.W_OK):
            return Health(True, f"on this machine, {TRACKIO_DIR}")
        return Health(False, f"{TRACKIO_DIR} cannot be written", "choose another: TRACKIO_DIR=...")


class TrackioRun(FileRun):
    """One run. ``live``: the user's own code has it open in this process."""

    def __init__(
        self, project: str, run_id: str, name: str, *, ours: bool = False, live: bool = False
    ) -> None:
        import trackio

        self._project, self._id, self._name = project, run_id, name
        self._ours, self._live = ours, live
        self._files = trackio.get_project_media_path(project, relative_path=run_id)
        self.marker = self._files / "run.json"

    @property
    def ref(self) -> RunRef:
        return RunRef("trackio", f"{self._project}/{self._id}")

    @property
    def ui_command(self) -> str:
        return f"trackio show --project {self._project}"

    def info(self) -> RunInfo:
        from trackio.sqlite_storage import SQLiteStorage

        config = SQLiteStorage.get_run_config(self._project, self._name, run_id=self._id) or {}
        theirs = {name: value for name, value in config.items() if not name.startswith("_")}
        state: RunState = "running" if self._live else "finished"
        if self.marker.is_file():
            state = read_json(self.marker)["state"]
        return RunInfo(self.ref, self._name, state, flatten(theirs))

    def url(self, artifact: str | None = None) -> str:
        if artifact is None:
            return f"http://127.0.0.1:7860/?{urllib.parse.urlencode({'project': self._project})}"
        file = urllib.parse.urlencode({"path": str(self._files / artifact)})
        return f"http://127.0.0.1:7860/file?{file}"

    def log_metrics(self, points: Sequence[MetricPoint]) -> None:
        for point in points:
            log_id = None if point.time is None else f"{point.step} {point.time}"
            self.log_row(dict(point.values), point.step, log_id=log_id, time=point.time)

    def log_row(
        self,
        values: dict[str, Any],
        step: int,
        *,
        log_id: str | None = None,
        time: float | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        """Add one row to the run's history. Trackio keeps one row of each ``log_id``."""
        from trackio.sqlite_storage import SQLiteStorage

        logged = datetime.now(UTC) if time is None else datetime.fromtimestamp(time, UTC)
        SQLiteStorage.bulk_log(
            self._project,
            self._name,
            [values],
            steps=[step],
            timestamps=[logged.isoformat()],
            config=config,
            log_ids=[f"tracker_viz {self._id} {log_id or uuid.uuid4().hex}"],
            run_id=self._id,
        )

    def put_video(self, video: Path, *, layout: str, last_step: int) -> str:
        import trackio

        link = super().put_video(video, layout=layout, last_step=last_step)
        media = trackio.Video(str(video), caption=layout)
        media._save(self._project, self._name, last_step)
        self.log_row({f"tracker_viz/{layout}": media._to_dict()}, last_step)
        return link

    def store(self, file: Path, artifact: str) -> None:
        copy_atomically(file, self._files / artifact)

    def load(self, artifact: str, target: Path) -> None:
        if not (self._files / artifact).is_file():
            raise NoSuchFileError(f"{self.ref} has no file {artifact!r}")
        copy_atomically(self._files / artifact, target)

    def sizes(self, folder: str) -> dict[str, int | None]:
        files = [path for path in (self._files / folder).glob("*") if path.is_file()]
        return {file.name: file.stat().st_size for file in files}

    def finish(self, state: RunState) -> None:
        if self._ours:
            write_json({"state": state}, self.marker)
