"""``tracker-viz push``: upload the captures that a crashed or offline run left in its spool."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tracker_viz import commands, pipeline
from tracker_viz.errors import TrackerError, TransientTrackerError
from tracker_viz.files import user_path
from tracker_viz.jobs.application import application
from tracker_viz.jobs.report import print_destinations
from tracker_viz.jobs.settings.config import Settings
from tracker_viz.progress import progress_bar
from tracker_viz.types import RunRef


class PushSettings(Settings):
    """Uploads the captures that a crashed or offline run left in its spool, to the same run. Safe
    to repeat. Exit code 1: some are still left."""

    usage = ("spool=<directory> [key=value ...]",)

    spool: str
    """The spool: outputs/<day>/<time>/spool, or the directory passed to watch(spool=)."""

    into: str | None = None
    """If the run no longer exists: another run (mlflow:<run_id>), or a tracker (mlflow) for a new
    run."""

    timeout_s: float | None = Field(None, gt=0)
    """Give up after this many seconds; null: when uploads stop making progress."""

    tracker: dict[str, Any] = Field(default_factory=dict)
    """New address of a tracker that has moved: +tracker.mlflow.tracking_uri=http://..."""


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
    print_destinations(report)
    refused = [delivery for delivery in report.deliveries if delivery.refused]
    if refused and not any(delivery.left for delivery in report.deliveries):
        raise TrackerError("nothing is left in the spool that another run could get")
    if refused:
        raise TrackerError(
            "not everything could be uploaded, and retrying would not help: see "
            "above for the fix. The captures are kept in the spool"
        )
    if report.command:
        raise TransientTrackerError(f"nothing is lost; try again later with: {report.command}")
    if not report.deliveries:
        ref = RunRef("local", str(user_path(settings.spool)))
        print(
            "This spool is the run itself; into=<run> also uploads its captures to a tracker. To "
            f"make the video of it:\n  {commands.render(ref, {})}"
        )
