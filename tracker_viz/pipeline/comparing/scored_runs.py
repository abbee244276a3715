"""Read the scores of runs into memory: a comparison computes with nothing else, so little is
downloaded.

Scores come from the run's score file (``metrics.score_file``); those that are missing there come
from the captures.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tracker_viz import capture_file
from tracker_viz.comparison import ComparedRun, first_few
from tracker_viz.errors import CaptureFileError, ConfigError, TrackerError, TransientTrackerError
from tracker_viz.metrics import SCORE_FILE, ScoreFile, read_score_file, score_series
from tracker_viz.pipeline.load import TrackerOptions, open_run
from tracker_viz.progress import progress_bar
from tracker_viz.trackers import Run, RunInfo, at_once, cache_directory, pull
from tracker_viz.types import Capture, CaptureRef, RunRef

log = logging.getLogger(__name__)

# Most of the work is waiting for a service's answers, not computing.
RUNS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """One run with its scores.

    Attributes:
        captures: the capture of each row of ``compared.series``, in its order.
        damaged: steps whose captures came damaged while their scores were read.
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
    """Return runs with their scores, in the order of ``refs``, and a note on those left out.

    Args:
        may_lack: leave out runs without captures, such as jobs of a sweep that failed early; else
            they are an error.

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
                case RunInfo() as info if may_lack:
                    left_out.append(f"{info.name} ({info.state})")
                case RunInfo() as info:
                    raise ConfigError(
                        f"{info.ref} ({info.name}, {info.state}) has no captures, so there is "
                        "nothing to compare: leave it out, or upload what waits in its spool "
                        "(tracker-viz push)"
                    )
            advance(done, len(refs))
    if not left_out:
        return found, []
    return found, [f"Left out, without captures: {first_few(left_out)}."]


def _scored(
    ref: RunRef, cache: Path | None, tracker_options: TrackerOptions | None
) -> ScoredRun | RunInfo:
    """Return the run with its scores, or its info where it has no captures."""
    run = open_run(ref, tracker_options)
    info, listed = run.info(), run.list_captures()
    if not listed:
        return info
    captures: list[Capture] = []
    probe: Mapping[str, Any] = {}
    rows: tuple[str, ...] = ()
    known = _score_file(run, cache)
    if known is not None:
        captures += known.scored(set(listed))
        probe, rows = known.probe, known.rows

    there = {capture.step for capture in captures}
    pulled = pull(run, cache, refs=[each for each in listed if each.step not in there])
    for each in pulled.captures:
        header = capture_file.read_header(each.path)
        captures.append(_scores_of(each.path, header.arrays))
        probe, rows = header.probe, header.labels.get("probe", ())
    if not captures:
        raise TrackerError(
            f"none of the captures of {run.ref} could be pulled: "
            f"{next(iter(pulled.damaged.values()))}"
        )
    series = score_series(captures)
    steps = set(series.steps.tolist())
    return ScoredRun(
        run=run,
        compared=ComparedRun(str(run.ref), series, info.config, info.state, info.name),
        captures=tuple(each for each in listed if each.step in steps),
        damaged=tuple(sorted(each.step for each in pulled.damaged)),
        probe=probe,
        rows=rows,
    )


def _scores_of(path: Path, arrays: Mapping[str, Any]) -> Capture:
    """Read a capture without its maps and weights."""
    kept = ("scores.head", "scores.mixing")
    return capture_file.read(path, [name for name in arrays if name.startswith(kept)])


def _score_file(run: Run, cache: Path | None) -> ScoreFile | None:
    """Return the run's score file, or None: a run that was killed, is still going on or comes from
    an earlier version has none."""
    try:
        return read_score_file(run.get_file(SCORE_FILE, cache_directory(run.ref, cache)))
    except TransientTrackerError:
        raise
    except TrackerError:
        return None
    except CaptureFileError as error:
        log.warning(
            "%s: the score file cannot be read, so the captures are read instead: %s",
            run.ref,
            error,
        )
        return None
