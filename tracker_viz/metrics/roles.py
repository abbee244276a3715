"""Which head has become what, and when: scores over a run in, roles and their onsets out.

A head takes a role when its score reaches ``enter``, and loses it when the score falls below
``leave``: the gap between the two (hysteresis) keeps a score that trembles around one threshold
from making a new onset at every capture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import ConfigError
from tracker_viz.metrics.series import ScoreSeries

Floats = NDArray[np.float32]
NO_ROLE = -1
# A head keeps what it has reached for this many further captures before it counts as an onset: one
# odd capture makes none.
CONFIRMATIONS = 2


@dataclass(frozen=True, slots=True)
class Role:
    """A role, named after the score that measures it, and the scores at which a head takes it and
    loses it."""

    name: str
    enter: float = 0.3
    leave: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.leave <= self.enter <= 1:
            raise ConfigError(
                f"role {self.name!r} needs 0 < leave <= enter <= 1; got leave {self.leave}, enter "
                f"{self.enter}"
            )


# One rule for all: 30 % of a head's attention, which is what Gu et al. 2024 ask of a sink, and six
# times what uniform attention spends on one key at 64 positions.
ROLES: tuple[Role, ...] = (
    Role("previous_token"),
    Role("induction"),
    Role("duplicate_token"),
    Role("current_token"),
    Role("sink"),
)


@dataclass(frozen=True, slots=True)
class Onset:
    """One head took one role.

    Attributes:
        step: of the first capture in which it had the role.
        until: step of the first capture in which it had lost the role again; None: it had it to the
            end.
        score: at ``step``.
    """

    block: int
    head: int
    role: str
    step: int
    until: int | None
    score: float


def margin(score: Floats, uniform: float) -> Floats:
    """How far a score lies above that of uniform attention, as a share of the way to 1: 0 for
    uniform, 1 for a perfect head."""
    return (score - np.float32(uniform)) / np.float32(1 - uniform)


def role_states(scores: Floats, role: Role) -> NDArray[np.bool_]:
    """Whether each head has ``role`` at each capture: bool, of the shape of ``scores`` [capture,
    ...].

    A NaN changes nothing while a score comes after it: the head keeps its state. Where none comes
    any more the head has no role: its training has died.
    """
    states = np.zeros(scores.shape, bool)
    state = np.zeros(scores.shape[1:], bool)
    with np.errstate(invalid="ignore"):
        for index, at_step in enumerate(scores):
            state = np.where(state, ~(at_step < role.leave), at_step >= role.enter)
            states[index] = state
    measured_again = np.logical_or.accumulate(np.isfinite(scores)[::-1])[::-1]
    return states & measured_again


def head_roles(
    series: ScoreSeries, roles: tuple[Role, ...] = ROLES
) -> tuple[NDArray[np.int8], Floats]:
    """The role of every head at every capture: (index into ``roles`` or ``NO_ROLE``, margin), both
    [capture, block, head].

    Of several roles at once the one with the greatest margin counts. Without a role the margin is
    that of the nearest one.
    """
    present = [(index, role) for index, role in enumerate(roles) if role.name in series.heads]
    shape = (series.n_captures, *series.shape)
    best, found = np.full(shape, -np.inf, np.float32), np.full(shape, NO_ROLE, np.int8)
    nearest = np.full(shape, np.nan, np.float32)
    for index, role in present:
        margins = margin(series.heads[role.name], series.uniform.get(role.name, 0.0))
        nearest = np.fmax(nearest, margins)
        better = role_states(series.heads[role.name], role) & (margins > best)
        best, found = np.where(better, margins, best), np.where(better, np.int8(index), found)
    return found, np.where(found == NO_ROLE, nearest, best)


def onsets(
    series: ScoreSeries, roles: tuple[Role, ...] = ROLES, *, confirmations: int = CONFIRMATIONS
) -> list[Onset]:
    """Every time a head took a role and kept it for at least ``confirmations`` further captures,
    ordered by step, block and head.

    A head may take a role twice, having lost it between, and may hold several roles. What happens
    in the run's last ``confirmations`` captures is not known to last, and makes no onset yet.
    """
    found = []
    for role in roles:
        if role.name not in series.heads:
            continue
        scores = series.heads[role.name]
        states = role_states(scores, role)
        for block, head in np.argwhere(states.any(0)):
            for first, end in _stretches(states[:, block, head]):
                if end - first <= confirmations:
                    continue
                found.append(
                    Onset(
                        int(block),
                        int(head),
                        role.name,
                        step=int(series.steps[first]),
                        until=int(series.steps[end]) if end < series.n_captures else None,
                        score=float(scores[first, block, head]),
                    )
                )
    return sorted(found, key=lambda onset: (onset.step, onset.block, onset.head, onset.role))


def first_onsets(series: ScoreSeries, roles: tuple[Role, ...] = ROLES) -> Mapping[str, Onset]:
    """role -> the earliest onset of any head that has the role at the run's end, as ``head_roles``
    says, and kept it since."""
    final = head_roles(series, roles)[0][-1:]  # none without captures
    first: dict[str, Onset] = {}
    for onset in onsets(series, roles):
        index = final[0, onset.block, onset.head]
        if onset.until is None and index != NO_ROLE and roles[index].name == onset.role:
            first.setdefault(onset.role, onset)
    return MappingProxyType(first)


def _stretches(states: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, end) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], states, [False]]).astype(np.int8)))
    return [(int(first), int(end)) for first, end in zip(edges[::2], edges[1::2], strict=True)]
