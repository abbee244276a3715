"""Find the stretches in which the loss falls or jumps fastest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from tracker_viz.metrics.events.curve import SMOOTHED_OVER, Floats, noise, smoothed, typical
from tracker_viz.metrics.events.event import TOGETHER, Event, Tone
from tracker_viz.metrics.events.moved import first_moved_blocks, first_moved_heads
from tracker_viz.metrics.events.role import RoleEvent
from tracker_viz.metrics.events.words import blocks_text, figure, heads_text
from tracker_viz.metrics.onsets import stretches
from tracker_viz.metrics.series import ScoreSeries

# A phase of the loss: it moves by this share of its whole range within ``TOGETHER`` of the run, and
# by this many times its noise.
LEAST_MOVE = 0.15
TIMES_NOISE = 4.0


@dataclass(frozen=True, slots=True)
class LossFall(Event):
    """The loss falls fast."""

    kind: ClassVar[str] = "loss_fall"
    tone: ClassVar[Tone] = "change"
    stays: ClassVar[bool] = False

    @property
    def headline(self) -> str:
        return f"{self.metric} falls"

    @property
    def caption(self) -> str:
        return f"from {figure(self.before)} to {figure(self.after)}"

    @property
    def sentence(self) -> str:
        return f"{self.metric} falls fast: {figure(self.before)} → {figure(self.after)}"


@dataclass(frozen=True, slots=True)
class LossJump(Event):
    """The loss jumps.

    Attributes:
        heads, blocks: those that moved first while it jumped.
    """

    kind: ClassVar[str] = "loss_jump"
    tone: ClassVar[Tone] = "change"
    stays: ClassVar[bool] = False

    blocks: tuple[int, ...] = ()

    @property
    def headline(self) -> str:
        return f"{self.metric} jumps"

    @property
    def caption(self) -> str:
        return f"from {figure(self.before)} to {figure(self.after)}{self._moved_before()}"

    @property
    def sentence(self) -> str:
        figures = f"{figure(self.before)} → {figure(self.after)}"
        return f"{self.metric} jumps: {figures}{self._moved_before()}"

    def _moved_before(self) -> str:
        """Name the heads and blocks that moved first; empty where none is known."""
        moved = []
        if self.heads:
            moved.append(f"the attention of {heads_text(self.heads)}")
        if self.blocks:
            blocks = {(block, 0) for block in self.blocks}
            moved.append(f"the residual stream of {blocks_text(blocks)}")
        return f"; first moved {' and '.join(moved)}" if moved else ""


def loss_moves(series: ScoreSeries, metric: str) -> Iterator[Event]:
    """Yield the stretches in which the metric falls or jumps fastest."""
    raw = series.metrics.get(metric, np.zeros(0))
    values = smoothed(raw)
    finite = np.isfinite(values)
    if finite.sum() < SMOOTHED_OVER + 1:
        return
    steps, values = series.steps[finite], values[finite]
    whole = values.max() - values.min()
    if not whole > 0:
        return

    raw = raw[finite]
    least = max(LEAST_MOVE * whole, TIMES_NOISE * noise(raw))
    width = max(2, round(len(values) * TOGETHER))
    change = values[width:] - values[:-width]
    kinds: tuple[type[Event], ...] = (LossFall, LossJump)
    for kind, moved in zip(kinds, (change <= -least, change >= least), strict=True):
        for first, end in stretches(moved):
            first, last = _trimmed(values, first, end - 1 + width)
            first, last = typical(raw, first, backward=True), typical(raw, last)
            if figure(raw[first]) == figure(raw[last]):
                continue  # nobody would see it
            move = kind(
                first_step=int(steps[first]),
                last_step=int(steps[last]),
                metric=metric,
                before=float(raw[first]),
                after=float(raw[last]),
                strength=float(min(1.0, abs(raw[last] - raw[first]) / whole)),
            )
            yield _with_moved(move, series) if isinstance(move, LossJump) else move


def _with_moved(jump: LossJump, series: ScoreSeries) -> LossJump:
    ends = (jump.first_step, jump.last_step)
    first, last = (int(np.searchsorted(series.steps, step)) for step in ends)
    return replace(
        jump,
        heads=first_moved_heads(series, first, last),
        blocks=first_moved_blocks(series, first, last),
    )


def with_loss(events: Sequence[RoleEvent], series: ScoreSeries, metric: str) -> list[RoleEvent]:
    """Add to roles what the loss did meanwhile, where it moved by a share that can be seen.

    Each fall is reported once: with the strongest, of equals the latest, of the roles that it
    overlaps.
    """
    moved = [_with_loss(event, series, metric) for event in events]
    credited: list[RoleEvent] = []
    for event in sorted(moved, key=lambda each: (each.strength, each.last_step))[::-1]:
        if event.metric_steps and not any(
            _overlap(event.metric_steps, other.metric_steps) for other in credited
        ):
            credited.append(event)
    return [new if new in credited else old for old, new in zip(events, moved, strict=True)]


def is_explained(move: Event, role_events: Sequence[RoleEvent]) -> bool:
    """Return whether the loss falls while heads take a role, and that event mentions the fall."""
    if not isinstance(move, LossFall):
        return False
    fall = (move.first_step, move.last_step)
    return any(_overlap(fall, event.metric_steps) for event in role_events)


def _with_loss(event: RoleEvent, series: ScoreSeries, metric: str) -> RoleEvent:
    raw = series.metrics.get(metric, np.zeros(0))
    values = smoothed(raw)
    finite = values[np.isfinite(values)]
    if finite.size < 2 or finite.max() == finite.min():
        return event

    # A role and the loss it brings down turn together; the loss needs a few captures to arrive.
    around = max(1, round(series.n_captures * TOGETHER))
    first = max(0, int(np.searchsorted(series.steps, event.first_step)) - 1)
    last = min(len(values) - 1, int(np.searchsorted(series.steps, event.last_step)) + around)
    if not values[first] - values[last] >= LEAST_MOVE * (finite.max() - finite.min()):
        return event
    first, last = typical(raw, first, backward=True), typical(raw, last)
    return replace(
        event,
        metric=metric,
        before=float(raw[first]),
        after=float(raw[last]),
        metric_steps=(int(series.steps[first]), int(series.steps[last])),
    )


def _trimmed(values: Floats, first: int, last: int) -> tuple[int, int]:
    """Cut a stretch to where 5 to 95 % of its move happens."""
    moved = (values[first : last + 1] - values[first]) / ((values[last] - values[first]) or 1.0)
    inside = np.flatnonzero((moved >= 0.05) & (moved <= 0.95))
    if not inside.size:
        return first, last
    return first + max(0, int(inside[0]) - 1), first + min(last - first, int(inside[-1]) + 1)


def _overlap(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    """Return whether two stretches of steps share more than an end; None is empty."""
    if one is None or other is None:
        return False
    return one[0] < other[1] and other[0] < one[1]
