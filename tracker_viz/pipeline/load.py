"""``tv.load_captures``, and pulling a run's captures to this machine: the first step of ``render``
and of everything else that reads a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tracker_viz import capture_file, notebook, trackers
from tracker_viz.errors import ConfigError, RenderError, unknown_name
from tracker_viz.progress import progress_bar
from tracker_viz.trackers import Pulled, Run, pull
from tracker_viz.types import Capture, CapturePath, CaptureRef, RunRef

TrackerOptions = Mapping[str, Mapping[str, Any]]


@runtime_checkable
class Recorded(Protocol):
    """The part of a ``Watcher`` that reading its run needs."""

    tracker_options: TrackerOptions

    def runs_to_draw(self) -> list[RunRef]:
        """Close, and return the runs that hold every capture."""


class Captures(Iterator[Capture]):
    """The captures of a run, ordered by step. It is read once, from the beginning to the end, and
    one capture at a time is in memory. Nothing is pulled before the first one is asked for.

    Args:
        read: opens the run and yields its captures.
    """

    def __init__(self, run: RunRef | str | Recorded, read: Callable[[], Iterator[Capture]]) -> None:
        self._run = run
        self._read = read
        self._left: Iterator[Capture] | None = None
        self._latest: int | None = None

    def __next__(self) -> Capture:
        if self._left is None:
            self._left = self._read()
        capture = next(self._left)
        self._latest = capture.step
        return capture

    def __repr__(self) -> str:
        if self._latest is None:
            return f"captures of {self._run}, none read yet"
        return f"captures of {self._run}, read up to step {self._latest}"

    def _repr_html_(self) -> str:
        """Say in a notebook how to read them; showing reads nothing."""
        how = "for capture in tv.load_captures(...): capture.step, capture.arrays"
        return notebook.box([notebook.text(repr(self)), f"<code>{notebook.text(how)}</code>"])


def load_captures(
    run: RunRef | str | Recorded,
    *,
    names: Sequence[str] | None = None,
    tracker_options: TrackerOptions | None = None,
    cache: Path | None = None,
) -> Captures:
    """Yield the captures of a run, ordered by step, one at a time in memory.

    Args:
        run: its reference, or the result of ``watch``, which is closed.
        names: load only these arrays; None: all.
        tracker_options: tracker -> options of its adapter.
        cache: directory for downloads; None: the default one.

    Raises:
        RunNotFoundError: there is no such run; raised when the first capture is requested.
        ConfigError: no array has one of the ``names``; raised then, too.
    """

    def read() -> Iterator[Capture]:
        opened = open_run(run, tracker_options)
        captures = pulled_captures(opened, cache, progress=False).captures
        _check_names(names or (), captures)
        for capture in captures:
            yield capture_file.read(capture.path, names)

    return Captures(run, read)


def _check_names(names: Sequence[str], captures: Sequence[CapturePath]) -> None:
    """Check that the first capture or the last has arrays of these names: some begin later."""
    if not names or not captures:
        return
    known: set[str] = set()
    for capture in (captures[0], captures[-1]):
        known |= capture_file.read_header(capture.path).arrays.keys()
    for name in names:
        if name not in known:
            raise ConfigError(unknown_name("array", name, known))


def open_run(run: RunRef | str | Recorded, tracker_options: TrackerOptions | None) -> Run:
    if isinstance(run, Recorded):
        holders = run.runs_to_draw()
        if not holders:
            raise RenderError("nothing was recorded in this process; rank 0 has the captures")
        tracker_options = tracker_options or run.tracker_options
        run = holders[0]
    ref = RunRef.parse(run) if isinstance(run, str) else run
    return trackers.open_run(ref, **(tracker_options or {}).get(ref.scheme, {}))


def pulled_captures(
    run: Run,
    cache: Path | None,
    *,
    progress: bool,
    steps: tuple[int | None, int | None] | None = None,
) -> Pulled:
    """Bring the captures of a run to this machine.

    Args:
        steps: (first, last): only the captures between these steps; None at an end leaves it open.

    Raises:
        RenderError: the run has captures, but none between ``steps``.
    """
    refs = None if steps is None else _between(run, *steps)
    with progress_bar("pulling", "captures", shown=progress, delay_s=0.5) as advance:
        return pull(run, cache, refs=refs, progress=advance)


def _between(run: Run, first: int | None, last: int | None) -> list[CaptureRef]:
    listed = run.list_captures()
    chosen = []
    for ref in listed:
        is_after_start = first is None or ref.step >= first
        is_before_end = last is None or ref.step <= last
        if is_after_start and is_before_end:
            chosen.append(ref)
    if listed and not chosen:
        raise RenderError(
            f"{run.ref} has no capture in steps {[first, last]}; its captures go from step "
            f"{listed[0].step} to {listed[-1].step}"
        )
    return chosen
