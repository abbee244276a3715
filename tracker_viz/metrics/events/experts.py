"""Find what the experts of a mixture do: routing settles, experts take one kind of tokens, experts
die, and routers collapse onto few of them.

All of it is measured on the tokens of the probe: see ``metrics/mixtures``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.events.event import TOGETHER, Event, Tone
from tracker_viz.metrics.events.words import experts_text, singular
from tracker_viz.metrics.series import ScoreSeries
from tracker_viz.types import HeadId

# A state counts that lasts for so many captures, to the end of the run.
LASTING = 3
# An expert is dead that no token goes to, after it had this part of an even load at one capture.
ALIVE_ABOVE = 0.1
# Routing has settled when this part of the tokens, or less, has another first expert than at the
# capture before; after it was above the second.
SETTLED_BELOW, UNSETTLED_ABOVE = 0.15, 0.25
# An expert has specialized when this part of what it gets is of one kind of tokens, or more, after
# it was below the second at a capture. It must get some of an even load: ``ALIVE_ABOVE``.
SPECIAL_ABOVE, MIXED_BELOW = 0.9, 0.7
# A router has collapsed that uses this part of its experts, or less, after it used more than the
# second. Experts are counted by the exponential of their loads' entropy.
FEW_BELOW, MANY_ABOVE = 1 / 3, 2 / 3


@dataclass(frozen=True, slots=True)
class DeadExperts(Event):
    """No token of the probe goes to some experts any more."""

    kind: ClassVar[str] = "dead_experts"

    @property
    def headline(self) -> str:
        return "expert dies" if len(self.experts) == 1 else "experts die"

    @property
    def caption(self) -> str:
        verb = "gets" if len(self.experts) == 1 else "get"
        return f"{experts_text(self.experts)} {verb} no token of the probe any more"

    @property
    def who(self) -> str:
        return _who(self.experts)


@dataclass(frozen=True, slots=True)
class RouterCollapse(Event):
    """A router sends its tokens to few of its experts; ``before`` and ``after`` count these."""

    kind: ClassVar[str] = "router_collapse"

    @property
    def headline(self) -> str:
        return "router collapses"

    @property
    def caption(self) -> str:
        block = self.experts[0][0]
        return (
            f"the router of block {block} sends most tokens to {self.after:.0f} of its experts "
            f"({self.before:.0f} before)"
        )

    @property
    def who(self) -> str:
        return f"block {self.experts[0][0]}"


@dataclass(frozen=True, slots=True)
class SettledRouting(Event):
    """Tokens keep their experts; ``before`` and ``after``: the part that changed its first one."""

    kind: ClassVar[str] = "settled_routing"
    tone: ClassVar[Tone] = "change"

    @property
    def headline(self) -> str:
        return "routing settles"

    @property
    def caption(self) -> str:
        return (
            f"{1 - self.after:.0%} of the tokens keep their first expert from capture to capture "
            f"({1 - self.before:.0%} before)"
        )


@dataclass(frozen=True, slots=True)
class Specialists(Event):
    """Experts take one kind of tokens: ``is_of_text``, or the repeated random ones.

    ``after`` is the part of that kind in what the strongest of them gets; ``n_in_the_end``: how
    many experts take that kind at the end of the run.
    """

    kind: ClassVar[str] = "specialists"
    tone: ClassVar[Tone] = "change"

    is_of_text: bool = True
    n_in_the_end: int = 0

    @property
    def headline(self) -> str:
        kind = "text" if self.is_of_text else "repeats"
        return f"expert of {kind}" if self.n_in_the_end == 1 else f"experts of {kind}"

    @property
    def caption(self) -> str:
        kind = "text" if self.is_of_text else "repeated random tokens"
        action = f"take mostly {kind} ({self.after:.0%})"
        if len(self.experts) == 1:
            action = singular(action)
        text = f"{experts_text(self.experts)} {action}"
        if self.n_in_the_end > len(self.experts):
            text += f", {self.n_in_the_end} experts in the end"
        return text

    @property
    def who(self) -> str:
        if self.n_in_the_end == 1:
            return _who(self.experts)
        return f"{self.n_in_the_end} experts"


def dead_experts(series: ScoreSeries, metric: str) -> Iterator[Event]:
    """Yield the captures from which experts, each with some load before, have none to the end."""
    load = series.experts.get("load")
    if load is None:
        return
    n_experts = int(np.isfinite(load[-1]).sum())
    by_capture: dict[int, list[HeadId]] = {}
    for block, expert in np.argwhere(load[-1] == 0):
        loaded = np.flatnonzero(load[:, block, expert] > 0)
        if not loaded.size or series.n_captures - loaded[-1] - 1 < LASTING:
            continue
        if np.nanmax(load[:, block, expert]) >= ALIVE_ABOVE:
            by_capture.setdefault(int(loaded[-1]), []).append((int(block), int(expert)))
    for last_loaded, experts in by_capture.items():
        yield DeadExperts(
            first_step=int(series.steps[last_loaded]),
            last_step=int(series.steps[last_loaded + 1]),
            strength=min(0.3 + len(experts) / n_experts, 1.0),
            experts=tuple(experts),
        )


def router_collapses(series: ScoreSeries, metric: str) -> Iterator[Event]:
    """Yield the routers that used most of their experts, came to use few, and stayed there."""
    load = series.experts.get("load")
    if load is None:
        return
    for block in range(load.shape[1]):
        experts = np.flatnonzero(np.isfinite(load[:, block]).any(0))
        if not experts.size:
            continue
        n_used = _n_used(load[:, block][:, experts].astype(np.float64))
        found = _lasting_fall(n_used / experts.size, FEW_BELOW, MANY_ABOVE)
        if found is None:
            continue
        first, last = found
        busiest = experts[np.argsort(-load[-1, block, experts])]
        yield RouterCollapse(
            first_step=int(series.steps[first]),
            last_step=int(series.steps[last]),
            metric="experts in use",
            before=float(n_used[first]),
            after=float(n_used[last]),
            strength=1.0,
            experts=tuple((block, int(expert)) for expert in busiest),
        )


def routing_settles(series: ScoreSeries, metric: str) -> Iterator[Event]:
    """Yield the stretch after which tokens keep their first expert, over all blocks with a
    router."""
    changed = series.routers.get("changed")
    if changed is None:
        return
    mean = _mean_known(changed[:, :, 0].astype(np.float64))
    found = _lasting_fall(mean, SETTLED_BELOW, UNSETTLED_ABOVE)
    if found is None:
        return
    first, last = found
    yield SettledRouting(
        first_step=int(series.steps[first]),
        last_step=int(series.steps[last]),
        metric="tokens that change their expert",
        before=float(mean[first]),
        after=float(mean[last]),
        strength=float(min(1.0, 0.4 + mean[first] - mean[last])),
    )


def specialists(series: ScoreSeries, metric: str) -> Iterator[Event]:
    """Yield for each kind of tokens when the first of the experts that take it in the end came to
    do so, with those that did at about that time."""
    share, load = series.experts.get("text_share"), series.experts.get("load")
    if share is None or load is None:
        return
    together = max(1, round(series.n_captures * TOGETHER))
    for is_of_text, part in ((True, share), (False, 1 - share)):
        # (capture before, capture from which on, part of it in the end) of each expert.
        onsets: dict[HeadId, tuple[int, int, float]] = {}
        for block, expert in np.argwhere(load[-1] >= ALIVE_ABOVE):
            of_expert = part[:, block, expert].astype(np.float64)
            found = _lasting_fall(1 - of_expert, 1 - SPECIAL_ABOVE, 1 - MIXED_BELOW)
            if found is not None:
                onsets[int(block), int(expert)] = (*found, float(of_expert[-1]))
        if not onsets:
            continue
        strongest = max(onsets, key=lambda each: onsets[each][2])
        first, last, after = onsets[strongest]
        members = [each for each in onsets if abs(onsets[each][1] - last) <= together]
        yield Specialists(
            first_step=int(series.steps[first]),
            last_step=int(series.steps[last]),
            metric="share of one kind",
            before=float(part[(first, *strongest)]),
            after=after,
            strength=0.5,
            experts=(strongest, *(each for each in members if each != strongest)),
            is_of_text=is_of_text,
            n_in_the_end=len(onsets),
        )


def _lasting_fall(
    values: NDArray[np.float64], below: float, above: float
) -> tuple[int, int] | None:
    """Return (last capture above the one line, first capture below the other) where values, float64
    [capture], fell and stayed below to the end for ``LASTING`` captures; else None.

    NaN is neither above nor below, so that it begins and ends nothing.
    """
    known = np.flatnonzero(np.isfinite(values))
    if known.size < LASTING + 1 or not np.all(values[known[-LASTING:]] < below):
        return None
    not_below = known[~(values[known] < below)]
    if not not_below.size or not np.any(values[known] > above):
        return None
    last = int(known[known > not_below[-1]][0])
    first = int(np.flatnonzero(values[: last + 1] > above)[-1])
    return first, last


def _n_used(load: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many experts a router uses at each capture: the exponential of the entropy of
    their loads, [capture]; NaN where nothing is known. ``load``: [capture, expert]."""
    total = np.nansum(load, axis=1, keepdims=True)
    share = np.divide(load, total, out=np.full_like(load, np.nan), where=total > 0)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    entropy = -np.nansum(share * logs, axis=1)
    return np.where(total[:, 0] > 0, np.exp(entropy), np.nan)


def _mean_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over blocks of what is not NaN: [capture]; NaN where nothing is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=1))


def _who(experts: Sequence[HeadId]) -> str:
    if len(experts) > 1:
        return f"{len(experts)} experts"
    block, expert = experts[0]
    return f"L{block}E{expert}"
