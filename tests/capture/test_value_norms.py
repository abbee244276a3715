"""Norms of values equal a slow direct computation, with biases and with keys and values that heads
share; where values go through something else, nothing is measured, and that is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_decoders import (
    FusedAttention,
    GroupedAttention,
    Model,
    Residual,
    T,
    by_kernel,
    two_layers,
)

from tracker_viz.capture import Budget, Schedule, make_probe, record

PROBE = make_probe(50, T, text_ids=torch.arange(3 * T) * 7 % 50, period=4, score_rows=1)
HEADS = 4


class Squashed(GroupedAttention):
    """Attends to the signs of its values."""

    def forward(self, x):
        kept = self.wv.forward
        self.wv.forward = lambda x: kept(x).sign()
        try:
            return super().forward(x)
        finally:
            self.wv.forward = kept


def captured(attention):
    torch.manual_seed(0)
    model = Model(lambda _: Residual(attention(), two_layers()), 2)
    captures = []
    recorder = record(model, PROBE, Schedule.every(1), captures.append, signals=["value_weighted"])
    recorder.step(1)
    recorder.close()
    return model, captures[-1]


def slowly(attention, x):
    """Return ||v_j W_O||, [row, head, key]: each head alone through the output projection."""
    if isinstance(attention, FusedAttention):
        values = attention.c_attn(x)[..., -x.shape[-1] :].unflatten(-1, (HEADS, -1))
        project = attention.c_proj
    else:
        values = attention.wv(x).unflatten(-1, (HEADS // 2, -1)).repeat_interleave(2, dim=2)
        project = attention.wo
    found = []
    for head in range(HEADS):
        alone = torch.zeros_like(values)
        alone[:, :, head] = values[:, :, head]
        found.append((project(alone.flatten(2)) - project(0 * alone.flatten(2))).norm(dim=-1))
    return torch.stack(found, dim=1).detach().numpy()


@pytest.mark.parametrize("make", [lambda: FusedAttention(by_kernel), GroupedAttention])
def test_norms_of_values_are_those_of_a_direct_computation(make):
    model, capture = captured(make)
    inputs = []
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    model(PROBE.input_ids[: PROBE.n_drawn])
    for block, entering in enumerate(inputs):
        found = capture.arrays[f"blocks.{block}.attn.value_norm"][: PROBE.n_drawn]
        np.testing.assert_allclose(found, slowly(model.blocks[block].attn, entering), rtol=2e-3)
    assert "missing_signals" not in capture.model


def test_values_that_go_through_something_else_are_not_measured_in_words():
    _, capture = captured(Squashed)
    assert not [name for name in capture.arrays if name.endswith("value_norm")]
    (why,) = capture.model["missing_signals"]
    assert why.startswith("value-weighted attention of blocks [0, 1]")


def test_norms_are_cut_to_the_rows_and_positions_of_the_maps():
    _, capture = captured(GroupedAttention)
    fitted = Budget(10.0).fit(capture)
    norms = fitted.arrays["blocks.0.attn.value_norm"]
    assert norms.shape == (PROBE.n_drawn, HEADS, T)
    assert np.isfinite(norms).all()
