"""Make small captures for tests of adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tracker_viz import capture_file
from tracker_viz.types import Capture, CapturePath


def make_capture(
    step: int, *, seed: int = 0, size: int = 8, metrics: Mapping[str, float] | None = None
) -> Capture:
    """Return a small capture whose contents depend on ``step`` and ``seed`` only. ``size``: side of
    its attention maps."""
    if metrics is None:
        metrics = {"loss": 4.0 / (1 + step), "attn/induction_max": step / 1000}
    rng = np.random.default_rng([seed, step])
    scores = rng.normal(size=(1, 2, size, size))
    scores[..., ~np.tri(size, dtype=bool)] = -np.inf
    attention = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return Capture(
        step=step,
        arrays={"blocks.0.attn.pattern": attention.astype(np.float16)},
        axes={"blocks.0.attn.pattern": ("probe", "head", "query", "key")},
        tokens_seen=step * 64,
        metrics=metrics,
        model={"name": "tiny", "n_blocks": 1, "n_heads": 2},
    )


def write_captures(
    steps: range | list[int], directory: Path, *, seed: int = 0, size: int = 8
) -> list[CapturePath]:
    """Write capture files into ``directory``, as the spool would hand them to a tracker."""
    captures = []
    for step in steps:
        capture = make_capture(step, seed=seed, size=size)
        path = directory / capture.file_name
        captures.append(CapturePath(capture_file.write(capture, path), path))
    return captures
