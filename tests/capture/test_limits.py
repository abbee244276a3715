"""What a model takes, found without running it: its vocabulary and its context."""

from __future__ import annotations

import peft
import pytest
import torch
import torch.nn.functional as F
from adapted_models import llama, lora
from torch import nn

from tracker_viz.capture import cached_positions, vocab_size
from tracker_viz.pipeline.recording.arguments import chosen_probe


class LookedUpByHand(nn.Module):
    """A table that is no nn.Embedding, as people write tied ones."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(48, 8))
        self.layer, self.head = nn.Linear(8, 16), nn.Linear(16, 48)

    def forward(self, ids):
        return self.head(self.layer(F.embedding(ids, self.table)))


class OwnTable(nn.Module):
    """An embedding without ``num_embeddings``."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(40, 8))


class SaysItsTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = OwnTable()

    def get_input_embeddings(self):
        return self.table


def test_the_vocabulary_is_that_of_the_head_where_no_embedding_tells_it():
    assert vocab_size(LookedUpByHand()) == 48
    assert vocab_size(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 48))) is None


def test_an_embedding_need_not_say_how_many_it_holds():
    assert vocab_size(SaysItsTable()) == 40


def test_an_adapter_around_the_embedding_hides_no_vocabulary():
    adapted = peft.get_peft_model(llama(), lora(["embed_tokens"]))
    model = SaysItsTable()
    model.table = adapted.base_model.model.model.embed_tokens
    assert vocab_size(model) == 96


@pytest.mark.parametrize(
    ("name", "shape", "length"),
    [
        ("cos", (1, 96, 1, 8), 96),  # nanochat
        ("sin_cached", (32, 16), 32),
        ("freqs_cis", (64, 8), 64),  # Meta's Llama, torchtitan
        ("bias", (1, 1, 24, 24), 24),  # nanoGPT
        ("bias", (24, 8), None),
        ("cosine_weights", (96, 8), None),
        ("cos_cached", (1, 8), None),  # a cache that grows
    ],
)
def test_the_context_is_found_from_rotary_caches_and_masks(name, shape, length):
    model = nn.Module()
    model.register_buffer(name, torch.zeros(shape))
    assert cached_positions(nn.Sequential(model)) == length


def test_the_probe_is_no_longer_than_the_rotations():
    model = LookedUpByHand()
    model.freqs_cis = torch.zeros(20, 4, dtype=torch.complex64)  # no buffer: it stays complex
    assert chosen_probe(model, None, None, 0).length == 20
