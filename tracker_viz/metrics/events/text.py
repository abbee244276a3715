"""Find where the probe's text gets worse, whatever the training's own loss does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracker_viz.metrics.events.event import Event
from tracker_viz.metrics.events.words import figure
from tracker_viz.metrics.series import ScoreSeries
from tracker_viz.metrics.signals.alarms import PROBE_LEARNED, PROBE_RISE

_TEXT = "probe/loss_text"


@dataclass(frozen=True, slots=True)
class TextWorsens(Event):
    """The probe's loss on text rises by what an alarm rings for."""

    kind: ClassVar[str] = "text_worsens"
    stays: ClassVar[bool] = False

    training: tuple[float, float] = (float("nan"), float("nan"))

    @property
    def headline(self) -> str:
        return "text gets worse"

    @property
    def caption(self) -> str:
        text = f"the loss on the probe's text rises: {figure(self.before)} → {figure(self.after)}"
        was, loss = self.training
        if loss <= was:
            text += f"; the training's own falls: {figure(was)} → {figure(loss)}"
        return text


def text_worsens(series: ScoreSeries, metric: str) -> Iterator[Event]:
    """Yield the first stretch from the lowest loss on text so far to two captures in a row that lie
    ``alarms.PROBE_RISE`` above it, of text that the run has learned (``alarms.PROBE_LEARNED``)."""
    losses = series.metrics.get(_TEXT, np.zeros(0))
    followed = series.metrics.get(metric, np.full(len(losses), np.nan))
    finite = losses[np.isfinite(losses)]
    learned_at = finite[0] - PROBE_LEARNED if finite.size else np.nan
    best = -1
    for at, loss in enumerate(losses):
        is_learned = best >= 0 and losses[best] <= learned_at
        if is_learned and all(losses[at - 1 : at + 1] >= losses[best] + PROBE_RISE):
            yield TextWorsens(
                first_step=int(series.steps[best]),
                last_step=int(series.steps[at]),
                metric=_TEXT,
                before=float(losses[best]),
                after=float(loss),
                strength=0.9,
                training=(float(followed[best]), float(followed[at])),
            )
            return
        if np.isfinite(loss) and (best < 0 or loss < losses[best]):
            best = at
