"""Attention and weights of Hugging Face decoders, against what each model says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from container_decoders import MODELS as CONTAINERS
from hf_decoders import MODELS, TOLERANCE, compare, row, short
from test_plain_models import MODELS as PLAIN

ROOT = Path(__file__).parents[2]
# first cell -> all cells of the rows of the page's tables
LISTED = {
    cells[0]: cells
    for line in (ROOT / "docs" / "pages" / "supported_models.md").read_text().splitlines()
    if line.startswith("| ")
    and (cells := tuple(cell.strip() for cell in line.strip("|").split("|")))
}
# The page is of the pinned version: others may attend in another way.
PAGE_IS_OF_THIS_VERSION = (
    f"transformers=={transformers.__version__}" in (ROOT / "constraints.txt").read_text().split()
)
NEW_PAGE = "run: python tests/capture/hf_decoders.py > docs/pages/supported_models.md"


@pytest.mark.parametrize("model_type", sorted(MODELS))
def test_attention_and_weights_of_a_public_architecture(model_type):
    structure, model, difference = compare(model_type)
    assert difference <= TOLERANCE
    listed = LISTED[f"`{model_type}`"]
    assert float(listed[3]) <= TOLERANCE
    if PAGE_IS_OF_THIS_VERSION:
        assert listed == row(model_type, structure, model, listed[3]), NEW_PAGE
    assert structure.error is None or structure.error <= TOLERANCE
    assert structure.d_model == 32
    expected = MODELS[model_type][1]
    if expected is not None:
        assert {short(p.name) for p in structure.projections if ".experts." not in p.name} == set(
            expected.split()
        )


@pytest.mark.parametrize("model_type", sorted(MODELS))
def test_attention_of_a_public_architecture_that_attends_eagerly(model_type):
    structure, _, difference = compare(model_type, eager=True)
    assert structure.sources == ("softmax",)
    assert difference <= TOLERANCE


def test_at_least_fifty_architectures_are_held_to_their_own_attention():
    assert len(MODELS) >= 50


def test_the_page_of_supported_models_lists_what_is_tested_and_no_more():
    assert sorted(name.strip("`") for name in LISTED if name.startswith("`")) == sorted(MODELS), (
        NEW_PAGE
    )
    assert set(PLAIN) | set(CONTAINERS) <= set(LISTED), NEW_PAGE
    assert (
        f"The tests hold {len(MODELS)} Hugging Face architectures"
        in (ROOT / "README.md").read_text()
    )
