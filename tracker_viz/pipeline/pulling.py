"""A run -> its captures, here. What ``render`` and everything else that looks back at a run begins with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracker_viz import capture_file, trackers
from tracker_viz.pipeline.progress import progress_bar
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.pull import Pulled, pull
from tracker_viz.types import Capture, RunRef

TrackerOptions = Mapping[str, Mapping[str, Any]]


def load_captures(
    run: RunRef | str, *, names: Sequence[str] | None = None, tracker_options: TrackerOptions | None = None, cache: Path | None = None
) -> Iterator[Capture]:
    """The captures of a run, ordered by step; one at a time is in memory.

    Args:
        names: only these arrays; all of them when None.

    Raises:
        RunNotFoundError: there is no such run.
    """
    opened = open_run(run, tracker_options)
    for capture in pulled_captures(opened, cache, progress=False).captures:
        yield capture_file.read(capture.path, names)


def open_run(run: RunRef | str, tracker_options: TrackerOptions | None) -> Run:
    ref = RunRef.parse(run) if isinstance(run, str) else run
    return trackers.open_run(ref, **(tracker_options or {}).get(ref.scheme, {}))


def pulled_captures(run: Run, cache: Path | None, *, progress: bool) -> Pulled:
    with progress_bar("pulling", "captures", shown=progress, delay_s=0.5) as advance:
        return pull(run, cache, progress=advance)
