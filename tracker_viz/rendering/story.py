"""Find a run's story in its captures: its events, and when it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import (
    EXPERT_PREFIX,
    HEAD_PREFIX,
    ROUTER_PREFIX,
    SD_PREFIX,
    STREAM_PREFIX,
    Event,
    ScoreSeries,
    find_events,
    role_score_names,
    run_sentence,
    score_series,
)
from tracker_viz.rendering.series import Series

# What a head looks at: the scores whose change is the change of the film.
_BEHAVIOR = (*role_score_names(), "entropy")
# What goes wrong in a training shows here; no change of what heads look at.
_OF_TROUBLE = (f"{HEAD_PREFIX}max_logit", f"{STREAM_PREFIX}rms")
# Other scores that events beside those of roles are found in.
_OF_EVENTS = (f"{EXPERT_PREFIX}load", f"{EXPERT_PREFIX}text_share", f"{ROUTER_PREFIX}changed")


@dataclass(frozen=True, slots=True)
class Story:
    """The events of a run, and how much changed between its captures.

    Attributes:
        steps: of the captures.
        events: in the order of their steps.
        change: float64 [capture - 1], not negative: how much heads and loss change from each
            capture to the next.
        summary: the run in one sentence; empty where nothing can be said.
        about: what the picture shows; its events are told before those of the other.
    """

    steps: tuple[int, ...] = ()
    events: tuple[Event, ...] = ()
    change: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    summary: str = ""
    about: Literal["heads", "experts"] = "heads"

    def current(self, index: int) -> int | None:
        """Return the number of the event that happens at the capture at ``index``, the strongest of
        several; None between events."""
        step = self.steps[index]
        now = [
            number
            for number, event in enumerate(self.events)
            if event.first_step < step <= event.last_step
        ]
        return max(
            now,
            key=lambda number: (self.is_shown(number), self.events[number].strength),
            default=None,
        )

    def latest(self, index: int) -> int | None:
        """Return the number of the event that was completed last, up to the capture at ``index``;
        None if none was."""
        step = self.steps[index]
        past = [number for number, event in enumerate(self.events) if event.last_step <= step]
        return max(
            past,
            key=lambda number: (self.is_shown(number), self.events[number].last_step),
            default=None,
        )

    def is_shown(self, number: int) -> bool:
        """Return whether the picture shows what an event is about, or it is about the whole run."""
        event = self.events[number]
        return not (event.experts if self.about == "heads" else event.role)


NO_STORY = Story()


def tell_story(
    series: Series, metric: str, *, about: Literal["heads", "experts"] = "heads"
) -> Story:
    """Find the events of a run whose captures hold scores.

    Args:
        metric: usually ``loss``.
        about: what the picture shows.
    """
    names = [prefix + name for name in _BEHAVIOR for prefix in (HEAD_PREFIX, SD_PREFIX)]
    names = [name for name in [*names, *_OF_TROUBLE, *_OF_EVENTS] if name in series.arrays]
    scores = score_series(series.capture(index, names) for index in range(len(series)))
    events = tuple(find_events(scores, metric=metric))
    return Story(
        series.steps,
        events,
        _change(scores, metric),
        _summary(series.steps, events, scores, metric),
        about,
    )


def _change(scores: ScoreSeries, metric: str) -> NDArray[np.float64]:
    """Return the change to the next capture, float64 [capture - 1]: the mean change of the heads'
    scores plus that of the loss, each scaled to sum to 1."""
    if scores.n_captures < 2:
        return np.zeros(0)
    total = np.zeros(scores.n_captures - 1)
    shown = [values for name, values in scores.heads.items() if name in _BEHAVIOR]
    moved = [np.abs(np.diff(values, axis=0)) for values in shown]
    if moved:
        heads = np.nan_to_num(np.stack(moved)).mean((0, 2, 3))
        total += heads / (heads.sum() or 1.0)
    loss = np.abs(np.diff(scores.metrics.get(metric, np.zeros(scores.n_captures))))
    loss = np.nan_to_num(loss, posinf=0.0)
    return np.asarray(total + loss / (loss.sum() or 1.0))


def _summary(
    steps: Sequence[int], events: Sequence[Event], scores: ScoreSeries, metric: str
) -> str:
    """Sum up the run: ``After 1,000 steps: 4 induction heads in block 1; loss 5.6 → 1.4``."""
    parts = [run_sentence(events)]
    values = scores.metrics.get(metric, np.zeros(0))
    finite = values[np.isfinite(values)]
    if finite.size > 1:
        is_constant = f"{finite.min():.3g}" == f"{finite.max():.3g}"
        change = f"{finite[0]:.1f} → {finite[-1]:.3g}"
        if is_constant:
            change = f"stays at {finite[-1]:.3g}"
        parts.append(f"{metric} {change}")
    text = "; ".join(part for part in parts if part)
    return f"After {steps[-1]:,} steps: {text}" if text else ""
