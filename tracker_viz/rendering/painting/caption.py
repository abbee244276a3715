"""Paint the caption: what happens now, what happened last, or at the end the whole run.

A sentence that has no room gets smaller, then loses its last clauses, and only then its last words:
no word is ever cut. The page says all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from tracker_viz.rendering.painting.cells import Canvas
from tracker_viz.rendering.plan import Caption, Plan
from tracker_viz.rendering.planning.timeline import event_color
from tracker_viz.rendering.storyboard import Shot
from tracker_viz.rendering.text import blend, line_of_text, text_width
from tracker_viz.rendering.theme import rgb

_Piece = tuple[str, bool, str]  # of a line: its text, whether it is bold, its color
_Lines = tuple[tuple[_Piece, ...], ...]

_SIZES = (1.0, 0.94, 0.88, 0.82, 0.76)  # parts of the size that was planned
_PITCH = 1.15  # from one line to the next, in sizes of the text
_CLAUSE_ENDS = ("; ", ", ", " (")  # where a sentence is shortened, in this order


def paint_caption(canvas: Canvas, plan: Plan, caption: Caption, shot: Shot) -> None:
    """Write what happens: bright while it does; after it dim, and as what is past; at the end the
    whole run."""
    lines, size_px = fit_caption(*_sentences(plan, shot), caption)
    pitch = round(_PITCH * caption.size_px)
    for number, pieces in enumerate(lines):
        x = caption.x
        for text, bold, color in pieces:
            coverage, baseline = line_of_text(text, size_px, bold=bold)
            y = caption.baseline + number * pitch - baseline
            wide = min(coverage.shape[1], plan.width - x)
            view = canvas.at(slice(y, y + coverage.shape[0]), slice(x, x + wide))
            blend(view, coverage, 0, 0, rgb(color))
            x += wide


@lru_cache(maxsize=512)
def fit_caption(
    before: _Piece, sentence: str, bold: bool, color: str, caption: Caption
) -> tuple[_Lines, float]:
    """Return the lines, and their size, in which ``before`` and as much as fits of the sentence
    have room; no lines where there is nothing to say."""
    if not before[0] and not sentence:
        return (), caption.size_px
    size_px = caption.size_px
    for shown in _shorter_and_shorter(sentence):
        pieces = [before, (shown, bold, color)]
        for part in _SIZES:
            size_px = part * caption.size_px
            lines = _wrapped(pieces, size_px, caption.room)
            if len(lines) <= caption.n_lines:
                return lines, size_px
    return lines[: caption.n_lines], size_px


def _sentences(plan: Plan, shot: Shot) -> tuple[_Piece, str, bool, str]:
    """Return the headline, the sentence behind it, and whether that is bold, and its color."""
    story, theme = plan.story, plan.theme
    if shot.kind == "end" and story.summary:
        return ("", True, theme.text), story.summary, True, theme.text
    number = shot.event if shot.event is not None else story.current(shot.index)
    is_past = number is None
    if number is None:
        number = story.latest(shot.index)
    if number is None:
        # Of several runs nothing but their names says in a still picture what came out of them.
        outlook = story.summary if len(plan.run_roles) > 1 else ""
        return ("", True, theme.text), outlook, False, theme.dim
    event = story.events[number]
    color = theme.dim if is_past else event_color(event, theme)
    now = f"{event.headline} · {event.steps_text}"
    headline = event.past_headline if is_past else now
    text_color = theme.dim if is_past else theme.text
    return (f"{headline}   ", True, color), event.caption, False, text_color


def _shorter_and_shorter(sentence: str) -> Iterator[str]:
    """Yield the sentence, then without its last clauses, one after the other, then without its last
    words."""
    yield sentence
    for end in _CLAUSE_ENDS:
        while end in sentence:
            sentence = sentence.rpartition(end)[0]
            yield sentence
    while " " in sentence:
        sentence = sentence.rpartition(" ")[0]
        yield f"{sentence.rstrip(' :·→')} …"
    yield ""


def _wrapped(pieces: Sequence[_Piece], size_px: float, room: int) -> _Lines:
    """Break the pieces between words into lines that fit; a longer word has a line to itself."""
    lines: list[list[_Piece]] = [[]]
    for text, bold, color in pieces:
        for word in re.findall(r"\S+\s*", text):
            longer = _with_word(lines[-1], (word, bold, color))
            if lines[-1] and _width(longer, size_px) > room:
                lines.append([(word, bold, color)])
            else:
                lines[-1] = longer
    return tuple(tuple(line) for line in lines)


def _width(line: Sequence[_Piece], size_px: float) -> int:
    """Return the pixels that a line takes, without blanks at its end."""
    *others, (last, is_bold, _) = line
    wide = text_width(last.rstrip(), size_px, bold=is_bold)
    return wide + sum(text_width(text, size_px, bold=bold) for text, bold, _ in others)


def _with_word(line: Sequence[_Piece], word: _Piece) -> list[_Piece]:
    """Return the line with one more word, in the last piece where that looks the same."""
    if line and line[-1][1:] == word[1:]:
        return [*line[:-1], (line[-1][0] + word[0], *word[1:])]
    return [*line, word]
