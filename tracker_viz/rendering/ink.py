"""Text and dots onto pixels, with soft edges: what changes from frame to frame and is no cell of a
heatmap."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.template import text_coverage


@lru_cache(maxsize=512)
def glyph(character: str, size_px: float) -> tuple[NDArray[np.float32], int]:
    return text_coverage(character, size_px, bold=True, mono=True)


@lru_cache(maxsize=512)
def opaque_glyph(
    character: str, size_px: float, color: tuple[int, int, int], ground: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], int]:
    """What ``blend`` makes of a glyph on a plain ground, uint8 [height, width, 3], and its
    baseline: numbers change in every frame."""
    coverage, baseline = glyph(character, size_px)
    inked = np.flatnonzero(coverage.any(axis=1))
    top, end = (
        (int(inked[0]), int(inked[-1]) + 1) if len(inked) else (0, 0)
    )  # no taller than its ink: labels stand close below
    coverage, baseline = coverage[top:end], baseline - top
    pixels = np.full((*coverage.shape, 3), ground, np.uint8)
    blend(pixels, coverage, 0, 0, color)
    pixels.flags.writeable = False
    return pixels, baseline


@lru_cache(maxsize=64)
def line_of_text(
    text: str, size_px: float, *, bold: bool = True
) -> tuple[NDArray[np.float32], int]:
    return text_coverage(text, size_px, bold=bold)


@lru_cache(maxsize=512)
def opaque_text(
    text: str, size_px: float, color: tuple[int, int, int], ground: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """A line of text on a plain ground, uint8 [height, width, 3], no taller than its ink."""
    coverage, _ = text_coverage(text, size_px)
    inked = np.flatnonzero(coverage.any(axis=1))
    if len(inked):
        coverage = coverage[inked[0] : inked[-1] + 1]
    pixels = np.full((*coverage.shape, 3), ground, np.uint8)
    blend(pixels, coverage, 0, 0, color)
    pixels.flags.writeable = False
    return pixels


def blend(
    pixels: NDArray[np.uint8],
    coverage: NDArray[np.float32],
    x: int,
    y: int,
    color: tuple[int, int, int],
) -> None:
    view = pixels[max(0, y) : y + coverage.shape[0], x : x + coverage.shape[1]]
    alpha = coverage[coverage.shape[0] - view.shape[0] :, : view.shape[1], None]
    view[...] = np.rint(view + alpha * (np.array(color, np.float32) - view)).astype(np.uint8)


def paint_dot(
    pixels: NDArray[np.uint8],
    x: float,
    y: float,
    radius: float,
    rim: tuple[int, int, int],
    fill: tuple[int, int, int],
) -> None:
    reach = int(radius) + 2
    left, top = round(x) - reach, round(y) - reach
    rows, columns = np.ogrid[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
    distance = np.hypot(rows - y, columns - x).astype(np.float32)
    for size, color in ((radius, rim), (radius - 2.0 * radius / 8.0, fill)):
        blend(pixels, np.clip(size + 0.5 - distance, 0.0, 1.0), left, top, color)
