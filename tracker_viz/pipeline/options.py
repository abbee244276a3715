"""Options of ``render``, ``compare``, ``verify``, ``train.py`` and their YAML files, each with its
default, range and meaning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, get_args

from pydantic import Field, field_validator

from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.files import home_expanded
from tracker_viz.options import LegalValues, Options, seconds_of
from tracker_viz.rendering import SIZES, Pace, picture_size
from tracker_viz.video import EncoderName

Format = Literal["video", "poster", "webp", "gif", "html"]
FORMATS: tuple[Format, ...] = get_args(Format)
ThemeName = Literal["dark", "light"]
DEFAULT_THEME: ThemeName = "light"
FORMAT_VALUES = LegalValues(f"{' | '.join(FORMATS)}, or a list of these")


class Pacing(TypedDict):
    """Keyword arguments of ``rendering.storyboard``."""

    pace: Pace
    seconds_per_capture: float | None
    interpolate: int
    title_s: float
    hold_s: float


class VideoOptions(Options):
    """The group ``video``: the look of a video and how it is made."""

    group_name = "video"

    size: Annotated[str | tuple[int, int], LegalValues(f"{' | '.join(SIZES)} | 1600x900")] = "1080p"
    """Size of the pictures in pixels."""

    encoder: EncoderName = "auto"
    """opencv writes VP8 (.webm), h264 writes H.264 (.mp4), lossless writes VP9 (.webm); h264 and
    lossless need pip install 'tracker-viz[hq]'. auto: h264 if output ends in .mp4, else opencv."""

    pace: Pace = "story"
    """How long each capture is shown: longer while something changes, with a pause at each event
    (story), equally long (capture), in proportion to training steps (step), or longer at the start
    (log)."""

    seconds_per_capture: float | None = Field(None, gt=0)
    """Mean time for which a capture is shown; null: about 24 seconds in total."""

    interpolate: int = Field(0, ge=0)
    """Number of blended pictures between two captures; they are marked as interpolated."""

    title_s: float = Field(2.0, ge=0)
    """Seconds of the title card, with the run's outcome and how to read a map; 0: none. A
    comparison has none."""

    hold_s: float = Field(3.0, ge=0)
    """Seconds for which the last picture is held."""

    workers: Annotated[int, Field(ge=1)] | None = None
    """Threads that draw and encode; null: all cores."""

    max_mb: int = Field(50, ge=1)
    """Largest size of the file in MiB; a larger video is encoded again at a smaller size. MLflow
    shows no file above 50."""

    key_frames: int = Field(12, ge=0)
    """Number of still pictures for the tracker's step slider; 0: none."""

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: str | tuple[int, int]) -> str | tuple[int, int]:
        picture_size(size)
        return size

    def pacing(self) -> Pacing:
        return {
            "pace": self.pace,
            "seconds_per_capture": self.seconds_per_capture,
            "interpolate": self.interpolate,
            "title_s": self.title_s,
            "hold_s": self.hold_s,
        }


class Appearance(Options):
    """The format and the look of pictures; the layout is separate."""

    theme: ThemeName = DEFAULT_THEME
    """Colors of the pictures. Dark pictures have a separate name, overview_dark."""

    format: Annotated[tuple[Format, ...], FORMAT_VALUES] = ("video",)
    """Pictures to make: a video, a poster (PNG of three moments), a small animation (webp, gif), or
    a page with a step slider (html)."""

    video: VideoOptions = VideoOptions()

    @field_validator("format", mode="before")
    @classmethod
    def _each_format_once(cls, format: Any) -> Any:
        listed = isinstance(format, Sequence) and not isinstance(format, str)
        formats = tuple(dict.fromkeys(format)) if listed else (format,)
        if not formats or formats == (None,):
            raise ConfigError(f"format must name at least one of {', '.join(FORMATS)}; got none")
        for each in formats:
            if each not in FORMATS:
                raise ConfigError(unknown_name("format", str(each), FORMATS))
        return formats


class PlacedPictures(Appearance):
    """Pictures of a run, and where they go."""

    upload: bool = True
    """Upload the pictures to the run; false: only make the files."""

    output: Path | None = None
    """File or directory for the pictures (for a sweep, a directory); null: next to the downloaded
    captures."""

    cache: Path | None = None
    """Directory for downloads; null: TRACKER_VIZ_CACHE, else the user's cache directory."""

    @field_validator("output", "cache")
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        return path and home_expanded(path)


class PictureOptions(PlacedPictures):
    """The pictures that ``render`` makes of a run, and where they go."""

    steps: Annotated[
        tuple[int | None, int | None] | None,
        LegalValues("[first, last], each a step or null for an open end"),
    ] = None
    """Only draw the captures between these steps. The pictures have a separate name,
    overview_steps_100-400; null: all."""


class FollowOptions(PlacedPictures):
    """The pictures that ``follow`` keeps up to date, and how often."""

    format: Annotated[tuple[Format, ...], FORMAT_VALUES] = ("video", "html")
    """Pictures to keep up to date: the video, and a page with a step slider (html). Other formats
    are made once the run has ended."""

    every: Annotated[str, LegalValues("a time such as 30s, 15min or 2h")] = "15min"
    """Shortest time between two versions."""

    min_captures: int = Field(1, ge=1)
    """Make a new version only after at least this many new captures."""

    poll_s: float = Field(5.0, gt=0)
    """Seconds between two checks for new captures."""

    give_up: Annotated[str, LegalValues("a time such as 30s, 15min or 2h")] = "24h"
    """Stop if no new capture arrives for this long, for example because training was killed and the
    tracker still shows it as running."""

    final: bool = True
    """Render the whole run once it has ended, as render does: this downloads all of its
    captures."""

    @field_validator("every", "give_up", mode="before")
    @classmethod
    def _check_time(cls, text: Any) -> str:
        seconds_of(str(text))
        return str(text)

    def pictures(self) -> PictureOptions:
        """Return the options of ``render`` that make the same pictures."""
        names = PlacedPictures.model_fields
        return PictureOptions(**{name: getattr(self, name) for name in names})


Ablation = Literal["mean", "zero"]


class VerifyOptions(Options):
    """The measurements of ``verify``, and where the results go."""

    steps: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...] | None, LegalValues("a list of steps or null")
    ] = None
    """Checkpoints to measure, by step: [400, 1000]; null: the last one."""

    ablation: Ablation = "mean"
    """Replacement for a head's output: its mean over all rows of the same kind and all positions,
    or zero."""

    n_rows: int = Field(32, ge=2)
    """Held-out rows of each kind."""

    draws: int = Field(20, ge=1)
    """Number of random sets of other heads that each role is compared with."""

    seed: int = 0
    """Seed of these sets and of the random rows."""

    device: str = "auto"
    """auto (a GPU if there is one), or a torch device: cpu, cuda, cuda:1, ..."""

    upload: bool = True
    """Upload the results to the run; false: only make the files."""

    output: Path | None = None
    """Directory for the files; null: with the run's downloads."""

    cache: Path | None = None
    """Directory for downloads and measurements; null: TRACKER_VIZ_CACHE, else the user's cache
    directory."""

    @field_validator("steps")
    @classmethod
    def _check_steps(cls, steps: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if steps == ():
            raise ConfigError("steps must name at least one checkpoint to measure; got none")
        return steps


ComparisonAxis = Literal["auto", "step", "tokens", "progress"]
HeadOrder = Literal["index", "matched"]
MOST_SHOWN = 64


class ComparisonOptions(Options):
    """The axis and the pictures of ``compare``, and where they go."""

    axis: ComparisonAxis = "auto"
    """How the runs are aligned, in the video, the distances, the onsets and the order of the heads:
    by training steps, by tokens seen, or by the progress of each run. auto uses steps; tokens if
    the runs see different numbers of tokens per step; progress if they have no step in common."""

    order: HeadOrder = "index"
    """Order of the heads: by index, or matched, with similar heads of the runs below each other."""

    probe: Annotated[str | int, LegalValues("a row by its label or its index from 0")] = 0
    """Row of the probe whose attention is shown."""

    shown: int = Field(MOST_SHOWN, ge=2, le=MOST_SHOWN)
    """Largest number of runs to draw. If there are more, runs are chosen evenly from the lowest
    loss to the highest. The tables and the test cover all runs."""

    max_gb: float = Field(50.0, gt=0)
    """Largest amount of captures to download, in gigabytes; the video shows fewer steps rather than
    exceed it."""

    theme: ThemeName = DEFAULT_THEME
    """Colors of the pictures."""

    upload: bool = True
    """Upload the results to a run; false: only make the files."""

    output: Path | None = None
    """Directory for the files; null: with the downloads of the run that gets the results, else
    ./compare."""

    cache: Path | None = None
    """Directory for downloads; null: TRACKER_VIZ_CACHE, else the user's cache directory."""

    video: VideoOptions = VideoOptions()

    @field_validator("output", "cache")
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        return path and home_expanded(path)

    @field_validator("video", mode="before")
    @classmethod
    def _check_video(cls, video: Any) -> VideoOptions:
        options = VideoOptions.of(video)
        if options.interpolate:
            raise ConfigError("a comparison shows real captures only: set video.interpolate=0")
        return options
