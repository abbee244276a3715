"""``tracker-viz render``: a run's captures -> the video in the same run. The work is ``pipeline.render_run``'s."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from tracker_viz import pipeline
from tracker_viz.jobs.application import application, typed
from tracker_viz.jobs.report import say_where_to_watch
from tracker_viz.types import RunRef


@dataclass(frozen=True)
class RenderSettings:
    """The keys of ``conf/render.yaml``."""

    run: str
    tracking_uri: str | None = None
    ui_url: str | None = None
    base_url: str | None = None
    theme: str = "dark"
    format: Any = "video"
    upload: bool = True
    output: str | None = None
    cache: str | None = None
    layout: dict[str, Any] = field(default_factory=dict)
    video: dict[str, Any] = field(default_factory=dict)

    def tracker_options(self) -> dict[str, dict[str, Any]]:
        """Only what was said: an option of another tracker than the run's is refused by its adapter."""
        options = {"tracking_uri": self.tracking_uri, "ui_url": self.ui_url, "base_url": self.base_url}
        return {RunRef.parse(self.run).scheme: {name: value for name, value in options.items() if value is not None}}


@application(config_name="render")
def main(cfg: DictConfig) -> None:
    settings = typed(RenderSettings, cfg)
    result = pipeline.render_run(
        settings.run,
        layout=instantiate(settings.layout),
        theme=settings.theme,
        format=settings.format,
        video=settings.video,
        upload=settings.upload,
        output=settings.output,
        cache=settings.cache,
        tracker_options=settings.tracker_options(),
    )
    say_where_to_watch(result)
