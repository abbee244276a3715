"""Find when heads took their roles, and when a run formed one: intervals between two captures.

The scores of a run come in. Every onset of every head comes out, and for each role the onset of the
head that carries it in the end. Summaries, tables, events and comparisons use these onsets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.evidence import Floats, RoleEvidence, gather_evidence
from tracker_viz.metrics.labels import NEAR_LINE, head_roles, near_line
from tracker_viz.metrics.probe_rows import RowKind
from tracker_viz.metrics.roles import ROLES, Role
from tracker_viz.metrics.series import ScoreSeries
from tracker_viz.types import HeadId

# The strongest head is found by its mean over this many last captures, not by a single one.
STRONGEST_OVER = 3
CURVE_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Onset:
    """One head took one role.

    Attributes:
        step: of the first capture in which it had the role.
        until: step of the first capture in which it had lost the role again; None: it had it to the
            end.
        score: at ``step``.
        after: step of the last capture before it had the role; None: the first capture had it.
    """

    block: int
    head: int
    role: str
    step: int
    until: int | None
    score: float
    after: int | None = None

    @property
    def head_id(self) -> HeadId:
        return self.block, self.head


@dataclass(frozen=True, slots=True)
class RunOnset:
    """One run formed one role: at the onset of the role's strongest head.

    Attributes:
        head: (block, head), the strongest of those that have the role at the end; where another
            draw of the probe could make others the strongest, the one of them that took it first.
            Of a run that did not form it the head that came nearest. None: no head has a score at
            the end.
        after: step of the last capture without the role; None: the first capture had it. Of a run
            that did not form it the step up to which that is known.
        step: of the first capture with it; None: the run did not form it.
        near_line: the head's final score is so close to the line that another draw of the probe
            could change the answer.
        censored: the head rose above the line, and the run ended before that was confirmed.
    """

    role: str
    head: HeadId | None
    after: int | None
    step: int | None
    near_line: bool = False
    censored: bool = False

    @property
    def formed(self) -> bool:
        return self.step is not None


def onsets(series: ScoreSeries, roles: tuple[Role, ...] = ROLES) -> list[Onset]:
    """Return every time that a head took a role, ordered by step, block and head.

    A head may take a role twice, having lost it between, and may hold several roles. A head that
    rose above the line in the run's last capture has no onset yet.
    """
    known = gather_evidence(series, roles)
    found: list[Onset] = []
    for role in roles:
        if role.name in known:
            found += _onsets_of_role(series, role, known[role.name])
    return sorted(found, key=lambda onset: (onset.step, onset.block, onset.head, onset.role))


def run_onsets(series: ScoreSeries) -> Mapping[str, RunOnset]:
    """Return role -> when the run formed it, for every role that its captures measure."""
    if series not in _run_onsets:
        _run_onsets[series] = MappingProxyType(_found_run_onsets(series))
    return _run_onsets[series]


# A comparison asks for them again and again.
_run_onsets: WeakKeyDictionary[ScoreSeries, Mapping[str, RunOnset]] = WeakKeyDictionary()


def _found_run_onsets(series: ScoreSeries) -> dict[str, RunOnset]:
    found: dict[str, RunOnset] = {}
    if not series.n_captures:
        return found
    known, labels = gather_evidence(series), _final_labels(series)
    for index, role in enumerate(ROLES):
        if role.name in known:
            is_labeled = labels[role.rows] == index
            found[role.name] = _run_onset(series, role, known[role.name], is_labeled)
    return found


def lasting_onsets(series: ScoreSeries) -> dict[str, list[Onset]]:
    """Return role -> the onset of every head that has this role at the end, the head of the run's
    onset first, then the strongest; roles that no head has are left out.

    Of several roles that a head has on one kind of row the one with the greatest margin counts.
    """
    if not series.n_captures:
        return {}
    known, labels = gather_evidence(series), _final_labels(series)
    found = {}
    for index, role in enumerate(ROLES):
        if role.name not in known:
            continue
        of_role, is_holder = known[role.name], labels[role.rows] == index
        own = _onsets_to_the_end(series, role, of_role, among=is_holder)
        if own:
            leader = _leader(of_role, is_holder)
            found[role.name] = _strongest_first(own, leader, _final_strength(of_role.scores))
    return found


def onset_curve(
    series: ScoreSeries, role: Role, *, head: HeadId | None = None
) -> dict[float, int | None]:
    """Return, for each of ``CURVE_THRESHOLDS``, the step at which a head rose above it to stay;
    None where it did not.

    It shows how much an onset depends on the threshold ``role.enter``.

    Args:
        head: None: the one of the run's onset.
    """
    of_role = gather_evidence(series, (role,)).get(role.name)
    curve: dict[float, int | None] = dict.fromkeys(CURVE_THRESHOLDS)
    if of_role is None or not series.n_captures:
        return curve
    chosen = head or _leader(of_role, of_role.states[-1])
    if chosen is None:
        return curve

    alone, keeps = _of_head(of_role, chosen), role.leave / role.enter
    for threshold in CURVE_THRESHOLDS:
        moved = replace(role, enter=threshold, leave=threshold * keeps)
        found = _onsets_of_role(series, moved, alone.with_line(moved))
        is_kept = bool(found) and found[-1].until is None
        curve[threshold] = found[-1].step if is_kept else None
    return curve


def _final_labels(series: ScoreSeries) -> dict[RowKind, NDArray[np.int8]]:
    """Return kind of row -> the label of every head on it at the last capture."""
    kinds: tuple[RowKind, ...] = ("repeated", "text")
    return {kind: head_roles(series, rows=kind)[0][-1] for kind in kinds}


def _onsets_of_role(series: ScoreSeries, role: Role, evidence: RoleEvidence) -> list[Onset]:
    found = []
    for block, head in np.argwhere(evidence.states.any(0)).tolist():
        for first, end in stretches(evidence.states[:, block, head]):
            found.append(_onset(series, role, evidence, (block, head), first, end))
    return found


def _onsets_to_the_end(
    series: ScoreSeries, role: Role, evidence: RoleEvidence, *, among: NDArray[np.bool_]
) -> list[Onset]:
    """Return the last onset of each head ``among`` those that have the role at the end."""
    end = series.n_captures
    firsts = end - _held_for(evidence)
    found = []
    for block, head in np.argwhere(evidence.states[-1] & among).tolist():
        found.append(_onset(series, role, evidence, (block, head), firsts[block, head], end))
    return found


def _onset(
    series: ScoreSeries, role: Role, evidence: RoleEvidence, head: HeadId, first: int, end: int
) -> Onset:
    """Return the onset of a head that has the role from capture ``first`` to the one before
    ``end``."""
    scores = evidence.scores[(slice(None), *head)]
    return Onset(
        *head,
        role.name,
        step=int(series.steps[first]),
        until=int(series.steps[end]) if end < series.n_captures else None,
        score=float(scores[first]),
        after=_last_without(series, scores, first),
    )


def _held_for(evidence: RoleEvidence) -> NDArray[np.int64]:
    """Return for how many captures, up to the last one, each head has had the role without a break:
    int64 [block, head]."""
    held: NDArray[np.int64] = np.cumprod(evidence.states[::-1], axis=0, dtype=np.int64).sum(0)
    return held


def _run_onset(
    series: ScoreSeries, role: Role, evidence: RoleEvidence, is_labeled: NDArray[np.bool_]
) -> RunOnset:
    head = _leader(evidence, is_labeled)
    if head is None:
        finite = np.flatnonzero(np.isfinite(evidence.scores).any((1, 2)))
        last = int(series.steps[finite[-1]]) if finite.size else None
        return RunOnset(role.name, None, after=last, step=None)

    is_near = bool(near_line(evidence, role)[head])
    if is_labeled[head]:
        onset = _onsets_of_role(series, role, _of_head(evidence, head))[-1]
        return RunOnset(role.name, head, onset.after, onset.step, is_near)

    # Above the line at the end, and not for long enough: nobody knows yet whether it stays.
    scores = evidence.scores[(slice(None), *head)]
    is_above = bool(scores[-1] > role.enter) and not evidence.states[(-1, *head)]
    after: int | None = int(series.steps[-1])
    if is_above:
        below = np.flatnonzero(scores <= role.enter)
        after = int(series.steps[below[-1]]) if below.size else None
    return RunOnset(role.name, head, after, None, is_near, is_above)


def _last_without(series: ScoreSeries, scores: Floats, first: int) -> int | None:
    """Return the step of the last capture before ``first`` that measured the head, or None."""
    before = np.flatnonzero(np.isfinite(scores[:first]))
    return int(series.steps[before[-1]]) if before.size else None


def _leader(evidence: RoleEvidence, is_holder: NDArray[np.bool_]) -> HeadId | None:
    """Return the head whose onset is that of the run.

    Heads that the noise does not tell from the strongest one change places with it from draw to
    draw of the probe; of all these the first to take the role is always the same.
    """
    strength, noise = _final_strength(evidence.scores), evidence.noise_of_draw
    if not is_holder.any():
        return _strongest(strength, np.ones_like(is_holder))
    strongest = _strongest(strength, is_holder)
    if strongest is None:
        return None

    slack = NEAR_LINE * np.hypot(noise, noise[strongest])
    is_tied = is_holder & (strength >= strength[strongest] - slack)
    held_for = _held_for(evidence)
    is_first = is_tied & (held_for == held_for[is_tied].max())
    return _strongest(strength, is_first)


def _strongest(strength: NDArray[np.float64], among: NDArray[np.bool_]) -> HeadId | None:
    """Return the head with the greatest strength of those ``among`` which it is looked for; None
    where none of them has a score at the end."""
    of_these = np.where(among, strength, -np.inf)
    if not np.isfinite(of_these).any():
        return None
    block, head = np.unravel_index(int(np.argmax(of_these)), strength.shape)
    return int(block), int(head)


def _final_strength(scores: Floats) -> NDArray[np.float64]:
    """Return each head's mean over the last captures: [block, head]; -inf where it has no score at
    the last one."""
    recent = scores[-STRONGEST_OVER:].astype(np.float64)
    known = np.isfinite(recent)
    mean = np.where(known, recent, 0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known[-1], mean, -np.inf)


def _strongest_first(
    found: Sequence[Onset], leader: HeadId | None, strength: NDArray[np.float64]
) -> list[Onset]:
    return sorted(
        found,
        key=lambda onset: (onset.head_id != leader, -strength[onset.head_id], onset.head_id),
    )


def _of_head(evidence: RoleEvidence, head: HeadId) -> RoleEvidence:
    """Return what is known about one head; its place stays (0, 0)."""
    block, number = head
    one = (slice(None), slice(block, block + 1), slice(number, number + 1))
    return RoleEvidence(
        evidence.scores[one],
        evidence.noise[one],
        evidence.noise_of_draw[one[1:]],
        evidence.states[one],
        evidence.uniform,
    )


def stretches(states: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (first, one past the last) of every run of True in ``states``, bool [capture]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], states, [False]]).astype(np.int8)))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]
