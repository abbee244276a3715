"""Find when heads took their roles, and sum up what a run became by them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracker_viz.metrics.events.event import TOGETHER, Event, Tone
from tracker_viz.metrics.events.words import (
    blocks_text,
    figure,
    heads_text,
    singular,
    steps_text,
)
from tracker_viz.metrics.onsets import lasting_onsets
from tracker_viz.metrics.roles import gather_evidence, role_label
from tracker_viz.metrics.series import ScoreSeries
from tracker_viz.types import HeadId

# A caption has one line: with more roles than this it gives numbers of heads, not their blocks.
MOST_ROLES_WITH_BLOCKS = 2
_ON_TEXT = "_text"  # ends the names of roles that are measured on rows of text

# Verb phrases in the plural; ``singular`` makes those of one head.
ROLE_ACTIONS = {
    "previous_token": "look at the token before",
    "induction": "look back to what followed the same token before",
    "duplicate_token": "look at earlier copies of the same token",
    "current_token": "look at the token itself",
    "sink": "rest on the first token",
    "previous_token_text": "look at the token before in text",
    "current_token_text": "look at the token itself in text",
    "sink_text": "rest on the first token of text",
}


@dataclass(frozen=True, slots=True)
class RoleEvent(Event):
    """Heads take a role."""

    kind: ClassVar[str] = "role"
    tone: ClassVar[Tone] = "role"

    @property
    def headline(self) -> str:
        return role_label(self.role)

    @property
    def caption(self) -> str:
        return self._told(f"{self._action()}")

    @property
    def sentence(self) -> str:
        return self._told(f"{self._action()} ({role_label(self.role)})")

    @property
    def who(self) -> str:
        """The head that has the role in the end, or how many have it: the number that the run's
        sentence gives."""
        holders = self.holders or self.heads
        return heads_text(holders) if len(holders) == 1 else f"{len(holders)} heads"

    def _action(self) -> str:
        action = ROLE_ACTIONS.get(self.role, f"take the role {role_label(self.role)}")
        if len(self.heads) == 1:
            action = singular(action)
        return f"{heads_text(self.heads)} {action}"

    def _told(self, text: str) -> str:
        if len(self.holders) > len(self.heads):
            text += f", {len(self.holders)} heads in the end"
        if self.metric:
            text += f"; {self.metric} {figure(self.before)} → {figure(self.after)}"
        if self.metric_steps:
            text += f" over steps {steps_text(*self.metric_steps)}"
        return text


def role_events(series: ScoreSeries) -> list[RoleEvent]:
    """Return one event for each role that heads have at the end, when its strongest head took
    it."""
    index_of = {int(step): index for index, step in enumerate(series.steps)}
    together = max(1, round(series.n_captures * TOGETHER))
    evidence = gather_evidence(series)
    events = []
    for role, found in lasting_onsets(series, evidence=evidence).items():
        leader = found[0]
        at = index_of[leader.step]
        with_it = [each for each in found if abs(index_of[each.step] - at) <= together]
        final = evidence[role].scores[(-1, *leader.head_id)]
        events.append(
            RoleEvent(
                first_step=leader.step if leader.after is None else leader.after,
                last_step=leader.step,
                heads=tuple(onset.head_id for onset in with_it),
                role=role,
                strength=float(np.nan_to_num(final)),
                holders=tuple(onset.head_id for onset in found),
            )
        )
    return events


def run_sentence(events: Iterable[Event]) -> str:
    """Say in one sentence what a run became, from its roles; empty where no head took one.

    ``4 induction heads in block 1, 2 previous token heads in blocks 0 and 3``; of many roles
    ``4 induction, 2 previous token, 2 sink heads; on text 5 previous token``
    """
    heads: dict[str, set[HeadId]] = {}
    for event in events:
        if isinstance(event, RoleEvent):
            heads.setdefault(event.role, set()).update(event.holders or event.heads)
    if len(heads) > MOST_ROLES_WITH_BLOCKS:
        return _counts(heads)
    parts = []
    for role, members in heads.items():
        noun = "head" if len(members) == 1 else "heads"
        parts.append(f"{len(members)} {_of_role(role, noun)} in {blocks_text(members)}")
    return ", ".join(parts)


def _counts(heads: Mapping[str, Collection[HeadId]]) -> str:
    """Count the heads of each role: those of text rows behind the others."""
    anywhere: list[str] = []
    on_text: list[str] = []
    for role, held in heads.items():
        behavior = role_label(role.removesuffix(_ON_TEXT))
        counts = on_text if role.endswith(_ON_TEXT) else anywhere
        counts.append(f"{len(held)} {behavior}")
    if not anywhere:
        return f"on text {', '.join(on_text)} heads"
    on_other_rows = f"; on text {', '.join(on_text)}" if on_text else ""
    return f"{', '.join(anywhere)} heads{on_other_rows}"


def _of_role(role: str, noun: str) -> str:
    """``induction heads``, ``previous token heads (text)``."""
    words, opening, rest = role_label(role).partition(" (")
    return f"{words} {noun}{opening}{rest}"
