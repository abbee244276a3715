"""The videos of several runs -> a page in the run above them that plays them in step. Nothing is drawn: the videos stay where they are."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_viz.comparison import ComparedRun, run_labels
from tracker_viz.errors import TrackerError
from tracker_viz.metrics import score_series
from tracker_viz.pipeline.pulling import TrackerOptions, open_run
from tracker_viz.trackers.base import Run
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    from tracker_viz.rendering.in_step_page import Player

PAGE = "in_step.html"


def put_sweep_page(sweep: RunRef | str, *, layout: str = "overview", tracker_options: TrackerOptions | None = None) -> str | None:
    """Put the page into the run above a sweep, once its runs have their videos.

    Returns:
        Where it is seen; None where fewer than two runs have a video of this layout, or the tracker's pages cannot play other runs' files.
    """
    parent = open_run(sweep, tracker_options)
    runs = [open_run(ref, tracker_options) for ref in parent.children()]
    described = [ComparedRun(str(run.ref), score_series([]), run.info().config) for run in runs]
    labels = run_labels(described) if described else {}
    return put_in_step_page(parent, runs, labels, title=parent.info().name, layout=layout)


def put_in_step_page(
    target: Run, runs: Sequence[Run], labels: Mapping[str, str], *, title: str, layout: str = "overview", theme: str = "dark"
) -> str | None:
    """Put the page into ``target``; see ``put_sweep_page``.

    Args:
        labels: run, as text -> what it is called on the page.
    """
    from tracker_viz.rendering.in_step_page import in_step_page

    with tempfile.TemporaryDirectory(prefix="tracker_viz-") as directory:
        found = [_player(target, run, labels[str(run.ref)], layout, Path(directory)) for run in runs]
        players = sorted((player for player in found if player), key=lambda player: player.label)
        if len(players) < 2:
            return None
        page = Path(directory) / PAGE
        page.write_text(in_step_page(f"{title} · {layout}", players, theme=theme), encoding="utf-8")
        return target.put_file(page, PAGE)


def timeline_artifact(layout: str) -> str:
    """Where a run keeps which step its video of ``layout`` shows when."""
    return f"videos/{layout}/timeline.json"


def timeline_text(video: str, moments: Sequence[tuple[int, float]]) -> str:
    """The contents of that file. ``video``: run-relative path; ``moments``: step and second at which each capture begins."""
    steps, starts_s = zip(*moments, strict=True)
    return json.dumps({"video": video, "steps": steps, "starts_s": starts_s})


def _player(target: Run, run: Run, label: str, layout: str, directory: Path) -> Player | None:
    from tracker_viz.rendering.in_step_page import Player

    if target.source_in_page(run.ref, "x") is None:
        return None
    try:
        described: Any = json.loads(run.get_file(timeline_artifact(layout), directory / run.ref.path.replace("/", "-")).read_bytes())
        steps, starts_s = tuple(map(int, described["steps"])), tuple(map(float, described["starts_s"]))
        source = target.source_in_page(run.ref, str(described["video"]))
    except (TrackerError, ValueError, KeyError, TypeError):
        return None  # no video yet, or none that says its steps
    return Player(label, source, steps, starts_s) if source and steps and len(steps) == len(starts_s) else None
