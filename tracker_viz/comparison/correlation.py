"""Test which settings of a sweep go with which outcomes: all of them in one permutation test, so
that the strongest of many is not taken for an effect because it is the strongest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracker_viz.comparison.align import Axis, comparable_axis
from tracker_viz.comparison.groups import settings_of
from tracker_viz.comparison.onsets import RoleOnset, role_onsets
from tracker_viz.comparison.runs import ComparedRun
from tracker_viz.comparison.statistics import (
    Factor,
    Floats,
    Tests,
    censored_ranks,
    correlation_interval,
    correlation_ratio_interval,
    permutation_tests,
    ranks,
)
from tracker_viz.metrics import ROLES

Row = Mapping[str, Any]
# With fewer runs than this no permutation is rare enough to say anything.
MIN_RUNS_TO_TEST = 6
_MAIN_OUTCOMES = ("loss", "onset/induction")


@dataclass(frozen=True, slots=True)
class Correlation:
    """Correlation of one setting with one outcome over the runs of a sweep. No proof that one
    causes the other.

    Attributes:
        setting, outcome: columns of the run table. A run without an onset counts as later than its
            end.
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
        same_as: other settings that vary exactly as this one does; the test cannot separate them.
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


@dataclass(frozen=True, slots=True)
class _Setting:
    """One setting, or several that always vary together."""

    name: str
    same_as: tuple[str, ...]
    factor: Factor


def correlations(
    runs: Sequence[ComparedRun],
    rows: Sequence[Row],
    *,
    axis: Axis | None = None,
) -> list[Correlation]:
    """Test every setting that varies against the final loss and the onset of every role, the
    strongest first; empty with fewer than ``MIN_RUNS_TO_TEST`` runs.

    Seeds are replicates, not settings, and settings that always vary together are tested once.

    Args:
        rows: of ``run_table``, for the losses.
        axis: of the onsets; None: ``comparable_axis`` of the runs.
    """
    if len(runs) < MIN_RUNS_TO_TEST:
        return []
    settings = _tested_settings(settings_of(runs))
    outcomes = _outcomes(runs, rows, axis or comparable_axis(runs))
    tests = permutation_tests(
        [setting.factor for setting in settings],
        list(outcomes.values()),
        min_runs=MIN_RUNS_TO_TEST,
        weights=_weights(list(outcomes)),
    )
    found = []
    for row, setting in enumerate(settings):
        for column, outcome in enumerate(outcomes):
            if np.isfinite(tests.coefficients[row, column]):
                found.append(_correlation(setting, outcome, tests, (row, column)))
    return sorted(found, key=_strongest_first)


def _correlation(
    setting: _Setting, outcome: str, tests: Tests, place: tuple[int, int]
) -> Correlation:
    coefficient, n_runs = float(tests.coefficients[place]), int(tests.n_runs[place])
    if setting.factor.is_number:
        kind = "spearman"
        low, high = correlation_interval(coefficient, n_runs)
    else:
        kind = "eta"
        n_levels = len(np.unique(setting.factor.values))
        low, high = correlation_ratio_interval(coefficient, n_runs, n_levels)
    return Correlation(
        setting=setting.name,
        outcome=outcome,
        coefficient=coefficient,
        low=low,
        high=high,
        kind=kind,
        p_value=float(tests.p_corrected[place]),
        p_alone=float(tests.p_alone[place]),
        n_runs=n_runs,
        n_tests=tests.n_tests,
        same_as=setting.same_as,
    )


def _tested_settings(settings: Mapping[str, Mapping[str, Any]]) -> list[_Setting]:
    """Return the settings that can be tested, those that always vary together as one.

    Args:
        settings: run name -> its settings.
    """
    together: dict[tuple[int, ...], list[str]] = {}
    values_of: dict[str, list[Any]] = {}
    for name in next(iter(settings.values()), {}):
        values_of[name] = [values[name] for values in settings.values()]
        # Two settings vary together where they split the runs into the same parts.
        together.setdefault(tuple(_levels(values_of[name])), []).append(name)

    found = []
    for names in together.values():
        # A number says more than a name: it has an order.
        first, *others = sorted(names, key=lambda name: not _are_numbers(values_of[name]))
        factor = _factor(values_of[first])
        if factor is not None:
            found.append(_Setting(first, tuple(others), factor))
    return found


def _factor(values: Sequence[Any]) -> Factor | None:
    """Return a setting's values for a test; None where every run has a name of its own, so that
    nothing repeats."""
    if _are_numbers(values):
        return Factor(ranks(values), is_number=True)
    levels = _levels(values)
    if len(set(levels)) == len(levels):
        return None
    return Factor(np.array(levels, np.float64), is_number=False)


def _levels(values: Sequence[Any]) -> list[int]:
    """Return for each value the place of the first equal one."""
    first: dict[str, int] = {}
    return [first.setdefault(repr(value), place) for place, value in enumerate(values)]


def _are_numbers(values: Sequence[Any]) -> bool:
    """Return whether all values but None are numbers; a truth value is none."""
    for value in values:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not is_number:
            return False
    return True


def _outcomes(runs: Sequence[ComparedRun], rows: Sequence[Row], axis: Axis) -> dict[str, Floats]:
    """Return outcome -> its ranks: float64 [run].

    Few outcomes, because each costs all others some power: the loss, and the onsets of the roles.
    """
    losses = [row["loss"] if run.finished else None for run, row in zip(runs, rows, strict=True)]
    outcomes = {"loss": ranks(losses)}
    found = [role_onsets(run.series, axis=axis) for run in runs]
    # A run without the score says nothing about when: as if it had ended at once.
    unknown = RoleOnset(after=None, at=None)
    for role in ROLES:
        onsets = [onsets.get(role.name, unknown) for onsets in found]
        if any(onset.formed for onset in onsets):
            outcomes[f"onset/{role.name}"] = censored_ranks(onsets)
    return outcomes


def _weights(outcomes: Sequence[str]) -> list[float]:
    """Return each outcome's share of the error rate: a third each for the loss, for induction, and
    for all other roles together, so that many roles do not hide the results people look for."""
    n_others = max(len(set(outcomes) - set(_MAIN_OUTCOMES)), 1)
    return [1.0 if outcome in _MAIN_OUTCOMES else 1.0 / n_others for outcome in outcomes]


def _strongest_first(found: Correlation) -> tuple[float, float, str, str]:
    return found.p_value, -abs(found.coefficient), found.setting, found.outcome
