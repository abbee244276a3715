"""What a comparison found, in sentences: how many runs of each setting formed which role, when, and
whether any setting goes with an outcome beyond chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison.align import Axis
from tracker_viz.comparison.correlation import MIN_RUNS_TO_TEST, Correlation
from tracker_viz.comparison.distance import DistanceMatrix
from tracker_viz.comparison.groups import SettingGroup
from tracker_viz.comparison.runs import first_few
from tracker_viz.comparison.statistics import OnsetTimes, Spread

# Of more settings the table has the others.
MOST_GROUPS = 8
SIGNIFICANT = 0.05
_AXIS_WORDS: Mapping[Axis, str] = {
    "step": "training step",
    "tokens": "tokens seen",
    "progress": "progress, the share of each run's own training",
}


def axis_note(axis: Axis, *, chosen: bool) -> str:
    """Return how the runs were aligned. ``chosen``: by us, because nobody asked for an axis."""
    reasons = {
        "step": "the runs have steps in common",
        "tokens": "the runs see different numbers of tokens per step",
        "progress": "the runs have no step in common",
    }
    why = f", because {reasons[axis]}" if chosen and axis != "step" else ""
    stretch = "" if axis == "progress" else "; each pair over the stretch that both have"
    return f"Runs are compared by {_AXIS_WORDS[axis]}{why}{stretch}."


def place_text(place: float, axis: Axis) -> str:
    """Return a place on an axis: ``1,000``, ``2.5M``, ``48 %``."""
    if axis == "step":
        return f"{place:,.0f}"
    if axis == "progress":
        return f"{place:.0%}".replace("%", " %")
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if place >= size:
            return f"{place / size:.3g}{unit}"
    return f"{place:.0f}"


def group_sentences(
    groups: Sequence[SettingGroup], together: SettingGroup, axis: Axis
) -> list[str]:
    """Return one sentence for all runs and one per setting: ``n_heads=4: induction formed in 5 of 6
    seeds, median step 480 (460 to 633); loss 1.52 ± 0.01.``

    Args:
        together: all runs as one group.
    """
    roles = formed_roles([together])
    sentences = [_group_sentence(together, roles, axis)]
    # Of one group, or of settings without replicates, that has said it all.
    if len(groups) == 1 or all(len(group.runs) == 1 for group in groups):
        return sentences
    sentences += [_group_sentence(group, roles, axis) for group in groups[:MOST_GROUPS]]
    if len(groups) > MOST_GROUPS:
        sentences.append(f"{len(groups) - MOST_GROUPS} more settings are in settings.csv.")
    return sentences


def formed_roles(groups: Sequence[SettingGroup]) -> list[str]:
    """Return the roles that any run formed, in the order in which groups have them."""
    formed: dict[str, None] = {}
    for group in groups:
        formed |= {role: None for role, times in group.times.items() if times.n_formed}
    return list(formed)


def roles_sentence(together: SettingGroup, axis: Axis) -> str:
    """Return when the runs of a group formed each role; empty where none did."""
    parts = _role_parts(together, formed_roles([together]), axis)
    return f"{'; '.join(parts)}." if parts else ""


def times_text(times: OnsetTimes, axis: Axis) -> str:
    """Return the shortest form of ``onset_sentence``: ``5 of 6 · 480 (460 to 633)``."""
    share = f"{times.n_formed} of {times.n_runs}"
    if times.first is None or times.last is None:
        return share
    around = _from_to(times.first, times.last, axis)
    if times.median is None or times.n_runs == 1:
        return f"{share} · {around}"
    return f"{share} · {place_text(times.median, axis)} ({around})"


def findings_text(title: str, findings: Sequence[str], notes: Sequence[str]) -> str:
    """Return findings and notes as Markdown."""
    lines = [f"# {title}", "", *(f"* {finding}" for finding in findings), ""]
    return "\n".join([*lines, "Notes:", "", *(f"* {note}" for note in notes), ""])


def onset_sentence(role: str, times: OnsetTimes, *, replicates: str, axis: Axis) -> str:
    """Return when runs formed a role: ``induction formed in 5 of 6 seeds, median step 480 (460 to
    633)``.

    Args:
        replicates: what the runs are called: ``seeds`` or ``runs``.
    """
    name = role.replace("_", " ")
    if times.first is None or times.last is None:
        return (
            f"{name} not formed"
            if times.n_runs == 1
            else f"{name} formed in none of {times.n_runs} {replicates}"
        )
    if times.n_runs == 1:
        near = ", near the line" if times.n_near_line else ""
        return f"{name} formed {_at(times.first, axis)}{near}"
    near = f", {times.n_near_line} of them near the line" if times.n_near_line else ""
    share = f"{times.n_formed} of {times.n_runs} {replicates}"
    return f"{name} formed in {share}, {_when(times.first, times.last, times.median, axis)}{near}"


def strongest_sentence(found: Sequence[Correlation], n_runs: int) -> str:
    """Return what the corrected test says of the strongest finding."""
    if n_runs < MIN_RUNS_TO_TEST:
        return (
            f"No test of the settings: that takes {MIN_RUNS_TO_TEST} runs, and there are {n_runs}."
        )
    if not found:
        return "No test of the settings: none of them varies beside the seed."
    strongest = found[0]
    setting = " = ".join((strongest.setting, *strongest.same_as))
    sign = "+" if strongest.kind == "spearman" else ""
    words = (
        f"{setting} and {strongest.outcome}: {strongest.kind} {strongest.coefficient:{sign}.2f} "
        f"(95 % {strongest.low:{sign}.2f} to {strongest.high:{sign}.2f}), "
        f"p = {strongest.p_value:.3g} over {strongest.n_runs} runs"
    )
    tests = f"{strongest.n_tests} tests" if strongest.n_tests > 1 else "one test"
    if strongest.p_value < SIGNIFICANT:
        return f"Strongest of {tests}: {words}, corrected for all of them."
    return (
        f"No setting goes with an outcome beyond chance. Strongest of {tests}: {words}, corrected."
    )


def distance_sentence(distances: DistanceMatrix, settings: Mapping[str, object]) -> str:
    """Return how far the runs are from each other, beside seeds and chance.

    Args:
        settings: run name -> its setting without seeds.
    """
    seeds = distances.between_seeds(settings)
    others = ~seeds & ~np.eye(len(distances.names), dtype=bool)
    parts = [f"seeds of one setting {_range(distances.overall, seeds)}"] if seeds.any() else []
    if others.any():
        name = "different settings" if seeds.any() else "the runs"
        parts.append(f"{name} {_range(distances.overall, others)}")
    parts.append(f"shuffled heads {_range(distances.shuffled, seeds | others)}")
    apart = f"Distances of the runs' heads: {', '.join(parts)}."

    pairs = np.triu(seeds | others)
    alike = int((distances.percentile[pairs] < SIGNIFICANT).sum())
    return (
        f"{apart} {alike} of {int(pairs.sum())} pairs are more alike than 95 % of "
        f"{distances.n_shuffles} shuffles of their heads."
    )


def short_runs_note(labels: Mapping[str, str], ends: Mapping[str, float], axis: Axis) -> str | None:
    """Return which runs are compared over less than half of the longest one's training; None
    where none is.

    Args:
        ends: run name -> where it ends on the axis.
    """
    longest = max(ends.values())
    short = [
        f"{labels[name]} ({_at(end, axis)})" for name, end in ends.items() if end < longest / 2
    ]
    if not short:
        return None
    return f"Compared only up to where they end: {first_few(short)}."


def _group_sentence(group: SettingGroup, roles: Sequence[str], axis: Axis) -> str:
    parts = _role_parts(group, roles, axis)
    if group.loss is not None:
        parts.append(f"loss {_spread_text(group.loss)}")
    return f"{group.label}: {'; '.join(parts) or 'no role formed'}."


def _role_parts(group: SettingGroup, roles: Sequence[str], axis: Axis) -> list[str]:
    replicates = "seeds" if group.differ_in_seed else "runs"
    parts = []
    for role in roles:
        if role in group.times:
            times = group.times[role]
            parts.append(onset_sentence(role, times, replicates=replicates, axis=axis))
    return parts


def _when(first: float, last: float, median: float | None, axis: Axis) -> str:
    around = _from_to(first, last, axis)
    unit = "step " if axis == "step" else ""
    tokens = " tokens" if axis == "tokens" else ""
    if median is None:
        return f"at {unit}{around}{tokens}, too few for a median"
    return f"median {unit}{place_text(median, axis)}{tokens} ({around})"


def _from_to(first: float, last: float, axis: Axis) -> str:
    places = [place_text(first, axis), place_text(last, axis)]
    return places[0] if places[0] == places[1] else " to ".join(places)


def _at(place: float, axis: Axis) -> str:
    text = place_text(place, axis)
    words = {"step": f"at step {text}", "tokens": f"at {text} tokens", "progress": f"at {text}"}
    return words[axis]


def _spread_text(loss: Spread) -> str:
    return f"{loss.mean:.3f}" if loss.sd is None else f"{loss.mean:.3f} ± {loss.sd:.3f}"


def _range(matrix: NDArray[np.float64], pairs: NDArray[np.bool_]) -> str:
    """Return ``0.05 to 0.08 (median 0.06)`` of the pairs."""
    values = matrix[np.triu(pairs)]
    values = values[np.isfinite(values)]
    if not values.size:
        return "unknown"
    if values.size == 1:
        return f"{values[0]:.3f}"
    return f"{values.min():.3f} to {values.max():.3f} (median {np.median(values):.3f})"
