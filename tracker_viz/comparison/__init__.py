"""How runs compare: which run's heads became what, when, and how alike the runs are. Pure functions
over score series in memory.

``ComparedRun``s go in; alignments (which capture of which run belongs side by side), matchings,
distances, clusters and tables come out. Nothing here reads a tracker or draws. scipy is imported by
what computes with it, not with this package: training imports the latter.
"""

from tracker_viz.comparison.align import (
    AXES,
    NOT_YET,
    Alignment,
    Axis,
    align,
    positions,
    trajectories,
)
from tracker_viz.comparison.clustering import HeadClusters, cluster_heads
from tracker_viz.comparison.distance import (
    DistanceMatrix,
    distance,
    distance_matrix,
    shuffled_distance,
)
from tracker_viz.comparison.matching import BEHAVIOUR, Behaviour, Matching, behaviours, match_heads
from tracker_viz.comparison.ordering import (
    Order,
    head_beside,
    matched_orders,
    order_by_index,
    ranking,
)
from tracker_viz.comparison.runs import (
    ComparedRun,
    check_runs,
    comparability_notes,
    differing_settings,
    in_order_of_settings,
    run_labels,
)
from tracker_viz.comparison.table import (
    Correlation,
    correlations,
    run_table,
    table_csv,
    write_table,
)

__all__ = [
    "AXES",
    "BEHAVIOUR",
    "NOT_YET",
    "Alignment",
    "Axis",
    "Behaviour",
    "ComparedRun",
    "Correlation",
    "DistanceMatrix",
    "HeadClusters",
    "Matching",
    "Order",
    "align",
    "behaviours",
    "check_runs",
    "cluster_heads",
    "comparability_notes",
    "correlations",
    "differing_settings",
    "distance",
    "distance_matrix",
    "head_beside",
    "in_order_of_settings",
    "match_heads",
    "matched_orders",
    "order_by_index",
    "positions",
    "ranking",
    "run_labels",
    "run_table",
    "shuffled_distance",
    "table_csv",
    "trajectories",
    "write_table",
]
