"""The interface of every encoder: open a segment, write pixels, join segments in true time."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# All times are multiples of 1/60 s: players assume 60 as the frame rate, and show a frame until the
# next one comes.
TICKS_PER_SECOND = 60


class Segment(Protocol):
    """A file that takes pictures one after the other; a context manager that finishes it."""

    def __enter__(self) -> Segment: ...
    def __exit__(self, *error: object) -> None: ...
    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Encode uint8 [height, width, 3] RGB."""


class Encoder(Protocol):
    """One codec in one container.

    Attributes:
        codecs: the names that OpenCV may give the codec when it reads the file back.
        suffix, segment_suffix: of the file, and of the segments that it is joined from.
        exact: every pixel comes back as it was; then it must not be made smaller to fit a limit.
    """

    name: str
    codecs: tuple[str, ...]
    suffix: str
    segment_suffix: str
    exact: bool

    def open(self, path: Path, size: tuple[int, int]) -> Segment: ...
    def join(
        self, segments: Sequence[Path], path: Path, ticks: Sequence[int], size: tuple[int, int]
    ) -> None:
        """Put all frames into one file without encoding again; frame i begins at ``ticks[i]`` /
        TICKS_PER_SECOND seconds.

        The first frame of every segment is a key frame.
        """


def disk_state(directory: Path) -> str:
    """Describe the disk for error messages, because encoders do not say why they stop."""
    free = shutil.disk_usage(directory).free
    state = f"{directory} has {free / 1e6:,.0f} MB free"
    if free < 50e6:
        state += "; the disk is full"
    return state
