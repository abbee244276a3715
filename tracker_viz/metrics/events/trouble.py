"""Find what went wrong: attention that collapses, and numbers that are no longer finite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracker_viz.metrics.events.event import Event
from tracker_viz.metrics.series import ScoreSeries

# A block has collapsed when its heads spread their attention over almost nothing: a mean of the
# normalized entropy (0..1) that falls below the first value after it was above the second.
COLLAPSED_BELOW, SOUND_ABOVE = 0.05, 0.2


@dataclass(frozen=True, slots=True)
class Collapse(Event):
    """A block's attention collapses onto single tokens."""

    kind: ClassVar[str] = "collapse"

    @property
    def headline(self) -> str:
        return "attention collapses"

    @property
    def caption(self) -> str:
        block = self.heads[0][0]
        return (
            f"the attention of block {block} collapses onto single tokens "
            f"(entropy {self.before:.2f} → {self.after:.2f})"
        )


@dataclass(frozen=True, slots=True)
class NonFinite(Event):
    """NaN or infinity appears, and stays."""

    kind: ClassVar[str] = "nonfinite"

    @property
    def headline(self) -> str:
        return "NaN"

    @property
    def caption(self) -> str:
        return f"{self.metric} is no longer finite"


def collapses(series: ScoreSeries, metric: str) -> Iterator[Event]:
    """Yield the blocks whose mean entropy was sound, fell to almost nothing, and stayed there."""
    entropy = series.heads.get("entropy")
    if entropy is None:
        return
    for block in range(entropy.shape[1]):
        heads = np.flatnonzero(np.isfinite(entropy[:, block]).any(0))
        if not heads.size:
            continue
        mean = np.nanmean(entropy[:, block][:, heads].astype(np.float64), axis=1)
        sound = np.flatnonzero(mean > SOUND_ABOVE)
        if not sound.size or not mean[-1] < COLLAPSED_BELOW:
            continue
        first = int(sound[-1])
        last = first + int(np.argmax(mean[first:] < COLLAPSED_BELOW))
        yield Collapse(
            first_step=int(series.steps[first]),
            last_step=int(series.steps[last]),
            heads=tuple((block, int(head)) for head in heads),
            metric="entropy",
            before=float(mean[first]),
            after=float(mean[last]),
            strength=1.0,
        )


def nonfinite(series: ScoreSeries, metric: str) -> Iterator[Event]:
    """Yield the capture from which a scalar or the attention is NaN or infinite to the end."""
    values = series.metrics.get(metric, np.zeros(0))
    named = {metric: np.isfinite(values)} if np.isfinite(values).any() else {}
    for name in ("entropy", "previous_token"):
        if name in series.heads and np.isfinite(series.heads[name]).any():
            named["attention"] = np.asarray(np.isfinite(series.heads[name]).any((1, 2)))
            break
    for name, finite in named.items():
        if finite[-1]:
            continue
        last_finite = int(np.flatnonzero(finite)[-1])
        yield NonFinite(
            first_step=int(series.steps[last_finite]),
            last_step=int(series.steps[last_finite + 1]),
            metric=name,
            strength=1.0,
        )
