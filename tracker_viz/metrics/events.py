"""Find what happened in a run: roles taken, the loss falling or jumping, collapse, NaN.

One list of typed events, in the order of their steps, is the story of a run. The film's caption,
the flags on its timeline, a run's note, the explorer's buttons and a comparison all say it in the
same words. Every word and figure is taken from measured values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.onsets import lasting_onsets, stretches
from tracker_viz.metrics.roles import gather_evidence, role_label
from tracker_viz.metrics.series import ScoreSeries
from tracker_viz.types import HeadId

Floats = NDArray[np.float64]
EventKind = Literal["role", "loss_fall", "loss_jump", "collapse", "nonfinite", "dead_experts"]

# Heads that take a role within this share of the captures of each other take it together.
TOGETHER = 1 / 12
# A phase of the loss: it moves by this share of its whole range within ``TOGETHER`` of the run.
LEAST_MOVE = 0.15
# Loss from batch to batch is noisy: a median over this many captures keeps one odd batch out, and
# a move counts only where it is this many times the noise.
SMOOTHED_OVER = 5
TIMES_NOISE = 4.0
# A block has collapsed when its heads spread their attention over almost nothing: a mean of the
# normalized entropy (0..1) that falls below the first value after it was above the second.
COLLAPSED_BELOW, SOUND_ABOVE = 0.05, 0.2
# An expert of a mixture is dead that no token of the probe goes to at so many captures, to the end,
# after it had this part of an even load at one before.
DEAD_FOR, ALIVE_ABOVE = 3, 0.1

# A caption has one line: with more roles than this it gives numbers of heads, not their blocks.
MOST_ROLES_WITH_BLOCKS = 2
_ON_TEXT = "_text"  # ends the names of roles that are measured on rows of text

# Verb phrases in the plural; ``_singular`` makes those of one head.
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
class Event:
    """One thing that happened in a run.

    Attributes:
        kind: ``role``: heads took a role; ``loss_fall`` and ``loss_jump``: the loss moved fast;
            ``collapse``: a block's attention collapsed onto single tokens; ``nonfinite``: NaN or
            infinity appeared; ``dead_experts``: no token of the probe goes to some experts of a
            mixture any more.
        first_step: last capture without it.
        last_step: first capture with all of it. Equal to ``first_step`` for one capture.
        heads: (block, head) of the heads that it is about, the strongest first. Of a role: those
            that take it together with its strongest head.
        role: name of the role; empty for other kinds.
        metric: name of the scalar that moved; ``loss`` beside a role where the loss moved too.
        before, after: value of ``metric`` at the first and the last of ``metric_steps``; NaN
            without a metric.
        metric_steps: the captures that ``before`` and ``after`` were taken at; None: those of the
            event. The loss that falls while heads take a role falls for longer than they need.
        strength: 0..1, how much of the run's story this is: orders events of different kinds.
        holders: of a role: all heads that have it in the end.
        experts: (block, expert) of the experts that it is about.
    """

    kind: EventKind
    first_step: int
    last_step: int
    heads: tuple[HeadId, ...] = ()
    role: str = ""
    metric: str = ""
    before: float = float("nan")
    after: float = float("nan")
    strength: float = 0.0
    holders: tuple[HeadId, ...] = ()
    experts: tuple[HeadId, ...] = ()
    metric_steps: tuple[int, int] | None = None

    @property
    def steps_text(self) -> str:
        """``472–508``, or ``472``."""
        return _steps_text(self.first_step, self.last_step)

    @property
    def past_headline(self) -> str:
        """The headline once the event is over: ``since 508: induction``, for a state that stays to
        the end, or ``last: loss falls · 3–53``."""
        if self.kind in ("loss_fall", "loss_jump"):
            return f"last: {self.headline} · {self.steps_text}"
        return f"since {self.last_step:,}: {self.headline}"

    @property
    def headline(self) -> str:
        """The event in two or three words: ``induction``, ``loss falls``."""
        names = {
            "role": role_label(self.role),
            "loss_fall": f"{self.metric} falls",
            "loss_jump": f"{self.metric} jumps",
            "collapse": "attention collapses",
            "nonfinite": "NaN",
            "dead_experts": "expert dies" if len(self.experts) == 1 else "experts die",
        }
        return names[self.kind]

    @property
    def text(self) -> str:
        """The event as one sentence: when and what happened, to which heads, and the loss.

        ``472–508: L1H3 and 3 more heads look back to what followed the same token before
        (induction); loss 3.2 → 1.6 over steps 460–569``
        """
        return f"{self.steps_text}: {self._what(named=True)}"

    @property
    def caption(self) -> str:
        """The sentence that follows the ``headline``, which names the role already."""
        return self._what(named=False)

    def _what(self, *, named: bool) -> str:
        if self.kind == "role":
            return self._role_text(named)
        if self.kind == "collapse":
            block = self.heads[0][0]
            return (
                f"the attention of block {block} collapses onto single tokens "
                f"(entropy {self.before:.2f} → {self.after:.2f})"
            )
        if self.kind == "nonfinite":
            return f"{self.metric} is no longer finite"
        if self.kind == "dead_experts":
            return _experts_text(self.experts)
        verb = "falls fast" if self.kind == "loss_fall" else "jumps"
        return f"{self.metric} {verb}: {_figure(self.before)} → {_figure(self.after)}"

    def _role_text(self, named: bool) -> str:
        name = role_label(self.role)
        action = ROLE_ACTIONS.get(self.role, f"take the role {name}")
        who = _heads_text(self.heads)
        if len(self.heads) == 1:
            action = _singular(action)
        text = f"{who} {action}"
        if named:
            text += f" ({name})"
        if len(self.holders) > len(self.heads):
            text += f", {len(self.holders)} heads in the end"
        if self.metric:
            text += f"; {self.metric} {_figure(self.before)} → {_figure(self.after)}"
        if self.metric_steps:
            text += f" over steps {_steps_text(*self.metric_steps)}"
        return text


def find_events(series: ScoreSeries, *, metric: str = "loss") -> list[Event]:
    """Return what happened in a run, ordered by step.

    Args:
        series: the run's scores and scalars.
        metric: the scalar whose falls and jumps are events, usually the training loss.
    """
    if series.n_captures < 2:
        return []

    moves = _moves(series, metric)
    found = _each_fall_once([_with_loss(event, series, metric) for event in _role_events(series)])
    # A fall that a role explains is part of the role's event: one event, not two.
    found += [move for move in moves if not _explained(move, found)]
    found += _collapses(series)
    found += _nonfinite(series, metric)
    found += _dead_experts(series)
    return sorted(found, key=lambda event: (event.first_step, event.last_step, event.kind))


def strongest_event(events: Sequence[Event]) -> Event | None:
    """Return the event that says most about the run: where a poster or a page should start."""
    return max(events, key=lambda event: event.strength, default=None)


def event_table(events: Sequence[Event]) -> list[dict[str, str | int]]:
    """Return a row for each event, as trackers show it: ``first_step``, ``last_step``, ``event``
    (the headline), ``text``, ``heads`` (``L1H3 L1H0``)."""
    return [
        {
            "first_step": event.first_step,
            "last_step": event.last_step,
            "event": event.headline,
            "text": event.text,
            "heads": " ".join(f"L{block}H{head}" for block, head in event.heads),
        }
        for event in events
    ]


def run_sentence(events: Sequence[Event]) -> str:
    """Say in one sentence what a run became, from its roles; empty where no head took one.

    ``4 induction heads in block 1, 2 previous token heads in blocks 0 and 3``; of many roles
    ``4 induction, 2 previous token, 2 sink heads; on text 5 previous token``
    """
    heads: dict[str, set[tuple[int, int]]] = {}
    for event in events:
        if event.kind == "role":
            heads.setdefault(event.role, set()).update(event.holders or event.heads)
    if len(heads) > MOST_ROLES_WITH_BLOCKS:
        return _counts(heads)
    parts = []
    for role, members in heads.items():
        noun = "head" if len(members) == 1 else "heads"
        parts.append(f"{len(members)} {_of_role(role, noun)} in {_blocks_text(members)}")
    return ", ".join(parts)


def _experts_text(experts: Sequence[HeadId]) -> str:
    """Return ``expert 3 of block 1 gets no token of the probe any more``."""
    if len(experts) == 1:
        block, expert = experts[0]
        return f"expert {expert} of block {block} gets no token of the probe any more"
    return f"{len(experts)} experts in {_blocks_text(experts)} get no token of the probe any more"


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


# -- roles -------------------------------------------------------------------------------------


def _role_events(series: ScoreSeries) -> Iterator[Event]:
    """Yield one event for each role that heads have at the end, when its strongest head took it."""
    index_of = {int(step): index for index, step in enumerate(series.steps)}
    together = max(1, round(series.n_captures * TOGETHER))
    evidence = gather_evidence(series)
    for role, found in lasting_onsets(series, evidence=evidence).items():
        leader = found[0]
        at = index_of[leader.step]
        with_it = [each for each in found if abs(index_of[each.step] - at) <= together]
        final = evidence[role].scores[(-1, *leader.head_id)]
        yield Event(
            "role",
            first_step=leader.step if leader.after is None else leader.after,
            last_step=leader.step,
            heads=tuple(onset.head_id for onset in with_it),
            role=role,
            strength=float(np.nan_to_num(final)),
            holders=tuple(onset.head_id for onset in found),
        )


def _with_loss(event: Event, series: ScoreSeries, metric: str) -> Event:
    """Add what the loss did meanwhile, where it moved by a share that can be seen."""
    raw = series.metrics.get(metric, np.zeros(0))
    values = _smoothed(raw)
    finite = values[np.isfinite(values)]
    if finite.size < 2 or finite.max() == finite.min():
        return event

    # A role and the loss it brings down turn together; the loss needs a few captures to arrive.
    around = max(1, round(series.n_captures * TOGETHER))
    first = max(0, int(np.searchsorted(series.steps, event.first_step)) - 1)
    last = min(len(values) - 1, int(np.searchsorted(series.steps, event.last_step)) + around)
    if not values[first] - values[last] >= LEAST_MOVE * (finite.max() - finite.min()):
        return event
    first, last = _typical(raw, first, backward=True), _typical(raw, last)
    return replace(
        event,
        metric=metric,
        before=float(raw[first]),
        after=float(raw[last]),
        metric_steps=(int(series.steps[first]), int(series.steps[last])),
    )


def _each_fall_once(role_events: Sequence[Event]) -> list[Event]:
    """Leave the loss with the strongest, of equals the latest, of the roles whose falls overlap."""
    credited: list[Event] = []
    for event in sorted(role_events, key=lambda each: (each.strength, each.last_step))[::-1]:
        if event.metric_steps and not any(
            _overlap(event.metric_steps, other.metric_steps) for other in credited
        ):
            credited.append(event)
    return [event if event in credited else _without_loss(event) for event in role_events]


def _without_loss(event: Event) -> Event:
    unknown = float("nan")
    return replace(event, metric="", before=unknown, after=unknown, metric_steps=None)


def _overlap(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    """Return whether two stretches of steps share more than an end; None is empty."""
    if one is None or other is None:
        return False
    return one[0] < other[1] and other[0] < one[1]


# -- the loss ----------------------------------------------------------------------------------


def _moves(series: ScoreSeries, metric: str) -> list[Event]:
    """Return the stretches in which the metric falls or jumps fastest."""
    raw = series.metrics.get(metric, np.zeros(0))
    values = _smoothed(raw)
    finite = np.isfinite(values)
    if finite.sum() < SMOOTHED_OVER + 1:
        return []
    steps, values = series.steps[finite], values[finite]
    whole = values.max() - values.min()
    if not whole > 0:
        return []

    raw = raw[finite]
    least = max(LEAST_MOVE * whole, TIMES_NOISE * _noise(raw))
    width = max(2, round(len(values) * TOGETHER))
    change = values[width:] - values[:-width]
    found = []
    for kind, moved in (
        ("loss_fall", change <= -least),
        ("loss_jump", change >= least),
    ):
        for first, end in stretches(moved):
            first, last = _trimmed(values, first, end - 1 + width)
            first, last = _typical(raw, first, backward=True), _typical(raw, last)
            found.append(
                Event(
                    kind,  # type: ignore[arg-type]
                    first_step=int(steps[first]),
                    last_step=int(steps[last]),
                    metric=metric,
                    before=float(raw[first]),
                    after=float(raw[last]),
                    strength=float(min(1.0, abs(raw[last] - raw[first]) / whole)),
                )
            )
    return found


def _trimmed(values: Floats, first: int, last: int) -> tuple[int, int]:
    """Cut a stretch to where 5 to 95 % of its move happens."""
    moved = (values[first : last + 1] - values[first]) / ((values[last] - values[first]) or 1.0)
    inside = np.flatnonzero((moved >= 0.05) & (moved <= 0.95))
    if not inside.size:
        return first, last
    return first + max(0, int(inside[0]) - 1), first + min(last - first, int(inside[-1]) + 1)


def _explained(move: Event, role_events: Sequence[Event]) -> bool:
    """Return whether the loss falls while heads take a role, and that event mentions the fall."""
    if move.kind != "loss_fall":
        return False
    fall = (move.first_step, move.last_step)
    return any(_overlap(fall, event.metric_steps) for event in role_events)


# -- what went wrong ---------------------------------------------------------------------------


def _collapses(series: ScoreSeries) -> Iterator[Event]:
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
        yield Event(
            "collapse",
            first_step=int(series.steps[first]),
            last_step=int(series.steps[last]),
            heads=tuple((block, int(head)) for head in heads),
            metric="entropy",
            before=float(mean[first]),
            after=float(mean[last]),
            strength=1.0,
        )


def _dead_experts(series: ScoreSeries) -> Iterator[Event]:
    """Yield the captures from which experts, each with some load before, have none to the end."""
    load = series.experts.get("load")
    if load is None:
        return
    n_experts = int(np.isfinite(load[-1]).sum())
    by_capture: dict[int, list[HeadId]] = {}
    for block, expert in np.argwhere(load[-1] == 0):
        loaded = np.flatnonzero(load[:, block, expert] > 0)
        if not loaded.size or series.n_captures - loaded[-1] - 1 < DEAD_FOR:
            continue
        if np.nanmax(load[:, block, expert]) >= ALIVE_ABOVE:
            by_capture.setdefault(int(loaded[-1]), []).append((int(block), int(expert)))
    for last_loaded, experts in by_capture.items():
        yield Event(
            "dead_experts",
            first_step=int(series.steps[last_loaded]),
            last_step=int(series.steps[last_loaded + 1]),
            strength=min(0.3 + len(experts) / n_experts, 1.0),
            experts=tuple(experts),
        )


def _nonfinite(series: ScoreSeries, metric: str) -> Iterator[Event]:
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
        yield Event(
            "nonfinite",
            first_step=int(series.steps[last_finite]),
            last_step=int(series.steps[last_finite + 1]),
            metric=name,
            strength=1.0,
        )


# -- words and arithmetic ----------------------------------------------------------------------


def _smoothed(values: Floats) -> Floats:
    """Running median over ``SMOOTHED_OVER`` captures; NaN stays where a capture has none."""
    if len(values) < SMOOTHED_OVER:
        return values
    half = SMOOTHED_OVER // 2
    padded = np.concatenate([values[:1].repeat(half), values, values[-1:].repeat(half)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED_OVER)
    medians = np.full(len(values), np.nan)
    known = np.isfinite(windows).any(1)
    medians[known] = np.nanmedian(np.where(np.isfinite(windows[known]), windows[known], np.nan), 1)
    return np.where(np.isfinite(values), medians, np.nan)


def _noise(values: Floats) -> float:
    """Return the standard deviation of independent noise in finite values.

    1.4826 turns the median of absolute differences into a deviation, and a difference has the noise
    of two values.
    """
    if len(values) < 2:
        return 0.0
    return float(1.4826 / np.sqrt(2) * np.median(np.abs(np.diff(values))))


def _typical(values: Floats, at: int, *, backward: bool = False) -> int:
    """Return the capture at or shortly after ``at`` whose own value is the usual one around ``at``.

    A figure of the story is a value that the film's header shows at the step which is named, but
    not that of an odd batch.

    Args:
        backward: look before ``at`` instead, so that a stretch only grows.
    """
    usual = _smoothed(values)[at]
    noise = _noise(values[np.isfinite(values)])
    reach = np.arange(SMOOTHED_OVER // 2 + 1)
    near = at - reach if backward else at + reach
    near = near[(near >= 0) & (near < len(values))]
    off = np.abs(values[near] - usual)
    is_usual = off <= noise
    return int(near[np.argmax(is_usual)] if is_usual.any() else near[np.nanargmin(off)])


def _steps_text(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


def _figure(value: float) -> str:
    """A loss with the digits that a reader needs: ``3.2``, ``0.04``."""
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def _of_role(role: str, noun: str) -> str:
    """``induction heads``, ``previous token heads (text)``."""
    words, opening, rest = role_label(role).partition(" (")
    return f"{words} {noun}{opening}{rest}"


def _singular(action: str) -> str:
    verb, rest = action.split(" ", 1)
    return f"{verb}s {rest}"


def _heads_text(heads: Sequence[HeadId]) -> str:
    """``L1H3``, ``L1H3 and L1H0``, ``L1H3 and 3 more heads``."""
    names = [f"L{block}H{head}" for block, head in heads]
    if len(names) <= 2:
        return " and ".join(names)
    return f"{names[0]} and {len(names) - 1} more heads"


def _blocks_text(heads: Sequence[tuple[int, int]] | set[tuple[int, int]]) -> str:
    blocks = sorted({block for block, _ in heads})
    if len(blocks) == 1:
        return f"block {blocks[0]}"
    if len(blocks) == 2:
        return f"blocks {blocks[0]} and {blocks[1]}"
    if all(after - before == 1 for before, after in pairwise(blocks)):
        return f"blocks {blocks[0]} to {blocks[-1]}"
    if len(blocks) <= 4:
        return "blocks " + ", ".join(map(str, blocks[:-1])) + f" and {blocks[-1]}"
    return f"{len(blocks)} blocks"
