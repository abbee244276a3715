"""Label heads: what a run knows about each role in, the role of every head at every capture out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.evidence import Evidence, Floats, RoleEvidence, gather_evidence, kept_of
from tracker_viz.metrics.probe_rows import RowKind
from tracker_viz.metrics.roles import ROLES, Role
from tracker_viz.metrics.series import ScoreSeries

NO_ROLE = -1
NEAR_LINE = 2.0  # standard deviations


def head_roles(
    series: ScoreSeries,
    roles: tuple[Role, ...] = ROLES,
    *,
    rows: RowKind | None = None,
) -> tuple[NDArray[np.int8], Floats]:
    """Return the role of every head at every capture: (index into ``roles`` or ``NO_ROLE``,
    margin), both [capture, block, head].

    Of several roles at once the one with the greatest margin counts; a head keeps the one that it
    had as long as noise explains by how much another is ahead. Without a role the margin is that of
    the nearest one.

    Args:
        rows: the kind of probe row that the roles are about; None: a role among repeats counts
            before any role on text, so that a head which does the same on both has one name.
    """
    kept = kept_of(series).labels
    if (roles, rows) not in kept:
        kept[roles, rows] = labels, margins = _head_roles(series, roles, rows)
        labels.flags.writeable = margins.flags.writeable = False
    return kept[roles, rows]


def _head_roles(
    series: ScoreSeries, roles: tuple[Role, ...], rows: RowKind | None
) -> tuple[NDArray[np.int8], Floats]:
    known = gather_evidence(series, roles)
    shape = (series.n_captures, *series.shape)
    labels = np.full(shape, NO_ROLE, np.int8)
    margins, nearest = np.full(shape, -np.inf, np.float32), np.full(shape, np.nan, np.float32)
    kinds: tuple[RowKind, ...] = (rows,) if rows else ("repeated", "text")
    for kind in kinds:
        of_kind = [
            (index, known[role.name])
            for index, role in enumerate(roles)
            if role.rows == kind and role.name in known
        ]
        if not of_kind:
            continue
        before = np.full(series.shape, NO_ROLE, np.int8)
        for capture in range(series.n_captures):
            label, label_margin = _steady_label(of_kind, capture, before)
            is_free = labels[capture] == NO_ROLE
            labels[capture] = np.where(is_free, label, labels[capture])
            margins[capture] = np.where(is_free, label_margin, margins[capture])
            before = label
        for _, of_role in of_kind:
            nearest = np.fmax(nearest, margin(of_role.scores, of_role.uniform))
    return labels, np.where(labels == NO_ROLE, nearest, margins)


def _steady_label(
    of_kind: Sequence[tuple[int, RoleEvidence]], capture: int, before: NDArray[np.int8]
) -> tuple[NDArray[np.int8], Floats]:
    """Return (label, its margin) at a capture, both [block, head]: the role with the greatest
    margin, or the one before, where noise explains by how much it is behind.

    Args:
        of_kind: (label, evidence) of the roles on one kind of row; at least one.
        before: the labels at the capture before.
    """
    labels = np.array([label for label, _ in of_kind], np.int8)
    known = [evidence for _, evidence in of_kind]
    uniform = np.array([each.uniform for each in known], np.float32)[:, None, None]
    rest = np.array([1 - each.uniform for each in known], np.float32)[:, None, None]
    scores = np.stack([each.scores[capture] for each in known])  # [role, block, head]
    states = np.stack([each.states[capture] for each in known])
    noise = np.stack([each.noise[capture] for each in known])
    margins = np.where(states, np.nan_to_num((scores - uniform) / rest), -np.inf)
    slack = NEAR_LINE * noise / rest

    was = labels[:, None, None] == before
    kept = np.where(was, margins, -np.inf).max(0)
    leader = margins.argmax(0)[None]
    best = margins.max(0)
    kept_slack = np.where(was, slack, 0).max(0)
    best_slack = np.where(np.isfinite(best), np.take_along_axis(slack, leader, 0)[0], 0)
    is_kept = np.isfinite(kept) & (kept + np.hypot(best_slack, kept_slack) >= best)
    leads = np.where(np.isfinite(best), labels[leader[0]], np.int8(NO_ROLE))
    return np.where(is_kept, before, leads), np.where(is_kept, kept, best)


def near_line(evidence: RoleEvidence, role: Role) -> NDArray[np.bool_]:
    """Return which heads' labels at the last capture another draw of the probe, or a few more
    steps, could change: bool [block, head].

    That is so within two standard deviations of ``role.enter``, and between the two lines where the
    head has the role or came that near to it before.
    """
    score, slack = evidence.scores[-1], NEAR_LINE * evidence.noise_of_draw
    with np.errstate(invalid="ignore"):
        is_close = np.abs(score - role.enter) <= slack
        is_between = (score >= role.leave - slack) & (score <= role.enter)
        came_near = np.fmax.reduce(evidence.scores - role.enter) >= -slack
    return np.asarray(is_close | (is_between & (evidence.states[-1] | came_near)))


def labels_near_line(evidence: Evidence, *, rows: RowKind) -> NDArray[np.bool_] | None:
    """Return which heads' labels on a kind of row another draw of the probe could change at the
    last capture: bool [block, head]; None where no role was measured on it.

    A role near its line changes no label beside one that the head has for certain, by a greater
    margin. Where noise does not tell the margins of two certain roles apart, either may be the
    label.
    """
    of_roles: list[tuple[NDArray[np.bool_], Floats, Floats]] = []
    for role in ROLES:
        if role.rows == rows and role.name in evidence:
            known = evidence[role.name]
            is_near = near_line(known, role)
            margins = margin(known.scores[-1], known.uniform)
            held = np.where(known.states[-1] | is_near, margins, -np.inf)
            of_roles.append((is_near, held, NEAR_LINE * known.noise_of_draw))
    if not of_roles:
        return None

    near, held_margins, slacks = map(np.stack, zip(*of_roles, strict=True))  # [role, block, head]
    certain = np.where(near, -np.inf, held_margins)
    best = certain.max(0)
    could_lead = near & (held_margins > best)
    second = np.sort(certain, axis=0)[-2] if len(certain) > 1 else np.full_like(best, -np.inf)
    is_tied = np.isfinite(best) & (second >= best - slacks.max(0))
    return np.asarray(could_lead.any(0) | is_tied)


def margin(score: Floats, uniform: float) -> Floats:
    """Return how far a score is above that of uniform attention, as a share of the way to 1: 0 for
    uniform, 1 for a perfect head."""
    return (score - np.float32(uniform)) / np.float32(1 - uniform)
