"""Open and close the outbox of a training: captures are scored, cut, spooled and uploaded."""

from __future__ import annotations

import itertools
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tracker_viz import trackers
from tracker_viz.delivery import Destination, Outbox, Report
from tracker_viz.errors import ConfigError, RunTakenError
from tracker_viz.files import user_path, working_directory
from tracker_viz.pipeline.recording.continuation import continue_run
from tracker_viz.pipeline.scoring import Scores
from tracker_viz.progress import progress_bar
from tracker_viz.trackers import Run, RunState, as_config, as_name, as_tags, directory_name
from tracker_viz.types import Capture

log = logging.getLogger(__name__)

Destinations = Sequence[Destination | Run]


def open_outbox(
    destinations: Destinations,
    scores: Scores,
    *,
    first: Capture,
    spool: str | Path | None,
    name: str,
    config: Any = None,
    tags: Any = None,
    **outbox_options: Any,
) -> Outbox:
    """Open an outbox whose captures are scored and cut by ``scores``, then spooled and uploaded.
    Runs that hold captures are continued.

    Args:
        first: the model's first capture, as the camera took it. It is not put into the outbox here.

    Raises:
        RunTakenError: a run that was named, or the spool, belongs to another training. Where the
            active run of a tracker does, a new one is created.
    """
    name = as_name(name, max_characters=1000)
    directory = user_path(spool or new_directory(_default_spool(name)))

    def opened(destinations: Destinations) -> Outbox:
        outbox = Outbox(
            directory,
            destinations,
            name=name,
            config=as_config(config),
            tags=as_tags(tags),
            prepare=scores.score_and_cut,
            **outbox_options,
        )
        try:
            continue_run(outbox, scores, first)
        except BaseException:
            outbox.close("failed")
            raise
        return outbox

    try:
        return _opened_where_free(opened, destinations, directory)
    except BaseException:
        if spool is None:
            # Created a moment ago, for captures that never came.
            shutil.rmtree(directory, ignore_errors=True)
        raise


def _opened_where_free(
    opened: Callable[[Destinations], Outbox], destinations: Destinations, directory: Path
) -> Outbox:
    """Open the outbox, with runs of its own in place of active ones that another training has."""
    is_new = not (directory / "run.json").exists()
    while True:
        try:
            return opened(destinations)
        except RunTakenError as taken:
            others = [_not_joining(each, taken.ref) for each in destinations]
            if others == destinations or not is_new:
                raise
            log.warning("%s belongs to another training run: creating a new run", taken.ref)
            destinations = others
            # The file names the run that is taken.
            (directory / "run.json").unlink()


def _not_joining(destination: Destination | Run, taken: object) -> Destination | Run:
    """Return a destination that creates its own run where it would join ``taken``, the run that is
    active in this process."""
    if not isinstance(destination, Destination) or destination.ref or not destination.join_active:
        return destination
    active = trackers.connect(destination.scheme, **destination.options).active_run()
    if active is None or active.ref != taken:
        return destination
    return replace(destination, join_active=False)


def close_outbox(
    outbox: Outbox, state: RunState, scores: Scores, timeout_s: float, progress: bool
) -> Report:
    if outbox.closed:
        return outbox.close()
    outbox.flush(timeout_s)
    try:
        scores.deliver(outbox)
    except Exception:
        log.exception(
            "the summary and the tables of the run could not be written to %s; its captures were",
            outbox.directory,
        )
    with progress_bar("uploading", "captures", shown=progress, delay_s=1.0) as advance:
        return outbox.close(state, timeout_s=timeout_s, progress=advance)


def new_directory(path: Path) -> Path:
    """Make ``path``, or ``path-2``, ... where it is taken: several trainings may start in one
    second, and each needs a spool of its own."""
    for number in itertools.count(1):
        directory = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"no spool can be made here: {error}; choose where with spool="
            ) from error
        return directory
    raise AssertionError("the loop returns")


def _default_spool(name: str) -> Path:
    now = time.strftime("%Y%m%d-%H%M%S")
    return working_directory() / "spool" / f"{directory_name(name)}-{now}"
