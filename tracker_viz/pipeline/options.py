"""Options of ``render``, ``compare``, ``verify``, ``train.py`` and their YAML files: each with its
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
    """opencv writes VP8 (.webm), h264 H.264 (.mp4), lossless VP9 (.webm); h264 and lossless need
    pip install 'tracker-viz[hq]'. auto is opencv, or h264 for an output that ends in .mp4."""

    pace: Pace = "story"
    """How long each capture is shown: longer where something changes, with a rest at each event
    (story), all equally (capture), as training went (step), or the early steps longer (log)."""

    seconds_per_capture: float | None = Field(None, gt=0)
    """Mean time for which a capture is shown; null: about 24 seconds in all."""

    interpolate: int = Field(0, ge=0)
    """Blended pictures between two captures, marked as interpolated."""

    title_s: float = Field(2.0, ge=0)
    """How long a title card is shown first: what the run became, and how to read a map; 0: none.
    A comparison has none."""

    hold_s: float = Field(3.0, ge=0)
    """How long the last picture is held."""

    workers: Annotated[int, Field(ge=1)] | None = None
    """Threads that draw and encode; null: all cores."""

    max_mb: int = Field(50, ge=1)
    """Largest size of the file in MiB; a larger video is made again in a smaller size. MLflow shows
    no file above 50."""

    key_frames: int = Field(12, ge=0)
    """Still pictures beside the video, for the tracker's own step slider; 0: none."""

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
    """The format and the look of pictures; the layout comes beside these."""

    theme: ThemeName = DEFAULT_THEME
    """Colors of the pictures. Dark ones have a name of their own beside the light ones:
    overview_dark."""

    format: Annotated[tuple[Format, ...], FORMAT_VALUES] = ("video",)
    """What is made: a video, a poster (PNG of three moments), a small animation (webp, gif), or a
    page with a step slider (html)."""

    video: VideoOptions = VideoOptions()

    @field_validator("format", mode="before")
    @classmethod
    def _each_format_once(cls, format: Any) -> Any:
        listed = isinstance(format, Sequence) and not isinstance(format, str)
        formats = tuple(dict.fromkeys(format)) if listed else (format,)
        if not formats or formats == (None,):
            raise ConfigError(
                f"format names what is made, at least one of {', '.join(FORMATS)}; got none"
            )
        for each in formats:
            if each not in FORMATS:
                raise ConfigError(unknown_name("format", str(each), FORMATS))
        return formats


class PlacedPictures(Appearance):
    """Pictures of a run, and where they are put."""

    upload: bool = True
    """Whether the pictures are put into the run; false: only make the files."""

    output: Path | None = None
    """File or directory for the pictures, for a sweep a directory; null: beside the downloaded
    captures."""

    cache: Path | None = None
    """Directory for downloads; null: TRACKER_VIZ_CACHE, else the user's cache directory."""

    @field_validator("output", "cache")
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        return path and home_expanded(path)


class PictureOptions(PlacedPictures):
    """The pictures that ``render`` makes of a run, and where they are put."""

    steps: Annotated[
        tuple[int | None, int | None] | None,
        LegalValues("[first, last], each a step or null for an open end"),
    ] = None
    """Only the captures between these steps, as pictures of their own name beside those of the
    whole run: overview_steps_100-400; null: all."""


class FollowOptions(PlacedPictures):
    """The pictures that ``follow`` keeps up to date, and how often."""

    format: Annotated[tuple[Format, ...], FORMAT_VALUES] = ("video", "html")
    """What is kept up to date: the video, and a page with a step slider (html). Other formats are
    made once the run has ended."""

    every: Annotated[str, LegalValues("a time such as 30s, 15min or 2h")] = "15min"
    """Shortest time between two versions."""

    min_captures: int = Field(1, ge=1)
    """Fewest new captures for a new version."""

    poll_s: float = Field(5.0, gt=0)
    """Seconds between two looks for new captures."""

    give_up: Annotated[str, LegalValues("a time such as 30s, 15min or 2h")] = "24h"
    """End when no new capture came for so long, as after a training that was killed and whose
    tracker still calls it running."""

    final: bool = True
    """Whether the whole run is rendered once it has ended, as render does: that pulls all of its
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
    """The measurements of ``verify``, and where the results are put."""

    steps: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...] | None, LegalValues("a list of steps or null")
    ] = None
    """Checkpoints to measure, by step: [400, 1000]; null: the last one."""

    ablation: Ablation = "mean"
    """What takes the place of a head's output: its mean over all rows of the same kind and all
    positions, or zero."""

    n_rows: int = Field(32, ge=2)
    """Held-out rows of each kind."""

    draws: int = Field(20, ge=1)
    """Random sets of other heads that each role is compared with."""

    seed: int = 0
    """Seed of these sets, and of random rows."""

    device: str = "auto"
    """auto (a GPU if there is one), or a name that torch knows: cpu, cuda, cuda:1, ..."""

    upload: bool = True
    """Whether the results are put into the run; false: only make the files."""

    output: Path | None = None
    """Directory for the files; null: among the run's downloads."""

    cache: Path | None = None
    """Directory for downloads and for what was measured; null: TRACKER_VIZ_CACHE, else the user's
    cache directory."""

    @field_validator("steps")
    @classmethod
    def _check_steps(cls, steps: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if steps == ():
            raise ConfigError("steps names checkpoints to measure, at least one; got none")
        return steps


ComparisonAxis = Literal["auto", "step", "tokens", "progress"]
HeadOrder = Literal["index", "matched"]
MOST_SHOWN = 64


class ComparisonOptions(Options):
    """The axis and the pictures of ``compare``, and where they are put."""

    axis: ComparisonAxis = "auto"
    """What the runs are compared by, in the video, the distances, the onsets and the order of the
    heads: training steps, tokens seen, or the progress of each run's own training. auto takes
    steps; tokens where the runs see different numbers of them per step; progress where they have
    no step in common."""

    order: HeadOrder = "index"
    """Heads by their index, or matched: heads that behaved alike below each other."""

    probe: Annotated[str | int, LegalValues("a row by its label or its index from 0")] = 0
    """The row of the probe whose attention is shown."""

    shown: int = Field(MOST_SHOWN, ge=2, le=MOST_SHOWN)
    """Most runs that are drawn; of more those spread from the lowest loss to the highest. The
    tables and the test are of all runs."""

    max_gb: float = Field(50.0, gt=0)
    """Most gigabytes of captures to pull; the video shows fewer points of time rather than exceed
    it."""

    theme: ThemeName = DEFAULT_THEME
    """Colors of the pictures."""

    upload: bool = True
    """Whether the results are put into a run; false: only make the files."""

    output: Path | None = None
    """Directory for the files; null: among the downloads of the run that gets the results, else
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
