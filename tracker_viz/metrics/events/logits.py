"""Find attention logits that grow beyond what keeps a training stable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracker_viz.metrics.events.event import Event
from tracker_viz.metrics.events.words import figure, heads_text
from tracker_viz.metrics.series import ScoreSeries
from tracker_viz.metrics.signals.alarms import MAX_LOGIT


@dataclass(frozen=True, slots=True)
class LargeLogits(Event):
    """A head's largest attention logit passes the bound of an alarm."""

    kind: ClassVar[str] = "large_logits"
    stays: ClassVar[bool] = False

    @property
    def headline(self) -> str:
        return "large logits"

    @property
    def caption(self) -> str:
        return (
            f"the largest attention logit of {heads_text(self.heads)} passes {MAX_LOGIT:g}: "
            f"{figure(self.before)} → {figure(self.after)}"
        )


def large_logits(series: ScoreSeries, _metric: str) -> Iterator[Event]:
    """Yield the first capture at which a head is beyond ``alarms.MAX_LOGIT``, where the one before
    has none."""
    logits = series.heads.get("max_logit")
    if logits is None:
        return
    beyond = np.flatnonzero((np.nan_to_num(logits) > MAX_LOGIT).any((1, 2)))
    if not beyond.size or beyond[0] == 0:
        return
    last = int(beyond[0])
    place = int(np.nan_to_num(logits[last], nan=-np.inf).argmax())
    block, head = divmod(place, logits.shape[2])
    yield LargeLogits(
        first_step=int(series.steps[last - 1]),
        last_step=int(series.steps[last]),
        heads=((block, head),),
        metric="max_logit",
        before=float(logits[last - 1, block, head]),
        after=float(logits[last, block, head]),
        strength=0.8,
    )
