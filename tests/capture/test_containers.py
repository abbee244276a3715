"""Modules as people put them together, against attention worked out by hand."""

from __future__ import annotations

import pytest
import torch
from container_decoders import (
    MODELS,
    Alternating,
    Containers,
    EncoderDecoder,
    Flat,
    TwoLists,
    attention,
    compare,
    plain,
    row_after_row,
)
from plain_decoders import VOCAB, D, H, T, examine, randomised, two_layers
from torch import nn

from tracker_viz.capture import Schedule, record
from tracker_viz.capture.discover.model_info import describe, summary
from tracker_viz.errors import UnsupportedModelError

GPT = {"attn.w_q", "attn.w_k", "attn.w_v", "attn.w_o", "mlp.w_in", "mlp.w_out"}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_seen_however_its_layers_are_put_together(name):
    blocks = MODELS[name][2]
    structure, difference = compare(name)
    assert structure.blocks == blocks
    assert structure.n_heads == (H,) * len(blocks)
    assert difference <= 1e-5
    for index in range(len(blocks)):
        found = {p.name for p in structure.projections if p.block == index}
        assert found == GPT, f"block {index}"
    assert structure.d_model == D


def test_what_is_beside_a_block_keeps_its_own_number():
    structure, _ = examine(randomised(TwoLists))
    parts = {(p.block, p.name): p.parameters[0] for p in structure.projections}
    assert parts[1, "mlp.w_in"] == "ffs.1.0.weight"
    structure, _ = examine(randomised(lambda: Alternating(attention, two_layers)))
    parts = {(p.block, p.name): p.parameters[0] for p in structure.projections}
    assert parts[1, "mlp.w_out"] == "layers.3.1.2.weight"


def test_a_second_feed_forward_part_of_a_block_is_left_out_and_named():
    structure, _ = examine(randomised(lambda: Alternating(two_layers, attention, two_layers)))
    parts = {(p.block, p.name): p.parameters[0] for p in structure.projections}
    assert parts[1, "mlp.w_in"] == "layers.3.1.0.weight"
    assert structure.unnamed["layers.*.*.0"] == (0, 1)


@pytest.mark.parametrize("blocks", ["attns.*", ["attns.0", "attns.1"]])
def test_blocks_that_are_named_in_one_of_two_lists_keep_their_feed_forward_part(blocks):
    structure, _ = examine(randomised(TwoLists), blocks=blocks)
    assert {p.name for p in structure.projections if p.block == 1} == GPT


def test_a_container_may_be_named_as_a_block():
    model = randomised(lambda: Containers(lambda: nn.ModuleList([attention(), two_layers()])))
    structure, _ = examine(model, blocks=["layers.1"])
    assert (structure.blocks, structure.n_heads) == (("layers.1",), (H,))


def test_what_looks_ahead_beside_a_decoder_is_left_out_and_named():
    structure, _ = examine(randomised(EncoderDecoder))
    assert "attention that looks ahead, in encoder.0.self_attn" in structure.left_out
    assert "attention that looks ahead, in decoder.1.cross_attn" in structure.left_out
    weights = {p.parameters[0] for p in structure.projections if p.name.startswith("attn.")}
    assert not [name for name in weights if "cross_attn" in name]


def test_a_model_without_feed_forward_parts_says_so():
    model = randomised(lambda: Containers(lambda: nn.ModuleList([attention()])))
    structure, _ = examine(model)
    assert "no feed-forward weights in every block" in summary(describe(structure, model))


def test_rows_of_a_flat_sequence_are_captured_at_every_step():
    captures = []
    model = randomised(Flat)
    probe = torch.randint(VOCAB, (2, T), generator=torch.Generator().manual_seed(3))
    recorder = record(model, probe, Schedule.every(1), captures.append, forward=row_after_row)
    recorder.step(1)
    recorder.close()
    first, second = (capture.arrays["blocks.0.attn.pattern"] for capture in captures)
    assert first.shape == (2, H, T, T)
    assert (first == second).all()


def losses_of(name, *, capture):
    make, forward, _ = MODELS[name]
    model = randomised(make)
    forward = forward or (lambda model, ids: [model(ids)])
    options = {"forward": forward} if forward is row_after_row else {}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    probe = torch.randint(VOCAB, (2, T), generator=torch.Generator().manual_seed(3))
    recorder = record(model, probe, Schedule.every(1), [].append, **options) if capture else None
    losses = []
    for step in range(1, 4):
        ids = torch.randint(VOCAB, (2, T), generator=torch.Generator().manual_seed(step))
        loss = torch.stack([part.float().tanh().mean() for part in forward(model, ids)]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if recorder:
            recorder.step(step)
    return losses, [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    "name",
    [
        "nn.ModuleDict as a layer",
        "a list of attentions, a list of feed-forwards",
        "one flat sequence, row after row",
    ],
)
def test_capture_changes_nothing_however_the_layers_are_put_together(name):
    without, with_capture = (losses_of(name, capture=capture) for capture in (False, True))
    assert with_capture[0] == without[0]
    assert all(map(torch.equal, with_capture[1], without[1]))


def test_a_model_made_under_inference_mode_is_captured():
    with torch.inference_mode():
        model = randomised(plain)
        model.register_buffer("counter", torch.zeros(1))
    captures = []
    record(model, torch.randint(VOCAB, (1, T)), Schedule.every(1), captures.append).close()
    assert captures[0].arrays["blocks.0.attn.pattern"].shape == (1, H, T, T)


def test_a_model_on_the_meta_device_is_refused_by_the_parameter():
    with torch.device("meta"):
        model = plain()
    with pytest.raises(UnsupportedModelError, match=r"on the meta device.*watch it after"):
        record(model, torch.randint(VOCAB, (1, T)), Schedule.every(1), print)
