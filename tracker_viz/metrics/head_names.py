"""Write a head's name, and read it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tracker_viz.types import HeadId


def head_name(block: int, head: int) -> str:
    """Return a head's name in tables and charts: ``L03H01`` sorts by block, then head."""
    return f"L{block:02d}H{head:02d}"


def head_of(name: str) -> HeadId:
    """Return the (block, head) that ``head_name`` wrote.

    Raises:
        ValueError: it is no such name.
    """
    block, head = name.removeprefix("L").split("H")
    return int(block), int(head)


def shown_heads(text: str) -> str:
    """Return ``text`` with every head's name as pictures show it: ``L3H1`` for ``L03H01``."""
    return re.sub(r"\bL0*(\d+)H0*(\d+)\b", r"L\1H\2", text)


def head_numbers(labels: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers of heads, or channels, from the labels of a capture: numbers, alone or
    after a letter."""
    return tuple(int(label.lstrip("Hh")) for label in labels)
