"""Find which head holds which role at each capture, for the borders around its maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import (
    HEAD_PREFIX,
    NO_ROLE,
    ROLES,
    SD_PREFIX,
    Role,
    RowKind,
    ScoreSeries,
    gather_evidence,
    head_roles,
    role_score_names,
    score_series,
)
from tracker_viz.rendering.plan import Heatmap, Roles
from tracker_viz.rendering.series import Series
from tracker_viz.types import HeadId


def find_roles(series: Series, known: Collection[str]) -> Roles:
    """Return the role of each head at each capture, as the run's summary has them.

    Args:
        known: roles that have a color.
    """
    roles = tuple(role for role in ROLES if role.name in known)
    names = [
        prefix + name for name in role_score_names(roles) for prefix in (HEAD_PREFIX, SD_PREFIX)
    ]
    names = [name for name in names if name in series.arrays]
    scored = score_series(series.capture(index, names) for index in range(len(series)))
    return roles_in(scored, row_kinds(series.last.probe), roles)


def roles_in(
    scored: ScoreSeries, kinds_of_rows: tuple[str, ...], roles: tuple[Role, ...] = ROLES
) -> Roles:
    """Return the role of each head at each capture.

    Args:
        scored: the scores of all of a run's captures.
        kinds_of_rows: kind of each row of the probe; empty where nobody knows.
    """
    evidence = gather_evidence(scored, roles)
    if not evidence:
        return Roles()
    scored_roles = tuple(role for role in roles if role.name in evidence)
    kinds: tuple[RowKind, ...] = ("repeated", "text")
    held = partial(_held, scored, scored_roles)
    states, margins = head_roles(scored, scored_roles)
    held_on: dict[str, Sequence[Mapping[HeadId, str]]] = {kind: held(kind) for kind in kinds}
    return Roles(
        tuple(role.name for role in scored_roles),
        states,
        margins,
        held(None),
        held_on,
        _n_holders(scored_roles, held_on),
        kinds_of_rows,
    )


def row_kinds(probe: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the kind of each row of a probe; empty where the captures do not say."""
    rows = probe.get("rows") or ()
    return tuple(str(row.get("kind", "")) for row in rows)


def is_role_of(role: str, kind: str) -> bool:
    """Return whether a role speaks about a kind of probe row; of an unknown kind every one does."""
    rows = {each.name: each.rows for each in ROLES}.get(role, kind)
    return not kind or rows == kind


def framed_roles(
    run_roles: Sequence[Roles], heatmaps: Sequence[Heatmap]
) -> tuple[set[str], set[str]]:
    """Return the roles that borders ever say: of heads that have them on the row that is shown, and
    of heads that have them on another row only."""
    here: set[str] = set()
    elsewhere: set[str] = set()
    for heatmap in heatmaps:
        roles = run_roles[heatmap.run]
        for index in range(len(roles.held)):
            border = roles.border(heatmap, index)
            if border:
                role, is_on_this_row = border
                (here if is_on_this_row else elsewhere).add(role)
    return here, elsewhere


def by_behavior(roles: Iterable[str]) -> list[str]:
    """Return roles with each one on text behind the same one among repeats."""
    order = list(dict.fromkeys(role.name.removesuffix("_text") for role in ROLES))
    return sorted(roles, key=lambda role: (order.index(role.removesuffix("_text")), role))


def _n_holders(
    roles: Sequence[Role], held_on: Mapping[str, Sequence[Mapping[HeadId, str]]]
) -> NDArray[np.int64]:
    """Count the heads that hold each role on the rows that it is about: [capture, role]."""
    counted = [[Counter(at.values()) for at in held_on[role.rows]] for role in roles]
    return np.array(
        [
            [at[role.name] for role, at in zip(roles, captures, strict=True)]
            for captures in zip(*counted, strict=True)
        ],
        np.int64,
    )


def _held(
    scored: ScoreSeries, roles: tuple[Role, ...], kind: RowKind | None
) -> list[Mapping[HeadId, str]]:
    """Return for every capture (block, head) -> its role on a kind of probe row; None: on any."""
    labels, _ = head_roles(scored, roles, rows=kind)
    held: list[Mapping[HeadId, str]] = []
    for at_capture in labels:
        holders = np.argwhere(at_capture != NO_ROLE).tolist()
        held.append({(b, h): roles[at_capture[b, h]].name for b, h in holders})
    return held
