"""Find when heads took their roles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracker_viz.metrics.events.event import Event, Tone
from tracker_viz.metrics.events.words import (
    figure,
    heads_text,
    singular,
    steps_text,
)
from tracker_viz.metrics.evidence import gather_evidence
from tracker_viz.metrics.onsets import lasting_onsets
from tracker_viz.metrics.roles import role_label
from tracker_viz.metrics.series import ScoreSeries

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
        return self._with_figures(self._action())

    @property
    def sentence(self) -> str:
        return self._with_figures(f"{self._action()} ({role_label(self.role)})")

    @property
    def who(self) -> str:
        """The head that has the role in the end, or how many have it: the number that the run's
        sentence gives."""
        holders = self.holders or self.heads
        return heads_text(holders) if len(holders) == 1 else f"{len(holders):,} heads"

    def _action(self) -> str:
        action = ROLE_ACTIONS.get(self.role, f"take the role {role_label(self.role)}")
        if len(self.heads) == 1:
            action = singular(action)
        return f"{heads_text(self.heads)} {action}"

    def _with_figures(self, text: str) -> str:
        if len(self.holders) > len(self.heads):
            text += f", {len(self.holders):,} heads in the end"
        if self.metric:
            text += f"; {self.metric} {figure(self.before)} → {figure(self.after)}"
        if self.metric_steps:
            text += f" over steps {steps_text(*self.metric_steps)}"
        return text


def role_events(series: ScoreSeries) -> list[RoleEvent]:
    """Return one event for each role that heads have at the end, when its strongest head took
    it."""
    evidence = gather_evidence(series)
    events = []
    for role, found in lasting_onsets(series).items():
        leader = found[0]
        # Those that have it at ``last_step``: as many as the film shows there, too.
        with_it = [each for each in found if each.step <= leader.step]
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
