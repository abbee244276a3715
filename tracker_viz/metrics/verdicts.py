"""Decide which of the roles' labels hold, from the losses of a model without these heads.

``pipeline.verify`` measures; here are the random sets that a role is compared with, the rule, and
the words. The rule: heads are taken out, the loss that their role should serve rises, and this
rise, less two standard errors, exceeds .01 nats and the largest rise that as many other heads
caused.

* All heads of a role are compared with random sets of as many other heads. These carry no role on
  the same kind of row where there are enough of them, and lie in the same blocks or near them: a
  head of an early block matters more, whatever it does.
* A single head is compared, by the role that the table of heads shows, with every head that
  carries none on the same kind of row. One that shows nothing alone may be replaced by others of
  its role. So it is left in as the only one of them: if the loss falls by as much as above, its
  label holds with its set.
* The loss is that of the tokens that can be copied; for a role on text that of text.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.probe_rows import RowKind
from tracker_viz.metrics.roles import NO_ROLE, ROLES, gather_evidence, head_roles, role_label
from tracker_viz.metrics.series import ScoreSeries
from tracker_viz.metrics.summary import head_name, head_of
from tracker_viz.types import HeadId

LOSSES = ("later_copies", "first_copies", "text")
LOSS_WORDS = {
    "later_copies": "what can be copied",
    "first_copies": "what cannot be copied",
    "text": "text",
}
_ON_ROWS = {"later_copies": "among repeats", "text": "on text"}
STANDARD_ERRORS = 2
LEAST_RISE = 0.01  # nats; a smaller one may be real and still says nothing of what a head is for
VERDICT_COLUMNS = (
    "step",
    "what",
    "role",
    "heads",
    "n_heads",
    *LOSSES,
    *(f"{kind}_change" for kind in LOSSES),
    "judged_by",
    "change_error",
    "others_loss",
    "others_change",
    "others_sd",
    "others_largest",
    "n_others",
    "others_are",
    "rescue",
    "verdict",
)
# With fewer different sets of heads without a role, other heads are drawn from as well.
_FEWEST_SETS = 5
_TRIES_A_DRAW = 50

Cell = str | float | int | None
# Head -> its roles; of every head of the model.
Labels = Mapping[HeadId, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class AblatedSet:
    """The loss of a model without some of its heads.

    Attributes:
        losses: kind of token -> loss in nats without them.
        changes: kind -> its rise against the whole model.
        residuals: kind -> what each row adds to that rise beyond its share, [row]; linear, so that
            those of two sets may be subtracted.
    """

    heads: tuple[HeadId, ...]
    losses: Mapping[str, float]
    changes: Mapping[str, float]
    residuals: Mapping[str, tuple[float, ...]]

    def error(self, kind: str) -> float:
        """Return the standard error of the rise."""
        return _standard_error(np.array(self.residuals[kind]))

    def rise_over(self, other: AblatedSet, kind: str) -> tuple[float, float]:
        """Return by how much the loss without these heads exceeds that without ``other``, and its
        standard error. Both are of the same rows, so that what a row itself costs cancels."""
        residuals = np.array(self.residuals[kind]) - np.array(other.residuals[kind])
        return self.changes[kind] - other.changes[kind], _standard_error(residuals)

    def description(self) -> dict[str, Any]:
        return {
            "heads": [list(head) for head in self.heads],
            "losses": dict(self.losses),
            "changes": dict(self.changes),
            "residuals": {kind: list(values) for kind, values in self.residuals.items()},
        }

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Self:
        """Read what ``description`` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        heads = tuple((int(block), int(head)) for block, head in description["heads"])
        losses = {str(kind): float(loss) for kind, loss in description["losses"].items()}
        changes = {str(kind): float(rise) for kind, rise in description["changes"].items()}
        residuals = {}
        for kind, values in description["residuals"].items():
            residuals[str(kind)] = tuple(map(float, values))
        return cls(heads, losses, changes, residuals)


@dataclass(frozen=True, slots=True)
class Ablations:
    """Heads without which a checkpoint loses more than by chance.

    Attributes:
        step: of the checkpoint.
        rises: sets of one or two heads -> by how much the loss that their role serves rises
            without them, in nats.
    """

    step: int
    rises: Mapping[tuple[HeadId, ...], float]


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
        unlabeled = _without_role(labels, judged_by(role))
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
    evidence = gather_evidence(series)
    kinds: tuple[RowKind | None, ...] = (None, "repeated", "text")
    for kind in kinds:
        roles = head_roles(series, rows=kind, evidence=evidence)[0][index]
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


def verdict_rows(
    step: int,
    whole: Mapping[str, float],
    labels: Labels,
    plans: Sequence[RolePlan],
    measured: Mapping[tuple[HeadId, ...], AblatedSet],
) -> list[dict[str, Cell]]:
    """Return the table of one checkpoint: a row for the whole model, one for each role and one for
    each head.

    ``VERDICT_COLUMNS``: ``step``; ``what`` (``model``, a role, a head like ``L03H01``); ``role``;
    ``heads``, ``n_heads``; the three losses and their ``_change`` (None: no such rows);
    ``judged_by``, the loss of which the verdict is; ``change_error``; of the heads it is compared
    with ``others_loss`` (mean over the sets), ``others_change``, ``others_sd``,
    ``others_largest``, ``n_others`` and ``others_are`` (``without a role`` or ``of any role``);
    ``rescue``, by how much the loss falls where this head is the only one of its role that is left
    in; ``verdict``: ``holds``, ``with its set``, ``no``, or None where there is nothing to compare
    with.

    Args:
        whole: kind of token -> loss of the whole model.
        measured: every head alone, and every set of the plans.
    """
    by_role = {plan.role: plan for plan in plans}
    role_rows = []
    for plan in plans:
        others = [measured[heads] for heads in plan.others]
        row = _row(step, plan.role, plan.role, measured[plan.heads], others, whole)
        if others:
            row["others_are"] = "without a role" if plan.are_unlabeled else "of any role"
        role_rows.append(row)

    head_rows = []
    for head, roles in sorted(labels.items()):
        role = next(iter(roles), None)
        unlabeled = [] if role is None else _without_role(labels, judged_by(role))
        others = [measured[(other,)] for other in unlabeled]
        row = _row(step, head_name(*head), role, measured[(head,)], others, whole)
        if role is not None and len(by_role[role].heads) > 1:
            plan = by_role[role]
            row |= _rescued(row, measured[plan.heads], measured[plan.all_but(head)])
        head_rows.append(row)
    model = _row(step, "model", None, AblatedSet((), whole, {}, {}), [], whole)
    return [model | {"judged_by": None}, *role_rows, *head_rows]


def sentences(rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    """Return a table's findings, a sentence or two for each role."""
    found = []
    for row in rows:
        is_role = row["role"] is not None and row["what"] == row["role"]
        if is_role:
            found.append(_sentence(row))
    return found


def ablations(rows: Sequence[Mapping[str, Cell]]) -> Ablations | None:
    """Return the single heads and the pairs of the last checkpoint whose verdict is ``holds``; None
    without any checkpoint.

    Args:
        rows: those of ``verdict_rows``.
    """
    if not rows:
        return None
    step = max(int(row["step"] or 0) for row in rows)
    rises = {}
    for row in rows:
        rise = row[f"{row['judged_by']}_change"] if row["judged_by"] else None
        holds = row["step"] == step and row["verdict"] == "holds"
        if holds and row["n_heads"] in (1, 2) and isinstance(rise, float):
            heads = tuple(head_of(name) for name in str(row["heads"]).split())
            rises[heads] = rise
    return Ablations(step, rises)


def marked_rows(
    heads: Sequence[Mapping[str, Cell]], verified: Mapping[str, Mapping[str, Cell]]
) -> list[dict[str, Cell]]:
    """Return the rows of ``head_table`` with two more columns: ``verified``, the verdict, and
    ``verified_change``, the rise of the loss without this head alone, in nats.

    Args:
        verified: head's name -> its row of ``verdict_rows``.
    """
    marked = []
    for row in heads:
        found = verified.get(str(row["head"]), {})
        kind = found.get("judged_by")
        mark = {
            "verified": found.get("verdict"),
            "verified_change": found.get(f"{kind}_change"),
        }
        marked.append({**row, **mark})
    return marked


def _without_role(labels: Labels, kind: str) -> list[HeadId]:
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


def _row(
    step: int,
    what: str,
    role: str | None,
    ablated: AblatedSet,
    others: Sequence[AblatedSet],
    whole: Mapping[str, float],
) -> dict[str, Cell]:
    kind = judged_by(role)
    row: dict[str, Cell] = {
        "step": step,
        "what": what,
        "role": role,
        "heads": " ".join(head_name(*head) for head in ablated.heads),
        "n_heads": len(ablated.heads),
    }
    row |= {each: ablated.losses.get(each) for each in LOSSES}
    row |= {f"{each}_change": ablated.changes.get(each) for each in LOSSES}
    error = ablated.error(kind) if kind in ablated.residuals else None
    row |= {"judged_by": kind, "change_error": error}
    row |= _no_comparison()
    if not others or kind not in whole or error is None:
        return row

    changes = np.array([each.changes[kind] for each in others])
    largest = float(changes.max())
    lower_end = ablated.changes[kind] - STANDARD_ERRORS * error
    return row | {
        "others_loss": whole[kind] + float(changes.mean()),
        "others_change": float(changes.mean()),
        "others_sd": float(changes.std(ddof=1)) if len(changes) > 1 else None,
        "others_largest": largest,
        "n_others": len(changes),
        "others_are": "without a role",
        "verdict": "holds" if lower_end > max(largest, LEAST_RISE) else "no",
    }


def _standard_error(residuals: NDArray[np.float64]) -> float:
    return float(residuals.std(ddof=1) / np.sqrt(len(residuals)))


def _rescued(row: Mapping[str, Cell], all_out: AblatedSet, left_in: AblatedSet) -> dict[str, Cell]:
    """Return ``rescue`` and the verdict of a head with it."""
    kind = judged_by(str(row["role"]))
    if kind not in all_out.losses:
        return {}
    rescue, error = all_out.rise_over(left_in, kind)
    verdict, largest = row["verdict"], row["others_largest"]
    if verdict == "no" and isinstance(largest, float):
        is_rescue = rescue - STANDARD_ERRORS * error > max(largest, LEAST_RISE)
        verdict = "with its set" if is_rescue else "no"
    return {"rescue": rescue, "verdict": verdict}


def _no_comparison() -> dict[str, Cell]:
    names = ("loss", "change", "sd", "largest")
    return {
        **{f"others_{name}": None for name in names},
        "n_others": 0,
        "others_are": None,
        "rescue": None,
        "verdict": None,
    }


def _sentence(row: Mapping[str, Cell]) -> str:
    role = role_label(str(row["role"]))
    kind, n_heads = str(row["judged_by"]), row["n_heads"]
    heads = f"its {role} head" if n_heads == 1 else f"its {n_heads} {role} heads"
    loss, change = row[kind], row[f"{kind}_change"]
    if loss is None or change is None:
        return f"Without {heads}: not measured, because there are no rows of {LOSS_WORDS[kind]}."

    assert isinstance(loss, float)
    assert isinstance(change, float)
    moves = "rises" if change > 0 else "falls"
    effect = (
        f"Without {heads} the loss on {LOSS_WORDS[kind]} {moves} {loss - change:.2f} -> {loss:.2f}"
    )
    if row["verdict"] is None:
        return f"{effect}; there are no other heads to compare with."
    others = "another head" if n_heads == 1 else "as many others"
    count, whose = row["n_others"], row["others_are"]
    if whose == "without a role":
        whose = f"{whose} {_ON_ROWS[kind]}"
    compared = f"{count} heads {whose}" if n_heads == 1 else f"{count} sets of heads {whose}"
    largest = loss - change + float(row["others_largest"] or 0)
    result = "The label holds." if row["verdict"] == "holds" else "The label does not hold."
    return (
        f"{effect}; without {others} it is {row['others_loss']:.2f} on average and {largest:.2f} "
        f"at most ({compared}). {result}"
    )
