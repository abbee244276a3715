"""Sum up what a run became, in one sentence made from its events."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tracker_viz.metrics.events.event import Event
from tracker_viz.metrics.events.experts import DeadExperts, Specialists
from tracker_viz.metrics.events.role import RoleEvent
from tracker_viz.metrics.events.words import blocks_text
from tracker_viz.metrics.roles import role_label
from tracker_viz.types import HeadId

# A caption has one line: with more roles than this it gives numbers of heads, not their blocks.
MOST_ROLES_WITH_BLOCKS = 2
_ON_TEXT = "_text"  # ends the names of roles that are measured on rows of text


def run_sentence(events: Sequence[Event]) -> str:
    """Say in one sentence what a run became, from its roles and its experts; empty where no head
    took a role and no expert changed.

    ``4 induction heads in block 1, 2 previous token heads in blocks 0 and 3``; of many roles
    ``4 induction heads, 2 previous token, 2 sink; on text 5 previous token; experts: 3 of text``,
    the strongest role first.
    """
    return "; ".join(clause for clause in (_of_heads(events), _of_experts(events)) if clause)


def _of_heads(events: Sequence[Event]) -> str:
    heads: dict[str, set[HeadId]] = {}
    for event in sorted(events, key=lambda event: -event.strength):
        if isinstance(event, RoleEvent):
            heads.setdefault(event.role, set()).update(event.holders or event.heads)
    if len(heads) > MOST_ROLES_WITH_BLOCKS:
        return _counts(heads)
    parts = []
    for role, members in heads.items():
        noun = "head" if len(members) == 1 else "heads"
        parts.append(f"{len(members):,} {_of_role(role, noun)} in {blocks_text(members)}")
    return ", ".join(parts)


def _of_experts(events: Sequence[Event]) -> str:
    """Count the experts that take one kind of tokens, and those that died."""
    counts = [
        f"{event.n_in_the_end} of {'text' if event.is_of_text else 'repeats'}"
        for event in events
        if isinstance(event, Specialists)
    ]
    n_dead = sum(len(event.experts) for event in events if isinstance(event, DeadExperts))
    if n_dead:
        counts.append(f"{n_dead} dead")
    return f"experts: {', '.join(counts)}" if counts else ""


def _counts(heads: Mapping[str, Collection[HeadId]]) -> str:
    """Count the heads of each role: those of text rows behind the others."""
    groups: dict[str, list[tuple[int, str]]] = {"": [], "on text ": []}
    for role, held in heads.items():
        rows = "on text " if role.endswith(_ON_TEXT) else ""
        groups[rows].append((len(held), role_label(role.removesuffix(_ON_TEXT))))
    clauses: list[str] = []
    for rows, counts in groups.items():
        words = [f"{n_heads:,} {behavior}" for n_heads, behavior in counts]
        if words and not clauses:
            # The first says of what it is a number.
            words[0] += " head" if counts[0][0] == 1 else " heads"
        if words:
            clauses.append(rows + ", ".join(words))
    return "; ".join(clauses)


def _of_role(role: str, noun: str) -> str:
    """Return ``induction heads``, ``previous token heads (text)``."""
    words, opening, rest = role_label(role).partition(" (")
    return f"{words} {noun}{opening}{rest}"
