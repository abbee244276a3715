"""Signals of the probe's pass are those of a slow computation beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_decoders import VOCAB, FusedAttention, Model, Residual, T, by_kernel, two_layers

from tracker_viz.capture import Schedule, make_probe, record
from tracker_viz.metrics import Scorer

PROBE = make_probe(VOCAB, T, text_ids=torch.arange(3 * T) * 7 % VOCAB, score_rows=1)


def small_model():
    torch.manual_seed(0)
    return Model(lambda _: Residual(FusedAttention(by_kernel), two_layers()), 3)


def captured(model, probe=PROBE, **options):
    """Return the raw captures of an untrained model at steps 0 and 1."""
    captures = []
    recorder = record(model, probe, Schedule.every(1), captures.append, **options)
    recorder.step(1)
    recorder.close()
    return captures


def streams_by_hand(model, ids):
    """Return the residual stream behind every block, float64 [block, row, position, channel]."""
    hidden = model.tokens(ids) + model.positions.weight[: ids.shape[1]]
    streams = []
    for block in model.blocks:
        hidden = block(hidden)
        streams.append(hidden.detach().double())
    return torch.stack(streams)


def one_row_at_a_time(model, ids):
    return [model(row[None]) for row in ids]


@pytest.mark.parametrize("forward", [None, one_row_at_a_time], ids=["at once", "by rows"])
def test_the_residual_stream_is_measured_at_the_first_position_and_over_the_others(forward):
    model = small_model()
    first, second = captured(model, forward=forward)
    streams = streams_by_hand(model, PROBE.input_ids)
    for place, positions in enumerate((streams[:, :, :1], streams[:, :, 1:])):
        rms = positions.square().mean((2, 3)).sqrt()
        energy = positions.square().sum(2)
        share = energy.sort(-1).values[..., -4:].sum(-1) / energy.sum(-1)
        for capture in (first, second):
            scored = Scorer()(capture)
            for name, wanted in (("rms", rms), ("top_share", share)):
                found = scored.arrays[f"scores.stream.{name}"][:, place]
                np.testing.assert_allclose(found, wanted.mean(1), rtol=1e-5, err_msg=name)
    assert scored.labels["place"] == ("first", "others")
    assert not any(name.endswith(".stream") for name in scored.arrays)


def test_blocks_that_are_left_out_have_no_residual_stream():
    scored = Scorer()(captured(small_model(), only_blocks=[1])[1])
    is_nan = np.isnan(scored.arrays["scores.stream.rms"]).all(1)
    assert is_nan.tolist() == [True, False, True]


def test_nothing_is_measured_where_no_signal_is_chosen():
    capture = captured(small_model(), signals=())[1]
    assert not any(name.endswith(".stream") for name in capture.arrays)


def test_the_largest_logit_of_a_head_is_the_largest_over_all_rows_of_the_probe():
    model = small_model()
    raw = captured(model)[1]
    by_hand = raw.arrays["blocks.0.attn.max_logit"]
    scored = Scorer()(raw)
    np.testing.assert_array_equal(scored.arrays["scores.head.max_logit"][0], by_hand.max(0))
    assert by_hand.shape == (len(PROBE.rows), 4)
    assert not any(name.endswith("attn.max_logit") for name in scored.arrays)


def test_heads_that_are_left_out_have_no_largest_logit():
    scored = Scorer()(captured(small_model(), only_heads={0: [1], 2: [0, 3]})[1])
    is_known = np.isfinite(scored.arrays["scores.head.max_logit"])
    assert np.argwhere(is_known).tolist() == [[0, 1], [2, 0], [2, 3]]
