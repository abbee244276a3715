"""Runs of any trackers -> their scores in memory, which is all that a comparison computes with.
Hardly anything is pulled for that.

Scores come from the run's file of them (``score_file``), and from the captures themselves where
they are not in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tracker_viz import capture_file
from tracker_viz.comparison import ComparedRun
from tracker_viz.errors import CaptureFileError, ConfigError, TrackerError, TransientTrackerError
from tracker_viz.metrics import SCORE_FILE, ScoreFile, read_score_file, score_series
from tracker_viz.pipeline.load import TrackerOptions, open_run
from tracker_viz.progress import progress_bar
from tracker_viz.trackers.base import Run, RunInfo
from tracker_viz.trackers.download import at_once, cache_directory, pull
from tracker_viz.types import CaptureRef, RunRef

log = logging.getLogger(__name__)

# what is asked of a service is little each time, and waiting for its answers is most of the work
RUNS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """One run with its scores.

    Attributes:
        captures: of which each row of ``compared.series`` is, in its order.
        damaged: steps whose captures came damaged while their scores were looked for.
        probe, rows: the probe batch as the last capture describes it, and the labels of its rows.
    """

    run: Run
    compared: ComparedRun
    captures: tuple[CaptureRef, ...]
    damaged: tuple[int, ...]
    probe: Mapping[str, Any]
    rows: tuple[str, ...]


def score_runs(
    refs: Sequence[RunRef],
    *,
    cache: Path | None,
    may_lack: bool,
    tracker_options: TrackerOptions | None,
    progress: bool,
) -> tuple[list[ScoredRun], list[str]]:
    """The scores of runs, in their order.

    Args:
        may_lack: leave runs without captures out, as jobs of a sweep that failed early are; else
            they are an error.

    Returns:
        The runs, and what is to be said of those left out.

    Raises:
        ConfigError: a run has no captures.
        RunNotFoundError, TrackerError: a run cannot be read.
    """
    found: list[ScoredRun] = []
    left_out: list[str] = []
    asked = at_once([partial(_scored, ref, cache, tracker_options) for ref in refs], RUNS_AT_ONCE)
    with progress_bar("reading", "runs", shown=progress, delay_s=0.5) as advance, asked as scored:
        for done, future in enumerate(scored, start=1):
            match future.result():
                case ScoredRun() as run:
                    found.append(run)
                case info:
                    if not may_lack:
                        raise ConfigError(
                            f"{info.ref} ({info.name}, {info.state}) has no captures, so there is "
                            "nothing to compare: leave it out, "
                            "or upload what waits in its spool (tracker-viz push)"
                        )
                    left_out.append(f"{info.name} ({info.state})")
            advance(done, len(refs))
    return found, [f"Left out, without captures: {some(left_out)}."] if left_out else []


def some(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c and 4 more``"""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _scored(
    ref: RunRef, cache: Path | None, tracker_options: TrackerOptions | None
) -> ScoredRun | RunInfo:
    run = open_run(ref, tracker_options)
    info, listed = run.info(), run.list_captures()
    if not listed:
        return info
    known = _score_file(run, cache)
    captures = list(known.scored(set(listed))) if known else []
    there = {capture.step for capture in captures}
    pulled = pull(run, cache, refs=[each for each in listed if each.step not in there])
    probe: Mapping[str, Any] = known.probe if known else {}
    rows = known.rows if known else ()
    for each in pulled.captures:
        header = capture_file.read_header(each.path)
        captures.append(
            capture_file.read(
                each.path, [name for name in header.arrays if name.startswith("scores.head.")]
            )
        )
        probe, rows = header.probe, header.labels.get("probe", ())
    if not captures:
        raise TrackerError(
            f"none of the {len(listed)} captures of {run.ref} could be had: "
            f"{next(iter(pulled.damaged.values()))}"
        )
    series = score_series(captures)
    steps = set(series.steps.tolist())
    return ScoredRun(
        run=run,
        compared=ComparedRun(str(run.ref), series, info.config, info.state),
        captures=tuple(each for each in listed if each.step in steps),
        damaged=tuple(sorted(each.step for each in pulled.damaged)),
        probe=probe,
        rows=rows,
    )


def _score_file(run: Run, cache: Path | None) -> ScoreFile | None:
    """None where the run has none: it was killed, is still going on, or is of an earlier
    version."""
    try:
        return read_score_file(run.get_file(SCORE_FILE, cache_directory(run.ref, cache)))
    except TransientTrackerError:
        raise
    except TrackerError:
        return None
    except CaptureFileError as error:
        log.warning(
            "the file of scores of %s is left aside, and its captures are read: %s", run.ref, error
        )
        return None
