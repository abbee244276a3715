"""Compare runs: when the heads of each run took their roles, how alike the runs are, and how much
of that a sweep's settings explain. Pure functions over score series in memory.

``ComparedRun``s come in; alignments (which captures belong side by side), matchings, distances,
clusters, statistics, tables and sentences come out. Nothing here reads a tracker or draws. scipy is
imported inside the functions that need it, because training imports this package.
"""

from tracker_viz.comparison.align import (
    NOT_YET,
    Alignment,
    Axis,
    align,
    comparable_axis,
    positions,
    trajectories,
)
from tracker_viz.comparison.clustering import cluster_heads
from tracker_viz.comparison.correlation import Correlation, correlations
from tracker_viz.comparison.distance import (
    chance_distance,
    distance,
    distance_matrix,
)
from tracker_viz.comparison.experts import (
    RoutedRun,
    expert_table,
    experts_sentence,
    match_experts,
)
from tracker_viz.comparison.findings import (
    SIGNIFICANT,
    axis_note,
    distance_sentence,
    findings_text,
    formed_roles,
    group_sentences,
    short_runs_note,
    strongest_sentence,
    times_text,
)
from tracker_viz.comparison.groups import (
    SettingGroup,
    all_runs,
    final_loss,
    setting_groups,
    settings_of,
)
from tracker_viz.comparison.matching import BEHAVIOR, behaviors, match_heads
from tracker_viz.comparison.mixers import (
    match_mixers,
    mixer_table,
    mixing_distances,
    mixing_run,
)
from tracker_viz.comparison.onsets import role_onsets
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
    first_few,
    in_order_of_settings,
    run_labels,
    run_title,
)
from tracker_viz.comparison.table import (
    correlation_table,
    group_table,
    run_table,
    table_csv,
    write_file,
    write_table,
)

__all__ = [
    "BEHAVIOR",
    "NOT_YET",
    "SIGNIFICANT",
    "Alignment",
    "Axis",
    "ComparedRun",
    "Correlation",
    "Order",
    "RoutedRun",
    "SettingGroup",
    "align",
    "all_runs",
    "axis_note",
    "behaviors",
    "chance_distance",
    "check_runs",
    "cluster_heads",
    "comparability_notes",
    "comparable_axis",
    "correlation_table",
    "correlations",
    "differing_settings",
    "distance",
    "distance_matrix",
    "distance_sentence",
    "expert_table",
    "experts_sentence",
    "final_loss",
    "findings_text",
    "first_few",
    "formed_roles",
    "group_sentences",
    "group_table",
    "head_beside",
    "in_order_of_settings",
    "match_experts",
    "match_heads",
    "match_mixers",
    "matched_orders",
    "mixer_table",
    "mixing_distances",
    "mixing_run",
    "order_by_index",
    "positions",
    "ranking",
    "role_onsets",
    "run_labels",
    "run_table",
    "run_title",
    "setting_groups",
    "settings_of",
    "short_runs_note",
    "strongest_sentence",
    "table_csv",
    "times_text",
    "trajectories",
    "write_file",
    "write_table",
]
