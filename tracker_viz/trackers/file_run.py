"""A run of a tracker that stores plain files: captures and their index (``capture_index.py``) on
top of three operations that the adapter supplies. Base class of small adapters."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from tracker_viz.capture_file import REPAIR, check_file
from tracker_viz.errors import CaptureFileError, NoSuchFileError, TrackerError
from tracker_viz.files import read_json, temporary_directory, torn_directory
from tracker_viz.stored import IndexEntry
from tracker_viz.trackers import capture_index
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.values import checked_artifact
from tracker_viz.types import CapturePath, CaptureRef


class FileRun(Run):
    """An adapter implements ``store``, ``load`` and ``sizes``, and of ``Run`` the members ``ref``,
    ``info``, ``url``, ``log_metrics`` and ``finish``."""

    @abstractmethod
    def store(self, file: Path, artifact: str) -> None:
        """Store a copy of ``file`` under the run-relative path ``artifact``, whole or not at all.
        Overwrites."""

    @abstractmethod
    def load(self, artifact: str, target: Path) -> None:
        """Write the stored file ``artifact`` to ``target``, whose directory exists.

        Raises:
            NoSuchFileError: the run has none.
        """

    @abstractmethod
    def sizes(self, folder: str) -> Mapping[str, int | None]:
        """Return the name and the size in bytes of every file directly in ``folder`` (``""`` is the
        root of the run); None for a size that the store does not know."""

    def put_captures(self, captures: Sequence[CapturePath]) -> None:
        for capture in captures:
            self.store(capture.path, f"{capture_index.CAPTURES}/{capture.ref.file_name}")
            # The entry comes last: what is listed was stored whole.
            with temporary_directory() as directory:
                entry = directory / capture_index.entry_name(capture.ref)
                entry.write_text(capture_index.entry_text(capture.ref, time.time()))
                self.store(entry, f"{capture_index.INDEX}/{entry.name}")

    def list_captures(self) -> list[CaptureRef]:
        return self._listed(self.sizes(capture_index.CAPTURES))

    def why_no_captures(self) -> str:
        files = [name for name in self.sizes(capture_index.CAPTURES) if name.startswith("step-")]
        if not files or self.sizes(capture_index.INDEX):
            return super().why_no_captures()
        return (
            f"its {capture_index.CAPTURES}/ has {len(files)} files and no index of them; "
            f"{capture_index.INDEX}/ belongs to them, copy it too from where they were written"
        )

    def missing(self, refs: Sequence[CaptureRef]) -> list[CaptureRef]:
        nbytes = self.sizes(capture_index.CAPTURES)
        return capture_index.missing_refs(refs, self._listed(nbytes), nbytes)

    def fetch(self, ref: CaptureRef, directory: Path) -> Path:
        target = directory / ref.file_name
        try:
            check_file(target, ref)
        except CaptureFileError:
            self._download(ref, target)
        return target

    def put_file(self, file: Path, artifact: str) -> str:
        self.store(file, checked_artifact(artifact))
        return self.url(artifact)

    def get_file(self, artifact: str, directory: Path) -> Path:
        target = directory / checked_artifact(artifact)
        with torn_directory(target) as folder:
            part = folder / target.name
            self.load(artifact, part)
            part.replace(target)
        return target

    def list_files(self) -> list[str]:
        return sorted(self.sizes(""))

    def _download(self, ref: CaptureRef, target: Path) -> None:
        # A directory of its own: several threads may fetch the same capture.
        with torn_directory(target) as folder:
            part = folder / ref.file_name
            try:
                self.load(f"{capture_index.CAPTURES}/{ref.file_name}", part)
            except NoSuchFileError as error:
                raise CaptureFileError(
                    f"capture {ref.file_name} is listed, but its file is gone ({error}); {REPAIR}"
                ) from error
            check_file(part, ref, where=self.ref)
            part.replace(target)

    def _listed(self, nbytes: Mapping[str, int | None]) -> list[CaptureRef]:
        return capture_index.refs_by_step(self.sizes(capture_index.INDEX), nbytes, self._newest)

    def _newest(self, refs: list[CaptureRef]) -> CaptureRef:
        return max(refs, key=self._stored_at)

    def _stored_at(self, ref: CaptureRef) -> float:
        """Return the time at which a capture's entry was written, in seconds since 1970; 0 where it
        cannot be read."""
        name = capture_index.entry_name(ref)
        with temporary_directory() as directory:
            entry = directory / name
            self.load(f"{capture_index.INDEX}/{name}", entry)
            try:
                return IndexEntry.of(read_json(entry), name).time
            except TrackerError:
                return 0.0
