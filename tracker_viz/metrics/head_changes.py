"""Rank heads and weight matrices by how much they changed between two captures: of a run (before
and after a spike), or of two runs (a base model and its fine-tune).

Takes two captures as ``load_captures`` gives them; pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tracker_viz.metrics.head_measures import Floats, jensen_shannon
from tracker_viz.metrics.head_names import head_numbers
from tracker_viz.metrics.head_scores import HEAD_SCORES
from tracker_viz.metrics.weights.weight_measures import relative_distance
from tracker_viz.metrics.weights.weight_scores import WEIGHT_NAME
from tracker_viz.types import Capture, HeadId

_MAP = re.compile(r"blocks\.(\d+)\.(attn\.pattern|mixer\.mixing)")
_SCORE = "scores.head."


@dataclass(frozen=True, slots=True)
class HeadChange:
    """How one head changed.

    Attributes:
        head: (block, head); (block, channel) of a mixer that mixes channels.
        attention: Jensen-Shannon divergence of its map then and now, in bits, 0..1: the mean over
            the rows of the probe that both captures keep, and over the queries from the second on;
            NaN where one of them is not finite. Of a mixing map both are of sizes as shares of
            their row, and an entry counts as another one where its sign turned.
        query: how much the rows of ``attn.w_q`` that make its queries changed, as a share of their
            norm; NaN where the captures do not hold them.
        score, before, after: of the scores that are shares, such as ``induction``, the one that
            changed most; empty and NaN where the captures hold none, as of mixing maps.
        kind: of its map.
    """

    head: HeadId
    attention: float
    query: float
    score: str
    before: float
    after: float
    kind: Literal["attention", "mixing"] = "attention"

    def __str__(self) -> str:
        block, head = self.head
        parts = [f"L{block}H{head}", f"{self.kind} {self.attention:.2f} bits"]
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
    return sorted(changes, key=lambda each: (*_largest_first(each.attention), each.head))


@dataclass(frozen=True, slots=True)
class WeightChange:
    """How one weight matrix changed.

    Attributes:
        block, name: where it is, such as ``(3, "mlp.w_up")``.
        share: ``|W - W_then| / |W_then|`` of the entries that both captures hold; NaN where the
            first are zero.
    """

    block: int
    name: str
    share: float

    def __str__(self) -> str:
        return f"L{self.block} {self.name}  {self.share:.1%}"


def weight_changes(first: Capture, last: Capture) -> list[WeightChange]:
    """Return every weight matrix that both captures hold in one size, the most changed first; those
    without a finite change come last."""
    changes = []
    for name in sorted(first.arrays.keys() & last.arrays.keys()):
        found = WEIGHT_NAME.fullmatch(name)
        then, now = first.arrays[name], last.arrays[name]
        if found is not None and then.shape == now.shape:
            share = relative_distance(now.astype(np.float32), then)
            changes.append(WeightChange(int(found[1]), found[2], share))
    return sorted(changes, key=lambda each: (*_largest_first(each.share), each.block))


def map_of_head(capture: Capture, change: HeadChange) -> Floats:
    """Return the map of a changed head as a capture holds it, float32 [probe, query, key]."""
    block, head = change.head
    name = f"blocks.{block}.attn.pattern"
    if change.kind == "mixing":
        name = f"blocks.{block}.mixer.mixing"
    place = _heads(capture, block, name).index(head)
    return capture.arrays[name][:, place].astype(np.float32)


def _largest_first(change: float) -> tuple[bool, float]:
    """Return what sorts changes: the largest first, NaN last and all equal."""
    return (True, 0.0) if np.isnan(change) else (False, -change)


def _changes(first: Capture, last: Capture) -> Iterator[HeadChange]:
    for name in sorted(first.arrays.keys() & last.arrays.keys()):
        found = _MAP.fullmatch(name)
        if found is None:
            continue
        then, now = first.arrays[name], last.arrays[name]
        if then.shape[0] != now.shape[0] or then.shape[2:] != now.shape[2:]:
            raise ValueError(
                f"{name} has the shape {then.shape} at step {first.step} and {now.shape} at step "
                f"{last.step}: these are captures of different models or probes"
            )
        block = int(found[1])
        heads_then, heads_now = _heads(first, block, name), _heads(last, block, name)
        for head in sorted(set(heads_then) & set(heads_now)):
            before = then[:, heads_then.index(head)].astype(np.float32)
            after = now[:, heads_now.index(head)].astype(np.float32)
            if found[2] == "attn.pattern":
                yield _attention_change(first, last, (block, head), before, after)
            else:
                bits = _divergence(_signed_shares(before), _signed_shares(after))
                yield HeadChange((block, head), bits, np.nan, "", np.nan, np.nan, "mixing")


def _heads(capture: Capture, block: int, name: str) -> list[int]:
    """Return the numbers of the heads, or channels, of a map."""
    kind = "head" if name.endswith("pattern") else "mixing_channel"
    labels = capture.labels.get(f"blocks.{block}.{kind}")
    if labels is None:
        return list(range(capture.arrays[name].shape[1]))
    return list(head_numbers(labels))


def _attention_change(
    first: Capture, last: Capture, head: HeadId, before: Floats, after: Floats
) -> HeadChange:
    """Compare one head: ``before`` and ``after`` are its attention, [row, query, key]."""
    bits = _divergence(_summing_to_1(before), _summing_to_1(after))
    score, then, now = _most_changed_score(first, last, head)
    return HeadChange(head, bits, _query_change(first, last, head), score, then, now)


def _divergence(before: Floats, after: Floats) -> float:
    return float(jensen_shannon(before, after)[:, 1:].mean())


def _signed_shares(mixing: Floats) -> Floats:
    """Return [..., query, 2 key]: the positive entries of a row, then the negative ones, as shares
    of the sum of their sizes."""
    return _summing_to_1(np.concatenate([mixing.clip(min=0), (-mixing).clip(min=0)], axis=-1))


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
