"""Compute the statistics of a sweep: in how many replicates a role formed, and when, and one
corrected test of which settings go with which outcomes.

Every function takes and returns plain numbers. A run that ended without a role is *censored*: it
counts as later than its end, not as missing and not as never. scipy is imported inside the
functions that need it, because training imports this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison.onsets import RoleOnset

Floats = NDArray[np.float64]
N_PERMUTATIONS = 10_000
# Values that are permuted at once: of a thousand runs fewer permutations, which say as much.
_MOST_PERMUTED = 2_000_000
_LEAST_PERMUTATIONS = 1000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class OnsetTimes:
    """Onsets of a role over replicates, on the axis of the comparison.

    Attributes:
        n_runs, n_formed: how many there are, and how many of them formed it.
        n_near_line: of those that formed it, how many are near the line.
        n_censored: of those that did not, in how many a head had risen above the line when they
            ended.
        median: Kaplan-Meier estimate of when half of the runs have formed it; None where fewer
            than half did.
        median_low, median_high: 95 % interval of the median, from order statistics; None where it
            has no limit, as with fewer than six runs or many without the role.
        first, last: the earliest and the latest onset; None where no run formed it.
        watched_until: where the last run without it ended; None where all formed it.
    """

    n_runs: int
    n_formed: int
    n_near_line: int
    n_censored: int
    median: float | None
    median_low: float | None
    median_high: float | None
    first: float | None
    last: float | None
    watched_until: float | None


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean over runs with their standard deviation; ``sd`` None for a single run."""

    n: int
    mean: float
    sd: float | None


@dataclass(frozen=True, slots=True)
class Factor:
    """A setting that may have an effect: one value per run.

    Attributes:
        values: float64 [run]: ranks of a setting that is a number, else the number of its level;
            NaN where the run has no such setting.
        is_number: whether the order of the values means something.
    """

    values: Floats
    is_number: bool


@dataclass(frozen=True, slots=True)
class Tests:
    """One permutation test of every factor against every outcome.

    Attributes:
        coefficients: float64 [factor, outcome]: rank correlation -1..1 of a number, else the
            correlation ratio 0..1 between the levels; NaN where it was not tested.
        n_runs: int64 [factor, outcome]: runs that have both values.
        p_alone: float64 [factor, outcome]: share of the permutations with a coefficient at least as
            far from 0.
        p_corrected: float64 [factor, outcome]: share of the permutations in which *any* of the
            tests comes out with so small a weighted ``p_alone``: right for whichever test is looked
            at because it is the strongest.
        n_tests: how many there were.
    """

    coefficients: Floats
    n_runs: NDArray[np.int64]
    p_alone: Floats
    p_corrected: Floats
    n_tests: int


@dataclass(frozen=True, slots=True)
class _OutcomeSums:
    """The outcomes, and their sums over the runs that have both a value of the factor and an
    outcome, for every order of the factor's values.

    Attributes:
        y: float64 [outcome, run]: the outcomes less their mean, 0 where a run has none.
        has_y: float64 [outcome, run]: 1 where a run has one, else 0.
        n: float64 [order, outcome]: number of these runs.
        sum_y, sum_yy: float64 [order, outcome]: sum of ``y``, and of its square.
    """

    y: Floats
    has_y: Floats
    n: Floats
    sum_y: Floats
    sum_yy: Floats

    @property
    def spread(self) -> Floats:
        """Sum of the squares of ``y`` around its mean over these runs: float64 [order, outcome]."""
        return self.sum_yy - self.sum_y**2 / np.maximum(self.n, 1.0)


def onset_times(onsets: Sequence[RoleOnset]) -> OnsetTimes:
    """Summarize when replicates formed a role."""
    from scipy.stats import CensoredData, ecdf

    is_formed = np.array([onset.formed for onset in onsets])
    formed = np.array([onset.latest for onset in onsets], np.float64)[is_formed]
    without = np.array([onset.earliest for onset in onsets], np.float64)[~is_formed]
    median = None
    if formed.size:
        survival = ecdf(CensoredData(uncensored=formed, right=without)).sf
        half = np.flatnonzero(survival.probabilities <= 0.5 + 1e-9)
        if half.size:
            median = float(survival.quantiles[half[0]])
    # scipy has the interval of the curve, which says little for a handful of runs.
    low, high = _median_interval(formed, without)
    return OnsetTimes(
        n_runs=len(onsets),
        n_formed=formed.size,
        n_near_line=sum(onset.near_line and onset.formed for onset in onsets),
        n_censored=sum(onset.censored for onset in onsets),
        median=median,
        median_low=low,
        median_high=high,
        first=_or_none(formed.min(initial=np.inf)),
        last=_or_none(formed.max(initial=-np.inf)),
        watched_until=_or_none(without.max(initial=-np.inf)),
    )


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and standard deviation over runs; None without values."""
    if not len(values):
        return None
    sd = None
    if len(values) > 1:
        sd = float(np.std(values, ddof=1))
    return Spread(len(values), float(np.mean(values)), sd)


def censored_ranks(onsets: Sequence[RoleOnset]) -> Floats:
    """Return Gehan's scores of onsets, float64 [run]: how many runs were certainly earlier, minus
    how many were certainly later (Gehan, *Biometrika* 52, 1965).

    Without censoring and overlapping intervals these are the ranks, but for scale and origin. A
    run that was killed early is certainly later than few, and counts for little.
    """
    earliest = np.array([onset.earliest for onset in onsets])
    latest = np.array([onset.latest for onset in onsets])
    is_earlier = latest[:, None] <= earliest[None]
    return (is_earlier.sum(0) - is_earlier.sum(1)).astype(np.float64)


def ranks(values: Sequence[float | None]) -> Floats:
    """Return ranks 1..n, float64; equal values share the mean of theirs; NaN for None."""
    from scipy.stats import rankdata

    numbers = np.array([np.nan if value is None else value for value in values], np.float64)
    return np.asarray(rankdata(numbers, nan_policy="omit"), np.float64)


def permutation_tests(
    factors: Sequence[Factor],
    outcomes: Sequence[Floats],
    *,
    min_runs: int,
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> Tests:
    """Test every factor against every outcome, corrected for their number (minP, Westfall and
    Young 1993).

    The outcomes of whole runs are reassigned to the runs' settings at random, all outcomes
    together, so that the correction knows how far the outcomes depend on each other.

    Args:
        outcomes: float64 [run] each: ranks or scores; NaN where a run has none.
        weights: of the outcomes: what share of the error rate each gets (weighted p-values,
            Genovese et al., *Biometrika* 93, 2006); None: the same for all.
        min_runs: a pair of factor and outcome that fewer runs have is not tested.
    """
    shape = (len(factors), len(outcomes))
    n_runs = np.zeros(shape, np.int64)
    coefficients, p_alone = np.full(shape, np.nan), np.full(shape, np.nan)
    p_corrected = np.full(shape, np.nan)
    if not factors or not outcomes:
        return Tests(coefficients, n_runs, p_alone, p_corrected, 0)

    results = np.stack(outcomes)
    orders = _orders(results.shape[1], seed)
    shares = np.ones(len(outcomes)) if weights is None else np.array(weights)
    tested, p_values, weighted = [], [], []
    for index, factor in enumerate(factors):
        n_runs[index] = (np.isfinite(factor.values) & np.isfinite(results)).sum(1)
        found = _coefficients(factor, results, orders)
        for outcome in np.flatnonzero((n_runs[index] >= min_runs) & np.isfinite(found[0])):
            coefficients[index, outcome] = found[0, outcome]
            tested.append((index, int(outcome)))
            p_values.append(_p_values(np.abs(found[:, outcome])))
            weighted.append(p_values[-1] / shares[outcome])
    if not tested:
        return Tests(coefficients, n_runs, p_alone, p_corrected, 0)

    # The strongest of all tests in every permutation: what chance offers if you look for the best.
    smallest = np.min(weighted, axis=0)
    for test, p_value, at_weight in zip(tested, p_values, weighted, strict=True):
        p_alone[test] = p_value[0]
        p_corrected[test] = np.mean(smallest <= at_weight[0] * (1 + 1e-9))
    return Tests(coefficients, n_runs, p_alone, p_corrected, len(tested))


def correlation_interval(coefficient: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a rank correlation over ``n`` > 3 runs (Fisher's z with the
    variance of Bonett and Wright, *Psychometrika* 65, 2000)."""
    from scipy.stats import norm

    # A perfect correlation has no finite z.
    bounded = np.clip(coefficient, -1 + 1e-9, 1 - 1e-9)
    error = np.sqrt((1 + bounded**2 / 2) / (n - 3)) * norm.ppf((1 + _CONFIDENCE) / 2)
    low, high = np.tanh(np.arctanh(bounded) + np.array([-error, error]))
    return float(low), float(high)


def correlation_ratio_interval(coefficient: float, n: int, n_levels: int) -> tuple[float, float]:
    """Return the 95 % interval of a correlation ratio between ``n_levels`` groups of ``n`` runs, by
    inverting the noncentral F distribution (Steiger, *Psychological Methods* 9, 2004)."""
    from scipy.special import fdtr, ncfdtrinc

    between, within = n_levels - 1, n - n_levels
    if coefficient >= 1 - 1e-9 or within < 1:
        return float(coefficient), 1.0
    f_value = (coefficient**2 / between) / ((1 - coefficient**2) / within)
    limits = []
    for probability in ((1 + _CONFIDENCE) / 2, (1 - _CONFIDENCE) / 2):
        # Even without any effect so small a ratio is rarer than that: there is no lower limit.
        if fdtr(between, within, f_value) <= probability:
            limits.append(0.0)
            continue
        noncentrality = float(ncfdtrinc(between, within, probability, f_value))
        limits.append(float(np.sqrt(noncentrality / (noncentrality + n))))
    return limits[0], limits[1]


def _median_interval(formed: Floats, without: Floats) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the median from order statistics, exact for any distribution.

    Censored runs count as formed at once for the lower limit, and as never for the upper one.
    """
    from scipy.stats import binom

    n = formed.size + without.size
    # The number of runs below the true median is binomial.
    order = int(binom.ppf((1 - _CONFIDENCE) / 2, n, 0.5))
    if order < 1:
        return None, None
    soonest = np.sort(np.concatenate([formed, without]))
    latest = np.sort(np.concatenate([formed, np.full(without.size, np.inf)]))
    return _or_none(soonest[order - 1]), _or_none(latest[n - order])


def _or_none(place: float) -> float | None:
    if not np.isfinite(place):
        return None
    return float(place)


def _orders(n_runs: int, seed: int) -> NDArray[np.int64]:
    """Return permutations of the runs, int64 [permutation, run]; the first is the order itself."""
    n = max(_LEAST_PERMUTATIONS, min(N_PERMUTATIONS, _MOST_PERMUTED // n_runs))
    runs = np.tile(np.arange(n_runs), (n, 1))
    return np.concatenate([runs[:1], np.random.default_rng(seed).permuted(runs, axis=1)])


def _coefficients(factor: Factor, results: Floats, orders: NDArray[np.int64]) -> Floats:
    """Return the coefficients in every order of the factor's values: float64 [order, outcome]; NaN
    where one of the two does not vary."""
    values = factor.values[orders]
    sums = _outcome_sums(values, results)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = _correlations(values, sums) if factor.is_number else _ratios(values, sums)
    # The spread of an outcome that does not vary is a rounding error.
    varies = sums.spread > 1e-9 * np.maximum(sums.sum_yy, 1.0)
    return np.where(varies, found, np.nan)


def _outcome_sums(values: Floats, results: Floats) -> _OutcomeSums:
    """Sum outcomes over runs.

    Args:
        values: float64 [order, run], NaN where a run has none.
        results: float64 [outcome, run], NaN where a run has none.
    """
    has_y = np.isfinite(results).astype(np.float64)
    means = np.nansum(results, axis=1) / np.maximum(has_y.sum(1), 1.0)
    y = np.where(has_y > 0, results - means[:, None], 0.0)
    has_value = np.isfinite(values).astype(np.float64)
    # A product with 0 and 1 sums over the runs that have both.
    return _OutcomeSums(
        y, has_y, n=has_value @ has_y.T, sum_y=has_value @ y.T, sum_yy=has_value @ (y**2).T
    )


def _correlations(values: Floats, over: _OutcomeSums) -> Floats:
    """Return Pearson's correlation of ``values`` [order, run] with the outcomes, over the runs that
    have both: float64 [order, outcome]."""
    x = np.nan_to_num(values - np.nanmean(values))
    sum_x, sum_xx = x @ over.has_y.T, x**2 @ over.has_y.T
    sum_xy = x @ over.y.T
    spread_x = sum_xx - sum_x**2 / over.n
    covariance = sum_xy - sum_x * over.sum_y / over.n
    found = covariance / np.sqrt(spread_x * over.spread)
    return np.where(spread_x > 1e-9, np.clip(found, -1.0, 1.0), np.nan)


def _ratios(values: Floats, over: _OutcomeSums) -> Floats:
    """Return the correlation ratio between the levels in ``values`` [order, run], over the runs
    that have both: float64 [order, outcome]. It is the root of the share of the spread that lies
    between the levels' means."""
    between = -(over.sum_y**2) / over.n
    levels = np.unique(values[0][np.isfinite(values[0])])
    for level in levels:
        is_member = (values == level).astype(np.float64)
        n_members = np.maximum(is_member @ over.has_y.T, 1.0)
        between += (is_member @ over.y.T) ** 2 / n_members
    return np.sqrt(np.clip(between / over.spread, 0.0, 1.0))


def _p_values(strengths: Floats) -> Floats:
    """Return for every order the share of all orders that are at least as strong: float64
    [order]."""
    # Equal coefficients differ by rounding. One that is not defined shows no effect.
    rounded = np.round(np.nan_to_num(strengths), 9)
    weaker = np.searchsorted(np.sort(rounded), rounded, side="left")
    return (len(rounded) - weaker) / len(rounded)
