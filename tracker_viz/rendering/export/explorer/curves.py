"""Pack the scores of single heads over the run, for the curves beside the head that is opened.

Each head's scores lie together, so that the page unpacks one head at a time. A curve is coded
between its own lowest and highest value in as many steps as a cell of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import HEAD_PREFIX, HEAD_SCORES, ROLES
from tracker_viz.rendering.export.explorer.cells import LEVELS, NONFINITE
from tracker_viz.rendering.planning.cards import role_of_score, score_title
from tracker_viz.rendering.planning.timeline import curve_range
from tracker_viz.rendering.series import Series
from tracker_viz.types import HeadId

# Of all curves of a page, before they are deflated. Deflated and as text, a byte becomes about one.
_MOST_BYTES = 3 << 20
_RANGE_BYTES = 8  # the lowest and the highest value, float32
_OF_HEADS = (HEAD_PREFIX, "scores.write.")
# What a score says, beside its name. docs/pages/scores.md has the definitions.
_MEANINGS = {
    "head.confidence": "attention to the strongest token, the first left out",
    "head.distance": "in tokens, on average",
    "head.divergence": "bits away from the block's other heads",
    "head.entropy": "1 spreads evenly, 0 looks at one token",
    "head.learned_sink": "attention to the learned sink",
    "head.max_logit": "largest attention logit before the softmax",
    "head.positional_share": "share of text queries that look equally far back",
    "head.specialisation": "bits away from even attention",
    "write.copying": "share of positions in later copies",
    "write.right_repeated": "in logits, over the mean of all tokens",
    "write.right_text": "in logits, over the mean of all tokens",
}
_ENDINGS = ("", "_repeated", "_text", "_min")  # of the scores of one behavior
_BEHAVIORS = {role.name.removesuffix("_text") for role in ROLES}


@dataclass(frozen=True)
class Curves:
    """Every score of some heads.

    Attributes:
        described: for each score its name, title, meaning, the role that it measures, the range to
            draw it in, and chance.
        heads: ``block.head`` of each head, in the order of ``packed``.
        packed: of each head and each score, the lowest and the highest value as float32; then, in
            the same order, uint8 [capture], each as its difference to the one before.
    """

    described: list[dict[str, Any]]
    heads: list[str]
    packed: bytes


def page_curves(series: Series, indices: Sequence[int], telling: Sequence[HeadId]) -> Curves:
    """Return the curves of all heads, or of as many as there is room for, ``telling`` first."""
    arrays = series.arrays.items()
    found = [name for name, info in arrays if name.startswith(_OF_HEADS) and not info.reshaped_at]
    names = sorted(found, key=_place)
    if not names:
        return Curves([], [], b"")

    values = _read(series, names, indices)
    known = np.argwhere(np.isfinite(values).any(axis=(0, 1))).tolist()
    every = dict.fromkeys((int(block), int(head)) for block, head in known)
    ordered = dict.fromkeys([*(head for head in telling if head in every), *every])
    room = _MOST_BYTES // (len(names) * (_RANGE_BYTES + len(indices)))
    heads = list(ordered)[:room]
    blocks, numbers = np.array(heads, np.intp).reshape(-1, 2).T
    return Curves(
        [_described(series, name, of_score) for name, of_score in zip(names, values, strict=True)],
        [f"{block}.{head}" for block, head in heads],
        _packed(values[:, :, blocks, numbers].transpose(2, 0, 1)),
    )


def _place(name: str) -> tuple[bool, bool, int, str]:
    """Order scores: signals first, then those of attention, last those of behaviors."""
    score, order = name.removeprefix(HEAD_PREFIX), list(HEAD_SCORES)
    place = order.index(score) if score in order else -1
    return _is_of_behavior(score), name.startswith(HEAD_PREFIX), place, name


def _is_of_behavior(score: str) -> bool:
    return any(score.removesuffix(ending) in _BEHAVIORS for ending in _ENDINGS)


def _read(series: Series, names: Sequence[str], indices: Sequence[int]) -> NDArray[np.float32]:
    """Return [score, capture, block, head], NaN where a capture lacks the score."""
    shapes = [series.arrays[name].shape for name in names]
    n_blocks, n_heads = np.max(shapes, axis=0)
    values = np.full((len(names), len(indices), n_blocks, n_heads), np.nan, np.float32)
    for at, index in enumerate(indices):
        arrays = series.capture(index, names).arrays
        for place, name in enumerate(names):
            if name in arrays:
                blocks, heads = arrays[name].shape
                values[place, at, :blocks, :heads] = arrays[name]
    return values


def _described(series: Series, name: str, values: NDArray[np.float32]) -> dict[str, Any]:
    score = name.removeprefix(HEAD_PREFIX)
    low, high = 0.0, 1.0
    if score not in HEAD_SCORES or HEAD_SCORES[score].unit != "share":
        low, high = curve_range(values.astype(np.float64).reshape(-1))
        low = min(0.0, low)
    role = role_of_score(series, name)
    chance = series.last.model.get("uniform_scores", {}).get(score)
    return {
        "name": name,
        "title": score_title(name, series),
        "meaning": _MEANINGS.get(name.removeprefix("scores."), ""),
        "role": role,
        "isVariant": not role and _is_of_behavior(score),
        "low": _finite(low),
        "high": _finite(high),
        "chance": None if chance is None else _finite(chance),
    }


def _finite(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None


def _packed(values: NDArray[np.float32]) -> bytes:
    """Pack [head, score, capture]."""
    is_finite = np.isfinite(values)
    low = np.where(is_finite, values, np.inf).min(axis=-1, keepdims=True)
    high = np.where(is_finite, values, -np.inf).max(axis=-1, keepdims=True)
    # A curve without any finite value has no range.
    low, high = np.nan_to_num(low, posinf=0.0), np.nan_to_num(high, neginf=0.0)
    shares = np.where(is_finite, values - low, 0.0) / np.maximum(high - low, 1e-30)
    levels = np.rint(shares * (LEVELS - 1)).astype(np.uint8)
    levels[~is_finite] = NONFINITE
    # Differences of uint8 wrap around, and so do the sums on the page that undo them.
    changes = np.diff(levels, axis=-1, prepend=np.zeros_like(levels[..., :1]))
    ranges = np.concatenate([low, high], axis=-1).astype("<f4")
    return ranges.tobytes() + changes.tobytes()
