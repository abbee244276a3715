"""Roles and onsets: one clean onset where there is one, none where there is noise."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz import metrics
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import NO_ROLE, Onset, Role, ScoreSeries, first_onsets, margin, role_states

ROLES = tuple(Role(name, enter=0.4, leave=0.3) for name in ("previous_token", "induction"))

INDUCTION = next(index for index, role in enumerate(ROLES) if role.name == "induction")
PREVIOUS = next(index for index, role in enumerate(ROLES) if role.name == "previous_token")


def onsets(series, roles=ROLES, **options):
    return metrics.onsets(series, roles, **options)


def head_roles(series):
    return metrics.head_roles(series, ROLES)


def series_of(uniform=0.05, **scores):
    """One block, one head per given list: ScoreSeries with steps 0, 10, 20, ..."""
    heads = {name: np.asarray(values, np.float32).T[:, None, :] for name, values in scores.items()}
    n_captures = len(next(iter(heads.values())))
    return ScoreSeries(
        steps=np.arange(n_captures) * 10, heads=heads, uniform=dict.fromkeys(heads, uniform)
    )


def test_a_crossing_that_stays_is_one_onset():
    series = series_of(induction=[[0.05, 0.1, 0.35, 0.5, 0.8, 0.9, 0.9]])
    assert onsets(series) == [Onset(0, 0, "induction", step=30, until=None, score=0.5)]


def test_a_score_that_trembles_around_the_threshold_makes_one_onset_not_five():
    trembling = [0.2, 0.41, 0.39, 0.42, 0.38, 0.41, 0.37, 0.45, 0.31, 0.44]
    assert [onset.step for onset in onsets(series_of(induction=[trembling]))] == [10]
    without_hysteresis = (Role("induction", enter=0.4, leave=0.4),)
    assert len(onsets(series_of(induction=[trembling]), without_hysteresis, confirmations=0)) == 5


def test_a_single_odd_capture_makes_no_onset():
    assert onsets(series_of(induction=[[0.1, 0.1, 0.9, 0.1, 0.1, 0.1]])) == []


def test_noise_below_the_threshold_makes_no_onset():
    noise = 0.15 + 0.1 * np.random.default_rng(0).random((32, 200))
    assert onsets(series_of(induction=noise)) == []


def test_what_happens_in_the_last_captures_is_not_yet_an_onset():
    rising = [0.1, 0.1, 0.1, 0.5, 0.6]
    assert onsets(series_of(induction=[rising])) == []
    assert onsets(series_of(induction=[[*rising, 0.6]]))[0].step == 30


def test_a_role_can_be_lost_and_taken_again():
    series = series_of(induction=[[0.5, 0.5, 0.5, 0.2, 0.1, 0.5, 0.5, 0.5]])
    first, second = onsets(series)
    assert (first.step, first.until) == (0, 30)
    assert (second.step, second.until) == (50, None)
    assert first_onsets(series, ROLES)["induction"] == second, "the first one did not last"


def test_onsets_are_ordered_and_the_first_that_lasts_is_found():
    series = series_of(
        previous_token=[[0.1, 0.5, 0.6, 0.6, 0.6], [0.1] * 5, [0.1] * 5],
        induction=[[0.0] * 5, [0.0, 0.0, 0.5, 0.6, 0.6], [0.0, 0.45, 0.5, 0.5, 0.5]],
    )
    found = onsets(series)
    assert [(onset.role, onset.head, onset.step) for onset in found] == [
        ("previous_token", 0, 10),
        ("induction", 2, 10),
        ("induction", 1, 20),
    ]
    assert {role: onset.step for role, onset in first_onsets(series, ROLES).items()} == {
        "previous_token": 10,
        "induction": 10,
    }


def test_a_training_that_dies_ends_its_heads_roles():
    nan = np.nan
    series = series_of(induction=[[0.1, 0.5, 0.6, 0.6, nan, nan, nan, nan]])
    (onset,) = onsets(series)
    assert (onset.step, onset.until) == (10, 40)
    assert first_onsets(series, ROLES) == {}
    assert head_roles(series)[0][:, 0, 0].tolist() == [NO_ROLE, *[INDUCTION] * 3, *[NO_ROLE] * 4]


def test_a_missing_score_changes_no_state():
    nan = np.nan
    assert onsets(series_of(induction=[[0.1, 0.5, nan, nan, 0.5, 0.6]]))[0].until is None
    assert onsets(series_of(induction=[[nan, nan, 0.1, 0.1, nan, 0.1]])) == []


@pytest.mark.parametrize("seed", range(10))
def test_states_and_stretches_agree_for_any_scores(seed):
    rng = np.random.default_rng(seed)
    scores = rng.random((rng.integers(1, 40), 2, 3)).astype(np.float32)
    states = role_states(scores, ROLES[0])
    assert states[scores >= ROLES[0].enter].all()
    assert not states[scores < ROLES[0].leave].any()
    between = (scores[1:] >= ROLES[0].leave) & (scores[1:] < ROLES[0].enter)
    np.testing.assert_array_equal(states[1:][between], states[:-1][between])
    series = ScoreSeries(
        np.arange(len(scores)), {ROLES[0].name: scores}, uniform={ROLES[0].name: 0.0}
    )
    held = np.zeros(scores.shape, int)
    for onset in onsets(series, confirmations=0):
        held[
            onset.step : onset.until if onset.until is not None else len(scores),
            onset.block,
            onset.head,
        ] += 1
    np.testing.assert_array_equal(held, states)


def test_of_two_roles_the_one_further_above_uniform_counts():
    series = series_of(previous_token=[[0.1, 0.6, 0.42, 0.7]], induction=[[0.1, 0.3, 0.57, 0.5]])
    roles, margins = head_roles(series)
    assert roles[:, 0, 0].tolist() == [NO_ROLE, PREVIOUS, INDUCTION, PREVIOUS]
    assert margins[1, 0, 0] == pytest.approx((0.6 - 0.05) / 0.95)
    assert margins[0, 0, 0] == pytest.approx((0.1 - 0.05) / 0.95), (
        "without a role: how near the nearest one is"
    )


def test_margin_is_zero_for_uniform_and_one_for_perfect():
    assert margin(np.float32(0.05), 0.05) == pytest.approx(0)
    assert margin(np.float32(1), 0.05) == pytest.approx(1)


def test_heads_that_do_not_exist_have_no_role():
    series = series_of(induction=[[0.9] * 4, [np.nan] * 4])
    roles, margins = head_roles(series)
    assert roles[-1, 0].tolist() == [INDUCTION, NO_ROLE]
    assert np.isnan(margins[-1, 0, 1])


@pytest.mark.parametrize(("enter", "leave"), [(0.4, 0.5), (1.1, 0.5), (0.4, 0.0)])
def test_a_role_whose_thresholds_are_crossed_or_never_met_is_refused(enter, leave):
    with pytest.raises(ConfigError, match=f"leave {leave}, enter {enter}"):
        Role("induction", enter=enter, leave=leave)


def test_a_head_that_became_something_else_at_the_very_end_is_no_first_of_what_it_was():
    series = series_of(
        previous_token=[[0.1, 0.6, 0.6, 0.6, 0.6, 0.6]], induction=[[0.1, 0.1, 0.1, 0.1, 0.1, 0.9]]
    )
    assert {onset.role for onset in onsets(series)} == {"previous_token"}
    assert first_onsets(series) == {}
