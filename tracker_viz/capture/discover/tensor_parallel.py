"""Find the process group over which heads are split: under tensor parallelism each process sees
only its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracker_viz.capture.discover.naming.projections import seen_attentions
from tracker_viz.capture.tracing.origins import Origins
from tracker_viz.errors import UnsupportedModelError

# In place of a group that was not seen; no process group is this object.
_UNKNOWN = object()


def group_of_heads(origins: Origins, block: str, attention: Sequence[str]) -> Any:
    """Return the process group over which a block's heads are split; None where every process sees
    them all.

    Args:
        attention: names, within the block, of the modules that made its attention calls.

    Raises:
        UnsupportedModelError: layers are split, and which process has which heads was not seen.
    """
    if not origins.split_over or not attention:
        return None
    seen = seen_attentions(origins, block, attention)
    queries = [each.query for each in seen]
    groups = []
    for query in queries:
        of_query = {id(group): group for group in map(origins.split_over.get, query)}
        if not query or len(of_query) != 1:
            groups.append(_UNKNOWN)
        groups += of_query.values()
    if not queries or len({id(group) for group in groups}) != 1 or groups[0] is _UNKNOWN:
        raise UnsupportedModelError(
            f"layers of {block} are split over processes (tensor parallelism), "
            "and it is unknown which process has which heads; parallelize the "
            "query, key and value projections with ColwiseParallel, or capture "
            "gathered checkpoints afterwards (tracker-viz backfill)"
        )
    return groups[0]
