"""Read a video back before it gets its name: every packet, every time, and the first picture."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracker_viz.errors import VideoError
from tracker_viz.video.opencv import import_cv2
from tracker_viz.video.protocol import TICKS_PER_SECOND, Encoder, disk_state


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A video as it was read back.

    Attributes:
        n_frames: pictures that were drawn. The file holds one more: the last one again, which marks
            when it ends.
        codec: as the container names it, e.g. ``VP80``.
        notice: for the viewer, for example that it had to be made smaller; empty otherwise.
    """

    path: Path
    n_frames: int
    width: int
    height: int
    duration_s: float
    nbytes: int
    codec: str
    encoder: str
    notice: str = ""


def read_back(
    written: Path,
    segments: Sequence[Path],
    path: Path,
    ticks: Sequence[int],
    size: tuple[int, int],
    chosen: Encoder,
    notice: str,
) -> VideoInfo:
    """Check that the joined file holds the packets that the encoders made, to the bit, each at its
    time; and its first picture, decoded. Return what it holds.

    Decoding all of them would take a fifth of the encoder's own time, and would not see that a last
    packet was cut short.
    """
    codec, found_size = _first_picture(written)
    packets = _packets(written)
    if len(packets) != len(ticks) or found_size != size or codec not in chosen.codecs:
        raise VideoError(
            f"{path.name} should hold {len(ticks)} {chosen.codecs[0]} frames of {size}; it reads "
            f"back as {len(packets)} {codec} frames of {found_size}; {disk_state(written.parent)}"
        )
    made: list[int] = []
    for segment in segments:
        made += [checksum for _, checksum in _packets(segment)]
    wrong = sum(here != there for (_, here), there in zip(packets, made, strict=True))
    if wrong:
        raise VideoError(
            f"{path.name} reads back with {wrong} frames that are not what was encoded; "
            f"{disk_state(written.parent)}"
        )
    off = max(
        abs(time_s - tick / TICKS_PER_SECOND)
        for (time_s, _), tick in zip(packets, ticks, strict=True)
    )
    if off > 0.002:
        raise VideoError(
            f"{path.name} has a frame {off:.3f} s away from its time; please report this with "
            f"OpenCV's version ({import_cv2().__version__})"
        )
    duration_s = (ticks[-1] + 1) / TICKS_PER_SECOND
    return VideoInfo(
        path, len(ticks) - 1, *size, duration_s, written.stat().st_size, codec, chosen.name, notice
    )


def _first_picture(video: Path) -> tuple[str, tuple[int, int] | None]:
    """Return (codec as the container names it, size of the first picture, decoded); ``readable``
    and None where it cannot be decoded."""
    cv2 = import_cv2()
    reader = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG)
    found, first = reader.read()
    fourcc = int(reader.get(cv2.CAP_PROP_FOURCC))
    reader.release()
    if not found:
        return "readable", None
    codec = (fourcc & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1")
    return codec, first.shape[1::-1]


def _packets(video: Path) -> list[tuple[float, int]]:
    """Return (when it begins in seconds, checksum of what was encoded) of every frame."""
    cv2 = import_cv2()
    reader = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    packets: list[tuple[float, int]] = []
    try:
        while True:
            found, packet = reader.read()
            if not found:
                return packets
            packets.append((reader.get(cv2.CAP_PROP_POS_MSEC) / 1000.0, zlib.crc32(packet)))
    finally:
        reader.release()
