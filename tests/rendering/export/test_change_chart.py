"""The picture of two captures beside each other."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tracker_viz.rendering import THEMES, ChangedHead, write_change_chart


def test_every_head_has_its_maps_before_and_after_and_broken_cells_are_seen(tmp_path):
    looks_back = np.eye(12, k=-1, dtype=np.float32)
    broken = looks_back.copy()
    broken[5, 2] = np.nan
    heads = [
        ChangedHead("L0H1", "1 bit", np.eye(12, dtype=np.float32), broken),
        ChangedHead("L1H0", ".2 bits", -looks_back, 2 * looks_back, is_signed=True),
    ]
    labels = {"title": "What changed", "explained": "In words.", "before": "0", "after": "9"}
    path = write_change_chart(tmp_path / "one", heads[:1], theme="light", **labels)
    assert path == tmp_path / "one.png"
    colors = colors_of(path)
    nonfinite = bytes.fromhex(THEMES["light"].nonfinite[1:])
    assert colors[nonfinite] == 2 * (250 // 12) ** 2  # after, and in the difference
    path = write_change_chart(tmp_path / "two", heads, theme="light", **labels)
    assert Image.open(path).width > Image.open(tmp_path / "one.png").width


def colors_of(path):
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    return {color.tobytes(): count for color, count in zip(colors, counts, strict=True)}
