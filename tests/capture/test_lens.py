"""The logit lens of the probe's pass is that of a slow computation beside it."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from plain_decoders import D, FusedAttention, Model, Residual, T, by_kernel, two_layers
from torch import nn

from tracker_viz.capture import Schedule, make_probe, record

VOCAB = 101
TEXT = torch.arange(3 * T) * 7 % VOCAB
PROBE = make_probe(VOCAB, T, text_ids=TEXT, score_rows=1, decode=lambda token: f"<{token}>")


class WithNorm(Model):
    """A decoder with a final norm between its blocks and its vocabulary."""

    def __init__(self, norm):
        torch.manual_seed(0)
        super().__init__(lambda _: Residual(FusedAttention(by_kernel), two_layers()), 3)
        self.tokens, self.head = nn.Embedding(VOCAB, D), nn.Linear(D, VOCAB)
        self.norm = norm(D)
        for parameter in self.norm.parameters():
            nn.init.normal_(parameter, 1.0, 0.3)

    def streams(self, ids):
        hidden = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
            yield hidden

    def forward(self, ids):
        *_, last = self.streams(ids)
        return self.head(self.norm(last))


def captured(model, probe=PROBE, **options):
    captures = []
    recorder = record(model, probe, Schedule.every(1), captures.append, **options)
    recorder.step(1)
    recorder.close()
    return captures[-1]


def one_row_at_a_time(model, ids):
    return [model(row[None]) for row in ids]


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_every_block_is_read_as_the_model_reads_its_last_one(norm):
    model = WithNorm(norm)
    capture = captured(model, signals=["lens"])
    row = PROBE.input_ids[1]
    first = max(0, T - 25)
    for block, stream in enumerate(model.streams(row[None])):
        probabilities = model.head(model.norm(stream))[0, first:-1].double().softmax(-1)
        right = row[first + 1 :]
        of_right = probabilities.gather(-1, right[:, None])
        wanted = {
            "top": probabilities.argmax(-1),
            "top_probability": probabilities.max(-1).values,
            "right_probability": of_right[:, 0],
            "right_rank": (probabilities > of_right).sum(-1),
        }
        for name, values in wanted.items():
            found = capture.arrays[f"lens.{name}"][block]
            np.testing.assert_allclose(found, values.detach(), rtol=1e-4, err_msg=name)


def test_tokens_are_stored_with_their_texts():
    capture = captured(WithNorm(nn.RMSNorm), signals=["lens"])
    ids = capture.arrays["lens.top"].reshape(-1).astype(int)
    assert capture.labels["lens.top"] == tuple(f"<{token}>" for token in ids)
    assert capture.labels["lens.right"][-1] == f"<{PROBE.input_ids[1, -1]}>"
    assert capture.labels["lens.token"][-1] == f"<{PROBE.input_ids[1, -2]}>"


def test_it_is_measured_only_where_it_is_chosen():
    capture = captured(WithNorm(nn.RMSNorm))
    assert not any(name.startswith("lens") for name in capture.arrays)


def test_a_model_without_a_final_norm_has_none_and_says_why():
    model = WithNorm(nn.RMSNorm)
    model.forward = lambda ids: model.head([*model.streams(ids)][-1] * 0.5)
    capture = captured(model, signals=["lens"])
    assert not any(name.startswith("lens") for name in capture.arrays)
    (why,) = capture.model["missing_signals"]
    assert "logit lens: no module between" in why


def test_a_stream_that_is_scaled_before_the_norm_is_not_read():
    model = WithNorm(nn.RMSNorm)
    model.forward = lambda ids: model.head(model.norm([*model.streams(ids)][-1] * 0.5))
    capture = captured(model, signals=["lens"])
    assert not any(name.startswith("lens") for name in capture.arrays)


def test_a_model_whose_pass_does_not_end_in_its_vocabulary_says_so():
    capture = captured(WithNorm(nn.RMSNorm), signals=["lens"], forward=one_row_at_a_time)
    (why,) = capture.model["missing_signals"]
    assert "end in a projection to its vocabulary" in why


def test_a_probe_without_text_is_said_before_training(caplog):
    probe = make_probe(VOCAB, T)
    caplog.set_level(logging.INFO, "tracker_viz")
    recorder = record(
        WithNorm(nn.RMSNorm), probe, Schedule.every(1), lambda capture: None, signals=["lens"]
    )
    why = "the logit lens: the probe has no row of text"
    assert recorder.camera.model_info["missing_signals"] == [why]
    assert f"not measured: {why}" in caplog.text
