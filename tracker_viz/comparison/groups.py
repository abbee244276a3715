"""Group the runs of a sweep by setting, with seeds as replicates: how many of them formed each
role, when, and the loss they ended at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracker_viz.comparison.align import Axis, comparable_axis
from tracker_viz.comparison.onsets import RoleOnset, role_onsets
from tracker_viz.comparison.runs import (
    ComparedRun,
    check_runs,
    differing_settings,
    in_order_of_settings,
    is_seed,
    settings_label,
)
from tracker_viz.comparison.statistics import OnsetTimes, Spread, onset_times, spread

ALL_RUNS = "all runs"


@dataclass(frozen=True, slots=True)
class SettingGroup:
    """Runs that differ in nothing but seeds.

    Attributes:
        settings: in which the groups differ, seeds left out; empty where there is one group.
        label: ``n_heads=4``, or ``all runs``.
        runs: names of its runs.
        differ_in_seed: its runs differ in seeds and nothing else that is known.
        onsets: role -> when each of these runs formed it, in their order; a run that does not
            measure the role is left out.
        times: role -> the same in numbers.
        loss: of the last captures of the runs that finished; None where there is none.
    """

    settings: Mapping[str, Any]
    label: str
    runs: tuple[str, ...]
    differ_in_seed: bool
    onsets: Mapping[str, tuple[RoleOnset, ...]]
    times: Mapping[str, OnsetTimes]
    loss: Spread | None


def settings_of(runs: Sequence[ComparedRun]) -> dict[str, dict[str, Any]]:
    """Return for each run name the settings in which the runs differ, seeds left out."""
    kept = {}
    for run, settings in differing_settings(runs).items():
        kept[run] = {name: value for name, value in settings.items() if not is_seed(name)}
    return kept


def setting_groups(runs: Sequence[ComparedRun], *, axis: Axis | None = None) -> list[SettingGroup]:
    """Group runs that differ in nothing but seeds, sorted by their settings.

    Args:
        axis: of the onsets; None: ``comparable_axis`` of the runs.

    Raises:
        ConfigError: fewer than two runs, or a run without scored captures.
    """
    check_runs(runs)
    axis = axis or comparable_axis(runs)
    settings = settings_of(runs)
    members: dict[str, list[ComparedRun]] = {}
    for run in in_order_of_settings(runs):
        members.setdefault(repr(settings[run.name]), []).append(run)
    return [_group(group, settings[group[0].name], axis) for group in members.values()]


def all_runs(runs: Sequence[ComparedRun], *, axis: Axis) -> SettingGroup:
    """Return all runs as one group, whatever their settings."""
    return _group(runs, {}, axis)


def final_loss(run: ComparedRun) -> float | None:
    """Return the loss at the last capture that has a finite one."""
    losses = run.series.metrics.get("loss", np.zeros(0))
    known = losses[np.isfinite(losses)]
    if not known.size:
        return None
    return float(known[-1])


def _group(runs: Sequence[ComparedRun], settings: Mapping[str, Any], axis: Axis) -> SettingGroup:
    onsets: dict[str, tuple[RoleOnset, ...]] = {}
    losses = []
    for run in runs:
        for role, onset in role_onsets(run.series, axis=axis).items():
            onsets[role] = (*onsets.get(role, ()), onset)
        loss = final_loss(run)
        # A run that was killed has no final loss, only one on the way.
        if run.finished and loss is not None:
            losses.append(loss)
    return SettingGroup(
        settings=settings,
        label=settings_label(settings) or ALL_RUNS,
        runs=tuple(run.name for run in runs),
        differ_in_seed=_differ_in_seed(runs),
        onsets=onsets,
        times={role: onset_times(measured) for role, measured in onsets.items()},
        loss=spread(losses),
    )


def _differ_in_seed(runs: Sequence[ComparedRun]) -> bool:
    names = next(iter(differing_settings(runs).values()))
    return bool(names) and all(is_seed(name) for name in names)
