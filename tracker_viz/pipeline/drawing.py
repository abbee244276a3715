"""A run's captures -> frames -> a video, or another picture -> the same run. Needs no torch."""

from __future__ import annotations

import csv
import shlex
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_viz import capture_file
from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.metrics import head_table, score_series
from tracker_viz.pipeline.progress import progress_bar
from tracker_viz.pipeline.pulling import TrackerOptions, open_run, pulled_captures
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.pull import Pulled, cache_directory
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    from tracker_viz.rendering import Layout, Renderer
    from tracker_viz.rendering.storyboard import Pace
    from tracker_viz.video import EncoderName

FORMATS = ("video", "poster", "webp", "gif", "html")


@dataclass(frozen=True, slots=True)
class RenderResult:
    """What was made of a run's captures.

    Attributes:
        path: where the video (or what was asked for instead) lies on this machine.
        url: where it is watched; None when it was not uploaded.
        ui_command: what must be running for ``url`` to open; None where a server shows it already.
        duration_s: how long it plays; 0 for a still picture and a page.
        missing_steps: captured steps that could not be had; the timeline shows them as gaps.
    """

    path: Path
    url: str | None
    ui_command: str | None
    n_captures: int
    duration_s: float
    missing_steps: tuple[int, ...]


def render(run: RunRef | str, **options: Any) -> Path:
    """Draw a run's captures and put the video into the same run; the same as ``tracker-viz render``. Options as of ``render_run``.

    Returns:
        The video's path on this machine.
    """
    return render_run(run, **options).path


def render_run(
    run: RunRef | str,
    *,
    layout: str | Layout = "overview",
    theme: str = "dark",
    video: Mapping[str, Any] | None = None,
    format: str = "video",
    upload: bool = True,
    output: str | Path | None = None,
    cache: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    progress: bool = True,
) -> RenderResult:
    """Pull a run's captures, draw them, assemble the video, put it into the same run. Needs no torch.

    Args:
        layout: name of a layout, or one of one's own.
        theme: ``dark`` or ``light``.
        video: ``size``, ``encoder``, ``pace``, ``seconds_per_capture``, ``interpolate``, ``title_s``, ``hold_s``, ``workers``, ``max_mb``,
            as in ``conf/video/default.yaml``, whose values hold for what is left out.
        format: ``video``; ``poster``: a PNG of three moments; ``webp`` or ``gif``: a small animation; ``html``: a page with a step slider
            and the value under the pointer, that needs no network.
        upload: False leaves what is made on this machine only.
        output: where it lies here; by default among this run's downloads. A directory, or a file with or without a suffix.
        cache: where downloads are kept; see ``trackers.pull.default_cache``.
        progress: show progress bars.

    Raises:
        ConfigError: an option has no meaning; before anything is pulled.
        RunNotFoundError, TrackerError: the run cannot be read or written.
        RenderError: the run has no captures, or not those that the layout shows.
        VideoError: the video cannot be written here.
    """
    from tracker_viz.rendering import Renderer, Series, resolve_layout
    from tracker_viz.video import video_path

    layout = resolve_layout(layout)
    options = VideoOptions(**(video or {}))
    if format not in FORMATS:
        raise ConfigError(unknown_name("format", format, FORMATS))
    opened = open_run(run, tracker_options)
    cache = Path(cache) if cache else None
    path = Path(output) if output else cache_directory(opened.ref, cache) / "videos" / layout.name
    path = path / layout.name if path.is_dir() else path
    if format == "video":
        path = video_path(path, options.encoder)
    pulled = pulled_captures(opened, cache, progress=progress)
    missing = sorted(ref.step for ref in pulled.damaged)
    series = Series(pulled.captures, title=opened.info().name, missing_steps=missing)
    renderer = Renderer(series, layout, size=options.size, theme=theme)
    with progress_bar("drawing", "frames", shown=progress) as advance:
        path, duration_s = _write(renderer, format, path, options, advance)
    url = None
    if upload and format == "video":
        url = opened.put_video(path, layout=layout.name, last_step=series.steps[-1])
    elif upload:
        url = opened.put_file(path, f"{layout.name}{path.suffix}")
    if upload:
        _put_head_table(opened, pulled)
    return RenderResult(path, url, opened.ui_command if url else None, len(series), duration_s, tuple(missing))


def _write(renderer: Renderer, format: str, path: Path, options: VideoOptions, advance: Callable[[int, int], None]) -> tuple[Path, float]:
    """Make the file; returns its path, with the suffix that its format has, and how long it plays."""
    from tracker_viz.rendering import storyboard, write_animation, write_explorer, write_poster
    from tracker_viz.video import write_video

    if format == "poster":
        return write_poster(renderer, path), 0.0
    if format == "html":
        return write_explorer(renderer, path), 0.0
    shots = storyboard(renderer.series.steps, **options.pacing())
    if format in ("webp", "gif"):
        path = path if path.suffix else path.with_suffix(f".{format}")
        return write_animation(renderer, shots, path), sum(shot.duration_s for shot in shots)
    written = write_video(
        len(shots),
        lambda index: renderer.draw(shots[index]),
        path,
        duration_s=[shot.duration_s for shot in shots],
        encoder=options.encoder,
        workers=options.workers,
        progress=advance,
        max_bytes=options.max_mb << 20,
    )
    return written.path, written.duration_s


def _put_head_table(run: Run, pulled: Pulled) -> None:
    """``head_roles.csv``: every head's role, its onset and its scores, beside the pictures that show them."""
    paths = [capture.path for capture in pulled.captures]
    names = [name for name in capture_file.read_header(paths[-1]).arrays if name.startswith("scores.head.")]
    rows = head_table(score_series(capture_file.read(path, names) for path in paths))
    if not rows:
        return
    with tempfile.TemporaryDirectory(prefix="tracker_viz-") as directory:
        table = Path(directory) / "head_roles.csv"
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        run.put_file(table, table.name)


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

    def __post_init__(self) -> None:
        from tracker_viz.rendering import picture_size, storyboard
        from tracker_viz.video import video_path

        # What each of these refuses, it refuses here, before anything is trained or pulled.
        picture_size(self.size)
        storyboard([0, 1], **self.pacing())
        video_path("any", self.encoder)
        if self.max_mb < 1:
            raise ConfigError(f"video.max_mb is the size of the file in MiB, at least 1; got {self.max_mb}")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"video.workers is a number of threads, at least 1, or null for all cores; got {self.workers}")

    def pacing(self) -> dict[str, Any]:
        """What ``rendering.storyboard`` takes."""
        return {name: getattr(self, name) for name in ("pace", "seconds_per_capture", "interpolate", "title_s", "hold_s")}


def render_command(run: Run, *, layout: str | None = None) -> str:
    """The command that makes the video of ``run`` from any directory: it carries what the environment does not."""
    words = [f"run={run.ref}", *(f"layout={layout}" for _ in [0] if layout), *(f"{key}={value}" for key, value in run.environment.items())]
    return " ".join(["tracker-viz", "render", *map(shlex.quote, words)])
