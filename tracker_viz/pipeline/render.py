"""A run's captures -> frames -> a video, or another picture -> the same run, and others that hold
the same. Needs no torch."""

from __future__ import annotations

import itertools
import math
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tracker_viz.commands import override
from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.pipeline.delivering import Picture, put_pictures
from tracker_viz.pipeline.load import TrackerOptions, open_run, pulled_captures
from tracker_viz.pipeline.progress import progress_bar
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.download import cache_directory
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    from tracker_viz.rendering import Layout, Renderer
    from tracker_viz.rendering.storyboard import Pace
    from tracker_viz.video import EncoderName

FORMATS = ("video", "poster", "webp", "gif", "html")


@dataclass(frozen=True, slots=True)
class RenderResult:
    """What was made of a run's captures: one picture for each format that was asked for, in that
    order.

    Attributes:
        missing_steps: captured steps that could not be had; the timeline shows them as gaps.
    """

    pictures: tuple[Picture, ...]
    n_captures: int
    missing_steps: tuple[int, ...]

    @property
    def path(self) -> Path:
        """Where the first picture lies on this machine."""
        return self.pictures[0].path

    @property
    def url(self) -> str | None:
        """Where the first picture is watched in the run that was drawn; None when it was not
        uploaded."""
        return self.pictures[0].uploads[0].url if self.pictures[0].uploads else None


def render(
    run: RunRef | str,
    *,
    also_into: Sequence[RunRef | str] = (),
    layout: str | Layout = "overview",
    theme: str = "dark",
    video: Mapping[str, Any] | None = None,
    format: str | Sequence[str] = "video",
    steps: Sequence[int | None] | None = None,
    upload: bool = True,
    output: str | Path | None = None,
    cache: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    progress: bool = True,
) -> Path:
    """Draw a run's captures and put the video into the same run; the same as ``tracker-viz
    render``. Needs no torch.

    Args:
        also_into: other runs that get the same pictures, such as the one in which a second tracker
            logged the same training.
        layout: name of a layout, or one of one's own (``rendering.layout_from`` takes what its YAML
            says).
        theme: ``dark`` or ``light``.
        video: ``size``, ``encoder``, ``pace``, ``seconds_per_capture``, ``interpolate``,
            ``title_s``, ``hold_s``, ``workers``, ``max_mb``, ``key_frames``, as in
            ``conf/video/default.yaml``, whose values hold for what is left out.
        format: ``video``; ``poster``: a PNG of three moments; ``webp`` or ``gif``: a small
            animation; ``html``: a page with a step slider and the value under the pointer, that
            needs no network. Or several of these.
        steps: (first, last): only the captures between these, None for an open end; the table of
            heads is left as it is then.
        upload: False leaves what is made on this machine only.
        output: where it lies here; by default among this run's downloads. A directory, or a file
            with or without a suffix.
        cache: where downloads are kept; see ``trackers.pull.default_cache``.
        progress: show progress bars.

    Returns:
        The video's path on this machine; of several formats the first one's.

    Raises:
        ConfigError: an option has no meaning; before anything is pulled.
        RunNotFoundError: there is no such run.
        TrackerError: the run cannot be read; or some run could not be written, after all the others
            were.
        RenderError: the run has no captures, or not those that the layout shows.
        VideoError: the video cannot be written here.
    """
    return render_run(
        run,
        also_into=also_into,
        layout=layout,
        theme=theme,
        video=video,
        format=format,
        steps=steps,
        upload=upload,
        output=output,
        cache=cache,
        tracker_options=tracker_options,
        progress=progress,
    ).path


def render_run(
    run: RunRef | str,
    *,
    also_into: Sequence[RunRef | str] = (),
    layout: str | Layout = "overview",
    theme: str = "dark",
    video: Mapping[str, Any] | None = None,
    format: str | Sequence[str] = "video",
    steps: Sequence[int | None] | None = None,
    upload: bool = True,
    output: str | Path | None = None,
    cache: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    progress: bool = True,
) -> RenderResult:
    """As ``render``, which see, with all that came of it."""
    from tracker_viz.rendering import Renderer, Series, resolve_layout, resolve_theme

    layout, look = resolve_layout(layout), resolve_theme(theme)
    options = VideoOptions.of(video)
    formats = checked_formats(format)
    opened = open_run(run, tracker_options)
    targets = [opened, *(open_run(each, tracker_options) for each in also_into)] if upload else []
    cache = Path(cache) if cache else None
    path = Path(output) if output else cache_directory(opened.ref, cache) / "videos" / layout.name
    path = path / layout.name if path.is_dir() else path
    paths = [_path_of(each, path, options, alone=len(formats) == 1) for each in formats]
    check_outputs(formats, paths, options)
    pulled = pulled_captures(opened, cache, progress=progress, steps=steps)
    missing = sorted(ref.step for ref in pulled.damaged)
    series = Series(pulled.captures, title=opened.info().name, missing_steps=missing)
    renderer = Renderer(series, layout, size=options.size, theme=look)
    with progress_bar("drawing", "frames", shown=progress and "video" in formats) as advance:
        pictures = [
            _write(renderer, each, file, options, advance)
            for each, file in zip(formats, paths, strict=True)
        ]
    if targets:
        pictures = put_pictures(
            targets,
            pictures,
            renderer,
            pulled if steps is None else None,
            n_key_frames=options.key_frames,
        )
    return RenderResult(tuple(pictures), len(series), tuple(missing))


def checked_formats(format: str | Sequence[str]) -> tuple[str, ...]:
    """One or several names of ``FORMATS``, each once.

    Raises:
        ConfigError: there is none, or one that is unknown.
    """
    formats = (
        tuple(dict.fromkeys(format))
        if isinstance(format, Sequence) and not isinstance(format, str)
        else (format,)
    )
    if not formats or formats == (None,):
        raise ConfigError(
            f"format= names what is made, at least one of {', '.join(FORMATS)}; got none"
        )
    for each in formats:
        if each not in FORMATS:
            raise ConfigError(unknown_name("format", str(each), FORMATS))
    return formats


def _path_of(format: str, path: Path, options: VideoOptions, *, alone: bool) -> Path:
    from tracker_viz.video import video_path

    path = path if alone else path.with_suffix("")  # one name for all, each with its own suffix
    if format == "video":
        return video_path(path, options.encoder)
    return path if path.suffix or format not in ("webp", "gif") else path.with_suffix(f".{format}")


def check_outputs(formats: Sequence[str], paths: Sequence[Path], options: VideoOptions) -> None:
    """Refuse what cannot be written here before captures are pulled and drawn for it."""
    from tracker_viz.video import encoder

    if "video" in formats:
        encoder(options.encoder)
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"output {path} is a directory; name a file in it, or another place")
        there = next(folder for folder in path.absolute().parents if folder.exists())
        try:
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
    shots = storyboard(renderer.series.steps, **options.pacing())
    if format in ("webp", "gif"):
        return Picture(
            format, write_animation(renderer, shots, path), sum(shot.duration_s for shot in shots)
        )
    written = write_video(
        len(shots),
        renderer.film(shots),
        path,
        duration_s=[shot.duration_s for shot in shots],
        encoder=options.encoder,
        workers=options.workers,
        progress=advance,
        max_bytes=options.max_mb << 20,
    )
    starts_s = itertools.accumulate((shot.duration_s for shot in shots), initial=0.0)
    moments = [
        (renderer.series.steps[shot.index], start_s)
        for shot, start_s in zip(shots, starts_s, strict=False)
        if shot.is_capture
    ]
    return Picture(format, written.path, written.duration_s, tuple(moments), written.notice)


_WHOLE = ("interpolate", "workers", "max_mb", "key_frames")
_SECONDS = ("seconds_per_capture", "title_s", "hold_s")


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """The group ``video`` of ``conf/``, where each option is explained."""

    size: Any = "1080p"
    encoder: EncoderName = "auto"
    pace: Pace = "capture"
    seconds_per_capture: float | None = None
    interpolate: int = 0
    title_s: float = 0.0
    hold_s: float = 3.0
    workers: int | None = None
    max_mb: int = 50
    key_frames: int = 12

    @classmethod
    def of(cls, video: Mapping[str, Any] | None) -> Self:
        """Those that ``video`` says, and the defaults of the others.

        Raises:
            ConfigError: there is no such option, or one has no meaning.
        """
        known = [field.name for field in fields(cls)]
        for name in video or {}:
            if name not in known:
                raise ConfigError(unknown_name("option of video", str(name), known))
        return cls(**(video or {}))

    def __post_init__(self) -> None:
        from tracker_viz.rendering import picture_size, storyboard
        from tracker_viz.video import video_path

        kinds = dict.fromkeys(_WHOLE, (Integral, "a whole number")) | dict.fromkeys(
            _SECONDS, (Real, "a number")
        )
        for name, (kind, what) in kinds.items():
            value = getattr(self, name)
            if value is None and name in ("seconds_per_capture", "workers"):
                continue
            if not isinstance(value, kind) or not math.isfinite(value):
                raise ConfigError(f"video.{name} is {what}; got {value!r}")
        # What each of these refuses, it refuses here, before anything is trained or pulled.
        picture_size(self.size)
        storyboard([0, 1], **self.pacing())
        video_path("any", self.encoder)
        if self.max_mb < 1:
            raise ConfigError(
                f"video.max_mb is the size of the file in MiB, at least 1; got {self.max_mb}"
            )
        if self.key_frames < 0:
            raise ConfigError(
                f"video.key_frames is a number of pictures, 0 for none; got {self.key_frames}"
            )
        if self.workers is not None and self.workers < 1:
            raise ConfigError(
                "video.workers is a number of threads, at least 1, or null for all cores; got "
                f"{self.workers}"
            )

    def pacing(self) -> dict[str, Any]:
        """What ``rendering.storyboard`` takes."""
        return {
            name: getattr(self, name)
            for name in ("pace", "seconds_per_capture", "interpolate", "title_s", "hold_s")
        }


def render_command(run: Run, *, layout: str | None = None) -> str:
    """The command that makes the video of ``run`` from any directory: it carries what the
    environment does not."""
    said = {"run": run.ref, **({"layout": layout} if layout else {}), **run.environment}
    return shlex.join(
        ["tracker-viz", "render", *(override(key, value) for key, value in said.items())]
    )
