"""Write the numbers that change from frame to frame."""

from __future__ import annotations

import math

from tracker_viz.rendering.plan import Plan, Readout
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.subject import NOT_YET, RunTrack, Subject, Timing


def readout_text(readout: Readout, plan: Plan, subject: Subject, metric: str, point: int) -> str:
    """Return what a number of the picture says at ``timing.points[point]``."""
    timing, run = subject.timing, subject.runs[readout.run]
    capture = int(timing.captures[readout.run, point])
    if readout.quantity == timing.axis:
        return clock_text(timing, point)
    if readout.quantity == "run":
        return run_text(run, timing, capture, bool(timing.ended[readout.run, point]), metric)
    if readout.quantity == "tokens":
        return si_number(run.series.tokens_seen[capture] or 0)
    if readout.role:
        roles = plan.run_roles[readout.run]
        return f"{roles.n_holders[capture, roles.names.index(readout.role)]:,}"
    if readout.is_score:
        score = run.series.read(capture, [readout.quantity])[readout.quantity]
        return format_metric(float(score.flat[0]))
    return format_metric(run.series.metrics[capture].get(readout.quantity, float("nan")))


def clock_text(timing: Timing, point: int) -> str:
    """Write the point of time: ``1,000``, ``1.02 M``, ``54%``."""
    place = float(timing.points[point])
    match timing.axis:
        case "step":
            return f"{place:,.0f}"
        case "tokens":
            return si_number(place)
        case "progress":
            return f"{place:.0%}"


def run_text(run: RunTrack, timing: Timing, capture: int, ended: bool, metric: str) -> str:
    """Return the numbers beside one of several runs: its loss, the step of its capture where the
    clock shows something else, and whether it is over."""
    if capture == NOT_YET:
        return "not yet"
    parts = []
    value = run.series.metrics[capture].get(metric)
    if value is not None:
        parts.append(format_metric(value))
    if timing.axis != "step":
        parts.append(f"@{run.series.steps[capture]:,}")
    if ended:
        parts.append("ended")
    return " ".join(parts)


def longest_run_text(subject: Subject, index: int, metric: str) -> int:
    """Return the characters that the numbers beside a run may need."""
    run, timing = subject.runs[index], subject.timing
    ends = bool(timing.ended[index].any())
    captures = list(range(len(run.series)))
    if (timing.captures[index] == NOT_YET).any():
        captures.append(NOT_YET)
    return max(len(run_text(run, timing, capture, ends, metric)) for capture in captures)


def format_metric(value: float) -> str:
    """Return a loss as the header says it: ``1.808``; ``–`` where there is none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"
