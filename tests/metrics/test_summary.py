"""Trackers show scores as few chart names, a summary that sorts runs, a table of
heads."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz.metrics import (
    Scorer,
    ScoreSeries,
    chart_metrics,
    charted,
    head_table,
    run_summary,
    run_tags,
    score_series,
    shown_summary,
)
from tracker_viz.types import Capture

N_CAPTURES, SHAPE = 8, (2, 3)


def make_series():
    heads = {
        name: np.full((N_CAPTURES, *SHAPE), 0.05, np.float32)
        for name in ("previous_token", "induction", "sink", "specialisation")
    }
    heads["previous_token"][2:, 0, 1] = 0.7
    heads["induction"][4:, 1, 2] = 0.9
    heads["sink"][:, 1, 0] = 0.25
    heads["specialisation"][-1] = 0.3
    heads["induction"][:, 0, 2] = heads["previous_token"][:, 0, 2] = heads["sink"][:, 0, 2] = heads[
        "specialisation"
    ][:, 0, 2] = np.nan
    return ScoreSeries(np.arange(N_CAPTURES) * 100, heads, uniform=dict.fromkeys(heads, 0.05))


def test_summary_says_how_much_when_and_how_many():
    assert run_summary(make_series()) == pytest.approx(
        {
            "specialisation/previous_token_max": 0.7,
            "specialisation/previous_token_heads": 1,
            "specialisation/previous_token_onset_step": 200,
            "specialisation/previous_token_onset_after": 100,
            "specialisation/induction_max": 0.9,
            "specialisation/induction_heads": 1,
            "specialisation/induction_onset_step": 400,
            "specialisation/induction_onset_after": 300,
            "specialisation/sink_max": 0.25,
            "specialisation/sink_heads": 0,
            "specialisation/heads_specialised": 2,
            "specialisation/share_specialised": 2 / 5,
            "specialisation/index_mean": 0.3,
        }
    )


def test_all_heads_of_a_role_are_counted_whatever_else_was_measured_of_them():
    series = make_series()
    series.heads["induction"][4:, 1, 0] = 0.8
    series.heads["sink"][-1, 1, 0] = np.nan
    summary = run_summary(series)
    assert summary["specialisation/induction_heads"] == 2
    assert summary["specialisation/share_specialised"] == 3 / 5
    row = next(row for row in head_table(series) if row["head"] == "L01H00")
    assert (row["role"], row["sink"]) == ("induction", None), (
        "a score that is missing hides no head"
    )


def test_tags_name_the_roles_that_heads_have():
    assert run_tags(make_series()) == {"specialisation/roles": "previous_token, induction"}
    nobody = ScoreSeries(
        np.arange(3), {"induction": np.zeros((3, 1, 1), np.float32)}, uniform={"induction": 0.05}
    )
    assert run_tags(nobody) == {"specialisation/roles": "none"}
    assert run_tags(score_series([])) == {}


def test_trackers_get_the_roles_that_heads_have_and_those_that_everybody_asks_about():
    shown = shown_summary(
        {
            "specialisation/induction_heads": 0,
            "specialisation/induction_max": 0.1,
            "specialisation/sink_heads": 2,
            "specialisation/sink_max": 0.9,
            "specialisation/sink_onset_step": 40,
            "specialisation/sink_onset_after": 20,
            "specialisation/current_token_heads": 0,
            "specialisation/current_token_max": 0.2,
            "specialisation/heads_specialised": 2,
            "specialisation/roles": "sink",
        }
    )
    assert list(shown) == [
        "specialisation/induction_heads",
        "specialisation/induction_max",
        "specialisation/sink_heads",
        "specialisation/sink_max",
        "specialisation/sink_onset_step",
        "specialisation/heads_specialised",
        "specialisation/roles",
    ]


def test_summary_and_table_give_a_role_the_same_onset():
    """One head looks one token back in text from step 100 on, and is an induction head besides from
    400 on: that is its role at the end."""
    series = make_series()
    series.heads["previous_token"][1:, 1, 2] = 0.5
    table = {row["head"]: (row["role"], row["onset_step"]) for row in head_table(series)}
    assert (table["L01H02"], table["L00H01"]) == (("induction", 400), ("previous_token", 200))
    assert run_summary(series)["specialisation/previous_token_onset_step"] == 200


def test_a_run_without_any_specialised_head_says_so_and_has_no_onset():
    heads = {
        name: np.full((N_CAPTURES, *SHAPE), 0.1, np.float32)
        for name in ("previous_token", "induction")
    }
    series = ScoreSeries(np.arange(N_CAPTURES), heads, uniform=dict.fromkeys(heads, 0.05))
    assert run_summary(series) == pytest.approx(
        {
            **{f"specialisation/{name}_max": 0.1 for name in heads},
            **{f"specialisation/{name}_heads": 0 for name in heads},
            "specialisation/heads_specialised": 0,
            "specialisation/share_specialised": 0,
        }
    )
    assert {(row["role"], row["onset_step"]) for row in head_table(series)} == {(None, None)}
    assert not any(row["near_line"] for row in head_table(series))


def test_a_run_whose_training_died_has_what_it_had_been_and_no_roles():
    series = make_series()
    for scores in series.heads.values():
        scores[6:] = np.nan
    summary = run_summary(series)
    assert summary["specialisation/induction_max"] == pytest.approx(0.9)
    assert summary["specialisation/heads_specialised"] == 0
    assert not any(
        name.endswith(("onset_step", "share_specialised", "index_mean")) for name in summary
    )
    assert head_table(series) == [], "no head has a score at the last capture"


def test_table_has_a_row_for_every_head_that_exists():
    table = head_table(make_series())
    assert [row["head"] for row in table] == ["L00H00", "L00H01", "L01H00", "L01H01", "L01H02"]
    roles = {row["head"]: (row["role"], row["onset_step"]) for row in table}
    assert roles["L01H02"] == ("induction", 400)
    assert roles["L00H01"] == ("previous_token", 200)
    assert roles["L00H00"] == (None, None)
    assert table[-1]["margin"] == 0.895, "(0.9 - 0.05) / 0.95, to three decimals"
    assert list(table[-1])[:6] == [
        "head",
        "role",
        "onset_after",
        "onset_step",
        "margin",
        "near_line",
    ]
    assert table[-1]["induction"] == pytest.approx(0.9)
    assert table[-1]["block"] == 1
    assert table[-1]["index"] == 2


def test_a_role_lost_and_taken_again_in_the_last_capture_is_not_known_yet():
    induction = np.full((N_CAPTURES, 1, 1), 0.9, np.float32)
    induction[5:7] = 0.1
    row = head_table(
        ScoreSeries(np.arange(N_CAPTURES), {"induction": induction}, uniform={"induction": 0.05})
    )[0]
    assert (row["role"], row["onset_step"]) == (None, None)


def test_a_run_without_captures_or_scores_has_an_empty_summary():
    for series in (score_series([]), score_series([Capture(0, {}, metrics={"loss": 1.0})])):
        assert run_summary(series) == {}
        assert head_table(series) == []


def test_number_of_charts_is_bounded_for_any_model():
    for n_blocks, n_heads in ((4, 4), (8, 8), (64, 1), (64, 64), (128, 128)):
        heads = {
            name: np.random.default_rng(0).random((n_blocks, n_heads))
            for name in ("previous_token", "induction", "sink", "entropy")
        }
        projections = (
            [f"mlp.experts.{index}.w_up" for index in range(40)]
            if n_blocks > 64
            else ["attn.w_q", "mlp.w_down"]
        )
        weights = {"stable_rank": np.ones((n_blocks, len(projections)))}
        assert len(chart_metrics(heads, weights, projections)) <= 500
    assert not any("/block_" in name for name in chart_metrics(heads, weights, projections)), (
        "128 blocks are too many for a chart each"
    )


def test_charts_show_the_strongest_head_of_every_block_and_each_head_where_they_are_few():
    scores = np.random.default_rng(1).random((8, 8)).astype(np.float32)
    scores[2, 3], scores[5] = np.nan, np.nan
    charts = chart_metrics({"induction": scores}, {}, ())
    assert charts.pop("attn/induction_max") == np.nanmax(scores)
    blocks = {
        f"attn/induction/block_{block:02d}": np.nanmax(scores[block])
        for block in range(8)
        if block != 5
    }
    groups = {
        f"attn/induction/blocks_{b:02d}_{b + 1:02d}": np.nanmax(scores[b : b + 2])
        for b in (0, 2, 4, 6)
    }
    in_order = np.sort(scores[np.isfinite(scores)])
    ranks = {f"attn/induction/top_{rank}": in_order[-rank] for rank in (2, 3)}
    heads = {
        f"attn/induction/L{b:02d}H{h:02d}": scores[b, h]
        for b, h in np.ndindex(8, 8)
        if b != 5 and (b, h) != (2, 3)
    }
    assert charts == blocks | groups | ranks | heads
    few_blocks, many_blocks, few_heads = (
        chart_metrics({"sink": np.ones(shape)}, {}, ()) for shape in ((64, 2), (65, 2), (1, 64))
    )
    assert sum("/block_" in name for name in few_blocks) == 64
    assert not any("/block_" in name for name in many_blocks)
    assert sum("/L00H" in name for name in few_heads) == 64
    assert not any("/L00H" in name for name in few_blocks), "128 heads are too many"


def test_neurons_are_charted_of_the_projection_that_reads_them_alone():
    weights = {
        "dead_share": np.array([[np.nan, 0.25], [np.nan, 0.75]], np.float32),
        "kurtosis": np.ones((2, 2), np.float32),
    }
    charts = chart_metrics({}, weights, ("mlp.w_up", "mlp.w_down"))
    assert charts == {
        "weights/dead_share/mlp_w_down": 0.5,
        "weights/dead_share_mlp": 0.5,
        "weights/kurtosis_mlp": 1,
        "weights/kurtosis/mlp_w_up": 1,
        "weights/kurtosis/mlp_w_down": 1,
    }


@pytest.mark.parametrize(
    ("n_blocks", "n_heads"), [(1, 1), (4, 4), (5, 8), (12, 12), (61, 128), (128, 1)]
)
def test_there_are_about_fifteen_charts_for_any_model(n_blocks, n_heads):
    rng = np.random.default_rng(0)
    scores = (
        "previous_token",
        "induction",
        "duplicate_token",
        "current_token",
        "sink",
        "sink_text",
        "specialisation",
        "entropy",
        "confidence",
        "distance",
        "divergence",
    )
    heads = {name: rng.random((n_blocks, n_heads)) for name in scores}
    projections = ["attn.w_q", *(f"mlp.experts.{index}.w_up" for index in range(40))]
    measures = ("stable_rank", "distance", "update", "kurtosis", "dead_share", "active_share")
    weights = {name: rng.random((n_blocks, len(projections))) for name in measures}
    charts = charted(chart_metrics(heads, weights, projections))
    assert 10 <= len(charts) <= 18
    assert len({name.rpartition("/")[0] for name in charts}) <= 4


def test_charts_show_the_strongest_head_of_every_block_and_the_next_ones_of_all():
    scores = np.random.default_rng(1).random((4, 8)).astype(np.float32)
    scores[2, 3], scores[1] = np.nan, np.nan
    charts = charted(chart_metrics({"induction": scores}, {}, ()))
    in_order = np.sort(scores[np.isfinite(scores)])
    assert charts == {
        "attn/induction_max": in_order[-1],
        "attn/induction/block_00": scores[0].max(),
        "attn/induction/block_02": np.nanmax(scores[2]),
        "attn/induction/block_03": scores[3].max(),
        "attn/induction/top_2": in_order[-2],
    }


def test_blocks_of_a_deep_model_share_charts_that_mean_the_same_at_every_step():
    scores = np.random.default_rng(2).random((14, 2)).astype(np.float32)
    names = [
        f"attn/induction/blocks_{a:02d}_{b:02d}" for a, b in ((0, 3), (4, 7), (8, 11), (12, 13))
    ]
    charts = charted(chart_metrics({"induction": scores}, {}, ()))
    assert [charts[name] for name in names] == [
        scores[a:b].max() for a, b in ((0, 4), (4, 8), (8, 12), (12, 14))
    ]
    scores[4:8] = np.nan
    later = charted(chart_metrics({"induction": scores}, {}, ()))
    assert sorted(later) == sorted({*charts} - {names[1]})


def test_weights_are_charted_by_part_of_the_block_where_they_are_measured():
    weights = {
        "dead_share": np.array([[np.nan, np.nan, 0.25], [np.nan, np.nan, 0.75]], np.float32),
        "distance": np.array([[1, 2, 3], [1, 2, 3]], np.float32),
    }
    charts = charted(chart_metrics({}, weights, ("attn.w_q", "mlp.w_up", "mlp.w_down")))
    assert charts == {
        "weights/dead_share_mlp": 0.5,
        "weights/distance_attn": 1,
        "weights/distance_mlp": 2.5,
    }


def test_what_the_training_loop_logged_is_charted_whatever_its_name():
    theirs = {"loss": 1.0, "eval/loss": 2.0, "attn": 3.0, "lr": 4.0}
    assert charted(theirs | {"attn/confidence_mean": 0.5, "attn/sink/L00H01": 0.5}) == theirs


def test_sink_share_counts_heads_above_gus_threshold():
    sink = np.array([[0.31, 0.1], [0.9, np.nan]], np.float32)
    metrics = chart_metrics({"sink": sink, "sink_text": sink}, {}, ())
    assert metrics["attn/sink_share"] == pytest.approx(2 / 3)
    metrics = chart_metrics({"sink": sink, "sink_text": sink, "sink_repeated": 0 * sink}, {}, ())
    assert metrics["attn/sink_share"] == pytest.approx(1 / 3), (
        "the mean over sequences, of which each is asked by itself"
    )
    assert "attn/sink/L01H01" not in metrics


def capture_of(step, induction, tokens_seen=None, **metrics):
    return Capture(
        step,
        {
            "scores.head.induction": np.asarray(induction, np.float32),
            "blocks.0.attn.pattern": np.zeros((1, 1, 2, 2), np.float32),
        },
        tokens_seen=tokens_seen,
        metrics=metrics,
        model={"uniform_scores": {"induction": 0.04}},
    )


def test_series_is_ordered_by_step_and_fills_what_is_missing_with_nan():
    series = score_series(
        [
            capture_of(20, [[0.2]], 2000, loss=1.0),
            capture_of(0, [[0.1, 0.3]], loss=3.0),
            capture_of(10, [[0.5]]),
        ]
    )
    assert series.steps.tolist() == [0, 10, 20]
    assert series.shape == (1, 2)
    np.testing.assert_allclose(
        series.heads["induction"][:, 0], [[0.1, 0.3], [0.5, np.nan], [0.2, np.nan]]
    )
    np.testing.assert_array_equal(series.metrics["loss"], [3, np.nan, 1])
    np.testing.assert_array_equal(series.tokens_seen, [np.nan, np.nan, 2000])
    assert series.uniform == {"induction": 0.04}


def test_a_step_captured_twice_counts_once_as_it_was_last():
    series = score_series([capture_of(0, [[0.1]]), capture_of(0, [[0.7]])])
    assert series.heads["induction"].tolist() == [[[pytest.approx(0.7)]]]


def test_scorer_has_the_series_of_a_resumed_run():
    rng = np.random.default_rng(0)
    causal = np.tril(np.ones((16, 16), np.float32))
    probe = {"length": 16, "rows": [{"kind": "repeated", "period": 5, "start": 1}]}

    def raw(step):
        weights = causal * np.exp(rng.normal(size=(1, 2, 16, 16)))
        return Capture(
            step,
            {
                "blocks.0.attn.pattern": (weights / weights.sum(-1, keepdims=True)).astype(
                    np.float32
                )
            },
            probe=probe,
        )

    before = Scorer()
    scored = [before(raw(step)) for step in (0, 10)]
    resumed = Scorer(scored[0], earlier=scored)
    resumed(raw(20))
    assert resumed.series().steps.tolist() == [0, 10, 20]
    np.testing.assert_array_equal(resumed.series().heads["sink"][:2], before.series().heads["sink"])
    assert resumed.series().uniform["sink"] == pytest.approx(np.mean(1 / np.arange(1, 17)))
