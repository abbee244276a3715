"""Write H.264 in MP4, or pixel-exact VP9 in WebM, with PyAV: the extra ``tracker-viz[hq]``.

B-frames and look-ahead are off: one picture in, one packet out, so segments are joined in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import EncoderUnavailableError, MissingDependencyError, VideoError
from tracker_viz.video.protocol import TICKS_PER_SECOND, disk_state

_BT709 = 1  # ITU-T H.273: the color matrix that browsers assume for HD
_TICK = Fraction(1, TICKS_PER_SECOND)
# FFmpeg's parser flags every H.264 picture without references as a key frame. Only an IDR picture
# is one (ISO/IEC 14496-15), and a hardware decoder that is sent elsewhere waits for the next.
_AS_FLAGGED = {"fflags": "noparse+nofillin"}


def h264() -> PyAV:
    """H.264 that every browser plays, Safari too; visually lossless at this quality, chroma at half
    resolution."""
    options = {"preset": "veryfast", "crf": "16", "bf": "0", "rc-lookahead": "0", "threads": "1"}
    return PyAV("h264", ("avc1", "h264"), ".mp4", "libx264", "yuv420p", options, exact=False)


def lossless() -> PyAV:
    """VP9 in RGB: every pixel comes back as it was drawn."""
    options = {
        "lossless": "1",
        "cpu-used": "8",
        "deadline": "realtime",
        "lag-in-frames": "0",
        "auto-alt-ref": "0",
        "threads": "1",
    }
    return PyAV("lossless", ("VP90", "vp09"), ".webm", "libvpx-vp9", "gbrp", options, exact=True)


class PyAV:
    """One of FFmpeg's encoders."""

    def __init__(
        self,
        name: str,
        codecs: tuple[str, ...],
        suffix: str,
        codec: str,
        pixel_format: str,
        options: Mapping[str, str],
        *,
        exact: bool,
    ) -> None:
        try:
            import av
        except ImportError as error:
            raise MissingDependencyError(
                f"encoder {name!r} needs PyAV ({error}): pip install 'tracker-viz[hq]'"
            ) from error
        if codec not in av.codecs_available:
            raise EncoderUnavailableError(
                f"encoder {name!r} needs {codec}, which this build of PyAV ({av.__version__}) "
                "lacks: pip install --force-reinstall --only-binary=:all: av, or use "
                "encoder=opencv"
            )
        self._av = av
        self.name, self.codecs, self.exact = name, codecs, exact
        self.suffix = self.segment_suffix = suffix
        self._codec, self._pixel_format, self._options = codec, pixel_format, dict(options)

    def open(self, path: Path, size: tuple[int, int]) -> _Segment:
        return _Segment(self._av, path, size, self._codec, self._pixel_format, self._options)

    def join(
        self, segments: Sequence[Path], path: Path, ticks: Sequence[int], size: tuple[int, int]
    ) -> None:
        av = self._av
        n_packets = 0
        options = {}
        if self.suffix == ".mp4":
            options["movflags"] = "+faststart"  # plays before all of it is loaded
        # The last frame has no next one that would end it.
        ends = [*ticks[1:], ticks[-1] + 1]
        try:
            with av.open(str(path), "w", options=options) as joined:
                stream = None
                for segment in segments:
                    with av.open(str(segment), options=_AS_FLAGGED) as source:
                        stream = stream or joined.add_stream_from_template(source.streams.video[0])
                        for packet in source.demux(video=0):
                            if packet.size == 0:
                                continue
                            if n_packets == len(ticks):
                                raise VideoError(
                                    f"the encoder made more frames than the {len(ticks)} it was "
                                    "given"
                                )
                            packet.stream, packet.time_base = stream, _TICK
                            packet.pts = packet.dts = ticks[n_packets]
                            packet.duration = ends[n_packets] - ticks[n_packets]
                            joined.mux(packet)
                            n_packets += 1
        except (av.FFmpegError, OSError) as error:
            raise VideoError(
                f"cannot write {path.name}: {error}; {disk_state(path.parent)}"
            ) from error
        if n_packets != len(ticks):
            raise VideoError(
                f"the encoder made {n_packets} frames of {len(ticks)}; {disk_state(path.parent)}"
            )


class _Segment:
    def __init__(
        self,
        av: Any,
        path: Path,
        size: tuple[int, int],
        codec: str,
        pixel_format: str,
        options: dict[str, str],
    ) -> None:
        self._av, self._path, self._pixel_format, self._n_frames = av, path, pixel_format, 0
        try:
            self._container = av.open(str(path), "w")
        except (av.FFmpegError, OSError) as error:
            raise VideoError(
                f"cannot write {path.name}: {error}; {disk_state(path.parent)}"
            ) from error
        self._stream = self._container.add_stream(codec, rate=TICKS_PER_SECOND, options=options)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = pixel_format
        self._stream.codec_context.time_base = _TICK
        if pixel_format == "yuv420p":
            context = self._stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = 1

    def __enter__(self) -> _Segment:
        return self

    def __exit__(self, *error: object) -> None:
        failed = error[0] is not None
        try:
            if not failed:
                self._mux(None)
        finally:
            try:
                self._container.close()
            except (self._av.FFmpegError, OSError) as failure:
                if not failed:
                    raise VideoError(
                        f"cannot write {self._path.name}: {failure}; "
                        f"{disk_state(self._path.parent)}"
                    ) from failure

    def write(self, pixels: NDArray[np.uint8]) -> None:
        frame = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        if self._pixel_format == "yuv420p":
            frame = frame.reformat(
                format="yuv420p",
                src_colorspace="ITU709",
                dst_colorspace="ITU709",
                dst_color_range="MPEG",
            )
        frame.pts, frame.time_base = self._n_frames, _TICK
        self._n_frames += 1
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (self._av.FFmpegError, OSError) as error:
            raise VideoError(
                f"cannot write {self._path.name}: {error}; {disk_state(self._path.parent)}"
            ) from error
