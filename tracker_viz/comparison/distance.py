"""Measure how alike the heads of two runs became: one number per pair of runs, beside chance.

**Specialization distance** of runs A and B: heads are matched by behavior (``matching``). The
distance is the root mean square of the differences within the pairs, each pair weighted by its
stakes: how far the stronger of its two heads is from uniform attention. A head without a partner
counts as paired with uniform attention. So heads that became nothing count for nothing, and a run
that lost its induction heads is far from the one that has them, however alike their other heads.

0 for identical runs, and for a run whose heads are permuted within their blocks; at most 1.

**Chance** is the same distance, matched again, after the heads of both runs were shuffled over
blocks and runs: what is left when neither block nor run means anything. A minimum over pairings is
compared with minima over pairings, so unrelated heads are at 1.00 of it however many there are. The
**percentile** is the share of shuffles with a distance at most as large: near 0 for runs that are
more alike than chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison.align import Axis, comparable_axis, shared_stretch
from tracker_viz.comparison.matching import (
    N_POINTS,
    Behavior,
    Scope,
    behavior,
    best_pairs,
    common_scores,
    differences,
    groups,
    pairing_costs,
)
from tracker_viz.comparison.runs import ComparedRun, check_runs

N_SHUFFLES = 200
_LEAST_SHUFFLES = 20
# Blocks that are matched in all shuffles of a comparison: about a quarter of a minute.
_MOST_ASSIGNMENTS = 300_000


@dataclass(frozen=True, slots=True)
class Chance:
    """Distances of two runs whose heads were shuffled over blocks and runs.

    Attributes:
        distances: float64 [shuffle].
        totals: float64 [group, 2]: over all shuffles, of each group of heads that may be matched
            (each block, or the whole model) the sum of stakes * squared difference, and of stakes.
    """

    distances: NDArray[np.float64]
    totals: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.distances.mean()) if self.distances.size else float("nan")

    def percentile(self, distance: float) -> float:
        """Return the share of shuffles with a distance at most as large, 0..1."""
        if not self.distances.size:
            return float("nan")
        # Rounding must not put a distance beside its equals.
        return float(np.mean(self.distances <= distance + 1e-9))


@dataclass(frozen=True, slots=True)
class DistanceMatrix:
    """Specialization distances between runs.

    Attributes:
        names: of the runs, along both axes of every matrix.
        axis: what the runs were aligned by, each pair over the stretch that both have.
        overall: float64 [run, run]; symmetric, 0 on the diagonal.
        by_depth: float64 [depth, run, run]: of the blocks alone (where depths differ: of the blocks
            at the same relative depth); NaN where heads were matched over the whole model.
        shuffled: float64 [run, run]: chance, the mean distance of shuffled heads; on the diagonal
            that of a run from itself.
        shuffled_by_depth: float64 [depth, run, run]: chance in the blocks alone.
        percentile: float64 [run, run]: share of the shuffles with a distance at most as large,
            0..1.
        n_shuffles: of each pair.
    """

    names: tuple[str, ...]
    axis: Axis
    overall: NDArray[np.float64]
    by_depth: NDArray[np.float64]
    shuffled: NDArray[np.float64]
    shuffled_by_depth: NDArray[np.float64]
    percentile: NDArray[np.float64]
    n_shuffles: int

    @property
    def shares(self) -> NDArray[np.float64]:
        """Distances as shares of what chance gives: float64 [run, run]; NaN where that is 0."""
        return _share(self.overall, self.shuffled)

    @property
    def shares_by_depth(self) -> NDArray[np.float64]:
        """The same of each depth alone: float64 [depth, run, run]."""
        return _share(self.by_depth, self.shuffled_by_depth)

    def between_seeds(self, settings: Mapping[str, object]) -> NDArray[np.bool_]:
        """Return which pairs are two runs of one setting: bool [run, run], False on the diagonal.

        Args:
            settings: run name -> its setting without seeds, as ``settings_of`` gives it.
        """
        keys = [settings[name] for name in self.names]
        same = np.array([[first == second for second in keys] for first in keys])
        return same & ~np.eye(len(keys), dtype=bool)


def distance(a: Behavior, b: Behavior, *, scope: Scope = "block") -> float:
    """Return the specialization distance of two runs, 0..1, as the module's docstring defines it;
    NaN where neither has heads."""
    if not a.heads and not b.heads:
        return float("nan")
    return float(_distances(_totals(a, b, scope).sum(0)))


def chance_distance(
    a: Behavior,
    b: Behavior,
    *,
    scope: Scope = "block",
    n_shuffles: int = N_SHUFFLES,
) -> Chance:
    """Return the distances of the two runs' heads, shuffled over blocks and runs and matched again.

    Every block of every run keeps its number of heads. The shuffles are the same in every call.
    """
    n_a, n_heads = len(a.heads), len(a.heads) + len(b.heads)
    if not n_heads:
        return Chance(np.zeros(0), np.zeros((0, 2)))
    uniform = (a.uniform + b.uniform) / 2
    pool = np.concatenate([a.vectors, b.vectors, uniform[None]])
    weights, costs = _pool_costs(pool)
    places = []
    for rows, columns in groups(a, b, scope):
        places_a = _filled_up(rows, len(columns), n_heads)
        places_b = _filled_up(columns, len(rows), n_heads, n_a)
        places.append((places_a, places_b))

    rng = np.random.default_rng(0)
    order = np.arange(n_heads + 1)
    totals = np.zeros((n_shuffles, len(places), 2))
    for shuffle in range(n_shuffles):
        # Uniform attention stays where it is: at the end.
        order[:n_heads] = rng.permutation(n_heads)
        for group, (places_a, places_b) in enumerate(places):
            first, second = order[places_a], order[places_b]
            chosen = costs[first[:, None], second]
            paired = best_pairs(chosen)
            totals[shuffle, group, 0] = chosen[paired].sum()
            totals[shuffle, group, 1] = weights[first[paired[0]], second[paired[1]]].sum()
    return Chance(distances=_distances(totals.sum(1)), totals=totals.sum(0))


def distance_matrix(
    runs: Sequence[ComparedRun],
    *,
    axis: Axis | None = None,
    scope: Scope = "block",
    n_shuffles: int | None = None,
    scores: Sequence[str] | None = None,
) -> DistanceMatrix:
    """Return the distances of all pairs of runs, overall and by depth, beside chance.

    Args:
        axis: None: ``comparable_axis`` of the runs. Each pair is compared over the stretch that
            both have, so that one run which was killed early does not shorten the others.
        n_shuffles: of each pair; None: ``N_SHUFFLES``, fewer where there are very many pairs.
        scores: None: those of ``BEHAVIOR`` that every run has.

    Raises:
        ConfigError: fewer than two runs, or runs that have no scores or no stretch of the axis in
            common.
    """
    check_runs(runs)
    axis = axis or comparable_axis(runs)
    scores = common_scores(runs, scores)
    n_runs, n_depths = len(runs), min(run.series.shape[0] for run in runs)
    pairs = list(combinations_with_replacement(range(n_runs), 2))
    if n_shuffles is None:
        affordable = _MOST_ASSIGNMENTS // (len(pairs) * n_depths)
        n_shuffles = int(np.clip(affordable, _LEAST_SHUFFLES, N_SHUFFLES))

    overall, shuffled = np.zeros((n_runs, n_runs)), np.zeros((n_runs, n_runs))
    percentile = np.zeros((n_runs, n_runs))
    by_depth = np.full((n_depths, n_runs, n_runs), np.nan)
    shuffled_by_depth = by_depth.copy()
    for first, second in pairs:
        a, b = _pair(runs[first], runs[second], axis, scores)
        both = [first, second], [second, first]
        totals = _totals(a, b, scope)
        chance = chance_distance(a, b, scope=scope, n_shuffles=n_shuffles)
        overall[both] = _distances(totals.sum(0)) if a.heads or b.heads else np.nan
        shuffled[both] = chance.mean
        percentile[both] = chance.percentile(overall[first, second])
        if scope == "block":
            by_depth[:, *both] = _at_depths(totals, n_depths)[:, None]
            shuffled_by_depth[:, *both] = _at_depths(chance.totals, n_depths)[:, None]
    return DistanceMatrix(
        names=tuple(run.name for run in runs),
        axis=axis,
        overall=overall,
        by_depth=by_depth,
        shuffled=shuffled,
        shuffled_by_depth=shuffled_by_depth,
        percentile=percentile,
        n_shuffles=n_shuffles,
    )


def _share(distances: NDArray[np.float64], chance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(distances, chance, out=np.full_like(distances, np.nan), where=chance > 0)


def _pair(
    a: ComparedRun, b: ComparedRun, axis: Axis, scores: Sequence[str]
) -> tuple[Behavior, Behavior]:
    stretch = shared_stretch([a, b], axis=axis, n_points=N_POINTS)
    return behavior(a, 0, stretch, scores), behavior(b, 1, stretch, scores)


def _totals(a: Behavior, b: Behavior, scope: Scope) -> NDArray[np.float64]:
    """Return the sum of stakes * squared difference and the sum of stakes over the matched pairs of
    each group: float64 [group, 2]."""
    totals = []
    for rows, columns in groups(a, b, scope):
        apart, weights = pairing_costs(a, b, rows, columns)
        costs = apart**2 * weights
        paired = best_pairs(costs)
        totals.append((costs[paired].sum(), weights[paired].sum()))
    return np.array(totals, np.float64)


def _at_depths(totals: NDArray[np.float64], n_depths: int) -> NDArray[np.float64]:
    """Return the distances at relative depths, each of one block or of several: float64 [depth]."""
    sums = np.zeros((n_depths, 2))
    for group, total in enumerate(totals):
        sums[group * n_depths // len(totals)] += total
    return _distances(sums)


def _distances(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted root mean squares of totals [..., 2]: float64 [...]; 0 where all heads of
    both runs are uniform."""
    squares, weights = totals[..., 0], totals[..., 1]
    return np.sqrt(np.where(weights > 0, squares / np.where(weights > 0, weights, 1.0), 0.0))


def _pool_costs(
    pool: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what is at stake between all heads, the last of which is uniform attention, and that
    times their squared difference.

    By products, as fast as the thousands of heads of large models need.
    """
    strength = differences(pool, pool[-1:])[:, 0]
    weights = np.maximum.outer(strength, strength)
    square = np.einsum("ij,ij->i", pool, pool)
    squares = square[:, None] + square[None] - 2 * (pool @ pool.T)
    return weights, np.maximum(squares, 0) / pool.shape[1] * weights


def _filled_up(
    members: Sequence[int], n_least: int, uniform: int, offset: int = 0
) -> NDArray[np.int64]:
    """Return the indices of a block's heads in the pool, filled up with that of uniform attention
    to the number of the other run's heads."""
    missing = [uniform] * max(n_least - len(members), 0)
    return np.array([*(offset + member for member in members), *missing], np.int64)
