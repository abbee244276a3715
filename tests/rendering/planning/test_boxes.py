"""Boxes are divided without a gap or an overlap that nobody asked for."""

from __future__ import annotations

import pytest

from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.boxes import (
    bottom_at,
    cut_bottom,
    cut_left,
    cut_right,
    cut_top,
    left_at,
    right_at,
    rows,
    top_at,
)

AREA = Box(10, 20, 100, 60)


@pytest.mark.parametrize(
    ("cut", "strip_is_first", "sides"),
    [
        (cut_top, True, ("y", "bottom")),
        (cut_bottom, False, ("y", "bottom")),
        (cut_left, True, ("x", "right")),
        (cut_right, False, ("x", "right")),
    ],
)
def test_a_strip_and_what_is_left_fill_the_box_but_for_the_gap(cut, strip_is_first, sides):
    first, second = cut(AREA, 15, gap=4)
    near, far = sides
    assert getattr(first, near) == getattr(AREA, near)
    assert getattr(second, far) == getattr(AREA, far)
    assert getattr(second, near) - getattr(first, far) == 4
    strip = first if strip_is_first else second
    assert getattr(strip, far) - getattr(strip, near) == 15
    other = "width" if near == "y" else "height"
    assert getattr(first, other) == getattr(second, other) == getattr(AREA, other)


def test_one_side_moves_and_the_others_stay():
    assert top_at(AREA, 30) == Box(10, 30, 100, 50)
    assert top_at(AREA, 5) == Box(10, 5, 100, 75)
    assert bottom_at(AREA, 30) == Box(10, 20, 100, 10)
    assert left_at(AREA, 60) == Box(60, 20, 50, 60)
    assert right_at(AREA, 60) == Box(10, 20, 50, 60)
    assert bottom_at(AREA, 5).height == 0, "never smaller than nothing"


def test_rows_are_equally_high():
    assert rows(AREA, 3) == [Box(10, 20 + 20 * n, 100, 20) for n in range(3)]
    assert [each.height for each in rows(AREA, 7)] == [8] * 7
    assert rows(AREA, 0) == []
