"""Stack the scores of a whole run over its captures: small enough to hold in memory for any run.

Scored captures come in (or captures read with nothing but their ``scores.*`` arrays). One
``ScoreSeries`` comes out; roles, onsets, the run's summary and comparisons start from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.notebook import count
from tracker_viz.types import Capture

Floats = NDArray[np.float32]
HEAD_PREFIX, WEIGHT_PREFIX = "scores.head.", "scores.weight."
EXPERT_PREFIX, ROUTER_PREFIX = "scores.expert.", "scores.router."
SD_PREFIX, STREAM_PREFIX = "scores.head_sd.", "scores.stream."
MIXING_PREFIX = "scores.mixing."
_OF_BLOCKS = (WEIGHT_PREFIX, EXPERT_PREFIX, ROUTER_PREFIX, STREAM_PREFIX)
_KEPT = (HEAD_PREFIX, SD_PREFIX, MIXING_PREFIX, *_OF_BLOCKS)
# The entries of a capture's ``model`` that describe its heads' scores.
_OF_SCORES = ("uniform_scores", "score_rows", "score_definitions")


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class ScoreSeries:
    """A run's scores over its captures, ordered by step. Its arrays are not changed: what was found
    in them is kept.

    Attributes:
        steps: int64 [capture], rising.
        heads: score -> float32 [capture, block, head]; NaN where a capture lacks the score, or the
            model the head.
        weights: score -> float32 [capture, block, projection].
        projections: names along the last axis of ``weights``.
        uniform: score -> its value for uniform causal attention on the run's probe.
        tokens_seen: float64 [capture]; NaN where training did not say.
        metrics: scalar -> float64 [capture]; NaN where a capture lacks it.
        spread: score -> float32 [capture, block, head]: standard deviation over the probe's rows;
            only of scores that were measured on at least two. Empty for old captures.
        n_rows: score -> number of the rows that it was measured on, at the last capture that says
            so. Empty for old captures.
        experts: score -> float32 [capture, block, expert] of a mixture; NaN where a block has no
            such expert. Empty for models without one.
        routers: score -> float32 [capture, block, 1].
        streams: score of the residual stream -> float32 [capture, block, place], see
            ``stream_scores.PLACES``; empty for captures without it.
        mixers: score of a mixing map -> float32 [capture, block, head or channel]; empty for models
            that attend in every block.
        definitions: version of the scores' definitions (``head_scores.SCORE_DEFINITIONS``), the
            lowest of all captures; 1 for captures that hold none.
    """

    steps: NDArray[np.int64]
    heads: Mapping[str, Floats]
    weights: Mapping[str, Floats] = field(default_factory=dict)
    projections: tuple[str, ...] = ()
    uniform: Mapping[str, float] = field(default_factory=dict)
    tokens_seen: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    metrics: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    spread: Mapping[str, Floats] = field(default_factory=dict)
    n_rows: Mapping[str, int] = field(default_factory=dict)
    definitions: int = 1
    experts: Mapping[str, Floats] = field(default_factory=dict)
    routers: Mapping[str, Floats] = field(default_factory=dict)
    streams: Mapping[str, Floats] = field(default_factory=dict)
    mixers: Mapping[str, Floats] = field(default_factory=dict)

    def __repr__(self) -> str:
        blocks, heads = self.shape
        return f"ScoreSeries({count(self.n_captures, 'capture')}, {blocks} x {heads} heads)"

    @property
    def n_captures(self) -> int:
        return len(self.steps)

    @property
    def shape(self) -> tuple[int, int]:
        """(blocks, most heads in a block); (0, 0) without head scores."""
        scores = next(iter(self.heads.values()), np.zeros((0, 0, 0)))
        return scores.shape[1], scores.shape[2]


def score_series(captures: Iterable[Capture]) -> ScoreSeries:
    """Stack the scores of scored captures, in any order; of two captures of one step the later one
    counts."""
    by_step = {capture.step: scores_only(capture) for capture in captures}
    ordered = [by_step[step] for step in sorted(by_step)]
    projections: tuple[str, ...] = ()
    uniform: dict[str, float] = {}
    n_rows: dict[str, int] = {}
    tokens_seen, versions = [], []
    for capture in ordered:
        projections = max(projections, capture.labels.get("projection", ()), key=len)
        uniform |= capture.model.get("uniform_scores", {})
        n_rows |= capture.model.get("score_rows", {})
        versions.append(int(capture.model.get("score_definitions", 1)))
        tokens_seen.append(np.nan if capture.tokens_seen is None else capture.tokens_seen)
    return ScoreSeries(
        steps=np.array([capture.step for capture in ordered], np.int64),
        heads=_stacked(ordered, HEAD_PREFIX),
        weights=_stacked(ordered, WEIGHT_PREFIX),
        projections=projections,
        uniform=uniform,
        tokens_seen=np.array(tokens_seen, np.float64),
        metrics=_stacked_metrics(ordered),
        spread=_stacked(ordered, SD_PREFIX),
        n_rows=n_rows,
        definitions=min(versions, default=1),
        experts=_stacked(ordered, EXPERT_PREFIX),
        routers=_stacked(ordered, ROUTER_PREFIX),
        streams=_stacked(ordered, STREAM_PREFIX),
        mixers=_stacked(ordered, MIXING_PREFIX),
    )


def scores_only(capture: Capture) -> Capture:
    """Return a capture with nothing but what a series needs, so that the rest need not be kept."""
    arrays = {name: array for name, array in capture.arrays.items() if name.startswith(_KEPT)}
    described = {name: capture.model[name] for name in _OF_SCORES if name in capture.model}
    return Capture(
        capture.step,
        arrays,
        labels={"projection": capture.labels.get("projection", ())},
        tokens_seen=capture.tokens_seen,
        metrics=dict(capture.metrics),
        model=described,
    )


def _stacked(captures: list[Capture], prefix: str) -> dict[str, Floats]:
    """Return name without ``prefix`` -> its arrays [capture, row, column], padded with NaN."""
    found: dict[str, dict[int, NDArray[Any]]] = {}
    for index, capture in enumerate(captures):
        for name, array in capture.arrays.items():
            if name.startswith(prefix):
                found.setdefault(name.removeprefix(prefix), {})[index] = array

    stacked = {}
    for name, arrays in found.items():
        shape = tuple(np.max([array.shape for array in arrays.values()], axis=0))
        stacked[name] = np.full((len(captures), *shape), np.nan, np.float32)
        for index, array in arrays.items():
            rows, columns = array.shape
            stacked[name][index, :rows, :columns] = array
    return stacked


def _stacked_metrics(captures: list[Capture]) -> dict[str, NDArray[np.float64]]:
    """Return scalar -> its values [capture], NaN where a capture lacks it."""
    stacked: dict[str, NDArray[np.float64]] = {}
    for index, capture in enumerate(captures):
        for name, value in capture.metrics.items():
            stacked.setdefault(name, np.full(len(captures), np.nan))[index] = value
    return stacked
