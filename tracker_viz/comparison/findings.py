"""Say in sentences what a comparison found: how many runs of each setting formed which role, when,
and whether any setting goes with an outcome beyond chance."""

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
from tracker_viz.metrics import role_label

# More settings than this are listed in the table alone.
MOST_GROUPS = 8
SIGNIFICANT = 0.05
_AXIS_WORDS: Mapping[Axis, str] = {
    "step": "training step",
    "tokens": "tokens seen",
    "progress": "progress, the share of each run's own training",
}

# Why an axis other than steps was chosen.
_REASONS: Mapping[Axis, str] = {
    "tokens": "they see different numbers of tokens per step",
    "progress": "they have no step in common",
}
_UNITS = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3))


def axis_note(axis: Axis, *, chosen: bool) -> str:
    """Return how the runs were aligned. ``chosen``: by us, because no axis was passed."""
    note = f"Runs are compared by {_AXIS_WORDS[axis]}"
    if chosen and axis in _REASONS:
        note += f", because {_REASONS[axis]}"
    if axis != "progress":
        note += "; each pair over the stretch that both have"
    return f"{note}."


def place_text(place: float, axis: Axis) -> str:
    """Return a place on an axis: ``1,000``, ``2.5M``, ``48 %``."""
    if axis == "step":
        return f"{place:,.0f}"
    if axis == "progress":
        return f"{place:.0%}".replace("%", " %")
    for unit, size in _UNITS:
        # From here on three digits round up to the unit.
        if place >= 0.9995 * size:
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
    # One group, or settings without replicates: there is nothing more to say.
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
        for role, times in group.times.items():
            if times.n_formed:
                formed[role] = None
    return list(formed)


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
    return f"# {title}\n\n{_bullets(findings)}\nNotes:\n\n{_bullets(notes)}"


def onset_sentence(role: str, times: OnsetTimes, *, replicates: str, axis: Axis) -> str:
    """Return when runs formed a role: ``induction formed in 5 of 6 seeds, median step 480 (460 to
    633)``.

    Args:
        replicates: what the runs are called: ``seeds`` or ``runs``.
    """
    name = role_label(role)
    if times.first is None or times.last is None:
        if times.n_runs == 1:
            return f"{name} not formed{_open(times)}"
        return f"{name} formed in none of {times.n_runs} {replicates}{_open(times)}"
    if times.n_runs == 1:
        sentence = f"{name} formed {_at(times.first, axis)}"
        near = ", near the line"
    else:
        sentence = f"{name} formed in {times.n_formed} of {times.n_runs} {replicates}, "
        sentence += _when(times.first, times.last, times.median, axis)
        near = f", {times.n_near_line} of them near the line"
    if times.n_near_line:
        sentence += near
    return sentence + _open(times)


def _bullets(texts: Sequence[str]) -> str:
    return "".join(f"* {text}\n" for text in texts)


def _open(times: OnsetTimes) -> str:
    """Return the number of runs that ended when a head had just risen above the line."""
    if not times.n_censored:
        return ""
    if times.n_runs == 1:
        return " (just above the line when it ended)"
    return f" ({times.n_censored} just above the line when they ended)"


def strongest_sentence(found: Sequence[Correlation], n_runs: int) -> str:
    """Return the strongest finding with its corrected p-value."""
    if n_runs < MIN_RUNS_TO_TEST:
        return (
            f"No test of the settings: that takes {MIN_RUNS_TO_TEST} runs, and there are {n_runs}."
        )
    if not found:
        return "No test of the settings: none of them varies beside the seed."
    strongest = found[0]
    finding = _correlation_text(strongest)
    tests = "One test" if strongest.n_tests == 1 else f"Strongest of {strongest.n_tests} tests"
    if strongest.p_value < SIGNIFICANT:
        return f"{tests}: {finding}, corrected for all of them."
    return f"No setting goes with an outcome beyond chance. {tests}: {finding}, corrected."


def distance_sentence(
    distances: DistanceMatrix, settings: Mapping[str, object], *, of: str = "heads"
) -> str:
    """Return how far the runs are from each other, beside seeds and chance.

    Args:
        settings: run name -> its setting without seeds.
        of: what is compared: ``heads``, ``mixers``.
    """
    alike = distances.between_seeds(settings)
    different = ~alike & ~np.eye(len(distances.names), dtype=bool)
    parts = []
    if alike.any():
        parts.append(f"runs of one setting {_range(distances.overall, alike)}")
    if different.any():
        parts.append(f"different settings {_range(distances.overall, different)}")
    parts.append(f"shuffled {of} {_range(distances.shuffled, alike | different)}")

    pairs = np.triu(alike | different)
    n_rare = int((distances.percentile[pairs] < SIGNIFICANT).sum())
    return (
        f"Distances of the runs' {of}: {', '.join(parts)}. {n_rare} of {int(pairs.sum())} pairs "
        f"are more alike than 95 % of {distances.n_shuffles} shuffles of their {of}."
    )


def short_runs_note(labels: Mapping[str, str], ends: Mapping[str, float], axis: Axis) -> str | None:
    """Return which runs are compared over less than half of the longest one's training; None
    where none is.

    Args:
        ends: run name -> where it ends on the axis.
    """
    longest = max(ends.values())
    short = []
    for name, end in ends.items():
        if end < longest / 2:
            short.append(f"{labels[name]} ({_at(end, axis)})")
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


def _correlation_text(found: Correlation) -> str:
    """Return ``n_heads and loss: spearman +0.62 (95 % +0.21 to +0.85), p = 0.03 over 12 runs``."""
    setting = " = ".join((found.setting, *found.same_as))
    # A ratio has no direction, and so no sign.
    sign = "+" if found.kind == "spearman" else ""
    interval = f"95 % {found.low:{sign}.2f} to {found.high:{sign}.2f}"
    return (
        f"{setting} and {found.outcome}: {found.kind} {found.coefficient:{sign}.2f} ({interval}), "
        f"p = {found.p_value:.3g} over {found.n_runs} runs"
    )


def _when(first: float, last: float, median: float | None, axis: Axis) -> str:
    around = _from_to(first, last, axis)
    if median is None:
        return f"at {_with_unit(around, axis)}, too few for a median"
    return f"median {_with_unit(place_text(median, axis), axis)} ({around})"


def _from_to(first: float, last: float, axis: Axis) -> str:
    # In rounded numbers the two may be the same.
    places = dict.fromkeys((place_text(first, axis), place_text(last, axis)))
    return " to ".join(places)


def _at(place: float, axis: Axis) -> str:
    return f"at {_with_unit(place_text(place, axis), axis)}"


def _with_unit(text: str, axis: Axis) -> str:
    return {"step": f"step {text}", "tokens": f"{text} tokens", "progress": text}[axis]


def _spread_text(loss: Spread) -> str:
    if loss.sd is None:
        return f"{loss.mean:.3f}"
    return f"{loss.mean:.3f} ± {loss.sd:.3f}"


def _range(matrix: NDArray[np.float64], pairs: NDArray[np.bool_]) -> str:
    """Return ``0.05 to 0.08 (median 0.06)`` of the pairs."""
    values = matrix[np.triu(pairs)]
    values = values[np.isfinite(values)]
    if not values.size:
        return "unknown"
    if values.size == 1:
        return f"{values[0]:.3f}"
    return f"{values.min():.3f} to {values.max():.3f} (median {np.median(values):.3f})"
