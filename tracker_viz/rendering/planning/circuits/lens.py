"""Place the logit lens: blocks by tokens of a text, in each cell the word that the model would say
next if it ended behind that block, its color how sure it would be.

The tokens run in bands below each other like lines of a text, as wide as words can be read. Above
each column stands the token that is read; below it the one that does come next, and a cell that
says it has a border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.layout import Lens
from tracker_viz.rendering.plan import Box, Heatmap, WordMap
from tracker_viz.rendering.planning.plan_builder import PlanBuilder, next_even, number_spacing
from tracker_viz.rendering.sources import HeldMap

_SCALE = "lens"
_TOKEN, _NUMBER = 25.0, 20.0
_WORD = 27.0  # at 1080p: read where the picture is 695 pixels wide
_LEAST_WORD = 20.0
_COLUMN = 138  # at 1080p: a column that most words fit
_LEAST_ROW, _MOST_ROW = 26, 170
_ABOVE, _BELOW, _BETWEEN = 40, 40, 26  # at 1080p: of a band, for its tokens; between bands
_LONGEST = 12  # characters
_SIGNS = (("\n", "↵"), ("\t", "⇥"))


@dataclass(frozen=True)
class _Readings:
    """The words and probabilities that the lens reads off each block, over the run.

    Attributes:
        probability: float16 [capture, block, position].
        words: of each capture, for each block the word at each position.
        is_right: bool [capture, block, position].
        tokens, right: texts of the tokens that are read, and of those that come next.
        blocks: their numbers.
    """

    probability: NDArray[np.float16]
    words: list[list[list[str]]]
    is_right: NDArray[np.bool_]
    tokens: list[str]
    right: list[str]
    blocks: list[int]

    @property
    def n_positions(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class _Shape:
    """Sizes of the bands: columns in each, the tokens of all, and the cells in pixels; ``blocks``
    are those that have room."""

    blocks: list[int]
    columns: int
    shown: int
    cell: tuple[int, int]
    label: int


def place_lens(builder: PlanBuilder, panel: Lens, area: Box) -> int:
    """Place the bands; return where they end.

    Raises:
        LayoutError: the captures hold no logit lens.
    """
    readings = _read(builder)
    shape = _fit(builder, panel, readings, area)
    builder.add_scale(
        _SCALE,
        "attention",
        {
            "title": "probability of the word",
            "cmap": builder.theme.attention,
            "minimum": 0.0,
            "maximum": 1.0,
            "norm": "power",
            "gamma": 0.5,
        },
    )
    heading = "What comes next?"
    if len(shape.blocks) < len(readings.blocks):
        heading = f"What comes next? · {len(shape.blocks)} of {len(readings.blocks)} blocks"
    axes = ("block ↓ token →  its word if the model ended there · framed: right", "block ↓ token →")
    builder.heading(heading, area.x, area.y - builder.px(14), area.width, *axes)
    y = area.y
    for first in range(readings.n_positions - shape.shown, readings.n_positions, shape.columns):
        y = _place_band(builder, readings, shape, range(first, first + shape.columns), area.x, y)
    return y - builder.px(_BETWEEN)


def _read(builder: PlanBuilder) -> _Readings:
    series, layout = builder.series, builder.layout.name
    names = ("lens.top_probability", "lens.top", "lens.right_rank")
    if names[0] not in series.arrays:
        missing = "; ".join(series.last.model.get("missing_signals", ()))
        why = f" ({missing})" if "lens" in missing else ""
        raise LayoutError(
            f"layout {layout!r} draws the logit lens, which the captures do not hold{why}: capture "
            "it with signals=[max_logit, probe_loss, residual, lens], on a probe with a row of text"
        )
    for name in names:
        series.require(name, layout)
    probabilities, words, ranks = [], [], []
    for index in range(len(series)):
        capture = series.capture(index, names)
        probability = capture.arrays[names[0]]
        probabilities.append(probability.astype(np.float16))
        ranks.append(capture.arrays[names[2]])
        texts = [shown_token(text) for text in capture.labels.get(names[1], ())]
        texts += [""] * (probability.size - len(texts))
        n_columns = probability.shape[1]
        words.append([texts[at : at + n_columns] for at in range(0, len(texts), n_columns)])
    n_blocks, n_positions = probabilities[0].shape
    is_seen = np.isfinite(np.stack(ranks)).any(axis=(0, 2))
    blocks = np.flatnonzero(is_seen).tolist() or list(range(n_blocks))
    tokens, right = (
        [shown_token(text) for text in series.last.labels.get(name, ())] or [""] * n_positions
        for name in ("lens.token", "lens.right")
    )
    return _Readings(np.stack(probabilities), words, np.stack(ranks) == 0, tokens, right, blocks)


def shown_token(text: str) -> str:
    """Return a token as it is written into a cell: without the blank before a word, signs for other
    blanks (``⇥`` for several), and an ellipsis where it is long."""
    for mark in ("␣", "Ġ", "▁"):
        text = text.replace(mark, " ")
    text = text.replace("Ċ", "\n")
    if text and not text.strip(" "):
        return "␣" if len(text) == 1 else "⇥"
    text = text.strip(" ")
    for blank, sign in _SIGNS:
        text = text.replace(blank, sign)
    text = "".join(character if character.isprintable() else "·" for character in text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _fit(builder: PlanBuilder, panel: Lens, readings: _Readings, area: Box) -> _Shape:
    """Return as many columns as words can be read in, and as many bands as have room; where not all
    blocks have room, some are left out, evenly spaced."""
    px = builder.px
    label = builder.text_width(f"L{readings.blocks[-1]}", _NUMBER) + px(12)
    wanted = min(panel.tokens or readings.n_positions, readings.n_positions)
    around = px(_ABOVE) + px(_BELOW) + px(_BETWEEN)
    widest = max(1, (area.width - label) // px(_COLUMN))
    for bands in (2, 1) if wanted > widest else (1,):
        columns = min(-(-wanted // bands), widest)
        height = (area.height + px(_BETWEEN)) // bands - around
        if height // len(readings.blocks) >= px(_LEAST_ROW) * (1.3 if bands > 1 else 1.0):
            break
    n_rows = max(1, min(len(readings.blocks), height // px(_LEAST_ROW)))
    places = np.linspace(len(readings.blocks) - 1, 0, n_rows).round().astype(int)[::-1]
    blocks = [readings.blocks[place] for place in places.tolist()]
    row = min(height // n_rows, px(_MOST_ROW))
    cell_x = (area.width - label) // columns
    shown = min(wanted, columns * bands)
    return _Shape(blocks, columns, shown, (cell_x - cell_x % 2, row - row % 2), label)


def _place_band(
    builder: PlanBuilder, readings: _Readings, shape: _Shape, positions: range, x: int, y: int
) -> int:
    """Place one line of the text; return where the next one may begin."""
    px = builder.px
    shown = [position for position in positions if position < readings.n_positions]
    cell_x, cell_y = shape.cell
    left, top = next_even(x + shape.label), next_even(y + px(_ABOVE))
    box = Box(left, top, len(shown) * cell_x, len(shape.blocks) * cell_y)
    values = readings.probability[:, shape.blocks][:, :, shown]
    name = f"what comes next · {shown[0]}"
    builder.heatmaps.append(
        Heatmap(name, HeldMap(values), box, _SCALE, None, 2.0, builder.theme.ground)
    )
    texts = [
        tuple(tuple(rows[block][at] for at in shown) for block in shape.blocks)
        for rows in readings.words
    ]
    size = min(_WORD, max(_LEAST_WORD, 0.62 * cell_y / builder.unit))
    is_right = readings.is_right[:, shape.blocks][:, :, shown]
    builder.words.append(WordMap(box, _SCALE, tuple(texts), values, is_right, size * builder.unit))
    every = number_spacing(cell_y, px(24))
    for row, block in list(enumerate(shape.blocks))[::every]:
        middle = box.y + (row + 0.5) * cell_y
        builder.text_left_of(box.x - px(8), f"L{block}", middle, _NUMBER)
    write_tokens(builder, [readings.tokens[at] for at in shown], box, cell_x, box.y - px(10), True)
    under = box.bottom + px(29)
    write_tokens(builder, [readings.right[at] for at in shown], box, cell_x, under, False)
    return box.bottom + px(_BELOW) + px(_BETWEEN)


def write_tokens(
    builder: PlanBuilder, tokens: Sequence[str], box: Box, cell_x: int, y: int, is_read: bool
) -> None:
    """Write a token over or under each column: dim what is read, bright what comes next."""
    color = builder.theme.dim if is_read else builder.theme.text
    for column, token in enumerate(tokens):
        shown = builder.fitted(token, _TOKEN, cell_x - builder.px(8), bold=not is_read)
        middle = box.x + (column + 0.5) * cell_x
        builder.text(shown, middle, y, _TOKEN, color, bold=not is_read, align="center")
