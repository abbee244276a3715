"""Place what one head writes, as words: for some tokens of a text those that the head raises most,
the first one on top, their color by how much.

Above each column stands the token that is read; below it the one that does come next, and a cell
that says it has a border.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.plan import Box, Heatmap, WordMap
from tracker_viz.rendering.planning.circuits.lens import shown_token, write_tokens
from tracker_viz.rendering.planning.plan_builder import PlanBuilder, next_even
from tracker_viz.rendering.sources import HeldMap
from tracker_viz.types import HeadId

_SCALE = "head_words"
_NAMES = ("write.top", "write.top_logit", "write.right")
_WORD = 24.0
_COLUMN, _ROW = 138, 36  # at 1080p
_TITLE, _TOKENS = 24, 36  # at 1080p: above the tokens; of a line of tokens


@dataclass(frozen=True)
class HeadWords:
    """The words that one head raises, over the run.

    Attributes:
        raised: float16 [capture, rank, position], in logits.
        words: of each capture, for each rank the word at each position.
        is_right: bool [capture, rank, position].
        tokens, right: texts of the tokens that are read, and of those that come next.
    """

    raised: NDArray[np.float16]
    words: tuple[tuple[tuple[str, ...], ...], ...]
    is_right: NDArray[np.bool_]
    tokens: list[str]
    right: list[str]

    def height(self, builder: PlanBuilder) -> int:
        """Return the pixels that they take, with their title and tokens."""
        return builder.px(_TITLE + 2 * _TOKENS + self.raised.shape[1] * _ROW)


def head_words(builder: PlanBuilder, head: HeadId) -> HeadWords | None:
    """Return what a head writes; None where the captures do not hold it."""
    series = builder.series
    if any(name not in series.arrays for name in _NAMES):
        return None
    block, number = head
    raised, words, is_right = [], [], []
    for index in range(len(series)):
        capture = series.capture(index, _NAMES)
        ids, logits, right = (capture.arrays[name] for name in _NAMES)
        if block >= len(ids) or number >= ids.shape[1]:
            return None
        texts = capture.labels.get(_NAMES[0]) or ("",) * ids.size
        of_head = np.array([shown_token(text) for text in texts]).reshape(ids.shape)[block, number]
        raised.append(logits[block, number].T.astype(np.float16))
        is_right.append((ids[block, number] == right[:, None]).T)
        words.append(tuple(map(tuple, of_head.T.tolist())))
    if not np.isfinite(raised).any():
        return None
    tokens, following = (
        [shown_token(text) for text in series.last.labels.get(name, ())] or [""] * ids.shape[2]
        for name in ("write.token", "write.right")
    )
    return HeadWords(np.stack(raised), tuple(words), np.stack(is_right), tokens, following)


def place_head_words(builder: PlanBuilder, head_words: HeadWords, name: str, area: Box) -> int:
    """Place them at the upper edge of ``area``, the last positions where not all have room; return
    where they end."""
    px = builder.px
    n_ranks, n_positions = head_words.raised.shape[1:]
    columns = min(n_positions, max(1, area.width // px(_COLUMN)))
    shown = slice(n_positions - columns, n_positions)
    cell_x, cell_y = area.width // columns // 2 * 2, px(_ROW) // 2 * 2
    values = head_words.raised[:, :, shown]
    largest = float(np.nanmax(np.where(np.isfinite(values), values, np.nan)))
    builder.add_scale(
        _SCALE,
        "attention",
        {
            "title": "raised by the head, in logits over the mean token",
            "cmap": builder.theme.attention,
            "minimum": 0.0,
            "maximum": max(largest, 0.01),
        },
    )
    axes = (
        "on text · token ↓ the words that it raises most · framed: what comes next",
        "on text · framed: what comes next",
    )
    builder.heading(f"{name} writes", area.x, area.y + px(6), area.width, *axes)
    top = next_even(area.y + px(_TITLE + _TOKENS))
    box = Box(next_even(area.x), top, columns * cell_x, n_ranks * cell_y)
    source = HeldMap(values)
    builder.heatmaps.append(
        Heatmap(f"{name} writes", source, box, _SCALE, None, 2.0, builder.theme.ground)
    )
    words = tuple(tuple(row[shown] for row in rows) for rows in head_words.words)
    is_right = head_words.is_right[:, :, shown]
    size = _WORD * builder.unit
    builder.words.append(WordMap(box, _SCALE, words, values, is_right, size))
    write_tokens(builder, head_words.tokens[shown], box, cell_x, box.y - px(8), True)
    write_tokens(builder, head_words.right[shown], box, cell_x, box.bottom + px(26), False)
    return box.bottom + px(_TOKENS)
