"""Show a training that goes on: one output of the cell that trains, replaced as captures come."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tracker_viz.notebook import (
    CellOutput,
    box,
    count,
    heads_maps,
    link,
    maps_png,
    picture,
    sparkline,
    text,
)
from tracker_viz.types import Capture, RunRef

_EVERY_S = 1.0
_MOST_POINTS = 200

log = logging.getLogger(__name__)

Place = tuple[RunRef, str]  # a run, and the address of its page


class TrainingView:
    """The latest capture in words, and a picture of the heads at most a second older.

    It works on the training thread, behind each capture, and shows it at most once a second: its
    time is part of the capture's cost, which the governor bounds. Nothing in it raises into
    training.

    Args:
        places: returns the runs that the captures go into, so far as they could be reached.
    """

    def __init__(self, places: Callable[[], Sequence[Place]]) -> None:
        self._places = places
        self._output = CellOutput()
        self._losses: list[float] = []
        self._n_captures = 0
        self._latest: Capture | None = None
        self._heads: NDArray[np.uint8] | None = None
        self._heads_step = 0
        self._next_s = -math.inf
        self._ended = ""

    def behind(self, sink: Callable[[Capture], None]) -> Callable[[Capture], None]:
        """Return a sink that hands a capture on, then shows it."""

        def and_show(capture: Capture) -> None:
            sink(capture)
            self.captured(capture)

        return and_show

    def captured(self, capture: Capture) -> None:
        """Take note of a capture, and show it when it is time. Its arrays are not kept."""
        self._n_captures += 1
        self._latest = _without_arrays(capture)
        loss = capture.metrics.get("loss", math.nan)
        if math.isfinite(loss):
            self._losses.append(loss)
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _EVERY_S
        try:
            self._heads, self._heads_step = heads_maps(capture.arrays), capture.step
            self._output.show(self.markup(), self.words())
        except Exception:
            log.exception("step %d can not be shown; training goes on", capture.step)

    def closed(self, outcome: str) -> None:
        """Show how it ended, for example ``all captures were delivered``."""
        if self._ended:
            return
        self._ended = outcome
        try:
            self._output.replace(self.markup(), self.words())
        except Exception:
            log.exception("the end of the training can not be shown: %s", outcome)

    def words(self) -> str:
        """Return one line: ``GPT · step 120 · 45 captures · loss 3.214``."""
        if self._latest is None:
            return "waiting for the first step"
        parts = [
            str(self._latest.model["name"]),
            f"step {self._latest.step:,}",
            count(self._n_captures, "capture"),
        ]
        loss = self._latest.metrics.get("loss", math.nan)
        if math.isfinite(loss):
            parts.append(f"loss {loss:.3f}")
        if self._ended:
            parts.append(self._ended)
        return " · ".join(parts)

    def markup(self) -> str:
        heads, caption = "", ""
        if self._heads is not None:
            caption = f"attention of every head at step {self._heads_step:,}; a row is a block"
            heads = picture(maps_png(self._heads), "png", caption)
        every = -(-len(self._losses) // _MOST_POINTS) or 1
        curve = sparkline(self._losses[::every])
        runs = [link(url, str(ref)) for ref, url in self._places()]
        return box([f"{text(self.words())} {curve}", heads, caption, " · ".join(runs)])


def _without_arrays(capture: Capture) -> Capture:
    return Capture(
        step=capture.step,
        arrays={},
        metrics=capture.metrics,
        model={"name": capture.model.get("name", "model")},
    )
