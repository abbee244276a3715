"""Put pictures into the runs that show them, with what belongs beside a video: key frames, and the
tables of heads and events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tracker_viz.errors import RunActiveError, TrackerError, TransientTrackerError
from tracker_viz.files import temporary_directory
from tracker_viz.metrics import HEAD_PREFIX, SD_PREFIX, event_table, head_table, score_series
from tracker_viz.notebook import count
from tracker_viz.pipeline.results.in_step import timeline_artifact, timeline_text
from tracker_viz.pipeline.results.verified import put_head_table, write_csv
from tracker_viz.trackers import Run
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    from tracker_viz.rendering import Renderer, Series

EVENT_TABLE = "events"
STORY = "tracker_viz/story"  # in a run's summary: what it became, in one sentence


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture's link in one run. ``ui_command`` must be running for it to open; None where a
    server shows it already."""

    ref: RunRef
    url: str
    ui_command: str | None


@dataclass(frozen=True, slots=True)
class Picture:
    """A video, or another picture of a run.

    Attributes:
        format: one of ``options.FORMATS``.
        path: the file on this machine.
        duration_s: of a video or an animation; 0 for a still picture and a page.
        moments: of a video, the step of every capture and the second at which it begins.
        notice: for the viewer, for example that it had to be made smaller; empty otherwise.
        uploads: its links, one per run.
    """

    format: str
    path: Path
    duration_s: float = 0.0
    moments: tuple[tuple[int, float], ...] = ()
    notice: str = ""
    uploads: tuple[Upload, ...] = ()

    def __repr__(self) -> str:
        uploads = count(len(self.uploads), "upload")
        return f"Picture({self.format!r}, {str(self.path)!r}, {uploads})"


def put_pictures(
    runs: Sequence[Run],
    pictures: Sequence[Picture],
    renderer: Renderer,
    *,
    name: str,
    is_whole_run: bool,
    n_key_frames: int,
    is_live: bool = False,
) -> list[Picture]:
    """Put ``pictures`` into every run; return them with their links.

    Args:
        renderer: drew them. A video comes with ``n_key_frames`` still pictures, behind the
            tracker's own step slider.
        name: under which the run keeps them.
        is_whole_run: it drew all captures of the run, so the tables of heads and of events are
            written, too.
        is_live: the run goes on, and a later version will take the place of this one.

    Raises:
        TrackerError: some run could not be written; after all the others were. Transient where
            that may succeed later.
    """
    from tracker_viz.rendering import write_key_frames

    last_step = renderer.series.steps[-1]
    rows = head_rows(renderer.series) if is_whole_run else []
    has_video = any(picture.format == "video" for picture in pictures)
    key_frames: Sequence[tuple[int, Path]] = []
    failed: dict[RunRef, TrackerError] = {}
    with temporary_directory() as directory:
        if has_video and n_key_frames:
            key_frames = write_key_frames(renderer, directory, n_key_frames)
        for run in runs:
            try:
                pictures = [
                    _put(run, each, name, last_step, directory, is_live=is_live)
                    for each in pictures
                ]
                if key_frames:
                    run.put_key_frames(key_frames, name)
                if rows:
                    put_head_table(run, rows, last_step)
                if is_whole_run:
                    _put_story(run, renderer)
            except TrackerError as error:
                failed[run.ref] = error
    if failed:
        reasons = "; ".join(f"{ref}: {error}" for ref, error in failed.items())
        here = ", ".join(str(picture.path) for picture in pictures)
        raise _kind_of(failed.values())(
            f"the pictures were made ({here}), but not uploaded to every run: {reasons}"
        )
    return list(pictures)


def _kind_of(errors: Collection[TrackerError]) -> type[TrackerError]:
    """Return the kind that all of them are of, where that says what to do about them."""
    for kind in (TransientTrackerError, RunActiveError):
        if all(isinstance(error, kind) for error in errors):
            return kind
    return TrackerError


def _put_story(run: Run, renderer: Renderer) -> None:
    """Put the text of the film's captions into the run: each event into a table, and what the run
    became into the summary."""
    story = renderer.plan.story
    rows = event_table(story.events)
    if rows:
        with temporary_directory() as directory:
            table = directory / f"{EVENT_TABLE}.csv"
            write_csv(rows, table)
            run.put_file(table, table.name)
        run.put_table(rows, EVENT_TABLE)
    if story.summary:
        run.set_summary({STORY: story.summary})


def head_rows(series: Series) -> list[dict[str, str | float | int | None]]:
    """Return the rows of ``metrics.head_table``; none where the captures have no scores of
    heads."""
    names = [name for name in series.last.arrays if name.startswith((HEAD_PREFIX, SD_PREFIX))]
    return head_table(score_series(series.capture(index, names) for index in range(len(series))))


def _put(
    run: Run, picture: Picture, name: str, last_step: int, directory: Path, *, is_live: bool
) -> Picture:
    if picture.format == "video":
        played = f"{name}{picture.path.suffix}"
        if run.source_in_page(run.ref, played):
            timeline = directory / "timeline.json"
            timeline.write_text(timeline_text(played, picture.moments))
            run.put_file(timeline, timeline_artifact(name))
        put = run.put_live_video if is_live else run.put_video
        url = put(picture.path, layout=name, last_step=last_step)
    else:
        url = run.put_file(picture.path, f"{name}{picture.path.suffix}")
    return replace(picture, uploads=(*picture.uploads, Upload(run.ref, url, run.ui_command)))
