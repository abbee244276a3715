"""Measure text, draw it as coverage, and blend it onto pixels with soft edges."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.backend import DPI, MPL_LOCK, POINTS, figure_pixels
from tracker_viz.rendering.theme import fixed_style, font_families, say_what_has_no_glyph


def text_coverage(
    text: str, size_px: float, *, bold: bool = False, mono: bool = False
) -> tuple[NDArray[np.float32], int]:
    """How much of each pixel a text covers, float32 [height, width] in 0..1, and the row of its
    baseline.

    Width is the text's advance, so that pieces set side by side stand as in one string.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    with MPL_LOCK, fixed_style():
        font = FontProperties(
            family=font_families(mono=mono),
            size=size_px * POINTS,
            weight="bold" if bold else "normal",
        )
        width = text_width(text, size_px, bold=bold, mono=mono)
        height, below = round(size_px * 1.5), round(size_px * 0.4)
        figure = Figure((max(width, 1) / DPI, height / DPI), dpi=DPI, facecolor="black")
        FigureCanvasAgg(figure)
        figure.text(
            0,
            below / height,
            text,
            color="white",
            fontproperties=font,
            ha="left",
            va="baseline",
            parse_math=False,
        )
        return figure_pixels(figure)[..., 0].astype(np.float32) / 255.0, height - below


@lru_cache(maxsize=1 << 14)
def text_width(text: str, size_px: float, *, bold: bool = False, mono: bool = False) -> int:
    """Pixels that a text is wide."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    with MPL_LOCK, fixed_style():
        say_what_has_no_glyph(text)
        font = FontProperties(
            family=font_families(mono=mono),
            size=size_px * POINTS,
            weight="bold" if bold else "normal",
        )
        width, _, _ = RendererAgg(4, 4, DPI).get_text_width_height_descent(text, font, ismath=False)
    return round(width)


def fitted_px(text: str, size_px: float, room: float, *, bold: bool = False) -> float:
    """The size, ``size_px`` or smaller, in which a text is no wider than ``room`` pixels: letters
    are as wide as whole pixels allow."""
    while (width := text_width(text, size_px, bold=bold)) > room and size_px > 1.0:
        size_px = min(size_px - 0.125, size_px * room / width)
    return size_px


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
