"""Which scores every head gets, on which rows of the probe, and all of them over a capture.

One block and one row of the probe at a time: a row of all heads of a block fits the processor's
cache, which is what makes 32 x 32 heads cheap. ``HeadScore.uniform`` is the same measure, of
uniform causal attention: a baseline that cannot drift from its score.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import CaptureError, ProbeError
from tracker_viz.metrics import head_measures as measures
from tracker_viz.metrics.head_measures import Floats
from tracker_viz.metrics.probe_rows import ProbeRow, uniform_attention

PATTERN_NAME = re.compile(r"blocks\.(\d+)\.attn\.pattern")

# A capture of this many attention weights (1,024 heads, 128 positions, 4 rows) is scored by two
# threads: a model with so many heads trains on an accelerator, and leaves its processor's cores
# free. numpy lets go of the GIL in all that takes time here.
MANY_ENTRIES, MANY_ENTRIES_THREADS = 1 << 26, 2


@dataclass(frozen=True, slots=True)
class HeadScore:
    """One behaviour score.

    Attributes:
        measure: (attention [..., query, key] of one row, that row) -> [...].
        rows: the probe rows that it is the mean over. A score whose rows the probe lacks is left
            out of the capture.
        unit: ``share`` (0..1), ``bits`` or ``tokens``.
    """

    name: str
    measure: Callable[[Floats, ProbeRow], Floats]
    rows: Literal["all", "repeated", "text"]
    unit: Literal["share", "bits", "tokens"]

    def measured_on(self, rows: Sequence[ProbeRow]) -> list[ProbeRow]:
        """Those of a probe's rows that this score is the mean over."""
        return [row for row in rows if self.rows in ("all", row.kind)]

    def uniform(self, rows: Sequence[ProbeRow]) -> float:
        """The score of uniform causal attention on this probe: what no specialisation at all looks
        like. NaN without such rows."""
        values = [
            float(self.measure(_two_uniform_heads(row.length), row)[0])
            for row in self.measured_on(rows)
        ]
        return float(np.mean(values)) if values else float("nan")


def _of_row(measure: Callable[..., Floats]) -> Callable[[Floats, ProbeRow], Floats]:
    return lambda attention, row: measure(attention)


def _of_copies(measure: Callable[..., Floats]) -> Callable[[Floats, ProbeRow], Floats]:
    return lambda attention, row: measure(attention, period=row.period, start=row.start)


HEAD_SCORES: Mapping[str, HeadScore] = {
    score.name: score
    for score in (
        HeadScore("previous_token", _of_row(measures.previous_token), "all", "share"),
        HeadScore("induction", _of_copies(measures.induction), "repeated", "share"),
        HeadScore("duplicate_token", _of_copies(measures.duplicate_token), "repeated", "share"),
        HeadScore("current_token", _of_row(measures.current_token), "all", "share"),
        HeadScore("sink", _of_row(measures.sink), "all", "share"),
        # by kind of row as well: a head may look one token back in text and not among random
        # tokens, or rest on the first token in repeats alone
        HeadScore("previous_token_repeated", _of_row(measures.previous_token), "repeated", "share"),
        HeadScore("sink_repeated", _of_row(measures.sink), "repeated", "share"),
        HeadScore("sink_text", _of_row(measures.sink), "text", "share"),
        HeadScore("entropy", _of_row(measures.entropy), "all", "share"),
        HeadScore("confidence", _of_row(measures.confidence), "all", "share"),
        HeadScore("positional_share", _of_row(measures.positional_share), "text", "share"),
        HeadScore("distance", _of_row(measures.distance), "all", "tokens"),
        HeadScore("specialisation", _of_row(measures.specialisation), "all", "bits"),
        HeadScore("divergence", _of_row(measures.divergence), "all", "bits"),
    )
}


@lru_cache
def uniform_scores(rows: tuple[ProbeRow, ...]) -> dict[str, float]:
    """Score -> its value for uniform causal attention on this probe, for every score that the probe
    has rows for."""
    return {
        name: score.uniform(rows) for name, score in HEAD_SCORES.items() if score.measured_on(rows)
    }


def head_scores(
    patterns: Mapping[int, NDArray[Any]],
    rows: Sequence[ProbeRow],
    *,
    n_blocks: int,
    heads: Mapping[int, Sequence[int]] | None = None,
) -> dict[str, Floats]:
    """Every score of every head that the probe has rows for: name -> float32 [block, head].

    A score is the mean over the rows of its kind. NaN where there is no such block or head, and
    where a head's attention is not finite.

    Args:
        patterns: block -> float16 or float32 [probe, head, query, key]; ``key`` may have one more
            column than ``query``: a learned sink.
        rows: what each probe row is.
        n_blocks: number of blocks of the model, also those without attention.
        heads: block -> which heads its pattern holds, where it does not hold all.
    """
    places = {
        block: list((heads or {}).get(block, range(pattern.shape[1])))
        for block, pattern in patterns.items()
    }
    n_heads = max((max(place) + 1 for place in places.values()), default=0)
    due = [score for score in HEAD_SCORES.values() if score.measured_on(rows)]
    scores = {score.name: np.full((n_blocks, n_heads), np.nan, np.float32) for score in due}
    for block, pattern in patterns.items():
        _check_pattern(block, pattern, rows, n_blocks)
    per_block = _each(lambda pattern: _block_scores(pattern, rows, due), list(patterns.values()))
    for block, of_block in zip(patterns, per_block, strict=True):
        for name, values in of_block.items():
            scores[name][block, places[block]] = values
    return scores


def _each(
    work: Callable[[NDArray[Any]], dict[str, Floats]], patterns: Sequence[NDArray[Any]]
) -> list[dict[str, Floats]]:
    if sum(pattern.size for pattern in patterns) < MANY_ENTRIES:
        return [work(pattern) for pattern in patterns]
    with ThreadPoolExecutor(MANY_ENTRIES_THREADS, thread_name_prefix="tracker_viz-scores") as pool:
        return list(pool.map(work, patterns))


def _block_scores(
    pattern: NDArray[Any], rows: Sequence[ProbeRow], due: Sequence[HeadScore]
) -> dict[str, Floats]:
    totals = {score.name: np.zeros(pattern.shape[1], np.float64) for score in due}
    measured_on = {score.name: score.measured_on(rows) for score in due}
    for attention, row in zip(pattern, rows, strict=True):
        positions = _causal_float32(attention)
        for score in due:
            if row in measured_on[score.name]:
                totals[score.name] += score.measure(positions, row)
    return {
        name: (total / len(measured_on[name])).astype(np.float32) for name, total in totals.items()
    }


def _check_pattern(
    block: int, pattern: NDArray[Any], rows: Sequence[ProbeRow], n_blocks: int
) -> None:
    name = f"blocks.{block}.attn.pattern"
    if block >= n_blocks:
        raise CaptureError(f"{name} is there, but the capture's model has {n_blocks} blocks")
    length = rows[0].length if rows else 0
    if (
        pattern.ndim != 4
        or pattern.shape[0] != len(rows)
        or pattern.shape[2] != length
        or pattern.shape[3] not in (length, length + 1)
    ):
        raise ProbeError(
            f"{name} must be [probe {len(rows)}, head, query {length}, key {length}] as "
            f"Capture.probe says; got {list(pattern.shape)} "
            "(scores are taken before a capture is cut to its budget)"
        )


def _causal_float32(attention: NDArray[Any]) -> Floats:
    """The positions' part of [head, query, key] in float32: without a learned sink column, which is
    no position."""
    n_queries = attention.shape[-2]
    if attention.dtype == np.float32:
        return attention[..., :n_queries]
    positions = np.zeros((*attention.shape[:-1], n_queries), np.float32)
    for band in np.array_split(np.arange(n_queries), measures.N_BANDS):
        if band.size:
            positions[..., band[0] : band[-1] + 1, : band[-1] + 1] = attention[
                ..., band[0] : band[-1] + 1, : band[-1] + 1
            ]
    return positions


def _two_uniform_heads(length: int) -> Floats:
    return np.broadcast_to(uniform_attention(length), (2, length, length))
