"""Load an encoder by its name."""

from __future__ import annotations

from typing import Literal, get_args

from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.video.protocol import Encoder

EncoderName = Literal["auto", "opencv", "h264", "lossless"]
ENCODERS: tuple[EncoderName, ...] = get_args(EncoderName)


def encoder(name: str) -> Encoder:
    """Return the encoder with this name; ``auto`` is ``opencv``.

    Raises:
        ConfigError: no encoder has this name.
        MissingDependencyError: its package is not installed here.
        EncoderUnavailableError: the installed package lacks the codec.
    """
    if name not in ENCODERS:
        raise ConfigError(unknown_name("encoder", str(name), ENCODERS))
    if name in ("auto", "opencv"):
        from tracker_viz.video.opencv import OpenCV

        return OpenCV()
    from tracker_viz.video.pyav import h264, lossless

    return h264() if name == "h264" else lossless()


def suffix_of(name: EncoderName) -> str:
    """Return the suffix of the files that an encoder writes, without loading it."""
    if name not in ENCODERS:
        raise ConfigError(unknown_name("encoder", str(name), ENCODERS))
    return ".mp4" if name == "h264" else ".webm"
