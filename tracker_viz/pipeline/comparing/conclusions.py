"""Conclude from the scores of several runs, before anything is drawn: tables, sentences and the
caveats that belong to them. Called by ``compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracker_viz.comparison import (
    Axis,
    Correlation,
    SettingGroup,
    all_runs,
    comparability_notes,
    comparable_axis,
    correlations,
    group_sentences,
    positions,
    run_labels,
    run_table,
    setting_groups,
    short_runs_note,
    strongest_sentence,
)
from tracker_viz.pipeline.comparing.compared_runs import chosen_runs
from tracker_viz.pipeline.comparing.probes import check_probes
from tracker_viz.pipeline.comparing.scored_runs import ScoredRun
from tracker_viz.pipeline.options import ComparisonOptions


@dataclass(frozen=True, slots=True)
class Conclusions:
    """The compared runs, and the conclusions from their numbers.

    Attributes:
        title: of the comparison.
        runs: all of them, in their order.
        drawn: those that the pictures show.
        labels: run name -> its label.
        rows: one per run, see ``comparison.run_table``.
        sentences: the findings.
        notes: caveats.
    """

    title: str
    runs: Sequence[ScoredRun]
    drawn: Sequence[ScoredRun]
    axis: Axis
    labels: Mapping[str, str]
    rows: Sequence[dict[str, Any]]
    groups: Sequence[SettingGroup]
    correlations: Sequence[Correlation]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]


def conclude(
    runs: Sequence[ScoredRun], options: ComparisonOptions, *, title: str, notes: Sequence[str]
) -> Conclusions:
    """Return the conclusions from the numbers of ``runs``.

    Args:
        notes: on runs that were left out.

    Raises:
        ConfigError: the runs were captured on different probes.
    """
    compared = [run.compared for run in runs]
    axis = comparable_axis(compared) if options.axis == "auto" else options.axis
    labels = run_labels(compared, short=True)
    rows = run_table(compared)
    groups = setting_groups(compared, axis=axis)
    found = correlations(compared, rows, axis=axis)
    together = all_runs(compared, axis=axis)
    sentences = [*group_sentences(groups, together, axis), strongest_sentence(found, len(runs))]
    drawn, notes_on_drawn = chosen_runs(runs, options.shown)
    return Conclusions(
        title=title,
        runs=runs,
        drawn=drawn,
        axis=axis,
        labels=labels,
        rows=rows,
        groups=groups,
        correlations=found,
        sentences=tuple(sentences),
        notes=(*notes, *_caveats(runs, labels, axis), *notes_on_drawn),
    )


def _caveats(runs: Sequence[ScoredRun], labels: Mapping[str, str], axis: Axis) -> list[str]:
    compared = [run.compared for run in runs]
    notes = check_probes(runs, labels)
    notes += [_by_label(note, labels) for note in comparability_notes(compared)]
    ends = {run.name: float(positions(run.series, axis)[-1]) for run in compared}
    short = short_runs_note(labels, ends, axis)
    if short:
        notes.append(short)
    return notes


def _by_label(note: str, labels: Mapping[str, str]) -> str:
    """Replace the references in a note by the labels that readers know the runs by."""
    for name, label in labels.items():
        note = note.replace(name, label)
    return note
