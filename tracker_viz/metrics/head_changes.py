"""Rank the heads of a model by how much their attention changed between two captures of a run: what
a fine-tune did, where the first capture is of the base model.

Takes two captures as ``load_captures`` gives them; pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tracker_viz.metrics.head_measures import Floats, jensen_shannon
from tracker_viz.metrics.head_scores import HEAD_SCORES
from tracker_viz.types import Capture, HeadId

_PATTERN = ".attn.pattern"
_SCORE = "scores.head."


@dataclass(frozen=True, slots=True)
class HeadChange:
    """How one head changed.

    Attributes:
        head: (block, head).
        attention: Jensen-Shannon divergence of its attention then and now, in bits, 0..1: the mean
            over the rows of the probe that both captures keep, and over the queries from the second
            on; NaN where one of them is not finite.
        query: how much the rows of ``attn.w_q`` that make its queries changed, as a share of their
            norm; NaN where the captures do not hold them.
        score, before, after: of the scores that are shares, such as ``induction``, the one that
            changed most; empty and NaN where the captures hold none.
    """

    head: HeadId
    attention: float
    query: float
    score: str
    before: float
    after: float

    def __str__(self) -> str:
        block, head = self.head
        parts = [f"L{block}H{head}", f"attention {self.attention:.2f} bits"]
        if np.isfinite(self.query):
            parts.append(f"query weights {self.query:.0%}")
        if self.score:
            parts.append(f"{self.score.replace('_', ' ')} {self.before:.2f} -> {self.after:.2f}")
        return "  ".join(parts)


def head_changes(first: Capture, last: Capture) -> list[HeadChange]:
    """Return every head that both captures show, the most changed attention first; heads that are
    not finite come last.

    Raises:
        ValueError: the captures are of models, or probes, of different shapes.
    """
    changes = list(_changes(first, last))
    return sorted(changes, key=lambda each: (np.isnan(each.attention), -each.attention, each.head))


def _changes(first: Capture, last: Capture) -> Iterator[HeadChange]:
    for name in sorted(first.arrays.keys() & last.arrays.keys()):
        if not name.endswith(_PATTERN):
            continue
        block = int(name.split(".")[1])
        then, now = first.arrays[name], last.arrays[name]
        if then.shape[0] != now.shape[0] or then.shape[2:] != now.shape[2:]:
            raise ValueError(
                f"{name} has the shape {then.shape} at step {first.step} and {now.shape} at step "
                f"{last.step}: these are captures of different models or probes"
            )
        heads_then, heads_now = _heads(first, block, then), _heads(last, block, now)
        for head in sorted(set(heads_then) & set(heads_now)):
            before = then[:, heads_then.index(head)].astype(np.float32)
            after = now[:, heads_now.index(head)].astype(np.float32)
            yield _change(first, last, (block, head), before, after)


def _heads(capture: Capture, block: int, pattern: Floats) -> list[int]:
    labels = capture.labels.get(f"blocks.{block}.head")
    if labels is None:
        return list(range(pattern.shape[1]))
    return [int(label.lstrip("Hh")) for label in labels]


def _change(
    first: Capture, last: Capture, head: HeadId, before: Floats, after: Floats
) -> HeadChange:
    """Compare one head: ``before`` and ``after`` are its attention, [row, query, key]."""
    bits = jensen_shannon(_summing_to_1(before), _summing_to_1(after))[:, 1:].mean()
    score, then, now = _most_changed_score(first, last, head)
    return HeadChange(head, float(bits), _query_change(first, last, head), score, then, now)


def _summing_to_1(attention: Floats) -> Floats:
    # float16 and a learned sink leave less than 1.
    total = attention.sum(-1, keepdims=True)
    shares: Floats = np.divide(attention, np.where(total > 0, total, 1), dtype=np.float32)
    return shares


def _query_change(first: Capture, last: Capture, head: HeadId) -> float:
    block, number = head
    name = f"blocks.{block}.attn.w_q"
    if name not in first.arrays or name not in last.arrays:
        return np.nan
    then, now = (capture.arrays[name].astype(np.float32) for capture in (first, last))
    counts = first.model.get("n_heads", 0)
    n_heads = counts[block] if isinstance(counts, list) else counts
    # Rows of a smaller map are evenly spaced, so each head keeps its share of them.
    if not n_heads or then.shape != now.shape or then.shape[0] % n_heads:
        return np.nan
    n_rows = then.shape[0] // n_heads
    own = slice(number * n_rows, (number + 1) * n_rows)
    norm = np.linalg.norm(then[own])
    return float(np.linalg.norm(now[own] - then[own]) / norm) if norm else np.nan


def _most_changed_score(first: Capture, last: Capture, head: HeadId) -> tuple[str, float, float]:
    found = ("", np.nan, np.nan)
    largest = -1.0
    for score, described in HEAD_SCORES.items():
        name = f"{_SCORE}{score}"
        if described.unit != "share":
            continue  # a distance in tokens is not compared with a share
        if name in first.arrays and name in last.arrays:
            then, now = float(first.arrays[name][head]), float(last.arrays[name][head])
            if abs(now - then) > largest:
                largest, found = abs(now - then), (score, then, now)
    return found
