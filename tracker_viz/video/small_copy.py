"""Make a small copy of a film, for places that take no megabytes, such as a notebook."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import VideoError
from tracker_viz.files import temporary_directory
from tracker_viz.video.opencv import import_cv2
from tracker_viz.video.protocol import TICKS_PER_SECOND
from tracker_viz.video.writer import write_video

# Wide enough for a column of text, then smaller until the copy fits.
WIDTHS_PX = (720, 560, 420)
_MOST_PICTURES = 300

log = logging.getLogger(__name__)


def small_copy(path: Path, *, max_bytes: int) -> tuple[bytes, int] | None:
    """Return (VP8 in WebM, its width in pixels) of at most ``max_bytes``; None where no width of
    ``WIDTHS_PX`` is small enough.

    Pictures keep their times. Of more than 300, some are left out evenly.

    Raises:
        VideoError: the film cannot be read.
        MissingDependencyError: OpenCV cannot be imported here.
    """
    pictures, begins_s = _read(path, WIDTHS_PX[0])
    every = -(-len(pictures) // _MOST_PICTURES)
    pictures, begins_s = pictures[::every], [*begins_s[:-1:every], begins_s[-1]]
    durations_s = []
    for begin_s, end_s in itertools.pairwise(begins_s):
        durations_s.append(max(end_s - begin_s, 1 / TICKS_PER_SECOND))

    for width_px in WIDTHS_PX:
        contents = _encoded(pictures, durations_s, width_px)
        if len(contents) <= max_bytes:
            return contents, width_px
        log.debug("%s has %d bytes at %d pixels", path, len(contents), width_px)
    return None


def _read(path: Path, width_px: int) -> tuple[list[NDArray[np.uint8]], list[float]]:
    """Return the pictures, uint8 [height, width, 3] RGB and at most ``width_px`` wide, and the
    seconds at which they begin, with the end behind them.

    The last picture of our films marks when they end; it is the one before it again.
    """
    cv2 = import_cv2()
    film = cv2.VideoCapture(str(path))
    pictures: list[NDArray[np.uint8]] = []
    begins_s: list[float] = []
    try:
        while True:
            is_there, bgr = film.read()
            if not is_there:
                break
            begins_s.append(film.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            pictures.append(np.ascontiguousarray(_scaled(cv2, bgr, width_px)[..., ::-1]))
    finally:
        film.release()
    if len(pictures) < 2:
        raise VideoError(f"{path} is not a film that OpenCV can read; draw it again with tv.render")
    return pictures[:-1], begins_s


def _encoded(pictures: list[NDArray[np.uint8]], durations_s: list[float], width_px: int) -> bytes:
    cv2 = import_cv2()

    def picture_at(index: int) -> NDArray[np.uint8]:
        return _scaled(cv2, pictures[index], width_px)

    with temporary_directory() as directory:
        target = directory / "small.webm"
        write_video(len(pictures), picture_at, target, duration_s=durations_s, encoder="opencv")
        return target.read_bytes()


def _scaled(cv2: Any, pixels: NDArray[np.uint8], width_px: int) -> NDArray[np.uint8]:
    """Return the picture at most ``width_px`` wide. Sides are even, as encoders want them."""
    height, width = pixels.shape[:2]
    if width <= width_px:
        return pixels
    size = (width_px, height * width_px // width // 2 * 2)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
