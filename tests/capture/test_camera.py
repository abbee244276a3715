"""Captures hold the chosen blocks and heads, and weights that were made smaller."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from plain_decoders import VOCAB, FusedAttention, Model, Residual, T, by_kernel, two_layers

from tracker_viz import capture_file
from tracker_viz.capture import Schedule, fit, make_probe, record
from tracker_viz.capture.budget import sample
from tracker_viz.capture.camera import camera
from tracker_viz.capture.weights.matrices import Projection, read
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import Scorer


def captured(**options):
    """The capture of an untrained model of three blocks with four heads."""
    torch.manual_seed(0)
    model = Model(lambda _: Residual(FusedAttention(by_kernel), two_layers()), 3)
    captures = []
    record(
        model,
        make_probe(VOCAB, T, text_ids=range(T)),
        Schedule.every(1),
        captures.append,
        **options,
    ).close()
    return captures[0]


# -- hidden rows -----------------------------------------------------------------------------------


def small_model():
    torch.manual_seed(0)
    return Model(lambda _: Residual(FusedAttention(by_kernel), two_layers()), 3)


def looked_at(probe, model=None, **options):
    captures = []
    recorder = record(model or small_model(), probe, Schedule.every(1), captures.append, **options)
    recorder.step(1)
    recorder.close()
    return captures


def test_hidden_rows_are_scored_and_nothing_else_of_a_capture_changes():
    text = torch.arange(5 * T) * 7 % VOCAB
    plain = looked_at(make_probe(VOCAB, T, text_ids=text, score_rows=0))
    whole = looked_at(make_probe(VOCAB, T, text_ids=text, score_rows=3))
    assert [row.get("hidden", False) for row in whole[1].probe["rows"]] == [False] * 2 + [True] * 6
    for one, other in zip(plain, whole, strict=True):
        kept, more = fit(Scorer()(one)), fit(Scorer()(other))
        assert set(kept.arrays) < set(more.arrays)
        assert kept.labels["probe"] == more.labels["probe"] == ("repeated", "text")
        assert kept.probe["rows"] == more.probe["rows"]
        for name, array in kept.arrays.items():
            if not name.startswith(("scores.head", "scores.stream")):
                np.testing.assert_allclose(more.arrays[name], array, atol=1e-3, err_msg=name)
        assert more.model["score_rows"]["induction"] == 4
        assert more.model["score_rows"]["sink_text"] == 4
        assert more.model["score_rows"]["sink"] == 8
        scored = more.probe["scored"]
        assert [row["kind"] for row in scored].count("repeated") == 4
        assert scored[2]["ids"] == other.probe["rows"][2]["ids"]
        assert scored[2].keys() == {"kind", "period", "start", "length", "ids"}
        assert all(row["length"] == T for row in scored)


def test_a_large_model_is_scored_on_fewer_hidden_rows(monkeypatch, caplog):
    entries_a_row = 3 * 4 * T * T
    monkeypatch.setattr(camera, "MAX_SCORED_ENTRIES", 4.5 * entries_a_row)
    text = torch.arange(5 * T) % VOCAB
    captures = looked_at(make_probe(VOCAB, T, text_ids=text, score_rows=3))
    assert captures[1].arrays["blocks.0.attn.pattern"].shape[0] == 4
    kinds = [row["kind"] for row in captures[1].probe["rows"]]
    assert kinds == ["repeated", "text", "repeated", "text"]
    assert caplog.text.count("heads are scored on 2 of 6 hidden rows") == 1


def test_a_forward_that_takes_only_the_users_rows_is_left_alone(caplog):
    mask = torch.ones(2, T, dtype=torch.int64)

    def forward(model, input_ids):
        return model(input_ids * mask)

    captures = looked_at(make_probe(VOCAB, T, text_ids=range(T)), forward=forward)
    assert captures[1].arrays["blocks.0.attn.pattern"].shape[0] == 2
    assert "cannot run more than the 2 drawn rows of the probe" in caplog.text


# -- which -----------------------------------------------------------------------------------------


def test_only_the_chosen_blocks_are_kept_under_their_own_numbers():
    whole, chosen = captured(), captured(only_blocks=[0, 2])
    assert set(chosen.arrays) == {name for name in whole.arrays if not name.startswith("blocks.1.")}
    for name, array in chosen.arrays.items():
        np.testing.assert_array_equal(array, whole.arrays[name], err_msg=name)
    assert chosen.model["n_blocks"] == 3


@pytest.mark.parametrize(
    ("heads", "of_block"), [([3, 1], {0: (1, 3), 1: (1, 3), 2: (1, 3)}), ({1: [2]}, {1: (2,)})]
)
def test_only_the_chosen_heads_are_kept_and_labeled_and_scored_in_their_places(heads, of_block):
    whole, chosen = Scorer()(captured()), Scorer()(captured(only_heads=heads))
    for block in range(3):
        name = f"blocks.{block}.attn.pattern"
        kept = of_block.get(block, ())
        assert (name in chosen.arrays) == bool(kept)
        if kept:
            assert np.array_equal(chosen.arrays[name], whole.arrays[name][:, list(kept)])
            assert chosen.labels[f"blocks.{block}.head"] == tuple(map(str, kept))
        induction = chosen.arrays["scores.head.induction"][block]
        assert {head for head in range(len(induction)) if not np.isnan(induction[head])} == set(
            kept
        )
        np.testing.assert_array_equal(
            induction[list(kept)], whole.arrays["scores.head.induction"][block, list(kept)]
        )
    assert f"blocks.{0}.mlp.w_in" in chosen.arrays


def test_what_is_chosen_gets_the_whole_budget():
    small = {"max_mb": 0.006}
    sizes = [
        captured(**small, **options).arrays["blocks.0.mlp.w_in"].size
        for options in ({}, {"only_blocks": [0]})
    ]
    assert sizes[1] > 2 * sizes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only_blocks": [3]}, "no block 3 to keep: the model's 3 blocks count from 0"),
        ({"only_blocks": [-1]}, "no block -1 to keep"),
        ({"only_heads": [0, 4]}, "no head 4 in block 0: its 4 heads count from 0"),
        ({"only_heads": {5: [0]}}, "no block 5 to keep"),
        ({"only_heads": []}, "leave no attention"),
        ({"pooling": "max"}, r"pooling must be one of sample, mean, rms, .* got 'max'"),
        ({"only_blocks": "0"}, "only_blocks is a list of numbers, counted from 0; got '0'"),
        ({"only_blocks": 0}, "only_blocks is a list of numbers, counted from 0; got 0"),
        (
            {"only_heads": {0: 1}},
            "only_heads of block 0 is a list of numbers, counted from 0; got 1",
        ),
        (
            {"blocks": [0, 1]},
            (
                r"blocks are names of modules, .* got \[0, 1\] "
                r"\(only_blocks= chooses among them by number"
            ),
        ),
        ({"projections": "attn.w_q"}, "projections is a list of names, .* got 'attn.w_q'"),
        (
            {"projections": {"query": "attn.q"}},
            "projections maps names like 'attn.w_q' .* got 'query': 'attn.q'",
        ),
        ({"max_mb": 0}, "max_mb is the size of a capture in megabytes, greater than 0; got 0"),
        ({"max_mb": "10"}, "max_mb is .* got '10'"),
        ({"max_experts": 1.5}, "max_experts must be a whole number of at least 0; got 1.5"),
        (
            {"autocast": "bfloat16"},
            "autocast is a torch dtype, like torch.bfloat16; got 'bfloat16'",
        ),
        ({"forward": "forward"}, "forward must be a function that calls the model"),
        ({"pooling": 3}, "pooling must be one of sample, mean, rms, .* got 3"),
        ({"pooling": {"mlp.*": "median"}}, "got {'mlp.*': 'median'}"),
    ],
)
def test_what_cannot_be_chosen_is_refused_before_training(options, message):
    with pytest.raises(ConfigError, match=message):
        captured(**options)


# -- how small -------------------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "rms"])
def test_pooled_weights_are_the_mean_or_the_rms_of_every_rectangle(pooling, transposed):
    stored = torch.randn(10, 23, generator=torch.Generator().manual_seed(0))
    matrix = (stored.t() if transposed else stored).numpy().astype(np.float64)
    projection = Projection(0, "mlp.w_in", ("w",), matrix.shape, transposed=transposed)
    made = read({"w": stored}, projection, (4, 4), pooling).numpy()
    rows, columns = ((np.arange(size) * 4) // size for size in matrix.shape)
    for row in range(4):
        for column in range(4):
            rectangle = matrix[np.ix_(rows == row, columns == column)]
            expected = rectangle.mean() if pooling == "mean" else np.sqrt((rectangle**2).mean())
            assert made[row, column] == pytest.approx(expected, abs=1e-6)


def test_experts_are_pooled_with_their_rectangles():
    stack = torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(0))
    projection = Projection(0, "mlp.w_in", ("w",), (8, 6))
    np.testing.assert_allclose(
        read({"w": stack}, projection, (1, 1), "rms"),
        [[float(stack.square().mean().sqrt())]],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        read({"w": stack}, projection, (1, 1), "mean"), [[float(stack.mean())]], rtol=1e-5
    )


def test_one_weight_gone_to_nan_shows_in_its_rectangle_alone():
    stored = torch.ones(8, 8)
    stored[5, 2] = math.nan
    made = read({"w": stored}, Projection(0, "mlp.w_in", ("w",), (8, 8)), (4, 4), "rms")
    assert torch.nonzero(made.isnan()).tolist() == [[2, 1]]


def test_each_kind_of_weight_can_be_made_smaller_in_its_own_way():
    whole, made = captured(), captured(max_mb=0.12, pooling={"mlp.*": "rms"})
    side = len(made.arrays["blocks.0.mlp.w_in"])
    assert side < 32
    assert np.array_equal(
        made.arrays["blocks.0.attn.w_o"], sample(whole.arrays["blocks.0.attn.w_o"], side)
    )
    assert (made.arrays["blocks.0.mlp.w_in"] > 0).all()
    assert made.model["pooling"] == {"mlp.*": "rms"}
    assert "pooling" not in whole.model


def test_pooled_weights_need_no_further_cutting():
    made = captured(max_mb=0.12, pooling="rms")
    kept = fit(made, 0.12)
    weights = [name for name in made.arrays if ".w_" in name]
    assert min(made.arrays[name].shape for name in weights) < (32, 32)
    assert all(kept.arrays[name].shape == made.arrays[name].shape for name in weights)
    assert len(capture_file.to_bytes(kept)) <= 0.12e6
