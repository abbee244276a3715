"""Write VP8 in WebM with OpenCV: the one codec that its wheels write and browsers play."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import EncoderUnavailableError, MissingDependencyError, VideoError
from tracker_viz.video.protocol import TICKS_PER_SECOND, disk_state

_VP80 = "VP80"


class OpenCV:
    """VP8, written by OpenCV alone."""

    name = "opencv"
    codecs: tuple[str, ...] = (_VP80,)
    suffix = ".webm"
    exact = False
    # Any container will do for a segment; OpenCV prints a warning for each WebM that it opens.
    segment_suffix = ".avi"

    def __init__(self) -> None:
        self._cv2 = cv2 = import_cv2()
        if not hasattr(cv2, "VIDEOWRITER_PROP_PTS"):
            raise EncoderUnavailableError(
                f"OpenCV {cv2.__version__} cannot report the time of a frame, and "
                "4.11 can: pip install --upgrade opencv-python, or "
                "opencv-python-headless if that is installed"
            )

    def open(self, path: Path, size: tuple[int, int]) -> _OpenCVSegment:
        cv2 = self._cv2
        # At one frame a second libvpx uses its realtime mode, three times as fast at the same
        # quality; join() sets the true times.
        writer = cv2.VideoWriter(
            str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*_VP80), 1.0, size
        )
        if not writer.isOpened():
            raise EncoderUnavailableError(
                f"OpenCV {cv2.__version__} cannot write VP8 here; the wheels of opencv-python and "
                "opencv-python-headless can: pip install --force-reinstall opencv-python-headless, "
                "or use encoder=h264 (pip install 'tracker-viz[hq]')"
            )
        return _OpenCVSegment(writer, cv2, path)

    def join(
        self, segments: Sequence[Path], path: Path, ticks: Sequence[int], size: tuple[int, int]
    ) -> None:
        cv2 = self._cv2
        # Without KEY_INTERVAL OpenCV flags every packet as a key frame, and browsers then seek into
        # garbage.
        options = [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1, cv2.VIDEOWRITER_PROP_KEY_INTERVAL, 1 << 30]
        with _quiet_stderr():
            writer = cv2.VideoWriter(
                str(path),
                cv2.CAP_FFMPEG,
                cv2.VideoWriter_fourcc(*_VP80),
                float(TICKS_PER_SECOND),
                size,
                options,
            )
        if not writer.isOpened():
            raise VideoError(
                f"cannot write {path.name} in {path.parent}: {disk_state(path.parent)}"
            )
        n_packets = 0
        try:
            for packet in self._packets(segments):
                if n_packets == len(ticks):
                    raise VideoError(
                        f"the encoder made more frames than the {len(ticks)} it was given"
                    )
                # RFC 6386, section 9.1: the lowest bit of a key frame's first byte is 0.
                is_key = not packet.ravel()[0] & 1
                writer.set(cv2.VIDEOWRITER_PROP_KEY_FLAG, int(is_key))
                writer.set(cv2.VIDEOWRITER_PROP_PTS, ticks[n_packets])
                writer.write(packet)
                n_packets += 1
        finally:
            writer.release()
        if n_packets != len(ticks):
            raise VideoError(
                f"the encoder made {n_packets} frames of {len(ticks)}: {disk_state(path.parent)}"
            )

    def _packets(self, segments: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
        """Yield the encoded frames of the segments, uint8 [1, byte], without decoding them."""
        cv2 = self._cv2
        for segment in segments:
            # Format -1 reads packets instead of pictures.
            reader = cv2.VideoCapture(str(segment), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
            while True:
                found, packet = reader.read()
                if not found:
                    break
                yield packet
            reader.release()


class _OpenCVSegment:
    def __init__(self, writer: Any, cv2: Any, path: Path) -> None:
        self._writer, self._cv2, self._path = writer, cv2, path
        self._bgr: NDArray[np.uint8] | None = None

    def __enter__(self) -> _OpenCVSegment:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.release()
        if error[0] is None:
            _check_whole(self._path)

    def write(self, pixels: NDArray[np.uint8]) -> None:
        # Into the same memory each time: getting new memory for every picture takes longer than the
        # conversion.
        self._bgr = self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2BGR, dst=self._bgr)
        self._writer.write(self._bgr)


def _check_whole(segment: Path) -> None:
    """Raise for a segment that was cut short, because OpenCV does not report failed writes. An
    AVI's header gets the file's length when all of it is written."""
    with segment.open("rb") as file:
        header = file.read(8)
    nbytes = segment.stat().st_size
    if header[:4] != b"RIFF" or int.from_bytes(header[4:], "little") + 8 != nbytes:
        raise VideoError(
            f"a part of the video was cut short after {nbytes / 1e6:,.1f} MB: "
            f"{disk_state(segment.parent)}"
        )


def import_cv2() -> Any:
    """Import OpenCV, or raise an error that says what this machine lacks.

    Raises:
        MissingDependencyError: the package or a system library is not there.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingDependencyError(_opencv_advice(error)) from error
    return cv2


def _opencv_advice(error: ImportError) -> str:
    if "libGL" in str(error) or "libxcb" in str(error) or ".so" in str(error):
        return (
            f"OpenCV is installed but a system library is missing ({error}). On Debian or Ubuntu: "
            "apt-get install libgl1 libxcb1. Without root: pip uninstall -y opencv-python && pip "
            "install opencv-python-headless, which is the same without windows"
        )
    return (
        f"OpenCV makes the video and cannot be imported ({error}): pip install "
        "opencv-python-headless"
    )


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Silence the process's stderr: OpenCV prints there that WebM has no four-letter tag for VP8,
    which does not matter."""
    if sys.stderr is not None:
        sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
