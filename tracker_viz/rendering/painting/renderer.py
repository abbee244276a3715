"""Draw the frame of a point of time: look up the colors of its values, and copy them to the pixels
where seaborn would draw them.

Seaborn draws once, before the first frame. A frame is that background, the cells, the numbers of
the header and the playhead, painted with numpy alone; threads may ask for frames at once, and the
same index gives the same bits. One run is drawn as several are: each of its captures is a point of
time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import RenderError
from tracker_viz.rendering.layout import Layout, resolve_layout
from tracker_viz.rendering.painting.caption import paint_caption
from tracker_viz.rendering.painting.cells import (
    NO_BORDER,
    Border,
    Canvas,
    color_tables,
    dash_in,
    frame_around,
    paint,
)
from tracker_viz.rendering.painting.graph import GraphPainter
from tracker_viz.rendering.painting.ribbons import paint_ribbon
from tracker_viz.rendering.painting.template import Template, make_template, seaborn_pixels
from tracker_viz.rendering.painting.timeline import paint_timeline
from tracker_viz.rendering.painting.title_card import title_card
from tracker_viz.rendering.painting.words import (
    paint_corners,
    paint_mark,
    paint_readouts,
)
from tracker_viz.rendering.painting.words_in_cells import CellWords
from tracker_viz.rendering.plan import Heatmap, Plan
from tracker_viz.rendering.planning.make_plan import make_plan
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.sources import Moment, needs_of
from tracker_viz.rendering.storyboard import Shot
from tracker_viz.rendering.subject import NOT_YET, Subject, one_run
from tracker_viz.rendering.theme import Theme, rgb
from tracker_viz.types import Frame, HeadId

Scales = Mapping[str, ColorScale]
_Values = dict[str, NDArray[np.float16]]  # heatmap name -> [rows, columns]


class Renderer:
    """Draws the captures of one run, or of several side by side, in one layout.

    Args:
        shown: the run, or the runs with what each shows at which point of time. The points of one
            run are its captures.
        layout: a Layout, or what ``resolve_layout`` takes.
        size: ``1080p``, ``720p``, ``4k``, ``square``, ``1600x900`` or (width, height).
        theme: ``dark``, ``light`` or a Theme.
        scales: changes to color scales, see ``Layout.scales``; they win over the layout's own.
        hold_scales: the plan's color scales -> those that are drawn: for a film that goes on, whose
            scales must not follow every capture.

    Raises:
        LayoutError: the captures lack what the layout shows, or several runs are not alike enough
            to stand side by side, or too many for the size.
        ConfigError: an option has no meaning.
    """

    def __init__(
        self,
        shown: Series | Subject,
        layout: str | Layout = "overview",
        *,
        size: str | Sequence[int] = "1080p",
        theme: str | Theme = "dark",
        scales: Mapping[str, Mapping[str, Any]] | None = None,
        hold_scales: Callable[[Scales], Scales] | None = None,
    ) -> None:
        self.subject = one_run(shown) if isinstance(shown, Series) else shown
        chosen = resolve_layout(layout)
        self.plan: Plan = make_plan(chosen, self.subject, size=size, theme=theme, scales=scales)
        if hold_scales:
            self.plan = replace(self.plan, scales=hold_scales(self.plan.scales))
        self._metric = chosen.metric
        self._tables = color_tables(self.plan)
        self._runs = [
            _RunMaps(self.subject, index, self.plan) for index in range(len(self.subject.runs))
        ]
        self._graph = GraphPainter(self.plan) if self.plan.graph else None
        self._words = [CellWords(self.plan, words) for words in self.plan.words]
        self._lock = threading.Lock()
        self._title_pixels: NDArray[np.uint8] | None = None

    @cached_property
    def _template(self) -> Template:
        """Return what seaborn draws: most of the time of a Renderer, and a page needs none."""
        return make_template(self.plan)

    @cached_property
    def redraws_fully(self) -> bool:
        """Return whether some pixel mixes a map with something else, so that seaborn draws every
        frame in full: exact, but slow."""
        return any(cell_map.blended for cell_map in self._template.cell_maps.values())

    def __len__(self) -> int:
        return len(self.subject.timing.points)

    @property
    def series(self) -> Series:
        """The captures of the first run, which is the only one of most pictures."""
        return self.subject.runs[0].series

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.plan.width, self.plan.height

    def frame(self, index: int) -> Frame:
        """Return the picture of the point of time at ``index``; of several runs the frame's step is
        that of the one that is farthest by then."""
        return self.between(index, 0.0)

    def between(self, index: int, part: float) -> Frame:
        """Return a picture ``part`` (0..1) of the way from capture ``index`` to the next, marked as
        interpolated unless ``part`` is 0.

        Maps are interpolated linearly; scores, numbers and roles stay those of capture ``index``.

        Raises:
            RenderError: there is no such point of time, or of several runs a ``part`` of the way.
        """
        last = len(self) - 1
        if not (0 <= index <= last and 0.0 <= part < 1.0 and index + part <= last):
            points = "the run has the captures"
            if not self.subject.is_one_run:
                points = "the comparison has the points"
            raise RenderError(f"{points} 0..{last}; got {index} + {part}")
        return self.draw(Shot(index, part, 0.0))

    def draw(self, shot: Shot) -> Frame:
        """Return the picture of one entry of a storyboard."""
        return self.film([shot])(0)

    def film(self, shots: Sequence[Shot]) -> Callable[[int], Frame]:
        """Return index -> the picture of that shot, as a video's writer asks for them: a thread's
        Frame holds until it asks for its next.

        Each thread draws on a canvas of its own, and remembers two captures of each run: between
        them there may be several pictures, and a run of few captures shows one for long.

        Raises:
            RenderError: of several runs: they have no title card and nothing in between.
        """
        is_plain = not any(shot.part or shot.kind == "title" for shot in shots)
        if not self.subject.is_one_run and not is_plain:
            raise RenderError(
                "a comparison shows real captures and no title card: interpolate=0, title_s=0"
            )
        mine = threading.local()
        background = self._template.background  # drawn here, not by each of several threads

        def frame_at(index: int) -> Frame:
            shot = shots[index]
            if shot.kind == "title":
                return Frame(self.series.steps[shot.index], self._title().copy())
            if not hasattr(mine, "canvas"):
                mine.canvas = Canvas(background)
                mine.drawn = [lru_cache(maxsize=2)(run.values) for run in self._runs]
            return self._draw(mine.canvas, shot, mine.drawn)

        return frame_at

    def _draw(self, canvas: Canvas, shot: Shot, drawn: Sequence[Callable[[int], _Values]]) -> Frame:
        captures = self.subject.timing.captures[:, shot.index].tolist()
        if self.redraws_fully:
            values: _Values = {}
            for run, capture, of_run in zip(self._runs, captures, drawn, strict=True):
                values |= run.blended(of_run, capture, shot.part)
            canvas = Canvas(seaborn_pixels(self.plan, values))
        else:
            canvas.clear()
            for run, capture, of_run in zip(self._runs, captures, drawn, strict=True):
                self._paint_maps(canvas, run, run.blended(of_run, capture, shot.part))
        self._paint_blanks(canvas, captures)
        paint_corners(canvas.pixels, self.plan, self.role_colors(captures))
        self._paint_roles(canvas, shot, captures)
        if self._graph:
            self._graph.paint(canvas, captures[0], shot.part)
        for words in self._words:
            words.paint(canvas, captures[0])
        for ribbon in self.plan.ribbons:
            paint_ribbon(canvas, ribbon, self.subject.timing, shot.index, self.plan.theme)
        self._paint_timeline(canvas, shot)
        paint_readouts(canvas, self.plan, self.subject, self._metric, shot.index)
        if self.plan.caption:
            paint_caption(canvas, self.plan, self.plan.caption, shot)
        if self.plan.mark and shot.part > 0:
            paint_mark(canvas, self.plan.mark)
        return Frame(self._step(captures), canvas.pixels)

    def _step(self, captures: Sequence[int]) -> int:
        """Return the step of the run that is farthest."""
        steps = [0]
        for run, capture in zip(self.subject.runs, captures, strict=True):
            if capture != NOT_YET:
                steps.append(run.series.steps[capture])
        return max(steps)

    def _paint_maps(self, canvas: Canvas, run: _RunMaps, values: _Values) -> None:
        """Fill the cells of a run's maps that have values."""
        for heatmap in run.heatmaps:
            if heatmap.name in values:
                cell_map = self._template.cell_maps[heatmap.name]
                table = self._tables[heatmap.scale]
                paint(canvas.pixels, heatmap, cell_map, table, values[heatmap.name])

    def _paint_blanks(self, canvas: Canvas, captures: Sequence[int]) -> None:
        """Leave the maps of runs that have not begun empty, and those that compare with the
        previous capture, where there is none: these have a dash."""
        theme = self.plan.theme
        for heatmap in self.plan.heatmaps:
            capture = captures[heatmap.run]
            if capture != NOT_YET and not heatmap.is_blank_at(capture):
                continue
            cells = self._template.cell_maps[heatmap.name].cells
            canvas.pixels[heatmap.box.area][cells >= 0] = rgb(theme.panel)
            if capture != NOT_YET:
                canvas.at(*dash_in(heatmap.box, self.plan.unit))[:] = rgb(theme.dim)

    @property
    def background(self) -> NDArray[np.uint8]:
        """The parts that are the same in every frame, with a timeline that was played to its end:
        uint8 [height, width, 3]."""
        pixels = self._template.background.copy()
        if self.plan.timeline:
            area = self.plan.timeline.box.area
            pixels[area] = self._template.played[area]
        return pixels

    def _title(self) -> NDArray[np.uint8]:
        with self._lock:
            if self._title_pixels is None:
                last = len(self) - 1
                self._title_pixels = title_card(
                    self.plan, self.series, self.values(last), lambda: self.frame(last).pixels
                )
            return self._title_pixels

    def values(self, index: int, part: float = 0.0) -> _Values:
        """Return heatmap name -> float16 [rows, columns]: the values in its box, in units of its
        color scale; without those that are left empty."""
        values: _Values = {}
        captures = self.subject.timing.captures[:, index].tolist()
        for run, capture in zip(self._runs, captures, strict=True):
            values |= run.blended(run.values, capture, part)
        return values

    def _paint_roles(self, canvas: Canvas, shot: Shot, captures: Sequence[int]) -> None:
        """Draw the borders around heads with a role; those of a blinking event bright and thick."""
        theme, blink_px = self.plan.theme, self.plan.roles.blink_px
        blinking: Sequence[HeadId] = ()
        if shot.blink and shot.event is not None:
            blinking = self.plan.story.events[shot.event].heads
        for heatmap in self.plan.heatmaps:
            if heatmap.head is None:
                continue
            border = self._border(heatmap, captures[heatmap.run])
            if heatmap.head in blinking:
                border = Border(theme.text, blink_px, is_dashed=False)
            if border == canvas.borders.get(heatmap.name, NO_BORDER):
                continue

            canvas.borders[heatmap.name] = border
            for place in frame_around(heatmap.box, blink_px):
                canvas.pixels[place] = canvas.background[place]
            for place in border.places(heatmap.box):
                canvas.pixels[place] = rgb(border.color)

    def role_colors(self, captures: Sequence[int]) -> dict[str, str]:
        """Return heatmap name -> color of the role that its head has on the row that is shown.

        Args:
            captures: index of the capture of each run.
        """
        colors = {}
        for heatmap in self.plan.heatmaps:
            border = self._border(heatmap, captures[heatmap.run]) if heatmap.head else NO_BORDER
            if border.color and not border.is_dashed:
                colors[heatmap.name] = border.color
        return colors

    def _border(self, heatmap: Heatmap, capture: int) -> Border:
        roles = self.plan.run_roles[heatmap.run]
        held = roles.border(heatmap, capture) if capture != NOT_YET else None
        if held is None:
            return NO_BORDER
        role, is_on_this_row = held
        return Border(self.plan.theme.roles[role], roles.line_px, is_dashed=not is_on_this_row)

    def _paint_timeline(self, canvas: Canvas, shot: Shot) -> None:
        timeline, points = self.plan.timeline, self.subject.timing.points
        if not timeline:
            return
        here = timeline.x(float(points[shot.index]))
        there = timeline.x(float(points[min(shot.index + 1, len(points) - 1)]))
        place = here + shot.part * (there - here)
        paint_timeline(canvas, self._template.played, self.plan, timeline, place)


class _RunMaps:
    """The maps of one run, and the values that they show at each of its captures."""

    def __init__(self, subject: Subject, index: int, plan: Plan) -> None:
        self.heatmaps = [heatmap for heatmap in plan.heatmaps if heatmap.run == index]
        self._series, self._scales = subject.runs[index].series, plan.scales
        self._is_one_of_many = not subject.is_one_run
        sources = [heatmap.source for heatmap in self.heatmaps]
        self._needed = needs_of(sources)
        self._previous_needed = needs_of(sources, "previous")
        # As float32, because converting it again for every frame takes longer than subtracting it.
        first = self._series.read(0, needs_of(sources, "first"))
        self._first = {name: array.astype(np.float32) for name, array in first.items()}

    def values(self, capture: int) -> _Values:
        """Return heatmap name -> its values at a capture, in units of its color scale; without
        those that compare with the previous capture, where there is none."""
        previous = self._series.read(max(0, capture - 1), self._previous_needed)
        moment = Moment(self._series.read(capture, self._needed), self._first, previous, capture)
        drawn = {}
        for heatmap in self.heatmaps:
            if heatmap.is_blank_at(capture):
                continue
            shown = self._scales[heatmap.scale].drawn(heatmap.source.values(moment))
            # A copy for many runs: a cached view would keep the whole array in memory.
            drawn[heatmap.name] = shown.copy() if self._is_one_of_many else shown
        return drawn

    def blended(self, drawn: Callable[[int], _Values], capture: int, part: float) -> _Values:
        """Return the values ``part`` of the way from a capture to the next; none of a run that has
        not begun.

        Args:
            drawn: ``values``, perhaps remembered.
        """
        if capture == NOT_YET:
            return {}
        if part == 0.0:
            return drawn(capture)
        here, there = dict(drawn(capture)), drawn(capture + 1)
        for heatmap in self.heatmaps:
            if heatmap.source.blends and heatmap.name in here:
                now = here[heatmap.name].astype(np.float32)
                then = there[heatmap.name].astype(np.float32)
                here[heatmap.name] = (now + np.float32(part) * (then - now)).astype(np.float16)
        return here
