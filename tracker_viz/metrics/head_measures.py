"""Behavior scores of attention heads: attention probabilities in, one number per head out.

Every measure takes ``attention``: float32 [..., query, key] of one probe row, causal, rows summing
to 1 at most (less where a model has a learned sink column, or an attention that is no softmax), and
returns [...]: the leading axes are kept, ``head`` last. "Uniform" is its value for unspecialized
attention, which spreads evenly over all that it may see. ``head_scores`` runs them over captures.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.probe_rows import FIRST_QUERY

Floats = NDArray[np.float32]

# Probabilities are raised to this: it keeps log(0) out of the entropies and changes no sum that
# float32 can hold.
_TINY = np.float32(1e-30)
# Marks a query that cannot be measured and is left out of the mean: no measure is negative.
_NOTHING = -1
# The two Jensen-Shannon scores are means over at most this many queries, evenly spaced and the same
# at every step: a quarter of the cost at 128 positions, where they lie within 0.05 of the mean over
# all (a test says so). Up to 34 positions nothing is left out.
MAX_DIVERGENCE_QUERIES = 32
# A sliding window is believed where at least this many queries could see farther and do not.
_LEAST_EVIDENCE = 4
# Causal attention is zero above the diagonal: cut into this many bands of queries, three eighths of
# the work falls away.
N_BANDS = 4


# -- where the attention goes ----------------------------------------------------------------------


def previous_token(attention: Floats) -> Floats:
    """Mean attention to the token just before: mean of ``A[i, i-1]`` over i >= 2.

    0..1. Uniform: mean of 1/(i+1), 0.05 at 64 positions. Source: the "previous token head" of
    Elhage et al. 2021, *A Mathematical Framework for Transformer Circuits*.
    """
    return _diagonal(attention, 1)[..., FIRST_QUERY - 1 :].mean(-1)


def current_token(attention: Floats) -> Floats:
    """Mean attention to the token itself: mean of ``A[i, i]`` over i >= 2.

    0..1. Uniform: mean of 1/(i+1). Source: the current-token head of TransformerLens, Nanda & Bloom
    2022.
    """
    return _diagonal(attention, 0)[..., FIRST_QUERY:].mean(-1)


def sink(attention: Floats) -> Floats:
    """Mean attention to the first position, whatever its token: mean of ``A[i, 0]`` over all
    queries, the first one included.

    0..1. Uniform: mean of 1/(i+1) over i >= 0, 0.07 at 64 positions; at least 1/T, because the
    first token sees nothing but itself. A learned sink column is no position and is not counted.
    Source: the importance score of the first token of Gu et al. 2024, *When Attention Sink
    Emerges*, who call a head above 0.3 a sink; the name is of Xiao et al. 2023, *Efficient
    Streaming Language Models*.
    """
    return attention[..., 0].mean(-1)


def learned_sink(attention: Floats) -> Floats:
    """Mean attention to a learned sink column: mean over i >= 2 of the column behind the keys.

    ``attention``: [..., query, key], with one key more than queries; the rest of each row, which is
    what the other scores are measured on, then sums to less than 1. 0..1; 0 without such a column.
    It is no position, and ``sink`` does not count it. Source: the learned bias in the softmax's
    denominator of gpt-oss (OpenAI 2025), after Xiao et al. 2023, *Efficient Streaming Language
    Models*, section 3.3.
    """
    n_queries = attention.shape[-2]
    behind = attention[..., FIRST_QUERY:, n_queries:].astype(np.float32)
    return behind.sum(-1).mean(-1)


def induction(attention: Floats, *, period: int, start: int) -> Floats:
    """Attention to what followed the current token before: mean over queries in the second and
    later copies of ``sum_k A[i, i - k p + 1]`` over the earlier copies k = 1, 2, ... (p the
    period).

    0..1. Uniform: mean of (number of earlier copies)/(i+1). With two copies it is Olsson's
    diagonal; with more, all earlier copies count, because a head may follow any of them. Source:
    "prefix matching score", Olsson et al. 2022, *In-context Learning and Induction Heads*.
    TransformerLens's head detector (Nanda & Bloom 2022, error measure "mul") divides by the
    attention of *all* queries, also of those in the first copy, which have nothing to match: on
    ``[BOS r r]`` a perfect head gets 0.49 there, and 1 here.
    """
    return _earlier_copies(attention, period=period, start=start, shift=1)


def duplicate_token(attention: Floats, *, period: int, start: int) -> Floats:
    """Attention to the same token, seen before: mean over queries in the second and later copies of
    ``sum_k A[i, i - k p]``.

    0..1. Uniform: mean of (number of earlier copies)/(i+1). Source: "duplicate token heads", Wang
    et al. 2022, *Interpretability in the Wild*.
    """
    return _earlier_copies(attention, period=period, start=start, shift=0)


def distance(attention: Floats) -> Floats:
    """Mean distance that a head looks back, in tokens: mean over i >= 2 of ``sum_j A[i, j] (i - j)
    / sum_j A[i, j]``.

    0..T-1. Uniform: mean of i/2. Source: "attention distance", Vig & Belinkov 2019, *Analyzing the
    Structure of Attention*.
    """
    rows = attention[..., FIRST_QUERY:, :]
    keys = np.arange(attention.shape[-1], dtype=np.float32)
    mass, weighted_key = np.moveaxis(rows @ np.stack([np.ones_like(keys), keys], 1), -1, 0)
    queries = np.arange(FIRST_QUERY, attention.shape[-2], dtype=np.float32)
    return _mean_where(mass != 0, queries - weighted_key / np.where(mass == 0, np.float32(1), mass))


# -- how the attention is spread -------------------------------------------------------------------


def entropy(attention: Floats) -> Floats:
    """Normalized entropy: mean over i >= 2 of ``H(A[i]) / log(n_i)``, rows scaled to sum to 1.

    ``n_i`` is the number of keys that query i may see: i + 1, or at most a sliding window's, see
    ``window``. 0 (one key) to 1 (uniform over all that it may see). Source: Clark et al. 2019,
    *What Does BERT Look At?*, divided by its maximum so that positions count alike.
    """
    measure = partial(_normalized_entropy, width=window(attention))
    return np.clip(
        _mean_over_queries(measure, attention, _all_queries(attention.shape[-2])), 0.0, 1.0
    )


def confidence(attention: Floats) -> Floats:
    """Mean of the largest attention to any one token but the first: mean over i >= 2 of ``max_j
    A[i, j]``, j >= 1.

    0..1. Uniform: mean of 1/(i+1). Source: Voita et al. 2019, *Analyzing Multi-Head
    Self-Attention*, section 4, which leaves out the end-of-sequence token as we leave out the
    first: resting on a sink is no confidence.
    """
    return attention[..., FIRST_QUERY:, 1:].max(-1).mean(-1)


def positional_share(attention: Floats) -> Floats:
    """Share of queries (i >= 2) whose strongest key lies at the head's own most frequent distance.

    1/(T-2)..1; a head is called positional from 0.9. Uniform: 1/(T-2), each query's strongest key
    being the first one. Source: "positional heads", Voita et al. 2019, section 5.1, for any
    distance instead of -1 and +1.
    """
    *lead, n_queries, _ = attention.shape
    strongest = attention[..., FIRST_QUERY:, :].argmax(-1)
    back = (np.arange(FIRST_QUERY, n_queries) - strongest).reshape(-1, n_queries - FIRST_QUERY)
    n_heads = len(back)
    # one histogram per head, by one bincount over (head, distance); a key after its query counts as
    # distance 0
    cells = np.arange(n_heads)[:, None] * n_queries + np.maximum(back, 0)
    counts = np.bincount(cells.ravel(), minlength=n_heads * n_queries).reshape(n_heads, n_queries)
    share = counts.max(-1) / back.shape[-1]
    # argmax stops at a NaN, so looking at what it found is enough to see one
    found = np.take_along_axis(attention[..., FIRST_QUERY:, :], strongest[..., None], -1)
    return np.where(np.isfinite(found).all((-2, -1)), share.reshape(lead), np.nan).astype(
        np.float32
    )


def specialisation(attention: Floats) -> Floats:
    """Jensen-Shannon divergence from uniform causal attention, in bits: mean over i >= 2 of
    ``JSD(A[i], U[i])``, U within a sliding window where the heads have one, see ``window``.

    0..1: 0 for a head that spreads evenly, 0.87 at 64 positions for one that picks single tokens,
    whichever they are. Rows are scaled to sum to 1. Source: Lin 1991, *Divergence Measures Based on
    the Shannon Entropy*.
    """
    measure = partial(_from_uniform, width=window(attention))
    return _mean_over_queries(measure, attention, _divergence_queries(attention.shape[-2]))


def divergence(attention: Floats) -> Floats:
    """Divergence of a head from the block's other heads, in bits: mean over i >= 2 of
    ``JSD(A_h[i], mean of the other heads' A[i])``.

    ``attention``: [..., head, query, key]. 0 (all heads alike, as uniform ones are) to 1 (it
    attends where no other head does); NaN in a block of one head. At a query where another head is
    not finite, that one is left out of the mean; a head that is not finite itself is NaN. Source:
    Lin 1991; Clark et al. 2019, section 6, compare heads by this divergence too, pair by pair.
    """
    if attention.shape[-3] == 1:
        return np.full(attention.shape[:-2], np.nan, np.float32)
    return _mean_over_queries(
        _from_other_heads, attention, _divergence_queries(attention.shape[-2])
    )


def window(attention: Floats) -> int | None:
    """Return how many keys a sliding window lets a query see, itself included; None where the
    queries see all that came before.

    ``attention``: [..., query, key] of heads under one mask, those of a block. A mask leaves exact
    zeros beyond a band of constant width, and softmax leaves none within it. So a window is found
    where the farthest key that any head attends to is equally far back at every query, and every
    nearer distance is attended to at most queries. A sharp head alone, whose small probabilities
    are zeros in float16, does not have that shape.
    """
    length = attention.shape[-1]
    if attention.shape[-2] != length or (attention[..., -1, 0] > 0).any():
        return None
    seen = (attention > 0).any(tuple(range(attention.ndim - 2)))
    attends = seen.any(-1)
    if not attends.any():
        return None
    farthest = np.arange(length) - seen.argmax(-1)
    width = int(farthest[attends].max()) + 1
    is_constant = farthest[attends] == np.minimum(np.arange(length), width - 1)[attends]
    has_every_distance = all(np.diagonal(seen, -back).mean() > 0.5 for back in range(width))
    n_that_show_it = length - width
    is_window = width >= 2 and n_that_show_it >= _LEAST_EVIDENCE
    return width if is_window and is_constant.all() and has_every_distance else None


def jensen_shannon(p: Floats, q: Floats) -> Floats:
    """Jensen-Shannon divergence of distributions over the last axis (each summing to 1), in bits,
    0..1."""
    half = np.float32(0.5)
    nats = half * (_x_log_x(p) + _x_log_x(q)) - _x_log_x(half * (p + q))
    return np.clip(nats / np.float32(np.log(2)), 0.0, 1.0)


def _diagonal(attention: Floats, back: int) -> Floats:
    return np.diagonal(attention, -back, -2, -1)


def _earlier_copies(attention: Floats, *, period: int, start: int, shift: int) -> Floats:
    """Return the mean over i >= start + period of the sum over k >= 1 of ``A[i, i - k period +
    shift]``, as far as i - k period >= start."""
    length = attention.shape[-2]
    first = start + period
    total = np.zeros(attention.shape[:-2], np.float32)
    for back in range(period, length - start, period):
        # queries i = start + back, ...: the copy ``back`` tokens earlier begins at ``start``
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
    return tuple(np.array_split(queries, min(N_BANDS, len(queries))))


def _mean_over_queries(
    measure: Callable[[Floats, Floats, NDArray[np.intp]], Floats], attention: Floats, bands: Queries
) -> Floats:
    """Return the mean over the queries in ``bands`` of ``measure(rows [..., query, key], their sums
    [..., query], which queries)``.

    Queries that attend to nothing, or have nothing to be compared with (the measure is -1), are
    left out; NaN where all are, or where the attention is not finite.
    """
    values, masses = [], []
    for band in bands:
        rows = attention.take(band, axis=-2)[..., : band[-1] + 1]
        masses.append(np.einsum("...k->...", rows))  # a third of what sum(-1) takes
        values.append(measure(rows, np.where(masses[-1] == 0, np.float32(1), masses[-1]), band))
    measured = np.concatenate(values, -1)
    return _mean_where((np.concatenate(masses, -1) != 0) & (measured != _NOTHING), measured)


def _mean_where(chosen: NDArray[np.bool_], values: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.where(chosen, values, 0).sum(-1) / chosen.sum(-1)).astype(np.float32)


def _visible(queries: NDArray[np.intp], width: int | None) -> NDArray[np.intp]:
    """Return how many keys each query may see."""
    return queries + 1 if width is None else np.minimum(queries + 1, width)


def _normalized_entropy(
    rows: Floats, mass: Floats, queries: NDArray[np.intp], *, width: int | None
) -> Floats:
    # H of the rows scaled to sum to 1, without scaling them: log(mass) - sum(x log x) / mass
    most = np.log(_visible(queries, width)).astype(np.float32)
    return (np.log(mass) - _x_log_x(rows) / mass) / most


def _from_uniform(
    rows: Floats, mass: Floats, queries: NDArray[np.intp], *, width: int | None
) -> Floats:
    n_visible = _visible(queries, width).astype(np.float32)[:, None]
    back = queries[:, None] - np.arange(rows.shape[-1])
    uniform = np.where((back >= 0) & (back < n_visible), 1 / n_visible, np.float32(0))
    return jensen_shannon(rows / mass[..., None], uniform)


def _from_other_heads(rows: Floats, mass: Floats, queries: NDArray[np.intp]) -> Floats:
    heads = rows / mass[..., None]
    is_finite = np.isfinite(mass)
    if is_finite.all():
        others = (heads.sum(-3, keepdims=True) - heads) / np.float32(rows.shape[-3] - 1)
        return jensen_shannon(heads, others)

    finite = np.where(is_finite[..., None], heads, np.float32(0))
    n_others = is_finite.sum(-2, keepdims=True) - is_finite
    total_of_others = finite.sum(-3, keepdims=True) - finite
    others = total_of_others / np.maximum(n_others, 1).astype(np.float32)[..., None]
    divergences = jensen_shannon(heads, others)
    return np.where(is_finite & (n_others == 0), np.float32(_NOTHING), divergences)


def _x_log_x(x: Floats) -> Floats:
    """Return the sum of x log x over the last axis."""
    logs = np.maximum(x, _TINY)
    np.log(logs, out=logs)
    return np.einsum("...k,...k->...", x, logs)
