"""Grow a video without encoding again what it has: new frames are encoded as segments of their own,
and packets are put behind each other.

    append_frames(body, 200, 12, frame_at, longer)          encodes 12 frames, copies 200
    join_film(longer, 212, last, film, duration_s=..., title=card)

The body holds frames without times. A film is the body with a title before it, every frame at its
time: so a film that grows can become slower or faster, too, without a frame being encoded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracker_viz.cores import usable_cores
from tracker_viz.errors import ConfigError, VideoError
from tracker_viz.types import Frame
from tracker_viz.video.encoders import EncoderName, encoder
from tracker_viz.video.opencv import import_cv2
from tracker_viz.video.read_back import VideoInfo, read_back
from tracker_viz.video.writer import (
    Pictures,
    encode_segments,
    timestamps,
    unwritable,
    work_directory,
)

Pixels = Frame | NDArray[np.uint8]


def append_frames(
    body: Path | None,
    n_before: int,
    n_frames: int,
    frame_at: Callable[[int], Pixels],
    path: Path,
    *,
    encoder_name: EncoderName = "auto",
    workers: int | None = None,
) -> None:
    """Write ``path``: the frames of ``body``, then ``n_frames`` new ones.

    Args:
        body: what an earlier call wrote, or None; it is left as it is.
        n_before: how many frames it holds.
        frame_at: as ``write_video`` takes it.

    Raises:
        ConfigError: there is no new frame.
        VideoError: it cannot be written or does not read back right. Nothing is at ``path`` then.
    """
    if n_frames < 1:
        raise ConfigError(f"at least one frame is appended; got {n_frames}")
    chosen = encoder(encoder_name)
    work = work_directory(path)
    try:
        pictures = Pictures(n_frames, frame_at, None, 1.0)
        n_workers = workers or usable_cores()
        segments = encode_segments(pictures, chosen, work, n_workers, n_frames)
        if body is not None:
            segments = [body, *segments]
        # One tick apart: a film gives them their times.
        ticks = range(n_before + n_frames)
        joined = work / path.name
        chosen.join(segments, joined, ticks, pictures.size)
        read_back(joined, segments, path, ticks, pictures.size, chosen, "")
        os.replace(joined, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def keep_frames(
    body: Path, positions: Sequence[int], path: Path, *, encoder_name: EncoderName = "auto"
) -> None:
    """Write ``path``: some frames of ``body``, decoded and encoded again.

    Args:
        positions: of the frames that stay, rising.

    Raises:
        VideoError: as ``append_frames``; or ``body`` lacks one of them.
    """
    cv2 = import_cv2()
    reader = cv2.VideoCapture(str(body), cv2.CAP_FFMPEG)
    read = 0

    # One thread asks for one frame after the other.
    def frame_at(index: int) -> NDArray[np.uint8]:
        nonlocal read
        while read <= positions[index]:
            found, pixels = reader.read()
            if not found:
                raise VideoError(f"{body.name} has {read} frames and no frame {positions[index]}")
            read += 1
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)

    try:
        append_frames(None, 0, len(positions), frame_at, path, encoder_name=encoder_name, workers=1)
    finally:
        reader.release()


def join_film(
    body: Path,
    n_frames: int,
    last: Pixels,
    path: Path,
    *,
    duration_s: Sequence[float],
    title: Pixels | None = None,
    encoder_name: EncoderName = "auto",
) -> VideoInfo:
    """Write the film of a body: encodes the title and the last frame, and copies the rest.

    Args:
        n_frames: how many frames the body holds.
        last: the picture of its last frame, which comes again to mark when the film ends.
        duration_s: of the title, if there is one, and of every frame of the body.
        title: the picture that comes first.

    Raises:
        VideoError: as ``append_frames``. A film that was at ``path`` stays.
    """
    chosen = encoder(encoder_name)
    n_shown = n_frames + (title is not None)
    ticks = timestamps(n_shown, duration_s)
    work = work_directory(path)
    try:
        ends = {"title": title, "end": last}
        encoded = {}
        for name, frame in ends.items():
            if frame is not None:
                (work / name).mkdir()
                pictures = Pictures(1, lambda _, frame=frame: frame, None, 1.0)  # type: ignore[misc]
                [encoded[name]] = encode_segments(pictures, chosen, work / name, 1, 1)
        segments = [body, encoded["end"]]
        if title is not None:
            segments = [encoded["title"], *segments]
        joined = work / path.name
        chosen.join(segments, joined, ticks, pictures.size)
        info = read_back(joined, segments, path, ticks, pictures.size, chosen, "")
        os.replace(joined, path)
        return info
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
