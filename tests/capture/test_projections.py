"""The right numbers out of the right parameters: fused, transposed, interleaved and stacked
weights, and samples of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_decoders import MODELS, build
from hf_decoders import examine as examine_hf
from plain_decoders import (
    AllInOneBlock,
    FusedAttention,
    GroupedAttention,
    Model,
    Residual,
    SwappedGate,
    by_hand,
    by_kernel,
    randomised,
    two_layers,
)
from plain_decoders import examine as examine_plain

from tracker_viz.capture.weights.matrices import Projection, evenly_spaced, read

H, KV, HD, D, F = 4, 2, 8, 32, 48


def matrices(model, structure, block=0):
    """name -> [out, in] of one block, as it is captured."""
    parameters = dict(model.named_parameters())
    return {p.name: read(parameters, p) for p in structure.projections if p.block == block}


def interleaved(weight, groups=H):
    """[group * 3 * width, in], each group's queries, keys, values after each other -> the three of
    them."""
    return [
        part.reshape(-1, weight.shape[1])
        for part in weight.reshape(groups, 3, -1, weight.shape[1]).unbind(1)
    ]


def grouped(weight):
    """Falcon: for each key/value head its queries, its key, its value."""
    per_group = weight.reshape(KV, H // KV + 2, HD, D)
    return [part.reshape(-1, D) for part in (per_group[:, :-2], per_group[:, -2], per_group[:, -1])]


# name -> (model type, options or None, the fused parameter of block 0, how the model itself would
# split it into q, k, v)
FUSED = {
    "GPT-2": ("gpt2", None, "transformer.h.0.attn.c_attn.weight", lambda w: w.t().split(D)),
    "GPT-NeoX": (
        "gpt_neox",
        None,
        "gpt_neox.layers.0.attention.query_key_value.weight",
        interleaved,
    ),
    "BLOOM": ("bloom", None, "transformer.h.0.self_attention.query_key_value.weight", interleaved),
    "Persimmon": (
        "persimmon",
        None,
        "model.layers.0.self_attn.query_key_value.weight",
        interleaved,
    ),
    "MPT": ("mpt", None, "transformer.blocks.0.attn.Wqkv.weight", lambda w: w.split(D)),
    "Phi-3": (
        "phi3",
        None,
        "model.layers.0.self_attn.qkv_proj.weight",
        lambda w: w.split([D, KV * HD, KV * HD]),
    ),
    "DBRX": (
        "dbrx",
        None,
        "transformer.blocks.0.norm_attn_norm.attn.Wqkv.weight",
        lambda w: w.split([D, KV * HD, KV * HD]),
    ),
    "StarCoder, one key/value head": (
        "gpt_bigcode",
        None,
        "transformer.h.0.attn.c_attn.weight",
        lambda w: w.split([D, HD, HD]),
    ),
    "StarCoder, all heads": (
        "gpt_bigcode",
        {**MODELS["gpt_bigcode"][0], "multi_query": False},
        "transformer.h.0.attn.c_attn.weight",
        interleaved,
    ),
    "Falcon 7B": (
        "falcon",
        None,
        "transformer.h.0.self_attention.query_key_value.weight",
        lambda w: w.split([D, HD, HD]),
    ),
    "Falcon 40B": (
        "falcon",
        {"num_kv_heads": KV, "new_decoder_architecture": True, "alibi": False},
        "transformer.h.0.self_attention.query_key_value.weight",
        grouped,
    ),
    "Falcon RW": (
        "falcon",
        {
            "multi_query": False,
            "new_decoder_architecture": False,
            "alibi": False,
            "num_kv_heads": H,
        },
        "transformer.h.0.self_attention.query_key_value.weight",
        interleaved,
    ),
    "CodeGen, in the order q v k": (
        "codegen",
        None,
        "transformer.h.0.attn.qkv_proj.weight",
        lambda w: [interleaved(w)[index] for index in (0, 2, 1)],
    ),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_query_key_value_splits_as_the_model_splits_it(name):
    model_type, options, parameter, own_split = FUSED[name]
    model = build(model_type, options)
    structure, _ = examine_hf(model)
    found = matrices(model, structure)
    expected = own_split(dict(model.named_parameters())[parameter].detach())
    for part, matrix in zip("qkv", expected, strict=True):
        torch.testing.assert_close(found[f"attn.w_{part}"], matrix, atol=0, rtol=0)


def test_a_transposed_projection_is_turned():
    model = build("gpt2")
    found = matrices(model, examine_hf(model)[0])
    mlp = model.transformer.h[0].mlp
    assert torch.equal(found["mlp.w_in"], mlp.c_fc.weight.detach().t())
    assert torch.equal(found["mlp.w_out"], mlp.c_proj.weight.detach().t())
    assert torch.equal(found["attn.w_o"], model.transformer.h[0].attn.c_proj.weight.detach().t())


def test_a_square_matrix_that_is_multiplied_from_the_right_is_seen_to_be_transposed():
    class RightSided(FusedAttention):
        def __init__(self, attend):
            super().__init__(attend)
            self.out_proj = torch.nn.Parameter(torch.empty(D, D))

        def forward(self, x):
            return self.c_proj(super().forward(x)) @ self.out_proj

    model = randomised(lambda: Model(lambda _: Residual(RightSided(by_kernel), two_layers())))
    structure, _ = examine_plain(model)
    by_parameter = {
        projection.parameters[0]: projection.transposed for projection in structure.projections
    }
    assert by_parameter["blocks.0.attn.out_proj"] is True
    assert by_parameter["blocks.0.attn.c_proj.weight"] is False


def test_fused_gate_and_up_split_as_the_model_splits_them():
    model = build("glm4")
    found = matrices(model, examine_hf(model)[0])
    gate, up = model.model.layers[0].mlp.gate_up_proj.weight.detach().chunk(2)
    assert torch.equal(found["mlp.w_gate"], gate)
    assert torch.equal(found["mlp.w_up"], up)


@pytest.mark.parametrize("attend", [by_kernel, by_hand])
def test_a_gate_in_the_second_half_is_known_by_its_activation(attend):
    model = randomised(lambda: Model(lambda _: Residual(FusedAttention(attend), SwappedGate())))
    found = matrices(model, examine_plain(model)[0])
    up, gate = model.blocks[0].mlp.ff_proj.weight.detach().chunk(2)
    assert torch.equal(found["mlp.w_gate"], gate)
    assert torch.equal(found["mlp.w_up"], up)


@pytest.mark.parametrize(
    "activation", [torch.relu, torch.Tensor.relu, torch.nn.functional.softplus]
)
def test_a_gate_is_known_by_any_activation(activation):
    class Swapped(SwappedGate):
        def forward(self, x):
            x, gate = self.ff_proj(x).chunk(2, dim=-1)
            return self.ff_out(activation(gate) * x)

    model = randomised(lambda: Model(lambda _: Residual(FusedAttention(by_kernel), Swapped())))
    found = matrices(model, examine_plain(model)[0])
    up, gate = model.blocks[0].mlp.ff_proj.weight.detach().chunk(2)
    assert torch.equal(found["mlp.w_gate"], gate)
    assert torch.equal(found["mlp.w_up"], up)


def test_attention_written_by_hand_splits_its_fused_projection_too():
    model = randomised(lambda: Model(lambda _: Residual(FusedAttention(by_hand), two_layers())))
    found = matrices(model, examine_plain(model)[0])
    for part, matrix in zip(
        "qkv", model.blocks[0].attn.c_attn.weight.detach().chunk(3), strict=True
    ):
        assert torch.equal(found[f"attn.w_{part}"], matrix)


def test_projections_in_the_block_itself_are_told_from_its_feed_forward_part():
    model = randomised(lambda: Model(lambda _: AllInOneBlock()))
    block = model.blocks[0]
    found = matrices(model, examine_plain(model)[0])
    assert torch.equal(found["attn.w_o"], block.out.weight.detach())
    assert torch.equal(found["mlp.w_in"], block.ffn[0].weight.detach())
    assert torch.equal(found["mlp.w_out"], block.ffn[2].weight.detach())


def test_experts_are_given_one_by_one_and_as_their_mean():
    model = build("mixtral")
    experts = model.model.layers[0].mlp.experts
    found = matrices(model, examine_hf(model)[0])
    gate, up = experts.gate_up_proj.detach().chunk(2, dim=1)
    torch.testing.assert_close(found["mlp.w_gate"], gate.mean(0))
    torch.testing.assert_close(found["mlp.w_down"], experts.down_proj.detach().mean(0))
    assert torch.equal(found["mlp.experts.3.w_up"], up[3])


def test_gpt_oss_experts_alternate_gate_and_up_row_by_row():
    model = build("gpt_oss")
    found = matrices(model, examine_hf(model)[0])
    fused = model.model.layers[0].mlp.experts.gate_up_proj.detach()  # [expert, in, out]
    assert torch.equal(found["mlp.experts.1.w_gate"], fused[1, :, ::2].t())
    assert torch.equal(found["mlp.experts.1.w_up"], fused[1, :, 1::2].t())
    torch.testing.assert_close(
        found["mlp.w_down"], model.model.layers[0].mlp.experts.down_proj.detach().mean(0).t()
    )


def test_experts_that_are_modules_of_their_own_are_gathered():
    class Mixture(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = torch.nn.Linear(D, 3)
            self.experts = torch.nn.ModuleList(two_layers() for _ in range(3))

        def forward(self, x):
            shares = self.gate(x).softmax(-1)
            return sum(shares[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))

    model = randomised(lambda: Model(lambda _: Residual(GroupedAttention(), Mixture())))
    structure, _ = examine_plain(model, max_experts=2)
    found = matrices(model, structure)
    experts = model.blocks[0].mlp.experts
    torch.testing.assert_close(
        found["mlp.w_in"], torch.stack([expert[0].weight.detach() for expert in experts]).mean(0)
    )
    assert torch.equal(found["mlp.experts.1.w_out"], experts[1][2].weight.detach())
    assert {name for name in found if ".experts." in name} == {
        f"mlp.experts.{expert}.{role}" for expert in (0, 1) for role in ("w_in", "w_out")
    }


class Adapted(torch.nn.Module):
    """A layer with LoRA beside it (Hu et al. 2021)."""

    def __init__(self, base):
        super().__init__()
        self.base, self.lora_a, self.lora_b = (
            base,
            torch.nn.Linear(D, 2, bias=False),
            torch.nn.Linear(2, base.out_features, bias=False),
        )

    def forward(self, x):
        return self.base(x) + self.lora_b(self.lora_a(x))


@pytest.mark.parametrize(
    "wrap",
    [
        Adapted,
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
    ],
    ids=lambda wrap: wrap.__name__,
)
def test_a_layer_inside_a_wrapper_keeps_its_part(wrap):
    def wrapped():
        attention = GroupedAttention()
        attention.wq, attention.wk = wrap(attention.wq), wrap(attention.wk)
        return attention

    model = randomised(lambda: Model(lambda _: Residual(wrapped(), two_layers())))
    structure, _ = examine_plain(model)
    parts = {p.name: p.parameters[0] for p in structure.projections if p.block == 0}
    assert set(parts) == {"attn.w_q", "attn.w_k", "attn.w_v", "attn.w_o", "mlp.w_in", "mlp.w_out"}
    assert (parts["attn.w_q"].split(".")[3], parts["attn.w_k"].split(".")[3]) == ("wq", "wk")


def test_what_is_named_by_hand_may_be_anything_with_rows_and_columns():
    class Routed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.router, self.mlp = torch.nn.Linear(D, D), two_layers()

        def forward(self, x):
            return self.mlp(self.router(x))

    model = randomised(lambda: Model(lambda _: Residual(FusedAttention(by_kernel), Routed())))
    assert "mlp.w_route" not in matrices(model, examine_plain(model)[0])
    found = matrices(model, examine_plain(model, projections={"mlp.w_route": "mlp.router"})[0])
    assert set(found) == {"mlp.w_route"}
    assert torch.equal(found["mlp.w_route"], model.blocks[0].mlp.router.weight.detach())


def test_latent_attention_keeps_its_two_steps():
    model = build("deepseek_v3")
    found = matrices(model, examine_hf(model)[0])
    attention = model.model.layers[0].self_attn
    for name, module in (
        ("q_a", "q_a_proj"),
        ("q_b", "q_b_proj"),
        ("kv_a", "kv_a_proj_with_mqa"),
        ("kv_b", "kv_b_proj"),
        ("o", "o_proj"),
    ):
        assert torch.equal(found[f"attn.w_{name}"], getattr(attention, module).weight.detach())


def test_a_sample_takes_evenly_spaced_rows_and_columns_of_what_is_stored():
    stored = torch.arange(60.0).reshape(6, 10)  # [in, out]
    projection = Projection(0, "attn.w_k", ("w",), (4, 6), transposed=True, rows=((2, 4), (7, 9)))
    whole = read({"w": stored}, projection)
    assert torch.equal(whole, stored.t()[[2, 3, 7, 8]])
    assert torch.equal(read({"w": stored}, projection, (2, 3)), whole[[0, 2]][:, [0, 2, 4]])


def test_what_is_read_is_a_copy():
    weight = torch.zeros(3, 3)
    matrix = read({"w": weight}, Projection(0, "mlp.w_in", ("w",), (3, 3)))
    weight += 1
    assert float(matrix.sum()) == 0


@pytest.mark.parametrize(("size", "limit"), [(10, 4), (7, 7), (5, 9), (4096, 333)])
def test_a_sample_is_ascending_starts_at_zero_and_is_even_to_within_one(size, limit):
    index = evenly_spaced(size, limit)
    gaps = np.diff([*index, size])
    assert len(index) == min(size, limit)
    assert index[0] == 0
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
