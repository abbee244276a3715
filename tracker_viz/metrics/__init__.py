"""Scores that say what a head does and what a weight matrix has become. Pure functions over numpy
arrays.

``Scorer`` (or ``score``) turns a Capture into the same Capture with scores; it is what the spool's
writer thread runs.
"""

from tracker_viz.metrics.events import Event, find_events, run_sentence, strongest_event
from tracker_viz.metrics.head_scores import HEAD_SCORES, SCORE_DEFINITIONS
from tracker_viz.metrics.probe_rows import ProbeRow
from tracker_viz.metrics.roles import (
    CONFIRMATIONS,
    NO_ROLE,
    ROLES,
    Onset,
    Role,
    first_onsets,
    head_roles,
    margin,
    onsets,
    role_states,
)
from tracker_viz.metrics.score_file import SCORE_FILE, ScoreFile, read_score_file, score_bytes
from tracker_viz.metrics.scorer import Scorer, score
from tracker_viz.metrics.series import HEAD_PREFIX, SD_PREFIX, ScoreSeries, score_series
from tracker_viz.metrics.summary import (
    chart_metrics,
    charted,
    head_name,
    head_table,
    run_summary,
    run_tags,
)
from tracker_viz.metrics.weight_scores import MAX_SPECTRUM_SIDE, WEIGHT_NAME, WEIGHT_SCORES

__all__ = [
    "CONFIRMATIONS",
    "HEAD_PREFIX",
    "HEAD_SCORES",
    "MAX_SPECTRUM_SIDE",
    "NO_ROLE",
    "ROLES",
    "SCORE_DEFINITIONS",
    "SCORE_FILE",
    "SD_PREFIX",
    "WEIGHT_NAME",
    "WEIGHT_SCORES",
    "Event",
    "Onset",
    "ProbeRow",
    "Role",
    "ScoreFile",
    "ScoreSeries",
    "Scorer",
    "chart_metrics",
    "charted",
    "find_events",
    "first_onsets",
    "head_name",
    "head_roles",
    "head_table",
    "margin",
    "onsets",
    "read_score_file",
    "role_states",
    "run_sentence",
    "run_summary",
    "run_tags",
    "score",
    "score_bytes",
    "score_series",
    "strongest_event",
]
