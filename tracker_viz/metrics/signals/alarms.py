"""Notice, capture by capture, that a training is about to go wrong.

Scored captures come in, in the order of their steps; alarms go out, each kind once until it ends.
Called on the thread that scores captures. ``benchmarks/alarms.md`` measures how many steps before
the loss they ring in trainings that were made unstable, and how often in healthy ones.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.types import Capture, HeadId

AlarmKind = Literal["not_finite", "logit", "entropy", "dead", "probe", "loss"]

# QK-Clip scales queries and keys back from here on (Kimi Team 2025, arXiv:2507.20534, section 2.1);
# Dehghani et al. 2023 (arXiv:2302.05442, section 3.2) saw trainings diverge at thousands.
MAX_LOGIT = 100.0
# Healthy heads grow, too: from 3 to 20 within a phase change. So a rate counts from a size on at
# which attention is one-hot already.
GROWING_LOGIT, LOGIT_GROWTH = 30.0, 3.0
# Mean over a block's heads, 1 is uniform. Entropy collapse (Zhai et al. 2023, arXiv:2303.06296)
# goes to 0; blocks of trained models keep some heads that look around.
LEAST_ENTROPY = 0.02
# Neurons or experts that no token of the probe reaches: half of them, where at most half as many
# were at the first capture.
DEAD_SHARE = 0.5
# Above the median of the captures before, in nats, and in their median absolute deviations: losses
# of single batches scatter.
LOSS_JUMP, LOSS_DEVIATIONS = 1.0, 10.0
# The probe's rows are the same at every capture, so their loss scatters little: in nats, above the
# lowest of the run, at two captures in a row. It rose by .02 in short healthy trainings
# (benchmarks/alarms.md), and by .16 in the demo, whose probe holds 63 tokens of text.
PROBE_RISE = 0.3
# Below the first capture, in nats: text that a run has not learned at all gets worse in a healthy
# one, too, and what a fine-tuning leaves behind was learned before.
PROBE_LEARNED = 0.5
# Captures that a rate, and a jump of the loss, is compared with.
N_BEFORE, LEAST_BEFORE = 8, 4
# An alarm has ended after so many captures in a row without it.
N_QUIET = 2

_STREAM, _LOGIT, _ENTROPY = "scores.stream.rms", "scores.head.max_logit", "scores.head.entropy"
_TEXT = "probe/loss_text"
_MOVED = 2  # blocks, and heads, that a sentence names
# Change of the logarithm of a block's residual stream, and of a head's entropy.
_LEAST_MOVE = 0.1
_DEAD_NEURONS = re.compile(r"mlp\.w_(down|out)")


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that goes wrong.

    Attributes:
        kind: ``not_finite``: NaN or infinity; ``logit``: the largest attention logit is beyond a
            bound, or grows fast; ``entropy``: all heads of a block look at single tokens; ``dead``:
            half of the neurons or experts get nothing; ``probe``: the probe's loss on text rises,
            whatever the training's own does; ``loss``: the loss has jumped.
        step: of the capture that shows it.
        value: what was measured; NaN for ``not_finite``.
        blocks, heads: where.
        sentence: in words, for people.
    """

    kind: AlarmKind
    step: int
    value: float
    sentence: str
    blocks: tuple[int, ...] = ()
    heads: tuple[HeadId, ...] = ()

    def description(self) -> dict[str, Any]:
        """Return the alarm as ``Capture.model`` holds it, JSON-like."""
        return {
            "kind": self.kind,
            "step": self.step,
            "value": self.value if math.isfinite(self.value) else None,
            "sentence": self.sentence,
            "blocks": list(self.blocks),
            "heads": [list(head) for head in self.heads],
        }


class Alarms:
    """Look at the captures of one run, in the order of their steps."""

    def __init__(self) -> None:
        self._before: deque[Capture] = deque(maxlen=N_BEFORE)
        self._dead_at_first: dict[str, float] = {}
        # The capture whose loss on the probe's text is the lowest so far.
        self._best: Capture | None = None
        self._text_at_first = math.nan
        # Kind that rings -> captures without it since.
        self._ringing: dict[AlarmKind, int] = {}

    def __call__(self, scored: Capture) -> list[Alarm]:
        """Return the alarms that begin with this capture."""
        found = {alarm.kind: alarm for alarm in self._found(scored)}
        for kind in list(self._ringing):
            self._ringing[kind] = 0 if kind in found else self._ringing[kind] + 1
            if self._ringing[kind] >= N_QUIET:
                del self._ringing[kind]
        new = [alarm for kind, alarm in found.items() if kind not in self._ringing]
        self._ringing |= {alarm.kind: 0 for alarm in new}
        small = _small(scored)
        self._before.append(small)
        text = small.metrics[_TEXT]
        if math.isnan(self._text_at_first):
            self._text_at_first = text
        if math.isfinite(text) and (self._best is None or text < self._best.metrics[_TEXT]):
            self._best = small
        return new

    def _found(self, scored: Capture) -> Iterator[Alarm]:
        for look in (_not_finite, _logit, _entropy, _loss):
            alarm = look(scored, self._before)
            if alarm is not None:
                yield alarm
        for alarm in (_dead(scored, self._dead_at_first), self._probe(scored)):
            if alarm is not None:
                yield alarm

    def _probe(self, scored: Capture) -> Alarm | None:
        if self._best is None:
            return None
        best, before = self._best, self._before[-1]
        lowest, value = best.metrics[_TEXT], scored.metrics.get(_TEXT, math.nan)
        if not lowest <= self._text_at_first - PROBE_LEARNED:
            return None
        if not all(each >= lowest + PROBE_RISE for each in (before.metrics[_TEXT], value)):
            return None
        sentence = (
            f"step {scored.step}: the probe's loss on text has risen from {lowest:.2f} (step "
            f"{best.step}) to {value:.2f}"
        )
        was, loss = best.metrics["loss"], scored.metrics.get("loss", math.nan)
        if loss <= was:
            sentence += (
                f", while the training's fell from {was:.2f} to {loss:.2f}: look at the data"
            )
        return Alarm("probe", scored.step, value, sentence)


def _not_finite(scored: Capture, _before: deque[Capture]) -> Alarm | None:
    where = scored.model.get("not_finite")
    if where:
        sentence = f"step {scored.step}: NaN or infinity on the probe, first in {where}"
        return Alarm("not_finite", scored.step, math.nan, sentence)
    loss = scored.metrics.get("loss")
    if loss is None or math.isfinite(loss):
        return None
    sentence = (
        f"step {scored.step}: the training's loss is {loss:g}, and all is finite on the probe: "
        "look at the batch"
    )
    return Alarm("not_finite", scored.step, math.nan, sentence)


def _logit(scored: Capture, before: deque[Capture]) -> Alarm | None:
    logits = scored.arrays.get(_LOGIT)
    if logits is None or not np.isfinite(logits).any():
        return None
    block, head = (int(index) for index in np.unravel_index(np.nanargmax(logits), logits.shape))
    value = float(logits[block, head])
    name = f"L{block}H{head}"
    if value > MAX_LOGIT:
        sentence = (
            f"step {scored.step}: the largest attention logit is {value:.0f} ({name}), beyond "
            f"{MAX_LOGIT:g}"
        )
        return Alarm("logit", scored.step, value, sentence, (block,), ((block, head),))
    earlier = [float(np.nanmax(each.arrays[_LOGIT])) for each in before if _LOGIT in each.arrays]
    if len(earlier) < LEAST_BEFORE or value < max(GROWING_LOGIT, LOGIT_GROWTH * max(earlier)):
        return None
    sentence = (
        f"step {scored.step}: the largest attention logit has grown from {max(earlier):.0f} to "
        f"{value:.0f} ({name}) since step {before[-1].step}"
    )
    return Alarm("logit", scored.step, value, sentence, (block,), ((block, head),))


def _entropy(scored: Capture, _before: deque[Capture]) -> Alarm | None:
    entropies = scored.arrays.get(_ENTROPY)
    if entropies is None or not np.isfinite(entropies).any():
        return None
    of_blocks = _row_means(entropies)
    block = int(np.nanargmin(of_blocks))
    value = float(of_blocks[block])
    if value >= LEAST_ENTROPY:
        return None
    sentence = (
        f"step {scored.step}: every head of block {block} looks at single tokens (mean entropy "
        f"{value:.3f} of 1)"
    )
    return Alarm("entropy", scored.step, value, sentence, (block,))


def _dead(scored: Capture, at_first: dict[str, float]) -> Alarm | None:
    for what, shares in _dead_shares(scored).items():
        if not np.isfinite(shares).any():
            continue
        block = int(np.nanargmax(shares))
        value = float(shares[block])
        first = at_first.setdefault(what, value)
        if value >= DEAD_SHARE and value >= 2 * first:
            sentence = (
                f"step {scored.step}: no token of the probe reaches {100 * value:.0f} % of the "
                f"{what} of block {block} ({100 * first:.0f} % at the first capture)"
            )
            return Alarm("dead", scored.step, value, sentence, (block,))
    return None


def _dead_shares(scored: Capture) -> Mapping[str, NDArray[Any]]:
    """Return neurons and experts -> the share that is dead, [block]."""
    shares = {}
    neurons = scored.arrays.get("scores.weight.dead_share")
    names = scored.labels.get("projection", ())
    columns = [index for index, name in enumerate(names) if _DEAD_NEURONS.fullmatch(name)]
    if neurons is not None and columns:
        shares["neurons"] = _row_means(neurons[:, columns])
    experts = scored.arrays.get("scores.router.dead_share")
    if experts is not None:
        shares["experts"] = experts[:, 0]
    return shares


def _loss(scored: Capture, before: deque[Capture]) -> Alarm | None:
    loss = scored.metrics.get("loss", math.nan)
    earlier = np.array([each.metrics.get("loss", math.nan) for each in before])
    earlier = earlier[np.isfinite(earlier)]
    if len(earlier) < LEAST_BEFORE or not math.isfinite(loss):
        return None
    usual = float(np.median(earlier))
    # 1.4826 makes of it a standard deviation where losses are normal.
    scatter = 1.4826 * float(np.median(np.abs(earlier - usual)))
    # Training begins at the highest loss, to which no jump leads back.
    if loss < usual + max(LOSS_JUMP, LOSS_DEVIATIONS * scatter):
        return None
    blocks, heads = moved_most(before[-1], scored)
    sentence = f"step {scored.step}: the loss has jumped from {usual:.2g} to {loss:.2g}"
    if blocks or heads:
        names = [f"block {block}" for block in blocks] + [f"L{b}H{h}" for b, h in heads]
        sentence += f"; since step {before[-1].step} most has moved in {', '.join(names)}"
    return Alarm("loss", scored.step, loss, sentence, blocks, heads)


def moved_most(before: Capture, after: Capture) -> tuple[tuple[int, ...], tuple[HeadId, ...]]:
    """Return the blocks whose residual stream has changed most in size between two captures, by its
    ratio, and the heads whose attention has, by its entropy; at most two of each, the most first.

    Blocks count from a change by a tenth on, heads from one by a tenth of the range of entropy.
    """
    blocks: list[int] = []
    if _STREAM in before.arrays and _STREAM in after.arrays:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.log(after.arrays[_STREAM] / before.arrays[_STREAM])
        change = np.nan_to_num(np.abs(ratios)).max(axis=1)
        by_change = np.argsort(-change, kind="stable")
        blocks = [int(block) for block in by_change if change[block] > _LEAST_MOVE]
    heads: list[HeadId] = []
    if _ENTROPY in before.arrays and _ENTROPY in after.arrays:
        change = np.nan_to_num(np.abs(after.arrays[_ENTROPY] - before.arrays[_ENTROPY]))
        for place in np.argsort(-change, axis=None, kind="stable"):
            block, head = (int(index) for index in np.unravel_index(place, change.shape))
            if change[block, head] > _LEAST_MOVE:
                heads.append((block, head))
    return tuple(blocks[:_MOVED]), tuple(heads[:_MOVED])


def _row_means(values: NDArray[Any]) -> NDArray[Any]:
    """Return the mean of every row over what is finite; NaN where nothing is."""
    counted = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: NDArray[Any] = np.where(counted, values, 0.0).sum(1) / counted.sum(1)
    return means


def _small(scored: Capture) -> Capture:
    """Keep what later captures are compared with."""
    kept = {
        name: scored.arrays[name] for name in (_STREAM, _LOGIT, _ENTROPY) if name in scored.arrays
    }
    losses = {name: scored.metrics.get(name, math.nan) for name in ("loss", _TEXT)}
    return Capture(scored.step, kept, metrics=losses)
