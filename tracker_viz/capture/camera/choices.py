"""Choose what is kept of a model: the heads and the weights that the options name."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence

from torch import nn

from tracker_viz.capture.discover.model_info import ModelStructure, matrices_of
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.errors import ConfigError


def chosen_projections(
    model: nn.Module,
    structure: ModelStructure,
    wanted: Collection[str] | None,
    *,
    by_hand: bool,
) -> list[Projection]:
    """Return the weights that are wanted, of all blocks.

    Args:
        wanted: names or patterns (``mlp.*``); all that were found if None.
        by_hand: the user named the parameter of each, so any matrix of a block could be meant.

    Raises:
        ConfigError: one of them finds nothing.
    """
    if wanted is None:
        return list(structure.projections)

    known = {projection.name for projection in structure.projections}
    lacking = {each for each in wanted if not fnmatch.filter(known, each)}
    if lacking:
        there: Collection[str] = known
        if by_hand:
            there = matrices_of(model, structure.blocks[0])
        raise ConfigError(
            f"projections={sorted(lacking)} were not found; the model has "
            f"{', '.join(sorted(there))}"
        )
    return [each for each in structure.projections if _matches(each.name, wanted)]


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def chosen_heads(
    n_heads: Sequence[int],
    only_blocks: Collection[int] | None,
    only_heads: Collection[int] | Mapping[int, Collection[int]] | None,
) -> list[tuple[int, ...]]:
    """Return the heads to keep of every block.

    Raises:
        ConfigError: there is no such block or head, or nothing would be left.
    """
    by_block = only_heads if isinstance(only_heads, Mapping) else {}
    for number in sorted({*(only_blocks or ()), *by_block}):
        if not 0 <= number < len(n_heads):
            raise ConfigError(
                f"there is no block {number} to keep: the model's {len(n_heads)} blocks count from "
                "0"
            )
    chosen: list[tuple[int, ...]] = []
    for block, count in enumerate(n_heads):
        if count == 0 or (only_blocks is not None and block not in only_blocks):
            chosen.append(())
            continue
        wanted: Collection[int] = range(count)
        if isinstance(only_heads, Mapping):
            wanted = only_heads.get(block, ())
        elif only_heads is not None:
            wanted = only_heads
        lacking = set(wanted) - set(range(count))
        if lacking:
            raise ConfigError(
                f"there is no head {max(lacking)} in block {block}: its {count} heads count from 0"
            )
        chosen.append(tuple(sorted(set(wanted))))
    if not any(chosen) and any(n_heads):
        raise ConfigError(
            f"only_blocks={only_blocks} and only_heads={only_heads} leave no attention; blocks "
            f"have {list(n_heads)} heads"
        )
    return chosen
