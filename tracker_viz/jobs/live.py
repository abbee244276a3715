"""``tracker-viz live``: show a run in a browser on this machine, as its captures come."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tracker_viz import pipeline
from tracker_viz.jobs.application import application
from tracker_viz.jobs.settings.config import TrackerSettings
from tracker_viz.pipeline import ThemeName
from tracker_viz.rendering import Layout
from tracker_viz.types import RunRef


class LiveSettings(TrackerSettings):
    """Serves a page with the maps of the newest capture and the explorer of all captures, on this
    machine's loopback interface only. Updates as captures arrive, until Ctrl-C. A capture in the
    spool of a run on this machine appears within about a second."""

    usage = (
        "spool=<directory> [layout=<name>] [key=value ...]",
        "run=<RunRef> [layout=<name>] [key=value ...]",
    )
    groups: ClassVar = {"layout": "overview"}

    spool: str | None = None
    """The spool of a training run on this machine, which may start later."""

    run: str | None = None
    """Alternatively, a run: mlflow:<run_id>, wandb:<entity>/<project>/<run_id>,
    local:<directory>."""

    theme: ThemeName = pipeline.DEFAULT_THEME
    """Colors of the pictures."""

    size: str = "720p"
    """Size of the newest capture's picture."""

    port: int = Field(5007, ge=0, le=65535)
    """Port of the page; 0: any free port."""

    poll_s: float | None = Field(None, gt=0)
    """Seconds between two checks for captures; null: 0.1 for a spool, 2 for a run."""

    layout: Layout


@application(LiveSettings, name="live")
def main(settings: LiveSettings) -> None:
    trackers = {}
    if settings.run:
        trackers = {RunRef.parse(settings.run).scheme: settings.tracker_addresses()}
    pipeline.live(
        settings.run,
        spool=settings.spool,
        layout=settings.layout,
        theme=settings.theme,
        size=settings.size,
        port=settings.port,
        poll_s=settings.poll_s,
        tracker_options=trackers,
        on_ready=lambda address: print(f"Watch it live: {address}", flush=True),
    )
