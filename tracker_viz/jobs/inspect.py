"""``tracker-viz inspect``: try out what would be captured of a model, before it is trained."""

from __future__ import annotations

from pydantic import Field

from tracker_viz import pipeline
from tracker_viz.capture import CaptureOptions
from tracker_viz.jobs.application import application
from tracker_viz.jobs.builders import build_model
from tracker_viz.jobs.settings.config import Settings


class InspectSettings(CaptureOptions, Settings):
    """A dry run that lists what would be captured of a model: its blocks and weights, what is left
    out and why, what one capture costs here, and how many to expect. Records nothing."""

    group_name = ""
    usage = ("model=<builder> [total_steps=<n>] [key=value ...]",)

    model: str
    """Builder of the model: a function without arguments, my_package.build_model, or a directory
    with a config.json."""

    total_steps: int | None = Field(default=None, ge=1)
    """Length of the training run in steps; null: count captures for several lengths."""

    step_s: float | None = Field(default=None, gt=0)
    """Seconds per training step, to count the captures that the cost limit skips; null: assume that
    it skips none."""


@application(InspectSettings, name="inspect")
def main(settings: InspectSettings) -> None:
    options = settings.model_dump(exclude={"model", "preview", "alarms"})
    print(pipeline.inspect(build_model(settings.model), **options))
