"""Label the runs of a comparison by the settings that differ, and list what limits how far they can
be compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracker_viz.errors import ConfigError
from tracker_viz.metrics import ScoreSeries

# Between a run's name and the settings in which it differs: "demo · n_heads=8 seed=1".
NAME_SEPARATOR = " · "
_MOST_NAMED = 3
# Trackers store these beside the settings of the training.
_NOT_SETTINGS = ("hydra.", "tracker.", "tracker_viz", "mlflow.", "_wandb")
# Configurations also hold where a run writes and what it is called. These differ in every run of a
# sweep and cause nothing, so they neither name a run nor make it a setting of its own.
_BOOKKEEPING = frozenset(
    [
        "cache_dir",
        "checkpoint_dir",
        "ckpt_dir",
        "exp_name",
        "experiment_name",
        "hub_model_id",
        "job_id",
        "log_dir",
        "logging_dir",
        "output_dir",
        "run_dir",
        "run_id",
        "run_name",
        "save_dir",
        "work_dir",
    ]
)
_BOOKKEEPING_AT_TOP = frozenset(("id", "name", "notes", "resume", "spool", "tags"))
# A model's number of parameters follows from its settings: model/params/total.
_PARAMETER_COUNT = re.compile(
    r"(^|[./_])(params|parameters)([./_](total|trainable|non_trainable))?$", re.IGNORECASE
)
_SEEDS = frozenset(("seed", "seeds", "replicate", "replica", "rng"))


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        name: unique among the runs that are compared, as a tracker reference is.
        series: its scores.
        config: its settings as the tracker has them, nested or with dotted names.
        state: ``finished``, ``failed``, ... as the tracker reports it.
        title: what the tracker calls the run; empty where that is unknown.
    """

    name: str
    series: ScoreSeries
    config: Mapping[str, Any] = field(default_factory=dict)
    state: str = "finished"
    title: str = ""

    @property
    def finished(self) -> bool:
        return self.state == "finished"


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings: ``{"model": {"n_heads": 4}}`` -> ``{"model.n_heads": 4}``.

    Numbers and truth values that a tracker stored as text become values again.
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flat_config(value, f"{name}.")
        else:
            flat[name] = _from_text(value)
    return flat


def is_seed(setting: str) -> bool:
    """Return whether a setting only draws other random numbers: ``seed``, ``data.random_seed``,
    ``seed.data``, ``seed_everything``.

    Runs that differ in nothing else are replicates of one experiment.
    """
    *parents, last = setting.lower().split(".")
    words = last.split("_")
    return bool(_SEEDS & {*parents, words[-1]}) or last == "seed_everything"


def differing_settings(runs: Sequence[ComparedRun]) -> dict[str, dict[str, Any]]:
    """Return for each run name the settings in which the runs differ, in alphabetical order; None
    where a run has no such setting."""
    configs = {run.name: flat_config(run.config) for run in runs}
    names: set[str] = set().union(*configs.values())
    differing: dict[str, dict[str, Any]] = {run: {} for run in configs}
    seen: set[tuple[str, ...]] = set()
    # The shorter name first: a configuration may hold a setting twice, once for its logger.
    for name in sorted(filter(_is_setting, names), key=lambda name: (len(name), name)):
        values = {run: config.get(name) for run, config in configs.items()}
        # Lists and NaN are neither hashable nor equal to themselves; their texts are.
        texts = tuple(map(repr, values.values()))
        setting = (_short_name(name), *texts)
        if len(set(texts)) == 1 or setting in seen:
            continue
        seen.add(setting)
        for run, value in values.items():
            differing[run][name] = value
    return {run: dict(sorted(settings.items())) for run, settings in differing.items()}


def settings_label(settings: Mapping[str, Any]) -> str:
    """Return settings as one line, seeds last: ``n_heads=4 seed=0``.

    Only the last part of a dotted name is written, unless two settings share it.
    """
    short_names = Counter(_short_name(name) for name in settings)
    parts = []
    for name in sorted(settings, key=lambda name: (is_seed(name), name)):
        short = _short_name(name)
        shown = short if short_names[short] == 1 else name
        parts.append(f"{shown}={_short_value(settings[name])}")
    return " ".join(parts)


def run_title(name: str, settings: Mapping[str, Any]) -> str:
    """Return the title of one run of a sweep: ``demo · n_heads=4 seed=0``.

    Args:
        name: the common name of the sweep's runs.
        settings: those in which the run differs from the others.
    """
    return NAME_SEPARATOR.join(filter(None, (name, settings_label(settings))))


def run_labels(runs: Sequence[ComparedRun], *, short: bool = False) -> dict[str, str]:
    """Return for each run name a unique label: ``demo · n_heads=4 seed=0``.

    Args:
        short: leave the tracker's name of the run out where the settings alone tell the runs apart,
            as in a picture whose heading says it: ``n_heads=4 seed=0``.
    """
    settings = differing_settings(runs)
    by_settings, by_title = {}, {}
    for run in runs:
        by_settings[run.name] = settings_label(settings[run.name])
        # The tracker's name may hold settings already; which ones differ depends on the runs.
        name = run.title.partition(NAME_SEPARATOR)[0]
        by_title[run.name] = run_title(name, settings[run.name])
    candidates = [by_title, by_settings]
    if short:
        candidates.reverse()
    for labels in candidates:
        if all(labels.values()) and len(set(labels.values())) == len(runs):
            return labels

    counts = Counter(by_title.values())
    return {run: _unique_label(run, label, counts[label]) for run, label in by_title.items()}


def in_order_of_settings(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Return the runs of a sweep sorted by the settings in which they differ, numbers by size."""
    settings = differing_settings(runs)

    def place(run: ComparedRun) -> list[tuple[int, float, str]]:
        by_name = settings[run.name]
        # The seeds of one setting belong together.
        names = sorted(by_name, key=lambda name: (is_seed(name), name))
        return [_sort_key(by_name[name]) for name in names]

    return sorted(runs, key=place)


def check_runs(runs: Sequence[ComparedRun]) -> None:
    """Check that runs can be compared.

    Raises:
        ConfigError: fewer than two runs, a name twice, or a run without scored captures.
    """
    if len(runs) < 2:
        raise ConfigError(f"a comparison needs at least two runs; got {len(runs)}")

    counts = Counter(run.name for run in runs)
    repeated = sorted(name for name in counts if counts[name] > 1)
    if repeated:
        raise ConfigError(f"every run may be given once; got {', '.join(repeated)} more than once")

    empty = [run.name for run in runs if not (run.series.n_captures and run.series.heads)]
    if empty:
        raise ConfigError(
            f"no scored captures in {', '.join(empty)}: leave them out, or capture and score them "
            "first"
        )


def comparability_notes(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the caveats of a comparison: differences in shapes, schedules, lengths and probes, and
    runs that did not finish."""
    notes = []
    shapes = Counter(run.series.shape for run in runs)
    if len(shapes) > 1:
        sizes = []
        for (blocks, heads), count in sorted(shapes.items()):
            runs_word = "runs" if count > 1 else "run"
            sizes.append(f"{blocks} x {heads} in {count} {runs_word}")
        notes.append(
            f"The models differ in blocks x heads ({', '.join(sizes)}); blocks are compared at the "
            "same relative depth."
        )

    schedules = {tuple(run.series.steps.tolist()) for run in runs}
    if len(schedules) > 1:
        notes.append(
            "The runs were captured at different steps; every point of time shows the last capture "
            "before it."
        )
    ends = {int(run.series.steps[-1]) for run in runs}
    if len(ends) > 1:
        notes.append(f"The runs end at different steps ({min(ends):,} to {max(ends):,}).")

    if _probes_differ(runs):
        notes.append(
            "The probes differ: uniform attention scores differently on them, and so may the same "
            "head."
        )
    unfinished = [f"{run.name} ({run.state})" for run in runs if not run.finished]
    if unfinished:
        notes.append(f"Not finished, and without a final loss: {first_few(unfinished)}.")
    return notes


def first_few(names: Sequence[str]) -> str:
    """Return the first names and how many follow: ``a, b, c and 4 more``."""
    text = ", ".join(names[:_MOST_NAMED])
    if len(names) > _MOST_NAMED:
        text += f" and {len(names) - _MOST_NAMED} more"
    return text


def _unique_label(run: str, label: str, count: int) -> str:
    """Return the label with the run's reference, where it is empty or not the only one."""
    if label and count == 1:
        return label
    return f"{label} {run}".strip()


def _probes_differ(runs: Sequence[ComparedRun]) -> bool:
    """Return whether uniform attention scores differently on the runs' probes."""
    shared = set.intersection(*(set(run.series.uniform) for run in runs))
    # Distances are in tokens, not in 0..1.
    shared.discard("distance")
    return any(np.ptp([run.series.uniform[name] for run in runs]) > 0.01 for name in shared)


def _is_setting(name: str) -> bool:
    is_bookkeeping = _short_name(name) in _BOOKKEEPING or name in _BOOKKEEPING_AT_TOP
    is_outcome = _PARAMETER_COUNT.search(name) is not None
    return not is_bookkeeping and not is_outcome and not name.startswith(_NOT_SETTINGS)


def _short_name(setting: str) -> str:
    # Lightning's loggers join names with a slash.
    return setting.replace("/", ".").rpartition(".")[2]


def _short_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(str(value).split())


def _sort_key(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, str(value)


def _from_text(value: Any) -> Any:
    """Return the value that was logged to MLflow, which keeps every parameter as text."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"True": True, "False": False, "None": None}.get(value, value)
