"""Divide boxes: move one side, cut a strip off, or split into rows.

    area = top_at(page, header_end)                # from there to the bottom of the page
    area, bars = cut_right(area, px(420), gap=px(40))
    plot, axis = cut_bottom(area, px(32))

Pixels are whole, and a box is never smaller than nothing.
"""

from __future__ import annotations

from dataclasses import replace

from tracker_viz.rendering.plan import Box


def top_at(box: Box, y: int) -> Box:
    """Return the box with its top moved to ``y``; all other sides stay."""
    return replace(box, y=y, height=max(0, box.bottom - y))


def bottom_at(box: Box, y: int) -> Box:
    """Return the box with its bottom moved to ``y``; all other sides stay."""
    return replace(box, height=max(0, y - box.y))


def left_at(box: Box, x: int) -> Box:
    """Return the box with its left side moved to ``x``; all other sides stay."""
    return replace(box, x=x, width=max(0, box.right - x))


def right_at(box: Box, x: int) -> Box:
    """Return the box with its right side moved to ``x``; all other sides stay."""
    return replace(box, width=max(0, x - box.x))


def cut_top(box: Box, height: int, gap: int = 0) -> tuple[Box, Box]:
    """Return (the strip of that height, what is left below it)."""
    end = box.y + height
    return bottom_at(box, end), top_at(box, end + gap)


def cut_bottom(box: Box, height: int, gap: int = 0) -> tuple[Box, Box]:
    """Return (what is left above it, the strip of that height)."""
    start = box.bottom - height
    return bottom_at(box, start - gap), top_at(box, start)


def cut_left(box: Box, width: int, gap: int = 0) -> tuple[Box, Box]:
    """Return (the strip of that width, what is left at its right)."""
    end = box.x + width
    return right_at(box, end), left_at(box, end + gap)


def cut_right(box: Box, width: int, gap: int = 0) -> tuple[Box, Box]:
    """Return (what is left at its left, the strip of that width)."""
    start = box.right - width
    return right_at(box, start - gap), left_at(box, start)


def rows(box: Box, n: int) -> list[Box]:
    """Return ``n`` equally high boxes below each other; pixels that do not divide stay free."""
    height = box.height // max(1, n)
    return [replace(box, y=box.y + number * height, height=height) for number in range(n)]
