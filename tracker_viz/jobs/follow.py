"""``tracker-viz follow``: keep the film of a run up to date while it trains."""

from __future__ import annotations

from typing import ClassVar

from tracker_viz import pipeline
from tracker_viz.jobs.application import application
from tracker_viz.jobs.report import print_rendered, print_version
from tracker_viz.jobs.settings.config import TrackerSettings
from tracker_viz.rendering import Layout
from tracker_viz.types import RunRef


class FollowSettings(TrackerSettings, pipeline.FollowOptions):
    """Draws a run's captures as they arrive, and replaces the video with each new version until the
    run ends. Then renders the whole run. Only draws and encodes new captures. Needs neither torch
    nor a GPU, and runs on any machine. If it is killed and started again, it continues."""

    usage = ("run=<RunRef> [layout=<name>] [every=15min] [key=value ...]",)
    groups: ClassVar = {"layout": "overview", "video": "default"}

    run: str
    """The run: mlflow:<run_id>, wandb:<entity>/<project>/<run_id>, local:<directory>."""

    layout: Layout


@application(FollowSettings, name="follow")
def main(settings: FollowSettings) -> None:
    names = pipeline.FollowOptions.model_fields
    result = pipeline.follow(
        settings.run,
        layout=settings.layout,
        options={name: getattr(settings, name) for name in names},
        tracker_options={RunRef.parse(settings.run).scheme: settings.tracker_addresses()},
        on_version=print_version,
    )
    if settings.final:
        print_rendered(result)
