"""Gather what a run knows about each role: scores over its captures in; where each head has the
role, and how sure that is, out.

A head takes a role on evidence gathered over captures, not at the first one above the line;
``onsets`` says when, ``labels`` which of several roles counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.probe_rows import RowKind
from tracker_viz.metrics.roles import ROLES, Role
from tracker_viz.metrics.series import ScoreSeries

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
# A one-sided CUSUM (Page 1954): each capture adds how many standard deviations it lies beyond the
# line, the sum never falls below 0, and at ``EVIDENCE`` it decides. A score that truly lies one
# standard deviation short of the line reaches it in 1 % of runs of 300 captures and in 2 % of 1,000
# (simulated); one that lies two beyond needs three captures.
EVIDENCE = 4.5
# No capture adds more than half of that: one odd capture decides nothing, two clear ones do.
MOST_PER_CAPTURE = EVIDENCE / 2
# A trained head's scores vary by about this much, even where the few differences between captures
# happen to be smaller.
LEAST_NOISE = 0.01
# Assumed noise of another draw of the probe, for captures that do not store it: the spread between
# single rows of the demo's probe.
UNKNOWN_ROW_NOISE = 0.03
_FEW_CAPTURES = 12


@dataclass(frozen=True, slots=True)
class RoleEvidence:
    """The evidence of one run for one role.

    Attributes:
        scores: float32 [capture, block, head]: of several scores that a role needs the lowest.
        noise: float32, of the same shape: the standard deviation of ``scores``.
        noise_of_draw: float32 [block, head]: the same at the last capture, for another draw of the
            probe; assumed where the captures do not hold it.
        states: bool, of the same shape: whether the head has the role.
        uniform: the score of uniform attention.
    """

    scores: Floats
    noise: Floats
    noise_of_draw: Floats
    states: NDArray[np.bool_]
    uniform: float

    def with_line(self, role: Role) -> RoleEvidence:
        """Return the same with the states that the lines of ``role`` give."""
        return replace(self, states=role_states(self.scores, role, self.noise))


Evidence = Mapping[str, RoleEvidence]


def gather_evidence(series: ScoreSeries, roles: tuple[Role, ...] = ROLES) -> Evidence:
    """Return role -> a run's evidence for it, for the roles that its captures measure."""
    found: dict[str, RoleEvidence] = {}
    if not series.n_captures:
        return found
    kept = kept_of(series).evidence
    for role in roles:
        if role not in kept:
            kept[role] = role_evidence(series, role)
        evidence = kept[role]
        if evidence is not None:
            found[role.name] = evidence
    return found


@dataclass(frozen=True, slots=True)
class Kept:
    """Hold what was found of one run: its evidence for each role, and the labels of its heads by
    roles and kind of row."""

    evidence: dict[Role, RoleEvidence | None] = field(default_factory=dict)
    labels: dict[tuple[tuple[Role, ...], RowKind | None], tuple[NDArray[np.int8], Floats]] = field(
        default_factory=dict
    )


# Of the latest run only: of many runs it would take as much memory as their scores.
_latest: WeakKeyDictionary[ScoreSeries, Kept] = WeakKeyDictionary()


def kept_of(series: ScoreSeries) -> Kept:
    kept = _latest.get(series)
    if kept is None:
        kept = Kept()
        _latest.clear()
        _latest[series] = kept
    return kept


def role_evidence(series: ScoreSeries, role: Role) -> RoleEvidence | None:
    """Return what a run knows about a role; None where its captures do not measure it."""
    score = role.score_of(series)
    if score is None:
        return None
    scores = series.heads[score]
    if role.also in series.heads:
        # A NaN of one says nothing against the other.
        scores = np.fmin(scores, series.heads[role.also])
    over_time, over_rows = noise_over_time(scores), _noise_over_rows(series, score)
    noise = np.broadcast_to(over_time, scores.shape)
    noise_of_draw = np.hypot(over_time, np.float32(UNKNOWN_ROW_NOISE))
    if over_rows is not None:
        noise = np.hypot(over_time, np.nan_to_num(over_rows))
        noise_of_draw = np.where(np.isfinite(over_rows[-1]), noise[-1], noise_of_draw)
    states = role_states(scores, role, noise)
    return RoleEvidence(scores, noise, noise_of_draw, states, series.uniform.get(score, 0.0))


def noise_over_time(scores: Floats) -> Floats:
    """Return how much each head's score varies: float32 [block, head], at least ``LEAST_NOISE``.

    Taken from the sizes of the differences between captures, so that a rise is not counted as
    noise: from the first differences, which a sudden rise hardly meets, or the second ones, which a
    steady rise leaves small, whichever are smaller.
    """
    estimates = []
    # A rise may take half of a few captures: there the lower quartile of the differences counts.
    is_short = len(scores) < _FEW_CAPTURES
    quantile = 0.25 if is_short else 0.5
    of_normal = 0.3186 if is_short else 0.6745  # the same quantile of |x|, x standard normal
    for order, growth in ((1, np.sqrt(2)), (2, np.sqrt(6))):
        if len(scores) <= order:
            continue
        sizes = np.abs(np.diff(scores.astype(np.float64), order, axis=0))
        estimates.append(_nan_quantile(sizes, quantile) / of_normal / growth)
    least = np.full(scores.shape[1:], LEAST_NOISE)
    if not estimates:
        return least.astype(np.float32)
    return np.fmax(np.fmin.reduce(estimates), least).astype(np.float32)


def role_states(scores: Floats, role: Role, noise: Floats | None = None) -> NDArray[np.bool_]:
    """Return where each head has ``role``: bool, of the shape of ``scores`` [capture, ...].

    A head has the role from the capture on at which it rose above ``role.enter``, once that and the
    following captures have gathered ``EVIDENCE``; it loses it in the same way below ``role.leave``.

    A NaN changes nothing while a score comes after it: the head keeps its state. Where none comes
    any more the head has no role: its training has died.

    Args:
        noise: standard deviation of ``scores``; None: estimated from how they vary over time.
    """
    if noise is None:
        noise = noise_over_time(scores)
    above, below = _beyond_lines(scores, role, noise)
    is_measured = np.isfinite(scores)
    heads = scores.shape[1:]
    has_role = np.zeros(heads, bool)
    evidence = np.zeros(heads)  # for a change: for taking the role, or for losing it
    began = np.zeros(heads, np.int64)  # the capture with the first of this evidence
    changes_at = np.zeros(scores.shape, bool)
    for index in range(len(scores)):
        began = np.where((evidence == 0) & is_measured[index], index, began)
        added = np.where(has_role, below[index], above[index])
        evidence = np.maximum(evidence + np.minimum(added, MOST_PER_CAPTURE), 0)
        changes = evidence >= EVIDENCE
        for head in map(tuple, np.argwhere(changes)):
            changes_at[(began[head], *head)] ^= True
        has_role = has_role ^ changes
        evidence = np.where(changes, 0, evidence)

    states = np.logical_xor.accumulate(changes_at)
    is_measured_again = np.logical_or.accumulate(is_measured[::-1])[::-1]
    return states & is_measured_again


def _beyond_lines(scores: Floats, role: Role, noise: Floats) -> tuple[Doubles, Doubles]:
    """Return how far scores lie above ``role.enter``, and below ``role.leave``, in standard
    deviations: both of the shape of ``scores``; 0 for NaN."""
    deviations = np.broadcast_to(noise, scores.shape).astype(np.float64)
    with np.errstate(invalid="ignore"):
        above = np.nan_to_num((scores - role.enter) / deviations)
        below = np.nan_to_num((role.leave - scores) / deviations)
    return above, below


def _noise_over_rows(series: ScoreSeries, score: str) -> Floats | None:
    """Return the standard error of a score's mean over the rows: [capture, block, head]; None where
    the captures do not say."""
    n_rows = series.n_rows.get(score, 0)
    if score not in series.spread or n_rows < 2:
        return None
    return series.spread[score] / np.float32(np.sqrt(n_rows))


def _nan_quantile(values: Doubles, quantile: float) -> Doubles:
    """Return the (lower) quantile over captures of what is not NaN; NaN where nothing is.

    numpy's own goes through the heads one by one in Python.
    """
    n_known = np.isfinite(values).sum(0)
    ranked = np.sort(np.where(np.isfinite(values), values, np.inf), axis=0)  # unknown ones last
    place = np.floor(quantile * np.maximum(n_known - 1, 0)).astype(np.int64)
    found = np.take_along_axis(ranked, place[None], 0)[0]
    return np.where(n_known > 0, found, np.nan)
