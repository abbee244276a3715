"""Gather the events of all kinds into one list, and read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tracker_viz.metrics.events.event import Event
from tracker_viz.metrics.events.experts import (
    dead_experts,
    router_collapses,
    routing_settles,
    specialists,
)
from tracker_viz.metrics.events.logits import large_logits
from tracker_viz.metrics.events.loss import is_explained, loss_moves, with_loss
from tracker_viz.metrics.events.role import role_events
from tracker_viz.metrics.events.text import text_worsens
from tracker_viz.metrics.events.trouble import collapses, nonfinite
from tracker_viz.metrics.series import ScoreSeries

# Every kind of event beside roles and what the loss does while they form. Each takes the series and
# the name of the scalar that is followed, usually the loss.
FINDERS: tuple[Callable[[ScoreSeries, str], Iterable[Event]], ...] = (
    collapses,
    large_logits,
    nonfinite,
    text_worsens,
    dead_experts,
    router_collapses,
    routing_settles,
    specialists,
)


def find_events(series: ScoreSeries, *, metric: str = "loss") -> list[Event]:
    """Return what happened in a run, ordered by step.

    Args:
        series: the run's scores and scalars.
        metric: the scalar whose falls and jumps are events, usually the training loss.
    """
    if series.n_captures < 2:
        return []

    roles = with_loss(role_events(series), series, metric)
    found: list[Event] = [*roles]
    # A fall that a role explains is part of the role's event: one event, not two.
    found += [move for move in loss_moves(series, metric) if not is_explained(move, roles)]
    for find in FINDERS:
        found += find(series, metric)
    return sorted(found, key=lambda event: (event.first_step, event.last_step, event.kind))


def strongest_event(events: Sequence[Event]) -> Event | None:
    """Return the event that says most about the run: where a poster or a page should start."""
    return max(events, key=lambda event: event.strength, default=None)


def event_table(events: Sequence[Event]) -> list[dict[str, str | int]]:
    """Return a row for each event, as trackers show it: ``first_step``, ``last_step``, ``event``
    (the headline), ``text``, ``heads`` (``L1H3 L1H0``), ``experts`` (``L1E5``)."""
    return [
        {
            "first_step": event.first_step,
            "last_step": event.last_step,
            "event": event.headline,
            "text": event.text,
            "heads": " ".join(f"L{block}H{head}" for block, head in event.heads),
            "experts": " ".join(f"L{block}E{expert}" for block, expert in event.experts),
        }
        for event in events
    ]
