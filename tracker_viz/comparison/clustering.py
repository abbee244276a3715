"""Cluster the heads of all runs by what they did over time: the rows, the order and the tree of a
seaborn ``clustermap``.

    grouped = cluster_heads(runs)
    seaborn.clustermap(grouped.values, row_linkage=grouped.linkage, yticklabels=grouped.labels)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison.align import Axis, comparable_axis, positions
from tracker_viz.comparison.matching import Behavior, behaviors, common_scores
from tracker_viz.comparison.ordering import ranking
from tracker_viz.comparison.runs import ComparedRun, check_runs, run_labels
from tracker_viz.errors import ConfigError
from tracker_viz.types import HeadId

# With more rows the picture cannot be read, and the tree of n heads costs n^2 numbers.
MAX_CLUSTERED_HEADS = 1024
_N_POINTS = 24  # of each trajectory; so many columns a score takes in the picture


@dataclass(frozen=True, slots=True)
class HeadClusters:
    """Heads of several runs as a heatmap's rows.

    Attributes:
        values: float32 [head, score * point]: a head's trajectories, one score after the other.
        labels: of the rows: ``n_heads=8 seed=1 L3H1``.
        runs, heads: run name and (block, head) of each row.
        scores: the scores along the columns, in their order; each takes equally many columns.
        linkage: float64 [head - 1, 4], as ``scipy.cluster.hierarchy`` makes it (average linkage,
            Euclidean).
        left_out: names of runs that ended too early to be compared over the others' training.
    """

    values: NDArray[np.float32]
    labels: tuple[str, ...]
    runs: tuple[str, ...]
    heads: tuple[HeadId, ...]
    scores: tuple[str, ...]
    linkage: NDArray[np.float64]
    left_out: tuple[str, ...] = ()


def cluster_heads(
    runs: Sequence[ComparedRun],
    *,
    axis: Axis | None = None,
) -> HeadClusters:
    """Group the heads of all runs by their trajectories, over the stretch that the runs share.

    Of more than ``MAX_CLUSTERED_HEADS`` as many of each run are taken, the most specialized.

    Args:
        axis: None: ``comparable_axis`` of the runs.

    Raises:
        ConfigError: nothing in common to compare.
    """
    from scipy.cluster.hierarchy import linkage

    check_runs(runs)
    axis = axis or comparable_axis(runs)
    kept = long_enough(runs, axis)
    names = common_scores(kept)
    found = behaviors(kept, axis=axis, scores=names, n_points=_N_POINTS)
    if sum(len(behavior.heads) for behavior in found) > MAX_CLUSTERED_HEADS:
        found = _most_specialized(kept, found)

    labels = run_labels(runs, short=True)
    of_run: list[str] = []
    heads: list[HeadId] = []
    row_labels: list[str] = []
    for run, behavior in zip(kept, found, strict=True):
        of_run += [run.name] * len(behavior.heads)
        heads += behavior.heads
        row_labels += [f"{labels[run.name]} L{head[0]}H{head[1]}" for head in behavior.heads]
    if len(heads) < 2:
        raise ConfigError(
            f"clustering takes two heads or more; these runs have {len(heads)} with scores"
        )

    vectors = np.concatenate([behavior.vectors for behavior in found])
    # A person reads one score after the other, not one point of time after the other.
    by_point = vectors.reshape(len(heads), _N_POINTS, len(names))
    values = by_point.transpose(0, 2, 1).reshape(len(heads), -1)
    kept_names = {run.name for run in kept}
    left_out = [run.name for run in runs if run.name not in kept_names]
    return HeadClusters(
        values=values,
        labels=tuple(row_labels),
        runs=tuple(of_run),
        heads=tuple(heads),
        scores=names,
        linkage=linkage(values, method="average", metric="euclidean"),
        left_out=tuple(left_out),
    )


def long_enough(runs: Sequence[ComparedRun], axis: Axis) -> list[ComparedRun]:
    """Return the runs to compare over one stretch: those for which number of runs times length of
    the stretch is greatest, so that one run which was killed early does not cut all others short.

    At least two, whatever their lengths.
    """
    ends = np.array([positions(run.series, axis)[-1] for run in runs])
    start = min(positions(run.series, axis)[0] for run in runs)
    longest_first = np.sort(ends - start)[::-1]
    coverage = longest_first * np.arange(1, len(runs) + 1)
    # The one with more runs, where coverages are equal.
    n_kept = max(2, len(runs) - int(np.argmax(coverage[::-1])))
    least = longest_first[n_kept - 1]
    return [run for run, end in zip(runs, ends, strict=True) if end - start >= least]


def _most_specialized(runs: Sequence[ComparedRun], found: Sequence[Behavior]) -> list[Behavior]:
    """Return as many heads of each run as the picture has room for."""
    n_each = max(1, MAX_CLUSTERED_HEADS // len(runs))
    kept = []
    for run, behavior in zip(runs, found, strict=True):
        kept.append(_first_ranked(behavior, ranking(run.series), n_each))
    return kept


def _first_ranked(behavior: Behavior, ranked: Sequence[HeadId], n: int) -> Behavior:
    index = {head: row for row, head in enumerate(behavior.heads)}
    first = [head for head in ranked if head in index][:n]
    kept = sorted(index[head] for head in first)
    return replace(
        behavior,
        heads=tuple(behavior.heads[row] for row in kept),
        vectors=behavior.vectors[kept],
    )
