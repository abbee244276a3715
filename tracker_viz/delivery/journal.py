"""Note in the spool what one destination has confirmed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tracker_viz.errors import TrackerError
from tracker_viz.files import append_lines, read_lines
from tracker_viz.stored import JournalLine
from tracker_viz.types import CaptureRef

log = logging.getLogger(__name__)


class Journal:
    """Lines appended and synced, so that a kill loses at most the line being written.

    Attributes:
        captures: file name -> the capture that the destination has.
        metrics: file names of the captures whose metrics it has.
        enqueued: those whose metrics the tracker's client took, and the service may lack.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.captures: dict[str, CaptureRef] = {}
        self.metrics: set[str] = set()
        self.enqueued: set[str] = set()
        for found in read_lines(path):
            try:
                line = JournalLine.of(found, path)
            except TrackerError as error:
                # The destination is asked about those captures again.
                log.warning("a line is left out: %s", error)
                continue
            self.captures |= {ref.file_name: ref for ref in line.refs}
            self.metrics.update(line.metrics)
            self.enqueued.update(line.enqueued)
        self.enqueued -= self.metrics

    def note_captures(self, refs: Sequence[CaptureRef]) -> None:
        if refs:
            self._append({"captures": [asdict(ref) for ref in refs]})
            self.captures |= {ref.file_name: ref for ref in refs}

    def note_metrics(self, file_names: Sequence[str]) -> None:
        if file_names:
            self._append({"metrics": list(file_names)})
            self.metrics |= set(file_names)
            self.enqueued -= self.metrics

    def note_enqueued(self, file_names: Sequence[str]) -> None:
        if file_names:
            self._append({"enqueued": list(file_names)})
            self.enqueued |= set(file_names)

    def forget(self, refs: Sequence[CaptureRef]) -> None:
        """Take captures off that the destination turned out to lack: they are sent again."""
        for ref in refs:
            self.captures.pop(ref.file_name, None)

    def rewrite(self) -> None:
        """Write all that is known again, where the file was deleted."""
        lines = {
            "captures": [asdict(ref) for ref in self.captures.values()],
            "metrics": sorted(self.metrics),
            "enqueued": sorted(self.enqueued),
        }
        self._append(lines)

    def has(self, ref: CaptureRef) -> bool:
        return self.captures.get(ref.file_name) == ref

    def has_all_of(self, ref: CaptureRef) -> bool:
        """Return whether the destination has the capture, and was given its metrics: those that are
        only enqueued can be sent again without the file."""
        return self.has(ref) and self.has_metrics_of(ref)

    def has_metrics_of(self, ref: CaptureRef) -> bool:
        return ref.file_name in self.metrics or ref.file_name in self.enqueued

    def _append(self, line: Mapping[str, Any]) -> None:
        append_lines([json.dumps(line)], self._path)
