"""Draw a run that goes on for ``live``: the picture of its newest capture, at once, and the
explorer of a bounded number of captures, as soon as there is time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tracker_viz.delivery import TappedSpool
from tracker_viz.files import temporary_directory
from tracker_viz.pipeline.following.captures import NearCaptures
from tracker_viz.pipeline.following.held_scales import HeldScales
from tracker_viz.trackers import Run
from tracker_viz.types import CaptureRef

if TYPE_CHECKING:
    from tracker_viz.rendering import Layout, Renderer

MOST_SHOWN = 96
# The largest number of captures that are brought here of those that came together.
_MOST_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Shown:
    """The values that a browser gets.

    Attributes:
        step: of the newest capture.
        loss: its loss; None where it has none.
        picture: PNG of its frame.
        page: the explorer, UTF-8; empty before the first.
        page_step: the newest capture of ``page``.
        has_ended: the run has ended.
    """

    step: int | None = None
    loss: float | None = None
    picture: bytes = b""
    page: bytes = b""
    page_step: int | None = None
    has_ended: bool = False


class LiveView:
    """Brings a run's captures into ``directory``, and draws them. Used by one thread."""

    def __init__(self, run: Run, layout: Layout, directory: Path, *, size: str, theme: str) -> None:
        self._run, self._layout, self._size, self._theme = run, layout, size, theme
        self._near = NearCaptures(run, directory)
        self._kept: list[CaptureRef] = []
        self._seen: set[CaptureRef] = set()
        self._title = ""
        self._scales = HeldScales({})
        self._renderer: Renderer | None = None

    @property
    def has_ended(self) -> bool:
        return self._run.info().state != "running"

    def look(self) -> bool:
        """Bring what is new, and draw it; return whether there is a new picture.

        Raises:
            TrackerError: the run cannot be read. The next call looks at the same captures.
        """
        new = [ref for ref in self._run.list_captures() if ref not in self._seen]
        if not new:
            return False
        pulled = self._near.bring(_some(new, _MOST_AT_ONCE))
        captures = [capture.ref for capture in pulled.captures]
        if captures:
            # Captures of a training that went back to a checkpoint replace all later ones.
            earlier = [ref for ref in self._kept if ref.step < new[0].step]
            self._kept = _spread([*earlier, *captures])
            self._near.keep_only(self._kept)
            self._draw()
        self._seen |= set(new)
        if isinstance(self._run, TappedSpool):
            self._run.release(new)
        return bool(captures)

    def picture(self) -> tuple[int, float | None, bytes]:
        """Return (step, loss, PNG) of the newest capture."""
        from PIL import Image

        assert self._renderer is not None
        series = self._renderer.series
        contents = io.BytesIO()
        pixels = self._renderer.frame(len(series) - 1).pixels
        Image.fromarray(pixels).save(contents, "PNG", compress_level=1)
        return series.steps[-1], series.metrics[-1].get("loss"), contents.getvalue()

    def page(self) -> bytes:
        """Return the explorer of the captures that are here."""
        from tracker_viz.rendering import write_explorer

        assert self._renderer is not None
        with temporary_directory() as folder:
            return write_explorer(self._renderer, folder / "page.html").read_bytes()

    def _draw(self) -> None:
        from tracker_viz.rendering import Renderer, Series

        self._title = self._title or self._run.info().name
        captures = [self._near.found(ref) for ref in self._kept]
        self._renderer = Renderer(
            Series(captures, title=self._title),
            self._layout,
            size=self._size,
            theme=self._theme,
            hold_scales=self._scales.hold,
        )
        if len(captures) == 1:
            # It says nothing yet about ranges: nothing has changed at it.
            self._scales = HeldScales({})


def _some(refs: Sequence[CaptureRef], most: int) -> list[CaptureRef]:
    """Return at most ``most`` of ``refs``, spread evenly, the last among them."""
    if len(refs) <= most:
        return list(refs)
    last = len(refs) - 1
    return [refs[round(last * index / (most - 1))] for index in range(most)]


def _spread(refs: list[CaptureRef]) -> list[CaptureRef]:
    """Return the captures that stay: at most ``MOST_SHOWN``, the older ones sparser."""
    n_older = MOST_SHOWN * 3 // 4
    while len(refs) > MOST_SHOWN:
        refs = [*refs[:n_older:2], *refs[n_older:]]
    return refs
