"""Paint the words of a frame: numbers, names in the corners of maps, and the mark of a frame that
is interpolated."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.painting.cells import Canvas
from tracker_viz.rendering.plan import Box, Label, Plan, Readout
from tracker_viz.rendering.planning.readouts import readout_text
from tracker_viz.rendering.subject import NOT_YET, Subject
from tracker_viz.rendering.text import (
    blend,
    glyph,
    line_of_text,
    opaque_glyph,
    opaque_text,
)
from tracker_viz.rendering.theme import on_color, rgb

_CHIP = 22  # at 1080p: side of the square that says the role of a head without a name


def paint_readouts(canvas: Canvas, plan: Plan, subject: Subject, metric: str, point: int) -> None:
    """Write the numbers in digits of equal width, so that they do not jump; those beside a run that
    shows nothing new are dim."""
    ground = rgb(plan.theme.ground)
    for readout in plan.readouts:
        text = readout_text(readout, plan, subject, metric, point)
        color = rgb(plan.theme.text if _is_live(readout, subject, point) else plan.theme.dim)
        x = readout.x
        if readout.align == "right":
            x -= sum(glyph(character, readout.size_px)[0].shape[1] for character in text)
        for character in text:
            sprite, baseline = opaque_glyph(character, readout.size_px, color, ground)
            y = readout.baseline - baseline
            cut = sprite[max(0, -y) :]
            rows = slice(max(0, y), max(0, y) + len(cut))
            canvas.at(rows, slice(x, x + sprite.shape[1]))[...] = cut
            x += sprite.shape[1]


def _is_live(readout: Readout, subject: Subject, point: int) -> bool:
    if readout.quantity != "run":
        return True
    timing = subject.timing
    has_begun = int(timing.captures[readout.run, point]) != NOT_YET
    return has_begun and not bool(timing.ended[readout.run, point])


def paint_corners(pixels: NDArray[np.uint8], plan: Plan, role_colors: Mapping[str, str]) -> None:
    """Write the names of heads into the corners of their maps, where attention is masked, on the
    color of the head's role: a border is too thin to be seen in a small player.

    Args:
        role_colors: heatmap name -> color of the role that its head has.
    """
    theme = plan.theme
    for heatmap in plan.heatmaps:
        color = role_colors.get(heatmap.name, "") if heatmap.mask is not None else ""
        if heatmap.corner:
            pad = max(3, round(0.3 * heatmap.corner_px))
            words, ground = (theme.dim, theme.panel)
            if color:
                words, ground = on_color(color), color
            name = opaque_text(heatmap.corner, heatmap.corner_px, rgb(words), rgb(ground))
            height, width = name.shape[:2]
            top, right = heatmap.box.y + pad, heatmap.box.right - pad
            if color:
                around = (
                    slice(top - pad, top + height + pad),
                    slice(right - width - pad, right + pad),
                )
                pixels[around] = rgb(color)
            pixels[top : top + height, right - width : right] = name
        elif color:
            _paint_chip(pixels, heatmap.box, color, plan.unit)


def _paint_chip(pixels: NDArray[np.uint8], box: Box, color: str, unit: float) -> None:
    """Fill a square in the upper right corner of a map, small enough for its masked half."""
    side = min(round(_CHIP * unit), round(0.3 * min(box.width, box.height)))
    pixels[box.y : box.y + side, box.right - side : box.right] = rgb(color)


def paint_mark(canvas: Canvas, mark: Label) -> None:
    """Say that the frame is interpolated."""
    coverage, baseline = line_of_text(mark.text, mark.size_px)
    x, y = round(mark.x) - coverage.shape[1], round(mark.y) - baseline
    rows = slice(max(0, y), y + coverage.shape[0])
    canvas.at(rows, slice(max(0, x), x + coverage.shape[1]))  # to be cleared
    blend(canvas.pixels, coverage, x, y, rgb(mark.color))
