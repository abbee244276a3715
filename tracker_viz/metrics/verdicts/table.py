"""Decide which labels hold: measured losses in, a table with a verdict on every role and head
out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tracker_viz.metrics.head_names import head_name, head_of
from tracker_viz.metrics.verdicts.ablated import AblatedSet
from tracker_viz.metrics.verdicts.plans import Labels, RolePlan, judged_by, without_role
from tracker_viz.types import HeadId

LOSSES = ("later_copies", "first_copies", "text")
Cell = str | float | int | None

STANDARD_ERRORS = 2
LEAST_RISE = 0.01  # nats; a smaller one may be real and still says nothing of what a head is for
_NO_COMPARISON: Mapping[str, Cell] = {
    "others_loss": None,
    "others_change": None,
    "others_sd": None,
    "others_largest": None,
    "n_others": 0,
    "others_are": None,
    "rescue": None,
    "verdict": None,
}
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
    *_NO_COMPARISON,
)


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
        unlabeled = [] if role is None else without_role(labels, judged_by(role))
        others = [measured[(other,)] for other in unlabeled]
        row = _row(step, head_name(*head), role, measured[(head,)], others, whole)
        if role is not None and len(by_role[role].heads) > 1:
            plan = by_role[role]
            row |= _rescued(row, measured[plan.heads], measured[plan.all_but(head)])
        head_rows.append(row)
    model = _row(step, "model", None, AblatedSet((), whole, {}, {}), [], whole)
    return [model | {"judged_by": None}, *role_rows, *head_rows]


def ablations(rows: Sequence[Mapping[str, Cell]]) -> Ablations | None:
    """Return the single heads and the pairs whose verdict at the last checkpoint is ``holds``; None
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


def _row(
    step: int,
    what: str,
    role: str | None,
    ablated: AblatedSet,
    others: Sequence[AblatedSet],
    whole: Mapping[str, float],
) -> dict[str, Cell]:
    """Return a row without ``rescue``.

    Args:
        others: the sets of heads that ``ablated`` is compared with.
    """
    kind = judged_by(role)
    error = ablated.error(kind) if kind in ablated.residuals else None
    row: dict[str, Cell] = {
        "step": step,
        "what": what,
        "role": role,
        "heads": " ".join(head_name(*head) for head in ablated.heads),
        "n_heads": len(ablated.heads),
        **{each: ablated.losses.get(each) for each in LOSSES},
        **{f"{each}_change": ablated.changes.get(each) for each in LOSSES},
        "judged_by": kind,
        "change_error": error,
        **_NO_COMPARISON,
    }
    if not others or kind not in whole or error is None:
        return row
    changes = np.array([each.changes[kind] for each in others])
    largest = float(changes.max())
    return row | {
        "others_loss": whole[kind] + float(changes.mean()),
        "others_change": float(changes.mean()),
        "others_sd": float(changes.std(ddof=1)) if len(changes) > 1 else None,
        "others_largest": largest,
        "n_others": len(changes),
        "others_are": "without a role",
        "verdict": "holds" if _exceeds(ablated.changes[kind], error, largest) else "no",
    }


def _rescued(row: Mapping[str, Cell], all_out: AblatedSet, left_in: AblatedSet) -> dict[str, Cell]:
    """Return ``rescue`` and the verdict of a head with it.

    Args:
        all_out: every head of its role taken out.
        left_in: all of them but this head.
    """
    kind = judged_by(str(row["role"]))
    if kind not in all_out.losses:
        return {}
    rescue, error = all_out.rise_over(left_in, kind)
    verdict, largest = row["verdict"], row["others_largest"]
    if verdict == "no" and isinstance(largest, float) and _exceeds(rescue, error, largest):
        verdict = "with its set"
    return {"rescue": rescue, "verdict": verdict}


def _exceeds(rise: float, error: float, largest: float) -> bool:
    """Return whether a rise of the loss certainly exceeds the largest one that others caused."""
    return rise - STANDARD_ERRORS * error > max(largest, LEAST_RISE)
