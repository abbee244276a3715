"""Order the heads of a run, and put the heads of another run beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison.align import Axis, comparable_axis
from tracker_viz.comparison.matching import behaviors, match_heads
from tracker_viz.comparison.runs import ComparedRun
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import NO_ROLE, ROLES, ScoreSeries, head_roles
from tracker_viz.types import HeadId

# Block -> its heads from left to right; None: an empty column.
Order = Mapping[int, tuple[int | None, ...]]


def ranking(series: ScoreSeries) -> tuple[HeadId, ...]:
    """Return all heads of a run, the most specialized first.

    Heads with different roles (or none) take turns, so that the first few show all roles.
    """
    held = head_roles(series)[0][-1]
    strength = _strength(series)
    queues: dict[int, list[HeadId]] = {}
    for head in sorted(_present_heads(series), key=lambda head: (-float(strength[head]), head)):
        queues.setdefault(int(held[head]), []).append(head)

    def place(role: int) -> tuple[bool, float]:
        return role == NO_ROLE, -float(strength[queues[role][0]])

    in_turn = [queues[role] for role in sorted(queues, key=place)]
    ranked: list[HeadId] = []
    while any(in_turn):
        ranked += [queue.pop(0) for queue in in_turn if queue]
    return tuple(ranked)


def order_by_index(series: ScoreSeries) -> Order:
    """Return block -> its heads, by their index."""
    by_block: dict[int, list[int | None]] = {}
    for block, head in _present_heads(series):
        by_block.setdefault(block, []).append(head)
    return {block: tuple(heads) for block, heads in by_block.items()}


def matched_orders(runs: Sequence[ComparedRun], *, axis: Axis | None = None) -> list[Order]:
    """Return for each run block -> its heads, each in the column of the first run's head that
    behaved like it; None: the run has no such head.

    Heads that match none come after the others.

    Args:
        axis: None: ``comparable_axis`` of the runs. Each run is compared with the first over the
            stretch that both have.

    Raises:
        ConfigError: the models differ in depth.
    """
    depths = sorted({run.series.shape[0] for run in runs})
    if len(depths) > 1:
        blocks = " and ".join(map(str, depths))
        raise ConfigError(
            "order=matched puts heads side by side within their blocks; these models have "
            f"{blocks} blocks: use order=index"
        )
    axis = axis or comparable_axis(runs)
    reference = order_by_index(runs[0].series)
    orders = [reference]
    for run in runs[1:]:
        first, other = behaviors([runs[0], run], axis=axis)
        partner = match_heads(first, other, scope="block").partner()
        orders.append(_order_beside(reference, order_by_index(run.series), partner))
    return orders


def head_beside(head: HeadId, reference: Order, other: Order) -> HeadId | None:
    """Return the head of another run in the column of the reference's ``head``, or None."""
    block, number = head
    column = reference[block].index(number)
    columns = other.get(block, ())
    if column >= len(columns):
        return None
    partner = columns[column]
    return None if partner is None else (block, partner)


def _order_beside(
    reference: Order, own: Order, partner: Mapping[HeadId, HeadId]
) -> dict[int, tuple[int | None, ...]]:
    """Return a run's heads in the columns of the reference's heads that they are partners of."""
    order: dict[int, tuple[int | None, ...]] = {}
    for block, heads in own.items():
        beside: list[int | None] = []
        for head in reference.get(block, ()):
            found = None if head is None else partner.get((block, head))
            beside.append(None if found is None else found[1])
        order[block] = (*beside, *(head for head in heads if head not in beside))
    return order


def _strength(series: ScoreSeries) -> NDArray[np.float32]:
    """Return how specialized each head is at the end: float32 [block, head], -1 where unknown."""
    if "specialisation" in series.heads:
        strength = series.heads["specialisation"][-1]
    else:
        scores = [series.heads[role.name][-1] for role in ROLES if role.name in series.heads]
        strength = np.fmax.reduce(scores)
    return np.nan_to_num(strength, nan=-1.0)


def _present_heads(series: ScoreSeries) -> list[HeadId]:
    """Return the heads that have a score at the last capture."""
    scores = np.stack([values[-1] for values in series.heads.values()])
    return [(int(block), int(head)) for block, head in np.argwhere(np.isfinite(scores).any(0))]
