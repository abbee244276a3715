"""List named arrays in a table, one row for all that are alike: of every block, and of scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from tracker_viz.notebook.markup import table

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_SCORE = re.compile(r"(scores\.[a-z_]+)\.(.+)")
_MOST_ROWS = 40


def arrays_table(arrays: Mapping[str, NDArray[Any]], axes: Mapping[str, Sequence[str]]) -> str:
    """Return markup with the name, the axes with their lengths and the type of every array; the
    first 40 rows where there are more.

    Args:
        axes: array name -> names of its axes.
    """
    alike: dict[tuple[str, str, str], list[str]] = {}
    for name, array in arrays.items():
        family, member = _family(name)
        lengths = _lengths(axes.get(name, ()), array.shape)
        alike.setdefault((family, lengths, str(array.dtype)), []).append(member)

    rows = []
    for (family, lengths, dtype), members in alike.items():
        rows.append((_name(family, members), lengths, dtype))
    if len(rows) > _MOST_ROWS:
        rows = [*rows[:_MOST_ROWS], (f"and {len(rows) - _MOST_ROWS} more", "", "")]
    return table(("array", "axes", "type"), rows)


def _lengths(axes: Sequence[str], shape: Sequence[int]) -> str:
    """Return ``head 4, query 64, key 64``."""
    if len(axes) != len(shape):
        return " x ".join(map(str, shape))
    return ", ".join(f"{axis} {length}" for axis, length in zip(axes, shape, strict=True))


def _family(name: str) -> tuple[str, str]:
    """Return the name with ``*`` in it, and what that stands for: of ``blocks.3.attn.pattern`` the
    block, of ``scores.head.sink`` the score."""
    block = _BLOCK.fullmatch(name)
    if block:
        return f"blocks.*.{block[2]}", block[1]
    score = _SCORE.fullmatch(name)
    if score:
        return f"{score[1]}.*", score[2]
    return name, ""


def _name(family: str, members: Sequence[str]) -> str:
    """Return ``blocks.0-11.attn.pattern``, ``scores.head.* (22 scores)``."""
    if len(members) == 1:
        return family.replace("*", members[0], 1)
    if not members[0].isdecimal():
        return f"{family} ({len(members)} scores)"
    blocks = sorted(map(int, members))
    are_all = len(blocks) == blocks[-1] - blocks[0] + 1
    return family.replace("*", f"{blocks[0]}{'-' if are_all else '..'}{blocks[-1]}", 1)
