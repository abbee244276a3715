"""Load matplotlib even where the environment names a backend that is missing. Rendering needs none.

``MPLBACKEND`` may name one that this environment lacks: a notebook hands its own on to every
command that is started from it, and matplotlib then refuses to load.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

DPI = 100
POINTS = 72.0 / DPI
"""Points in a pixel: matplotlib takes the sizes of lines and fonts in points."""

MPL_LOCK = threading.RLock()
"""Held while matplotlib draws: its rcParams and its font cache are shared by all threads."""


def load_matplotlib() -> None:
    """Import matplotlib, and set the backend of ``MPLBACKEND`` if it exists here."""
    if "matplotlib" in sys.modules:
        return
    wanted = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if wanted is not None:
            os.environ["MPLBACKEND"] = wanted
    if wanted:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = wanted


def figure_pixels(figure: Any) -> NDArray[np.uint8]:
    """Draw a figure that has an Agg canvas: uint8 [height, width, 3] RGB, a copy."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
