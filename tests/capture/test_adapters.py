"""Models with adapters: the matrix that a layer multiplies by, held to PEFT's merged weights."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import peft
import pytest
import torch
from adapted_models import (
    ADAPTED,
    TOLERANCE,
    adapted,
    called,
    largest_difference,
    llama,
    looked_at,
    lora,
    merged,
    section,
    trained,
)
from plain_decoders import (
    FusedAttention,
    Model,
    Residual,
    by_kernel,
    examine,
    randomised,
    two_layers,
)
from torch import nn

from tracker_viz.capture import Schedule, make_probe, record
from tracker_viz.capture.ablation.outputs import find_outputs
from tracker_viz.errors import UnsupportedModelError

ROOT = Path(__file__).parents[2]
NEW_PAGE = "run: python tests/capture/hf_decoders.py > docs/pages/supported_models.md"


@pytest.mark.parametrize("name", ADAPTED)
def test_maps_show_what_a_layer_with_an_adapter_multiplies_by(name):
    model = adapted(name)
    plain = merged(model)
    structure, attention, ours = looked_at(model)
    _, expected_attention, theirs = looked_at(plain)
    assert structure.left_out == ()
    assert largest_difference(ours, theirs) <= TOLERANCE
    for seen, expected in zip(attention, expected_attention, strict=True):
        torch.testing.assert_close(seen, expected, atol=1e-4, rtol=0)


def test_the_page_of_supported_models_has_the_section_about_adapters():
    if f"peft=={peft.__version__}" in (ROOT / "constraints.txt").read_text().split():
        page = ROOT / "docs" / "pages" / "supported_models.md"
        assert section() in page.read_text(), NEW_PAGE


def test_a_disabled_adapter_changes_no_map():
    model = adapted("LoRA")
    base = looked_at(llama())[2]
    with model.disable_adapter():
        assert largest_difference(looked_at(model)[2], base) == 0
    assert largest_difference(looked_at(model)[2], base) > 0.1


def test_a_merged_adapter_is_not_added_twice():
    model = adapted("LoRA")
    before = looked_at(model)[2]
    model.merge_adapter()
    structure, _, after = looked_at(model)
    assert largest_difference(before, after) <= TOLERANCE
    assert not any("lora" in each.name for each in structure.projections)


def test_a_small_update_of_a_bfloat16_matrix_is_not_rounded_away():
    model = peft.get_peft_model(llama().bfloat16(), lora(["q_proj"]))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.lora_B["default"].weight.fill_(1e-5)
    update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * 2
    shown = looked_at(model)[2]["blocks.0.attn.w_q"] - layer.base_layer.weight.float()
    torch.testing.assert_close(shown, update.detach().float(), atol=1e-8, rtol=1e-2)


def test_the_model_is_called_by_what_is_inside_the_wrapper():
    model = adapted("LoRA")
    assert called(looked_at(model)[0], model) == "LlamaForCausalLM + LoRA r=4"


def test_the_adapters_own_matrices_are_captured_beside_what_they_change():
    model = adapted("LoRA on Conv1D, fused (GPT-2)")
    structure, _, matrices = looked_at(model)
    layer = model.base_model.model.transformer.h[1].attn.c_attn
    update = layer.get_delta_weight("default").t().split(32)
    for name, expected in zip(("w_q", "w_k", "w_v"), update, strict=True):
        a, b = (matrices[f"blocks.1.attn.{name}.lora_{part}"] for part in "ab")
        torch.testing.assert_close(b @ a * layer.scaling["default"], expected, atol=1e-5, rtol=0)
    assert {each.shape for each in structure.projections if "lora_a" in each.name} == {
        (4, 32),
        (4, 128),
    }


@pytest.mark.parametrize(
    "config",
    [
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8),
    ],
    ids=["prompt", "prefix"],
)
def test_virtual_tokens_are_said_to_be_the_reason(config):
    model = peft.get_peft_model(llama(), config).eval()
    with pytest.raises(UnsupportedModelError, match="8 trained, virtual tokens before every row"):
        looked_at(model)


def test_change_is_measured_from_the_base_model_on():
    model = peft.get_peft_model(llama(), lora())
    captures = []
    with record(model, make_probe(96, 16), Schedule.every(1), captures.append) as recorder:
        before = copy.deepcopy(model.state_dict())
        recorder.step(1)
        assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
        trained(model)
        recorder.step(2)
    base = looked_at(llama())[2]["blocks.0.mlp.w_down"]
    shown = [torch.from_numpy(each.arrays["blocks.0.mlp.w_down"]).float() for each in captures]
    torch.testing.assert_close(shown[0], base, atol=1e-3, rtol=0)
    layer = model.base_model.model.model.layers[0].mlp.down_proj
    update = layer.get_delta_weight("default").detach()
    torch.testing.assert_close(shown[2] - shown[0], update, atol=5e-3, rtol=0)
    assert captures[0].model["adapters"] == ["LoRA r=4"]


def test_a_neuron_is_what_enters_the_layer_before_an_adapter_scales_it():
    model = adapted("IA3")
    plain = merged(model)

    def peaks(watched):
        captures = []
        record(watched, make_probe(96, 16), Schedule.every(1), captures.append).close()
        return torch.from_numpy(captures[0].arrays["blocks.0.mlp.w_down.peak"])

    torch.testing.assert_close(peaks(model), peaks(plain), atol=1e-4, rtol=1e-3)


def test_heads_are_taken_out_before_an_adapter_sees_them():
    model = adapted("LoRA")
    outputs = find_outputs(model, looked_at(model)[0])
    assert [re.sub(r".*layers", "layers", each.module) for each in outputs.values()] == [
        "layers.0.self_attn.o_proj",
        "layers.1.self_attn.o_proj",
    ]


class LinearWithLora(nn.Module):
    """litgpt and torchtune: an adapter written into a layer of one's own."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.lora_A = nn.Parameter(torch.zeros(4, linear.in_features))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, 4))

    def forward(self, x):
        return self.linear(x) + x @ self.lora_A.t() @ self.lora_B.t() * 0.5


def test_a_layer_with_an_adapter_of_its_own_is_asked_for_its_matrix():
    def block(_index):
        attention = FusedAttention(by_kernel)
        attention.c_attn = LinearWithLora(attention.c_attn)
        return Residual(attention, two_layers())

    model = randomised(lambda: Model(block))
    _, _, matrices = looked_at(model)
    layer = model.blocks[0].attn.c_attn
    expected = layer.linear.weight + 0.5 * layer.lora_B @ layer.lora_A
    for name, part in zip(("w_q", "w_k", "w_v"), expected.detach().split(32), strict=True):
        torch.testing.assert_close(matrices[f"blocks.0.attn.{name}"], part, atol=TOLERANCE, rtol=0)
    assert examine(model)[0].n_heads == (4, 4)
