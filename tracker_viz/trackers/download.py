"""Download a run's captures as checked files, several at once. Called by the pipeline before
anything is drawn.

Files that are here already are not fetched again, so an interrupted pull continues where it
stopped. A capture that is damaged on the service is named and left out: the rest can still be
drawn, with a visible gap.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from tracker_viz.errors import CaptureFileError, TrackerError, TransientTrackerError
from tracker_viz.files import default_cache, remove_torn
from tracker_viz.trackers.base import Run
from tracker_viz.types import CapturePath, CaptureRef, RunRef

Result = TypeVar("Result")
log = logging.getLogger(__name__)

DOWNLOADS_IN_FLIGHT = 8
RETRIES_S = (0.5, 2.0)
MAX_FOLDER_CHARACTERS = 200  # disks take 255 bytes


@dataclass(frozen=True, slots=True)
class Pulled:
    """Captures that are here now, ordered by step, and damaged ones with their errors."""

    captures: tuple[CapturePath, ...]
    damaged: Mapping[CaptureRef, CaptureFileError]


def pull(
    run: Run,
    cache: Path | None = None,
    *,
    refs: Sequence[CaptureRef] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pulled:
    """Bring captures of ``run`` here.

    Args:
        refs: which of those that it lists, ordered by step; all of them when None.
        cache: where downloads are kept; ``default_cache()`` when None. A store on this machine is
            read in place.
        progress: called with (captures done, captures in all).

    Raises:
        TrackerError: the run cannot be read, also when asked a few times, or the cache cannot be
            written. What was fetched until then stays for the next try.
    """
    directory = cache_directory(run.ref, cache)
    refs = run.list_captures() if refs is None else refs
    captures: list[CapturePath] = []
    damaged: dict[CaptureRef, CaptureFileError] = {}
    remove_torn(directory)
    with at_once(
        [partial(_fetch, run, ref, directory) for ref in refs], DOWNLOADS_IN_FLIGHT
    ) as fetched:
        for done, (ref, future) in enumerate(zip(refs, fetched, strict=True), start=1):
            try:
                captures.append(CapturePath(ref, future.result()))
            except CaptureFileError as error:
                log.warning("capture of step %d is left out: %s", ref.step, error)
                damaged[ref] = error
            if progress:
                progress(done, len(refs))
    return Pulled(tuple(captures), damaged)


def _fetch(run: Run, ref: CaptureRef, directory: Path) -> Path:
    try:
        return _fetch_patiently(run, ref, directory)
    except OSError as error:
        raise TrackerError(
            f"downloads of {run.ref} cannot be kept in {directory} ({error}); is the disk full, "
            "read-only or away? Another directory: cache=... or TRACKER_VIZ_CACHE=..."
        ) from error


def _fetch_patiently(run: Run, ref: CaptureRef, directory: Path) -> Path:
    for pause_s in RETRIES_S:
        try:
            return run.fetch(ref, directory)
        except TransientTrackerError as error:
            log.info(
                "could not download the capture of step %d (%s); retrying in %g s",
                ref.step,
                error,
                pause_s,
            )
            time.sleep(pause_s)
    return run.fetch(ref, directory)


def cache_directory(ref: RunRef, cache: Path | None = None) -> Path:
    """Return where downloads of one run are kept; different runs never share a directory."""
    folders = map(folder_name, ref.path.split("/"))
    return (cache or default_cache()).joinpath(ref.scheme, *folders)


def folder_name(part: str) -> str:
    """Return one part of a reference as a folder name that any disk takes; different parts have
    different names."""
    name = re.sub(r"[^A-Za-z0-9_-]", lambda match: f"%{ord(match[0]):02x}", part) or "%"
    if len(name) <= MAX_FOLDER_CHARACTERS:
        return name
    digest = hashlib.sha256(part.encode()).hexdigest()[:16]
    return f"{name[: MAX_FOLDER_CHARACTERS - 17]}%{digest}"


@contextmanager
def at_once(
    calls: Sequence[Callable[[], Result]], n_threads: int
) -> Iterator[list[Future[Result]]]:
    """Yield the calls' futures, in their order; calls that have not begun when the block ends never
    do.

    Unlike those of a ``ThreadPoolExecutor``, the threads are waited for neither then nor when the
    program ends: a server that hangs would hold up Ctrl-C for minutes.
    """
    futures: list[Future[Result]] = [Future() for _ in calls]
    waiting = deque(zip(calls, futures, strict=True))
    for _ in range(min(n_threads, len(calls))):
        threading.Thread(target=_work, args=(waiting,), name="tracker_viz-ask", daemon=True).start()
    try:
        yield futures
    finally:
        for future in futures:
            future.cancel()


def _work(waiting: deque[tuple[Callable[[], Result], Future[Result]]]) -> None:
    while waiting:
        try:
            call, future = waiting.popleft()
        except IndexError:
            return  # another thread was faster
        if future.set_running_or_notify_cancel():
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001  the caller gets it
                future.set_exception(error)
            else:
                future.set_result(result)
