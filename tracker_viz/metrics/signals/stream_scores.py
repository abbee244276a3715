"""Turn what was measured of the residual stream behind every block into scores of the blocks.

``blocks.<i>.stream`` comes in, as ``capture.signals.residual`` measured it on every row of the
probe; ``scores.stream.<name>`` goes out. Called by ``scorer``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from tracker_viz.errors import CaptureError
from tracker_viz.metrics.head_measures import Floats
from tracker_viz.types import Capture

STREAM_NAME = re.compile(r"blocks\.(\d+)\.stream")
# Along the last axis of ``blocks.<i>.stream``.
STREAM_MEASURES = ("rms", "top_share")
# Along the axis ``place``: the first position of a row, where massive activations are, and the
# mean over the others.
PLACES = ("first", "others")


def streams_of(capture: Capture) -> dict[int, Floats]:
    """Return block -> float32 [probe, place, measure].

    Raises:
        CaptureError: an array has other axes.
    """
    streams = {}
    for name, array in capture.arrays.items():
        if match := STREAM_NAME.fullmatch(name):
            if array.ndim != 3 or array.shape[1] > len(PLACES) or array.shape[2] != 2:
                raise CaptureError(
                    f"{name} must be [probe, place, measure]; it has shape {array.shape}"
                )
            streams[int(match[1])] = array
    return dict(sorted(streams.items()))


def stream_scores(streams: Mapping[int, Floats], *, n_blocks: int) -> dict[str, Floats]:
    """Return score -> float32 [block, place], the mean over the rows of the probe; NaN where a
    block's stream was not seen, or has no such place. Nothing where none was seen.

    ``rms`` is the root mean square over positions and channels, ``top_share`` the share, 0..1, of
    the energy in the four largest channels (Sun et al. 2024, arXiv:2402.17762).
    """
    scores = {}
    for index, name in enumerate(STREAM_MEASURES if streams else ()):
        scores[name] = np.full((n_blocks, len(PLACES)), np.nan, np.float32)
        for block, stream in streams.items():
            scores[name][block, : stream.shape[1]] = stream[..., index].mean(0)
    return scores
