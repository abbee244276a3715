"""``tracker-viz push``: uploads what a crashed or offline run left in its spool."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tracker_viz import pipeline
from tracker_viz.errors import TrackerError, TransientTrackerError
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

    into: str | None = None
    """Another run (mlflow:<run_id>), or a tracker (mlflow) for a new one: where the run is gone."""

    timeout_s: float | None = Field(None, gt=0)
    """Give up after so many seconds; null: as long as anything moves."""

    tracker: dict[str, Any] = Field(default_factory=dict)
    """Where a tracker is now, if it moved: +tracker.mlflow.tracking_uri=http://..."""


@application(PushSettings, name="push")
def main(settings: PushSettings) -> None:
    with progress_bar("uploading", "captures", shown=True, delay_s=0.5) as advance:
        report = pipeline.push(
            settings.spool,
            into=settings.into,
            options=settings.tracker,
            timeout_s=settings.timeout_s,
            progress=advance,
        )
    say_what_is_left(report)
    if any(delivery.refused for delivery in report.deliveries):
        raise TrackerError(
            "not everything could be uploaded, and the same again would not help: see above for "
            "what does. The captures are kept in the spool"
        )
    if report.command:
        raise TransientTrackerError(
            "not everything could be uploaded; nothing is lost, try again later"
        )
    if not report.deliveries:
        print("This spool is the run itself; into=<run> sends its captures to a tracker as well.")
