"""Measures of a weight matrix, and of the neurons that it reads: one number each. ``weight_scores``
runs them over captures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# An index over 8,192 entries lies within 0.005 of that over all, and sorting them costs a tenth of
# what the spectrum does.
MAX_SORTED_ENTRIES = 1 << 13
MAX_TAIL_CANDIDATES = 48
# An exponent is read off 50 eigenvalues or more, the rule of thumb of Clauset, Shalizi & Newman
# 2009; and a tail is a fifth of all.
MIN_TAIL, TAIL_SHARE = 50, 5
MIN_POWER_LAW_EIGENVALUES = MIN_TAIL * TAIL_SHARE
# As a share of the layer's root mean square: with ReLU a dead neuron is at 0 exactly; GELU and SiLU
# leave it at a small negative value.
DEAD_BELOW = 0.01

# -- from the norms of the whole matrix, even where the capture holds a sample of it ---------------


def spectral_norm(frobenius: float, spectral: float, n: int) -> float:
    """Largest singular value: the most that the matrix can stretch a vector. 0 and up."""
    return spectral


def stable_rank(frobenius: float, spectral: float, n: int) -> float:
    """``|W|_F^2 / s_1^2 = sum s^2 / s_1^2``, over the number ``n`` of singular values: the share of
    full rank that carries the energy.

    1/n (one direction) to 1 (all alike); a random matrix of shape m x n has ``max(m, n) / (sqrt(m)
    + sqrt(n))^2``: 0.25 where square, 0.44 where four times as long. NaN for a zero matrix. Source:
    Rudelson & Vershynin 2007, *Sampling from Large Matrices*.
    """
    return frobenius**2 / spectral**2 / n if spectral > 0 else np.nan


# -- from the spectrum: singular values float64 [n], descending ------------------------------------


def effective_rank(singular: Doubles) -> float:
    """``exp(H(s / sum s))`` over the number of singular values.

    1/n (one direction) to 1 (all alike); 0.80 for a square random matrix, 0.97 for one four times
    as long; NaN for a zero matrix. Source: Roy & Vetterli 2007, *The Effective Rank*.
    """
    if not singular[0] > 0:
        return np.nan
    share = singular / singular.sum()
    return float(np.exp(-np.sum(share * np.log(np.maximum(share, 1e-300)))) / singular.size)


def power_law_exponent(singular: Doubles) -> float:
    """Exponent ``alpha`` of the tail of the eigenvalue density of ``W^T W``, ``p(x) ~ x^-alpha``
    for ``x >= x_min``.

    1 and up. Maximum likelihood, with ``x_min`` at the least Kolmogorov-Smirnov distance among 48
    places (Clauset, Shalizi & Newman 2009), as Martin & Mahoney 2021, *Implicit
    Self-Regularization*, fit it; they find well trained layers at 2..6. An exponent is no
    proof of a power law: random matrices get one too, 2.5 to 7 depending on their shape, so it says
    something only beside that of the first capture. Unfit for small matrices: NaN below
    ``MIN_POWER_LAW_EIGENVALUES`` nonzero eigenvalues; at least a fifth of them form the tail.
    """
    eigenvalues = np.sort(singular**2)
    eigenvalues = eigenvalues[eigenvalues > 1e-12 * eigenvalues[-1]]
    n = eigenvalues.size
    if n < MIN_POWER_LAW_EIGENVALUES:
        return np.nan
    last = n - n // TAIL_SHARE
    # where the tail may begin
    first = np.unique(np.linspace(0, last, min(last + 1, MAX_TAIL_CANDIDATES)).astype(np.intp))
    n_tail = n - first
    logs = np.log(eigenvalues)
    excess = np.cumsum(logs[::-1])[::-1][first] - n_tail * logs[first]
    alphas = 1 + n_tail / np.maximum(excess, 1e-12)
    # for every tail: how far its empirical distribution lies from its own power law, at most
    rank = np.arange(n)[None, :] - first[:, None]
    law = 1 - np.exp(-(alphas[:, None] - 1) * np.maximum(logs[None, :] - logs[first][:, None], 0))
    # An empirical distribution is a staircase: it is farthest away below or above a step.
    below, above = rank / n_tail[:, None], (rank + 1) / n_tail[:, None]
    gap = np.maximum(np.abs(law - below), np.abs(law - above))
    return float(alphas[np.where(rank >= 0, gap, 0).max(1).argmin()])


# -- from the entries: the matrix, float32 [out, in] -----------------------------------------------


def kurtosis(weights: Floats) -> float:
    """Excess kurtosis of the entries, ``E[(w - mean)^4] / var^2 - 3``: 0 for a normal distribution,
    above for heavy tails, -2 and up.

    NaN where all entries are equal. Source: Pearson 1905.
    """
    squares = weights.astype(np.float64).ravel()
    squares -= squares.mean()
    np.square(squares, out=squares)
    variance = squares.mean()
    # Not a dot product: BLAS would wake threads for it, which training needs more.
    return float(np.square(squares).mean() / variance**2 - 3) if variance > 0 else np.nan


def gini(weights: Floats) -> float:
    """Gini index of the magnitudes: 0 (all alike) to 1 (all in one entry); 0.414 for normal noise;
    NaN for a zero matrix.

    Read off at most 8,192 evenly spaced entries. Source: Hurley & Rickard 2009, *Comparing Measures
    of Sparsity*.
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


# -- from the change -------------------------------------------------------------------------------


def relative_distance(weights: Floats, reference: NDArray[Any]) -> float:
    """``|W - W_ref| / |W_ref|`` (Frobenius). 0 and up; NaN where the reference is zero.

    Against the run's first capture it is the distance from initialization; against the last capture
    the update ratio *between captures* (not between optimizer steps: it grows with the gap). A
    first capture that was read back from its file is in float16, which loses changes below 3e-4.
    Source: Nagarajan & Kolter 2019, *Generalization in Deep Networks: The Role of Distance from
    Initialization*, here relative to its length.
    """
    before = reference.astype(np.float32)
    size = float(np.linalg.norm(before))
    return float(np.linalg.norm(weights - before)) / size if size > 0 else np.nan


# -- from the neurons: peaks float32 [neuron], spread float32 [2, token] ---------------------------


def dead_share(peaks: Floats, spread: Floats) -> float:
    """Share of the feed-forward neurons that act on no token of the probe: none reaches
    ``DEAD_BELOW`` of the layer's root mean square.

    0..1; NaN where an activation is not finite. Source: "dead neurons", Voita et al. 2023, *Neurons
    in Large Language Models: Dead, N-gram, Positional*, who ask for an activation above zero after
    ReLU; the small threshold makes the same question fit GELU and gated units, which are never at
    zero. They ask it over a large collection of texts. On a probe of a few hundred tokens many
    neurons are silent that respond to other text: this is the share that is dead *on the probe*.
    """
    root_mean_square = np.sqrt(np.mean(np.square(spread[1], dtype=np.float64)))
    if not np.isfinite(peaks).all() or not np.isfinite(root_mean_square):
        return np.nan
    return float(np.mean(peaks <= DEAD_BELOW * root_mean_square))


def active_share(peaks: Floats, spread: Floats) -> float:
    """Share of the neurons that act on one token: mean over the probe's tokens of ``(mean |a|)^2 /
    mean a^2``, over the layer's neurons.

    1/n (one neuron does everything) to 1 (all act alike). If some act alike and the others are at
    zero it is the share of those that act; 2/pi = 0.64 for normally distributed activations, half
    of it after ReLU. NaN where no token has an activation, and where one is not finite. It needs no
    threshold, so it is the same question for ReLU, GELU and gated units. Source: "sparseness" of a
    code, Treves & Rolls 1991, *What Determines the Capacity of Autoassociative Memories in the
    Brain?*, over neurons as in Vinje & Gallant 2000.
    """
    mean, root_mean_square = spread.astype(np.float64)
    if not np.isfinite(spread).all() or not (acting := root_mean_square > 0).any():
        return np.nan
    return float(np.mean(np.square(mean[acting] / root_mean_square[acting])))
