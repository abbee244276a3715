"""Censored onsets are counted as what they are, and one test answers for all that were made."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from tracker_viz.comparison.onsets import RoleOnset
from tracker_viz.comparison.statistics import (
    Factor,
    censored_ranks,
    correlation_interval,
    correlation_ratio_interval,
    onset_times,
    permutation_tests,
    ranks,
    spread,
)


def at(step, interval=10):
    return RoleOnset(after=step - interval, at=step)


def not_by(step):
    return RoleOnset(after=step, at=None)


def test_the_median_counts_a_run_without_the_role_as_later_than_its_end():
    times = onset_times([at(460), at(475), at(480), at(500), at(633), not_by(1000)])
    assert (times.n_runs, times.n_formed) == (6, 5)
    assert (times.first, times.last, times.watched_until) == (460, 633, 1000)
    assert times.median == 480
    assert times.median_low == 460
    assert times.median_high is None, "the sixth run may be as late as it likes"


def test_a_run_that_was_killed_early_says_little_about_the_median():
    """Kaplan and Meier's product: 4/5 * 3/4 * 2/3 * 1/2 of the five that outlived the sixth."""
    whole = [at(step) for step in (460, 470, 480, 490, 500)]
    assert onset_times(whole).median == 480
    assert onset_times([*whole, not_by(100)]).median == 480
    assert onset_times([*whole, not_by(1000)]).median == 480
    assert onset_times([*whole, not_by(1000), not_by(1000)]).median == 490


def test_fewer_than_half_of_the_runs_have_no_median():
    times = onset_times([at(460), at(500), *[not_by(1000)] * 4])
    assert (times.n_formed, times.median, times.median_high) == (2, None, None)
    none = onset_times([not_by(1000)] * 3)
    assert (none.n_formed, none.median, none.first, none.last) == (0, None, None, None)


def test_the_interval_of_the_median_is_that_of_order_statistics():
    times = onset_times([at(step) for step in range(100, 1300, 100)])
    assert (times.median_low, times.median_high) == (300, 1000)
    assert onset_times([at(1), at(2), at(3), at(4), at(5)]).median_low is None, "too few runs"


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_of_the_median_covers_it_as_often_as_it_says(seed):
    rng = np.random.default_rng(seed)
    covered = 0
    for _ in range(200):
        steps = rng.exponential(100, 12)
        end = 250.0
        onsets = [at(step, 0) if step < end else not_by(end) for step in steps]
        times = onset_times(onsets)
        high = np.inf if times.median_high is None else times.median_high
        covered += times.median_low <= 100 * np.log(2) <= high
    assert covered >= 0.93 * 200


def test_onsets_near_the_line_are_counted():
    near = RoleOnset(after=90, at=100, near_line=True)
    assert onset_times([near, at(200), not_by(300)]).n_near_line == 1


def test_runs_that_ended_while_a_head_rose_are_counted_as_open():
    open_run = RoleOnset(after=90, at=None, censored=True)
    times = onset_times([at(200), open_run, not_by(300)])
    assert (times.n_formed, times.n_censored) == (1, 1)


def test_an_onset_is_earlier_only_where_the_captures_can_tell():
    overlapping = [RoleOnset(400, 500), RoleOnset(450, 550), RoleOnset(500, 600)]
    assert censored_ranks(overlapping).tolist() == [-1, 0, 1]
    from_the_start = RoleOnset(None, 0)
    assert censored_ranks([from_the_start, at(10), not_by(5)]).tolist() == [-2, 1, 1]


@pytest.mark.parametrize("seed", range(3))
def test_without_censoring_the_scores_are_ranks(seed):
    steps = np.random.default_rng(seed).integers(1, 8, 15) * 10
    scores = censored_ranks([at(step) for step in steps])
    np.testing.assert_allclose(scores, 2 * rankdata(steps) - 16)


def test_a_killed_run_counts_for_less_than_one_that_was_watched_to_the_end():
    onsets = [at(480), at(500), at(520)]
    killed = censored_ranks([*onsets, not_by(490)])[-1]
    watched = censored_ranks([*onsets, not_by(1000)])[-1]
    assert (killed, watched) == (1, 3)


def test_a_spread_of_one_run_is_unknown():
    assert spread([2.0]).sd is None
    assert spread([1.0, 3.0]).sd == pytest.approx(np.sqrt(2))
    assert spread([]) is None


@pytest.mark.parametrize("seed", range(4))
def test_coefficients_are_scipys_and_those_of_the_definition(seed):
    """With ties, and runs that lack a setting or an outcome."""
    rng = np.random.default_rng(seed)
    setting, level = rng.integers(0, 5, 25).astype(float), rng.integers(0, 3, 25).astype(float)
    outcome = rng.integers(0, 9, 25).astype(float)
    numbers = Factor(ranks(list(setting)), is_number=True)
    levels = Factor(level, is_number=False)
    tests = permutation_tests([numbers, levels], [ranks(list(outcome))], min_runs=6)
    expected = spearmanr(setting, outcome)
    assert tests.coefficients[0, 0] == pytest.approx(expected.statistic)
    assert tests.p_alone[0, 0] == pytest.approx(expected.pvalue, abs=0.03)

    found = rankdata(outcome)
    groups = [found[level == each] for each in np.unique(level)]
    between = sum(len(group) * (group.mean() - found.mean()) ** 2 for group in groups)
    ratio = np.sqrt(between / ((found - found.mean()) ** 2).sum())
    assert tests.coefficients[1, 0] == pytest.approx(ratio)

    lacking = np.where(np.arange(25) < 4, np.nan, ranks(list(outcome)))
    partly = permutation_tests([numbers], [lacking], min_runs=6)
    kept = spearmanr(ranks(list(setting))[4:], lacking[4:]).statistic
    assert partly.n_runs[0, 0] == 21
    assert partly.coefficients[0, 0] == pytest.approx(kept, abs=0.02)


def test_orders_that_are_as_strong_as_what_was_found_count():
    """Two of the 720 orders of six runs give a rank correlation of 1 or -1."""
    six = np.arange(6.0)
    tests = permutation_tests([Factor(six, is_number=True)], [six], min_runs=6)
    assert tests.p_alone[0, 0] == tests.p_corrected[0, 0] == pytest.approx(2 / 720, abs=0.002)


def test_what_does_not_vary_or_has_too_few_runs_is_not_tested():
    varying = Factor(np.arange(8.0), is_number=True)
    constant = Factor(np.zeros(8), is_number=True)
    few = np.where(np.arange(8) < 5, np.arange(8.0), np.nan)
    tests = permutation_tests([varying, constant], [np.arange(8.0), np.ones(8), few], min_runs=6)
    assert tests.n_tests == 1
    assert np.isfinite(tests.p_corrected).sum() == 1
    assert permutation_tests([], [], min_runs=6).n_tests == 0


def simulated(n_runs, n_settings, *, effect=0.0, outcome=0, n_outcomes=6, seed, weights=None):
    """The smallest corrected p-value of a sweep whose first setting has ``effect`` (in standard
    deviations of the outcome) on one outcome, and the others none."""
    rng = np.random.default_rng(seed)
    settings = [rng.permutation(np.resize([0.0, 1.0], n_runs)) for _ in range(n_settings)]
    outcomes = rng.normal(size=(n_outcomes, n_runs))
    outcomes[outcome] += effect * settings[0]
    tests = permutation_tests(
        [Factor(ranks(list(values)), is_number=True) for values in settings],
        [ranks(list(values)) for values in outcomes],
        min_runs=6,
        weights=weights,
        seed=seed,
    )
    return np.nanmin(tests.p_corrected) if tests.n_tests else 1.0


@pytest.mark.parametrize(("n_runs", "n_settings"), [(6, 1), (8, 5), (12, 2), (30, 5)])
def test_without_any_effect_the_strongest_of_all_tests_is_rarely_significant(
    n_runs, n_settings, monkeypatch
):
    monkeypatch.setattr("tracker_viz.comparison.statistics.N_PERMUTATIONS", 1000)
    smallest = [simulated(n_runs, n_settings, seed=seed) for seed in range(120)]
    assert np.mean(np.array(smallest) < 0.05) <= 0.09, "5 %, and the chance of 120 sweeps"


def test_an_effect_of_one_standard_deviation_over_thirty_runs_is_found_in_most_sweeps(monkeypatch):
    monkeypatch.setattr("tracker_viz.comparison.statistics.N_PERMUTATIONS", 1000)
    weights = [1, 1, 0.25, 0.25, 0.25, 0.25]
    found = [simulated(30, 1, effect=1, seed=seed, weights=weights) for seed in range(80)]
    assert np.mean(np.array(found) < 0.05) > 0.5
    strong = [simulated(30, 5, effect=2, seed=seed, outcome=5) for seed in range(20)]
    assert np.mean(np.array(strong) < 0.05) > 0.9


def test_intervals_of_coefficients_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        first = rng.normal(size=25)
        second = 0.6 * first + 0.8 * rng.normal(size=25)
        low, high = correlation_interval(spearmanr(first, second).statistic, 25)
        covered += low <= 6 / np.pi * np.arcsin(0.3) <= high
    assert 0.91 <= covered / 300 <= 0.99
    assert correlation_interval(1.0, 8) == pytest.approx((1, 1), abs=1e-3)


def test_the_interval_of_a_ratio_reaches_zero_where_chance_explains_it():
    assert correlation_ratio_interval(0.2, 30, 3)[0] == 0
    low, high = correlation_ratio_interval(0.8, 30, 3)
    assert 0.5 < low < 0.8 < high < 0.9
    assert correlation_ratio_interval(1.0, 12, 2) == (1.0, 1.0)


def test_an_outcome_that_no_run_has_is_not_tested(recwarn):
    factor = Factor(np.arange(8.0), is_number=True)
    tests = permutation_tests([factor], [np.full(8, np.nan), np.arange(8.0)], min_runs=6)
    assert tests.n_tests == 1
    assert not recwarn.list
