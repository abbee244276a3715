"""Compare the token mixers of runs as heads are compared: by what their mixing maps did over the
whole training, matched within blocks, at a distance beside chance.

Scores of mixing maps are of sizes alone (``metrics.mixing_scores``), and no role is read off them,
so that they are never mixed with those of attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tracker_viz.comparison.align import Axis
from tracker_viz.comparison.distance import DistanceMatrix, distance_matrix
from tracker_viz.comparison.matching import Matching, behaviors, match_heads
from tracker_viz.comparison.runs import ComparedRun
from tracker_viz.metrics import MIXING_SCORES, equal_mixing

_MEMORY = "memory"


def mixing_run(run: ComparedRun, length: int) -> ComparedRun | None:
    """Return a run with its mixers in the place of its heads, all scores 0..1; None where it has
    none.

    Args:
        length: of the rows of its probe, in tokens.
    """
    if not run.series.mixers or length < 2:
        return None
    longest = length - 1
    scores = dict(run.series.mixers)
    uniform = dict(equal_mixing(length))
    if _MEMORY in scores:
        scores[_MEMORY] = scores[_MEMORY] / np.float32(longest)
        uniform[_MEMORY] /= longest
    series = replace(run.series, heads=scores, uniform=uniform, spread={}, n_rows={})
    return replace(run, series=series)


def mixing_distances(runs: Sequence[ComparedRun], *, axis: Axis) -> DistanceMatrix:
    """Return how far the mixers of ``mixing_run``s are from each other, see ``distance_matrix``;
    in the place of uniform attention is a map whose entries are all equal."""
    return distance_matrix(runs, axis=axis, scores=_common(runs))


def match_mixers(runs: Sequence[ComparedRun], *, axis: Axis) -> dict[tuple[str, str], Matching]:
    """Return (run, other run) -> their mixers paired by what they did, for every two runs."""
    scores = _common(runs)
    found = {}
    for first, run in enumerate(runs):
        for other in runs[first + 1 :]:
            a, b = behaviors([run, other], axis=axis, scores=scores)
            found[run.name, other.name] = match_heads(a, b)
    return found


def mixer_table(
    found: Mapping[tuple[str, str], Matching], labels: Mapping[str, str]
) -> list[dict[str, str | int | float]]:
    """Return one row per pair of mixers.

    Columns: ``run``, ``block``, ``head``, ``other_run``, ``other_block``, ``other_head``, and
    ``difference`` of their scores over the training, 0..1. A mixer whose channels each mix in their
    own way has the kept channels for heads.
    """
    rows: list[dict[str, str | int | float]] = []
    for (run, other_run), matching in found.items():
        for (block, head), (other_block, other_head), difference in matching.pairs:
            rows.append(
                {
                    "run": labels[run],
                    "block": block,
                    "head": head,
                    "other_run": labels[other_run],
                    "other_block": other_block,
                    "other_head": other_head,
                    "difference": round(difference, 4),
                }
            )
    return rows


def _common(runs: Sequence[ComparedRun]) -> list[str]:
    in_all = set.intersection(*(set(run.series.heads) for run in runs))
    return [name for name in MIXING_SCORES if name in in_all]
