"""The base class of adapters' runs: ``Run``, one run in a tracker (``tracker.Tracker``).

Ours are ``local.py``, ``mlflow/`` and ``wandb/``; other distributions add theirs by an entry point
(``tracker_viz.plugins``). ``testing`` ships the contract suite that every adapter passes. An
adapter of a tracker that stores plain files subclasses ``FileRun`` (``file_run.py``) and is about a
hundred lines; the repository's ``examples/`` have one.

Every method may block and may raise, and none is called on the training thread (except the three
that look for a live run): the spool's uploaders call the writing half, the pipeline the reading
half.

Adapters raise ``TransientTrackerError`` where the same call may succeed later (the uploader retries
only these), any other ``TrackerError`` where it cannot. No SDK object and no SDK exception leaves
an adapter.
"""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracker_viz.errors import TrackerError
from tracker_viz.files import read_json, temporary_directory
from tracker_viz.trackers.values import (
    INPUTS,
    SUMMARY,
    Cell,
    ChunkPolicy,
    MetricPoint,
    RunInfo,
    RunState,
    checked_artifact,
    checked_columns,
    video_artifacts,
)
from tracker_viz.types import CapturePath, CaptureRef, RunRef


class Run(ABC):
    """One run of a tracker, existing or just created.

    Methods with a body are defaults for a simple tracker: what it cannot show natively is stored as
    a file of the run. An adapter overrides those that its tracker does better.
    """

    @property
    @abstractmethod
    def ref(self) -> RunRef: ...

    @abstractmethod
    def info(self) -> RunInfo: ...

    @abstractmethod
    def url(self, artifact: str | None = None) -> str:
        """Return the link to the run, or to one of its files (a path as in ``put_file``), in the
        tracker's own UI."""

    @property
    def chunk(self) -> ChunkPolicy:
        """The number of captures that the uploader collects before it calls ``put_captures``."""
        return ChunkPolicy()

    @property
    def online(self) -> bool:
        """False: this process cannot deliver captures, for example because W&B works offline. They
        wait for ``push``.

        Metrics, the summary and the end of the run are taken nevertheless.
        """
        return True

    def why_offline(self) -> str:
        """Return why captures wait, and what to do before ``push``, where it is not ``online``."""
        return f"{self.ref.scheme} works offline in this process"

    @property
    def confirms_points(self) -> bool:
        """False: ``log_metrics`` returns when the tracker's client has the points, which a kill may
        take with it. The uploader then counts them once the run has ended, and the next start or
        push sends what ``shown_points`` lacks."""
        return True

    @property
    def environment(self) -> Mapping[str, str]:
        """Options that another process needs besides ``ref`` to reach this run (``tracking_uri``,
        ``base_url``); never a secret. The commands that training prints carry them."""
        return {}

    @property
    def resumed(self) -> bool:
        """True: ``create_run`` continued an existing run, because the tracker's environment names
        it. The uploader then compares its captures."""
        return False

    @property
    def ui_command(self) -> str | None:
        """The command that must be running for ``url`` to open; None where a server shows it
        already."""
        return None

    # -- writing, while training and afterwards ----------------------------------------------------

    @abstractmethod
    def put_captures(self, captures: Sequence[CapturePath]) -> None:
        """Store captures; when this returns the service has every one of them. Safe to repeat.

        A capture of a step that the run already has replaces it.
        """

    @abstractmethod
    def log_metrics(self, points: Sequence[MetricPoint]) -> None:
        """Add points to the run's native charts, whose horizontal axis is the training step."""

    def shown_points(self, points: Sequence[MetricPoint]) -> frozenset[int]:
        """Return the steps of those points that the service has. Asked only where
        ``confirms_points`` is false.

        Default: all of them.
        """
        return frozenset(point.step for point in points)

    def set_summary(self, values: Mapping[str, float | int | str]) -> None:
        """Set final values by which the tracker's own table of runs can sort and filter. Overwrites
        values of the same name.

        Default: the file ``summary.json``; the tracker's table of runs does not show it.
        """
        with temporary_directory() as directory:
            known: dict[str, Any] = {}
            if SUMMARY in self.list_files():
                known = read_json(self.get_file(SUMMARY, directory))
            self._put_text(json.dumps(known | dict(values), indent=2, sort_keys=True), SUMMARY)

    def alert(self, kind: str, step: int, sentence: str) -> None:
        """Alert the people who watch this run that its training is going wrong. Safe to repeat.

        Default: the file ``alarms/<kind>_step_00000100.txt``, which alerts nobody.

        Args:
            kind: one word: ``logit``, ``not_finite``, ...
        """
        self._put_text(f"{sentence}\n", f"alarms/{kind}_step_{step:08d}.txt")

    @abstractmethod
    def put_file(self, file: Path, artifact: str) -> str:
        """Store any file under the run-relative path ``artifact`` (``reports/heads.html``) and
        return its UI link. Overwrites.

        Raises:
            ConfigError: the path is not a plain relative one, or is below ``captures/``; see
                ``checked_artifact``.
        """

    def local_path(self, artifact: str) -> Path | None:
        """Return the path of a file of the run on this machine; None (the default) where the
        tracker keeps it elsewhere."""
        return None

    def put_video(self, video: Path, *, layout: str, last_step: int) -> str:
        """Store a video where this tracker's UI plays it, under a name that is the same in every
        run, and return its UI link.

        Works on a finished run and leaves its state, times, config and history as they are.

        Default: the two files of ``video_artifacts``.

        Raises:
            RunActiveError: another process still writes to the run and this tracker allows one
                writer only.
        """
        stable, stepped = video_artifacts(layout, last_step, video.suffix)
        self.put_file(video, stepped)
        return self.put_file(video, stable)

    def put_live_video(self, video: Path, *, layout: str, last_step: int) -> str:
        """Store a version of a video that grows while the run goes on, in the place of the version
        before, and return its UI link. ``put_video`` takes the last one.

        Default: the stable one of the files of ``video_artifacts``, so that versions do not pile
        up.

        Raises:
            RunActiveError: as ``put_video``.
        """
        stable, _ = video_artifacts(layout, last_step, video.suffix)
        return self.put_file(video, stable)

    def put_table(self, rows: Sequence[Mapping[str, Cell]], name: str) -> str:
        """Store a table where this tracker's UI shows it as one, under a name that is the same in
        every run, and return its link. Overwrites.

        Works on a finished run, like ``put_video``; so do the next two.

        Default: the file ``tables/<name>.csv``.

        Raises:
            ConfigError: there are no rows, or they differ in their columns.
        """
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, checked_columns(rows, name))
        writer.writeheader()
        writer.writerows(rows)
        return self._put_text(text.getvalue(), f"tables/{name}.csv")

    def put_key_frames(self, frames: Sequence[tuple[int, Path]], layout: str) -> str:
        """Store pictures, (training step, PNG), behind the tracker's own step slider, under a name
        that is the same in every run, and return the UI link.

        Safe to repeat: pictures that the run shows already are not stored again, and one that
        changed replaces the earlier one.

        Default: the files ``key_frames/<layout>/step_00000100.png``.
        """
        for step, picture in frames:
            self.put_file(picture, f"key_frames/{layout}/step_{step:08d}.png")
        return self.url(checked_artifact(f"key_frames/{layout}"))

    def link_inputs(self, refs: Sequence[RunRef]) -> None:
        """Record in the tracker that this run's results were made from these runs' captures; they
        may be runs of other trackers. Safe to repeat.

        Default: the file ``inputs.json``.
        """
        self._put_text(json.dumps({"inputs": list(map(str, refs))}, indent=2), INPUTS)

    def source_in_page(self, ref: RunRef, artifact: str) -> str | None:
        """Return the URL from which a page among this run's files can play a file of the run
        ``ref``, relative to the page's own URL; None where it cannot.

        Default: None; such a page has to embed the videos.
        """
        return None

    def guards_files(self, ref: RunRef, artifact: str) -> bool:
        """Return whether the UI serves that file to logged-in users only. Browsers send no login
        from a page in a viewer's sandbox, so such a page must embed the video."""
        return True

    def results_run(self) -> Run:
        """Return the run that holds results about the sweep below this one, the same one every
        time: this run itself, unless the tracker shows them elsewhere.

        Where a sweep is a group of runs without a parent among them (W&B), it is one run in that
        group.
        """
        return self

    def sibling_options(self) -> Mapping[str, Any]:
        """Return the options of a tracker that creates runs beside this one: on the same service,
        in the same experiment or project. Only where ``Tracker.has_sweeps``."""
        raise TrackerError(_no_sweeps(self.ref))

    def set_parent(self, parent: RunRef) -> None:
        """Make this run part of the sweep below ``parent``. Safe to repeat.

        For runs that the user's own code created: ``create_run`` takes the parent of ours. A parent
        or group that the user's code gave the run stays.
        """
        raise TrackerError(_no_sweeps(self.ref))

    def clear_captures(self) -> None:
        """Remove all captures, so that a training that starts over replaces them.

        Raises:
            TrackerError: this tracker cannot remove them, which is the default.
        """
        raise TrackerError(f"{self.ref.scheme} cannot remove captures")

    def remove_torn(self) -> None:
        """Remove half-written files that a killed process left where people see them.

        Default: nothing; a service keeps no such files.
        """
        return

    @abstractmethod
    def finish(self, state: RunState) -> None:
        """End a run that is ours: created, or opened with ``ours=True``. One that was only joined
        or opened is left as it is.

        After this the run's local resources are released; reading from it still works, and
        finishing it again with the same state changes nothing.
        """

    # -- reading back ------------------------------------------------------------------------------

    @abstractmethod
    def list_captures(self) -> list[CaptureRef]:
        """Return the captures that were stored whole, ordered by step, each step once.

        One that was damaged on the server afterwards is still listed: ``fetch`` finds out, so that
        the gap is seen.
        """

    def missing(self, refs: Sequence[CaptureRef]) -> list[CaptureRef]:
        """Return those of ``refs`` that the service lacks, or has with another size or hash, as far
        as it can tell without a download.

        The uploader asks before it repeats anything, and ``push`` repairs what is named here.
        """
        there = set(self.list_captures())
        return [ref for ref in refs if ref not in there]

    @abstractmethod
    def fetch(self, ref: CaptureRef, directory: Path) -> Path:
        """Return a local file with exactly the bytes of ``ref``: the store's own where it is on
        this machine, else downloaded into ``directory``.

        May be called from several threads at once. A file that is already in ``directory`` and
        matches is not fetched again.

        Raises:
            CaptureFileError: what the service sent does not match the ref's size or sha256.
        """

    def why_no_captures(self) -> str:
        """Return the reason for an empty ``list_captures``, and the fix."""
        return "the run has none yet, or they are still in its spool (tracker-viz push)"

    @abstractmethod
    def list_files(self) -> list[str]:
        """Return the names of the files that ``put_file`` and ``put_video`` stored at the root of
        the run, where the tracker keeps them there."""

    @abstractmethod
    def get_file(self, artifact: str, directory: Path) -> Path:
        """Copy a file that ``put_file`` stored into ``directory`` and return its path there.

        Raises:
            TrackerError: the run has no such file.
        """

    def children(self) -> list[RunRef]:
        """Return the runs of the sweep whose parent this run is, wherever the tracker keeps them;
        empty when it is no parent.

        Raises:
            TrackerError: this tracker has no sweeps (``Tracker.has_sweeps``), which is the default.
        """
        raise TrackerError(_no_sweeps(self.ref))

    def _put_text(self, text: str, artifact: str) -> str:
        with temporary_directory() as directory:
            file = directory / Path(checked_artifact(artifact)).name
            file.write_text(text, encoding="utf-8", newline="")
            return self.put_file(file, artifact)


def _no_sweeps(ref: RunRef) -> str:
    return (
        f"{ref} is a run of a tracker without sweeps: nothing is above or below it; name the runs "
        "one by one, runs=[...]"
    )
