"""Attention and weights of Hugging Face decoders, against what each model says of itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hf_decoders import MODELS, TOLERANCE, WITHOUT_ATTENTION, compare, refusal, short

TABLE = Path(__file__).parents[2] / "examples" / "supported_models.md"


@pytest.mark.parametrize("model_type", sorted(MODELS))
def test_attention_and_weights_of_a_public_architecture(model_type):
    anatomy, _, difference = compare(model_type)
    assert difference <= TOLERANCE
    assert anatomy.error is None or anatomy.error <= TOLERANCE
    assert anatomy.d_model == 32
    expected = MODELS[model_type][1]
    if expected is not None:
        assert {short(p.name) for p in anatomy.projections if ".experts." not in p.name} == set(expected.split())


@pytest.mark.parametrize("model_type", sorted(MODELS))
def test_attention_of_a_public_architecture_that_attends_eagerly(model_type):
    anatomy, _, difference = compare(model_type, eager=True)
    assert anatomy.sources == ("softmax",)
    assert difference <= TOLERANCE


@pytest.mark.parametrize("model_type", WITHOUT_ATTENTION)
def test_a_model_without_attention_is_refused_by_name_and_module(model_type):
    assert re.search(rf"no attention over the probe was seen in .*{WITHOUT_ATTENTION[model_type]}", refusal(model_type))


def test_at_least_fifty_architectures_are_held_to_their_own_attention():
    assert len(MODELS) >= 50


def test_the_table_of_supported_models_is_up_to_date():
    listed = [line.split("|")[1].strip(" `") for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    assert listed == sorted(MODELS), "run: python tests/capture/hf_decoders.py > examples/supported_models.md"
