"""``tracker-viz render``: draw the captures of a run, or of all runs of a sweep, and put the videos
into the same runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar, Self

from hydra.core.override_parser.overrides_parser import OverridesParser
from pydantic import model_validator

from tracker_viz import pipeline
from tracker_viz.commands import override
from tracker_viz.errors import ConfigError, TrackerVizError
from tracker_viz.jobs.application import application, errors_explained
from tracker_viz.jobs.report import print_rendered, print_rendered_sweep
from tracker_viz.jobs.settings.config import TrackerSettings
from tracker_viz.rendering import Layout
from tracker_viz.types import RunRef


class RenderSettings(TrackerSettings, pipeline.PictureOptions):
    """Downloads a run's captures, draws them, assembles the video and uploads it to the same run.
    Needs neither torch nor a GPU. For a sweep, every run gets its video, and the parent run gets a
    page that plays the videos in sync."""

    usage = (
        "run=<RunRef> [layout=<name>] [key=value ...]",
        "sweep=<RunRef of the parent> [key=value ...]",
        "-m sweep=<RunRef of the parent> hydra/launcher=<name> [key=value ...]",
    )
    groups: ClassVar = {"layout": "overview", "video": "default"}

    run: str | None = None
    """The run: mlflow:<run_id>, wandb:<entity>/<project>/<run_id>, local:<directory>."""

    sweep: str | None = None
    """Alternatively, all runs of a sweep, by its parent run; with -m, each run is a job of Hydra's
    launcher."""

    layout: Layout

    @model_validator(mode="after")
    def _one_run_or_sweep(self) -> Self:
        if bool(self.run) == bool(self.sweep):
            raise ConfigError(
                "give run=<RunRef>, or sweep=<RunRef of the parent> for all runs of a sweep; got "
                f"{'both' if self.run else 'none'}"
            )
        return self

    def tracker_options(self) -> dict[str, dict[str, Any]]:
        """Return tracker -> its options. The adapter refuses those of another tracker."""
        return {RunRef.parse(str(self.run or self.sweep)).scheme: self.tracker_addresses()}


def main() -> None:
    """Entry point. With ``-m`` each run of a sweep is a job of its own; the page is made when all
    of them have ended."""
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


@application(RenderSettings, name="render")
def render(settings: RenderSettings) -> None:
    taken = {name: getattr(settings, name) for name in pipeline.PictureOptions.model_fields}
    options = taken | {"layout": settings.layout, "tracker_options": settings.tracker_options()}
    if settings.run:
        print_rendered(pipeline.render(settings.run, **options))
        return
    result = pipeline.render_sweep(str(settings.sweep), **options)
    print_rendered_sweep(result)
    if result.failed:
        n_runs = len(result.failed) + len(result.rendered)
        raise TrackerVizError(f"{len(result.failed)} of {n_runs} runs could not be rendered")


def _jobs_of_sweep(words: list[str]) -> tuple[list[str], Callable[[], None]] | None:
    """Return, for ``-m sweep=``, the command line with ``run=<every run of the sweep>`` in its
    place, and a function that uploads the page; None for any other command line."""
    if not {"-m", "--multirun"} & set(words):
        return None
    assignments = [word for word in words if "=" in word and not word.startswith("-")]
    overrides = OverridesParser.create().parse_overrides(assignments)
    given = {each.key_or_group: each.value() for each in overrides if not each.is_sweep_override()}
    if not given.get("sweep"):
        return None
    sweep = str(given["sweep"])
    addresses = {}
    for name in TrackerSettings.model_fields:
        if given.get(name) is not None:
            addresses[name] = given[name]
    trackers = {RunRef.parse(sweep).scheme: addresses}
    refs = pipeline.open_run(sweep, trackers).children()
    if not refs:
        raise ConfigError(f"{sweep} has no runs below it: is it the parent run of a sweep?")
    values = [override("run", ref).removeprefix("run=") for ref in refs]
    runs = f"run={','.join(values)}"

    def put_page() -> None:
        if not given.get("upload", True):
            return
        theme = str(given.get("theme", pipeline.DEFAULT_THEME))
        page = pipeline.put_sweep_page(sweep, theme=theme, tracker_options=trackers)
        if page:
            print(f"The videos of its runs, in step: {page}")

    return [runs if word.startswith("sweep=") else word for word in words], put_page
