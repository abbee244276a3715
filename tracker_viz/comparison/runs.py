"""The runs that are compared: what each is called, and what keeps their comparison from being
exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracker_viz.errors import ConfigError
from tracker_viz.metrics import ScoreSeries

_MOST_NAMED = 3
# Never a setting of the training, though trackers store them beside the settings.
_NOT_SETTINGS = ("hydra.", "tracker.", "tracker_viz", "mlflow.", "_wandb")


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        name: unique among the runs that are compared, as a tracker reference is.
        series: its scores.
        config: its settings as the tracker has them, nested or with dotted names.
        state: ``finished``, ``failed``, ... as the tracker says.
    """

    name: str
    series: ScoreSeries
    config: Mapping[str, Any] = field(default_factory=dict)
    state: str = "finished"


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"model": {"n_heads": 4}}`` -> ``{"model.n_heads": 4}``; numbers that a tracker stored as
    text are numbers again."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flat_config(value, f"{name}.")
        else:
            flat[name] = _number_again(value)
    return flat


def differing_settings(runs: Sequence[ComparedRun]) -> dict[str, dict[str, Any]]:
    """Run name -> the settings in which the runs are not all alike, in alphabetical order; None
    where a run has no such setting."""
    flat = {run.name: flat_config(run.config) for run in runs}
    names = sorted(
        {name for config in flat.values() for name in config if not name.startswith(_NOT_SETTINGS)}
    )
    differing = [
        name for name in names if len({repr(config.get(name)) for config in flat.values()}) > 1
    ]
    return {run: {name: config.get(name) for name in differing} for run, config in flat.items()}


def run_labels(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """Run name -> short label: the settings in which it differs (``n_heads=8 seed=1``), its name
    where that tells nothing apart."""
    settings = differing_settings(runs)
    last_parts = [name.rpartition(".")[2] for name in next(iter(settings.values()), {})]
    labels = {}
    for run, values in settings.items():
        parts = []
        for name, value in values.items():
            short = name.rpartition(".")[2]
            parts.append(f"{short if last_parts.count(short) == 1 else name}={_short(value)}")
        labels[run] = " ".join(parts)
    counts = list(labels.values())
    return {
        run: label if label and counts.count(label) == 1 else f"{label} {run}".strip()
        for run, label in labels.items()
    }


def in_order_of_settings(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Runs of a sweep, sorted by the settings in which they differ, numbers by size."""
    settings = differing_settings(runs)

    def place(run: ComparedRun) -> list[tuple[int, float, str]]:
        values = settings[run.name].values()
        return [
            (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))
            for value in values
        ]

    return sorted(runs, key=place)


def check_runs(runs: Sequence[ComparedRun]) -> None:
    """Raises ConfigError: fewer than two runs, a name twice, or a run without scored captures."""
    if len(runs) < 2:
        raise ConfigError(f"a comparison needs at least two runs; got {len(runs)}")
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"every run may be given once; got {', '.join(twice)} more than once")
    if empty := [run.name for run in runs if not run.series.n_captures or not run.series.heads]:
        raise ConfigError(
            f"no scored captures in {', '.join(empty)}: leave them out, or capture and score them "
            "first"
        )


def comparability_notes(runs: Sequence[ComparedRun]) -> list[str]:
    """What a reader must know before he compares: different shapes, schedules, lengths, probes,
    runs that did not finish."""
    notes = []
    shapes = {run.name: run.series.shape for run in runs}
    if len(set(shapes.values())) > 1:
        counts = Counter(shapes.values())
        sizes = ", ".join(
            f"{blocks} x {heads} in {n} run{'s' if n > 1 else ''}"
            for (blocks, heads), n in sorted(counts.items())
        )
        notes.append(
            f"The models differ in blocks x heads ({sizes}); blocks are compared at the same "
            "relative depth."
        )
    if len({tuple(run.series.steps.tolist()) for run in runs}) > 1:
        notes.append(
            "The runs were captured at different steps; every point of time shows the last capture "
            "before it."
        )
    lengths = {int(run.series.steps[-1]) for run in runs}
    if len(lengths) > 1:
        notes.append(f"The runs end at different steps ({min(lengths):,} to {max(lengths):,}).")
    shared = set.intersection(*(set(run.series.uniform) for run in runs))
    if any(
        np.ptp([run.series.uniform[name] for run in runs]) > 0.01 for name in shared - {"distance"}
    ):
        notes.append(
            "The probes differ: uniform attention scores differently on them, and so may the same "
            "head."
        )
    unfinished = [f"{run.name} ({run.state})" for run in runs if run.state != "finished"]
    if unfinished:
        more = f" and {len(unfinished) - _MOST_NAMED} more" if len(unfinished) > _MOST_NAMED else ""
        notes.append(f"Not finished: {', '.join(unfinished[:_MOST_NAMED])}{more}.")
    return notes


def _number_again(value: Any) -> Any:
    """MLflow keeps every parameter as text."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"True": True, "False": False, "None": None}.get(value, value)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())  # on one line
