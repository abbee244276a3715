"""Two blocks of attention whose weights are written by hand, so that it is known what each head
does.

The stream holds four one-hot parts: the token, its position, the token before it, and what comes
next. L00H01 looks one token back and writes that token into the third part. L01H00 and L01H02 look
for places whose token before is the present one, and write their token into the fourth, from which
the logits are read: the induction of Elhage et al. 2021. Both do the same, so that one may be
missing. All other heads are small and random.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

VOCAB, LENGTH, N_HEADS, D_HEAD = 24, 32, 4, 32
TOKEN, POSITION = slice(0, VOCAB), slice(VOCAB, VOCAB + LENGTH)
BEFORE = slice(POSITION.stop, POSITION.stop + VOCAB)
NEXT = slice(BEFORE.stop, BEFORE.stop + VOCAB)
D_MODEL = NEXT.stop

PREVIOUS_TOKEN, INDUCTION = (0, 1), ((1, 0), (1, 2))
SHARPNESS = 15.0
LAST_STEP = 10  # of the training that the tests record


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        width = N_HEADS * D_HEAD
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(D_MODEL, width, bias=False) for _ in range(3)
        )
        self.o_proj = nn.Linear(width, D_MODEL, bias=False)

    def forward(self, stream):
        query, key, value = (
            projection(stream).unflatten(-1, (N_HEADS, D_HEAD)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention()

    def forward(self, stream):
        return stream + self.attn(stream)


class InductionModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, D_MODEL)
        self.positions = nn.Embedding(LENGTH, D_MODEL)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(D_MODEL, VOCAB, bias=False)

    def forward(self, ids):
        stream = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            stream = block(stream)
        return self.head(stream)


def build(trained: bool = True, seed: int = 0) -> InductionModel:
    """Return the model; ``trained=False`` leaves every weight small and random."""
    model = InductionModel()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
        if trained:
            _write_weights(model)
    return model


def _write_weights(model: InductionModel) -> None:
    one_hot = torch.eye(D_MODEL)
    model.tokens.weight.copy_(one_hot[TOKEN])
    model.positions.weight.copy_(one_hot[POSITION])
    model.head.weight.copy_(10 * one_hot[NEXT])

    block, head = PREVIOUS_TOKEN
    attention = model.blocks[block].attn
    # The query of position i is the key of position i - 1.
    _write(attention.q_proj, head, SHARPNESS * one_hot[POSITION].roll(-1, dims=0))
    _write(attention.k_proj, head, SHARPNESS * one_hot[POSITION])
    _write(attention.v_proj, head, one_hot[TOKEN])
    _read(attention.o_proj, head, one_hot[BEFORE])

    for block, head in INDUCTION:
        attention = model.blocks[block].attn
        _write(attention.q_proj, head, SHARPNESS * one_hot[TOKEN])
        _write(attention.k_proj, head, SHARPNESS * one_hot[BEFORE])
        _write(attention.v_proj, head, one_hot[TOKEN])
        _read(attention.o_proj, head, one_hot[NEXT])


def _write(projection: nn.Linear, head: int, rows: torch.Tensor) -> None:
    own = projection.weight[head * D_HEAD : (head + 1) * D_HEAD]
    own.zero_()
    own[: len(rows)] = rows


def _read(projection: nn.Linear, head: int, rows: torch.Tensor) -> None:
    own = projection.weight[:, head * D_HEAD : (head + 1) * D_HEAD]
    own.zero_()
    own[:, : len(rows)] = rows.T
