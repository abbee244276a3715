"""List the scores that every weight matrix gets, and compute them for a capture.

A capture of a big model holds evenly spaced samples of the matrices' rows and columns, not the
matrices. Then

* ``spectral_norm`` and ``stable_rank`` are still those of the whole matrix: the capture took its
  norms on the device.
* ``kurtosis``, ``gini``, ``distance`` and ``update`` come from the entries; those of a sample
  estimate those of the whole matrix.
* ``effective_rank`` and ``power_law_exponent`` need every singular value: NaN for a sample, and for
  more than ``MAX_SPECTRUM_SIDE`` of them.

Means over rectangles (``pooling``) are no weights, so only their matrices' norms are scored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.weights import weight_measures as measures
from tracker_viz.metrics.weights.weight_measures import Doubles, Floats

# also ``mlp.experts.3.w_gate``, one expert of a mixture
WEIGHT_NAME = re.compile(r"blocks\.(\d+)\.((?:attn|mlp)\.(?:\w+\.)*w_\w+)")
# Eigenvalues of a 512 x 512 Gram matrix cost 20 ms, five times those of 256 x 256 and a fifth of
# those of 1024 x 1024.
MAX_SPECTRUM_SIDE = 512

Matrices = Mapping[tuple[int, str], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class WeightScore:
    """One score of a weight matrix.

    Attributes:
        uses: what ``measure`` takes: ``norms`` (Frobenius norm, spectral norm, number of singular
            values), ``spectrum`` (singular values, descending), ``entries`` (the matrix), ``first``
            or ``previous`` (the matrix, and itself at the run's first or at the last scored
            capture), ``neurons`` (peaks and spread of what the matrix reads on the probe).
        least_singular: a matrix with fewer singular values is too small for it.
    """

    name: str
    measure: Callable[..., float]
    uses: Literal["norms", "spectrum", "entries", "first", "previous", "neurons"]
    least_singular: int = 1


WEIGHT_SCORES: Mapping[str, WeightScore] = {
    score.name: score
    for score in (
        WeightScore("spectral_norm", measures.spectral_norm, "norms"),
        WeightScore("stable_rank", measures.stable_rank, "norms"),
        WeightScore("effective_rank", measures.effective_rank, "spectrum"),
        WeightScore(
            "power_law_exponent",
            measures.power_law_exponent,
            "spectrum",
            measures.MIN_POWER_LAW_EIGENVALUES,
        ),
        WeightScore("kurtosis", measures.kurtosis, "entries"),
        WeightScore("gini", measures.gini, "entries"),
        WeightScore("distance", measures.relative_distance, "first"),
        WeightScore("update", measures.relative_distance, "previous"),
        WeightScore("dead_share", measures.dead_share, "neurons"),
        WeightScore("active_share", measures.active_share, "neurons"),
    )
}


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight matrix of a capture, and what else the capture knows about it.

    Attributes:
        stored: [out, in]: the matrix, or what was kept of it.
        norms: (Frobenius norm, spectral norm, out, in) of the whole matrix, float32 [4]; None:
            ``stored`` is the whole matrix.
        pooled: if it was made smaller, ``stored`` holds means over rectangles.
        as_first: the sample of ``stored`` that is kept of the run's first capture, where that one
            was made smaller still for its file.
        peaks, spread: largest magnitude [neuron], and [mean, root mean square] of the magnitudes
            [2, token], of what the matrix reads on the probe; None but for a down projection.
    """

    stored: NDArray[Any]
    norms: Floats | None = None
    pooled: bool = False
    as_first: NDArray[Any] | None = None
    peaks: Floats | None = None
    spread: Floats | None = None

    @property
    def is_whole(self) -> bool:
        return self.norms is None or self.stored.shape == tuple(self.norms[2:].astype(int))

    @property
    def n_singular(self) -> int:
        return min(self.stored.shape) if self.norms is None else int(self.norms[2:].min())

    @property
    def has_spectrum(self) -> bool:
        """All singular values can be computed, cheaply enough for every capture."""
        return self.is_whole and 0 < self.n_singular <= MAX_SPECTRUM_SIDE


def weight_scores(
    weights: Mapping[tuple[int, str], Weight],
    *,
    n_blocks: int,
    first: Matrices | None = None,
    previous: Matrices | None = None,
) -> tuple[dict[str, Floats], tuple[str, ...]]:
    """Return every score of every matrix: (name -> float32 [block, projection], names of the
    projections).

    NaN where a block has no such projection, where a matrix is not finite, and where a score has no
    value. A score that no matrix of this capture could have, whatever its values, is left out.

    Args:
        weights: (block, projection such as ``mlp.w_down``) -> the matrix.
        first, previous: the matrices as stored at the run's first and at the last capture;
            ``distance`` and ``update`` are NaN where they lack the matrix or hold it in another
            shape.
    """
    projections = projection_order(projection for _, projection in weights)
    references = {"first": first, "previous": previous}
    due, scores = [], {}
    for score in WEIGHT_SCORES.values():
        if _is_due(score, list(weights.values()), references):
            due.append(score)
            scores[score.name] = np.full((n_blocks, len(projections)), np.nan, np.float32)
    for (block, projection), weight in weights.items():
        place = block, projection
        inputs = _inputs(weight, (first or {}).get(place), (previous or {}).get(place))
        for score in due:
            if score.uses in inputs:
                value = score.measure(*inputs[score.uses])
                scores[score.name][block, projections.index(projection)] = value
    return scores, projections


def _is_due(
    score: WeightScore, weights: Sequence[Weight], references: Mapping[str, Matrices | None]
) -> bool:
    if score.uses in references:
        return references[score.uses] is not None
    if score.uses == "neurons":
        return any(weight.peaks is not None for weight in weights)
    if score.uses == "spectrum":
        sizes = [weight.n_singular for weight in weights if weight.has_spectrum]
        return max(sizes, default=0) >= score.least_singular
    return True


def _inputs(
    weight: Weight, first: NDArray[Any] | None, previous: NDArray[Any] | None
) -> dict[str, tuple[Any, ...]]:
    """Return ``WeightScore.uses`` -> the arguments of its measure, where the capture has them."""
    inputs: dict[str, tuple[Any, ...]] = {}
    if weight.peaks is not None and weight.spread is not None:
        inputs["neurons"] = weight.peaks, weight.spread
    if weight.norms is not None:
        inputs["norms"] = float(weight.norms[0]), float(weight.norms[1]), weight.n_singular
    matrix = weight.stored.astype(np.float32, copy=False)
    if not matrix.size or not np.isfinite(matrix).all():
        return inputs
    if weight.has_spectrum:
        singular = singular_values(matrix)
        inputs["spectrum"] = (singular,)
        inputs["norms"] = float(np.linalg.norm(singular)), float(singular[0]), singular.size
    if weight.is_whole or not weight.pooled:
        inputs["entries"] = (matrix,)
        as_first = matrix
        if weight.as_first is not None:
            as_first = weight.as_first.astype(np.float32, copy=False)
        # A reference in another shape comes from another sampling: nothing to compare with.
        if first is not None and first.shape == as_first.shape:
            inputs["first"] = as_first, first
        if previous is not None and previous.shape == matrix.shape:
            inputs["previous"] = matrix, previous
    return inputs


def projection_order(projections: Iterable[str]) -> tuple[str, ...]:
    """Sort projections as a token meets them: q, k, v, o, then gate, up, down; others after them by
    name."""
    usual = [
        "attn.w_q",
        "attn.w_k",
        "attn.w_v",
        "attn.w_qkv",
        "attn.w_o",
        "mlp.w_gate",
        "mlp.w_up",
        "mlp.w_in",
        "mlp.w_down",
        "mlp.w_out",
    ]

    def place(name: str) -> tuple[int, str]:
        return usual.index(name) if name in usual else len(usual), name

    return tuple(sorted(set(projections), key=place))


def singular_values(matrix: Floats) -> Doubles:
    """Return the singular values, descending, by the eigenvalues of the smaller Gram matrix:
    float64 [min(out, in)].

    Values below about 1e-8 of the largest one are rounding.
    """
    # By the smaller Gram matrix: cheaper than an SVD, and exact enough for scores.
    wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T).astype(np.float64)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(wide @ wide.T)[::-1], 0.0))
