"""Which heads of a run come first, and where each stands beside the heads of another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tracker_viz.comparison.matching import Head, behaviours, match_heads
from tracker_viz.comparison.runs import ComparedRun
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import ROLES, ScoreSeries, head_roles

Order = Mapping[int, tuple[int | None, ...]]


def ranking(series: ScoreSeries) -> tuple[Head, ...]:
    """All heads of a run, the most specialised first, and of the heads with one role (or none) one
    in turn, so that all roles are seen."""
    held = head_roles(series)[0][-1]
    # without the index of specialisation a head counts by its highest score of any role
    scores = [
        series.heads[name][-1]
        for name in ("specialisation", *(role.name for role in ROLES))
        if name in series.heads
    ]
    strength = np.nan_to_num(
        scores[0] if "specialisation" in series.heads else np.nanmax(scores, axis=0), nan=-1.0
    )
    queues: dict[int, list[Head]] = {}
    for head in sorted(_heads(series), key=lambda head: (-float(strength[head]), head)):
        queues.setdefault(int(held[head]), []).append(head)
    # heads without a role come when all roles had their turn
    queued = [
        queues[role]
        for role in sorted(queues, key=lambda role: (role < 0, -float(strength[queues[role][0]])))
    ]
    ranked: list[Head] = []
    while any(queued):
        ranked += [queue.pop(0) for queue in queued if queue]
    return tuple(ranked)


def order_by_index(series: ScoreSeries) -> Order:
    """Block -> its heads."""
    order: dict[int, tuple[int | None, ...]] = {}
    for block, head in _heads(series):
        order[block] = (*order.get(block, ()), head)
    return order


def matched_orders(runs: Sequence[ComparedRun]) -> list[Order]:
    """For each run block -> its heads, each in the column of the first run's head whose behaviour
    it has; None: it has no such head.

    Heads that match none stand behind the others.

    Raises:
        ConfigError: the models differ in depth.
    """
    depths = {run.series.shape[0] for run in runs}
    if len(depths) > 1:
        blocks = " and ".join(map(str, sorted(depths)))
        raise ConfigError(
            "order=matched puts heads side by side within their blocks; these models have "
            f"{blocks} blocks: use order=index"
        )
    found = behaviours(runs)
    orders = [order_by_index(runs[0].series)]
    for run, other in zip(runs[1:], found[1:], strict=True):
        partner = match_heads(found[0], other, scope="block").partner()
        order = {}
        for block, heads in order_by_index(run.series).items():
            beside = [
                partner[block, head][1] if (block, head) in partner else None
                for head in orders[0].get(block, ())
                if head is not None
            ]
            order[block] = (*beside, *(head for head in heads if head not in beside))
        orders.append(order)
    return orders


def head_beside(head: Head, reference: Order, other: Order) -> Head | None:
    """The head of another run that stands in the column of the reference's ``head``."""
    block, number = head
    column = reference[block].index(number)
    partner = other[block][column] if column < len(other.get(block, ())) else None
    return None if partner is None else (block, partner)


def _heads(series: ScoreSeries) -> list[Head]:
    """The heads that have a score at the last capture."""
    there = np.isfinite(np.stack([scores[-1] for scores in series.heads.values()])).any(0)
    return [(int(block), int(head)) for block, head in np.argwhere(there)]
