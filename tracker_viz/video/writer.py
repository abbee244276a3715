"""Write a video: worker threads draw and encode a segment each; these are joined, read back, and
renamed into place.

One drawn picture is one encoded frame, and timestamps say how long it is shown, so a slow video
costs no more than a fast one.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracker_viz.cores import usable_cores
from tracker_viz.errors import ConfigError, VideoError
from tracker_viz.files import make_torn_directory
from tracker_viz.types import Frame
from tracker_viz.video.encoders import EncoderName, encoder, suffix_of
from tracker_viz.video.opencv import import_cv2
from tracker_viz.video.protocol import TICKS_PER_SECOND, Encoder, disk_state
from tracker_viz.video.read_back import VideoInfo, read_back

# Every segment starts with a key frame, so this is also how far apart a player finds points to seek
# to.
_SEGMENT_FRAMES = 48
# More threads that draw would only take turns at Python's lock, three times as slowly; the encoders
# work without it.
_DRAWN_AT_ONCE = 3
_SMALLEST_SCALE = 0.3  # below this a picture says nothing any more
_VIDEO_SUFFIXES = (".webm", ".mp4", ".mkv", ".avi", ".mov", ".m4v", ".ogv")

log = logging.getLogger(__name__)


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
        frame_at: index -> Frame, or uint8 [height, width, 3] RGB; called from up to three threads
            at once. The pixels may change when the same thread asks for its next picture.
        path: of the video; without a suffix it gets the encoder's (``.webm``, ``.mp4``).
        duration_s: of every picture, or one number for each; at least 1/60 s.
        encoder: ``opencv`` (VP8), ``h264`` or ``lossless`` (VP9; both need PyAV). ``auto`` is h264
            for a path that ends in ``.mp4``, else opencv.
        workers: threads; all cores by default.
        progress: called with (pictures done, n_frames), from one thread at a time.
        max_bytes: a video that becomes larger is made again in a smaller size, and says so in its
            ``notice``.

    Raises:
        ConfigError: an argument has no meaning.
        VideoError: it could not be written, does not read back right, or cannot be made to fit
            ``max_bytes``. Nothing is left under ``path`` then.
        MissingDependencyError: OpenCV, or PyAV where it was asked for, cannot be imported here.
    """
    path = video_path(path, encoder)
    chosen = _chosen(path, encoder)
    if n_frames < 1:
        raise ConfigError(f"a video has at least one picture; got {n_frames}")
    ticks = timestamps(n_frames, duration_s)
    n_workers = workers or usable_cores()
    work = work_directory(path)
    try:
        scale, notice = 1.0, ""
        while True:
            pictures = Pictures(n_frames, frame_at, progress, scale)
            # The last picture comes twice: a container has no other way to say how long it stays.
            segments = encode_segments(pictures, chosen, work, n_workers, n_frames + 1)
            joined = work / path.name
            chosen.join(segments, joined, ticks, pictures.size)
            nbytes = joined.stat().st_size
            if max_bytes is None or nbytes <= max_bytes:
                break
            scale, notice = _smaller(chosen, scale, nbytes, max_bytes, pictures.size)
            log.warning("%s: %s", path.name, notice)
        info = read_back(joined, segments, path, ticks, pictures.size, chosen, notice)
        os.replace(joined, path)
        return info
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def video_path(path: Path | str, encoder: EncoderName = "auto") -> Path:
    """Return ``path`` with the suffix of the encoder's container.

    Raises:
        ConfigError: it has another video's suffix.
    """
    path, suffix = Path(path), suffix_of(encoder)
    if path.suffix.lower() == suffix or (encoder == "auto" and path.suffix.lower() == ".mp4"):
        return path
    if path.suffix.lower() in _VIDEO_SUFFIXES:
        raise ConfigError(
            f"encoder {encoder!r} writes {suffix} files; got {path.name!r}: leave the suffix out, "
            "or choose another encoder"
        )
    return path.with_name(path.name + suffix)


def timestamps(n_frames: int, duration_s: float | Sequence[float]) -> list[int]:
    """Return the tick at which each frame of the file begins: one for each picture, and one tick
    before the end."""
    durations = np.asarray(duration_s, np.float64)
    if not durations.ndim:
        durations = np.full(n_frames, durations)
    if durations.shape != (n_frames,):
        raise ConfigError(
            f"durations are one number, or one for each of the {n_frames} pictures; got "
            f"{durations.shape}"
        )
    if not np.isfinite(durations).all() or durations.min() * TICKS_PER_SECOND < 1 - 1e-6:
        raise ConfigError(
            f"a picture stays for at least 1/{TICKS_PER_SECOND} s; got {durations.min():g} s"
        )
    ends = np.rint(np.cumsum(durations) * TICKS_PER_SECOND).astype(int)
    starts = np.concatenate([[0], ends[:-1]])
    if (np.diff(starts) < 1).any():  # rounding can bring two of the shortest together
        starts = np.maximum.accumulate(starts - np.arange(n_frames)) + np.arange(n_frames)
    return [*starts.tolist(), max(int(ends[-1]) - 1, int(starts[-1]) + 1)]


def _chosen(path: Path, name: EncoderName) -> Encoder:
    return encoder("h264" if name == "auto" and path.suffix.lower() == ".mp4" else name)


def _smaller(
    chosen: Encoder, scale: float, nbytes: int, max_bytes: int, size: tuple[int, int]
) -> tuple[float, str]:
    too_large = f"{nbytes / 2**20:.1f} MiB, and at most {max_bytes / 2**20:.1f} are allowed"
    if chosen.exact:
        raise VideoError(
            f"the lossless video has {too_large}: use encoder=opencv or h264, a smaller size, or "
            "fewer captures"
        )
    smaller = scale * min(0.9, 0.92 * math.sqrt(max_bytes / nbytes))
    if smaller < _SMALLEST_SCALE:
        raise VideoError(
            f"the video has {too_large} even at {size[0]}x{size[1]}: choose fewer captures, or "
            "allow more"
        )
    return smaller, f"it had {too_large}, so it was made again at {smaller:.0%} of its size"


# -- segments: each worker draws and encodes its own; encoders release Python's lock meanwhile -----


class Pictures:
    """Hands out checked pixels, counts them, and learns the video's size from the first."""

    def __init__(
        self,
        n_frames: int,
        frame_at: Callable[[int], Frame | NDArray[np.uint8]],
        progress: Callable[[int, int], None] | None,
        scale: float,
    ) -> None:
        self.n_frames = n_frames
        self._frame_at = frame_at
        self._progress = progress
        self._scale = scale
        self._lock = threading.Lock()
        self._drawing = threading.Semaphore(_DRAWN_AT_ONCE)
        self._done = 0
        self.stop = threading.Event()
        self._first: NDArray[np.uint8] | None = self._checked(0)
        self.size = (self._first.shape[1], self._first.shape[0])

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        first = self._first
        if index == 0 and first is not None:
            self._first = None
            return first
        with self._drawing:
            pixels = self._checked(index)
        if (pixels.shape[1], pixels.shape[0]) != self.size:
            raise VideoError(
                f"every picture of a video has one size; picture 0 is {self.size}, picture {index} "
                f"is {pixels.shape[1::-1]}"
            )
        return pixels

    def count(self) -> None:
        with self._lock:
            self._done += 1
            if self._progress:
                self._progress(self._done, self.n_frames)

    def _checked(self, index: int) -> NDArray[np.uint8]:
        frame = self._frame_at(index)
        pixels = frame.pixels if isinstance(frame, Frame) else np.asarray(frame)
        is_rgb = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        if not is_rgb or pixels.shape[0] % 2 or pixels.shape[1] % 2:
            raise VideoError(
                "a picture is uint8 [height, width, 3] with an even height and width; picture "
                f"{index} is {pixels.dtype} {pixels.shape}"
            )
        if self._scale == 1.0:
            return np.ascontiguousarray(pixels)
        cv2 = import_cv2()
        # Encoders take even lengths only.
        height, width = (max(2, 2 * round(length * self._scale / 2)) for length in pixels.shape[:2])
        smaller = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(smaller, np.uint8)


def encode_segments(
    pictures: Pictures, chosen: Encoder, work: Path, workers: int, n_encoded: int
) -> list[Path]:
    """Encode all pictures, in files that begin with a key frame; return these in their order.

    Args:
        n_encoded: how many frames to encode; beyond the pictures' number the last one again.
    """
    workers = min(workers, max(1, n_encoded // 4))
    # As many for each worker, so that none draws alone at the end.
    n_segments = workers * math.ceil(n_encoded / _SEGMENT_FRAMES / workers)
    cuts = [n_encoded * part // n_segments for part in range(n_segments + 1)]
    spans = [range(start, end) for start, end in itertools.pairwise(cuts)]
    paths = [work / f"segment-{number:05d}{chosen.segment_suffix}" for number in range(n_segments)]
    with ThreadPoolExecutor(workers, thread_name_prefix="video") as pool:
        futures = []
        for span, path in zip(spans, paths, strict=True):
            futures.append(pool.submit(_encode_segment, pictures, chosen, span, path))
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Reached early when a segment fails or somebody presses Ctrl-C: the others must not
            # draw on for minutes.
            if not all(future.done() and not future.exception() for future in futures):
                pictures.stop.set()
                for future in futures:
                    future.cancel()
    for future in futures:
        if not future.cancelled():
            future.result()  # raises what went wrong in it
    return paths


def _encode_segment(pictures: Pictures, chosen: Encoder, span: range, path: Path) -> None:
    with chosen.open(path, pictures.size) as segment:
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


def work_directory(path: Path) -> Path:
    """Make a directory beside ``path`` for what a video is made of.

    Raises:
        VideoError: nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise VideoError(f"the video's path {path} is a directory; name a file in it")
        # Beside the target, so that the last step is a rename within one file system.
        return make_torn_directory(path.parent)
    except OSError as error:
        raise VideoError(
            f"the video cannot be written to {path.parent}: {error}; choose another output"
        ) from error


def unwritable(path: Path, error: OSError) -> VideoError:
    """Return the error of a video that was not written, with the state of its disk."""
    return VideoError(f"the video cannot be written to {path}: {error}; {disk_state(path.parent)}")
