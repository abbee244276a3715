"""A capture takes no more than it may."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from tracker_viz import capture_file
from tracker_viz.capture.budget import Budget, fit, weight_side
from tracker_viz.errors import ConfigError
from tracker_viz.types import Capture


def capture(blocks=4, heads=12, length=128, rows=3, width=256):
    rng = np.random.default_rng(0)
    arrays, axes = {}, {}
    for block in range(blocks):
        pattern = np.tril(rng.random((rows, heads, length, length), np.float32)) + np.eye(
            length, dtype=np.float32
        )
        arrays[f"blocks.{block}.attn.pattern"] = (pattern / pattern.sum(-1, keepdims=True)).astype(
            np.float16
        )
        axes[f"blocks.{block}.attn.pattern"] = ("probe", "head", "query", "key")
        for name in ("attn.w_q", "mlp.w_in"):
            arrays[f"blocks.{block}.{name}"] = rng.normal(0, 0.02, (width, width)).astype(
                np.float32
            )
            axes[f"blocks.{block}.{name}"] = ("out", "in")
    arrays["scores.head.sink"] = rng.random((blocks, heads), np.float32)
    axes["scores.head.sink"] = ("block", "head")
    kinds = ("repeated", "repeated", "text")[:rows]
    return Capture(
        step=3,
        arrays=arrays,
        axes=axes,
        labels={"probe": ("repeated", "repeated 2", "text")[:rows]},
        model={"n_blocks": blocks, "n_heads": heads},
        probe={
            "length": length,
            "rows": [{"kind": kind, "tokens": [str(i) for i in range(length)]} for kind in kinds],
        },
    )


def stored_mb(made):
    return len(capture_file.to_bytes(made)) / 1e6


def test_what_fits_is_kept_whole_as_float16():
    made = fit(capture(), max_mb=100)
    assert {name: array.shape for name, array in made.arrays.items()} == {
        name: array.shape for name, array in capture().arrays.items()
    }
    assert {
        array.dtype for name, array in made.arrays.items() if not name.startswith("scores.")
    } == {np.dtype("float16")}
    assert "cut" not in made.model


@pytest.mark.parametrize("max_mb", [8, 4, 2, 1, 0.5, 0.2, 0.1])
def test_a_capture_takes_no_more_than_its_budget(max_mb):
    made = fit(capture(), max_mb)
    assert stored_mb(made) <= max_mb
    assert stored_mb(made) >= 0.35 * max_mb  # nor is it cut for nothing
    assert made.arrays["scores.head.sink"].shape == (4, 12)
    assert set(made.axes) == set(made.arrays)


def test_what_is_never_cut_counts():
    name, large = "scores.composition.q", np.ones((4, 75_000), np.float32)
    made = capture()
    axes = {**made.axes, name: ("block", "pair")}
    made = fit(replace(made, arrays={**made.arrays, name: large}, axes=axes), 2)
    assert made.arrays[name].nbytes == 1.2e6
    assert 1.5 < stored_mb(made) <= 2


def test_the_ids_of_scored_rows_count():
    made = capture()
    scored = [{"kind": "text", "length": 128, "ids": [100_000 + i for i in range(128)]}] * 200
    made = fit(replace(made, probe={**made.probe, "scored": scored}), 1)
    assert 0.5 < stored_mb(made) <= 1


def test_the_display_rows_go_last_and_are_named():
    made = fit(capture(), 5)
    assert made.labels["probe"] == ("repeated", "text")
    assert [row["kind"] for row in made.probe["rows"]] == ["repeated", "text"]
    assert made.arrays["blocks.0.attn.pattern"].shape == (2, 12, 128, 128)
    assert fit(capture(), 2.5).labels["probe"] == ("repeated",)


def test_what_an_indexer_chose_is_cut_as_attention_is():
    whole = capture()
    name = "blocks.0.attn.indexer"
    chosen = np.tril(np.arange(3 * 128 * 128).reshape(3, 128, 128) % 5 == 0).astype(np.float16)
    whole = replace(whole, arrays={**whole.arrays, name: chosen})
    made = fit(replace(whole, axes={**whole.axes, name: ("probe", "query", "key")}), 0.5)
    assert np.array_equal(made.arrays[name], chosen[:1, :64, :64])


def test_heads_that_were_left_out_are_known_by_their_labels():
    made = fit(capture(), 0.5)
    heads = [int(name) for name in made.labels["blocks.2.head"]]
    assert len(heads) == made.arrays["blocks.2.attn.pattern"].shape[1] == 7
    original = capture().arrays["blocks.2.attn.pattern"][0, heads][:, :64, :64]
    assert np.array_equal(made.arrays["blocks.2.attn.pattern"][0], original)
    assert made.model["cut"]["heads"] == 7
    assert made.model["cut"]["of"] == {"probe_rows": 3, "heads": 12, "positions": 128, "blocks": 4}


def test_positions_go_before_heads():
    """32 heads at 64 positions take what 8 take at 128."""
    made = fit(capture(blocks=4, heads=32), 2.2)
    assert made.arrays["blocks.3.attn.pattern"].shape == (1, 32, 64, 64)
    assert "blocks.3.head" not in made.labels
    assert made.model["cut"]["positions"] == 64


def with_roles(made, shown, score="induction_min"):
    """The capture with this score, {(block, head): value}, 0.1 for every other head."""
    scores = np.full((4, 12), 0.1, np.float32)
    for place, value in shown.items():
        scores[place] = value
    return replace(made, arrays={**made.arrays, f"scores.head.{score}": scores})


def kept(made, block=1):
    return [int(name) for name in made.labels[f"blocks.{block}.head"]]


def test_heads_are_chosen_by_their_scores_for_the_whole_run():
    budget = Budget(0.5)
    strong = {(1, head): 0.29 - head / 100 for head in (11, 9, 8, 6, 5, 3, 2)}
    first = budget.fit(with_roles(capture(), strong))
    assert kept(first) == [2, 3, 5, 6, 8, 9, 11]
    assert kept(first, block=0) == [0, 1, 2, 3, 4, 5, 6], "all are alike"
    others = {(1, head): 0.29 for head in (0, 1, 4)}
    assert kept(budget.fit(with_roles(capture(), others))) == kept(first), "no role yet"


def test_a_head_that_takes_a_role_comes_in_for_the_one_that_has_shown_least():
    budget = Budget(0.5)
    budget.fit(with_roles(capture(), {(1, head): 0.2 + head / 100 for head in range(7)}))
    later = budget.fit(with_roles(capture(), {(1, 10): 0.6, (1, 11): 0.31}))
    assert kept(later) == [2, 3, 4, 5, 6, 10, 11], "0 and 1 had shown least"
    np.testing.assert_array_equal(
        later.arrays["blocks.1.attn.pattern"][0, -1],
        capture().arrays["blocks.1.attn.pattern"][0, 11, :64, :64],
    )
    without = budget.fit(with_roles(capture(), {(1, 0): 0.9}))
    assert kept(without) == [0, 3, 4, 5, 6, 10, 11], "what held a role stays"


def test_a_head_never_leaves_while_all_that_are_kept_hold_roles():
    budget = Budget(0.5)
    budget.fit(with_roles(capture(), {(1, head): 0.4 for head in range(7)}))
    later = budget.fit(with_roles(capture(), {(1, 11): 0.9}))
    assert kept(later) == [0, 1, 2, 3, 4, 5, 6]


def test_sinks_are_no_reason_to_keep_a_head():
    budget = Budget(0.5)
    budget.fit(with_roles(capture(), {}))
    sinks = with_roles(with_roles(capture(), {}), {(1, 11): 0.9}, score="sink_text")
    assert kept(budget.fit(sinks)) == [0, 1, 2, 3, 4, 5, 6]


def test_a_resumed_run_keeps_its_heads_and_what_they_have_shown():
    budget = Budget(0.5)
    raw = [with_roles(capture(), {(1, 9): 0.5}), with_roles(capture(), {(1, 8): 0.2, (1, 3): 0.2})]
    made = [budget.fit(each) for each in raw]
    again = Budget(0.5)
    again.resume(made[-1].labels, made)
    later = with_roles(capture(), {(1, 11): 0.4, (1, 10): 0.4})
    assert kept(again.fit(later)) == kept(budget.fit(later))


def test_what_is_left_out_is_said_once(caplog):
    with caplog.at_level(logging.INFO, "tracker_viz.capture"):
        budget = Budget(0.5)
        for _ in range(2):
            budget.fit(capture())
        Budget(100).fit(capture())
    said = "1 of 3 probe rows, 64 of 128 positions, 7 of 12 heads a block; scores still cover all"
    assert caplog.text.count(said) == 1
    assert caplog.text.count("to fit max_mb") == 1


def test_fewer_positions_leave_rows_that_still_sum_to_one():
    made = fit(capture(), 0.5)
    pattern = made.arrays["blocks.0.attn.pattern"].astype(np.float32)
    assert pattern.shape[-1] == 64
    np.testing.assert_allclose(pattern.sum(-1), 1, atol=5e-3)
    assert made.probe["length"] == 64
    assert len(made.probe["rows"][0]["tokens"]) == 64


def test_every_capture_of_a_run_is_cut_alike():
    first, second = fit(capture(), 1), fit(fit(capture(), 1), 1)
    assert {name: array.shape for name, array in first.arrays.items()} == {
        name: array.shape for name, array in second.arrays.items()
    }


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="max_mb must be greater than 0; got 0"):
        fit(capture(), 0)


def test_the_side_of_a_weight_sample_uses_the_bytes_it_may():
    shapes = [(4096, 4096)] * 4 + [(11008, 4096)] * 3
    side = weight_side(shapes * 32, 10e6)
    assert side**2 * 2 * 7 * 32 <= 10e6 < (side + 1) ** 2 * 2 * 7 * 32
    assert weight_side([(64, 32)], 1e6) >= 64


def test_mixing_maps_are_cut_as_attention_is_and_say_which_heads_remain():
    made = capture()
    mixing = made.arrays["blocks.3.attn.pattern"].astype(np.float32) - 0.5
    arrays = {**made.arrays, "blocks.3.mixer.mixing": mixing}
    del arrays["blocks.3.attn.pattern"]
    axes = {**made.axes, "blocks.3.mixer.mixing": ("probe", "head", "query", "key")}
    cut = fit(replace(made, arrays=arrays, axes=axes), 0.5)
    assert stored_mb(cut) <= 0.5
    heads = [int(name) for name in cut.labels["blocks.3.mixing_head"]]
    assert cut.arrays["blocks.3.mixer.mixing"].shape == (1, len(heads), 64, 64)
    np.testing.assert_allclose(
        cut.arrays["blocks.3.mixer.mixing"][0], mixing[0, heads, :64, :64], atol=1e-3
    )


def test_a_capture_without_attention_fits_a_budget_below_its_header():
    weights = {"blocks.0.mlp.w_in": np.ones((64, 64), np.float32)}
    axes = dict.fromkeys(weights, ("out", "in"))
    (kept,) = fit(Capture(0, weights, axes), max_mb=0.01).arrays.values()
    assert kept.shape == (8, 8)


def test_a_capture_without_weights_says_nothing_of_their_size():
    patterns = {"blocks.0.attn.pattern": np.ones((1, 2, 8, 8), np.float16)}
    axes = dict.fromkeys(patterns, ("probe", "head", "query", "key"))
    assert "weight_side" not in fit(Capture(0, patterns, axes), max_mb=0.01).model["cut"]
