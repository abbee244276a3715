"""Draw the frame of a capture: look values up in the color tables, and copy the colors to where
seaborn would have drawn them.

Seaborn draws once, when a Renderer is made. A frame is that background, the cells, the numbers of
the header and the playhead, painted with numpy alone; threads may ask for frames at once, and the
same index gives the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import RenderError
from tracker_viz.rendering.layout import Layout, resolve_layout
from tracker_viz.rendering.painting.cells import (
    NO_BORDER,
    Border,
    Canvas,
    color_tables,
    frame_around,
    paint,
    paint_dot,
)
from tracker_viz.rendering.painting.template import make_template, seaborn_pixels
from tracker_viz.rendering.painting.title_card import title_card
from tracker_viz.rendering.plan import Caption, Plan, Readout
from tracker_viz.rendering.planning.header import format_metric
from tracker_viz.rendering.planning.make_plan import make_plan
from tracker_viz.rendering.planning.timeline import event_color
from tracker_viz.rendering.series import Series, si_number
from tracker_viz.rendering.sources import Moment, needs_of
from tracker_viz.rendering.storyboard import Shot
from tracker_viz.rendering.text import blend, line_of_text, opaque_glyph, opaque_text, text_width
from tracker_viz.rendering.theme import Theme, rgb
from tracker_viz.types import Frame, HeadId

_Piece = tuple[str, bool, str]  # of a caption: its text, whether it is bold, its color

_CAPTION_SIZES = (1.0, 0.94, 0.88, 0.82, 0.76)  # parts of the size that was planned


class Renderer:
    """Draws the captures of one run in one layout.

    Args:
        series: the run.
        layout: a Layout, or what ``resolve_layout`` takes.
        size: ``1080p``, ``720p``, ``4k``, ``square``, ``1600x900`` or (width, height).
        theme: ``dark``, ``light`` or a Theme.
        scales: changes to color scales, see ``Layout.scales``; they win over the layout's own.

    Raises:
        LayoutError: the captures lack what the layout shows.
        ConfigError: an option has no meaning.
    """

    def __init__(
        self,
        series: Series,
        layout: str | Layout = "overview",
        *,
        size: str | Sequence[int] = "1080p",
        theme: str | Theme = "dark",
        scales: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.series = series
        self.plan: Plan = make_plan(
            resolve_layout(layout), series, size=size, theme=theme, scales=scales
        )
        self._template = make_template(self.plan)
        sources = [heatmap.source for heatmap in self.plan.heatmaps]
        self._needed = needs_of(sources)
        self._first_needed = needs_of(sources, "first")
        self._previous_needed = needs_of(sources, "previous")
        # As float32, because converting it again for every frame takes longer than subtracting it.
        self._first = {
            name: array.astype(np.float32)
            for name, array in series.read(0, self._first_needed).items()
        }
        self._tables = color_tables(self.plan)
        self._lock = threading.Lock()
        self._title_pixels: NDArray[np.uint8] | None = None
        self.redraws_fully = any(cell_map.blended for cell_map in self._template.cell_maps.values())
        """Whether some pixel mixes a map with something else, so that seaborn draws every frame in
        full: exact, but slow."""

    def __len__(self) -> int:
        return len(self.series)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.plan.width, self.plan.height

    def frame(self, index: int) -> Frame:
        """Return the picture of the capture at ``index``."""
        return self.between(index, 0.0)

    def between(self, index: int, part: float) -> Frame:
        """Return a picture ``part`` (0..1) of the way from capture ``index`` to the next, marked as
        interpolated unless ``part`` is 0.

        Maps are interpolated linearly; scores, numbers and roles stay those of capture ``index``.
        """
        last = len(self.series) - 1
        if not (0 <= index <= last and 0.0 <= part < 1.0 and index + part <= last):
            raise RenderError(f"the run has the captures 0..{last}; got {index} + {part}")
        canvas = Canvas(self._template.background)
        return self._draw(canvas, Shot(index, part, 0.0), self.values(index, part))

    def draw(self, shot: Shot) -> Frame:
        """Return the picture of one entry of a storyboard."""
        return self.film([shot])(0)

    def film(self, shots: Sequence[Shot]) -> Callable[[int], Frame]:
        """Return index -> the picture of that shot, as a video's writer asks for them: a thread's
        Frame holds until it asks for its next.

        Each thread draws on a canvas of its own, and remembers two captures, between which there
        may be several pictures.
        """
        mine = threading.local()

        def frame_at(index: int) -> Frame:
            shot = shots[index]
            if shot.kind == "title":
                return Frame(self.series.steps[shot.index], self._title().copy())
            if not hasattr(mine, "canvas"):
                mine.canvas = Canvas(self._template.background)
                mine.drawn = lru_cache(maxsize=2)(self._drawn)
            values = self._blended(mine.drawn, shot.index, shot.part)
            return self._draw(mine.canvas, shot, values)

        return frame_at

    def _draw(self, canvas: Canvas, shot: Shot, values: Mapping[str, NDArray[np.float16]]) -> Frame:
        index = shot.index
        if self.redraws_fully:
            canvas = Canvas(seaborn_pixels(self.plan, values))
        else:
            canvas.clear()
            for heatmap in self.plan.heatmaps:
                name, table = heatmap.name, self._tables[heatmap.scale]
                cell_map = self._template.cell_maps[name]
                paint(canvas.pixels, heatmap, cell_map, table, values[name])
        paint_corners(canvas.pixels, self.plan)
        self._paint_roles(canvas, shot)
        self._paint_timeline(canvas, index, shot.part)
        self._paint_readouts(canvas, index)
        self._paint_caption(canvas, shot)
        if shot.part > 0:
            self._paint_mark(canvas)
        return Frame(self.series.steps[index], canvas.pixels)

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

    def values(self, index: int, part: float = 0.0) -> dict[str, NDArray[np.float16]]:
        """Return heatmap name -> float16 [rows, columns]: the values in its box, in units of its
        color scale."""
        return self._blended(self._drawn, index, part)

    def _blended(
        self, drawn: Callable[[int], dict[str, NDArray[np.float16]]], index: int, part: float
    ) -> dict[str, NDArray[np.float16]]:
        if part == 0.0:
            return drawn(index)
        here, there = dict(drawn(index)), drawn(index + 1)
        for heatmap in self.plan.heatmaps:
            if heatmap.source.blends:
                now = here[heatmap.name].astype(np.float32)
                then = there[heatmap.name].astype(np.float32)
                here[heatmap.name] = (now + np.float32(part) * (then - now)).astype(np.float16)
        return here

    def _drawn(self, index: int) -> dict[str, NDArray[np.float16]]:
        previous = self.series.read(max(0, index - 1), self._previous_needed)
        moment = Moment(self.series.read(index, self._needed), self._first, previous, index)
        drawn = {}
        for heatmap in self.plan.heatmaps:
            scale = self.plan.scales[heatmap.scale]
            drawn[heatmap.name] = scale.drawn(heatmap.source.values(moment))
        return drawn

    def _paint_roles(self, canvas: Canvas, shot: Shot) -> None:
        """Draw the borders around heads with a role; those of a blinking event bright and thick."""
        roles, theme = self.plan.roles, self.plan.theme
        blinking: Sequence[HeadId] = ()
        if shot.blink and shot.event is not None:
            blinking = self.plan.story.events[shot.event].heads
        for heatmap in self.plan.heatmaps:
            if heatmap.head is None:
                continue
            border = NO_BORDER
            held = roles.border(heatmap, shot.index)
            if heatmap.head in blinking:
                border = Border(theme.text, roles.blink_px, is_dashed=False)
            elif held:
                role, is_on_this_row = held
                border = Border(theme.roles[role], roles.line_px, is_dashed=not is_on_this_row)
            if border == canvas.borders.get(heatmap.name, NO_BORDER):
                continue

            canvas.borders[heatmap.name] = border
            for place in frame_around(heatmap.box, roles.blink_px):
                canvas.pixels[place] = canvas.background[place]
            for place in border.places(heatmap.box):
                canvas.pixels[place] = rgb(border.color)

    def _paint_caption(self, canvas: Canvas, shot: Shot) -> None:
        """Write what happens: bright while it does, dim after it, and at the end the whole run."""
        caption = self.plan.caption
        if caption is None:
            return
        pieces = self._caption_pieces(shot, caption)
        size_px = _fitting_size(pieces, caption)
        x = caption.x
        for text, bold, color in pieces:
            coverage, baseline = line_of_text(text, size_px, bold=bold)
            y = caption.baseline - baseline
            width = min(coverage.shape[1], caption.x + caption.room - x)
            view = canvas.at(slice(y, y + coverage.shape[0]), slice(x, x + width))
            blend(view, coverage[:, :width], 0, 0, rgb(color))
            x += width

    def _caption_pieces(self, shot: Shot, caption: Caption) -> list[_Piece]:
        story, theme = self.plan.story, self.plan.theme
        if shot.kind == "end" and story.summary:
            return _shortened(story.summary, True, theme.text, [], caption)
        number = shot.event if shot.event is not None else story.current(shot.index)
        is_past = number is None
        if number is None:
            number = story.latest(shot.index)
        if number is None:
            return []
        event = story.events[number]
        color = theme.dim if is_past else event_color(event, theme)
        text_color = theme.dim if is_past else theme.text
        headline = (f"{event.headline} · {event.steps_text}   ", True, color)
        return _shortened(event.caption, False, text_color, [headline], caption)

    def _paint_timeline(self, canvas: Canvas, index: int, part: float) -> None:
        timeline = self.plan.timeline
        if not timeline:
            return
        box, pixels = timeline.box, canvas.pixels
        last = len(self.series) - 1
        here = timeline.x(self.series.steps[index])
        there = timeline.x(self.series.steps[min(index + 1, last)])
        x = round(here + part * (there - here))
        radius = 8.0 * self.plan.unit
        reach = int(radius) + 3
        before = box.x if canvas.playhead is None else canvas.playhead
        canvas.playhead = x
        # Only between the playhead that stands there and the new one does the strip change.
        rows = slice(max(0, box.y - reach), box.bottom + reach)
        left, right = max(0, min(before, x) - reach), max(before, x) + reach
        pixels[rows, left:right] = canvas.background[rows, left:right]
        played = slice(box.y, box.bottom), slice(max(box.x, left), x)
        pixels[played] = self._template.played[played]
        half = max(1, round(self.plan.unit))
        pixels[box.y : box.bottom, max(box.x, x - half) : min(box.right, x + half + 1)] = rgb(
            self.plan.theme.text
        )
        if len(timeline.curve):
            known = timeline.curve[np.isfinite(timeline.curve[:, 1])]
            y = float(np.interp(x, known[:, 0], known[:, 1]))
            paint_dot(pixels, x, y, radius, rgb(self.plan.theme.text), rgb(self.plan.theme.accent))

    def _paint_readouts(self, canvas: Canvas, index: int) -> None:
        for readout in self.plan.readouts:
            x, color, ground = readout.x, rgb(self.plan.theme.text), rgb(self.plan.theme.ground)
            for character in self._readout(readout, index):
                sprite, baseline = opaque_glyph(character, readout.size_px, color, ground)
                y = readout.baseline - baseline
                cut = sprite[max(0, -y) :]
                rows = slice(max(0, y), max(0, y) + len(cut))
                canvas.at(rows, slice(x, x + sprite.shape[1]))[...] = cut
                x += sprite.shape[1]

    def _readout(self, readout: Readout, index: int) -> str:
        if readout.quantity == "step":
            return f"{self.series.steps[index]:,}"
        if readout.quantity == "tokens":
            return si_number(self.series.tokens_seen[index] or 0)
        if readout.is_score:
            score = self.series.read(index, [readout.quantity])[readout.quantity]
            return format_metric(float(score.flat[0]))
        return format_metric(self.series.metrics[index].get(readout.quantity, float("nan")))

    def _paint_mark(self, canvas: Canvas) -> None:
        mark = self.plan.mark
        if mark:
            coverage, baseline = line_of_text(mark.text, mark.size_px)
            x, y = round(mark.x) - coverage.shape[1], round(mark.y) - baseline
            rows = slice(max(0, y), y + coverage.shape[0])
            canvas.at(rows, slice(max(0, x), x + coverage.shape[1]))  # to be cleared
            blend(canvas.pixels, coverage, x, y, rgb(mark.color))


def paint_corners(pixels: NDArray[np.uint8], plan: Plan) -> None:
    """Write the heads' names into the corners of their maps, where attention is masked."""
    theme, size_px = plan.theme, 20.0 * plan.unit
    pad = max(3, round(6 * plan.unit))
    for heatmap in plan.heatmaps:
        if heatmap.corner:
            name = opaque_text(heatmap.corner, size_px, rgb(theme.dim), rgb(theme.panel))
            height, width = name.shape[:2]
            top, right = heatmap.box.y + pad, heatmap.box.right - pad
            pixels[top : top + height, right - width : right] = name


def _shortened(
    sentence: str, bold: bool, color: str, before: Sequence[_Piece], caption: Caption
) -> list[_Piece]:
    """Return ``before`` and behind it the sentence, without the last clauses that have no room:
    these go before anything is cut off in the middle."""
    smallest_px = _CAPTION_SIZES[-1] * caption.size_px
    clauses = sentence.split("; ")
    while True:
        pieces = [*before, ("; ".join(clauses), bold, color)]
        if len(clauses) == 1 or _fits(pieces, smallest_px, caption):
            return pieces
        clauses.pop()


def _fits(pieces: Sequence[_Piece], size_px: float, caption: Caption) -> bool:
    """Whether the pieces have room side by side in a size."""
    widths = [text_width(text, size_px, bold=bold) for text, bold, _ in pieces]
    return sum(widths) <= caption.room


def _fitting_size(pieces: Sequence[_Piece], caption: Caption) -> float:
    """Return the size in which the pieces fit side by side: the caption's, or down to 3/4 of it."""
    for part in _CAPTION_SIZES:
        size_px = part * caption.size_px
        if _fits(pieces, size_px, caption):
            break
    return size_px
