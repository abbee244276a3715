"""Cut what a capture holds of routers and indexers to the rows, positions and blocks that are kept.
Called by ``budget``; scores of experts were taken before, of all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.capture.weights.matrices import evenly_spaced

Arrays = Mapping[str, NDArray[Any]]

# Routers take at most this share of a capture's bytes.
ROUTER_SHARE = 0.2

_NAME = re.compile(r"(blocks\.\d+)\.(mlp\.router|attn\.router|attn\.indexer)(\.chosen|\.weight)?")
_BYTES = 2  # float16


def routers_of(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return those of a capture's arrays that routers gave, each [probe, token, ...], and indexers,
    each [probe, ..., query, key]."""
    return {name: array for name, array in arrays.items() if _NAME.fullmatch(name)}


def router_bytes(arrays: Arrays) -> int:
    return _BYTES * sum(array.size for array in routers_of(arrays).values())


def shown_of_routers(
    arrays: Arrays, rows: Sequence[int], n_positions: int
) -> dict[str, NDArray[Any]]:
    """Return the routers of ``arrays`` on some rows of the probe, and on its first positions."""
    shown = {}
    for name, array in routers_of(arrays).items():
        if name.endswith(".indexer"):
            shown[name] = array[list(rows), ..., :n_positions, :n_positions]
        else:
            shown[name] = array[list(rows), :n_positions]
    return shown


def thinned_routers(arrays: Arrays, nbytes: float) -> tuple[dict[str, NDArray[Any]], int, int]:
    """Keep the routers of evenly spaced blocks, as many as fit ``nbytes`` and at least one.

    Returns:
        The arrays, the number of blocks whose routers are kept, and the number that had routers.
    """
    routers = routers_of(arrays)
    blocks = list(dict.fromkeys(_block_of(name) for name in routers))
    n_kept = len(blocks)
    if router_bytes(routers) > nbytes:
        n_kept = max(int(nbytes * len(blocks) / router_bytes(routers)), 1)
    kept = {blocks[index] for index in evenly_spaced(len(blocks), n_kept)} if blocks else set()
    thinned = {}
    for name, array in arrays.items():
        if name not in routers:
            thinned[name] = array
        elif _block_of(name) in kept:
            thinned[name] = np.ascontiguousarray(array)
    return thinned, n_kept, len(blocks)


def _block_of(name: str) -> str:
    return ".".join(name.split(".")[:2])
