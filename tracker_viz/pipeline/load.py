"""A run -> its captures, here. What ``render`` and everything else that looks back at a run begins
with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracker_viz import capture_file, trackers
from tracker_viz.errors import ConfigError, RenderError
from tracker_viz.progress import progress_bar
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.download import Pulled, pull
from tracker_viz.types import Capture, CaptureRef, RunRef

TrackerOptions = Mapping[str, Mapping[str, Any]]


def load_captures(
    run: RunRef | str,
    *,
    names: Sequence[str] | None = None,
    tracker_options: TrackerOptions | None = None,
    cache: Path | None = None,
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


def pulled_captures(
    run: Run, cache: Path | None, *, progress: bool, steps: Sequence[int | None] | None = None
) -> Pulled:
    """``steps``: (first, last), only the captures from the one step to the other; None at an end
    leaves it open.

    Raises:
        ConfigError: steps are no such pair.
        RenderError: the run has captures, but none of these.
    """
    refs = None if steps is None else _between(run, steps)
    with progress_bar("pulling", "captures", shown=progress, delay_s=0.5) as advance:
        return pull(run, cache, refs=refs, progress=advance)


def _between(run: Run, steps: Sequence[int | None]) -> list[CaptureRef]:
    if (
        not isinstance(steps, Sequence)
        or len(steps) != 2
        or not all(step is None or isinstance(step, int) for step in steps)
    ):
        raise ConfigError(
            f"steps is [first, last], each a step or null for an open end; got {steps}"
        )
    first, last = steps
    there = run.list_captures()
    chosen = [
        ref
        for ref in there
        if (first is None or ref.step >= first) and (last is None or ref.step <= last)
    ]
    if there and not chosen:
        raise RenderError(
            f"{run.ref} has no capture in steps {list(steps)}; its captures go from step "
            f"{there[0].step} to {there[-1].step}"
        )
    return chosen
