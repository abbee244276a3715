"""Say which numbers a box shows: pure functions from captures to a matrix, as small frozen values
that a plan holds.

Every source names the arrays it reads and turns a Moment into a matrix [rows, columns]; NaN and
infinities pass through.
"""

from tracker_viz.rendering.sources.attention import (
    HeadMap,
    Mosaic,
    extreme_pool,
    future,
    indexer_name,
    max_pool,
    norms_name,
)
from tracker_viz.rendering.sources.moment import Moment, Show, Source, needs_of
from tracker_viz.rendering.sources.scores import CodedMap, HeldMap, RouterMap, ScoreMap
from tracker_viz.rendering.sources.weights import (
    Reduce,
    WeightMap,
    WeightSummary,
    order_by_direction,
    order_by_norm,
    pool,
)

__all__ = [
    "CodedMap",
    "HeadMap",
    "HeldMap",
    "Moment",
    "Mosaic",
    "Reduce",
    "RouterMap",
    "ScoreMap",
    "Show",
    "Source",
    "WeightMap",
    "WeightSummary",
    "extreme_pool",
    "future",
    "indexer_name",
    "max_pool",
    "needs_of",
    "norms_name",
    "order_by_direction",
    "order_by_norm",
    "pool",
]
