"""Signals of the probe's pass are those of a slow computation beside it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from plain_decoders import VOCAB, D, FusedAttention, Model, Residual, T, by_kernel, two_layers

from tracker_viz.capture import Schedule, fit, make_probe, record
from tracker_viz.capture.signals import probe_loss
from tracker_viz.metrics import ProbeRow, Scorer
from tracker_viz.metrics.signals.probe_loss import probe_loss_metrics

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


# -- the probe's loss ------------------------------------------------------------------------------


def losses_by_hand(logits, ids):
    """Return the loss of every token but the first, float64 [row, position - 1]."""
    chances = logits.detach().double().log_softmax(-1)
    return -chances[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]


class Softcapped(Model):
    """Gemma 2: what the projection gives is not yet what the model returns."""

    def forward(self, ids):
        return 3 * torch.tanh(super().forward(ids) / 3)


def as_dictionary(model, ids):
    return {"logits": model(ids)}


@pytest.mark.parametrize("forward", [None, one_row_at_a_time, as_dictionary])
def test_the_loss_of_every_token_is_that_of_the_models_own_logits(forward):
    torch.manual_seed(0)
    model = Softcapped(lambda _: Residual(FusedAttention(by_kernel), two_layers()))
    expected = losses_by_hand(model(PROBE.input_ids), PROBE.input_ids)
    for capture in captured(model, forward=forward):
        losses = capture.arrays["probe.loss"]
        assert np.isnan(losses[:, 0]).all()
        np.testing.assert_allclose(losses[:, 1:], expected, rtol=1e-5)

    metrics = Scorer()(capture).metrics
    repeated = [index for index, row in enumerate(PROBE.rows) if row.kind == "repeated"]
    first, later = [], []
    for index in repeated:
        row = PROBE.rows[index]
        ids = PROBE.input_ids[index].tolist()
        pairs = list(itertools.pairwise(ids))
        for position, pair in enumerate(pairs):
            (later if pair in pairs[:position] else first).append(expected[index, position])
        assert len(set(ids)) == row.period
    assert metrics["probe/loss_first_copy"] == pytest.approx(float(np.mean(first)), rel=1e-5)
    assert metrics["probe/loss_later_copies"] == pytest.approx(float(np.mean(later)), rel=1e-5)
    assert metrics["probe/loss_text"] == pytest.approx(
        float(expected[[index for index in range(len(expected)) if index not in repeated]].mean())
    )
    assert "probe/in_context" not in metrics  # rows of 16 tokens have no early and late tokens


@pytest.mark.parametrize("has_head", [True, False])
def test_logits_as_wide_as_the_model_are_told_from_its_residual_stream(has_head):
    torch.manual_seed(0)
    model = Model(lambda _: Residual(FusedAttention(by_kernel), two_layers()))
    model.tokens = torch.nn.Embedding(D, D)
    model.head = torch.nn.Linear(D, D) if has_head else torch.nn.Identity()
    probe = make_probe(D, T)
    (first, _) = captured(model, probe)
    assert ("probe.loss" in first.arrays) == has_head
    if has_head:
        expected = losses_by_hand(model(probe.input_ids), probe.input_ids)
        np.testing.assert_allclose(first.arrays["probe.loss"][:, 1:], expected, rtol=1e-5)


def test_losses_are_measured_on_the_drawn_rows_first_where_a_vocabulary_is_large(monkeypatch):
    monkeypatch.setattr(probe_loss, "MOST_LOGITS", 3 * T * VOCAB)
    losses = captured(small_model())[1].arrays["probe.loss"]
    is_measured = np.isfinite(losses[:, 1:]).all(1)
    assert is_measured.tolist() == [True, True, True, False]
    assert np.isnan(losses[3]).all()


def test_a_file_holds_the_losses_of_the_rows_and_positions_whose_attention_it_holds():
    whole = Scorer()(captured(small_model())[1])
    kept = fit(whole)
    assert kept.arrays["probe.loss"].shape == (2, T)
    cut = fit(whole, max_mb=0.0695)
    assert len(cut.labels["probe"]) == 1
    n_positions = cut.arrays["blocks.0.attn.pattern"].shape[-1]
    assert cut.arrays["probe.loss"].shape == (1, n_positions)
    assert cut.metrics["probe/loss_text"] == whole.metrics["probe/loss_text"]


def returning(change):
    return lambda model, ids: change(model(ids))


@pytest.mark.parametrize(
    "forward",
    [
        returning(lambda logits: logits.softmax(-1)),
        returning(lambda logits: logits.sum()),
        returning(lambda logits: None),
        returning(lambda logits: logits[:, -1]),
    ],
    ids=["probabilities", "a loss", "nothing", "the last token's"],
)
def test_a_loss_is_missing_and_said_to_be_where_no_logits_are_returned(forward):
    model = small_model()

    class Hidden(torch.nn.Module):
        """Returns its logits in no form that is known."""

        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, ids):
            return forward(self.inner, ids)

    raw = captured(Hidden())[1]
    assert "probe.loss" not in raw.arrays
    assert any("logits" in each for each in raw.model["missing_signals"])
    assert not any(name.startswith("probe/") for name in Scorer()(raw).metrics)


def test_in_context_is_the_loss_late_in_a_text_row_minus_that_of_an_early_place():
    losses = np.full((2, 40), np.nan, np.float32)
    losses[1, 1:] = np.arange(39)
    rows = (ProbeRow("text", 40), ProbeRow("text", 40))
    found = probe_loss_metrics(losses, rows)
    # Positions 36 to 39 minus positions 4 to 7.
    assert found == {"probe/loss_text": 19.0, "probe/in_context": 32.0}


# -- what is not finite ----------------------------------------------------------------------------


def broken(model, block):
    with torch.no_grad():
        model.blocks[block].mlp[0].weight[3, 2] = torch.inf
    return model


def test_the_first_module_with_infinity_is_named_with_the_parameter_that_makes_it():
    raw = captured(broken(small_model(), 1))[1]
    assert raw.model["not_finite"] == "blocks.1.mlp.0 (its parameter weight is not finite)"
    assert "not_finite" not in captured(small_model())[1].model


def test_a_module_that_makes_infinity_of_finite_weights_is_named():
    model = small_model()
    with torch.no_grad():
        for layer in (model.blocks[1].mlp[0], model.blocks[1].mlp[2]):
            layer.weight.mul_(1e20)
    assert captured(model)[1].model["not_finite"] == "blocks.1.mlp.2"
