"""Choose which heads are taken out: those of each role, and random sets of others beside them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tracker_viz.metrics.labels import NO_ROLE, head_roles
from tracker_viz.metrics.probe_rows import RowKind
from tracker_viz.metrics.roles import ROLES
from tracker_viz.metrics.series import ScoreSeries
from tracker_viz.types import HeadId

# With fewer different sets of heads without a role, other heads are drawn from as well.
_FEWEST_SETS = 5
_TRIES_A_DRAW = 50

# Head -> its roles; of every head of the model.
Labels = Mapping[HeadId, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class RolePlan:
    """The heads of one role, and the sets of other heads that it is compared with.

    Attributes:
        others: each of as many heads as the role has; none where there are no others.
        are_unlabeled: the others carry no role on the same kind of row.
    """

    role: str
    heads: tuple[HeadId, ...]
    others: tuple[tuple[HeadId, ...], ...]
    are_unlabeled: bool

    def all_but(self, head: HeadId) -> tuple[HeadId, ...]:
        """Return the heads of the role that are taken out when ``head`` is left in."""
        return tuple(each for each in self.heads if each != head)

    def sets(self) -> list[tuple[HeadId, ...]]:
        """Return every set that is measured for this role, besides its single heads."""
        parts = [self.all_but(head) for head in self.heads]
        return [self.heads, *(part for part in parts if part), *self.others]


def role_plans(labels: Labels, *, draws: int, seed: int) -> tuple[RolePlan, ...]:
    """Return a plan for every role that some head has, in the order of ``ROLES``.

    Args:
        draws: random sets for each role; fewer where there are not so many.
    """
    by_role: dict[str, list[HeadId]] = {}
    for head, roles in sorted(labels.items()):
        for role in roles:
            by_role.setdefault(role, []).append(head)

    plans = []
    for role in sorted(by_role, key=_place):
        heads = by_role[role]
        unlabeled = without_role(labels, judged_by(role))
        pool = unlabeled
        if math.comb(len(unlabeled), len(heads)) < _FEWEST_SETS:
            pool = sorted(set(labels) - set(heads))
        # A generator of its own, so that one role's sets do not depend on the others.
        generator = np.random.default_rng([seed, _place(role)])
        others = _matched_sets(heads, pool, draws, generator)
        plans.append(RolePlan(role, tuple(heads), others, pool is unlabeled))
    return tuple(plans)


def labels_at(
    series: ScoreSeries, step: int, n_heads: Sequence[int]
) -> tuple[dict[HeadId, tuple[str, ...]], int | None]:
    """Return the roles of every head at the last capture until ``step``, and that capture's step;
    no roles and None without such a capture or without scores.

    A head has at most one role of each kind of row. The one that the table of heads shows comes
    first.

    Args:
        n_heads: heads of each of the model's blocks.
    """
    labels: dict[HeadId, tuple[str, ...]] = {}
    for block, count in enumerate(n_heads):
        labels |= {(block, head): () for head in range(count)}
    index = int(np.searchsorted(series.steps, step, side="right")) - 1
    if index < 0 or not series.heads:
        return labels, None
    kinds: tuple[RowKind | None, ...] = (None, "repeated", "text")
    for kind in kinds:
        roles = head_roles(series, rows=kind)[0][index]
        for block, head in np.argwhere(roles != NO_ROLE).tolist():
            name = ROLES[roles[block, head]].name
            known = labels.get((block, head))
            if known is not None and name not in known:
                labels[block, head] = (*known, name)
    return labels, int(series.steps[index])


def judged_by(role: str | None) -> str:
    """Return the kind of loss that a role should serve."""
    kinds = {each.name: each.rows for each in ROLES}
    return "text" if role is not None and kinds.get(role) == "text" else "later_copies"


def without_role(labels: Labels, kind: str) -> list[HeadId]:
    """Return the heads that carry no role which is judged by this kind of loss."""
    found = []
    for head, roles in sorted(labels.items()):
        if kind not in map(judged_by, roles):
            found.append(head)
    return found


def _place(role: str) -> int:
    names = [each.name for each in ROLES]
    return names.index(role) if role in names else len(names)


def _matched_sets(
    heads: Sequence[HeadId],
    pool: Collection[HeadId],
    draws: int,
    generator: np.random.Generator,
) -> tuple[tuple[HeadId, ...], ...]:
    """Return different sets of as many heads of ``pool``, at most ``draws``. For each of ``heads``
    another one is drawn, with weight ``1 / (1 + d)**2`` at a distance of ``d`` blocks."""
    if len(pool) < len(heads):
        return ()
    candidates = sorted(pool)
    blocks = np.array([block for block, _ in candidates])
    n_sets = min(draws, math.comb(len(pool), len(heads)))
    found: dict[tuple[HeadId, ...], None] = {}
    for _ in range(_TRIES_A_DRAW * n_sets):
        if len(found) == n_sets:
            break
        left = np.ones(len(candidates))
        for block, _head in heads:
            weights = left / (1.0 + np.abs(blocks - block)) ** 2
            chosen = generator.choice(len(candidates), p=weights / weights.sum())
            left[chosen] = 0.0
        drawn = tuple(candidates[index] for index in np.flatnonzero(left == 0.0))
        found.setdefault(drawn)
    return tuple(found)
