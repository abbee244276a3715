"""How alike two runs' heads became: one number per pair of runs, with what it would be if the
matching meant nothing.

**Specialisation distance** of runs A and B: heads are matched by behaviour (``matching``); the
distance is the mean, over all heads of the run that has more of them, of the root mean square
difference between a head's score trajectory and its partner's. A head without a partner counts by
its difference from uniform attention: from having specialised in nothing.

0 on identical runs, and on a run whose heads are permuted within their blocks; at most 1.
``shuffled`` is what is to be expected of random partners instead of matched ones: the value of a
matching that means nothing. Two runs are alike where the distance lies well below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison.align import Axis
from tracker_viz.comparison.matching import (
    Behaviour,
    Scope,
    behaviours,
    differences,
    groups,
    match_heads,
)
from tracker_viz.comparison.runs import ComparedRun, check_runs


@dataclass(frozen=True, slots=True)
class DistanceMatrix:
    """Specialisation distances between runs.

    Attributes:
        names: of the runs, along both axes of every matrix.
        overall: float64 [run, run]; symmetric, 0 on the diagonal.
        by_depth: float64 [depth, run, run]: of the blocks alone (where depths differ: of the blocks
            at the same relative depth).
        shuffled: float64 [run, run]: expected distance with partners drawn at random; on the
            diagonal that of a run from itself.
    """

    names: tuple[str, ...]
    overall: NDArray[np.float64]
    by_depth: NDArray[np.float64]
    shuffled: NDArray[np.float64]


def distance(a: Behaviour, b: Behaviour, *, scope: Scope = "block") -> float:
    """Specialisation distance of two runs, 0..1, as the module's docstring defines it; NaN where
    neither has heads."""
    matching = match_heads(a, b, scope=scope)
    unpaired = _from_uniform(a, [a.heads.index(head) for head in matching.left_a]) + _from_uniform(
        b, [b.heads.index(head) for head in matching.left_b]
    )
    return _mean([cost for _, _, cost in matching.pairs] + unpaired)


def shuffled_distance(a: Behaviour, b: Behaviour, *, scope: Scope = "block") -> float:
    """Expected distance with partners drawn at random from those that matching could have chosen:
    the baseline, 0..1.

    Exact: every pair of heads is as likely as any other, and so is every head to be left without a
    partner.
    """
    total, n_heads = 0.0, 0
    for rows, columns in groups(a, b, scope):
        n_pairs, more = min(len(rows), len(columns)), max(len(rows), len(columns))
        if n_pairs:
            total += n_pairs * float(differences(a.vectors[rows], b.vectors[columns]).mean())
        for behaviour, members in ((a, rows), (b, columns)):
            total += (
                (len(members) - n_pairs) * _mean(_from_uniform(behaviour, members))
                if len(members) > n_pairs
                else 0.0
            )
        n_heads += more
    return total / n_heads if n_heads else float("nan")


def distance_matrix(
    runs: Sequence[ComparedRun], *, axis: Axis = "progress", scope: Scope = "block"
) -> DistanceMatrix:
    """Distances of all pairs of runs, overall and by depth, beside the baseline.

    Raises:
        ConfigError: fewer than two runs, or runs that have no scores or no stretch of the axis in
            common.
    """
    check_runs(runs)
    found = behaviours(runs, axis=axis)
    n_depths = min(behaviour.n_blocks for behaviour in found)
    overall, shuffled = np.zeros((len(runs), len(runs))), np.zeros((len(runs), len(runs)))
    by_depth = np.zeros((n_depths, len(runs), len(runs)))
    for first, a in enumerate(found):
        for second, b in enumerate(found[first:], first):
            pair = [first, second], [second, first]
            overall[pair] = distance(a, b, scope=scope)
            shuffled[pair] = shuffled_distance(a, b, scope=scope)
            for depth in range(n_depths):
                by_depth[depth][pair] = distance(
                    at_depth(a, depth, n_depths), at_depth(b, depth, n_depths), scope="model"
                )
    return DistanceMatrix(tuple(run.name for run in runs), overall, by_depth, shuffled)


def at_depth(behaviour: Behaviour, depth: int, n_depths: int) -> Behaviour:
    """The heads of the blocks at one of ``n_depths`` relative depths."""
    chosen = [
        index
        for index, (block, _) in enumerate(behaviour.heads)
        if block * n_depths // behaviour.n_blocks == depth
    ]
    return Behaviour(
        tuple(behaviour.heads[index] for index in chosen),
        behaviour.vectors[chosen],
        behaviour.uniform,
        behaviour.n_blocks,
    )


def _from_uniform(behaviour: Behaviour, heads: Sequence[int]) -> list[float]:
    vectors = behaviour.vectors[list(heads)]
    return np.sqrt(np.square(vectors - behaviour.uniform).mean(-1)).tolist()


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
