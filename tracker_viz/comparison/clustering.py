"""Heads of all runs, grouped by what they did over time: the rows, the order and the tree of a
seaborn ``clustermap``.

grouped = cluster_heads(runs)
seaborn.clustermap(grouped.values, row_linkage=grouped.linkage, col_cluster=False,
yticklabels=grouped.labels)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison.align import Axis
from tracker_viz.comparison.matching import BEHAVIOUR, Behaviour, behaviours
from tracker_viz.comparison.ordering import ranking
from tracker_viz.comparison.runs import ComparedRun, check_runs, run_labels
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import head_name

# More rows than this are no picture any more, and the tree of n heads costs n^2 numbers.
MAX_CLUSTERED_HEADS = 1024


@dataclass(frozen=True, slots=True)
class HeadClusters:
    """Heads of several runs as a heatmap's rows.

    Attributes:
        values: float32 [head, score * point]: a head's trajectories, one score after the other.
        labels: of the rows: ``n_heads=8 seed=1 L03H01``.
        runs, heads: run name and (block, head) of each row.
        scores: the scores along the columns, in their order; each takes equally many columns.
        linkage: float64 [head - 1, 4], as ``scipy.cluster.hierarchy`` makes it (average linkage,
            Euclidean).
    """

    values: NDArray[np.float32]
    labels: tuple[str, ...]
    runs: tuple[str, ...]
    heads: tuple[tuple[int, int], ...]
    scores: tuple[str, ...]
    linkage: NDArray[np.float64]


def cluster_heads(
    runs: Sequence[ComparedRun],
    *,
    axis: Axis = "progress",
    scores: Sequence[str] | None = None,
    n_points: int = 24,
) -> HeadClusters:
    """Group the heads of all runs by their trajectories; of more than ``MAX_CLUSTERED_HEADS`` as
    many of each run, the most specialised.

    Raises:
        ConfigError: nothing in common to compare.
    """
    from scipy.cluster.hierarchy import linkage

    check_runs(runs)
    found = behaviours(runs, axis=axis, scores=scores, n_points=n_points)
    if sum(len(behaviour.heads) for behaviour in found) > MAX_CLUSTERED_HEADS:
        n_each = max(1, MAX_CLUSTERED_HEADS // len(runs))
        found = [
            _first(behaviour, ranking(run.series), n_each)
            for behaviour, run in zip(found, runs, strict=True)
        ]
    n_heads = sum(len(behaviour.heads) for behaviour in found)
    if n_heads < 2:
        raise ConfigError(
            f"clustering takes two heads or more; these runs have {n_heads} with scores"
        )
    common = tuple(
        name for name in (scores or BEHAVIOUR) if all(name in run.series.heads for run in runs)
    )
    vectors = np.concatenate([behaviour.vectors for behaviour in found])
    # from [head, point, score] to one score after the other, which is how a person reads a row
    values = vectors.reshape(n_heads, n_points, len(common)).transpose(0, 2, 1).reshape(n_heads, -1)
    names = run_labels(runs)
    heads = tuple(head for behaviour in found for head in behaviour.heads)
    of_run = tuple(
        run.name for run, behaviour in zip(runs, found, strict=True) for _ in behaviour.heads
    )
    return HeadClusters(
        values=values,
        labels=tuple(
            f"{names[run]} {head_name(*head)}" for run, head in zip(of_run, heads, strict=True)
        ),
        runs=of_run,
        heads=heads,
        scores=common,
        linkage=linkage(values, method="average", metric="euclidean"),
    )


def _first(behaviour: Behaviour, ranked: Sequence[tuple[int, int]], n: int) -> Behaviour:
    kept = sorted(
        behaviour.heads.index(head)
        for head in [head for head in ranked if head in set(behaviour.heads)][:n]
    )
    return replace(
        behaviour,
        heads=tuple(behaviour.heads[index] for index in kept),
        vectors=behaviour.vectors[kept],
    )
