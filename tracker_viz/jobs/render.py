"""``tracker-viz render``: the captures of a run, or of all runs of a sweep -> the video in the same
run. The work is ``pipeline``'s."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from tracker_viz import pipeline
from tracker_viz.commands import override
from tracker_viz.errors import ConfigError, TrackerVizError
from tracker_viz.jobs.application import application, errors_explained, typed
from tracker_viz.jobs.report import say_what_became_of, say_where_to_watch
from tracker_viz.rendering import resolve_layout
from tracker_viz.types import RunRef


@dataclass(frozen=True)
class RenderSettings:
    """The keys of ``conf/render.yaml``."""

    run: str | None = None
    sweep: str | None = None
    tracking_uri: str | None = None
    ui_url: str | None = None
    base_url: str | None = None
    theme: str = "dark"
    format: Any = "video"
    steps: Any = None
    upload: bool = True
    output: str | None = None
    cache: str | None = None
    layout: dict[str, Any] = field(default_factory=dict)
    video: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.run) == bool(self.sweep):
            raise ConfigError(
                "give run=<RunRef>, or sweep=<RunRef of the parent> for all runs of a sweep; got "
                f"{'both' if self.run else 'none'}"
            )


def main() -> None:
    """Entry point. Under ``-m`` a sweep is a job for each of its runs, whatever launches them; its
    page comes when all of them ended."""
    with errors_explained():
        jobs = _jobs_of_sweep(sys.argv[1:])
    if jobs is None:
        return render()
    words, put_page = jobs
    sys.argv[1:] = words
    try:
        render()
    finally:
        with errors_explained():
            put_page()


@application(config_name="render")
def render(cfg: DictConfig) -> None:
    settings = typed(RenderSettings, cfg)
    options: dict[str, Any] = {
        "layout": resolve_layout(settings.layout),
        "theme": settings.theme,
        "format": settings.format,
        "steps": settings.steps,
        "video": settings.video,
        "upload": settings.upload,
        "output": settings.output,
        "cache": settings.cache,
    }
    ref = str(settings.run or settings.sweep)
    trackers = tracker_options(ref, {name: getattr(settings, name) for name in _OPTIONS})
    if settings.run:
        say_where_to_watch(pipeline.render(settings.run, tracker_options=trackers, **options))
        return
    result = pipeline.render_sweep(ref, tracker_options=trackers, **options)
    say_what_became_of(result)
    if result.failed:
        raise TrackerVizError(
            f"{len(result.failed)} of {len(result.failed) + len(result.rendered)} runs could not "
            "be rendered"
        )


_OPTIONS = ("tracking_uri", "ui_url", "base_url")


def tracker_options(ref: str, said: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Only what was said: an option of another tracker than the run's is refused by its adapter."""
    return {
        RunRef.parse(ref).scheme: {name: value for name, value in said.items() if value is not None}
    }


def _jobs_of_sweep(words: list[str]) -> tuple[list[str], Callable[[], None]] | None:
    """With ``-m sweep=``: the command line with ``run=<every run of the sweep>`` in its place, and
    what puts the page; else None."""
    if not {"-m", "--multirun"} & set(words):
        return None
    overrides = OverridesParser.create().parse_overrides(
        [word for word in words if "=" in word and not word.startswith("-")]
    )
    said = {
        override.key_or_group: override.value()
        for override in overrides
        if not override.is_sweep_override()
    }
    if not said.get("sweep"):
        return None
    sweep = str(said["sweep"])
    trackers = tracker_options(sweep, {name: said.get(name) for name in _OPTIONS})
    refs = pipeline.open_run(sweep, trackers).children()
    if not refs:
        raise ConfigError(f"{sweep} has no runs below it: is it the parent run of a sweep?")
    listed = "run=" + ",".join(override("run", ref).removeprefix("run=") for ref in refs)

    def put_page() -> None:
        if said.get("upload", True) and (
            page := pipeline.put_sweep_page(
                sweep, theme=str(said.get("theme", "dark")), tracker_options=trackers
            )
        ):
            print(f"The videos of its runs, in step: {page}")

    return [listed if word.startswith("sweep=") else word for word in words], put_page
