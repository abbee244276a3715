"""Scores that say what a head does and what a weight matrix has become. Pure functions over numpy arrays.

``Scorer`` (or ``score``) turns a Capture into the same Capture with scores; it is what the spool's writer thread runs.
"""

from tracker_viz.metrics.heads import HEAD_SCORES, HeadScore
from tracker_viz.metrics.probe import ProbeRow, probe_rows, uniform_attention
from tracker_viz.metrics.scorer import Scorer, score
from tracker_viz.metrics.summary import chart_metrics, head_name
from tracker_viz.metrics.weights import WEIGHT_SCORES, WeightScore

__all__ = [
    "HEAD_SCORES",
    "WEIGHT_SCORES",
    "HeadScore",
    "ProbeRow",
    "Scorer",
    "WeightScore",
    "chart_metrics",
    "head_name",
    "probe_rows",
    "score",
    "uniform_attention",
]
