"""One canvas for one frame after the other."""

from __future__ import annotations

import numpy as np

from tracker_viz.rendering.painting.cells import Canvas


def test_a_canvas_undoes_what_was_painted_beside_the_maps_once_and_leaves_the_cells():
    background = np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)
    canvas = Canvas(background)
    canvas.at(slice(1, 3), slice(2, 5))[...] = 255
    canvas.pixels[5:, 6:] = 77  # cells
    canvas.clear()
    expected = background.copy()
    expected[5:, 6:] = 77
    assert np.array_equal(canvas.pixels, expected)
    canvas.pixels[1:3, 2:5] = 99
    canvas.clear()
    assert (canvas.pixels[1:3, 2:5] == 99).all(), (
        "the list of what to undo would grow with every frame"
    )
