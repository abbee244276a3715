"""Heads taken out of models: what takes their place is exactly their mean, and nothing else of the
model or the process changes."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from plain_decoders import D, H, Model, Residual, two_layers
from torch import nn

from tracker_viz.capture import HeldOutRows, LossMeter, repeated_rows
from tracker_viz.capture.ablation.rows import copied_tokens
from tracker_viz.demo.data import DataConfig, repeated_spans, second_copies
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.errors import CaptureError, ProbeError, UnsupportedModelError

VOCAB, LENGTH = 96, 16
SHAPE = {"vocab_size": VOCAB, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}


def randomized(model):
    """Weights so large that every head matters."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.25)
    return model


def decoder(**options):
    return Decoder(
        ModelConfig(
            n_blocks=2, d_model=32, d_ffn=48, context_length=32, vocab_size=VOCAB, **options
        )
    )


def llama():
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    return transformers.LlamaForCausalLM(config)


# name -> (model, the module behind the heads of a block)
MODELS = {
    "own heads": (lambda: decoder(n_heads=4), "blocks.{}.attn.o_proj"),
    "shared keys": (lambda: decoder(n_heads=4, n_kv_heads=1), "blocks.{}.attn.o_proj"),
    "GPT-2": (
        lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**SHAPE)),
        "transformer.h.{}.attn.c_proj",
    ),
    "Llama": (llama, "model.layers.{}.self_attn.o_proj"),
}


def rows(text=True):
    repeated = repeated_rows(VOCAB, LENGTH, n_rows=6, periods=(3, 5), seed=0)
    generator = torch.Generator().manual_seed(7)
    drawn = torch.randint(VOCAB, (4, LENGTH), generator=generator)
    return HeldOutRows(repeated, drawn if text else None)


def slow_losses(model, ids, module_name, head, d_head, value):
    """The loss of every token of the rows, one row at a time, in a copy of the model whose output
    projection is called with one head overwritten; ``value``: None for the head itself."""
    model = copy.deepcopy(model).eval()
    module = model.get_submodule(module_name)
    forward, seen = module.forward, []

    def overwritten(hidden):
        hidden = hidden.clone()
        own = hidden[:, :, head * d_head : (head + 1) * d_head]
        seen.append(own.reshape(-1, d_head).clone())
        if value is not None:
            for position in range(hidden.shape[1]):
                own[0, position] = value
        return forward(hidden)

    module.forward = overwritten
    losses = []
    with torch.no_grad():
        for row in ids:
            output = model(row[None, :-1])
            logits = getattr(output, "logits", output)[0]
            losses.append(-F.log_softmax(logits, -1)[torch.arange(len(row) - 1), row[1:]])
    return torch.stack(losses), torch.cat(seen)


@pytest.mark.parametrize("name", MODELS)
def test_an_ablated_head_is_its_mean_over_rows_and_positions(name):
    make, module_name = MODELS[name]
    model, held_out = randomized(make()), rows()
    meter = LossMeter(model, held_out)
    whole, without = meter.whole(), meter.without([(1, 2)])

    module_name, d_head = module_name.format(1), 8
    for kind, ids in (("repeated", held_out.repeated), ("text", held_out.text)):
        untouched_losses, outputs = slow_losses(model, ids, module_name, 2, d_head, None)
        losses, _ = slow_losses(model, ids, module_name, 2, d_head, outputs.mean(0))
        copied = copied_tokens(ids)[:, 1:]
        counted = {"later_copies": copied, "first_copies": ~copied}
        if kind == "text":
            counted = {"text": torch.ones_like(copied)}
        for each, mask in counted.items():
            expected = untouched_losses[mask].mean().item()
            assert whole.means()[each] == pytest.approx(expected, abs=1e-5)
            assert without.means()[each] == pytest.approx(losses[mask].mean().item(), abs=1e-5)
    changes = without.changes_since(whole)
    assert max(abs(change) for change, _ in changes.values()) > 0.001


def test_zero_ablation_is_a_model_without_the_columns_of_the_head():
    model, held_out = randomized(decoder(n_heads=4)), rows()
    meter = LossMeter(model, held_out, ablation="zero")
    meter.whole()
    without = meter.without([(0, 1), (1, 3)]).means()
    cut = copy.deepcopy(model)
    with torch.no_grad():
        cut.blocks[0].attn.o_proj.weight[:, 8:16] = 0
        cut.blocks[1].attn.o_proj.weight[:, 24:] = 0
    assert without == pytest.approx(LossMeter(cut, held_out).whole().means(), abs=1e-5)


def test_the_error_of_a_change_is_that_of_its_mean_over_rows():
    """Where every row holds as many tokens it is the standard error of the rows' own changes."""
    model, held_out = randomized(decoder(n_heads=4)), rows()
    meter = LossMeter(model, held_out)
    whole, without = meter.whole(), meter.without([(0, 0)])
    change, residuals = without.changes_since(whole)["text"]
    error = residuals.std(ddof=1) / np.sqrt(len(residuals))
    by_row = (without.sums["text"] - whole.sums["text"]) / (LENGTH - 1)
    assert change == pytest.approx(by_row.mean())
    assert error == pytest.approx(by_row.std(ddof=1) / np.sqrt(len(by_row)))


def numpy_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002 - the user's own state


def test_nothing_of_the_model_or_the_process_changes():
    model, held_out = randomized(llama()), rows()
    model.model.layers[0].train(False)
    flags = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    random.seed(1)
    states = random.getstate(), numpy_state(), torch.get_rng_state()

    meter = LossMeter(model, held_out)
    before = meter.whole().means()
    meter.without([(0, 0), (1, 1)])
    assert meter.whole().means() == before, "bit for bit"

    after = model.state_dict()
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(numpy_state(), states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def test_the_hook_is_removed_where_the_model_fails():
    model, held_out = randomized(decoder(n_heads=4)), rows()
    meter = LossMeter(model, held_out)
    meter.whole()
    model.lm_head.register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        meter.without([(0, 0)])
    assert not model.blocks[0].attn.o_proj._forward_pre_hooks


def test_rows_are_cut_into_batches_without_changing_the_result(monkeypatch):
    model, held_out = randomized(decoder(n_heads=4)), rows()
    at_once = LossMeter(model, held_out).whole().means()
    monkeypatch.setattr("tracker_viz.capture.ablation.losses._MOST_LOGITS", 1)
    assert LossMeter(model, held_out).whole().means() == pytest.approx(at_once, abs=1e-6)


class Adapter(nn.Module):
    """Add a second path from the same input, as LoRA does."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.Linear(base_layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, base_layer.out_features, bias=False)

    def forward(self, hidden):
        return self.base_layer(hidden) + self.up(self.down(hidden))


def test_both_paths_of_an_adapter_lose_the_head():
    model, held_out = decoder(n_heads=4), rows(text=False)
    model.blocks[0].attn.o_proj = Adapter(model.blocks[0].attn.o_proj)
    meter = LossMeter(randomized(model), held_out, ablation="zero")
    meter.whole()
    without = meter.without([(0, 1)]).means()
    cut = copy.deepcopy(model)
    with torch.no_grad():
        cut.blocks[0].attn.o_proj.base_layer.weight[:, 8:16] = 0
        cut.blocks[0].attn.o_proj.down.weight[:, 8:16] = 0
    assert without == pytest.approx(LossMeter(cut, held_out).whole().means(), abs=1e-5)


class TorchAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mha = nn.MultiheadAttention(D, H, batch_first=True)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.mha(x, x, x, attn_mask=mask, need_weights=False)[0]


class MixedAttention(nn.Module):
    """Values as wide as the stream and no projection of the output."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(D, 3 * D)

    def forward(self, x):
        query, key, value = (
            part.unflatten(-1, (H, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return mixed.transpose(1, 2).flatten(2)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (TorchAttention, "blocks.0.attn.mha is an nn.MultiheadAttention"),
        (MixedAttention, r"output projection of block 0 \(blocks.0\) was not found.*found there: "),
    ],
)
def test_a_model_whose_heads_cannot_be_taken_out_says_what_is_known(attention, message):
    model = Model(lambda index: Residual(attention(), two_layers()))
    with pytest.raises(UnsupportedModelError, match=message):
        LossMeter(model, rows())


def test_blocks_that_share_their_projection_are_refused():
    model = decoder(n_heads=4)
    model.blocks[1].attn.o_proj = model.blocks[0].attn.o_proj
    with pytest.raises(UnsupportedModelError, match="blocks 0 and 1 share their output projection"):
        LossMeter(model, rows())


def test_a_model_that_returns_no_logits_is_refused():
    model, held_out = randomized(decoder(n_heads=4)), rows()
    meter = LossMeter(model, held_out, forward=lambda model, ids: model(ids).sum())
    with pytest.raises(CaptureError, match=r"must return logits .* it returned \(\)"):
        meter.whole()


def test_tokens_that_can_be_copied_are_those_of_later_copies():
    drawn = repeated_spans(8, 65, DataConfig(), torch.Generator().manual_seed(0))
    assert torch.equal(copied_tokens(drawn), second_copies(drawn))
    assert copied_tokens(torch.tensor([[9, 1, 2, 1, 2, 1]])).tolist() == [
        [False, False, False, False, True, True]
    ]


def test_repeated_rows_take_turns_in_their_periods_and_differ():
    drawn = repeated_rows(500, 33, n_rows=6, periods=(6, 8), bos_id=0, seed=0)
    assert (drawn[:, 0] == 0).all()
    for index, row in enumerate(drawn):
        period = (6, 7, 8)[index % 3]
        assert torch.equal(row[1 + period :], row[1:-period])
        assert len(set(row[1 : 1 + period].tolist())) == period
    assert len({tuple(row.tolist()) for row in drawn}) == 6


@pytest.mark.parametrize(
    ("repeated", "message"),
    [
        (torch.arange(20).reshape(2, 10), "must hold tokens that can be copied"),
        (torch.zeros(1, 10).long(), "at least two rows"),
        (torch.zeros(2, 10), "repeated rows are token ids"),
    ],
)
def test_rows_that_measure_nothing_are_refused(repeated, message):
    with pytest.raises(ProbeError, match=message):
        HeldOutRows(repeated)
