"""Scores of weight matrices: what a matrix looks like now, and how far it has moved.

In: float16 or float32 [out, in]: whole matrices, or evenly spaced samples of their rows and columns, as the capture stores them.
Scores of a sample are the sample's: they can be followed over a run and compared between runs of the same shape, but a spectral
norm or a rank of a sample is not the whole matrix's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
# also ``mlp.experts.3.w_gate``, one expert of a mixture
WEIGHT_NAME = re.compile(r"blocks\.(\d+)\.((?:attn|mlp)\.(?:\w+\.)*w_\w+)")

# Eigenvalues of a 256 x 256 Gram matrix cost 7 ms, so the 112 matrices of a 1B model cost less than a second a capture.
MAX_SPECTRUM_SIDE = 256
# An index over 8,192 entries lies within 0.005 of that over all, and sorting them costs a tenth of what the spectrum does.
MAX_SORTED_ENTRIES = 1 << 13
MAX_TAIL_CANDIDATES = 48
# With fewer eigenvalues the tail of a fifth has ten points at most, and an exponent read off those says nothing.
MIN_POWER_LAW_EIGENVALUES = 50


@dataclass(frozen=True, slots=True)
class WeightScore:
    """One score of a weight matrix.

    Attributes:
        uses: what ``measure`` takes: ``spectrum`` (singular values, descending), ``entries`` (the matrix),
            ``first`` or ``previous`` (the matrix, and itself at the run's first or at the last scored capture).
    """

    name: str
    measure: Callable[..., float]
    uses: str


# -- of the spectrum: singular values float64 [n], descending ---------------------------------------------------------


def spectral_norm(singular: Doubles) -> float:
    """Largest singular value: the most that the matrix can stretch a vector. 0 and up."""
    return float(singular[0])


def stable_rank(singular: Doubles) -> float:
    """``sum s^2 / s_1^2`` over the number of singular values: the share of full rank that carries the energy.

    1/n (one direction) to 1 (all alike); NaN for a zero matrix. Source: Rudelson & Vershynin 2007, *Sampling from Large Matrices*.
    """
    return float(np.sum(singular**2) / singular[0] ** 2 / singular.size) if singular[0] > 0 else np.nan


def effective_rank(singular: Doubles) -> float:
    """``exp(H(s / sum s))`` over the number of singular values.

    1/n (one direction) to 1 (all alike); NaN for a zero matrix. Source: Roy & Vetterli 2007, *The Effective Rank*.
    """
    if not singular[0] > 0:
        return np.nan
    share = singular / singular.sum()
    return float(np.exp(-np.sum(share * np.log(np.maximum(share, 1e-300)))) / singular.size)


def power_law_exponent(singular: Doubles) -> float:
    """Exponent ``alpha`` of the tail of the eigenvalue density of ``W^T W``, ``p(x) ~ x^-alpha`` for ``x >= x_min``.

    1 and up; well trained layers lie at 2..6, a random matrix higher. Maximum likelihood, with ``x_min`` at the least
    Kolmogorov-Smirnov distance among 48 places (Clauset, Shalizi & Newman 2009), as Martin & Mahoney 2021, *Implicit
    Self-Regularization*, fit it.
    Unfit for small matrices: NaN below ``MIN_POWER_LAW_EIGENVALUES`` nonzero eigenvalues, and at least a fifth of them form the tail.
    """
    eigenvalues = np.sort(singular**2)
    eigenvalues = eigenvalues[eigenvalues > 1e-12 * eigenvalues[-1]]
    n = eigenvalues.size
    if n < MIN_POWER_LAW_EIGENVALUES:
        return np.nan
    last = n - max(n // 5, 10)
    first = np.unique(np.linspace(0, last, min(last + 1, MAX_TAIL_CANDIDATES)).astype(np.intp))  # where the tail may begin
    n_tail = n - first
    logs = np.log(eigenvalues)
    excess = np.cumsum(logs[::-1])[::-1][first] - n_tail * logs[first]
    alphas = 1 + n_tail / np.maximum(excess, 1e-12)
    # for every tail: how far its empirical distribution lies from its own power law, at most
    rank = np.arange(n)[None, :] - first[:, None]
    law = 1 - np.exp(-(alphas[:, None] - 1) * np.maximum(logs[None, :] - logs[first][:, None], 0))
    gap = np.maximum(np.abs(law - rank / n_tail[:, None]), np.abs(law - (rank + 1) / n_tail[:, None]))
    return float(alphas[np.where(rank >= 0, gap, 0).max(1).argmin()])


# -- of the entries: the matrix, float32 [out, in] ------------------------------------------------------------------------


def kurtosis(weights: Floats) -> float:
    """Excess kurtosis of the entries: 0 for a normal distribution, above for heavy tails; NaN where all entries are equal."""
    centred = weights.astype(np.float64).ravel()
    centred -= centred.mean()
    np.square(centred, out=centred)
    variance = centred.mean()
    # Not a dot product: BLAS would wake threads for it, which training needs more.
    return float(np.square(centred).mean() / variance**2 - 3) if variance > 0 else np.nan


def gini(weights: Floats) -> float:
    """Gini index of the magnitudes: 0 (all alike) to 1 (all in one entry); 0.414 for normal noise; NaN for a zero matrix.

    Read off at most 8,192 evenly spaced entries. Source: Hurley & Rickard 2009, *Comparing Measures of Sparsity*.
    """
    stride = -(-weights.size // MAX_SORTED_ENTRIES)
    # a stride that shares a factor with the row length would meet the same few columns in every row
    while math.gcd(stride, weights.shape[-1]) > 1:
        stride += 1
    magnitudes = np.sort(np.abs(weights.ravel()[::stride])).astype(np.float64)
    total = magnitudes.sum()
    if not total > 0:
        return np.nan
    n = magnitudes.size
    return float(1 - 2 * np.sum(magnitudes * (n - np.arange(1, n + 1) + 0.5)) / (n * total))


# -- of the change ------------------------------------------------------------------------------------------------------------


def relative_distance(weights: Floats, reference: NDArray[Any]) -> float:
    """``|W - W_ref| / |W_ref|`` (Frobenius). 0 and up; NaN where the reference is zero.

    Against the run's first capture it is the distance from initialisation; against the last capture the update ratio *between
    captures* (not between optimiser steps: it grows with the gap). Captures in float16 cannot see changes below 3e-4.
    """
    before = reference.astype(np.float32)
    size = float(np.linalg.norm(before))
    return float(np.linalg.norm(weights - before)) / size if size > 0 else np.nan


WEIGHT_SCORES: Mapping[str, WeightScore] = {
    score.name: score
    for score in (
        WeightScore("spectral_norm", spectral_norm, "spectrum"),
        WeightScore("stable_rank", stable_rank, "spectrum"),
        WeightScore("effective_rank", effective_rank, "spectrum"),
        WeightScore("power_law_exponent", power_law_exponent, "spectrum"),
        WeightScore("kurtosis", kurtosis, "entries"),
        WeightScore("gini", gini, "entries"),
        WeightScore("distance", relative_distance, "first"),
        WeightScore("update", relative_distance, "previous"),
    )
}


# -- all of them over a capture -----------------------------------------------------------------------------------------


def weight_scores(
    weights: Mapping[tuple[int, str], NDArray[Any]],
    *,
    n_blocks: int,
    first: Mapping[tuple[int, str], NDArray[Any]] | None = None,
    previous: Mapping[tuple[int, str], NDArray[Any]] | None = None,
) -> tuple[dict[str, Floats], tuple[str, ...]]:
    """Every score of every matrix: (name -> float32 [block, projection], names of the projections).

    NaN where a block has no such projection, where a matrix is not finite, and where a score has no value. ``distance`` and
    ``update`` are left out without a reference; NaN where the reference lacks the matrix or has it in another shape.

    Args:
        weights: (block, projection such as ``mlp.w_down``) -> [out, in].
        first, previous: the same matrices at the run's first and at the last capture.
    """
    projections = projection_order(projection for _, projection in weights)
    references = {"first": first, "previous": previous}
    due = [score for score in WEIGHT_SCORES.values() if references.get(score.uses, {}) is not None]
    scores = {score.name: np.full((n_blocks, len(projections)), np.nan, np.float32) for score in due}
    for (block, projection), stored in weights.items():
        matrix = stored.astype(np.float32, copy=False)
        if not matrix.size or not np.isfinite(matrix).all():
            continue
        place = block, projections.index(projection)
        singular = singular_values(matrix)
        for score in due:
            if score.uses == "spectrum":
                scores[score.name][place] = score.measure(singular)
            elif score.uses == "entries":
                scores[score.name][place] = score.measure(matrix)
            else:
                reference = (references[score.uses] or {}).get((block, projection))
                if reference is not None and reference.shape == matrix.shape:
                    scores[score.name][place] = score.measure(matrix, reference)
    return scores, projections


def projection_order(projections: Iterable[str]) -> tuple[str, ...]:
    """Projections in the order in which a token meets them: q, k, v, o, then gate, up, down; others after them by name."""
    usual = ["attn.w_q", "attn.w_k", "attn.w_v", "attn.w_qkv", "attn.w_o", "mlp.w_gate", "mlp.w_up", "mlp.w_in", "mlp.w_down", "mlp.w_out"]
    return tuple(sorted(set(projections), key=lambda name: (usual.index(name) if name in usual else len(usual), name)))


def singular_values(matrix: Floats) -> Doubles:
    """Singular values, descending, by the eigenvalues of the smaller Gram matrix: float64 [min(out, in, MAX_SPECTRUM_SIDE)].

    A matrix whose smaller side exceeds ``MAX_SPECTRUM_SIDE`` is thinned by the same factor on both sides. Values below about 1e-8 of the
    largest one are rounding.
    """
    sample = evenly_thinned(matrix).astype(np.float64)
    if sample.shape[0] > sample.shape[1]:
        sample = sample.T
    return np.sqrt(np.maximum(np.linalg.eigvalsh(sample @ sample.T)[::-1], 0.0))


def evenly_thinned(matrix: Floats) -> Floats:
    side = min(matrix.shape)
    if side <= MAX_SPECTRUM_SIDE:
        return matrix
    rows, columns = (np.linspace(0, n - 1, n * MAX_SPECTRUM_SIDE // side).round().astype(np.intp) for n in matrix.shape)
    return matrix[np.ix_(rows, columns)]
