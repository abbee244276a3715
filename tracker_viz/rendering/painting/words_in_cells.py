"""Paint words into the cells of a map, dark on bright cells and bright on dark ones, and borders
around the cells that are marked."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.painting.cells import Canvas
from tracker_viz.rendering.plan import Plan, WordMap
from tracker_viz.rendering.text import blend, text_coverage, text_width
from tracker_viz.rendering.theme import rgb

_DARK, _BRIGHT = (13, 17, 23), (255, 255, 255)
_LEAST = 0.68  # part of its size down to which a long word shrinks before it is cut off
_BRIGHT_FROM = 140  # luma (ITU-R BT.601) from which a cell needs dark words


class CellWords:
    """Paints one WordMap of a plan."""

    def __init__(self, plan: Plan, words: WordMap) -> None:
        self._words, self._unit = words, plan.unit
        scale = plan.scales[words.scale]
        colors = scale.table()[scale.drawn(words.values).view(np.uint16)]
        luma = colors @ np.array([0.299, 0.587, 0.114])
        # bool [capture, row, column]
        self._is_bright = luma >= _BRIGHT_FROM
        self._border = rgb(plan.theme.roles.get("induction", plan.theme.accent))

    def paint(self, canvas: Canvas, capture: int) -> None:
        """Paint the words of a capture onto cells that were painted just now."""
        words, box = self._words, self._words.box
        rows = words.texts[capture]
        cell_y, cell_x = box.height // len(rows), box.width // len(rows[0])
        line_px = max(2, round(3 * self._unit))
        for row, texts in enumerate(rows):
            for column, text in enumerate(texts):
                top, left = box.y + row * cell_y, box.x + column * cell_x
                cell = canvas.pixels[top : top + cell_y, left : left + cell_x]
                if words.marked[capture, row, column]:
                    _frame(cell, line_px, self._border)
                if text:
                    is_bright = bool(self._is_bright[capture, row, column])
                    _write(cell, text, words.size_px, _DARK if is_bright else _BRIGHT)


def _frame(cell: NDArray[np.uint8], line_px: int, color: tuple[int, int, int]) -> None:
    """Paint a border just inside of a cell, away from the line between cells."""
    inside = cell[2:-2, 2:-2]
    inside[:line_px] = inside[-line_px:] = color
    inside[:, :line_px] = inside[:, -line_px:] = color


def _write(cell: NDArray[np.uint8], text: str, size_px: float, color: tuple[int, int, int]) -> None:
    height, width = cell.shape[:2]
    coverage = _fitted(text, size_px, width - 10)
    if coverage.shape[0] > height:
        return
    blend(
        cell, coverage, (width - coverage.shape[1]) // 2, (height - coverage.shape[0]) // 2, color
    )


@lru_cache(maxsize=1 << 14)
def _fitted(text: str, size_px: float, room: int) -> NDArray[np.float32]:
    """Return how much of each pixel a word covers: smaller where it is too wide, then cut off. Its
    height is that of a line from the top of capitals to below the baseline, the same for all."""
    size = size_px
    width = text_width(text, size, bold=True)
    if width > room:
        size = max(size_px * _LEAST, size_px * room / width)
    while len(text) > 1 and text_width(text, size, bold=True) > room:
        text = text[:-2] + "…" if len(text) > 2 else text[:1]
    coverage, baseline = text_coverage(text, size, bold=True)
    top = max(0, round(baseline - 0.8 * size))
    return coverage[top : round(baseline + 0.26 * size), :room]
