"""Draw several runs in one picture: their heads side by side at one point of time, on one color
scale, above the curves of all of them.

    renderer = ComparedRenderer(runs, timing, role_names, title="a sweep", size="1080p")
    frame = renderer.frame(3)                                # the picture at timing.points[3]

Seaborn draws once, then cells are painted, as for pictures of one run. Only the arrays of the
blocks that are shown are read, and the maps of a few captures of each run are remembered, so that
memory grows neither with the captures nor with their number.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import RenderError
from tracker_viz.rendering.export.images import png, with_suffix, write_whole
from tracker_viz.rendering.painting.cells import Border, color_tables, paint
from tracker_viz.rendering.painting.template import make_template
from tracker_viz.rendering.planning.role_borders import is_role_of
from tracker_viz.rendering.side_by_side.make_plan import (
    Numbers,
    RunPanel,
    clock_text,
    make_compared_plan,
    numbers_text,
)
from tracker_viz.rendering.side_by_side.runs import NO_ROLE, NOT_YET, RunTrack, Timing
from tracker_viz.rendering.sources import Moment, needs_of
from tracker_viz.rendering.storyboard import Shot
from tracker_viz.rendering.text import blend, glyph, opaque_glyph
from tracker_viz.rendering.theme import Theme, rgb
from tracker_viz.types import Frame

# Captures of each run whose maps are kept: a run of few captures is not read again for every point
# of a longer one.
_REMEMBERED = 4


class ComparedRenderer:
    """Draws several runs side by side; threads may ask for frames at once, and the same point gives
    the same bits.

    Args:
        runs: in the order in which they stand.
        timing: which of their captures are shown together.
        role_names: what ``RunTrack.roles`` are indices of.
        title, subtitle, note: lines at the top of every picture; ``note``: what one must know
            before one compares.
        probe: the probe row by its label or its index.
        metric: the curve of the timeline, and the number beside each run.
        matched: the heads stand in an order of their own in every run, so each map says whose it
            is.
        size, theme: as of ``Renderer``.

    Raises:
        LayoutError: the captures lack what is drawn, are not alike enough to stand side by side, or
            too many for the size.
    """

    def __init__(
        self,
        runs: Sequence[RunTrack],
        timing: Timing,
        role_names: Sequence[str],
        *,
        title: str,
        subtitle: str = "",
        note: str = "",
        probe: str | int = 0,
        metric: str = "loss",
        matched: bool = False,
        size: str | Sequence[int] = "1080p",
        theme: str | Theme = "dark",
    ) -> None:
        self.runs, self.timing = tuple(runs), timing
        self.role_names, self.metric = tuple(role_names), metric
        self._planned = make_compared_plan(
            self.runs,
            timing,
            self.role_names,
            title=title,
            subtitle=subtitle,
            note=note,
            probe=probe,
            metric=metric,
            matched=matched,
            size=size,
            theme=theme,
        )
        self.plan = self._planned.plan
        template = make_template(self.plan)
        self._cell_maps, self._background = template.cell_maps, template.background
        self._background[self._planned.timeline.box.area] = self._planned.timeline.before
        self._tables = color_tables(self.plan)
        roles = self.plan.theme.roles
        self._role_colors = [roles.get(name, self.plan.theme.text) for name in self.role_names]
        self._role_pixels = np.array([*map(rgb, self._role_colors)], np.uint8).reshape(-1, 3)
        # Threads draw points of their own, but share the remembered maps.
        self._lock = threading.Lock()
        self._recent: OrderedDict[tuple[int, int], dict[str, NDArray[np.float16]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.timing.points)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.plan.width, self.plan.height

    @property
    def shows_all_heads(self) -> bool:
        """Whether every head of every run is shown; else the first few of each run's ranking."""
        return self._planned.tiling.all_heads

    @property
    def tiles(self) -> tuple[RunPanel, ...]:
        """The maps, numbers and ribbon of each run."""
        return self._planned.tiles

    def frame(self, point: int) -> Frame:
        """Return the picture at ``timing.points[point]``; the frame's step is that of the run that
        is farthest by then."""
        if not 0 <= point < len(self):
            raise RenderError(f"the comparison has the points 0..{len(self) - 1}; got {point}")
        pixels = self._background.copy()
        captures = self.timing.captures[:, point].tolist()
        for index, capture in enumerate(captures):
            self._paint_run(pixels, index, capture)
            self._paint_captions(pixels, index)
            self._paint_ribbon(pixels, index, point)
            self._paint_numbers(pixels, index, capture, point)
        self._planned.timeline.paint(pixels, point)
        clock = clock_text(self.timing, point)
        _paint_digits(pixels, clock, self._planned.clock, self.plan.theme.text)
        step = 0
        for run, capture in zip(self.runs, captures, strict=True):
            if capture != NOT_YET:
                step = max(step, run.series.steps[capture])
        return Frame(step, pixels)

    def draw(self, shot: Shot) -> Frame:
        """Return the picture of one entry of a storyboard over ``timing.points``."""
        if shot.part or shot.kind == "title":
            raise RenderError(
                "a comparison shows real captures and no title card: interpolate=0, title_s=0"
            )
        return self.frame(shot.index)

    def _paint_run(self, pixels: NDArray[np.uint8], index: int, capture: int) -> None:
        panel = rgb(self.plan.theme.panel)
        if capture == NOT_YET:
            for heatmap in self.tiles[index].heatmaps:
                pixels[heatmap.box.area][self._cell_maps[heatmap.name].cells >= 0] = panel
            return
        values = self._values(index, capture)
        for heatmap in self.tiles[index].heatmaps:
            cell_map = self._cell_maps[heatmap.name]
            paint(pixels, heatmap, cell_map, self._tables[heatmap.scale], values[heatmap.name])
            assert heatmap.head is not None
            role = int(self.runs[index].roles[capture, heatmap.head[0], heatmap.head[1]])
            if role == NO_ROLE:
                continue
            border = Border(
                self._role_colors[role],
                self._planned.frame_px,
                is_dashed=not is_role_of(self.role_names[role], self._planned.row_kind),
            )
            for place in border.places(heatmap.box):
                pixels[place] = rgb(border.color)

    def _paint_numbers(
        self, pixels: NDArray[np.uint8], index: int, capture: int, point: int
    ) -> None:
        has_ended = bool(self.timing.ended[index, point])
        text = numbers_text(self.runs[index], self.timing, capture, has_ended, self.metric)
        is_live = capture != NOT_YET and not has_ended
        color = self.plan.theme.text if is_live else self.plan.theme.dim
        _paint_digits(pixels, text, self.tiles[index].numbers, color)

    def _paint_captions(self, pixels: NDArray[np.uint8], index: int) -> None:
        """Name each map in its corner, which no attention reaches."""
        color, ground = rgb(self.plan.theme.dim), rgb(self.plan.theme.panel)
        for text, place in self.tiles[index].captions:
            x = place.x
            for character in reversed(text):
                inked, baseline = opaque_glyph(character, place.size_px, color, ground)
                x -= inked.shape[1]
                top = place.baseline - baseline
                pixels[top : top + inked.shape[0], x : x + inked.shape[1]] = inked

    def _paint_ribbon(self, pixels: NDArray[np.uint8], index: int, point: int) -> None:
        """Paint every head's roles up to now, in their colors; time runs along the ribbon as along
        the timeline."""
        ribbon = self.tiles[index].ribbon
        if ribbon is None:
            return
        box, points = ribbon.box, self.timing.points
        elapsed = (np.arange(box.width) + 0.5) / box.width * (points[-1] - points[0])
        at = np.searchsorted(points, points[0] + elapsed, side="right") - 1
        played = elapsed <= points[point] - points[0]
        captures = self.timing.captures[index, at]
        live = played & (captures != NOT_YET) & ~self.timing.ended[index, at]
        for (block, head), line in ribbon.lines:
            roles = np.where(live, self.runs[index].roles[captures, block, head], NO_ROLE)
            view = pixels[line.area]
            view[:, live] = rgb(self.plan.theme.faint)
            shown = roles != NO_ROLE
            view[:, shown] = self._role_pixels[roles[shown]]

    def _values(self, index: int, capture: int) -> dict[str, NDArray[np.float16]]:
        """Return heatmap name -> float16 [rows, columns] of one run at one of its captures."""
        with self._lock:
            if (index, capture) in self._recent:
                self._recent.move_to_end((index, capture))
                return self._recent[index, capture]
        heatmaps = self.tiles[index].heatmaps
        keys = needs_of(heatmap.source for heatmap in heatmaps)
        moment = Moment(self.runs[index].series.read(capture, keys), {}, {})
        values = {}
        for heatmap in heatmaps:
            drawn = self.plan.scales[heatmap.scale].drawn(heatmap.source.values(moment))
            # A copy, so that the remembered maps do not hold on to whole arrays.
            values[heatmap.name] = drawn.copy()
        with self._lock:
            self._recent[index, capture] = values
            while len(self._recent) > _REMEMBERED * len(self.runs):
                self._recent.popitem(last=False)
        return values


def write_compared_poster(renderer: ComparedRenderer, path: Path | str) -> Path:
    """Write a PNG of the comparison's last picture: all curves played, all onsets passed.

    Return its path, which ends in ``.png``.
    """
    return write_whole(png(renderer.frame(len(renderer) - 1).pixels), with_suffix(path, (".png",)))


def _paint_digits(pixels: NDArray[np.uint8], text: str, numbers: Numbers, color: str) -> None:
    """Paint ``text`` in digits of equal width, so that it does not jump."""
    digits = [glyph(character, numbers.size_px) for character in text]
    x = numbers.x
    if not numbers.from_left:
        x -= sum(coverage.shape[1] for coverage, _ in digits)
    for coverage, baseline in digits:
        blend(pixels, coverage, x, numbers.baseline - baseline, rgb(color))
        x += coverage.shape[1]
