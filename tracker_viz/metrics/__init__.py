"""Score heads and weight matrices, label roles, find onsets and events: pure functions over numpy
arrays.

``Scorer`` (or ``score``) turns a Capture into the same Capture with scores; the spool's writer
thread runs it.
"""

from tracker_viz.metrics.charts import chart_metrics, charted
from tracker_viz.metrics.circuits.captured import AXES as COMPOSITION_AXES
from tracker_viz.metrics.circuits.captured import composition_scores
from tracker_viz.metrics.circuits.composition import (
    MOST_HEADS,
    HeadMatrices,
    composition_of,
    pairs_of,
    random_composition,
    split_heads,
    thinned,
)
from tracker_viz.metrics.circuits.composition import PREFIX as COMPOSITION_PREFIX
from tracker_viz.metrics.circuits.composition import as_arrays as composition_arrays
from tracker_viz.metrics.events import (
    DeadExperts,
    Event,
    LossFall,
    RoleEvent,
    Tone,
    event_table,
    find_events,
    run_sentence,
    strongest_event,
)
from tracker_viz.metrics.evidence import gather_evidence, role_evidence, role_states
from tracker_viz.metrics.head_changes import (
    HeadChange,
    WeightChange,
    head_changes,
    map_of_head,
    weight_changes,
)
from tracker_viz.metrics.head_names import head_name, head_numbers, shown_heads
from tracker_viz.metrics.head_scores import HEAD_SCORES, SCORE_DEFINITIONS
from tracker_viz.metrics.labels import NO_ROLE, head_roles, labels_near_line, margin, near_line
from tracker_viz.metrics.mixing_scores import MIXING_SCORES, equal_mixing
from tracker_viz.metrics.mixtures.expert_scores import EXPERT_SCORES, ROUTER_SCORES
from tracker_viz.metrics.onsets import (
    CURVE_THRESHOLDS,
    Onset,
    lasting_onsets,
    onset_curve,
    onsets,
    run_onsets,
)
from tracker_viz.metrics.probe_rows import MIN_PERIOD, ProbeRow, RowKind
from tracker_viz.metrics.roles import ROLES, Role, role_label, role_score_names
from tracker_viz.metrics.score_file import SCORE_FILE, ScoreFile, read_score_file, score_bytes
from tracker_viz.metrics.scorer import Scorer, score
from tracker_viz.metrics.series import (
    EXPERT_PREFIX,
    HEAD_PREFIX,
    ROUTER_PREFIX,
    SD_PREFIX,
    STREAM_PREFIX,
    ScoreSeries,
    score_series,
)
from tracker_viz.metrics.signals.alarms import Alarm, Alarms
from tracker_viz.metrics.signals.probe_loss import PROBE_LOSS, PROBE_LOSS_AXES
from tracker_viz.metrics.summary import run_summary, run_tags, shown_summary
from tracker_viz.metrics.tables import head_table, onset_table
from tracker_viz.metrics.verdicts import (
    VERDICT_COLUMNS,
    AblatedSet,
    Ablations,
    RolePlan,
    ablations,
    judged_by,
    labels_at,
    marked_rows,
    role_plans,
    sentences,
    verdict_rows,
)
from tracker_viz.metrics.weights.weight_scores import MAX_SPECTRUM_SIDE, WEIGHT_NAME, WEIGHT_SCORES

__all__ = [
    "COMPOSITION_AXES",
    "COMPOSITION_PREFIX",
    "CURVE_THRESHOLDS",
    "EXPERT_PREFIX",
    "EXPERT_SCORES",
    "HEAD_PREFIX",
    "HEAD_SCORES",
    "MAX_SPECTRUM_SIDE",
    "MIN_PERIOD",
    "MIXING_SCORES",
    "MOST_HEADS",
    "NO_ROLE",
    "PROBE_LOSS",
    "PROBE_LOSS_AXES",
    "ROLES",
    "ROUTER_PREFIX",
    "ROUTER_SCORES",
    "SCORE_DEFINITIONS",
    "SCORE_FILE",
    "SD_PREFIX",
    "STREAM_PREFIX",
    "VERDICT_COLUMNS",
    "WEIGHT_NAME",
    "WEIGHT_SCORES",
    "AblatedSet",
    "Ablations",
    "Alarm",
    "Alarms",
    "DeadExperts",
    "Event",
    "HeadChange",
    "HeadMatrices",
    "LossFall",
    "Onset",
    "ProbeRow",
    "Role",
    "RoleEvent",
    "RolePlan",
    "RowKind",
    "ScoreFile",
    "ScoreSeries",
    "Scorer",
    "Tone",
    "WeightChange",
    "ablations",
    "chart_metrics",
    "charted",
    "composition_arrays",
    "composition_of",
    "composition_scores",
    "equal_mixing",
    "event_table",
    "find_events",
    "gather_evidence",
    "head_changes",
    "head_name",
    "head_numbers",
    "head_roles",
    "head_table",
    "judged_by",
    "labels_at",
    "labels_near_line",
    "lasting_onsets",
    "map_of_head",
    "margin",
    "marked_rows",
    "near_line",
    "onset_curve",
    "onset_table",
    "onsets",
    "pairs_of",
    "random_composition",
    "read_score_file",
    "role_evidence",
    "role_label",
    "role_plans",
    "role_score_names",
    "role_states",
    "run_onsets",
    "run_sentence",
    "run_summary",
    "run_tags",
    "score",
    "score_bytes",
    "score_series",
    "sentences",
    "shown_heads",
    "shown_summary",
    "split_heads",
    "strongest_event",
    "thinned",
    "verdict_rows",
    "weight_changes",
]
