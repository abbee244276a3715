"""Mixers that are written out as loops, and convolutions: run again with other values inside."""

from __future__ import annotations

import pytest
import torch
from hf_mixers import MIXING_TOLERANCE
from plain_decoders import DK, VOCAB, D, H, N, T, randomised
from recurrent_decoders import (
    CONVOLUTIONS,
    N_SCANS,
    SCANS,
    Convolved,
    Elementwise,
    Gru,
    Named,
    Scanned,
    alone,
    hybrid,
)

from tracker_viz.capture.discover.blocks import attend, discover
from tracker_viz.capture.isolation import isolated
from tracker_viz.errors import UnsupportedModelError


def probe():
    return torch.randint(VOCAB, (N, T), generator=torch.Generator().manual_seed(1))


def examine(model):
    """(structure, attention, mixing maps, the two once more)."""
    maps, again = {}, {}
    with isolated(model):
        structure, attention = discover(model, probe(), mixing=maps)
    with isolated(model):
        attention_again = attend(model, probe(), structure, mixing=again)
    return structure, attention, maps, attention_again, again


@pytest.mark.parametrize("put", [alone, hybrid])
@pytest.mark.parametrize("name", SCANS)
def test_a_recurrence_in_a_loop_is_seen_as_the_matrix_it_multiplies_its_values_by(name, put):
    model = randomised(lambda: put(lambda: Scanned(SCANS[name])))
    structure, attention, maps, attention_again, again = examine(model)
    is_attention = name in ("in_chunks", "online_softmax")  # its rows are probabilities
    for block, module in enumerate(model.blocks):
        if not isinstance(module.attn, Scanned):
            assert structure.n_heads[block] == H
            continue
        assert structure.n_heads[block] == (H if is_attention else 0)
        matrix = attention[block] if is_attention else maps[block]
        repeated = attention_again[block] if is_attention else again[block]
        assert torch.equal(matrix, repeated)
        values = torch.randn(N, T, H, DK, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            theirs = module.attn.mixed(values).transpose(1, 2)
        ours = matrix @ values.transpose(1, 2)
        torch.testing.assert_close(ours, theirs, atol=MIXING_TOLERANCE, rtol=0)
    assert structure.error <= MIXING_TOLERANCE


@pytest.mark.parametrize("put", [alone, hybrid])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_seen_as_the_matrix_of_each_channel(name, put):
    model = randomised(lambda: put(lambda: Convolved(CONVOLUTIONS[name])))
    structure, _, maps, _, again = examine(model)
    values = torch.randn(N, T, D, generator=torch.Generator().manual_seed(3))
    channels = list(structure.mixing.channels[0])
    assert len(channels) == 8
    with torch.no_grad():
        theirs = model.blocks[0].attn.mixed(values)[..., channels].mT
    ours = (maps[0] @ values[..., channels].mT[..., None])[..., 0]
    torch.testing.assert_close(ours, theirs, atol=MIXING_TOLERANCE, rtol=0)
    assert torch.equal(maps[0], again[0])
    assert structure.mixing.notes[0].startswith("by its module, run again, a convolution;")


def test_channels_that_each_have_a_state_are_named_with_what_to_do():
    with pytest.raises(UnsupportedModelError, match="rnn_scan"):
        examine(randomised(lambda: alone(Elementwise)))
    structure, _, maps, _, _ = examine(randomised(lambda: alone(Named)))
    assert maps[0].shape == (N, 8, T, T)
    assert structure.mixing.notes[0].startswith("by rnn_scan (asked)")


def test_a_mixer_that_is_not_linear_is_named():
    structure, *_ = examine(randomised(lambda: hybrid(Gru)))
    assert structure.left_out == (
        "blocks.0.attn, which mixes tokens, and nothing inside of it linearly",
    )


def test_a_replay_takes_one_run_of_its_module_for_each_piece_of_columns():
    model = randomised(lambda: alone(lambda: Scanned(SCANS["delta"])))
    structure, *_ = examine(model)
    before = N_SCANS["delta"]
    with isolated(model):
        attend(model, probe(), structure, mixing={})
    n_pieces = T // DK
    assert N_SCANS["delta"] - before == len(model.blocks) * (1 + n_pieces)


def test_rows_that_a_model_is_given_one_after_the_other_are_put_together():
    model = randomised(lambda: alone(lambda: Scanned(SCANS["decayed"])))
    by_row, at_once = {}, {}
    with isolated(model):
        structure, _ = discover(
            model,
            probe(),
            mixing=by_row,
            forward=lambda model, ids: [model(row[None]) for row in ids],
        )
    with isolated(model):
        attend(
            model,
            probe(),
            structure,
            mixing=at_once,
            forward=lambda model, ids: [model(row[None]) for row in ids],
        )
    expected = examine(model)[2]
    for block, matrix in expected.items():
        torch.testing.assert_close(by_row[block], matrix, atol=1e-5, rtol=0)
        torch.testing.assert_close(at_once[block], matrix, atol=1e-5, rtol=0)


def test_nothing_is_left_behind_when_a_pass_fails_inside_a_mixer():
    model = randomised(lambda: alone(lambda: Scanned(SCANS["delta"])))
    structure, *_ = examine(model)
    model.blocks[1].attn.out = torch.nn.Linear(1, 1)
    with isolated(model), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        attend(model, probe(), structure, mixing={})
    assert torch._C._len_torch_function_stack() == 0
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
