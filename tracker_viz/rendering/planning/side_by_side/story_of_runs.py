"""Tell the story of several runs: which of them took each role first, which last, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import ROLES, Event, Tone, role_label
from tracker_viz.rendering.planning.readouts import clock_text
from tracker_viz.rendering.story import Story
from tracker_viz.rendering.subject import NOT_YET, Subject, Timing

_AT_END = {"step": "After {} steps", "tokens": "After {} tokens", "progress": "At the end"}


@dataclass(frozen=True, slots=True)
class RoleInRuns(Event):
    """A role is taken by one run after the other: it happens from the first of them to the last.

    Its steps are numbers of points of time, whatever the clock of the picture counts.

    Attributes:
        n_runs: of the picture.
        labels: of the runs that took it, the earliest first.
        without: labels of those that never did.
        began, ended: when the first and the last of them took it, as the clock shows it.
        n_first, n_last: how many took it at these points of time.
    """

    kind: ClassVar[str] = "runs"
    tone: ClassVar[Tone] = "role"

    n_runs: int = 0
    labels: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    began: str = ""
    ended: str = ""
    n_first: int = 1
    n_last: int = 1

    @property
    def headline(self) -> str:
        return role_label(self.role)

    @property
    def caption(self) -> str:
        parts = [f"{len(self.labels)} of {self.n_runs} runs: {self._who_when}"]
        if self.without:
            parts.append(f"never {_some(self.without)}")
        return "; ".join(parts)

    @property
    def _who_when(self) -> str:
        if len(self.labels) == 1:
            return self.labels[0]
        if self.n_first == len(self.labels):
            return f"{_some(self.labels)} at once"
        return (
            f"{_some(self.labels[: self.n_first])} first, {_some(self.labels[-self.n_last :])} last"
        )

    @property
    def who(self) -> str:
        return f"{len(self.labels)} of {self.n_runs} runs"

    @property
    def steps_text(self) -> str:
        return self.began if self.began == self.ended else f"{self.began}–{self.ended}"

    @property
    def is_of_text(self) -> bool:
        return self.role.endswith("_text")

    @property
    def past_headline(self) -> str:
        return f"since {self.ended}: {self.headline}"


def tell_story_of_runs(subject: Subject) -> Story:
    """Return an event for each role that any run took for good, complete with the last of them."""
    timing = subject.timing
    found: list[RoleInRuns] = []
    for role in ROLES:
        event = _role_in_runs(subject, role.name)
        if event is not None:
            found.append(event)
    summary = _summary(timing, found, len(subject.runs))
    found.sort(key=lambda event: event.last_step)
    points = tuple(range(len(timing.points)))
    return Story(points, tuple(found), _change(subject), summary)


def _summary(timing: Timing, events: Sequence[RoleInRuns], n_runs: int) -> str:
    """Sum up: ``After 1,000 steps: induction in 5 of 6 runs (484–633), sink in 2 (276–381)``; what
    most runs took first, and roles on text behind the others."""
    place = _AT_END[timing.axis].format(clock_text(timing, len(timing.points) - 1))
    parts: list[str] = []
    for event in sorted(events, key=lambda event: (event.is_of_text, -len(event.labels))):
        of = "" if parts else f" of {n_runs} runs"
        parts.append(f"{event.headline} in {len(event.labels)}{of} ({event.steps_text})")
    return f"{place}: {', '.join(parts) or 'no role was taken for good'}"


def _role_in_runs(subject: Subject, role: str) -> RoleInRuns | None:
    """Return when the runs took a role; None where none did."""
    timing = subject.timing
    taken = [
        (int(np.searchsorted(timing.points, run.onsets[role])), run.label)
        for run in subject.runs
        if role in run.onsets
    ]
    if not taken:
        return None
    # Stable, so that runs of one point stay in the order in which they stand.
    taken.sort(key=lambda each: each[0])
    at = [min(point, len(timing.points) - 1) for point, _ in taken]
    return RoleInRuns(
        first_step=max(0, at[0] - 1),
        last_step=at[-1],
        role=role,
        strength=len(taken) / len(subject.runs),
        n_runs=len(subject.runs),
        labels=tuple(label for _, label in taken),
        without=tuple(run.label for run in subject.runs if role not in run.onsets),
        began=clock_text(timing, at[0]),
        ended=clock_text(timing, at[-1]),
        n_first=at.count(at[0]),
        n_last=at.count(at[-1]),
    )


def _change(subject: Subject) -> NDArray[np.float64]:
    """Return how many heads of all runs change their role to the next point of time, float64
    [point - 1]."""
    captures = subject.timing.captures
    changed = np.zeros(captures.shape[1] - 1)
    for run, shown in zip(subject.runs, captures.tolist(), strict=True):
        held = run.roles.held
        if not held:
            continue
        for point, (before, after) in enumerate(pairwise(shown)):
            if NOT_YET < before < after:
                changed[point] += len(set(held[before].items()) ^ set(held[after].items()))
    return changed


def _some(labels: Sequence[str]) -> str:
    """Return ``seed=0``, ``seed=0 and seed=1``, ``seed=0 and 4 more``."""
    if len(labels) <= 2:
        return " and ".join(labels)
    return f"{labels[0]} and {len(labels) - 1} more"
