"""Measure text, draw it as coverage, and blend it onto pixels with soft edges."""

from __future__ import annotations

import atexit
import json
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering import kept
from tracker_viz.rendering.backend import DPI, POINTS, figure_pixels
from tracker_viz.rendering.theme import (
    fixed_style,
    font_families,
    letters_without_glyph,
    say_what_has_no_glyph,
)

TextKey = tuple[str, float, bool, bool]

_KIND = "texts"
_MOST_WIDTHS, _MOST_PIXELS = 5_000, 4 << 20


def text_coverage(
    text: str, size_px: float, *, bold: bool = False, mono: bool = False
) -> tuple[NDArray[np.float32], int]:
    """Return how much of each pixel a text covers, float32 [height, width] in 0..1, and the row of
    its baseline.

    Width is the text's advance, so that pieces set side by side stand as in one string.
    """
    known = known_texts()
    key = (text, size_px, bold, mono)
    if key not in known.drawn:
        known.add_drawing(key, _drawn_text(text, size_px, bold=bold, mono=mono))
    height, below = _text_height(size_px)
    return known.drawn[key].astype(np.float32) / 255.0, height - below


def _text_height(size_px: float) -> tuple[int, int]:
    """Return (height of a line of text in pixels, pixels of it below the baseline)."""
    return round(size_px * 1.5), round(size_px * 0.4)


def _drawn_text(text: str, size_px: float, *, bold: bool, mono: bool) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    with fixed_style():
        font = FontProperties(
            family=font_families(mono=mono),
            size=size_px * POINTS,
            weight="bold" if bold else "normal",
        )
        width = text_width(text, size_px, bold=bold, mono=mono)
        height, below = _text_height(size_px)
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
        return figure_pixels(figure)[..., 0].copy()


@lru_cache(maxsize=1 << 14)
def text_width(text: str, size_px: float, *, bold: bool = False, mono: bool = False) -> int:
    """Return the width of a text in pixels."""
    known = known_texts()
    key = (text, size_px, bold, mono)
    if key not in known.widths:
        known.add_width(key, _measured_width(text, size_px, bold=bold, mono=mono))
    return known.widths[key]


def _measured_width(text: str, size_px: float, *, bold: bool, mono: bool) -> int:
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    with fixed_style():
        say_what_has_no_glyph(text)
        font = FontProperties(
            family=font_families(mono=mono),
            size=size_px * POINTS,
            weight="bold" if bold else "normal",
        )
        width, _, _ = RendererAgg(4, 4, DPI).get_text_width_height_descent(text, font, ismath=False)
    return round(width)


@cache
def known_texts() -> KnownTexts:
    return KnownTexts()


class KnownTexts:
    """Texts that were measured or drawn, in this process or in an earlier one, which kept them when
    it ended.

    Attributes:
        widths: (text, size in pixels, bold, mono) -> its width in pixels.
        drawn: the same -> uint8 [height, width], how much of each pixel it covers.
    """

    def __init__(self) -> None:
        self.widths: dict[TextKey, int] = {}
        self.drawn: dict[TextKey, NDArray[np.uint8]] = {}
        self._is_new = False
        fonts = kept.fonts()
        arrays = kept.recall(_KIND, fonts) if fonts else None
        if arrays is None:
            return
        listed = json.loads(arrays["texts"].tobytes())
        self.widths = {(*key,): width for *key, width in listed["widths"]}
        start = 0
        for *key, height, width in listed["drawn"]:
            pixels = arrays["pixels"][start : start + height * width]
            self.drawn[(*key,)] = pixels.reshape(height, width)
            start += height * width

    def add_width(self, key: TextKey, width: int) -> None:
        self.widths[key] = width
        self._keep_at_exit()

    def add_drawing(self, key: TextKey, pixels: NDArray[np.uint8]) -> None:
        self.drawn[key] = pixels
        self._keep_at_exit()

    def _keep_at_exit(self) -> None:
        if not self._is_new:
            self._is_new = True
            atexit.register(self.keep)

    def keep(self) -> None:
        """Write the newest of them to the disk, except those with letters that are in no font here:
        the next process has to say so again."""
        fonts = kept.fonts()
        if fonts is None:
            return
        widths = []
        for key, width in list(self.widths.items())[-_MOST_WIDTHS:]:
            if not letters_without_glyph(key[0]):
                widths.append([*key, width])
        drawn, parts, nbytes = [], [], 0
        for key, pixels in reversed(self.drawn.items()):
            nbytes += pixels.size
            if nbytes > _MOST_PIXELS:
                break
            if not letters_without_glyph(key[0]):
                drawn.append([*key, *pixels.shape])
                parts.append(pixels.reshape(-1))
        texts = json.dumps({"widths": widths, "drawn": drawn}).encode()
        pixels = np.concatenate([np.zeros(0, np.uint8), *parts])
        kept.keep(_KIND, fonts, {"texts": np.frombuffer(texts, np.uint8), "pixels": pixels})


def fitted_px(text: str, size_px: float, room: float, *, bold: bool = False) -> float:
    """Return the size, at most ``size_px``, at which a text is no wider than ``room`` pixels. Found
    step by step, because hinting rounds widths to whole pixels."""
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
    """Return a glyph on a plain ground, uint8 [height, width, 3], and its baseline. Blended once
    and cached, because numbers change in every frame."""
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
    """Return ``text_coverage`` of a line that is written in many frames, cached."""
    return text_coverage(text, size_px, bold=bold)


@lru_cache(maxsize=512)
def opaque_text(
    text: str, size_px: float, color: tuple[int, int, int], ground: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Return a line of text on a plain ground, uint8 [height, width, 3], no taller than its ink."""
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
    """Blend a color onto ``pixels``, uint8 [height, width, 3], in place, by ``coverage``, float32
    [rows, columns] in 0..1, whose left upper corner is at (x, y). What reaches beyond the top or
    the right side is cut off; ``x`` is not negative."""
    view = pixels[max(0, y) : y + coverage.shape[0], x : x + coverage.shape[1]]
    alpha = coverage[coverage.shape[0] - view.shape[0] :, : view.shape[1], None]
    view[...] = np.rint(view + alpha * (np.array(color, np.float32) - view)).astype(np.uint8)
