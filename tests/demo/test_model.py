"""The demo's decoder: its shapes, what each position may see, and what its configuration
refuses."""

from __future__ import annotations

import pytest
import torch

from tracker_viz.demo.model import Decoder, ModelConfig, rotary_table, rotate
from tracker_viz.errors import ConfigError

SMALL = {
    "n_blocks": 2,
    "n_heads": 4,
    "d_model": 32,
    "d_ffn": 48,
    "context_length": 16,
    "vocab_size": 50,
}


@pytest.fixture
def tokens():
    return torch.randint(50, (3, 16), generator=torch.Generator().manual_seed(0))


def make(**changes):
    torch.manual_seed(0)
    model = Decoder(ModelConfig(**SMALL | changes))
    # Nearly uniform attention, as it is at initialization, would hide mistakes in it.
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def test_the_default_model_has_the_advertised_size():
    assert sum(weight.numel() for weight in Decoder(ModelConfig()).parameters()) == 869_760


def test_logits_cover_the_vocabulary_at_every_position(tokens):
    assert make()(tokens).shape == (3, 16, 50)


@pytest.mark.parametrize("n_kv_heads", [None, 2, 1])
def test_no_position_sees_a_later_one(tokens, n_kv_heads):
    model = make(n_kv_heads=n_kv_heads)
    before = model(tokens)
    changed = tokens.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 50
    after = model(changed)
    assert torch.allclose(before[:, :10], after[:, :10], atol=1e-5)
    assert not torch.allclose(before[:, 10:], after[:, 10:], atol=1e-2)


def test_shared_key_heads_equal_a_model_that_holds_copies_of_them(tokens):
    """Grouped queries are full attention whose key and value heads are repeated."""
    grouped, full = make(n_kv_heads=2), make()
    weights = grouped.state_dict()
    for name, weight in weights.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            weights[name] = weight.view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32)
    full.load_state_dict(weights)
    assert torch.allclose(grouped(tokens), full(tokens), atol=1e-5)


def test_attention_depends_on_distance_only():
    """The inner product of a rotated query and key is the same wherever the pair stands."""
    rope = rotary_table(32, 8, 10_000.0)
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    queries, keys = rotate(query.expand(32, 8), rope), rotate(key.expand(32, 8), rope)
    at_distance_5 = torch.stack(
        [queries[position] @ keys[position - 5] for position in range(5, 32)]
    )
    assert torch.allclose(at_distance_5, at_distance_5[0].expand(27), atol=1e-5)
    assert not torch.allclose(queries[4] @ keys[0], at_distance_5[0], atol=1e-2)


def test_attention_is_what_the_formula_says():
    """Written out with complex numbers: position m turns the pair (i, i + d/2) by m * base^(-2i/d)
    (RoFormer, eq. 12 to 16)."""
    attention = make().blocks[0].attn
    stream = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(2))
    angle = torch.outer(torch.arange(16.0), 10_000.0 ** (-torch.arange(0, 8, 2) / 8))
    heads = []
    for head in range(4):
        rows = slice(8 * head, 8 * head + 8)
        query, key, value = (
            stream[0] @ projection.weight[rows].T
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = (
            torch.complex(each[:, :4], each[:, 4:]) * torch.polar(torch.ones(16, 4), angle)
            for each in (query, key)
        )
        scores = (query @ key.conj().T).real / 8**0.5
        heads.append(
            scores.masked_fill(torch.ones(16, 16).triu(1).bool(), -torch.inf).softmax(dim=-1)
            @ value
        )
    expected = torch.cat(heads, dim=-1) @ attention.o_proj.weight.T
    rope = rotary_table(16, 8, 10_000.0)
    assert torch.allclose(attention(stream, rope)[0], expected, atol=1e-5)


def test_tied_embeddings_are_one_matrix(tokens):
    model = make(tie_embeddings=True)
    assert model.lm_head.weight is model.embed_tokens.weight
    model(tokens).sum().backward()
    assert sum(weight.numel() for weight in model.parameters()) < sum(
        weight.numel() for weight in make().parameters()
    )


def test_projections_into_the_stream_start_smaller():
    torch.manual_seed(0)
    model = Decoder(ModelConfig())
    block = model.blocks[0]
    assert block.attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.down_proj.weight.std().item() == pytest.approx(0.02 / 8**0.5, rel=0.05)


def test_a_sequence_beyond_the_context_is_refused(tokens):
    with pytest.raises(ConfigError, match="context of 16 tokens; got 17"):
        make()(torch.cat([tokens, tokens[:, :1]], dim=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"n_heads": 7},
            r"d_model=32 must be a multiple of model.n_heads=7; n_heads that fit: 1, 2, 4, 8, 16",
        ),
        ({"n_heads": 32}, r"must be even; got 32 / 32 = 1: try model.d_model=64"),
        (
            {"n_kv_heads": 3},
            r"n_heads=4 must be a multiple of model.n_kv_heads=3; n_kv_heads that fit: 1, 2, 4",
        ),
        ({"n_kv_heads": 0}, r"n_kv_heads must be a whole number of at least 1 or null; got 0"),
        ({"n_blocks": 0}, r"model.n_blocks must be a whole number of at least 1; got 0"),
        ({"d_ffn": -1}, r"model.d_ffn must be a whole number of at least 1; got -1"),
        ({"init_std": float("nan")}, r"model.init_std must be a number above 0; got nan"),
    ],
)
def test_an_impossible_shape_says_what_would_fit(changes, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**SMALL | changes)
