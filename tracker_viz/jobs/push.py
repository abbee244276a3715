"""``tracker-viz push``: uploads what a crashed or offline run left in its spool."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tracker_viz import pipeline
from tracker_viz.errors import TransientTrackerError
from tracker_viz.jobs.application import application
from tracker_viz.jobs.config import Settings
from tracker_viz.jobs.report import say_what_is_left
from tracker_viz.progress import progress_bar


class PushSettings(Settings):
    """Uploads what a crashed or offline run left in its spool, into the same run. Safe to repeat.
    Exit code 1: something is still left."""

    usage = ("spool=<directory> [key=value ...]",)

    spool: str
    """The spool: outputs/<day>/<time>/spool, or what watch(spool=) named."""

    timeout_s: float | None = Field(None, gt=0)
    """Give up after so many seconds; null: as long as anything moves."""

    tracker: dict[str, Any] = Field(default_factory=dict)
    """Where a tracker is now, if it moved: +tracker.mlflow.tracking_uri=http://..."""


@application(PushSettings, name="push")
def main(settings: PushSettings) -> None:
    with progress_bar("uploading", "captures", shown=True, delay_s=0.5) as advance:
        report = pipeline.push(
            settings.spool,
            options=settings.tracker,
            timeout_s=settings.timeout_s,
            progress=advance,
        )
    say_what_is_left(report)
    if report.command:
        raise TransientTrackerError(
            "not everything could be uploaded; nothing is lost, try again later"
        )
