"""Which head of one run does what which head of another run does: matched by behaviour over time,
not by index.

The order of the heads within a block means nothing: another seed permutes it. What a head *did*
(its scores over the whole training) is compared with what every head of the other run did, and the
pairing with the least total difference is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison.align import Axis, positions, trajectories
from tracker_viz.comparison.runs import ComparedRun
from tracker_viz.errors import ConfigError

Scope = Literal["block", "model"]
Head = tuple[int, int]

# What a head looks at; all 0..1, so that no score outweighs another. Spread scores follow from
# these, and would count them twice.
BEHAVIOUR = ("previous_token", "induction", "duplicate_token", "current_token", "sink", "entropy")
N_POINTS = 64


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A run's heads as vectors.

    Attributes:
        heads: (block, head) of each row.
        vectors: float32 [head, point * score]: its trajectory.
        uniform: float32 [point * score]: what uniform attention would have as its trajectory.
        n_blocks: of the run's model.
    """

    heads: tuple[Head, ...]
    vectors: NDArray[np.float32]
    uniform: NDArray[np.float32]
    n_blocks: int


@dataclass(frozen=True, slots=True)
class Matching:
    """Heads of run A paired with heads of run B.

    Attributes:
        pairs: (head of A, head of B, their difference), in the order of A's heads.
        left_a, left_b: heads that found no partner, because the other run has fewer.
    """

    pairs: tuple[tuple[Head, Head, float], ...]
    left_a: tuple[Head, ...]
    left_b: tuple[Head, ...]

    def partner(self) -> dict[Head, Head]:
        """Head of A -> its partner in B."""
        return {a: b for a, b, _ in self.pairs}


def behaviours(
    runs: Sequence[ComparedRun],
    *,
    axis: Axis = "progress",
    scores: Sequence[str] | None = None,
    n_points: int = N_POINTS,
) -> list[Behaviour]:
    """Every run's heads as vectors that can be compared.

    Args:
        axis: on ``step`` or ``tokens`` only the stretch that all runs have is compared.
        scores: by default those of ``BEHAVIOUR`` that every run has.

    Raises:
        ConfigError: the runs have no score or no stretch of the axis in common.
    """
    common = [
        name for name in (scores or BEHAVIOUR) if all(name in run.series.heads for run in runs)
    ]
    if not common or (scores is not None and len(common) < len(scores)):
        have = "; ".join(
            f"{run.name}: {', '.join(sorted(run.series.heads)) or 'none'}" for run in runs
        )
        raise ConfigError(
            f"comparing needs the scores {', '.join(scores or BEHAVIOUR)} in every run (or some of "
            f"these); found {have}"
        )
    at = [positions(run.series, axis) for run in runs]
    first, last = max(places[0] for places in at), min(places[-1] for places in at)
    if first > last:
        raise ConfigError(
            f"the runs have no {axis} in common: one begins at {first:g}, another ends at "
            f"{last:g}; align by progress"
        )
    points = np.linspace(first, last, n_points)
    found = []
    for run in runs:
        paths = trajectories(run.series, common, axis=axis, points=points)
        present = np.isfinite(paths).all((2, 3))
        uniform = np.tile(
            np.array([run.series.uniform.get(name, np.nan) for name in common], np.float32),
            n_points,
        )
        heads = tuple((int(block), int(head)) for block, head in np.argwhere(present))
        found.append(
            Behaviour(heads, paths[present].reshape(len(heads), -1), uniform, run.series.shape[0])
        )
    return found


def differences(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Root mean square difference of every vector of ``a`` [n, d] from every one of ``b`` [m, d]:
    float32 [n, m], 0..1 for scores 0..1."""
    squares = (
        np.stack([np.square(b - row).mean(-1) for row in a]) if len(a) else np.zeros((0, len(b)))
    )
    return np.sqrt(squares).astype(np.float32)


def match_heads(a: Behaviour, b: Behaviour, *, scope: Scope = "block") -> Matching:
    """Pair the heads of two runs so that the total difference is least.

    Args:
        scope: ``block``: a head may only be paired within its own block, or, in models of different
            depth, within the block at the same relative depth. ``model``: with any head.

    Raises:
        ConfigError: an unknown scope.
    """
    from scipy.optimize import linear_sum_assignment

    if scope not in ("block", "model"):
        raise ConfigError(
            f"heads are matched within a 'block' or within the 'model'; got {scope!r}"
        )
    pairs: list[tuple[Head, Head, float]] = []
    for rows, columns in groups(a, b, scope):
        cost = differences(a.vectors[rows], b.vectors[columns])
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            pairs.append((a.heads[rows[row]], b.heads[columns[column]], float(cost[row, column])))
    taken_a, taken_b = {head for head, _, _ in pairs}, {head for _, head, _ in pairs}
    return Matching(
        tuple(sorted(pairs)),
        tuple(head for head in a.heads if head not in taken_a),
        tuple(head for head in b.heads if head not in taken_b),
    )


def groups(a: Behaviour, b: Behaviour, scope: Scope) -> list[tuple[list[int], list[int]]]:
    """Indices of the heads of A and of B that may be paired with each other."""
    if scope == "model":
        return [(list(range(len(a.heads))), list(range(len(b.heads))))]
    n_depths = min(a.n_blocks, b.n_blocks)
    depth_a, depth_b = (
        [block * n_depths // run.n_blocks for block, _ in run.heads] for run in (a, b)
    )
    return [
        (
            [index for index, depth in enumerate(depth_a) if depth == wanted],
            [index for index, depth in enumerate(depth_b) if depth == wanted],
        )
        for wanted in range(n_depths)
    ]
