"""Paint the attention of all heads into one small picture, in milliseconds and without a plotting
library, for outputs that change while a model trains."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# seaborn's "mako_r", which films show attention in, at nine even points.
_COLORS = (
    (222, 245, 229),
    (153, 221, 182),
    (75, 194, 173),
    (53, 159, 171),
    (53, 123, 163),
    (59, 86, 152),
    (62, 53, 107),
    (43, 28, 53),
    (11, 4, 5),
)
_PATTERN = re.compile(r"blocks\.(\d+)\.attn\.pattern")
_GAP_PX = 2
_CLEAR = 255  # the palette's last entry is transparent
_MOST_WIDTH_PX, _MOST_HEIGHT_PX = 720, 400
_MOST_SIDE_PX, _LEAST_SIDE_PX = 72, 12


def heads_maps(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8] | None:
    """Return one small map for every head of a capture, on the probe's first row, side by side, a
    row for each block; None where ``arrays`` hold no attention.

    Where there are too many for 720 x 400 pixels, blocks are left out evenly, and heads from the
    end. A map's shade is the square root of the probability, so that weak attention is seen. It
    is transparent where a head can not look: at 0 and NaN.

    Args:
        arrays: as in ``Capture.arrays``.

    Returns:
        uint8 [height, width], for ``maps_png``.
    """
    blocks: dict[int, NDArray[Any]] = {}
    for name, array in arrays.items():
        match = _PATTERN.fullmatch(name)
        if match and array.ndim >= 3:
            blocks[int(match[1])] = array[0] if array.ndim == 4 else array
    if not blocks:
        return None
    return _side_by_side([blocks[number] for number in sorted(blocks)])


def maps_png(maps: NDArray[np.uint8]) -> bytes:
    """Return ``heads_maps`` in colors as a PNG."""
    from PIL import Image

    image = Image.fromarray(maps)
    image.putpalette(_palette().tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", transparency=_CLEAR)
    return file.getvalue()


def _side_by_side(blocks: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """``blocks``: of every block, attention [head, query, key], 0..1."""
    most_heads = max(len(heads) for heads in blocks)
    side_px = (_MOST_WIDTH_PX - _GAP_PX * most_heads) // most_heads
    side_px = min(_MOST_SIDE_PX, max(_LEAST_SIDE_PX, side_px))
    step_px = side_px + _GAP_PX
    n_columns = min(most_heads, _MOST_WIDTH_PX // step_px)
    shown = _evenly(len(blocks), _MOST_HEIGHT_PX // step_px)

    maps = np.full((len(shown) * step_px, n_columns * step_px), _CLEAR, np.uint8)
    for row, block in enumerate(shown):
        for column, shades in enumerate(_shades(blocks[block][:n_columns], side_px)):
            top, left = row * step_px, column * step_px
            maps[top : top + side_px, left : left + side_px] = shades
    return maps[:-_GAP_PX, :-_GAP_PX]


def _evenly(n: int, most: int) -> list[int]:
    """Return at most ``most`` of the numbers 0 .. n - 1, the first and the last among them."""
    return sorted({round(at) for at in np.linspace(0, n - 1, min(n, most))})


def _shades(heads: NDArray[Any], side_px: int) -> NDArray[np.uint8]:
    """Return uint8 [head, side_px, side_px], 0..254, and ``_CLEAR`` for 0. A pixel shows the
    largest of the cells that it stands for, because a mean hides thin diagonals."""
    cells = heads
    for axis in (1, 2):
        n = cells.shape[axis]
        starts = np.arange(side_px) * n // side_px
        if n > side_px:
            cells = np.fmax.reduceat(cells, starts, axis=axis)
        else:
            cells = np.take(cells, starts, axis=axis)
    probabilities = np.clip(np.nan_to_num(cells.astype(np.float32)), 0, 1)
    shades = np.asarray(np.sqrt(probabilities) * (_CLEAR - 1), np.uint8)
    return np.where(probabilities == 0, np.uint8(_CLEAR), shades)


def _palette() -> NDArray[np.uint8]:
    """Return the colors, uint8 [256, 3]."""
    at = np.linspace(0, 1, len(_COLORS))
    wanted = np.linspace(0, 1, _CLEAR + 1)
    channels = [np.interp(wanted, at, channel) for channel in zip(*_COLORS, strict=True)]
    return np.stack(channels, axis=1).astype(np.uint8)
