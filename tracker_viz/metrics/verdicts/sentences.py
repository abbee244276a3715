"""Say in words what taking the heads of each role out showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracker_viz.metrics.roles import role_label
from tracker_viz.metrics.verdicts.table import Cell

_LOSS_WORDS = {
    "later_copies": "what can be copied",
    "first_copies": "what cannot be copied",
    "text": "text",
}
_ON_ROWS = {"later_copies": "among repeats", "text": "on text"}


def sentences(rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    """Return a table's findings, a sentence or two for each role."""
    found = []
    for row in rows:
        is_role = row["role"] is not None and row["what"] == row["role"]
        if is_role:
            found.append(_sentence(row))
    return found


def _sentence(row: Mapping[str, Cell]) -> str:
    role = role_label(str(row["role"]))
    kind, n_heads = str(row["judged_by"]), row["n_heads"]
    heads = f"its {role} head" if n_heads == 1 else f"its {n_heads} {role} heads"
    loss, change = row[kind], row[f"{kind}_change"]
    if loss is None or change is None:
        return f"Without {heads}: not measured, because there are no rows of {_LOSS_WORDS[kind]}."

    assert isinstance(loss, float)
    assert isinstance(change, float)
    moves = "rises" if change > 0 else "falls"
    effect = (
        f"Without {heads} the loss on {_LOSS_WORDS[kind]} {moves} {loss - change:.2f} -> {loss:.2f}"
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
