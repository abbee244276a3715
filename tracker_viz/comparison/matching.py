"""Pair the heads of two runs that did the same, by their behavior over time, not by their index.

The order of the heads within a block means nothing: another seed permutes it. So the scores of each
head over the whole training are compared with those of every head of the other run, and the pairing
with the least sum of squared differences is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison.align import (
    Axis,
    Stretch,
    comparable_axis,
    shared_stretch,
    trajectories,
)
from tracker_viz.comparison.runs import ComparedRun
from tracker_viz.errors import ConfigError
from tracker_viz.types import HeadId

Scope = Literal["block", "model"]

# All in 0..1, so that no score outweighs another. Other scores follow from these, and would count
# them twice.
BEHAVIOR = ("previous_token", "induction", "duplicate_token", "current_token", "sink", "entropy")
N_POINTS = 64


@dataclass(frozen=True, slots=True)
class Behavior:
    """A run's heads as vectors.

    Attributes:
        heads: (block, head) of each row.
        vectors: float32 [head, point * score]: its trajectory.
        uniform: float32 [point * score]: the trajectory of uniform attention.
        n_blocks: of the run's model.
    """

    heads: tuple[HeadId, ...]
    vectors: NDArray[np.float32]
    uniform: NDArray[np.float32]
    n_blocks: int

    @property
    def strength(self) -> NDArray[np.float32]:
        """Distance of each head from uniform attention, 0..1: how much it has specialized."""
        return differences(self.vectors, self.uniform[None])[:, 0]

    def filled_up(self, rows: Sequence[int], n: int) -> NDArray[np.float32]:
        """Return the vectors of some heads, filled up with uniform attention: float32 [n, point *
        score]."""
        missing = np.repeat(self.uniform[None], n - len(rows), axis=0)
        return np.concatenate([self.vectors[list(rows)], missing])


@dataclass(frozen=True, slots=True)
class Matching:
    """Heads of run A paired with heads of run B.

    Attributes:
        pairs: (head of A, head of B, their difference 0..1), in the order of A's heads.
        left_a, left_b: heads without a partner, because the other run has fewer.
    """

    pairs: tuple[tuple[HeadId, HeadId, float], ...]
    left_a: tuple[HeadId, ...]
    left_b: tuple[HeadId, ...]

    def partner(self) -> dict[HeadId, HeadId]:
        """Return head of A -> its partner in B."""
        return {a: b for a, b, _ in self.pairs}


def behaviors(
    runs: Sequence[ComparedRun],
    *,
    axis: Axis | None = None,
    scores: Sequence[str] | None = None,
    n_points: int = N_POINTS,
) -> list[Behavior]:
    """Return every run's heads as vectors that can be compared, over the stretch that all runs
    have.

    Args:
        axis: None: ``comparable_axis`` of the runs.
        scores: None: those of ``BEHAVIOR`` that every run has.

    Raises:
        ConfigError: the runs have no score or no stretch of the axis in common.
    """
    names = common_scores(runs, scores)
    stretch = shared_stretch(runs, axis=axis or comparable_axis(runs), n_points=n_points)
    return [behavior(run, index, stretch, names) for index, run in enumerate(runs)]


def common_scores(
    runs: Sequence[ComparedRun], scores: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the scores that heads are compared by: ``scores``, or those of ``BEHAVIOR`` that
    every run has.

    Raises:
        ConfigError: a run lacks one of ``scores``, or the runs share none.
    """
    wanted = scores or BEHAVIOR
    in_all = set.intersection(*(set(run.series.heads) for run in runs))
    common = tuple(name for name in wanted if name in in_all)
    if not common or (scores is not None and len(common) < len(scores)):
        found = [f"{run.name}: {', '.join(sorted(run.series.heads)) or 'none'}" for run in runs]
        raise ConfigError(
            f"comparing needs the scores {', '.join(wanted)} in every run (or some of these); "
            f"found {'; '.join(found)}"
        )
    return common


def behavior(run: ComparedRun, index: int, stretch: Stretch, scores: Sequence[str]) -> Behavior:
    """Return one run's heads as vectors. ``index``: of the run among those of ``stretch``."""
    series = run.series
    paths = trajectories(
        series,
        scores,
        axis=stretch.axis,
        points=stretch.points,
        captures=stretch.captures[index],
    )
    present = np.isfinite(paths).all((2, 3))
    heads = [(int(block), int(head)) for block, head in np.argwhere(present)]
    n_points = len(stretch.points)
    uniform = np.array([_uniform(run, name) for name in scores], np.float32)
    return Behavior(
        heads=tuple(heads),
        vectors=paths[present].reshape(len(heads), n_points * len(scores)),
        uniform=np.tile(uniform, n_points),
        n_blocks=series.shape[0],
    )


def differences(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the root mean square difference of every vector of ``a`` [n, d] from every one of
    ``b`` [m, d]: float32 [n, m], 0..1 for scores 0..1, exactly 0 for equal vectors."""
    from scipy.spatial.distance import cdist

    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)), np.float32)
    return (cdist(a, b) / np.sqrt(a.shape[1])).astype(np.float32)


def match_heads(a: Behavior, b: Behavior, *, scope: Scope = "block") -> Matching:
    """Pair the heads of two runs so that the sum of their squared differences is least.

    A pair is weighted by its stakes (``pairing_costs``). A head without a partner counts as paired
    with uniform attention, because the other run has nothing in its place.

    Args:
        scope: ``block``: a head may only be paired within its own block, or, in models of different
            depth, within the block at the same relative depth. ``model``: with any head.

    Raises:
        ConfigError: an unknown scope.
    """
    if scope not in ("block", "model"):
        raise ConfigError(
            f"heads are matched within a 'block' or within the 'model'; got {scope!r}"
        )
    pairs: list[tuple[HeadId, HeadId, float]] = []
    for rows, columns in groups(a, b, scope):
        apart, weights = pairing_costs(a, b, rows, columns)
        for row, column in zip(*best_pairs(apart**2 * weights), strict=True):
            # An index beyond the run's heads is uniform attention.
            if row < len(rows) and column < len(columns):
                difference = float(apart[row, column])
                pairs.append((a.heads[rows[row]], b.heads[columns[column]], difference))

    matching = Matching(tuple(sorted(pairs)), (), ())
    partner = matching.partner()
    paired_b = set(partner.values())
    return replace(
        matching,
        left_a=tuple(head for head in a.heads if head not in partner),
        left_b=tuple(head for head in b.heads if head not in paired_b),
    )


def pairing_costs(
    a: Behavior, b: Behavior, rows: Sequence[int], columns: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return how far every head of A is from every head of B, and the stakes of the pair: both
    float32 [n, n], n being the greater number of heads; the run with fewer is filled up with
    uniform attention.

    The stakes are how specialized the stronger of the two is. Pairs of heads that became nothing
    say nothing about two runs, however many they are.
    """
    n = max(len(rows), len(columns))
    heads_a, heads_b = a.filled_up(rows, n), b.filled_up(columns, n)
    strength_a = differences(heads_a, a.uniform[None])[:, 0]
    strength_b = differences(heads_b, b.uniform[None])[:, 0]
    return differences(heads_a, heads_b), np.maximum.outer(strength_a, strength_b)


def best_pairs(costs: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and the columns of the pairs whose costs [n, n] are least in all."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(costs)
    return rows, columns


def groups(a: Behavior, b: Behavior, scope: Scope) -> list[tuple[list[int], list[int]]]:
    """Return the indices of the heads of A and of B that may be paired with each other."""
    if scope == "model":
        return [(list(range(len(a.heads))), list(range(len(b.heads))))]
    n_depths = min(a.n_blocks, b.n_blocks)
    members_a, members_b = depth_members(a, n_depths), depth_members(b, n_depths)
    return list(zip(members_a, members_b, strict=True))


def depth_members(run: Behavior, n_depths: int) -> list[list[int]]:
    """Return for each of ``n_depths`` relative depths the indices of the heads there."""
    members: list[list[int]] = [[] for _ in range(n_depths)]
    for index, (block, _) in enumerate(run.heads):
        members[block * n_depths // run.n_blocks].append(index)
    return members


def _uniform(run: ComparedRun, score: str) -> float:
    """Return a score of uniform attention; runs from before it was stored have its limit for long
    probes."""
    return run.series.uniform.get(score, 1.0 if score == "entropy" else 0.0)
