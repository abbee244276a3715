"""A directory as a tracker: the same tree as in an MLflow run, on a disk. Needs no package and no
server.

    <run>/run.json                                  name, config, state, tags
    <run>/captures/step-00000100.safetensors        and captures/index/, see capture_index.py
    <run>/metrics.jsonl  summary.json
    <run>/heads.webm  videos/heads/step_00000100.webm
    <run>/tables/head_roles.csv  key_frames/heads/step_00000100.png  inputs.json

Every file is written to a temporary name, synced and renamed, so that a kill leaves whole files
only. The spool's directory is such a run too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tracker_viz.capture_file import check_file, file_ref
from tracker_viz.errors import (
    ConfigError,
    NoSuchFileError,
    RunNotFoundError,
    TrackerError,
    TransientTrackerError,
)
from tracker_viz.files import (
    append_lines,
    copy_atomically,
    home_expanded,
    read_json,
    remove_torn,
    user_path,
    write_atomically,
    write_json,
)
from tracker_viz.stored import RunFile
from tracker_viz.trackers import capture_index
from tracker_viz.trackers.file_run import FileRun
from tracker_viz.trackers.tracker import Tracker
from tracker_viz.trackers.values import (
    SUMMARY,
    MetricPoint,
    RunInfo,
    RunState,
    checked_artifact,
    flatten,
)
from tracker_viz.types import CapturePath, CaptureRef, RunRef

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MAX_NAME_CHARACTERS = 120  # of the 255 that most disks take, of the 143 of an encrypted home


class LocalTracker(Tracker):
    """Runs are directories; new ones are made under ``directory``."""

    scheme = "local"
    reference_pattern = r".+"
    reference_form = "local:<directory>"
    has_sweeps = True

    def __init__(self, directory: str | Path = "runs") -> None:
        self._directory = home_expanded(directory)
        # Where the working directory is gone, runs can still be opened by absolute paths.
        with contextlib.suppress(ConfigError):
            self._directory = user_path(directory)

    @property
    def options(self) -> Mapping[str, str]:
        return {"directory": str(self._directory)}

    def create_run(
        self,
        *,
        name: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        parent: RunRef | None = None,
        key: str | None = None,
    ) -> LocalRun:
        if key and (made := self._made_with(key)):
            return LocalRun(made, ours=True)
        slug = directory_name(name)
        self._directory = user_path(self._directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            directory = self._directory / (slug if number == 1 else f"{slug}-{number}")
            try:
                directory.mkdir()
            except FileExistsError:
                number += 1
            else:
                break
        return LocalRun.create(
            directory, name=name, config=config, tags=tags, parent=parent, key=key
        )

    def open_run(self, ref: RunRef, *, ours: bool = False) -> LocalRun:
        directory = user_path(ref.path)
        if (
            not (directory / "run.json").is_file()
            and not (directory / capture_index.CAPTURES).is_dir()
        ):
            if any(directory.glob("step-*.safetensors")):
                raise RunNotFoundError(
                    f"{ref} is a directory of captures, not a run: a run keeps "
                    "them in captures/, and their index in captures/index/; use "
                    "its parent directory"
                )
            raise RunNotFoundError(
                f"{ref} is not a run: expected a directory with run.json or "
                f"captures/ in it, at {directory}; run='local' creates a new one, "
                "in the directory given by spool="
            )
        return LocalRun(directory, ours=ours)

    def _made_with(self, key: str) -> Path | None:
        for directory, stored in _runs_in(self._directory):
            if stored.get("key") == key:
                return directory
        return None


class LocalRun(FileRun):
    """One directory. ``ours``: tracker_viz made the run, so ``finish`` ends it."""

    def __init__(self, directory: Path, *, ours: bool = False) -> None:
        self.directory = user_path(directory)
        self._ours = ours

    def capture_path(self, ref: CaptureRef) -> Path:
        return self.directory / capture_index.CAPTURES / ref.file_name

    def entry_path(self, ref: CaptureRef) -> Path:
        """Return where the capture's entry in the run's index is."""
        return self.directory / capture_index.INDEX / capture_index.entry_name(ref)

    def entries_without_capture(self) -> list[Path]:
        """Return entries of the index whose capture is not there: a kill came between the two."""
        there = self.sizes(capture_index.CAPTURES)
        entries = []
        for name in self.sizes(capture_index.INDEX):
            ref = capture_index.parse_entry(name)
            if ref is not None and ref.file_name not in there:
                entries.append(self.entry_path(ref))
        return entries

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        name: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        parent: RunRef | None = None,
        key: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> LocalRun:
        """Write ``run.json`` and with it make ``directory`` a run. ``more``: what the spool notes
        beside it."""
        described = {
            "schema": SCHEMA_VERSION,
            "name": name,
            "state": "running",
            "config": dict(config),
            "tags": dict(tags or {}),
            "parent": str(parent) if parent else None,
            "key": key,
            "created": time.time(),
            **(more or {}),
        }
        write_json(described, directory / "run.json")
        return cls(directory, ours=True)

    @property
    def ref(self) -> RunRef:
        return RunRef("local", str(self.directory))

    def info(self) -> RunInfo:
        described = self.description()
        state: RunState = "finished"
        if described.get("state") in get_args(RunState):
            state = described["state"]
        parent = described.get("parent")
        return RunInfo(
            ref=self.ref,
            name=str(described.get("name") or self.directory.name),
            state=state,
            config=flatten(described.get("config") or {}),
            parent=RunRef.from_stored(parent) if parent else None,
        )

    def why_no_captures(self) -> str:
        # The run of a spool names where its captures go.
        refs = [each.get("ref") for each in self.description().get("destinations", ())]
        places = ", ".join(filter(None, refs))
        if not places or self.sizes(capture_index.CAPTURES):
            return super().why_no_captures()
        return f"none are left here; those that were uploaded are in {places}"

    def description(self) -> dict[str, Any]:
        """Return ``run.json``; empty for a directory that only holds captures (a copy of a
        tracker's artifacts)."""
        path = self.directory / "run.json"
        if not path.is_file():
            return {}
        stored = read_json(path)
        RunFile.of(stored, path)
        return stored

    def describe(self, **changes: Any) -> None:
        """Change entries of ``run.json``, leaving the others as they are."""
        self._check_there()
        write_json(self.description() | changes, self.directory / "run.json")

    def url(self, artifact: str | None = None) -> str:
        path = self.directory
        if artifact:
            path /= checked_artifact(artifact)
        return path.as_uri()

    def local_path(self, artifact: str) -> Path | None:
        return self.directory / checked_artifact(artifact)

    # -- writing -----------------------------------------------------------------------------------

    def put_captures(self, captures: Sequence[CapturePath]) -> None:
        for capture in captures:
            try:
                self._check_there()
                self.write_entry(capture.ref, time.time())
            except OSError as error:
                raise TransientTrackerError(
                    f"cannot write to {self.directory} ({error}); is the disk full or away?"
                ) from error
            copy_atomically(capture.path, self.capture_path(capture.ref))

    def write_entry(self, ref: CaptureRef, taken: float) -> None:
        """Announce a capture *before* its file is renamed into place: no file is ever without its
        size and hash.

        An entry without its file is not listed, so a kill between the two leaves nothing behind.
        """
        path = self.entry_path(ref)
        if not path.exists():
            write_atomically(capture_index.entry_text(ref, taken).encode(), path)

    def log_metrics(self, points: Sequence[MetricPoint]) -> None:
        self._check_there()
        lines = []
        for point in points:
            taken = time.time() if point.time is None else point.time
            lines.append(json.dumps({"step": point.step, "time": taken, **point.values}))
        append_lines(lines, self.directory / "metrics.jsonl")

    def set_summary(self, values: Mapping[str, float | int | str]) -> None:
        self._check_there()
        path = self.directory / SUMMARY
        known = read_json(path) if path.is_file() else {}
        write_json(known | dict(values), path)

    def store(self, file: Path, artifact: str) -> None:
        try:
            self._check_there()
        except OSError as error:
            raise TransientTrackerError(str(error)) from error
        copy_atomically(file, self.directory / artifact)

    def load(self, artifact: str, target: Path) -> None:
        path = self.directory / artifact
        if not path.is_file() or not path.resolve().is_relative_to(self.directory.resolve()):
            raise NoSuchFileError(f"{self.ref} has no file {artifact!r}")
        copy_atomically(path, target)

    def sizes(self, folder: str) -> dict[str, int | None]:
        nbytes: dict[str, int | None] = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.directory / folder) as found:
            for file in found:
                # Training may rename or deliver it at this moment.
                with contextlib.suppress(FileNotFoundError):
                    if file.is_file(follow_symlinks=False):
                        nbytes[file.name] = file.stat().st_size
        return nbytes

    def _check_there(self) -> None:
        """Check before anything is written that the run is there: where its disk was unmounted, an
        empty directory would take files that nobody finds again.

        Raises:
            FileNotFoundError: it is not.
        """
        run_file, captures = self.directory / "run.json", self.directory / capture_index.CAPTURES
        if not run_file.is_file() and not captures.is_dir():
            raise FileNotFoundError(
                errno.ENOENT, "the run is not there: unmounted, or deleted", str(self.directory)
            )

    def source_in_page(self, ref: RunRef, artifact: str) -> str | None:
        """Return a relative path, so that a sweep's whole directory can be moved."""
        if ref.scheme != "local":
            return None
        file = Path(ref.path) / checked_artifact(artifact)
        return urllib.parse.quote(Path(os.path.relpath(file, self.directory)).as_posix())

    def guards_files(self, ref: RunRef, artifact: str) -> bool:
        return False

    def set_parent(self, parent: RunRef) -> None:
        if self.description().get("parent") is None:
            self.describe(parent=str(parent))

    def clear_captures(self) -> None:
        shutil.rmtree(self.directory / capture_index.CAPTURES, ignore_errors=True)

    def remove_torn(self) -> None:
        remove_torn(self.directory)

    def finish(self, state: RunState) -> None:
        if self._ours and self.description().get("state") != state:
            self.describe(state=state, ended=time.time())

    # -- reading -----------------------------------------------------------------------------------

    def fetch(self, ref: CaptureRef, directory: Path) -> Path:
        path = self.capture_path(ref)
        check_file(path, ref)
        return path

    def children(self) -> list[RunRef]:
        found = []
        for place in (self.directory, self.directory.parent):
            for directory, stored in _runs_in(place):
                parent = stored.get("parent")
                if parent and Path(RunRef.from_stored(parent).path).absolute() == self.directory:
                    found.append(directory)
        return [RunRef("local", str(directory)) for directory in sorted(found)]

    def _listed(self, nbytes: Mapping[str, int | None]) -> list[CaptureRef]:
        # An entry is there before its file, and goes after it: without a file there is no capture.
        return [ref for ref in super()._listed(nbytes) if ref.file_name in nbytes]

    def _newest(self, refs: list[CaptureRef]) -> CaptureRef:
        path = self.capture_path(refs[0])
        try:
            if (actual := file_ref(path, refs[0].step)) in refs:
                return actual
            return max(refs, key=lambda ref: self.entry_path(ref).stat().st_mtime)
        except OSError:
            return refs[-1]  # it was delivered at this moment, whichever it was


def _runs_in(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield directory and ``run.json`` of each run directly in ``directory``. Other programs have
    files of that name, too, and may have damaged one of ours: no such file keeps the others from
    being found.

    Raises:
        TransientTrackerError: the disk is away.
    """
    for path in directory.glob("*/run.json"):
        try:
            stored = read_json(path)
            RunFile.of(stored, path)
        except TransientTrackerError:
            raise
        except TrackerError as error:
            log.warning("%s is not taken for a run: %s", path.parent, error)
        else:
            yield path.parent, stored


def directory_name(name: str) -> str:
    """Return a run's name as a directory may be called on any disk, with room for a number or a
    time at its end."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:MAX_NAME_CHARACTERS] or "run"
