"""``tv.render``: draw a run's captures and put the video, or other pictures, into the same run,
without torch."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracker_viz import commands, notebook
from tracker_viz.errors import ConfigError, RenderError
from tracker_viz.pipeline.load import Recorded, TrackerOptions, open_run, pulled_captures
from tracker_viz.pipeline.options import (
    DEFAULT_THEME,
    Format,
    PictureOptions,
    ThemeName,
    VideoOptions,
)
from tracker_viz.pipeline.results.delivering import Picture, put_pictures
from tracker_viz.pipeline.results.result_lines import say_where_pictures_are
from tracker_viz.pipeline.results.verified import stored_results
from tracker_viz.pipeline.showing import picture_markup
from tracker_viz.progress import progress_bar
from tracker_viz.trackers import Pulled, Run, cache_directory
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    from tracker_viz.rendering import Layout, Renderer, Series


@dataclass(frozen=True, slots=True)
class RenderResult:
    """The pictures of a run's captures. Path-like: it is the path of the first picture.

    It is falsy and has no pictures if ``watch`` recorded nothing: on ranks other than the main one,
    and with ``enabled=False``.

    Attributes:
        pictures: one per format, in the requested order.
        n_captures: the number of captures that they show.
        missing_steps: captured steps that could not be downloaded: gaps in the timeline.
    """

    pictures: tuple[Picture, ...]
    n_captures: int
    missing_steps: tuple[int, ...]

    @property
    def path(self) -> Path:
        """The first picture's file on this machine: in the directory of a ``local:`` run, else in
        the cache, or where ``output`` names it."""
        if not self.pictures:
            raise RenderError("there is no picture: this process recorded nothing")
        return self.pictures[0].path

    @property
    def url(self) -> str | None:
        """The link of the first picture in its run; None if nothing was uploaded."""
        uploads = self.pictures[0].uploads if self.pictures else ()
        return uploads[0].url if uploads else None

    def __bool__(self) -> bool:
        return bool(self.pictures)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path) if self.pictures else "nothing"

    def __repr__(self) -> str:
        if not self.pictures:
            return "RenderResult(nothing)"
        paths = ", ".join(repr(str(picture.path)) for picture in self.pictures)
        return f"RenderResult({paths}, {notebook.count(self.n_captures, 'capture')})"

    def _repr_html_(self) -> str:
        """Show the first picture in a notebook, and where the others are: at most a megabyte."""
        if not self.pictures:
            return notebook.box(["there is no picture: this process recorded nothing"])
        first, *others = self.pictures
        shown = picture_markup(first.path, url=self.url, notice=first.notice)
        gaps = ""
        if self.missing_steps:
            missing = notebook.count(len(self.missing_steps), "capture")
            gaps = f"{missing} could not be pulled"
        rest = [
            f"{notebook.text(other.format)}: <code>{notebook.text(other.path)}</code>"
            for other in others
        ]
        return notebook.box([shown, gaps, *rest])


@np.errstate(all="ignore")  # the user's process may turn float errors into exceptions
def render(
    run: RunRef | str | Recorded,
    *,
    also_into: Sequence[RunRef | str] = (),
    layout: str | Path | Mapping[str, Any] | Layout = "overview",
    theme: ThemeName = DEFAULT_THEME,
    video: VideoOptions | Mapping[str, Any] | None = None,
    format: Format | Sequence[Format] = "video",
    steps: Sequence[int | None] | None = None,
    upload: bool = True,
    output: str | Path | None = None,
    cache: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    progress: bool = True,
) -> RenderResult:
    """Draw a run's captures and upload the video to the same run, as ``tracker-viz render`` does.

    Args:
        run: the run's reference, like ``mlflow:<run_id>``, or the result of ``watch``. The latter
            is closed and rendered to the runs that hold all of its captures, else to its spool. On
            ranks that recorded nothing, this does nothing.
        also_into: other runs that get the same pictures, such as the run of a second tracker that
            logged the same training run.
        layout: a layout's name, the path of its YAML file, its content as a mapping, or a
            ``rendering.Layout``.
        theme, format, steps, upload, output, cache: see ``PictureOptions``.
        video: see ``VideoOptions``; a mapping of some of them, or all.
        tracker_options: tracker -> options of its adapter, e.g. ``{"mlflow": {"tracking_uri":
            ...}}``; the result of ``watch`` has its own.
        progress: show progress on standard error.

    Returns:
        The result. It is path-like: ``open(tv.render(run), "rb")`` opens the first picture.

    Raises:
        ConfigError: an option has an invalid value; raised before anything is downloaded.
        RunNotFoundError: there is no such run.
        TrackerError: the run cannot be read, or a run could not be written; the other runs are
            written first.
        RenderError: the run has no captures, or lacks those that the layout shows.
        VideoError: the video cannot be written here.
    """
    from tracker_viz.rendering import Circuit, Renderer, resolve_layout

    if isinstance(run, Recorded):
        holders = run.runs_to_draw()
        if not holders:
            return RenderResult((), 0, ())
        tracker_options = tracker_options or run.tracker_options
        run, also_into = holders[0], [*holders[1:], *also_into]
    drawn = resolve_layout(layout)
    options = PictureOptions(
        theme=theme,
        format=format,
        steps=steps,
        upload=upload,
        output=output,
        cache=cache,
        video=VideoOptions.of(video),
    )
    name = film_name(drawn.name, options)
    opened = open_run(run, tracker_options)
    targets = [opened, *(open_run(each, tracker_options) for each in also_into)]
    paths = output_paths(options, cache_directory(opened.ref, options.cache), name)
    check_outputs(options.format, paths, options.video)

    pulled = pulled_captures(opened, options.cache, progress=progress, steps=options.steps)
    if not pulled.captures and not pulled.damaged:
        raise RenderError(f"there is no capture to draw: {opened.why_no_captures()}")
    series = _series(pulled, opened.info().name, is_part=options.steps is not None)
    if "html" in options.format or any(isinstance(panel, Circuit) for panel in drawn.panels):
        verified = stored_results(opened)
        series.ablations = verified.ablations() if verified else None
    renderer = Renderer(series, drawn, size=options.video.size, theme=options.theme)
    draws_video = "video" in options.format
    pictures = []
    with progress_bar("drawing", "frames", shown=progress and draws_video) as advance:
        for each, path in zip(options.format, paths, strict=True):
            pictures.append(_write(renderer, each, path, options.video, advance))
    if options.upload:
        pictures = put_pictures(
            targets,
            pictures,
            renderer,
            name=name,
            # For a part of the run the table of heads would be wrong.
            is_whole_run=options.steps is None,
            n_key_frames=options.video.key_frames,
        )
        if options.output is None:
            pictures = [_in_run(opened, each) for each in pictures]
    say_where_pictures_are(opened.ref, pictures, len(series))
    return RenderResult(tuple(pictures), len(series), series.missing_steps)


def _in_run(run: Run, picture: Picture) -> Picture:
    """Return ``picture`` with the path that it has in the run, where that is on this machine."""
    return replace(picture, path=run.local_path(picture.path.name) or picture.path)


def _series(pulled: Pulled, title: str, *, is_part: bool) -> Series:
    from tracker_viz.rendering import Series

    if is_part and pulled.captures:
        first, last = pulled.captures[0].ref, pulled.captures[-1].ref
        title += f" · steps {first.step:,} to {last.step:,}"
    missing = sorted(ref.step for ref in pulled.damaged)
    return Series(pulled.captures, title=title, missing_steps=missing)


def film_name(layout: str, options: PictureOptions) -> str:
    """Return the name of a run's pictures: that of the layout, and what differs from the default.

    Trackers show pictures of one name side by side, so it is the same in every run; and what shows
    something else must not take the place of the whole run's film.
    """
    name = layout
    if options.theme != DEFAULT_THEME:
        name += f"_{options.theme}"
    if options.steps is not None:
        first, last = options.steps
        name += f"_steps_{first or 0}-{'end' if last is None else last}"
    return name


def output_paths(options: PictureOptions, downloads: Path, name: str) -> list[Path]:
    """Return the file of each format; ``downloads``: where those go that were given no place."""
    path = options.output or downloads / "videos" / name
    if path.is_dir():
        path = path / name
    if len(options.format) > 1:
        path = path.with_suffix("")  # one name for all, each with its own suffix
    return [_with_suffix(each, path, options.video) for each in options.format]


def _with_suffix(format: Format, path: Path, options: VideoOptions) -> Path:
    from tracker_viz.video import video_path

    if format == "video":
        return video_path(path, options.encoder)
    if format in ("webp", "gif") and not path.suffix:
        return path.with_suffix(f".{format}")
    return path


def check_outputs(formats: Sequence[str], paths: Sequence[Path], options: VideoOptions) -> None:
    """Refuse outputs that cannot be written, before captures are pulled and drawn for them."""
    from tracker_viz.video import encoder

    if "video" in formats:
        encoder(options.encoder)
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"output {path} is a directory; name a file in it, or another place")
        there = next(folder for folder in path.absolute().parents if folder.exists())
        try:
            # Writing is the only proof: permissions say nothing on a read-only or network disk.
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            raise ConfigError(
                f"output {path} cannot be written: {there}: {error.strerror}; choose another with "
                "output=..."
            ) from error


def _write(
    renderer: Renderer,
    format: str,
    path: Path,
    options: VideoOptions,
    advance: Callable[[int, int], None],
) -> Picture:
    from tracker_viz.rendering import storyboard, write_animation, write_explorer, write_poster
    from tracker_viz.video import write_video

    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "poster":
        return Picture(format, write_poster(renderer, path))
    if format == "html":
        return Picture(format, write_explorer(renderer, path))
    shots = storyboard(renderer.series.steps, story=renderer.plan.story, **options.pacing())
    durations_s = [shot.duration_s for shot in shots]
    if format in ("webp", "gif"):
        return Picture(format, write_animation(renderer, shots, path), sum(durations_s))
    written = write_video(
        len(shots),
        renderer.film(shots),
        path,
        duration_s=durations_s,
        encoder=options.encoder,
        workers=options.workers,
        progress=advance,
        max_bytes=options.max_mb << 20,
    )
    starts_s = itertools.accumulate(durations_s, initial=0.0)
    moments: dict[int, float] = {}
    for shot, start_s in zip(shots, starts_s, strict=False):
        if shot.is_capture:
            # A capture that rests at an event is several shots; it begins with the first.
            moments.setdefault(renderer.series.steps[shot.index], start_s)
    return Picture(format, written.path, written.duration_s, tuple(moments.items()), written.notice)


def render_command(run: Run) -> str:
    """Return the command that makes the video of ``run`` from any directory: it includes the
    settings that another shell's environment lacks."""
    return commands.render(run.ref, run.environment)
