"""Make a page that plays the videos of several runs in step, and put it into the run above them.
Nothing is drawn: the videos stay in their runs."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracker_viz.comparison import ComparedRun, in_order_of_settings, run_labels
from tracker_viz.errors import TrackerError
from tracker_viz.files import read_json, temporary_directory
from tracker_viz.metrics import score_series
from tracker_viz.pipeline.load import TrackerOptions, open_run
from tracker_viz.pipeline.options import DEFAULT_THEME
from tracker_viz.stored import TimelineFile
from tracker_viz.trackers import Run
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    from tracker_viz.rendering import Player

log = logging.getLogger(__name__)

PAGE = "in_step.html"
MAX_PAGE_BYTES = 48 << 20  # MLflow shows no larger ones
VIDEO_SUFFIXES = (".webm", ".mp4")


def put_sweep_page(
    sweep: RunRef | str,
    *,
    theme: str = DEFAULT_THEME,
    tracker_options: TrackerOptions | None = None,
) -> str | None:
    """Put the page into the run above a sweep, once its runs have their videos.

    Returns:
        Its link; None where no two runs have a video of one layout, or the tracker's pages cannot
        play other runs' files.
    """
    parent = open_run(sweep, tracker_options)
    opened = {str(ref): open_run(ref, tracker_options) for ref in parent.children()}
    if len(opened) < 2:
        return None
    described = in_order_of_settings([_described(run) for run in opened.values()])
    runs = [opened[run.name] for run in described]
    return put_in_step_page(
        parent, runs, run_labels(described), title=parent.info().name, theme=theme
    )


def put_in_step_page(
    target: Run,
    runs: Sequence[Run],
    labels: Mapping[str, str],
    *,
    title: str,
    theme: str = DEFAULT_THEME,
    findings: Sequence[str] = (),
) -> str | None:
    """Put the page into ``target``; see ``put_sweep_page``.

    Args:
        runs: in the order of the page.
        labels: run reference as text -> its label there.
        findings: sentences above the videos.
    """
    from tracker_viz.rendering import in_step_page

    players: dict[str, list[Player]] = {}
    with temporary_directory() as directory:
        for number, run in enumerate(runs):
            own = directory / str(number)
            for layout, player in _players(target, run, labels[str(run.ref)], own).items():
                players.setdefault(layout, []).append(player)
        several = [layout for layout in sorted(players) if len(players[layout]) > 1]
        shared = _that_fit({layout: players[layout] for layout in several})
        if not shared:
            return None
        page = directory / PAGE
        text = in_step_page(title, shared, theme=theme, findings=findings)
        page.write_text(text, encoding="utf-8")
        return target.put_file(page, PAGE)


def _described(run: Run) -> ComparedRun:
    """Return a run without scores: labels and order need its settings alone."""
    info = run.info()
    return ComparedRun(str(run.ref), score_series([]), info.config, info.state, info.name)


def timeline_artifact(layout: str) -> str:
    """Return the artifact that lists when a run's video of ``layout`` shows which step."""
    return f"videos/{layout}/timeline.json"


def timeline_text(video: str, moments: Sequence[tuple[int, float]]) -> str:
    """Return the contents of that file.

    Args:
        video: path within the run.
        moments: step and second at which each capture begins.
    """
    steps, starts_s = zip(*moments, strict=True)
    return json.dumps({"video": video, "steps": steps, "starts_s": starts_s})


def _players(target: Run, run: Run, label: str, directory: Path) -> dict[str, Player]:
    """Return layout -> the run's video, for videos with a timeline."""
    if target.source_in_page(run.ref, PAGE) is None:
        return {}
    players = {}
    for video in run.list_files():
        if video.endswith(VIDEO_SUFFIXES):
            player = _player(target, run, label, video, directory)
            if player is not None:
                players[Path(video).stem] = player
    return players


def _player(target: Run, run: Run, label: str, video: str, directory: Path) -> Player | None:
    from tracker_viz.rendering import Player

    try:
        timeline = run.get_file(timeline_artifact(Path(video).stem), directory)
        described = TimelineFile.of(read_json(timeline), timeline.name)
        steps, starts_s = described.steps, described.starts_s
        is_of_it = described.video == video and len(steps) == len(starts_s) > 0
    except TrackerError:
        return None  # a video of something else, or made before videos had timelines
    source = target.source_in_page(run.ref, video)
    if not is_of_it or source is None:
        return None
    if target.guards_files(run.ref, video):
        source = _embedded(run.get_file(video, directory))
    return Player(label, source, steps, starts_s)


def _embedded(video: Path) -> str:
    """Return the video itself as a data URL."""
    return f"data:video/{video.suffix[1:]};base64,{base64.b64encode(video.read_bytes()).decode()}"


def _that_fit(players: Mapping[str, list[Player]]) -> dict[str, list[Player]]:
    """Return the layouts whose embedded videos leave the page small enough."""
    fitting, nbytes = {}, 0
    for layout, each in players.items():
        more = sum(len(player.source) for player in each)
        if nbytes + more <= MAX_PAGE_BYTES:
            nbytes += more
            fitting[layout] = each
        else:
            log.warning(
                "the page of videos in step leaves out %r: with these videos embedded it would be "
                "too large for the tracker to show",
                layout,
            )
    return fitting
