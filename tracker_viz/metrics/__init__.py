"""Scores that say what a head does and what a weight matrix has become. Pure functions over numpy
arrays.

``Scorer`` (or ``score``) turns a Capture into the same Capture with scores; it is what the spool's
writer thread runs.
"""

from tracker_viz.metrics.events import Event, find_events, run_sentence, strongest_event
from tracker_viz.metrics.head_scores import HEAD_SCORES, SCORE_DEFINITIONS, HeadScore
from tracker_viz.metrics.probe_rows import ProbeRow, probe_rows, uniform_attention
from tracker_viz.metrics.roles import (
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
from tracker_viz.metrics.series import ScoreSeries, score_series
from tracker_viz.metrics.summary import (
    chart_metrics,
    charted,
    head_name,
    head_table,
    run_summary,
    run_tags,
)
from tracker_viz.metrics.weight_scores import WEIGHT_SCORES, WeightScore

__all__ = [
    "HEAD_SCORES",
    "NO_ROLE",
    "ROLES",
    "SCORE_DEFINITIONS",
    "SCORE_FILE",
    "WEIGHT_SCORES",
    "Event",
    "HeadScore",
    "Onset",
    "ProbeRow",
    "Role",
    "ScoreFile",
    "ScoreSeries",
    "Scorer",
    "WeightScore",
    "chart_metrics",
    "charted",
    "find_events",
    "first_onsets",
    "head_name",
    "head_roles",
    "head_table",
    "margin",
    "onsets",
    "probe_rows",
    "read_score_file",
    "role_states",
    "run_sentence",
    "run_summary",
    "run_tags",
    "score",
    "score_bytes",
    "score_series",
    "strongest_event",
    "uniform_attention",
]
