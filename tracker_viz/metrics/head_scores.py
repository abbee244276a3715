"""List the scores that every head gets, each with the rows of the probe it is measured on, and
compute them for a capture.

One block and one row of the probe at a time: a row of all heads of a block fits the processor's
cache, which is what makes 32 x 32 heads cheap. ``HeadScore.uniform`` applies the same measure to
uniform causal attention: a baseline that cannot drift from its score.
"""

from __future__ import annotations

import logging
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
from tracker_viz.metrics.probe_rows import MIN_PERIOD, ProbeRow, uniform_attention

SCORE_DEFINITIONS = 2
"""Version of the definitions of the heads' scores. A capture stores it as
``model["score_definitions"]``; one without it was scored by version 1.

2: Scores come with a standard deviation over the probe's rows, which are more than those that are
drawn. ``induction`` and ``duplicate_token`` leave out rows with a period below 3. ``entropy`` and
``specialisation`` count the keys that a sliding window lets a query see. A head that is not finite
leaves the ``divergence`` of its block's other heads finite. New: ``induction_min``,
``duplicate_token_min``, ``current_token_repeated``, ``current_token_text``,
``previous_token_text``, ``learned_sink``.
"""

log = logging.getLogger("tracker_viz.metrics")

PATTERN_NAME = re.compile(r"blocks\.(\d+)\.attn\.pattern")

# A capture with this many attention weights (1,024 heads, 128 positions, 4 rows) is scored by two
# threads: a model with so many heads trains on an accelerator, which leaves processor cores free.
# numpy releases the GIL in all that takes time here.
MANY_ENTRIES, MANY_ENTRIES_THREADS = 1 << 26, 2


@dataclass(frozen=True, slots=True)
class HeadScore:
    """One behavior score.

    Attributes:
        measure: (attention [..., query, key] of one row, that row) -> [...].
        rows: the probe rows that it is measured on: all, those of a kind, or ``copies``, repeated
            rows with a period long enough to tell earlier copies from near tokens. A score whose
            rows the probe lacks is left out of the capture.
        unit: ``share`` (0..1), ``bits`` or ``tokens``.
        least_period: the score is that of the period with the lowest mean, not the mean over all
            rows.
        of_learned_sink: measured on the pattern with its learned sink column, and left out where
            no pattern has one.
    """

    name: str
    measure: Callable[[Floats, ProbeRow], Floats]
    rows: Literal["all", "repeated", "text", "copies"]
    unit: Literal["share", "bits", "tokens"]
    least_period: bool = False
    of_learned_sink: bool = False

    def measured_on(self, rows: Sequence[ProbeRow]) -> list[ProbeRow]:
        """Return those of a probe's rows that this score is measured on."""
        if self.rows == "copies":
            return [row for row in rows if row.kind == "repeated" and row.period >= MIN_PERIOD]
        return [row for row in rows if self.rows in ("all", row.kind)]

    def over_rows(self, values: NDArray[np.float64], rows: Sequence[ProbeRow]) -> Any:
        """Return the score, [...], of what was measured on each row, [row, ...]."""
        if not self.least_period:
            return values.mean(0)
        periods = np.array([row.period for row in rows])
        return np.min([values[periods == period].mean(0) for period in np.unique(periods)], axis=0)

    def uniform(self, rows: Sequence[ProbeRow]) -> float:
        """Return the score of uniform causal attention on this probe, the baseline of no
        specialization; NaN without such rows."""
        measured_on = self.measured_on(rows)
        if not measured_on:
            return float("nan")
        values = []
        for row in measured_on:
            values.append(float(self.measure(_two_uniform_heads(row.length), row)[0]))
        return float(self.over_rows(np.array(values), measured_on))


# Cached: scores of one measure have the same function, and a row is measured by it once.
@lru_cache
def _of_row(measure: Callable[..., Floats]) -> Callable[[Floats, ProbeRow], Floats]:
    return lambda attention, row: measure(attention)


@lru_cache
def _of_copies(measure: Callable[..., Floats]) -> Callable[[Floats, ProbeRow], Floats]:
    return lambda attention, row: measure(attention, period=row.period, start=row.start)


HEAD_SCORES: Mapping[str, HeadScore] = {
    score.name: score
    for score in (
        HeadScore("previous_token", _of_row(measures.previous_token), "all", "share"),
        HeadScore("induction", _of_copies(measures.induction), "copies", "share"),
        HeadScore("duplicate_token", _of_copies(measures.duplicate_token), "copies", "share"),
        HeadScore("current_token", _of_row(measures.current_token), "all", "share"),
        HeadScore("sink", _of_row(measures.sink), "all", "share"),
        # by kind of row as well: a head may look one token back in text and not among random
        # tokens, or rest on the first token in repeats alone
        HeadScore("previous_token_repeated", _of_row(measures.previous_token), "repeated", "share"),
        HeadScore("previous_token_text", _of_row(measures.previous_token), "text", "share"),
        HeadScore("current_token_repeated", _of_row(measures.current_token), "repeated", "share"),
        HeadScore("current_token_text", _of_row(measures.current_token), "text", "share"),
        HeadScore("sink_repeated", _of_row(measures.sink), "repeated", "share"),
        HeadScore("sink_text", _of_row(measures.sink), "text", "share"),
        HeadScore("entropy", _of_row(measures.entropy), "all", "share"),
        HeadScore("confidence", _of_row(measures.confidence), "all", "share"),
        HeadScore("positional_share", _of_row(measures.positional_share), "text", "share"),
        HeadScore("distance", _of_row(measures.distance), "all", "tokens"),
        HeadScore("specialisation", _of_row(measures.specialisation), "all", "bits"),
        HeadScore("divergence", _of_row(measures.divergence), "all", "bits"),
        # the lowest over the periods: a fixed distance fits one period, and fails the others
        HeadScore(
            "induction_min", _of_copies(measures.induction), "copies", "share", least_period=True
        ),
        HeadScore(
            "duplicate_token_min",
            _of_copies(measures.duplicate_token),
            "copies",
            "share",
            least_period=True,
        ),
        HeadScore(
            "learned_sink", _of_row(measures.learned_sink), "all", "share", of_learned_sink=True
        ),
    )
}


@dataclass(frozen=True, slots=True)
class HeadScores:
    """Scores of all heads in one capture, as ``measure_heads`` finds them.

    Attributes:
        scores: name -> float32 [block, head]. NaN where there is no such block or head, and where a
            head's attention is not finite.
        sd: name -> float32 [block, head]: standard deviation over the rows (``ddof=1``), of scores
            with at least two. That of ``induction_min`` is that of ``induction``.
        n_rows: name -> number of rows that the score was measured on.
    """

    scores: dict[str, Floats]
    sd: dict[str, Floats]
    n_rows: dict[str, int]


@lru_cache
def uniform_scores(rows: tuple[ProbeRow, ...]) -> dict[str, float]:
    """Return score -> its value for uniform causal attention on this probe, for every score that
    the probe has rows for; none for ``learned_sink``, which uniform attention does not have."""
    values = {}
    for name, score in HEAD_SCORES.items():
        if score.measured_on(rows) and not score.of_learned_sink:
            values[name] = score.uniform(rows)
    return values


def measure_heads(
    patterns: Mapping[int, NDArray[Any]],
    rows: Sequence[ProbeRow],
    *,
    n_blocks: int,
    heads: Mapping[int, Sequence[int]] | None = None,
) -> HeadScores:
    """Score every head, on every score that the probe has rows for.

    A score is the mean over the rows of its kind, or the lowest mean over their periods.

    Args:
        patterns: block -> float16 or float32 [probe, head, query, key]; ``key`` may have one more
            column than ``query``: a learned sink.
        rows: what each probe row is.
        n_blocks: number of blocks of the model, also those without attention.
        heads: block -> the heads that its pattern holds, where it does not hold all.
    """
    places: dict[int, list[int]] = {}
    for block, pattern in patterns.items():
        _check_pattern(block, pattern, rows, n_blocks)
        places[block] = list((heads or {}).get(block, range(pattern.shape[1])))
    n_heads = max((max(place) + 1 for place in places.values()), default=0)
    due = _due(patterns, rows)
    n_rows = {score.name: len(score.measured_on(rows)) for score in due}
    empty = np.full((n_blocks, n_heads), np.nan, np.float32)
    scores = {name: empty.copy() for name in n_rows}
    sd = {name: empty.copy() for name, count in n_rows.items() if count > 1}
    per_block = _each(lambda pattern: _block_values(pattern, rows, due), list(patterns.values()))
    for block, of_block in zip(patterns, per_block, strict=True):
        for score in due:
            values = of_block.get(score.name)
            if values is None:
                continue
            place = places[block]
            scores[score.name][block, place] = score.over_rows(values, score.measured_on(rows))
            if score.name in sd:
                sd[score.name][block, place] = values.std(0, ddof=1)
    return HeadScores(scores, sd, n_rows)


def _due(patterns: Mapping[int, NDArray[Any]], rows: Sequence[ProbeRow]) -> list[HeadScore]:
    has_learned_sink = any(map(_has_learned_sink, patterns.values()))
    short = {row.period for row in rows if row.kind == "repeated"} - {0}
    if short and max(short) < MIN_PERIOD:
        _warn_that_periods_are_short(max(short))
    due = []
    for score in HEAD_SCORES.values():
        can_be_measured = has_learned_sink or not score.of_learned_sink
        if can_be_measured and score.measured_on(rows):
            due.append(score)
    return due


@lru_cache
def _warn_that_periods_are_short(period: int) -> None:
    # Cached, so that a run warns once.
    log.warning(
        "the probe repeats every %d tokens, too few to tell an earlier copy from "
        "nearby tokens: there are no induction and duplicate-token scores; use a "
        "period of at least %d (rows of %d tokens or more)",
        period,
        MIN_PERIOD,
        2 * MIN_PERIOD,
    )


def _has_learned_sink(pattern: NDArray[Any]) -> bool:
    return pattern.shape[-1] > pattern.shape[-2]


def _each(
    work: Callable[[NDArray[Any]], dict[str, NDArray[np.float64]]],
    patterns: Sequence[NDArray[Any]],
) -> list[dict[str, NDArray[np.float64]]]:
    if sum(pattern.size for pattern in patterns) < MANY_ENTRIES:
        return [work(pattern) for pattern in patterns]
    with ThreadPoolExecutor(MANY_ENTRIES_THREADS, thread_name_prefix="tracker_viz-scores") as pool:
        return list(pool.map(work, patterns))


def _block_values(
    pattern: NDArray[Any], rows: Sequence[ProbeRow], due: Sequence[HeadScore]
) -> dict[str, NDArray[np.float64]]:
    """Return score -> what was measured on each of its rows, [row, head]; scores of equal measure
    are measured once."""
    measured_on = {score.name: score.measured_on(rows) for score in due}
    values: dict[str, list[Floats]] = {}
    for attention, row in zip(pattern, rows, strict=True):
        positions = _causal_float32(attention)
        known: dict[Any, Floats] = {}
        for score in due:
            if row not in measured_on[score.name]:
                continue
            if score.of_learned_sink and not _has_learned_sink(pattern):
                continue
            if score.measure not in known:
                seen = attention if score.of_learned_sink else positions
                known[score.measure] = score.measure(seen, row)
            values.setdefault(score.name, []).append(known[score.measure])
    return {name: np.array(of_rows, np.float64) for name, of_rows in values.items()}


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
    """Return [head, query, key] in float32 without a learned sink column, which is no position."""
    n_queries = attention.shape[-2]
    if attention.dtype == np.float32:
        return attention[..., :n_queries]
    positions = np.zeros((*attention.shape[:-1], n_queries), np.float32)
    # In bands of queries, so that most of the future, which is zero, is not converted.
    for band in np.array_split(np.arange(n_queries), measures.N_BANDS):
        if band.size:
            visible = (..., slice(band[0], band[-1] + 1), slice(band[-1] + 1))
            positions[visible] = attention[visible]
    return positions


def _two_uniform_heads(length: int) -> Floats:
    return np.broadcast_to(uniform_attention(length), (2, length, length))
