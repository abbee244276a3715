"""Add scores to a capture. Runs in the spool's writer thread, beside training, on whole captures.

Adds arrays ``scores.head.<name>`` float32 (block, head), their standard deviations over the
probe's rows ``scores.head_sd.<name>``, ``scores.weight.<name>`` float32 (block, projection), of a
mixture ``scores.expert.<name>`` (block, expert) and ``scores.router.<name>`` (block, router),
``scores.stream.<name>`` (block, place), how heads compose ``scores.composition.<kind>`` (block,
head, earlier block, earlier head), and a few scalars that trackers draw as native charts
(``charts.chart_metrics``). ``model`` then holds each score of uniform attention
(``uniform_scores``), the number of rows it was measured on (``score_rows``) and the version of the
definitions (``score_definitions``). ``probe["scored"]`` describes these rows; the hidden ones are
dropped later.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import CaptureError
from tracker_viz.metrics.blas import one_blas_thread
from tracker_viz.metrics.charts import chart_metrics, router_metrics
from tracker_viz.metrics.circuits.captured import AXES as COMPOSITION_AXES
from tracker_viz.metrics.circuits.captured import composition_scores
from tracker_viz.metrics.head_names import head_numbers
from tracker_viz.metrics.head_scores import (
    PATTERN_NAME,
    SCORE_DEFINITIONS,
    HeadScores,
    measure_heads,
    uniform_scores,
)
from tracker_viz.metrics.mixing_scores import MIXING_NAME, mixing_scores
from tracker_viz.metrics.mixtures.expert_measures import Integers
from tracker_viz.metrics.mixtures.expert_scores import expert_scores, routed_probe
from tracker_viz.metrics.probe_rows import FIRST_QUERY, probe_rows, scored_rows
from tracker_viz.metrics.series import (
    EXPERT_PREFIX,
    HEAD_PREFIX,
    MIXING_PREFIX,
    SD_PREFIX,
    STREAM_PREFIX,
    WEIGHT_PREFIX,
    ScoreSeries,
    score_series,
    scores_only,
)
from tracker_viz.metrics.signals.probe_loss import PROBE_LOSS, probe_loss_metrics
from tracker_viz.metrics.signals.stream_scores import PLACES, stream_scores, streams_of
from tracker_viz.metrics.weights.weight_scores import WEIGHT_NAME, Matrices, Weight, weight_scores
from tracker_viz.types import Capture

# Suffixes of the arrays that the recorder adds for the scores alone; the scored capture lacks them.
_FOR_SCORES = (".norms", ".peak", ".spread", ".stream", ".max_logit")
_MAX_LOGIT = re.compile(r"blocks\.(\d+)\.attn\.max_logit")

Scores = dict[str, NDArray[np.float32]]
# A weight matrix as it is stored -> the smaller sample of it that a file holds.
Sampled = Callable[[NDArray[Any]], NDArray[Any]]


def score(
    capture: Capture,
    *,
    first: Matrices | None = None,
    previous: Matrices | None = None,
    sampled: Sampled | None = None,
    routed_before: Mapping[int, Integers] | None = None,
) -> Capture:
    """Return the capture with the scores that its arrays and its probe allow.

    All else stays as it is, except for the arrays that the recorder measured for the scores alone
    (``<weight>.norms``, ``.peak``, ``.spread``, ``blocks.<i>.stream``,
    ``blocks.<i>.attn.max_logit``): these are dropped.

    No head scores without attention patterns or with a probe of fewer than three positions, no
    weight scores without matrices.

    Args:
        first, previous: weight matrices of the run's first and of the last capture
            (``weights_of``), for the scores of change.
        sampled: how those of ``first`` were made smaller than this capture's.
        routed_before: block -> the first expert of every token at the last capture
            (``first_experts_of``).

    Raises:
        ProbeError: the patterns do not fit ``Capture.probe``.
        CaptureError: a pattern, a weight matrix or a router has the wrong axes.
    """
    patterns, weights = patterns_of(capture), _weights(capture, sampled)
    routed = routed_probe(capture, routed_before)
    mixing, streams = mixing_maps_of(capture), streams_of(capture)
    in_weights = {block for block, _ in weights}
    n_blocks = _n_blocks(capture, {*patterns, *mixing, *routed, *streams, *in_weights})

    scored = _Scored(capture)
    of_heads: Scores = {}
    if patterns and int(capture.probe.get("length", 0)) > FIRST_QUERY:
        of_heads = _add_head_scores(scored, capture, patterns, n_blocks)
    of_weights: Scores = {}
    if weights:
        of_weights, scored.labels["projection"] = weight_scores(
            weights, n_blocks=n_blocks, first=first, previous=previous
        )
        scored.add(WEIGHT_PREFIX, of_weights, "block", "projection")
    scored.add(MIXING_PREFIX, mixing_scores(mixing, n_blocks=n_blocks), "block", "mixing_head")
    scored.add("", composition_scores(capture, n_blocks), *COMPOSITION_AXES)
    if streams:
        scored.add(STREAM_PREFIX, stream_scores(streams, n_blocks=n_blocks), "block", "place")
        scored.labels["place"] = PLACES
    of_experts = expert_scores(routed, n_blocks=n_blocks)
    for name, values in of_experts.items():
        column = "expert" if name.startswith(EXPERT_PREFIX) else "router"
        scored.add("", {name: values}, "block", column)

    scored.metrics |= chart_metrics(of_heads, of_weights, scored.labels.get("projection", ()))
    scored.metrics |= router_metrics(of_experts)
    if PROBE_LOSS in scored.arrays:
        scored.metrics |= probe_loss_metrics(scored.arrays[PROBE_LOSS], probe_rows(capture.probe))
    return scored.capture(capture)


class _Scored:
    """The parts of a capture to which scores are added."""

    def __init__(self, raw: Capture) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        for name, array in raw.arrays.items():
            if not name.endswith(_FOR_SCORES):
                self.arrays[name] = array
        self.axes, self.labels = dict(raw.axes), dict(raw.labels)
        self.metrics, self.model, self.probe = dict(raw.metrics), dict(raw.model), raw.probe

    def add(self, prefix: str, scores: Mapping[str, NDArray[Any]], *axes: str) -> None:
        for name, values in scores.items():
            self.arrays[f"{prefix}{name}"] = values
            self.axes[f"{prefix}{name}"] = axes

    def capture(self, raw: Capture) -> Capture:
        return dataclasses.replace(
            raw,
            arrays=self.arrays,
            axes=self.axes,
            labels=self.labels,
            metrics=self.metrics,
            model=self.model,
            probe=self.probe,
        )


def _add_head_scores(
    scored: _Scored, capture: Capture, patterns: Mapping[int, NDArray[Any]], n_blocks: int
) -> Scores:
    """Add the scores of heads, and return them: score -> [block, head]."""
    measured = _measured_heads(capture, patterns, n_blocks)
    of_heads = measured.scores | _max_logits(capture, measured)
    scored.add(HEAD_PREFIX, of_heads, "block", "head")
    scored.add(SD_PREFIX, measured.sd, "block", "head")
    # Stored with the scores, because the patterns and their probe may be cut later.
    scored.model["uniform_scores"] = dict(uniform_scores(probe_rows(capture.probe)))
    scored.model["score_rows"] = measured.n_rows
    scored.model["score_definitions"] = SCORE_DEFINITIONS
    scored.probe = {**capture.probe, "scored": scored_rows(capture.probe)}
    return of_heads


def _measured_heads(
    capture: Capture, patterns: Mapping[int, NDArray[Any]], n_blocks: int
) -> HeadScores:
    heads: dict[int, tuple[int, ...]] = {}
    for block in patterns:
        kept = kept_heads(capture, block)
        if kept is not None:
            heads[block] = kept
    return measure_heads(patterns, probe_rows(capture.probe), n_blocks=n_blocks, heads=heads)


def _max_logits(capture: Capture, measured: HeadScores) -> Scores:
    """Return ``max_logit``, the largest logit of every head over all rows of the probe, float32
    [block, head], NaN where it is not known; nothing where no block's is there."""
    of_heads = np.full_like(next(iter(measured.scores.values())), np.nan)
    is_measured = False
    for name, of_rows in capture.arrays.items():
        match = _MAX_LOGIT.fullmatch(name)
        # Where a block's heads are left out, their logits are, too.
        if match and f"blocks.{match[1]}.attn.pattern" in capture.arrays:
            _check_axes(capture, name, ("probe", "head"))
            block = int(match[1])
            kept = kept_heads(capture, block)
            chosen = list(range(of_rows.shape[1]) if kept is None else kept)
            of_heads[block, chosen] = of_rows[:, chosen].max(0)
            is_measured = True
    return {"max_logit": of_heads} if is_measured else {}


class Scorer:
    """Score the captures of one run in the order of their steps: remembers the weights of the first
    and the last one, and all scores.

    Called by one thread at a time. Holds two captures' weight matrices, as the recorder made them,
    the last one's choices of experts, and the scores of every capture: about 15 MB for 100 captures
    of 1,024 heads.

    Args:
        first: the run's first capture, where a run is resumed: distances are measured from its
            weight matrices. Without it the first capture that is scored counts as the first.
        sampled: how its matrices were made smaller for its file than those of the captures to come;
            None: they were not.
        earlier: scored captures from before the run was resumed, of which only the scores are used,
            so that ``series`` is whole.
    """

    def __init__(
        self,
        first: Capture | None = None,
        *,
        sampled: Sampled | None = None,
        earlier: Iterable[Capture] = (),
    ) -> None:
        self._first: Matrices | None = None if first is None else weights_of(first)
        self._sampled = sampled
        self._previous: Matrices = {}
        self._routed_before: dict[int, Integers] = {}
        self._scored = {capture.step: scores_only(capture) for capture in earlier}
        if first is not None:
            self._scored[first.step] = scores_only(first)

    def __call__(self, capture: Capture) -> Capture:
        weights = weights_of(capture)
        if self._first is None:
            self._first = weights
        in_order = all(step < capture.step for step in self._scored)
        # Without a last capture the update ratio is NaN, not left out: pictures show what every
        # capture of a run has.
        previous = self._previous if in_order else {}
        with one_blas_thread():
            scored = score(
                capture,
                first=self._first,
                previous=previous,
                sampled=self._sampled,
                routed_before=self._routed_before if in_order else None,
            )
        self._previous = weights
        self._routed_before = first_experts_of(capture)
        self._scored[capture.step] = scores_only(scored)
        return scored

    def series(self) -> ScoreSeries:
        """Return the scores of every capture so far, from which ``run_summary`` and ``head_table``
        are made when the run ends."""
        return score_series(self._scored.values())


def patterns_of(capture: Capture) -> dict[int, NDArray[Any]]:
    """Return block -> attention probabilities [probe, head, query, key]."""
    patterns = {}
    for name, array in capture.arrays.items():
        if match := PATTERN_NAME.fullmatch(name):
            _check_axes(capture, name, ("probe", "head", "query", "key"))
            patterns[int(match[1])] = array
    return dict(sorted(patterns.items()))


def mixing_maps_of(capture: Capture) -> dict[int, NDArray[Any]]:
    """Return block -> mixing map [probe, head or channel, query, key], where the probe is long
    enough to be measured."""
    maps = {}
    for name, array in capture.arrays.items():
        match = MIXING_NAME.fullmatch(name)
        if match and array.ndim == 4 and array.shape[-1] > FIRST_QUERY:
            maps[int(match[1])] = array
    return dict(sorted(maps.items()))


def weights_of(capture: Capture) -> dict[tuple[int, str], NDArray[Any]]:
    """Return (block, projection) -> weight matrix [out, in], for every ``blocks.<i>.attn.w_*`` and
    ``blocks.<i>.mlp.w_*``."""
    weights = {}
    for name, array in capture.arrays.items():
        if match := WEIGHT_NAME.fullmatch(name):
            _check_axes(capture, name, ("out", "in"))
            weights[int(match[1]), match[2]] = array
    return dict(sorted(weights.items()))


def first_experts_of(capture: Capture) -> dict[int, Integers]:
    """Return block -> the expert with the greatest weight of every token of the probe: int [row,
    token]."""
    return {block: of.first for block, of in routed_probe(capture).items()}


def _weights(capture: Capture, sampled: Sampled | None) -> dict[tuple[int, str], Weight]:
    pooling = capture.model.get("pooling", {})
    weights = {}
    for (block, projection), stored in weights_of(capture).items():
        name = f"blocks.{block}.{projection}"
        weights[block, projection] = Weight(
            stored,
            norms=capture.arrays.get(f"{name}.norms"),
            pooled=_is_pooled(projection, pooling),
            as_first=None if sampled is None else sampled(stored),
            peaks=capture.arrays.get(f"{name}.peak"),
            spread=capture.arrays.get(f"{name}.spread"),
        )
    return weights


def _is_pooled(projection: str, pooling: Mapping[str, str]) -> bool:
    """Return whether a projection holds means over rectangles, not a sample. ``pooling``: pattern
    -> how; the first pattern that fits counts."""
    for pattern, how in pooling.items():
        if fnmatch.fnmatchcase(projection, pattern):
            return how != "sample"
    return False


def kept_heads(capture: Capture, block: int) -> tuple[int, ...] | None:
    """Return the heads that the block's pattern still holds; None where it holds all."""
    labels = capture.labels.get(f"blocks.{block}.head")
    return None if labels is None else head_numbers(labels)


def _check_axes(capture: Capture, name: str, axes: tuple[str, ...]) -> None:
    found = capture.axes.get(name, axes)
    if found != axes or capture.arrays[name].ndim != len(axes):
        raise CaptureError(
            f"{name} must have the axes {axes} to be scored; it has {found} and shape "
            f"{capture.arrays[name].shape}"
        )


def _n_blocks(capture: Capture, blocks: set[int]) -> int:
    return max(int(capture.model.get("n_blocks", 0)), max(blocks, default=-1) + 1)
