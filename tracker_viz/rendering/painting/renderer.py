"""Capture -> Frame: looks values up in the colour tables and copies them to where seaborn would
have drawn them.

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

from tracker_viz.capture_file import ArrayKey
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
from tracker_viz.rendering.sources import Moment
from tracker_viz.rendering.storyboard import Shot
from tracker_viz.rendering.text import blend, line_of_text, opaque_glyph, opaque_text, text_width
from tracker_viz.rendering.theme import Theme, rgb
from tracker_viz.types import Frame

_CAPTION_SIZES = (1.0, 0.94, 0.88, 0.82, 0.76)  # parts of the size that was planned


class Renderer:
    """Draws the captures of one run in one layout.

    Args:
        series: the run.
        layout: a Layout, or what ``resolve_layout`` takes.
        size: ``1080p``, ``720p``, ``4k``, ``square``, ``1600x900`` or (width, height).
        theme: ``dark``, ``light`` or a Theme.
        scales: changes to colour scales, see ``Layout.scales``; they win over the layout's own.

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
        self._needed = list(
            dict.fromkeys(key for heatmap in self.plan.heatmaps for key in heatmap.source.needs)
        )
        self._first_needed = _compared(self.plan, "first")
        self._previous_needed = _compared(self.plan, "previous")
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
        """The picture of the capture at ``index``."""
        return self.between(index, 0.0)

    def between(self, index: int, part: float) -> Frame:
        """A picture ``part`` (0..1) of the way from capture ``index`` to the next, marked as
        interpolated unless ``part`` is 0.

        Maps are interpolated linearly; scores, numbers and roles stay those of capture ``index``.
        """
        if (
            not 0 <= index < len(self.series)
            or not 0.0 <= part < 1.0
            or (part > 0 and index + 1 >= len(self.series))
        ):
            raise RenderError(
                f"the run has the captures 0..{len(self.series) - 1}; got {index} + {part}"
            )
        canvas = Canvas(self._template.background)
        return self._draw(canvas, Shot(index, part, 0.0), self.values(index, part))

    def draw(self, shot: Shot) -> Frame:
        """The picture of one entry of a storyboard."""
        return self.film([shot])(0)

    def film(self, shots: Sequence[Shot]) -> Callable[[int], Frame]:
        """Index -> the picture of that shot, as a video's writer asks for them: a thread's Frame
        holds until it asks for its next.

        Each thread draws on a canvas of its own, and remembers two captures, between which there
        may be several pictures.
        """
        mine = threading.local()

        def frame_at(index: int) -> Frame:
            shot = shots[index]
            if shot.kind == "title":
                return Frame(self.series.steps[shot.index], self._title().copy())
            if not hasattr(mine, "canvas"):
                mine.canvas, mine.drawn = (
                    Canvas(self._template.background),
                    lru_cache(maxsize=2)(self._drawn),
                )
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
                cell_map = self._template.cell_maps[heatmap.name]
                paint(
                    canvas.pixels,
                    heatmap,
                    cell_map,
                    self._tables[heatmap.scale],
                    values[heatmap.name],
                )
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
        """uint8 [height, width, 3]: what is the same in every frame, left of the playhead as if all
        had been played."""
        pixels = self._template.background.copy()
        if self.plan.timeline:
            box = self.plan.timeline.box
            pixels[box.y : box.bottom, box.x : box.right] = self._template.played[
                box.y : box.bottom, box.x : box.right
            ]
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
        """Heatmap name -> float16 [rows, columns], what its box shows, in the units of its colour
        scale."""
        return self._blended(self._drawn, index, part)

    def _blended(
        self, drawn: Callable[[int], dict[str, NDArray[np.float16]]], index: int, part: float
    ) -> dict[str, NDArray[np.float16]]:
        if part == 0.0:
            return drawn(index)
        here, there = dict(drawn(index)), drawn(index + 1)
        for heatmap in self.plan.heatmaps:
            if heatmap.source.blends:
                now, then = (
                    here[heatmap.name].astype(np.float32),
                    there[heatmap.name].astype(np.float32),
                )
                here[heatmap.name] = (now + np.float32(part) * (then - now)).astype(np.float16)
        return here

    def _drawn(self, index: int) -> dict[str, NDArray[np.float16]]:
        previous = (
            self.series.read(max(0, index - 1), self._previous_needed)
            if self._previous_needed
            else {}
        )
        moment = Moment(self.series.read(index, self._needed), self._first, previous, index)
        return {
            heatmap.name: self.plan.scales[heatmap.scale].drawn(heatmap.source.values(moment))
            for heatmap in self.plan.heatmaps
        }

    def _paint_roles(self, canvas: Canvas, shot: Shot) -> None:
        """Draw the borders around heads with a role; those of a blinking event bright and thick."""
        roles, theme = self.plan.roles, self.plan.theme
        event = self.plan.story.events[shot.event] if shot.event is not None else None
        blinking = event.heads if event and shot.blink else ()
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
        caption, story, theme = self.plan.caption, self.plan.story, self.plan.theme
        if caption is None:
            return
        if shot.kind == "end" and story.summary:
            summary = _shortened(story.summary, caption)
            pieces = [(summary, True, theme.text)]
        else:
            number = shot.event if shot.event is not None else story.current(shot.index)
            past = story.latest(shot.index) if number is None else None
            event = next((story.events[each] for each in (number, past) if each is not None), None)
            if event is None:
                return
            color = event_color(event, theme) if past is None else theme.dim
            text_color = theme.text if past is None else theme.dim
            headline = f"{event.headline} · {event.steps_text}   "
            pieces = [(headline, True, color), (event.caption, False, text_color)]
            # The last clauses go before anything is cut off in the middle.
            clauses = event.caption.split("; ")
            while len(clauses) > 1 and not _fits(pieces, caption):
                clauses.pop()
                pieces[1] = ("; ".join(clauses), False, text_color)

        size_px = _fitting_size(pieces, caption)
        x = caption.x
        for text, bold, color in pieces:
            coverage, baseline = line_of_text(text, size_px, bold=bold)
            y = caption.baseline - baseline
            width = min(coverage.shape[1], caption.x + caption.room - x)
            rows, columns = slice(y, y + coverage.shape[0]), slice(x, x + width)
            view = canvas.at(rows, columns)
            blend(view, coverage[:, :width], 0, 0, rgb(color))
            x += width

    def _paint_timeline(self, canvas: Canvas, index: int, part: float) -> None:
        timeline = self.plan.timeline
        if not timeline:
            return
        box, pixels = timeline.box, canvas.pixels
        last = len(self.series) - 1
        here, there = (timeline.x(self.series.steps[min(at, last)]) for at in (index, index + 1))
        x = round(here + part * (there - here))
        radius = 8.0 * self.plan.unit
        reach = int(radius) + 3
        before = box.x if canvas.playhead is None else canvas.playhead
        canvas.playhead = x
        # Only between the playhead that stands there and the new one does the strip change.
        rows, left, right = (
            slice(max(0, box.y - reach), box.bottom + reach),
            max(0, min(before, x) - reach),
            max(before, x) + reach,
        )
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
                canvas.at(slice(max(0, y), max(0, y) + len(cut)), slice(x, x + sprite.shape[1]))[
                    ...
                ] = cut
                x += sprite.shape[1]

    def _readout(self, readout: Readout, index: int) -> str:
        if readout.quantity == "step":
            return f"{self.series.steps[index]:,}"
        if readout.quantity == "tokens":
            return si_number(self.series.tokens_seen[index] or 0)
        if readout.quantity.startswith("scores."):
            score = self.series.read(index, [readout.quantity])[readout.quantity]
            return format_metric(float(score.flat[0]))
        return format_metric(self.series.metrics[index].get(readout.quantity, float("nan")))

    def _paint_mark(self, canvas: Canvas) -> None:
        mark = self.plan.mark
        if mark:
            coverage, baseline = line_of_text(mark.text, mark.size_px)
            x, y = round(mark.x) - coverage.shape[1], round(mark.y) - baseline
            canvas.at(
                slice(max(0, y), y + coverage.shape[0]), slice(max(0, x), x + coverage.shape[1])
            )
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


def _shortened(sentence: str, caption: Caption) -> str:
    """Leave the last clauses of a bold sentence out, until it has room in one line."""
    clauses = sentence.split("; ")
    while len(clauses) > 1 and not _fits([("; ".join(clauses), True, "")], caption):
        clauses.pop()
    return "; ".join(clauses)


def _fits(pieces: Sequence[tuple[str, bool, str]], caption: Caption) -> bool:
    """Whether the pieces have room side by side in the smallest size of a caption."""
    size_px = _CAPTION_SIZES[-1] * caption.size_px
    widths = [text_width(text, size_px, bold=bold) for text, bold, _ in pieces]
    return sum(widths) <= caption.room


def _fitting_size(pieces: Sequence[tuple[str, bool, str]], caption: Caption) -> float:
    """Return the size in which the pieces fit side by side: the caption's, or down to 3/4 of it."""
    for part in _CAPTION_SIZES:
        size_px = part * caption.size_px
        if sum(text_width(text, size_px, bold=bold) for text, bold, _ in pieces) <= caption.room:
            break
    return size_px


def _compared(plan: Plan, which: str) -> list[ArrayKey]:
    return list(
        dict.fromkeys(
            key
            for heatmap in plan.heatmaps
            if heatmap.source.compares == which
            for key in heatmap.source.needs
        )
    )
