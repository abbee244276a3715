"""A sweep read as an experiment: runs grouped by setting with seeds as replicates, and one
corrected test of which settings go with which outcomes. ``findings`` says both in sentences."""

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
from tracker_viz.comparison.statistics import (
    Factor,
    Floats,
    OnsetTimes,
    Spread,
    censored_ranks,
    correlation_interval,
    correlation_ratio_interval,
    onset_times,
    permutation_tests,
    ranks,
    spread,
)
from tracker_viz.metrics import ROLES, Role

Row = Mapping[str, Any]
# With fewer runs than this no permutation is rare enough to say anything.
MIN_RUNS_TO_TEST = 6
ALL_RUNS = "all runs"
_MAIN_OUTCOMES = ("loss", "onset/induction")


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
        loss: of the last captures; None where no run has one.
    """

    settings: Mapping[str, Any]
    label: str
    runs: tuple[str, ...]
    differ_in_seed: bool
    onsets: Mapping[str, tuple[RoleOnset, ...]]
    times: Mapping[str, OnsetTimes]
    loss: Spread | None


@dataclass(frozen=True, slots=True)
class Correlation:
    """How far one setting and one outcome go together over the runs of a sweep. No proof that one
    causes the other.

    Attributes:
        setting, outcome: columns of the run table. A run without an onset counts as later than its
            end.
        same_as: other settings that vary exactly as this one does, and cannot be told from it.
        coefficient: Spearman's rank correlation, -1..1, of a setting that is a number (of onsets
            with Gehan's scores for ranks); else the correlation ratio eta, 0..1, between the
            setting's values (how much of the spread of the ranks lies between them).
        low, high: 95 % interval of the coefficient.
        kind: ``spearman`` or ``eta``.
        p_value: corrected for all tests of the comparison: how often the strongest of them would be
            as strong if no setting had any effect. A third of the error rate is for the loss, a
            third for induction, a third for all other roles together.
        p_alone: the same for this test alone, as if nobody had looked at the others.
        n_runs: runs that have both values.
        n_tests: how many tests ``p_value`` is corrected for.
    """

    setting: str
    outcome: str
    coefficient: float
    low: float
    high: float
    kind: str
    p_value: float
    p_alone: float
    n_runs: int
    n_tests: int
    same_as: tuple[str, ...] = ()


def settings_of(runs: Sequence[ComparedRun]) -> dict[str, dict[str, Any]]:
    """Return for each run name the settings in which the runs differ, seeds left out."""
    return {
        run: {name: value for name, value in settings.items() if not is_seed(name)}
        for run, settings in differing_settings(runs).items()
    }


def setting_groups(
    runs: Sequence[ComparedRun], *, axis: Axis | None = None, roles: tuple[Role, ...] = ROLES
) -> list[SettingGroup]:
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
    return [_group(group, settings[group[0].name], axis, roles) for group in members.values()]


def all_runs(
    runs: Sequence[ComparedRun], *, axis: Axis, roles: tuple[Role, ...] = ROLES
) -> SettingGroup:
    """Return all runs as one group, whatever their settings."""
    return _group(runs, {}, axis, roles)


def correlations(
    runs: Sequence[ComparedRun],
    rows: Sequence[Row],
    *,
    axis: Axis | None = None,
    roles: tuple[Role, ...] = ROLES,
    seed: int = 0,
) -> list[Correlation]:
    """Test every setting that varies against the final loss and the onset of every role, the
    strongest first; empty with fewer than ``MIN_RUNS_TO_TEST`` runs.

    Seeds are replicates, not settings, and settings that always vary together are tested once.

    Args:
        rows: of ``run_table``, for the losses.
        axis: of the onsets; None: ``comparable_axis`` of the runs.
        seed: of the permutations.
    """
    if len(runs) < MIN_RUNS_TO_TEST:
        return []
    factors, aliases = _factors(settings_of(runs))
    outcomes = _outcomes(runs, rows, axis or comparable_axis(runs), roles)
    tests = permutation_tests(
        list(factors.values()),
        list(outcomes.values()),
        min_runs=MIN_RUNS_TO_TEST,
        weights=_weights(list(outcomes)),
        seed=seed,
    )
    found = []
    for row, setting in enumerate(factors):
        for column, outcome in enumerate(outcomes):
            if np.isnan(tests.coefficients[row, column]):
                continue
            coefficient = float(tests.coefficients[row, column])
            n_runs = int(tests.n_runs[row, column])
            low, high = _interval(factors[setting], coefficient, n_runs)
            correlation = Correlation(
                setting=setting,
                outcome=outcome,
                coefficient=coefficient,
                low=low,
                high=high,
                kind="spearman" if factors[setting].is_number else "eta",
                p_value=float(tests.p_corrected[row, column]),
                p_alone=float(tests.p_alone[row, column]),
                n_runs=n_runs,
                n_tests=tests.n_tests,
                same_as=aliases[setting],
            )
            found.append(correlation)
    return sorted(found, key=_strongest_first)


def _group(
    runs: Sequence[ComparedRun], settings: Mapping[str, Any], axis: Axis, roles: tuple[Role, ...]
) -> SettingGroup:
    found = [role_onsets(run.series, axis=axis, roles=roles) for run in runs]
    onsets = {}
    for role in roles:
        measured = [each[role.name] for each in found if role.name in each]
        if measured:
            onsets[role.name] = tuple(measured)
    losses = [loss for run in runs if (loss := final_loss(run)) is not None]
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


def final_loss(run: ComparedRun) -> float | None:
    """Return the loss at the last capture that has a finite one."""
    losses = run.series.metrics.get("loss", np.zeros(0))
    known = losses[np.isfinite(losses)]
    return float(known[-1]) if known.size else None


def _factors(
    settings: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, Factor], dict[str, tuple[str, ...]]]:
    """Return setting -> its values, and setting -> the other settings that vary as it does."""
    by_partition: dict[tuple[int, ...], list[str]] = {}
    values_of: dict[str, list[Any]] = {}
    for name in next(iter(settings.values()), {}):
        values_of[name] = [values[name] for values in settings.values()]
        levels = [repr(value) for value in values_of[name]]
        by_partition.setdefault(tuple(map(levels.index, levels)), []).append(name)

    factors, aliases = {}, {}
    for names in by_partition.values():
        # A number says more: it has an order.
        names = sorted(names, key=lambda name: not _are_numbers(values_of[name]))
        factor = _factor(values_of[names[0]])
        if factor is not None:
            factors[names[0]] = factor
            aliases[names[0]] = tuple(names[1:])
    return factors, aliases


def _factor(values: Sequence[Any]) -> Factor | None:
    """Return a setting's values for a test; None where every run has a level of its own."""
    if _are_numbers(values):
        return Factor(ranks(values), is_number=True)
    levels = [repr(value) for value in values]
    numbers = np.array([levels.index(level) for level in levels], np.float64)
    return Factor(numbers, is_number=False) if len(set(levels)) < len(levels) else None


def _are_numbers(values: Sequence[Any]) -> bool:
    """Return whether all values that are there are numbers; a truth value is none."""
    present = [value for value in values if value is not None]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)


def _outcomes(
    runs: Sequence[ComparedRun], rows: Sequence[Row], axis: Axis, roles: tuple[Role, ...]
) -> dict[str, Floats]:
    """Return outcome -> its ranks: float64 [run].

    Few outcomes, because each costs all others some power: the loss, and the onsets of the roles.
    """
    outcomes = {"loss": ranks([row["loss"] for row in rows])}
    found = [role_onsets(run.series, axis=axis, roles=roles) for run in runs]
    for role in roles:
        # A run without the score says nothing about when: as if it had ended at once.
        unknown = RoleOnset(after=None, at=None)
        onsets = [onsets.get(role.name, unknown) for onsets in found]
        if any(onset.formed for onset in onsets):
            outcomes[f"onset/{role.name}"] = censored_ranks(onsets)
    return outcomes


def _weights(outcomes: Sequence[str]) -> list[float]:
    """Return each outcome's share of the error rate: a third each for the loss, for induction, and
    for all other roles together, so that many roles do not hide what people come for."""
    n_others = max(len(set(outcomes) - set(_MAIN_OUTCOMES)), 1)
    return [1.0 if outcome in _MAIN_OUTCOMES else 1.0 / n_others for outcome in outcomes]


def _interval(factor: Factor, coefficient: float, n_runs: int) -> tuple[float, float]:
    if factor.is_number:
        return correlation_interval(coefficient, n_runs)
    n_levels = len(np.unique(factor.values))
    return correlation_ratio_interval(coefficient, n_runs, n_levels)


def _strongest_first(found: Correlation) -> tuple[float, float, str, str]:
    return found.p_value, -abs(found.coefficient), found.setting, found.outcome
