"""Frames -> one file that a browser plays, written whole or not at all, and read back before it gets its name.

Frames are drawn and encoded by worker threads, each a segment of its own; the segments are then joined without encoding
again. One drawn picture is one encoded frame: how long it stays lies in the timestamps, so a slow video costs no more than
a fast one. Called by the pipeline; knows nothing of captures or layouts, only of pixels.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import ConfigError, EncoderUnavailableError, MissingDependencyError, VideoError, unknown_name
from tracker_viz.types import Frame

EncoderName = Literal["auto", "opencv", "h264", "lossless"]
ENCODERS: tuple[EncoderName, ...] = get_args(EncoderName)

# All times are multiples of this: players take 60 as the frame rate, and a frame that stays is one that they do not get anew.
TICKS_PER_SECOND = 60
# Every segment starts with a key frame, so this is also how far apart a player finds points to seek to.
_SEGMENT_FRAMES = 48
_VP80 = "VP80"


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What was written, as it was read back.

    Attributes:
        n_frames: pictures that were drawn. The file holds one more: the last one again, which marks when it ends.
        codec: as the container names it, e.g. ``VP80``.
    """

    path: Path
    n_frames: int
    width: int
    height: int
    duration_s: float
    nbytes: int
    codec: str
    encoder: str


def write_video(
    n_frames: int,
    frame_at: Callable[[int], Frame | NDArray[np.uint8]],
    path: Path | str,
    *,
    duration_s: float | Sequence[float] = 0.25,
    encoder: EncoderName = "auto",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    max_bytes: int | None = None,
) -> VideoInfo:
    """Draw and encode ``n_frames`` pictures.

    Args:
        frame_at: index -> Frame, or uint8 [height, width, 3] RGB; called from several threads at once.
        path: where the video shall lie; without a suffix it gets the encoder's (``.webm``, ``.mp4``).
        duration_s: how long every picture stays, or one number for each; at least 1/60 s.
        encoder: ``opencv`` (VP8), ``h264`` or ``lossless`` (VP9; both need PyAV), or ``auto``.
        workers: threads; all cores by default.
        progress: called with (pictures done, n_frames), from one thread at a time.
        max_bytes: refuse what is larger.

    Raises:
        ConfigError: an argument has no meaning.
        VideoError: it could not be written, or did not read back as it was meant. Nothing is left under ``path`` then.
        MissingDependencyError: OpenCV cannot be imported here.
    """
    chosen = _encoder(encoder)
    path = video_path(path, encoder)
    if n_frames < 1:
        raise ConfigError(f"a video has at least one picture; got {n_frames}")
    ticks = _timestamps(n_frames, duration_s)
    work = _work_directory(path)
    try:
        pictures = _Pictures(n_frames, frame_at, progress)
        segments = _encode_segments(pictures, chosen, work, workers or os.cpu_count() or 1)
        joined = work / path.name
        chosen.join(segments, joined, ticks, pictures.size)
        info = _read_back(joined, path, ticks, pictures.size, chosen)
        if max_bytes is not None and info.nbytes > max_bytes:
            raise VideoError(
                f"the video has {info.nbytes:,} bytes and at most {max_bytes:,} are allowed: choose a smaller size or fewer captures"
            )
        os.replace(joined, path)
        return info
    finally:
        shutil.rmtree(work, ignore_errors=True)


def video_path(path: Path | str, encoder: EncoderName = "auto") -> Path:
    """``path`` with the suffix of the encoder's container.

    Raises:
        ConfigError: it has another video's suffix.
    """
    path, suffix = Path(path), _encoder(encoder).suffix
    if path.suffix.lower() == suffix:
        return path
    if path.suffix.lower() in (".webm", ".mp4", ".mkv", ".avi", ".mov", ".m4v", ".ogv"):
        raise ConfigError(f"encoder {encoder!r} writes {suffix} files; got {path.name!r}: leave the suffix out, or choose another encoder")
    return path.with_name(path.name + suffix)


def import_cv2() -> Any:
    """OpenCV, or an error that says what this machine lacks.

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
            f"OpenCV is installed but a system library is missing ({error}). On Debian or Ubuntu: apt-get install libgl1 libxcb1. "
            "Without root: pip uninstall -y opencv-python && pip install opencv-python-headless, which is the same without windows"
        )
    return f"OpenCV makes the video and cannot be imported ({error}): pip install opencv-python-headless"


# Segments: each worker draws and encodes its own; VideoWriter.write leaves the other threads running meanwhile.


class _Pictures:
    """Hands out checked pixels, counts them, and learns the video's size from the first."""

    def __init__(
        self, n_frames: int, frame_at: Callable[[int], Frame | NDArray[np.uint8]], progress: Callable[[int, int], None] | None
    ) -> None:
        self.n_frames, self._frame_at, self._progress = n_frames, frame_at, progress
        self._lock = threading.Lock()
        self._done = 0
        self.stop = threading.Event()
        self._first: NDArray[np.uint8] | None = self._checked(0)
        self.size = (self._first.shape[1], self._first.shape[0])

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        if index == 0 and self._first is not None:
            pixels, self._first = self._first, None
            return pixels
        pixels = self._checked(index)
        if (pixels.shape[1], pixels.shape[0]) != self.size:
            raise VideoError(f"every picture of a video has one size; picture 0 is {self.size}, picture {index} is {pixels.shape[1::-1]}")
        return pixels

    def count(self) -> None:
        with self._lock:
            self._done += 1
            if self._progress:
                self._progress(self._done, self.n_frames)

    def _checked(self, index: int) -> NDArray[np.uint8]:
        frame = self._frame_at(index)
        pixels = frame.pixels if isinstance(frame, Frame) else np.asarray(frame)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.shape[0] % 2 or pixels.shape[1] % 2:
            raise VideoError(
                f"a picture is uint8 [height, width, 3] with an even height and width; picture {index} is {pixels.dtype} {pixels.shape}"
            )
        return pixels


def _encode_segments(pictures: _Pictures, encoder: _OpenCV, work: Path, workers: int) -> list[Path]:
    n_frames = pictures.n_frames
    # The last picture comes twice: a container has no other way to say how long it stays.
    n_encoded = n_frames + 1
    n_segments = max(min(workers, max(1, n_encoded // 4)), math.ceil(n_encoded / _SEGMENT_FRAMES))
    cuts = [n_encoded * part // n_segments for part in range(n_segments + 1)]
    spans = [range(start, end) for start, end in itertools.pairwise(cuts)]
    paths = [work / f"segment-{number:05d}{encoder.segment_suffix}" for number in range(n_segments)]
    with ThreadPoolExecutor(min(workers, n_segments), thread_name_prefix="video") as pool:
        futures = [pool.submit(_encode_segment, pictures, encoder, span, path) for span, path in zip(spans, paths, strict=True)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Reached early when a segment fails or somebody presses Ctrl-C: the others must not draw on for minutes.
            if not all(future.done() and not future.exception() for future in futures):
                pictures.stop.set()
                for future in futures:
                    future.cancel()
    failed = [future.exception() for future in futures if not future.cancelled() and future.exception()]
    if failed:
        raise failed[0]  # type: ignore[misc]
    return paths


def _encode_segment(pictures: _Pictures, encoder: _OpenCV, span: range, path: Path) -> None:
    with encoder.open(path, pictures.size) as segment:
        pixels = None
        for position in span:
            if pictures.stop.is_set():
                return
            is_repeat = position == pictures.n_frames
            if pixels is None or not is_repeat:
                pixels = pictures[min(position, pictures.n_frames - 1)]
            segment.write(pixels)
            if not is_repeat:
                pictures.count()


# OpenCV: VP8 in WebM, the one codec of its wheels that browsers play.


class _OpenCVSegment:
    def __init__(self, writer: Any, cv2: Any) -> None:
        self._writer, self._cv2 = writer, cv2

    def __enter__(self) -> _OpenCVSegment:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.release()

    def write(self, pixels: NDArray[np.uint8]) -> None:
        self._writer.write(self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2BGR))


class _OpenCV:
    name, codec, suffix = "opencv", _VP80, ".webm"
    segment_suffix = ".avi"  # every container will do for a segment; OpenCV writes a warning for each WebM that it opens

    def __init__(self) -> None:
        self._cv2 = import_cv2()

    def open(self, path: Path, size: tuple[int, int]) -> _OpenCVSegment:
        cv2 = self._cv2
        # At one frame a second libvpx uses its realtime mode, three times as fast at the same quality; join() sets the true times.
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*_VP80), 1.0, size)
        if not writer.isOpened():
            raise EncoderUnavailableError(
                f"OpenCV {cv2.__version__} cannot write VP8 here; the wheels of opencv-python and opencv-python-headless can: "
                "pip install --force-reinstall opencv-python-headless, or use encoder=h264 (pip install 'tracker-viz[hq]')"
            )
        return _OpenCVSegment(writer, cv2)

    def join(self, segments: Sequence[Path], path: Path, ticks: Sequence[int], size: tuple[int, int]) -> None:
        cv2 = self._cv2
        # Without KEY_INTERVAL OpenCV flags every packet as a key frame, and browsers then seek into garbage.
        options = [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1, cv2.VIDEOWRITER_PROP_KEY_INTERVAL, 1 << 30]
        with _quiet_stderr():
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*_VP80), float(TICKS_PER_SECOND), size, options)
        if not writer.isOpened():
            raise VideoError(f"cannot write {path.name} in {path.parent}: {_disk_state(path.parent)}")
        try:
            n_packets = 0
            for segment in segments:
                reader = cv2.VideoCapture(str(segment), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
                while True:
                    found, packet = reader.read()
                    if not found:
                        break
                    if n_packets == len(ticks):
                        raise VideoError(f"the encoder made more frames than the {len(ticks)} it was given")
                    is_key = not packet.ravel()[0] & 1  # RFC 6386, section 9.1: the lowest bit of a key frame's first byte is 0
                    writer.set(cv2.VIDEOWRITER_PROP_KEY_FLAG, int(is_key))
                    writer.set(cv2.VIDEOWRITER_PROP_PTS, ticks[n_packets])
                    writer.write(packet)
                    n_packets += 1
                reader.release()
        finally:
            writer.release()
        if n_packets != len(ticks):
            raise VideoError(f"the encoder made {n_packets} frames of {len(ticks)}: {_disk_state(path.parent)}")


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """OpenCV prints to the process's stderr that WebM has no four-letter tag for VP8, which is so and does not matter."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _encoder(name: EncoderName) -> _OpenCV:
    if name not in ENCODERS:
        raise ConfigError(unknown_name("encoder", str(name), ENCODERS))
    return _OpenCV()


# Times, places, and the check at the end.


def _timestamps(n_frames: int, duration_s: float | Sequence[float]) -> list[int]:
    """When each frame of the file begins, in ticks: one for each picture, and the end less one tick."""
    durations = np.full(n_frames, float(duration_s)) if isinstance(duration_s, int | float) else np.asarray(duration_s, np.float64)
    if durations.shape != (n_frames,):
        raise ConfigError(f"durations are one number, or one for each of the {n_frames} pictures; got {durations.shape}")
    if not np.isfinite(durations).all() or durations.min() * TICKS_PER_SECOND < 1 - 1e-6:
        raise ConfigError(f"a picture stays for at least 1/{TICKS_PER_SECOND} s; got {durations.min():g} s")
    ends = np.rint(np.cumsum(durations) * TICKS_PER_SECOND).astype(int)
    starts = [0, *ends[:-1].tolist()]
    return [*starts, max(int(ends[-1]) - 1, starts[-1] + 1)]


def _work_directory(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise VideoError(f"the video's path {path} is a directory; name a file in it")
        # Beside the target, so that the last step is a rename within one file system.
        return Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    except OSError as error:
        raise VideoError(f"the video cannot be written to {path.parent}: {error}; choose another output") from error


def _read_back(written: Path, path: Path, ticks: Sequence[int], size: tuple[int, int], encoder: _OpenCV) -> VideoInfo:
    cv2 = import_cv2()
    reader = cv2.VideoCapture(str(written), cv2.CAP_FFMPEG)
    if not reader.isOpened():
        raise VideoError(f"{path.name} was written but does not open again: {_disk_state(written.parent)}")
    try:
        times_s: list[float] = []
        found_size = None
        while True:
            found, pixels = reader.read()
            if not found:
                break
            found_size = (pixels.shape[1], pixels.shape[0])
            times_s.append(reader.get(cv2.CAP_PROP_POS_MSEC) / 1000.0)
        fourcc = int(reader.get(cv2.CAP_PROP_FOURCC))
    finally:
        reader.release()
    codec = "".join(chr(fourcc >> shift & 255) for shift in (0, 8, 16, 24))
    if len(times_s) != len(ticks) or found_size != size or codec != encoder.codec:
        raise VideoError(
            f"{path.name} should hold {len(ticks)} {encoder.codec} frames of {size}; it reads back as {len(times_s)} {codec} frames "
            f"of {found_size}: {_disk_state(written.parent)}"
        )
    off = max(abs(time_s - tick / TICKS_PER_SECOND) for time_s, tick in zip(times_s, ticks, strict=True))
    if off > 0.002:
        raise VideoError(
            f"{path.name} has a frame {off:.3f} s away from its time; please report this with the version of OpenCV ({cv2.__version__})"
        )
    duration_s = (ticks[-1] + 1) / TICKS_PER_SECOND
    return VideoInfo(path, len(ticks) - 1, *size, duration_s, written.stat().st_size, codec, encoder.name)


def _disk_state(directory: Path) -> str:
    free = shutil.disk_usage(directory).free
    return f"{directory} has {free / 1e6:,.0f} MB free" + ("; the disk is full" if free < 50e6 else "")
