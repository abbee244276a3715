"""The captures that one destination still lacks. Pure bookkeeping: its uploader guards it with a
lock, and waits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from tracker_viz.trackers import ChunkPolicy
from tracker_viz.types import CaptureRef


class Backlog:
    """Captures in the order in which they came.

    Attributes:
        deferred: captures that this process cannot deliver, because the tracker works offline.
        damaged: steps of which neither the destination nor the spool has a whole capture.
    """

    def __init__(self) -> None:
        self.deferred: set[CaptureRef] = set()
        self.damaged: set[int] = set()
        self._waiting_since: dict[CaptureRef, float] = {}

    @property
    def n_left(self) -> int:
        return len(self._waiting_since) + len(self.deferred)

    def add(self, ref: CaptureRef) -> None:
        self._waiting_since.setdefault(ref, time.monotonic())

    def remove(self, refs: Iterable[CaptureRef]) -> None:
        for ref in refs:
            self._waiting_since.pop(ref, None)

    def next_chunk(self, policy: ChunkPolicy) -> list[CaptureRef]:
        """Return the oldest captures, as many as one call should carry."""
        chunk: list[CaptureRef] = []
        nbytes = 0
        for ref in self._waiting_since:
            too_big = nbytes + ref.nbytes > policy.nbytes
            if len(chunk) == policy.captures or (chunk and too_big):
                break
            chunk.append(ref)
            nbytes += ref.nbytes
        return chunk

    def due_in_s(self, chunk: Sequence[CaptureRef], policy: ChunkPolicy) -> float | None:
        """Return in how many seconds ``chunk`` goes up if nothing comes after it: 0 if it is full
        or has waited long enough, None if it is empty."""
        if not chunk:
            return None
        more_than_fits = len(chunk) < len(self._waiting_since)
        nbytes = sum(ref.nbytes for ref in chunk)
        if more_than_fits or len(chunk) >= policy.captures or nbytes >= policy.nbytes:
            return 0.0
        waited_s = time.monotonic() - self._waiting_since[chunk[0]]
        return max(0.0, policy.seconds - waited_s)
