"""Weights that are stored in another way than they are used: quantized, offloaded, made in
inference mode."""

from __future__ import annotations

from pathlib import Path

import accelerate
import peft
import pytest
import torch
import transformers
from adapted_models import llama, looked_at, lora, trained
from quantized_models import ROUNDING, STORED, PackedLinear, WithoutAMatrix, error_of, section
from quantized_models import with_layers as llama_with

from tracker_viz.capture import Schedule, make_probe, record
from tracker_viz.errors import UnsupportedModelError

ROOT = Path(__file__).parents[2]
NEW_PAGE = "run: python tests/capture/hf_decoders.py > docs/pages/supported_models.md"
PINNED = {f"transformers=={transformers.__version__}", f"accelerate=={accelerate.__version__}"}


@pytest.mark.parametrize("name", STORED)
def test_maps_show_what_the_layer_multiplies_by_however_it_is_stored(name):
    assert error_of(name) <= ROUNDING.get(name, 0)


@pytest.mark.parametrize("name", STORED)
def test_a_training_captures_it_and_nothing_of_the_model_changes(name):
    model = STORED[name]()
    before = [(key, type(each), each.device) for key, each in model.named_parameters()]
    captures = []
    with record(model, make_probe(96, 16), Schedule.every(1), captures.append) as recorder:
        recorder.step(1)
    assert [(key, type(each), each.device) for key, each in model.named_parameters()] == before
    first, second = (capture.arrays for capture in captures)
    for key in ("blocks.1.attn.pattern", "blocks.1.attn.w_k", "blocks.1.mlp.w_down"):
        assert (first[key] == second[key]).all()


def test_the_page_of_supported_models_has_the_section_about_quantized_weights():
    if set((ROOT / "constraints.txt").read_text().split()) >= PINNED:
        page = ROOT / "docs" / "pages" / "supported_models.md"
        assert section() in page.read_text(), NEW_PAGE


def test_weights_that_cannot_be_read_are_left_out_with_the_reason_and_attention_is_not():
    model = llama_with(WithoutAMatrix, ["gate_proj", "down_proj"])
    captures = []
    record(model, make_probe(96, 16), Schedule.every(1), captures.append).close()
    (capture,) = captures
    assert "blocks.1.attn.pattern" in capture.arrays
    assert not any("w_gate" in name or "w_down" in name for name in capture.arrays)
    (said,) = capture.model["found"]["left_out"]
    assert said.startswith("weights mlp.w_gate, mlp.w_down: ")
    assert "WithoutAMatrix cannot run by itself: expected a batch of the model's own" in said


def test_an_adapter_around_a_quantized_layer_is_added_to_what_it_dequantizes_to():
    """QLoRA: the base in few bits, the adapter in full."""
    model = trained(peft.get_peft_model(llama(), lora(["q_proj"])))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    layer.base_layer = PackedLinear(layer.base_layer)
    base = llama_with(PackedLinear, ["q_proj"]).model.layers[0].self_attn.q_proj
    expected = (base.codes.t() * base.scales) + layer.get_delta_weight("default")
    shown = looked_at(model)[2]["blocks.0.attn.w_q"]
    torch.testing.assert_close(shown, expected.detach(), atol=1e-5, rtol=0)


def test_a_model_without_values_is_refused():
    with torch.device("meta"):
        model = llama()
    with pytest.raises(UnsupportedModelError, match="is on the meta device"):
        record(model, make_probe(96, 16), Schedule.every(1), print)
