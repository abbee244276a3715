"""Decoders in plain PyTorch, each written as somebody really writes them; each notes its attention,
worked out beside it by hand."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from tracker_viz.capture.discover.blocks import attend, discover
from tracker_viz.capture.isolation import isolated

D, H, T, N, VOCAB = 32, 4, 16, 2, 96
DK = D // H


class Notes:
    """Where a model under test writes the attention it should be seen to have."""

    patterns: list = []  # noqa: RUF012 - one list for all, emptied by each test
    largest: list = []  # noqa: RUF012 - of its logits, [batch, head]


def reference(query, key):
    """Causal softmax(q k^T / sqrt(d)), written out in float64, and noted."""
    if key.shape[1] < query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    query, key = (
        part.detach().numpy().astype(np.float64) for part in (query, key)
    )  # numpy: out of sight of the watch
    logits = query @ key.swapaxes(-2, -1) / math.sqrt(query.shape[-1])
    weights = np.tril(np.exp(logits - logits.max(-1, keepdims=True)))
    Notes.patterns.append(torch.from_numpy(weights / weights.sum(-1, keepdims=True)).float())
    seen = np.tril(np.ones(logits.shape[-2:], bool))
    Notes.largest.append(torch.from_numpy(np.where(seen, logits, -np.inf).max((-2, -1))).float())


def split(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(x):
    return x.transpose(1, 2).flatten(2)


class Model(nn.Module):
    """Embedding, blocks, head; ``make(index)`` gives a block that maps [batch, position, D] to
    itself."""

    def __init__(self, make, n_blocks=2):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, D), nn.Embedding(T, D)
        self.blocks = nn.ModuleList(make(index) for index in range(n_blocks))
        self.head = nn.Linear(D, VOCAB)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Residual(nn.Module):
    def __init__(self, attn, mlp):
        super().__init__()
        self.ln1, self.attn, self.ln2, self.mlp = nn.LayerNorm(D), attn, nn.LayerNorm(D), mlp

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


def two_layers():
    return nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))


class FusedAttention(nn.Module):
    """nanoGPT: one c_attn for q, k and v."""

    def __init__(self, attend, *, noted=True):
        super().__init__()
        self.noted = noted
        self.c_attn, self.c_proj, self.attend = nn.Linear(D, 3 * D), nn.Linear(D, D), attend

    def forward(self, x):
        q, k, v = (split(part, H) for part in self.c_attn(x).split(D, dim=-1))
        if self.noted:
            reference(q, k)
        return self.c_proj(merge(self.attend(q, k, v)))


def by_kernel(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def by_softmax(q, k, v):
    logits = (q @ k.transpose(-2, -1)) / math.sqrt(DK)
    logits = logits.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), float("-inf"))
    return F.dropout(F.softmax(logits, dim=-1), 0.1, training=False) @ v


def by_large_negative_mask(q, k, v):
    logits = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(DK) - 1e4 * torch.ones(T, T).triu(1)
    return torch.einsum("bhqk,bhkd->bhqd", logits.softmax(dim=3), v)


def by_hand(q, k, v):
    logits = (q @ k.transpose(-2, -1)) / math.sqrt(DK)
    weights = torch.exp(logits - logits.max(-1, keepdim=True).values).tril()
    return (weights / weights.sum(-1, keepdim=True)) @ v


def by_flex(q, k, v):
    mask = create_block_mask(
        lambda _batch, _head, query, key: query >= key, None, None, T, T, device="cpu"
    )
    slopes = torch.zeros(H)
    return flex_attention(
        q,
        k,
        v,
        score_mod=lambda score, _b, head, _q, key: score - slopes[head] * key,
        block_mask=mask,
    )


class NamedOperands(FusedAttention):
    """Operands by name, weights in matrices of its own."""

    def __init__(self):
        super().__init__(None)

    def forward(self, x):
        q, k, v = (
            split(part, H)
            for part in F.linear(input=x, weight=self.c_attn.weight, bias=self.c_attn.bias).split(
                D, dim=-1
            )
        )
        reference(q, k)
        logits = torch.matmul(input=q, other=k.transpose(-2, -1)) / math.sqrt(DK)
        weights = F.softmax(
            input=logits.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), float("-inf")),
            dim=-1,
        )
        mixed = torch.bmm(input=weights.flatten(0, 1), mat2=v.flatten(0, 1)).unflatten(0, (-1, H))
        return F.linear(merge(mixed), weight=self.c_proj.weight, bias=self.c_proj.bias)


class TimmAttention(nn.Module):
    """timm: qkv reshaped to [3, batch, head, position, channel]; a flattened batch of heads
    inside."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, H, DK)).permute(2, 0, 3, 1, 4)
        reference(q, k)
        logits = torch.baddbmm(
            torch.full((T, T), -math.inf).triu(1),
            q.flatten(0, 1),
            k.flatten(0, 1).transpose(1, 2),
            alpha=DK**-0.5,
        )
        mixed = torch.bmm(torch.softmax(logits, -1), v.flatten(0, 1)).unflatten(0, (-1, H))
        return self.proj(merge(mixed))


class GroupedAttention(nn.Module):
    """LLaMA: separate projections, two key/value heads for four query heads."""

    def __init__(self, *, noted=True):
        super().__init__()
        self.noted = noted
        self.wq, self.wk, self.wv, self.wo = (
            nn.Linear(D, width, bias=False) for width in (D, D // 2, D // 2, D)
        )

    def forward(self, x):
        q, k, v = split(self.wq(x), H), split(self.wk(x), H // 2), split(self.wv(x), H // 2)
        if self.noted:
            reference(q, k)
        return self.wo(
            merge(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
        )


class SwappedGate(nn.Module):
    """OLMo: one projection for both, of which the second half is the gate."""

    def __init__(self):
        super().__init__()
        self.ff_proj, self.ff_out = nn.Linear(D, 6 * D), nn.Linear(3 * D, D)

    def forward(self, x):
        x, gate = self.ff_proj(x).chunk(2, dim=-1)
        return self.ff_out(F.silu(gate) * x)


class OneHead(nn.Module):
    """The lecture's model: every head a module of its own, with its own three matrices."""

    def __init__(self):
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(D, DK, bias=False) for _ in range(3))

    def forward(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        reference(q[:, None], k[:, None])
        logits = (q @ k.transpose(-2, -1) * DK**-0.5).masked_fill(
            torch.ones(T, T).tril() == 0, float("-inf")
        )
        return F.softmax(logits, dim=-1) @ v


class ManyHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.proj = nn.ModuleList(OneHead() for _ in range(H)), nn.Linear(D, D)

    def forward(self, x):
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))


class SoftmaxModule(nn.Module):
    """x-transformers: the softmax is a module of its own, inside the attention."""

    def __init__(self):
        super().__init__()
        self.to_qkv, self.to_out, self.attend = (
            nn.Linear(D, 3 * D, bias=False),
            nn.Sequential(nn.Linear(D, D), nn.Dropout(0.1)),
            nn.Softmax(dim=-1),
        )

    def forward(self, x):
        q, k, v = (split(part, H) for part in self.to_qkv(x).chunk(3, dim=-1))
        reference(q, k)
        logits = (q @ k.transpose(-1, -2) * DK**-0.5).masked_fill(
            torch.ones(T, T, dtype=torch.bool).triu(1), -torch.finfo(q.dtype).max
        )
        return self.to_out(merge(self.attend(logits) @ v))


class Multihead(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.mha = nn.MultiheadAttention(D, H, batch_first=batch_first, dropout=0.1)
        self.batch_first = batch_first

    def forward(self, x):
        mask = torch.full((T, T), -math.inf).triu(1)
        q, k, _ = F.linear(x, self.mha.in_proj_weight, self.mha.in_proj_bias).chunk(3, dim=-1)
        reference(split(q, H), split(k, H))
        x = x if self.batch_first else x.transpose(0, 1)
        out = self.mha(x, x, x, attn_mask=mask, need_weights=False)[0]
        return out if self.batch_first else out.transpose(0, 1)


class Encoder(nn.Module):
    """nn.TransformerEncoder with a causal mask: a decoder, and in evaluation mode a single fused
    kernel per layer."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            D, H, dim_feedforward=3 * D, batch_first=True, norm_first=True
        )
        self.tokens, self.encoder, self.head = (
            nn.Embedding(VOCAB, D),
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(D, VOCAB),
        )

    def forward(self, ids):
        x = self.tokens(ids)
        mask = nn.Transformer.generate_square_subsequent_mask(T)
        note = x
        for layer in self.encoder.layers:
            q, k, _ = F.linear(
                layer.norm1(note), layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias
            ).chunk(3, dim=-1)
            reference(split(q, H), split(k, H))
            note = (
                layer(note, src_mask=mask, is_causal=True)
                if layer is not self.encoder.layers[-1]
                else note
            )
        return self.head(self.encoder(x, mask=mask, is_causal=True))


class AllInOneBlock(nn.Module):
    """Attention and feed-forward beside each other, called in the block itself."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out, self.ffn = (
            nn.LayerNorm(D),
            nn.Linear(D, 3 * D),
            nn.Linear(D, D),
            two_layers(),
        )

    def forward(self, x):
        normed = self.norm(x)
        q, k, v = self.qkv(normed).unflatten(-1, (3, H, -1)).permute(2, 0, 3, 1, 4)
        reference(q, k)
        return x + self.out(merge(by_kernel(q, k, v))) + self.ffn(normed)


class NamedBlocks(nn.Module):
    """Blocks as attributes layer_0, layer_1 instead of a list."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(VOCAB, D), nn.Linear(D, VOCAB)
        self.layer_0, self.layer_1 = (
            Residual(FusedAttention(by_kernel), two_layers()) for _ in range(2)
        )

    def forward(self, ids):
        return self.head(self.layer_1(self.layer_0(self.tokens(ids))))


class Alone(nn.Module):
    """One attention, no block around it."""

    def __init__(self):
        super().__init__()
        self.tokens, self.attn, self.head = (
            nn.Embedding(VOCAB, D),
            FusedAttention(by_kernel),
            nn.Linear(D, VOCAB),
        )

    def forward(self, ids):
        return self.head(self.attn(self.tokens(ids)))


def examine(model, ids=None, **options):
    Notes.patterns = []
    with isolated(model):
        return discover(
            model,
            ids
            if ids is not None
            else torch.randint(VOCAB, (N, T), generator=torch.Generator().manual_seed(1)),
            **options,
        )


def largest_logits(model, structure):
    """Return the largest logits that a second pass of an examined model finds, and those it noted,
    both [row, head of all blocks]."""
    ids = torch.randint(VOCAB, (N, T), generator=torch.Generator().manual_seed(1))
    Notes.largest = []
    found = {}
    with isolated(model):
        attend(model, ids, structure, max_logits=found)
    return torch.cat(list(found.values()), dim=1), torch.cat(Notes.largest, dim=1)


def randomised(make):
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.25)
    return model
