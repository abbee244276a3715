"""Bring a run's new captures here, and keep the files of a bounded number of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from tracker_viz.capture_file import check_file
from tracker_viz.errors import CaptureFileError
from tracker_viz.trackers import Pulled, Run, pull
from tracker_viz.types import CapturePath, CaptureRef


class NearCaptures:
    """Captures of one run in a directory of their own.

    Where the run's store is on this machine they are links to its files: a spool deletes what its
    trackers have, and a picture that is being drawn must not lose its file then.
    """

    def __init__(self, run: Run, directory: Path) -> None:
        self._run = run
        self._directory = directory / "captures"
        self._downloads = directory / "downloads"

    def bring(self, refs: Sequence[CaptureRef]) -> Pulled:
        """Bring captures here.

        Raises:
            TrackerError: the run cannot be read.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        there = [ref for ref in refs if not self._is_here(ref)]
        pulled = pull(self._run, self._downloads, refs=there)
        damaged = dict(pulled.damaged)
        for capture in pulled.captures:
            try:
                _link(capture.path, self._path(capture.ref))
            except FileNotFoundError as error:
                # Delivered and deleted at this moment.
                damaged[capture.ref] = CaptureFileError(f"{capture.path} is gone: {error}")
        shutil.rmtree(self._downloads, ignore_errors=True)
        here = [ref for ref in refs if ref not in damaged]
        return Pulled(tuple(map(self.found, here)), damaged)

    def found(self, ref: CaptureRef) -> CapturePath:
        return CapturePath(ref, self._path(ref))

    def whole(self, refs: Iterable[CaptureRef]) -> list[CaptureRef]:
        """Return those of ``refs`` that are here, checked."""
        return [ref for ref in refs if self._is_here(ref)]

    def keep_only(self, refs: Collection[CaptureRef]) -> None:
        """Delete the files of all others."""
        names = {ref.file_name for ref in refs}
        with suppress(FileNotFoundError):
            for path in self._directory.iterdir():
                if path.name not in names:
                    path.unlink(missing_ok=True)

    def _path(self, ref: CaptureRef) -> Path:
        return self._directory / ref.file_name

    def _is_here(self, ref: CaptureRef) -> bool:
        try:
            check_file(self._path(ref), ref)
        except CaptureFileError:
            return False
        return True


def _link(file: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has one name only."""
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(file, target)
