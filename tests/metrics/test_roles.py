"""Roles: a label where there is evidence, none where there is noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tracker_viz import metrics
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import NO_ROLE, Onset, Role, ScoreSeries, margin, role_states

ROLES = tuple(Role(name, enter=0.4, leave=0.3) for name in ("previous_token", "induction"))

INDUCTION = next(index for index, role in enumerate(ROLES) if role.name == "induction")
PREVIOUS = next(index for index, role in enumerate(ROLES) if role.name == "previous_token")


def onsets(series, roles=ROLES):
    return metrics.onsets(series, roles)


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
    onset = Onset(0, 0, "induction", step=30, until=None, score=0.5, after=20)
    assert onsets(series) == [onset]


def test_a_score_that_trembles_above_the_line_makes_one_onset_not_five():
    trembling = [0.2, *[0.5, 0.42, 0.52, 0.39] * 5]
    assert [onset.step for onset in onsets(series_of(induction=[trembling]))] == [10]


@pytest.mark.parametrize("odd", [0.31, 0.9])
def test_one_capture_above_the_line_makes_no_label(odd):
    scores = [0.22] * 5 + [odd] + [0.22] * 20
    series = series_of(previous_token=[scores])
    assert metrics.onsets(series) == []
    assert (metrics.head_roles(series)[0] == NO_ROLE).all()


def test_one_capture_below_the_line_ends_no_role():
    series = series_of(induction=[[0.05] * 5 + [0.9] * 5 + [0.1] + [0.9] * 5])
    (onset,) = onsets(series)
    assert (onset.step, onset.until) == (50, None)


def test_a_role_lasts_between_the_two_lines_and_is_not_taken_there():
    between = [0.35] * 20
    (onset,) = onsets(series_of(induction=[[0.05, 0.05, 0.5, 0.6, *between]]))
    assert (onset.step, onset.until) == (20, None)
    assert onsets(series_of(induction=[[0.05, 0.05, *between]])) == []


@pytest.mark.parametrize("n_captures", [20, 100, 300])
@pytest.mark.parametrize("sd", [0.025, 0.05])
def test_labels_do_not_come_from_noise_however_many_captures_there_are(sd, n_captures):
    rng = np.random.default_rng(n_captures)
    noise = sd * rng.standard_normal((n_captures, 1, 1000))
    role = metrics.ROLES[0]
    ever_labeled = role_states(role.enter - sd + noise, role).any(0).mean()
    labeled_above = role_states(role.enter + 2 * sd + noise, role)[-1].mean()
    assert ever_labeled <= 0.05, "one standard deviation below the line"
    assert labeled_above >= 0.95, "two standard deviations above it"


def test_noise_below_the_threshold_makes_no_onset():
    noise = 0.15 + 0.1 * np.random.default_rng(0).random((32, 200))
    assert onsets(series_of(induction=noise)) == []


def test_a_schedule_that_is_sparse_at_the_end_still_finds_the_onset():
    (onset,) = onsets(series_of(induction=[[0.05, 0.05, 0.05, 0.6, 0.9]]))
    assert (onset.after, onset.step) == (20, 30)


def test_a_rise_within_a_short_run_is_found():
    (onset,) = onsets(series_of(induction=[[0.05, 0.06, 0.1, 0.45, 0.7, 0.85]]))
    assert (onset.after, onset.step) == (20, 30)


def test_what_happens_in_the_last_capture_is_not_yet_an_onset():
    rising = [0.1, 0.1, 0.1, 0.6]
    assert onsets(series_of(induction=[rising])) == []
    assert onsets(series_of(induction=[[*rising, 0.6]]))[0].step == 30


def test_a_role_can_be_lost_and_taken_again():
    series = series_of(induction=[[0.5, 0.5, 0.5, 0.2, 0.1, 0.5, 0.5, 0.5]])
    first, second = onsets(series)
    assert (first.step, first.until) == (0, 30)
    assert (second.step, second.until) == (50, None)


def test_onsets_are_ordered_by_step_and_head():
    series = series_of(
        previous_token=[[0.1, 0.5, 0.6, 0.6, 0.6], [0.1] * 5, [0.1] * 5],
        induction=[[0.0] * 5, [0.0, 0.0, 0.5, 0.6, 0.6], [0.0, 0.5, 0.5, 0.5, 0.5]],
    )
    found = onsets(series)
    assert [(onset.role, onset.head, onset.step) for onset in found] == [
        ("previous_token", 0, 10),
        ("induction", 2, 10),
        ("induction", 1, 20),
    ]


def test_a_training_that_dies_ends_its_heads_roles():
    nan = np.nan
    series = series_of(induction=[[0.1, 0.5, 0.6, 0.6, nan, nan, nan, nan]])
    (onset,) = onsets(series)
    assert (onset.step, onset.until) == (10, 40)
    assert head_roles(series)[0][:, 0, 0].tolist() == [NO_ROLE, *[INDUCTION] * 3, *[NO_ROLE] * 4]


def test_a_missing_score_changes_no_state():
    nan = np.nan
    assert onsets(series_of(induction=[[0.1, 0.6, nan, nan, 0.6, 0.6]]))[0].until is None
    assert onsets(series_of(induction=[[nan, nan, 0.1, 0.1, nan, 0.1]])) == []


@pytest.mark.parametrize("seed", range(10))
def test_states_and_onsets_agree_for_any_scores(seed):
    rng = np.random.default_rng(seed)
    scores = rng.random((rng.integers(1, 40), 2, 3)).astype(np.float32)
    states = role_states(scores, ROLES[0])
    begins = np.diff(states.astype(int), axis=0, prepend=0) == 1
    assert (scores[begins] > ROLES[0].enter).all(), "a role begins above the line"
    series = ScoreSeries(
        np.arange(len(scores)), {ROLES[0].name: scores}, uniform={ROLES[0].name: 0.0}
    )
    held = np.zeros(scores.shape, int)
    for onset in onsets(series):
        held[
            onset.step : onset.until if onset.until is not None else len(scores),
            onset.block,
            onset.head,
        ] += 1
    np.testing.assert_array_equal(held, states)


def test_of_two_roles_the_one_further_above_uniform_counts():
    series = series_of(
        previous_token=[[0.1] + [0.6] * 3 + [0.42] * 3 + [0.7] * 3],
        induction=[[0.1] * 4 + [0.57] * 3 + [0.5] * 3],
    )
    roles, margins = head_roles(series)
    expected = [NO_ROLE, *[PREVIOUS] * 3, *[INDUCTION] * 3, *[PREVIOUS] * 3]
    assert roles[:, 0, 0].tolist() == expected
    assert margins[1, 0, 0] == pytest.approx((0.6 - 0.05) / 0.95)
    assert margins[0, 0, 0] == pytest.approx((0.1 - 0.05) / 0.95), (
        "without a role: how near the nearest one is"
    )


def test_a_head_keeps_its_role_while_noise_explains_that_another_leads():
    n = 24
    flicker = 0.5 + 0.02 * (-1.0) ** np.arange(n)
    series = series_of(previous_token=[[0.5] * n], induction=[flicker])
    roles = head_roles(series)[0][:, 0, 0]
    assert len(set(roles.tolist())) == 1

    clear = np.where(np.arange(n) < n // 2, flicker, 0.9)
    roles = head_roles(series_of(previous_token=[[0.5] * n], induction=[clear]))[0][:, 0, 0]
    assert roles[-1] == INDUCTION


def rising(top, at=3, n=10):
    return [0.05] * at + [top] * (n - at)


def test_a_role_is_read_from_its_own_kind_of_row():
    series = series_of(
        previous_token=[rising(0.35)],
        previous_token_repeated=[rising(0.13)],
        previous_token_text=[rising(0.5)],
    )
    held = [metrics.ROLES[index].name for index in metrics.head_roles(series)[0][-1].flat]
    assert held == ["previous_token_text"]
    assert (metrics.head_roles(series, rows="repeated")[0] == NO_ROLE).all()


def test_a_head_that_does_it_on_both_kinds_of_row_has_the_name_of_repeats():
    series = series_of(previous_token_repeated=[rising(0.7)], previous_token_text=[rising(0.9)])
    for rows, name in ((None, "previous_token"), ("text", "previous_token_text")):
        (label,) = metrics.head_roles(series, rows=rows)[0][-1].flat
        assert metrics.ROLES[label].name == name


def test_the_mean_over_all_rows_counts_where_older_captures_hold_nothing_else():
    assert metrics.onsets(series_of(previous_token=[rising(0.7)]))[0].role == "previous_token"


def test_a_positional_lookalike_is_no_induction_head():
    series = series_of(
        induction=[rising(0.9), rising(0.9)], induction_min=[[0.02] * 10, rising(0.8)]
    )
    roles = metrics.head_roles(series)[0][-1, 0]
    assert [index != NO_ROLE for index in roles] == [False, True]


def test_spread_over_rows_counts_as_noise():
    close = [[0.05] * 3 + [0.34] * 6]
    series = series_of(induction=close)
    assert len(metrics.onsets(series)) == 1
    wide = np.full_like(series.heads["induction"], 0.3)
    unsure = replace(series, spread={"induction": wide}, n_rows={"induction": 4})
    assert metrics.onsets(unsure) == []
    sure = replace(unsure, n_rows={"induction": 100})
    assert len(metrics.onsets(sure)) == 1, "the mean of many rows is known better than each"


@pytest.mark.parametrize(
    ("scores", "is_near"),
    [
        ([0.05] * 10, False),
        ([0.9] * 10, False),
        ([0.28] * 10, True),
        ([0.33] * 10, True),
        ([*rising(0.5)[:8], 0.25, 0.25], True),
        ([0.22] * 10, False),
    ],
)
def test_a_head_near_the_line_is_marked(scores, is_near):
    role = metrics.ROLES[1]
    evidence = metrics.role_evidence(series_of(induction=[scores]), role)
    assert metrics.near_line(evidence, role).tolist() == [[is_near]]


@pytest.mark.parametrize(
    ("scores", "is_near"),
    [
        ({"induction": 0.9, "previous_token": 0.31}, False),
        ({"induction": 0.31, "previous_token": 0.1}, True),
        ({"induction": 0.6, "previous_token": 0.61}, True),
        ({"induction": 0.9, "previous_token": 0.5}, False),
        ({"induction": 0.9, "sink_text": 0.3}, False),
    ],
)
def test_a_label_is_near_the_line_where_another_role_could_be_it(scores, is_near):
    series = series_of(**{name: [[value] * 8] for name, value in scores.items()})
    evidence = metrics.gather_evidence(series)
    assert metrics.labels_near_line(evidence, rows="repeated").tolist() == [[is_near]]


def test_names_of_roles_tell_text_from_repeats():
    names = [metrics.role_label(role.name) for role in metrics.ROLES]
    assert len(set(names)) == len(names)
    assert metrics.role_label("previous_token_text") == "previous token (text)"


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
