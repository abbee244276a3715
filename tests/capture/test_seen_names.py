"""A weight is named by what it was seen to do: in hybrids, under unusual names, in factors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hf_decoders import DELTA, HYBRID, MLA, MOE, build
from hf_decoders import examine as examine_hf
from plain_decoders import D, H, Model, Residual, by_kernel, merge, randomised, split, two_layers
from plain_decoders import examine as examine_plain
from torch import nn

from tracker_viz.capture.discover.model_info import describe, summary
from tracker_viz.capture.weights.matrices import read

SSM = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_expand": 2,
}
ZAMBA = {
    "num_hidden_layers": 4,
    "mamba_d_state": 8,
    "num_key_value_heads": 4,
    "attention_head_dim": 16,
    "attention_hidden_size": 64,
    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
}
INDEXER = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 8}
# model type -> (options, names of the weights of a block that does not attend, of one that does;
# paths that have no name)
HYBRIDS = {
    "jamba": (
        MOE | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
        "gate up down",
        "q k v o gate up down",
        "mamba.in_proj mamba.out_proj",
    ),
    "bamba": (
        MOE | SSM | {"attn_layer_indices": [1]},
        "gate up down",
        "q k v o gate up down",
        "mamba.in_proj mamba.out_proj",
    ),
    "granitemoehybrid": (
        MOE | SSM | {"layers_block_type": ["mamba", "attention"], "shared_intermediate_size": 24},
        "gate up down shared.gate shared.up shared.down",
        "q k v o gate up down shared.gate shared.up shared.down",
        "mamba.in_proj mamba.out_proj",
    ),
    "zamba": (
        ZAMBA | {"n_mamba_heads": 2, "mamba_dt_rank": 4, "attn_layer_period": 2},
        "",
        "q k v o gate up down",
        "mamba.in_proj mamba.D linear",
    ),
    "zamba2": (
        ZAMBA | {"n_mamba_heads": 8, "mamba_headdim": 8, "mamba_ngroups": 1, "num_mem_blocks": 1},
        "",
        "q k v o gate up down",
        "mamba.in_proj mamba_decoder.mamba.in_proj linear",
    ),
    "nemotron_h": (
        MOE
        | {"layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8, "mamba_head_dim": 8}
        | {"n_groups": 1, "ssm_state_size": 8, "moe_shared_expert_intermediate_size": 24},
        "",
        "q k v o",
        "mixer.in_proj mixer.out_proj",
    ),
    "recurrent_gemma": (
        {"block_types": ["recurrent", "attention"], "lru_width": 32, "attention_window_size": 8},
        "gate up down",
        "q k v o gate up down",
        "temporal_block.linear_x temporal_block.linear_out",
    ),
    "qwen3_next": (
        MOE | HYBRID | DELTA,
        "gate up down shared.gate shared.up shared.down",
        "q k v o gate up down shared.gate shared.up shared.down",
        "linear_attn.in_proj_qkvz linear_attn.out_proj",
    ),
    "deepseek_v32": (
        MOE | MLA | INDEXER,
        "q_a q_b kv_a kv_b o gate up down",
        "q_a q_b kv_a kv_b o gate up down shared.gate shared.up shared.down",
        "self_attn.indexer.wq_b self_attn.indexer.wk",
    ),
}


def names_of(structure, block):
    found = [
        p.name for p in structure.projections if p.block == block and ".experts." not in p.name
    ]
    return {name.removeprefix("attn.").removeprefix("mlp.").replace("w_", "") for name in found}


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_only_what_was_seen_in_an_attention_is_called_query_key_or_value(model_type):
    options, first, second, without_name = HYBRIDS[model_type]
    structure, _ = examine_hf(build(model_type, options))
    assert names_of(structure, 0) == set(first.split())
    assert names_of(structure, 1) == set(second.split())
    assert set(without_name.split()) <= set(structure.unnamed)


def test_an_attention_beside_a_state_space_model_keeps_its_own_weights():
    structure, _ = examine_hf(build("falcon_h1"))
    parts = {p.name: p.parameters[0] for p in structure.projections if p.block == 0}
    assert parts["attn.w_q"] == "model.layers.0.self_attn.q_proj.weight"
    assert parts["attn.w_o"] == "model.layers.0.self_attn.o_proj.weight"
    assert structure.unnamed["mamba.in_proj"] == (0, 1)


class Lecture(nn.Module):
    """Raschka's book: one usual name among unusual ones."""

    def __init__(self):
        super().__init__()
        self.W_value, self.W_key, self.W_query = (nn.Linear(D, D) for _ in range(3))
        self.out_proj, self.unused = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x):
        q, k, v = (split(layer(x), H) for layer in (self.W_query, self.W_key, self.W_value))
        return self.out_proj(merge(by_kernel(q, k, v)))


class InFormOfOthers(Lecture):
    """Rotary code takes dtype and shape of one from the other, and writes into empty tensors."""

    def forward(self, x):
        q, k, v = (split(layer(x), H) for layer in (self.W_query, self.W_key, self.W_value))
        keys = torch.empty_like(q)
        keys[:] = k.type_as(q).view_as(q).to(q)
        return self.out_proj(merge(by_kernel(q, keys, v)))


class OddGate(nn.Module):
    """xFormers' SwiGLU: w3 goes out, and which of the others is the gate is the code's secret."""

    def __init__(self):
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(D, 3 * D), nn.Linear(D, 3 * D), nn.Linear(3 * D, D)

    def forward(self, x):
        return self.w3(self.w1(x) * F.silu(self.w2(x)))


def parts_of(make):
    """(name -> path within block 0, structure) of a model with the blocks that ``make`` gives."""
    structure, _ = examine_plain(randomised(lambda: Model(lambda _: make())))
    parts = {p.name: p.parameters[0] for p in structure.projections if p.block == 0}
    return {name: path.removeprefix("blocks.0.") for name, path in parts.items()}, structure


def test_unusual_names_are_no_obstacle_and_what_did_nothing_has_none():
    parts, structure = parts_of(lambda: Residual(Lecture(), OddGate()))
    assert parts == {
        "attn.w_q": "attn.W_query.weight",
        "attn.w_k": "attn.W_key.weight",
        "attn.w_v": "attn.W_value.weight",
        "attn.w_o": "attn.out_proj.weight",
        "mlp.w_gate": "mlp.w2.weight",
        "mlp.w_up": "mlp.w1.weight",
        "mlp.w_down": "mlp.w3.weight",
    }
    assert structure.unnamed == {"attn.unused": (0, 1)}


def test_a_tensor_that_lends_its_form_lends_no_values():
    parts, _ = parts_of(lambda: Residual(InFormOfOthers(), OddGate()))
    assert (parts["attn.w_q"], parts["attn.w_k"]) == ("attn.W_query.weight", "attn.W_key.weight")


def test_what_is_left_out_of_the_pictures_is_named_once_in_the_log():
    model = randomised(
        lambda: Model(lambda index: Residual(Lecture(), [OddGate(), nn.Identity()][index]))
    )
    structure, _ = examine_plain(model)
    line = summary(describe(structure, model))
    assert line.count("attn.unused") == 1
    assert "weights left out: attn.unused in every block" in line
    assert "no feed-forward weights in block 1" in line


class Factored(nn.Module):
    """Every matrix is a product of two narrow ones."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(D, 4, bias=False), nn.Linear(4, 4 * D)
        self.c, self.d = nn.Linear(4 * D, 4, bias=False), nn.Linear(4, D)

    def forward(self, x):
        return self.d(self.c(F.gelu(self.b(self.a(x)))))


def test_a_feed_forward_part_in_factors_is_not_shown_as_one_of_them():
    parts, _ = parts_of(lambda: Residual(Lecture(), Factored()))
    mlp = {name: path for name, path in parts.items() if name.startswith("mlp")}
    assert mlp == {
        "mlp.w_in_a": "mlp.a.weight",
        "mlp.w_in_b": "mlp.b.weight",
        "mlp.w_out_a": "mlp.c.weight",
        "mlp.w_out_b": "mlp.d.weight",
    }


class Uneven(nn.Module):
    """Two key/value heads for four query heads, and keys twice as wide as values, in one matrix."""

    def __init__(self):
        super().__init__()
        self.everything, self.back = nn.Linear(D, 64 + 32 + 16), nn.Linear(32, D)

    def forward(self, x):
        q, k, v = self.everything(x).split([64, 32, 16], dim=-1)
        q, k, v = split(q, 4), split(k, 2), split(v, 2)
        return self.back(
            merge(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
        )


def test_a_fused_matrix_splits_where_keys_are_wider_than_values():
    model = randomised(lambda: Model(lambda _: Residual(Uneven(), two_layers())))
    structure, _ = examine_plain(model)
    rows = {p.name: p.rows for p in structure.projections if p.block == 0}
    assert (rows["attn.w_q"], rows["attn.w_k"], rows["attn.w_v"]) == (
        ((0, 64),),
        ((64, 96),),
        ((96, 112),),
    )


class PerHead(nn.Module):
    """TransformerLens: [head, in, out], by einsum, with biases [head, out]."""

    def __init__(self):
        super().__init__()
        self.b_Q, self._b_K = (nn.Parameter(torch.empty(H, D // H)) for _ in range(2))
        self.W_Q, self.W_K, self.W_V = (nn.Parameter(torch.empty(H, D, D // H)) for _ in range(3))
        self.W_O = nn.Parameter(torch.empty(H, D // H, D))

    def forward(self, x):
        q, k, v = (torch.einsum("bpd,hde->bphe", x, w) for w in (self.W_Q, self.W_K, self.W_V))
        scores = torch.einsum("bkhe,bqhe->bhqk", k + self._b_K, q + self.b_Q)
        scores = scores.masked_fill(torch.ones_like(scores[0, 0]).triu(1).bool(), float("-inf"))
        mixed = torch.einsum("bhqk,bkhe->bqhe", scores.softmax(-1), v)
        return torch.einsum("bqhe,hed->bqd", mixed, self.W_O)


class TurnedCopies(nn.Module):
    """TransformerLens: [in, out], of which a turned copy is multiplied with."""

    def __init__(self):
        super().__init__()
        self.W_in, self.W_gate = (nn.Parameter(torch.empty(D, 2 * D)) for _ in range(2))
        self.W_out = nn.Parameter(torch.empty(2 * D, D))

    def forward(self, x):
        gate = F.silu(F.linear(x, self.W_gate.T.contiguous()))
        return F.linear(gate * (x @ self.W_in.clone()), self.W_out.T.contiguous())


def test_a_copy_of_a_weight_tells_which_of_its_axes_is_which():
    model = randomised(lambda: Model(lambda _: Residual(PerHead(), TurnedCopies())))
    structure, _ = examine_plain(model)
    parameters = dict(model.named_parameters())
    found = {p.name: read(parameters, p) for p in structure.projections if p.block == 0}
    mlp = model.blocks[0].mlp
    for name, weight in (("w_gate", mlp.W_gate), ("w_up", mlp.W_in), ("w_down", mlp.W_out)):
        assert torch.equal(found[f"mlp.{name}"], weight.detach().t())


def test_weights_with_an_axis_of_heads_are_laid_side_by_side():
    model = randomised(lambda: Model(lambda _: Residual(PerHead(), two_layers())))
    structure, _ = examine_plain(model)
    assert structure.unnamed == {}
    parameters = dict(model.named_parameters())
    found = {p.name: read(parameters, p) for p in structure.projections if p.block == 0}
    attn = model.blocks[0].attn
    for name, stack in (("w_q", attn.W_Q), ("w_k", attn.W_K), ("w_v", attn.W_V)):
        expected = torch.cat([head.t() for head in stack.detach()])
        torch.testing.assert_close(found[f"attn.{name}"], expected, atol=0, rtol=0)
    expected = torch.cat([head.t() for head in attn.W_O.detach()], dim=1)
    torch.testing.assert_close(found["attn.w_o"], expected, atol=0, rtol=0)


def test_a_gate_that_is_one_learned_number_does_not_stop_the_watch():
    class Gated(Residual):
        def __init__(self):
            super().__init__(Lecture(), two_layers())
            self.gate = nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            return x + torch.sigmoid(self.gate) * super().forward(x)

    parts, _ = parts_of(Gated)
    assert len(parts) == 6
