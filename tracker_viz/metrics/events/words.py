"""Write steps, figures, heads and blocks the same way in the words of all events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from tracker_viz.types import HeadId


def steps_text(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


def figure(value: float) -> str:
    """Write a loss with the digits that a reader needs: ``3.2``, ``0.04``."""
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def heads_text(heads: Sequence[HeadId]) -> str:
    """Return ``L1H3``, ``L1H3 and L1H0``, ``L1H3 and 3 more heads``."""
    names = [f"L{block}H{head}" for block, head in heads]
    if len(names) <= 2:
        return " and ".join(names)
    return f"{names[0]} and {len(names) - 1} more heads"


def experts_text(experts: Sequence[HeadId]) -> str:
    """Return ``expert 3 of block 1``, or ``3 experts in blocks 0 and 1``."""
    if len(experts) == 1:
        block, expert = experts[0]
        return f"expert {expert} of block {block}"
    return f"{len(experts)} experts in {blocks_text(experts)}"


def blocks_text(members: Collection[HeadId]) -> str:
    """Name the blocks of some heads or experts: ``block 1``, ``blocks 0 to 3``, ``9 blocks``."""
    blocks = sorted({block for block, _ in members})
    if len(blocks) == 1:
        return f"block {blocks[0]}"
    if len(blocks) == 2:
        return f"blocks {blocks[0]} and {blocks[1]}"
    if all(after - before == 1 for before, after in pairwise(blocks)):
        return f"blocks {blocks[0]} to {blocks[-1]}"
    if len(blocks) <= 4:
        return "blocks " + ", ".join(map(str, blocks[:-1])) + f" and {blocks[-1]}"
    return f"{len(blocks)} blocks"


def singular(action: str) -> str:
    """Turn the verb phrase of several into that of one: ``look back`` -> ``looks back``."""
    verb, rest = action.split(" ", 1)
    return f"{verb}s {rest}"
