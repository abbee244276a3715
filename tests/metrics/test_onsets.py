"""Onsets of a run: those of the strongest heads, as intervals, and what is not known yet."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz.metrics import (
    ROLES,
    Role,
    ScoreSeries,
    lasting_onsets,
    onset_curve,
    onset_table,
    run_onsets,
)

INDUCTION = next(role for role in ROLES if role.name == "induction")


def series_of(**scores):
    """One block, one head per given list: ScoreSeries with steps 0, 10, 20, ..."""
    heads = {name: np.asarray(values, np.float32).T[:, None, :] for name, values in scores.items()}
    n_captures = len(next(iter(heads.values())))
    return ScoreSeries(
        steps=np.arange(n_captures) * 10, heads=heads, uniform=dict.fromkeys(heads, 0.05)
    )


def rising(top, at, n=20):
    return [0.05] * at + [top] * (n - at)


def test_the_onset_of_a_run_is_that_of_its_strongest_head():
    series = series_of(induction=[rising(0.36, 4), rising(0.9, 12), rising(0.6, 14)])
    onset = run_onsets(series)["induction"]
    assert (onset.head, onset.after, onset.step) == ((0, 1), 110, 120)
    assert (onset.near_line, onset.censored) == (False, False)
    heads = [each.head for each in lasting_onsets(series)["induction"]]
    assert heads == [1, 2, 0], "the strongest first"


def test_a_borderline_head_does_not_move_the_onset_between_two_draws_of_the_probe():
    """The first head labels itself early in one draw, and never in the other."""
    draws = [
        run_onsets(series_of(induction=[rising(low, 4), rising(0.9, 12)])) for low in (0.28, 0.34)
    ]
    assert [draw["induction"].step for draw in draws] == [120, 120]


def test_of_heads_that_the_noise_does_not_tell_apart_the_first_one_counts():
    """Two equal heads take turns as the strongest from draw to draw of the probe."""
    for first, second in ((0.60, 0.63), (0.63, 0.60)):
        series = series_of(induction=[rising(first, 12), rising(second, 5), rising(0.35, 2)])
        onset = run_onsets(series)["induction"]
        assert (onset.head, onset.step) == ((0, 1), 50)
        assert lasting_onsets(series)["induction"][0].head == 1, "it leads the event"
        assert onset_curve(series, INDUCTION)[0.3] == 50


def test_the_strongest_head_at_the_end_counts_not_one_that_was_strongest_once():
    fading = [0.05] * 3 + [0.95] * 10 + [0.4] * 7
    onset = run_onsets(series_of(induction=[fading, rising(0.8, 12)]))["induction"]
    assert (onset.head, onset.step) == ((0, 1), 120)


def test_a_head_that_has_the_role_from_the_first_capture_has_no_capture_before_it():
    onset = run_onsets(series_of(induction=[[0.9] * 6]))["induction"]
    assert (onset.after, onset.step) == (None, 0)


def test_captures_without_a_score_lie_within_the_interval():
    nan = np.nan
    onset = run_onsets(series_of(induction=[[0.05] * 5 + [nan] * 3 + [0.9] * 4]))["induction"]
    assert (onset.after, onset.step) == (40, 80)


def test_a_role_that_was_not_reached_is_known_up_to_the_last_step():
    onset = run_onsets(series_of(induction=[[0.05] * 6, [0.2] * 6]))["induction"]
    assert (onset.step, onset.after, onset.censored) == (None, 50, False)
    assert onset.head == (0, 1), "the head that came nearest"


def test_a_rise_that_the_end_of_the_run_cut_off_is_censored_not_absent():
    onset = run_onsets(series_of(induction=[[0.05] * 8 + [0.9]]))["induction"]
    assert (onset.step, onset.censored, onset.after) == (None, True, 70)


def test_a_run_that_died_is_known_up_to_its_last_score():
    nan = np.nan
    onset = run_onsets(series_of(induction=[[0.05] * 4 + [nan] * 3]))["induction"]
    assert (onset.head, onset.step, onset.after) == (None, None, 30)


def test_only_what_the_captures_measure_has_an_answer():
    assert list(run_onsets(series_of(sink_text=[[0.1] * 4]))) == ["sink_text"]
    assert run_onsets(ScoreSeries(np.zeros(0, np.int64), {})) == {}


def test_the_curve_says_how_much_an_onset_hangs_on_the_line():
    steady = np.clip(np.arange(20) * 0.05, 0, 0.95)
    curve = onset_curve(series_of(induction=[steady, [0.05] * 20]), INDUCTION)
    assert curve[0.3] == 70, "the first capture above 0.3"
    steps = [step for step in curve.values() if step is not None]
    assert steps == sorted(steps)
    assert len(set(steps)) == len(steps)
    assert curve[0.9] is None, "one capture above 0.9 is no evidence"


def test_a_head_that_jumps_has_one_onset_at_every_threshold_below():
    curve = onset_curve(series_of(induction=[rising(0.75, 9)]), INDUCTION)
    assert set(list(curve.values())[:7]) == {90}
    assert (curve[0.8], curve[0.9]) == (None, None)


def test_the_table_of_onsets_has_a_row_for_every_role_that_was_measured():
    series = series_of(induction=[rising(0.9, 9), rising(0.6, 12)], sink=[[0.1] * 20] * 2)
    induction, sink = onset_table(series)
    assert (induction["role"], induction["head"], induction["heads"]) == ("induction", "L00H00", 2)
    assert (induction["onset_after"], induction["onset_step"]) == (80, 90)
    assert (induction["onset_at_0.5"], induction["near_line"]) == (90, False)
    assert (sink["heads"], sink["onset_step"], sink["onset_after"]) == (0, None, 190)


@pytest.mark.parametrize("role", [Role("induction"), INDUCTION])
def test_a_curve_of_a_role_that_nobody_measured_is_empty(role):
    assert set(onset_curve(series_of(sink=[[0.1] * 4]), role).values()) == {None}
