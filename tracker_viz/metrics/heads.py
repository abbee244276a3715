"""Behaviour scores of attention heads: attention probabilities in, one number per head out.

Every measure takes ``attention``: float32 [..., query, key] of one probe row, causal, rows summing to 1 at most (less where a
model has a learned sink column, or an attention that is no softmax), and gives [...]: the leading axes are kept, ``head`` last.
What a measure is of *unspecialised* attention is ``HeadScore.uniform``: the same measure, of uniform causal attention.

``head_scores`` runs all of them over a capture, one block and one row at a time: a row of all heads of a block fits the
processor's cache, which is what makes 32 x 32 heads cheap.
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
from tracker_viz.metrics.probe import FIRST_QUERY, ProbeRow, uniform_attention

Floats = NDArray[np.float32]
PATTERN_NAME = re.compile(r"blocks\.(\d+)\.attn\.pattern")

# A capture of this many attention weights (1,024 heads, 128 positions, 4 rows) is scored by two threads: a model with so many
# heads trains on an accelerator, and leaves its processor's cores free. numpy lets go of the GIL in all that takes time here.
MANY_ENTRIES, MANY_ENTRIES_THREADS = 1 << 26, 2

# Below this a probability is nothing: it keeps log(0) out of the entropies and changes no sum that float32 can hold.
_TINY = np.float32(1e-30)
# The two Jensen-Shannon scores are means over at most this many queries, evenly spaced and the same at every step. Probes of
# up to 34 positions are scored whole; at 128 positions a mean over all queries would differ by about the spread between queries / 8.
MAX_DIVERGENCE_QUERIES = 32
# Causal attention is zero above the diagonal: cut into this many bands of queries, three eighths of the work falls away.
_N_BANDS = 4


# -- where the attention goes ---------------------------------------------------------------------------------------


def previous_token(attention: Floats) -> Floats:
    """Mean attention to the token just before: mean of ``A[i, i-1]`` over i >= 2; on text, where the probe has any.

    0..1. Uniform: mean of 1/(i+1), 0.05 at 64 positions. Source: the "previous token head" of Elhage et al. 2021, *A Mathematical
    Framework for Transformer Circuits*.
    """
    return _diagonal(attention, 1)[..., FIRST_QUERY - 1 :].mean(-1)


def current_token(attention: Floats) -> Floats:
    """Mean attention to the token itself: mean of ``A[i, i]`` over i >= 2; on text, where the probe has any.

    0..1. Uniform: mean of 1/(i+1). Source: the current-token head of TransformerLens, Nanda & Bloom 2022.
    """
    return _diagonal(attention, 0)[..., FIRST_QUERY:].mean(-1)


def sink(attention: Floats) -> Floats:
    """Mean attention to the first position, whatever token stands there: mean of ``A[i, 0]`` over i >= 2.

    0..1. Uniform: mean of 1/(i+1). A learned sink column is no position and is not counted. Source: Xiao et al. 2023, *Efficient
    Streaming Language Models with Attention Sinks*; Gu et al. 2024, *When Attention Sink Emerges*, who count heads above 0.3.
    """
    return attention[..., FIRST_QUERY:, 0].mean(-1)


def induction(attention: Floats, *, period: int, start: int) -> Floats:
    """Attention to what followed the current token before: mean over queries in the second and later copies of
    ``sum_k A[i, i - k p + 1]`` over the earlier copies k = 1, 2, ... (p the period).

    0..1. Uniform: mean of (number of earlier copies)/(i+1). With two copies it is Olsson's diagonal; with more, all earlier copies
    count, because a head may follow any of them. Source: "prefix matching score", Olsson et al. 2022, *In-context Learning and
    Induction Heads*.
    """
    return _earlier_copies(attention, period=period, start=start, shift=1)


def duplicate_token(attention: Floats, *, period: int, start: int) -> Floats:
    """Attention to the same token, seen before: mean over queries in the second and later copies of ``sum_k A[i, i - k p]``.

    0..1. Uniform: mean of (number of earlier copies)/(i+1). Source: "duplicate token heads", Wang et al. 2022,
    *Interpretability in the Wild*.
    """
    return _earlier_copies(attention, period=period, start=start, shift=0)


def distance(attention: Floats) -> Floats:
    """How far back a head looks: mean over i >= 2 of ``sum_j A[i, j] (i - j) / sum_j A[i, j]``, in tokens.

    0..T-1. Uniform: mean of i/2. Source: "attention distance", Vig & Belinkov 2019, *Analyzing the Structure of Attention*.
    """
    rows = attention[..., FIRST_QUERY:, :]
    keys = np.arange(attention.shape[-1], dtype=np.float32)
    mass, weighted_key = np.moveaxis(rows @ np.stack([np.ones_like(keys), keys], 1), -1, 0)
    queries = np.arange(FIRST_QUERY, attention.shape[-2], dtype=np.float32)
    return _mean_where(mass != 0, queries - weighted_key / np.where(mass == 0, np.float32(1), mass))


# -- how the attention is spread --------------------------------------------------------------------------------------


def entropy(attention: Floats) -> Floats:
    """Normalised entropy: mean over i >= 2 of ``H(A[i]) / log(i + 1)``, rows scaled to sum to 1.

    0 (one key) to 1 (uniform over all earlier tokens). A head behind a sliding window shorter than the probe cannot reach 1.
    Source: Clark et al. 2019, *What Does BERT Look At?*, divided by its causal maximum so that positions count alike.
    """
    return np.clip(_mean_over_queries(_normalised_entropy, attention, _all_queries(attention.shape[-2])), 0.0, 1.0)


def confidence(attention: Floats) -> Floats:
    """Mean of the largest attention to any one token but the first: mean over i >= 2 of ``max_j A[i, j]``, j >= 1.

    0..1. Uniform: mean of 1/(i+1). Source: Voita et al. 2019, *Analyzing Multi-Head Self-Attention*, section 4, which leaves out
    the end-of-sequence token as we leave out the first: resting on a sink is no confidence.
    """
    return attention[..., FIRST_QUERY:, 1:].max(-1).mean(-1)


def positional_share(attention: Floats) -> Floats:
    """Share of queries (i >= 2) whose strongest key lies at the head's own most frequent distance.

    1/(T-2)..1; a head is called positional from 0.9. Uniform: 1/(T-2), each query's strongest key being the first one.
    Source: "positional heads", Voita et al. 2019, section 5.1, for any distance instead of -1 and +1.
    """
    *lead, n_queries, _ = attention.shape
    strongest = attention[..., FIRST_QUERY:, :].argmax(-1)
    back = (np.arange(FIRST_QUERY, n_queries) - strongest).reshape(-1, n_queries - FIRST_QUERY)
    n_heads = len(back)
    # one histogram per head, by one bincount over (head, distance); a key after its query counts as distance 0
    cells = np.arange(n_heads)[:, None] * n_queries + np.maximum(back, 0)
    counts = np.bincount(cells.ravel(), minlength=n_heads * n_queries).reshape(n_heads, n_queries)
    share = counts.max(-1) / back.shape[-1]
    # argmax stops at a NaN, so looking at what it found is enough to see one
    found = np.take_along_axis(attention[..., FIRST_QUERY:, :], strongest[..., None], -1)
    return np.where(np.isfinite(found).all((-2, -1)), share.reshape(lead), np.nan).astype(np.float32)


def specialisation(attention: Floats) -> Floats:
    """Jensen-Shannon divergence from uniform causal attention, in bits: mean over i >= 2 of ``JSD(A[i], U[i])``.

    0..1: 0 for a head that spreads evenly, 0.87 at 64 positions for one that picks single tokens, whichever they are. Rows are
    scaled to sum to 1. Source: Lin 1991, *Divergence Measures Based on the Shannon Entropy*.
    """
    return _mean_over_queries(_from_uniform, attention, _divergence_queries(attention.shape[-2]))


def divergence(attention: Floats) -> Floats:
    """How unlike the block's other heads a head is: mean over i >= 2 of ``JSD(A_h[i], mean of the other heads' A[i])``, in bits.

    ``attention``: [..., head, query, key]. 0 (all heads alike, as uniform ones are) to 1 (it attends where no other head does);
    NaN in a block of one head. Source: Lin 1991; heads compared this way by Clark et al. 2019, section 6.
    """
    if attention.shape[-3] == 1:
        return np.full(attention.shape[:-2], np.nan, np.float32)
    return _mean_over_queries(_from_other_heads, attention, _divergence_queries(attention.shape[-2]))


def jensen_shannon(p: Floats, q: Floats) -> Floats:
    """Jensen-Shannon divergence of distributions over the last axis (each summing to 1), in bits, 0..1."""
    half = np.float32(0.5)
    nats = half * (_x_log_x(p) + _x_log_x(q)) - _x_log_x(half * (p + q))
    return np.clip(nats / np.float32(np.log(2)), 0.0, 1.0)


# -- all of them over a capture -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeadScore:
    """One behaviour score.

    Attributes:
        measure: (attention [..., query, key] of one row, that row) -> [...].
        rows: the probe rows that it is the mean over. A score whose rows the probe lacks is left out of the capture; ``text first`` takes
            the text rows, and the repeated ones only of a probe without text.
        unit: ``share`` (0..1), ``bits`` or ``tokens``.
    """

    name: str
    measure: Callable[[Floats, ProbeRow], Floats]
    rows: Literal["all", "repeated", "text", "text first"]
    unit: Literal["share", "bits", "tokens"]

    def measured_on(self, rows: Sequence[ProbeRow]) -> list[ProbeRow]:
        """Those of a probe's rows that this score is the mean over."""
        kinds: dict[str, tuple[str, ...]] = {"all": ("repeated", "text"), "repeated": ("repeated",), "text": ("text",)}
        if self.rows == "text first":
            wanted = kinds["text"] if any(row.kind == "text" for row in rows) else kinds["repeated"]
        else:
            wanted = kinds[self.rows]
        return [row for row in rows if row.kind in wanted]

    def uniform(self, rows: Sequence[ProbeRow]) -> float:
        """The score of uniform causal attention on this probe: what no specialisation at all looks like. NaN without such rows."""
        values = [float(self.measure(_two_uniform_heads(row.length), row)[0]) for row in self.measured_on(rows)]
        return float(np.mean(values)) if values else float("nan")


def _of_row(measure: Callable[..., Floats]) -> Callable[[Floats, ProbeRow], Floats]:
    return lambda attention, row: measure(attention)


def _of_copies(measure: Callable[..., Floats]) -> Callable[[Floats, ProbeRow], Floats]:
    return lambda attention, row: measure(attention, period=row.period, start=row.start)


HEAD_SCORES: Mapping[str, HeadScore] = {
    score.name: score
    for score in (
        HeadScore("previous_token", _of_row(previous_token), "text first", "share"),
        HeadScore("induction", _of_copies(induction), "repeated", "share"),
        HeadScore("duplicate_token", _of_copies(duplicate_token), "repeated", "share"),
        HeadScore("current_token", _of_row(current_token), "text first", "share"),
        HeadScore("sink", _of_row(sink), "all", "share"),
        # by kind of row as well: a head may look one token back in text long before it does so among random tokens, or rest on the
        # first token in repeats alone
        HeadScore("previous_token_repeated", _of_row(previous_token), "repeated", "share"),
        HeadScore("sink_repeated", _of_row(sink), "repeated", "share"),
        HeadScore("sink_text", _of_row(sink), "text", "share"),
        HeadScore("entropy", _of_row(entropy), "all", "share"),
        HeadScore("confidence", _of_row(confidence), "all", "share"),
        HeadScore("positional_share", _of_row(positional_share), "text", "share"),
        HeadScore("distance", _of_row(distance), "all", "tokens"),
        HeadScore("specialisation", _of_row(specialisation), "all", "bits"),
        HeadScore("divergence", _of_row(divergence), "all", "bits"),
    )
}


@lru_cache
def uniform_scores(rows: tuple[ProbeRow, ...]) -> dict[str, float]:
    """Score -> its value for uniform causal attention on this probe, for every score that the probe has rows for."""
    return {name: score.uniform(rows) for name, score in HEAD_SCORES.items() if score.measured_on(rows)}


def head_scores(
    patterns: Mapping[int, NDArray[Any]],
    rows: Sequence[ProbeRow],
    *,
    n_blocks: int,
    heads: Mapping[int, Sequence[int]] | None = None,
) -> dict[str, Floats]:
    """Every score of every head that the probe has rows for: name -> float32 [block, head].

    A score is the mean over the rows of its kind. NaN where there is no such block or head, and where a head's attention is not finite.

    Args:
        patterns: block -> float16 or float32 [probe, head, query, key]; ``key`` may have one more column than ``query``: a learned sink.
        rows: what each probe row is.
        n_blocks: number of blocks of the model, also those without attention.
        heads: block -> which heads its pattern holds, where it does not hold all.
    """
    places = {block: list((heads or {}).get(block, range(pattern.shape[1]))) for block, pattern in patterns.items()}
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


def _each(work: Callable[[NDArray[Any]], dict[str, Floats]], patterns: Sequence[NDArray[Any]]) -> list[dict[str, Floats]]:
    if sum(pattern.size for pattern in patterns) < MANY_ENTRIES:
        return [work(pattern) for pattern in patterns]
    with ThreadPoolExecutor(MANY_ENTRIES_THREADS, thread_name_prefix="tracker_viz-scores") as pool:
        return list(pool.map(work, patterns))


def _block_scores(pattern: NDArray[Any], rows: Sequence[ProbeRow], due: Sequence[HeadScore]) -> dict[str, Floats]:
    totals = {score.name: np.zeros(pattern.shape[1], np.float64) for score in due}
    measured_on = {score.name: score.measured_on(rows) for score in due}
    for attention, row in zip(pattern, rows, strict=True):
        positions = _causal_float32(attention)
        for score in due:
            if row in measured_on[score.name]:
                totals[score.name] += score.measure(positions, row)
    return {name: (total / len(measured_on[name])).astype(np.float32) for name, total in totals.items()}


def _check_pattern(block: int, pattern: NDArray[Any], rows: Sequence[ProbeRow], n_blocks: int) -> None:
    name = f"blocks.{block}.attn.pattern"
    if block >= n_blocks:
        raise CaptureError(f"{name} is there, but the capture's model has {n_blocks} blocks")
    length = rows[0].length if rows else 0
    if pattern.ndim != 4 or pattern.shape[0] != len(rows) or pattern.shape[2] != length or pattern.shape[3] not in (length, length + 1):
        raise ProbeError(
            f"{name} must be [probe {len(rows)}, head, query {length}, key {length}] as Capture.probe says; got {list(pattern.shape)} "
            "(scores are taken before a capture is cut to its budget)"
        )


def _diagonal(attention: Floats, back: int) -> Floats:
    return np.diagonal(attention, -back, -2, -1)


def _earlier_copies(attention: Floats, *, period: int, start: int, shift: int) -> Floats:
    """Mean over i >= start + period of the sum over k >= 1 of ``A[i, i - k period + shift]``, as far as i - k period >= start."""
    length = attention.shape[-2]
    first = start + period
    total = np.zeros(attention.shape[:-2], np.float32)
    for back in range(period, length - start, period):
        # queries i = start + back, ...: the copy that lies ``back`` tokens earlier begins at ``start``
        total += _diagonal(attention, back - shift)[..., start + shift :].sum(-1)
    return total / np.float32(length - first)


Queries = tuple[NDArray[np.intp], ...]


@lru_cache
def _all_queries(length: int) -> Queries:
    return _in_bands(np.arange(FIRST_QUERY, length))


@lru_cache
def _divergence_queries(length: int) -> Queries:
    n_queries = min(length - FIRST_QUERY, MAX_DIVERGENCE_QUERIES)
    return _in_bands(np.linspace(FIRST_QUERY, length - 1, n_queries).round().astype(np.intp))


def _in_bands(queries: NDArray[np.intp]) -> Queries:
    return tuple(np.array_split(queries, min(_N_BANDS, len(queries))))


def _mean_over_queries(measure: Callable[[Floats, Floats, NDArray[np.intp]], Floats], attention: Floats, bands: Queries) -> Floats:
    """Mean over the queries in ``bands`` of ``measure(rows [..., query, key], their sums [..., query], which queries)``.

    Queries that attend to nothing are left out; NaN where all do, or where the attention is not finite.
    """
    values, masses = [], []
    for band in bands:
        rows = attention.take(band, axis=-2)[..., : band[-1] + 1]
        masses.append(rows.sum(-1))
        values.append(measure(rows, np.where(masses[-1] == 0, np.float32(1), masses[-1]), band))
    return _mean_where(np.concatenate(masses, -1) != 0, np.concatenate(values, -1))


def _mean_where(chosen: NDArray[np.bool_], values: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.where(chosen, values, 0).sum(-1) / chosen.sum(-1)).astype(np.float32)


def _normalised_entropy(rows: Floats, mass: Floats, queries: NDArray[np.intp]) -> Floats:
    # H of the rows scaled to sum to 1, without scaling them: log(mass) - sum(x log x) / mass
    return (np.log(mass) - _x_log_x(rows) / mass) / np.log(queries + 1).astype(np.float32)


def _from_uniform(rows: Floats, mass: Floats, queries: NDArray[np.intp]) -> Floats:
    n_visible = (queries + 1).astype(np.float32)[:, None]
    uniform = np.where(np.arange(rows.shape[-1]) < n_visible, 1 / n_visible, np.float32(0))
    return jensen_shannon(rows / mass[..., None], uniform)


def _from_other_heads(rows: Floats, mass: Floats, queries: NDArray[np.intp]) -> Floats:
    heads = rows / mass[..., None]
    return jensen_shannon(heads, (heads.sum(-3, keepdims=True) - heads) / np.float32(rows.shape[-3] - 1))


def _x_log_x(x: Floats) -> Floats:
    """Sum of x log x over the last axis."""
    logs = np.maximum(x, _TINY)
    np.log(logs, out=logs)
    return np.einsum("...k,...k->...", x, logs)


def _causal_float32(attention: NDArray[Any]) -> Floats:
    """The positions' part of [head, query, key] in float32: without a learned sink column, which is no position."""
    n_queries = attention.shape[-2]
    if attention.dtype == np.float32:
        return attention[..., :n_queries]
    positions = np.zeros((*attention.shape[:-1], n_queries), np.float32)
    for band in np.array_split(np.arange(n_queries), _N_BANDS):
        if band.size:
            positions[..., band[0] : band[-1] + 1, : band[-1] + 1] = attention[..., band[0] : band[-1] + 1, : band[-1] + 1]
    return positions


def _two_uniform_heads(length: int) -> Floats:
    return np.broadcast_to(uniform_attention(length), (2, length, length))
