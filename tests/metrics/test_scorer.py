"""From a capture to the same capture with scores, as the spool's writer thread calls it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tracker_viz import capture_file
from tracker_viz.errors import CaptureError
from tracker_viz.metrics import (
    HEAD_SCORES,
    SCORE_DEFINITIONS,
    WEIGHT_SCORES,
    Scorer,
    charted,
    score,
    score_series,
)
from tracker_viz.types import Capture

T, PERIOD, START = 40, 9, 1
PROBE = {
    "length": T,
    "rows": [
        {"kind": "repeated", "period": PERIOD, "start": START, "tokens": ["r"] * T},
        {"kind": "text", "tokens": ["t"] * T},
    ],
}


def make_capture(step=0, *, n_blocks=3, n_heads=4, seed=0, weight=1.0):
    rng = np.random.default_rng(seed)
    causal = np.tril(np.ones((T, T), bool))
    arrays, axes = {}, {}
    for block in range(n_blocks):
        logits = np.where(causal, np.exp(rng.normal(size=(2, n_heads, T, T))), 0)
        arrays[f"blocks.{block}.attn.pattern"] = (logits / logits.sum(-1, keepdims=True)).astype(
            np.float16
        )
        axes[f"blocks.{block}.attn.pattern"] = ("probe", "head", "query", "key")
        for projection, shape in (("attn.w_q", (64, 64)), ("mlp.w_down", (64, 96))):
            arrays[f"blocks.{block}.{projection}"] = (
                weight * np.random.default_rng(99 + block).normal(size=shape)
            ).astype(np.float32)
            axes[f"blocks.{block}.{projection}"] = ("out", "in")
    return Capture(
        step,
        arrays,
        axes,
        metrics={"loss": 2.0},
        model={"n_blocks": n_blocks, "n_heads": n_heads},
        probe=PROBE,
    )


def induct(capture, block, head):
    """The same capture with one perfect induction head."""
    pattern = capture.arrays[f"blocks.{block}.attn.pattern"].copy()
    pattern[:, head] = 0
    for query in range(T):
        pattern[:, head, query, query - PERIOD + 1 if query >= START + PERIOD else 0] = 1
    return dataclasses.replace(
        capture, arrays={**capture.arrays, f"blocks.{block}.attn.pattern": pattern}
    )


def test_scored_capture_holds_everything_it_held_and_all_scores():
    capture = make_capture()
    scored = score(capture)
    assert set(capture.arrays) < set(scored.arrays)
    assert all(scored.arrays[name] is array for name, array in capture.arrays.items())
    added = set(scored.arrays) - set(capture.arrays)
    weight_scores = set(WEIGHT_SCORES) - {
        "distance",
        "update",
        "power_law_exponent",
        "dead_share",
        "active_share",
    }
    head_names = set(HEAD_SCORES) - {"learned_sink"}
    on_both_rows = {name for name in head_names if HEAD_SCORES[name].rows == "all"}
    assert added == (
        {f"scores.head.{name}" for name in head_names}
        | {f"scores.head_sd.{name}" for name in on_both_rows}
        | {f"scores.weight.{name}" for name in weight_scores}
    )
    for name in added:
        assert scored.arrays[name].dtype == np.float32
        assert scored.axes[name] == (
            ("block", "head") if "scores.head" in name else ("block", "projection")
        )
    assert scored.arrays["scores.head.sink"].shape == (3, 4)
    assert scored.labels["projection"] == ("attn.w_q", "mlp.w_down")
    assert scored.metrics["loss"] == 2.0
    assert scored.model["score_definitions"] == SCORE_DEFINITIONS == 2
    assert scored.model["score_rows"]["sink"] == 2
    assert scored.model["score_rows"]["induction"] == 1


def test_a_series_holds_spread_rows_and_version_of_the_scores():
    scorer = Scorer()
    scored = [scorer(make_capture(step, seed=step)) for step in (0, 10)]
    series = scorer.series()
    assert series.definitions == 2
    assert series.n_rows == dict(scored[1].model["score_rows"])
    np.testing.assert_array_equal(
        series.spread["entropy"],
        np.stack([capture.arrays["scores.head_sd.entropy"] for capture in scored]),
    )
    assert "induction" not in series.spread, "one row has no spread"
    assert set(series.heads) == set(HEAD_SCORES) - {"learned_sink"}


def test_a_series_is_of_the_oldest_definitions_among_its_captures():
    old = Capture(0, {"scores.head.sink": np.ones((1, 1), np.float32)})
    new = score(make_capture(10))
    series = score_series([old, new])
    assert series.definitions == 1
    assert score_series([old]).spread == {}
    assert score_series([]).definitions == 1


def test_scored_capture_is_written_and_read_back(tmp_path):
    scored = score(make_capture())
    capture_file.write(scored, tmp_path / scored.file_name)
    back = capture_file.read(tmp_path / scored.file_name)
    np.testing.assert_array_equal(
        back.arrays["scores.head.induction"], scored.arrays["scores.head.induction"]
    )
    assert back.metrics == pytest.approx(dict(scored.metrics))


def test_an_induction_head_shows_in_array_and_charts():
    scored = score(induct(make_capture(), block=2, head=1))
    induction = scored.arrays["scores.head.induction"]
    assert induction[2, 1] == pytest.approx(1)
    assert np.delete(induction.ravel(), 2 * 4 + 1).max() < 0.2
    assert scored.metrics["attn/induction_max"] == pytest.approx(1)
    assert scored.metrics["attn/induction/block_02"] == pytest.approx(1)
    assert scored.metrics["attn/induction/block_00"] < 0.2
    assert scored.metrics["attn/induction/L02H01"] == pytest.approx(1)
    assert scored.metrics["attn/induction/top_2"] < 0.2
    assert 0 <= scored.metrics["attn/sink_share"] <= 1
    assert "weights/stable_rank/mlp_w_down" in scored.metrics


def test_a_big_model_gets_few_charts():
    names = set(charted(score(make_capture(n_blocks=17, n_heads=4)).metrics))
    assert "attn/induction/blocks_15_16" in names
    assert len(names) < 30


def test_scorer_measures_change_from_the_first_and_from_the_last_capture():
    scorer = Scorer()
    start = scorer(make_capture(0, weight=1.0))
    assert np.all(start.arrays["scores.weight.distance"] == 0)
    assert np.isnan(start.arrays["scores.weight.update"]).all(), (
        "there, so that pictures of the run can show it"
    )
    assert not any(name.startswith("weights/update") for name in start.metrics)
    scorer(make_capture(10, weight=2.0))
    last = scorer(make_capture(20, weight=3.0))
    assert last.arrays["scores.weight.distance"] == pytest.approx(2.0)
    assert last.arrays["scores.weight.update"] == pytest.approx(0.5)
    assert last.metrics["weights/distance/attn_w_q"] == pytest.approx(2.0)


def test_resumed_run_measures_from_its_very_first_capture():
    resumed = Scorer(make_capture(0, weight=1.0))
    assert resumed(make_capture(30, weight=4.0)).arrays["scores.weight.distance"] == pytest.approx(
        3.0
    )


def test_a_step_out_of_order_has_no_update_ratio():
    scorer = Scorer()
    scorer(make_capture(0))
    assert np.isfinite(scorer(make_capture(10)).arrays["scores.weight.update"]).all()
    assert np.isnan(scorer(make_capture(5)).arrays["scores.weight.update"]).all()


def test_scorer_gives_what_score_gives():
    capture = make_capture()
    one, other = Scorer()(capture), score(capture)
    for name in other.arrays:
        np.testing.assert_array_equal(one.arrays[name], other.arrays[name])


def test_capture_without_weights_or_without_attention_is_scored_on_what_it_has():
    capture = make_capture()
    only = {
        kind: {
            n: a
            for n, a in capture.arrays.items()
            if n.endswith("pattern") == (kind == "attention")
        }
        for kind in ("attention", "weights")
    }
    attention = score(dataclasses.replace(capture, arrays=only["attention"]))
    assert not any(name.startswith("scores.weight.") for name in attention.arrays)
    weights = score(dataclasses.replace(capture, arrays=only["weights"], probe={}))
    assert not any(name.startswith("scores.head.") for name in weights.arrays)
    assert "scores.weight.gini" in weights.arrays


def test_probe_of_two_tokens_has_no_head_scores():
    pattern = np.tril(np.ones((1, 2, 2, 2), np.float32)) / np.array([1, 2], np.float32)[:, None]
    capture = Capture(
        0,
        {"blocks.0.attn.pattern": pattern},
        probe={"length": 2, "rows": [{"kind": "text", "tokens": ["a", "b"]}]},
    )
    assert set(score(capture).arrays) == {"blocks.0.attn.pattern"}


@pytest.mark.parametrize(
    ("pooling", "whole"),
    [
        ({"mlp.*": "mean"}, [True, False]),
        ({"attn.w_?": "rms", "*": "sample"}, [False, True]),
        ({}, [True, True]),
    ],
)
def test_a_matrix_that_holds_means_has_no_scores_of_its_entries(pooling, whole):
    capture = make_capture()
    arrays = {**capture.arrays}
    for name, array in capture.arrays.items():
        if ".w_" in name:
            arrays[f"{name}.norms"] = np.array([1.0, 1.0, *(2 * np.array(array.shape))], np.float32)
    scored = score(
        dataclasses.replace(capture, arrays=arrays, model={**capture.model, "pooling": pooling})
    )
    assert scored.labels["projection"] == ("attn.w_q", "mlp.w_down")
    assert np.isfinite(scored.arrays["scores.weight.kurtosis"]).tolist() == [whole] * 3


def test_blocks_without_attention_are_nan_rows():
    capture = make_capture()
    arrays = {
        name: array for name, array in capture.arrays.items() if name != "blocks.1.attn.pattern"
    }
    scored = score(dataclasses.replace(capture, arrays=arrays))
    assert np.isnan(scored.arrays["scores.head.sink"][1]).all()
    assert "attn/induction/block_01" not in scored.metrics


def test_heads_cut_to_a_budget_are_scored_at_their_own_index():
    capture = make_capture(n_blocks=1)
    pattern = capture.arrays["blocks.0.attn.pattern"][:, [1, 3]]
    cut = dataclasses.replace(
        capture,
        arrays={**capture.arrays, "blocks.0.attn.pattern": pattern},
        labels={"blocks.0.head": ("1", "3")},
    )
    expected = score(capture).arrays["scores.head.sink"]
    np.testing.assert_array_equal(
        score(cut).arrays["scores.head.sink"][0], [np.nan, expected[0, 1], np.nan, expected[0, 3]]
    )


def test_diverged_weights_and_attention_are_nan_not_errors():
    capture = make_capture()
    ruined = {name: np.full_like(array, np.nan) for name, array in capture.arrays.items()}
    scored = score(dataclasses.replace(capture, arrays=ruined))
    assert all(
        np.isnan(array).all() for name, array in scored.arrays.items() if name.startswith("scores.")
    )
    assert np.isnan(scored.metrics["attn/induction_max"])


def test_a_pattern_or_a_matrix_with_other_axes_is_refused():
    capture = make_capture()
    axes = {**capture.axes, "blocks.0.attn.pattern": ("head", "probe", "query", "key")}
    with pytest.raises(CaptureError, match=r"blocks\.0\.attn\.pattern must have the axes"):
        score(dataclasses.replace(capture, axes=axes))
    axes = {**capture.axes, "blocks.1.mlp.w_down": ("in", "out")}
    with pytest.raises(
        CaptureError, match=r"blocks\.1\.mlp\.w_down must have the axes \('out', 'in'\)"
    ):
        score(dataclasses.replace(capture, axes=axes))
