"""Paint the words of a frame: numbers, the caption of what happens, names in the corners of maps,
and the mark of an interpolated frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.painting.cells import Canvas
from tracker_viz.rendering.plan import Caption, Label, Plan, Readout
from tracker_viz.rendering.planning.readouts import readout_text
from tracker_viz.rendering.planning.timeline import event_color
from tracker_viz.rendering.storyboard import Shot
from tracker_viz.rendering.subject import NOT_YET, Subject
from tracker_viz.rendering.text import (
    blend,
    glyph,
    line_of_text,
    opaque_glyph,
    opaque_text,
    text_width,
)
from tracker_viz.rendering.theme import rgb

_Piece = tuple[str, bool, str]  # of a caption: its text, whether it is bold, its color

_CAPTION_SIZES = (1.0, 0.94, 0.88, 0.82, 0.76)  # parts of the size that was planned


def paint_readouts(canvas: Canvas, plan: Plan, subject: Subject, metric: str, point: int) -> None:
    """Write the numbers in digits of equal width, so that they do not jump; those beside a run that
    shows nothing new are dim."""
    ground = rgb(plan.theme.ground)
    for readout in plan.readouts:
        text = readout_text(readout, subject, metric, point)
        color = rgb(plan.theme.text if _is_live(readout, subject, point) else plan.theme.dim)
        x = readout.x
        if readout.align == "right":
            x -= sum(glyph(character, readout.size_px)[0].shape[1] for character in text)
        for character in text:
            sprite, baseline = opaque_glyph(character, readout.size_px, color, ground)
            y = readout.baseline - baseline
            cut = sprite[max(0, -y) :]
            rows = slice(max(0, y), max(0, y) + len(cut))
            canvas.at(rows, slice(x, x + sprite.shape[1]))[...] = cut
            x += sprite.shape[1]


def _is_live(readout: Readout, subject: Subject, point: int) -> bool:
    if readout.quantity != "run":
        return True
    timing = subject.timing
    has_begun = int(timing.captures[readout.run, point]) != NOT_YET
    return has_begun and not bool(timing.ended[readout.run, point])


def paint_corners(pixels: NDArray[np.uint8], plan: Plan) -> None:
    """Write the heads' names into the corners of their maps, where attention is masked."""
    theme = plan.theme
    for heatmap in plan.heatmaps:
        if heatmap.corner:
            pad = max(3, round(0.3 * heatmap.corner_px))
            name = opaque_text(heatmap.corner, heatmap.corner_px, rgb(theme.dim), rgb(theme.panel))
            height, width = name.shape[:2]
            top, right = heatmap.box.y + pad, heatmap.box.right - pad
            pixels[top : top + height, right - width : right] = name


def paint_mark(canvas: Canvas, mark: Label) -> None:
    """Say that the frame is interpolated."""
    coverage, baseline = line_of_text(mark.text, mark.size_px)
    x, y = round(mark.x) - coverage.shape[1], round(mark.y) - baseline
    rows = slice(max(0, y), y + coverage.shape[0])
    canvas.at(rows, slice(max(0, x), x + coverage.shape[1]))  # to be cleared
    blend(canvas.pixels, coverage, x, y, rgb(mark.color))


def paint_caption(canvas: Canvas, plan: Plan, caption: Caption, shot: Shot) -> None:
    """Write what happens: bright while it does; after it dim, and as what is past; at the end the
    whole run."""
    pieces = _caption_pieces(plan, caption, shot)
    size_px = _fitting_size(pieces, caption)
    x = caption.x
    for text, bold, color in pieces:
        coverage, baseline = line_of_text(text, size_px, bold=bold)
        y = caption.baseline - baseline
        width = min(coverage.shape[1], caption.x + caption.room - x)
        view = canvas.at(slice(y, y + coverage.shape[0]), slice(x, x + width))
        blend(view, coverage[:, :width], 0, 0, rgb(color))
        x += width


def _caption_pieces(plan: Plan, caption: Caption, shot: Shot) -> list[_Piece]:
    story, theme = plan.story, plan.theme
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
    now = f"{event.headline} · {event.steps_text}"
    headline = event.past_headline if is_past else now
    before = [(f"{headline}   ", True, color)]
    return _shortened(event.caption, False, text_color, before, caption)


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
    """Return whether the pieces fit side by side at this size."""
    widths = [text_width(text, size_px, bold=bold) for text, bold, _ in pieces]
    return sum(widths) <= caption.room


def _fitting_size(pieces: Sequence[_Piece], caption: Caption) -> float:
    """Return the size in which the pieces fit side by side: the caption's, or down to 3/4 of it."""
    for part in _CAPTION_SIZES:
        size_px = part * caption.size_px
        if _fits(pieces, size_px, caption):
            break
    return size_px
