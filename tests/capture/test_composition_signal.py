"""Composition on the model's device equals that of the whole matrices."""

from __future__ import annotations

import numpy as np
import torch
from plain_decoders import VOCAB, FusedAttention, Model, Residual, T, by_kernel, two_layers

from tracker_viz.capture import Schedule, make_probe, record
from tracker_viz.metrics import score


def captured(**options):
    torch.manual_seed(0)
    model = Model(lambda _: Residual(FusedAttention(by_kernel), two_layers()), 3)
    captures = []
    probe = make_probe(VOCAB, T)
    recorder = record(model, probe, Schedule.every(1), captures.append, **options)
    recorder.step(1)
    recorder.close()
    return captures[-1]


def test_a_capture_that_holds_parts_of_the_matrices_has_the_composition_of_the_whole():
    wanted = score(captured(signals=[])).arrays
    in_part = captured(signals=["composition"], pooling="rms", max_mb=0.1)
    assert in_part.arrays["blocks.0.attn.w_q"].shape < (32, 32)
    found = score(in_part)
    for kind in "qkv":
        name = f"scores.composition.{kind}"
        np.testing.assert_allclose(found.arrays[name], wanted[name], atol=1e-3)
        assert found.axes[name] == ("block", "head", "earlier_block", "earlier_head")


def test_it_is_not_measured_where_nobody_asks():
    assert not any("composition" in name for name in captured(signals=[]).arrays)
