"""A small LLaMA-style decoder in plain PyTorch: RMSNorm, rotary positions, grouped-query attention
and SwiGLU.

Tokens go in, logits come out. Module names are those of LLaMA checkpoints (``q_proj``,
``gate_proj``, ...).

Sources: Touvron et al. 2023 (arXiv:2302.13971) for the block, Ainslie et al. 2023
(arXiv:2305.13245) for grouped queries.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from tracker_viz.errors import ConfigError
from tracker_viz.options import Options


class ModelConfig(Options):
    """The group ``model``: the shape of the decoder. Models with equal configs can exchange
    weights."""

    group_name = "model"

    n_blocks: int = Field(4, ge=1)
    """Decoder blocks."""

    n_heads: int = Field(4, ge=1)
    """Query heads per block."""

    n_kv_heads: Annotated[int, Field(ge=1)] | None = None
    """Key/value heads, each shared by n_heads / n_kv_heads query heads; null: one for every query
    head."""

    d_model: int = Field(128, ge=1)
    """Width of the residual stream."""

    d_ffn: int = Field(352, ge=1)
    """Inner width of the feed-forward layers."""

    context_length: int = Field(64, ge=1)
    """Longest sequence, in tokens."""

    vocab_size: int = Field(257, ge=1)
    """Size of the vocabulary."""

    rope_base: float = Field(10_000.0, gt=0)
    """Wavelength base of the rotary positions: the slowest pair of dimensions turns once in about
    2π * base tokens."""

    tie_embeddings: bool = False
    """Use the embedding matrix as the output projection."""

    init_std: float = Field(0.02, gt=0)
    """Standard deviation of the initial weights; projections back into the residual stream get
    init_std / sqrt(2 n_blocks)."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.d_model % self.n_heads:
            near = [n for n in _divisors(self.d_model) if self.d_model // n % 2 == 0]
            raise ConfigError(
                f"model.d_model={self.d_model} must be a multiple of model.n_heads={self.n_heads}; "
                f"n_heads that fit: {', '.join(map(str, near)) or 'none, choose an even d_model'}"
            )
        if self.head_dim % 2:
            raise ConfigError(
                "rotary positions turn pairs of dimensions, so d_model / n_heads must be even; "
                f"got {self.d_model} / {self.n_heads} = {self.head_dim}: try "
                f"model.d_model={2 * self.d_model}"
            )
        if self.n_heads % self.kv_heads:
            raise ConfigError(
                f"model.n_heads={self.n_heads} must be a multiple of "
                f"model.n_kv_heads={self.kv_heads}; n_kv_heads that fit: "
                f"{', '.join(map(str, _divisors(self.n_heads)))}"
            )
        return self

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads


class Decoder(nn.Module):
    """Embedding, ``n_blocks`` pre-norm blocks, final norm, output projection."""

    rope: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.norm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.register_buffer(
            "rope",
            rotary_table(config.context_length, config.head_dim, config.rope_base),
            persistent=False,
        )
        self._init_weights()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next token at every position.

        Args:
            tokens: int64 [batch, position], position <= context_length.

        Returns:
            float32 [batch, position, vocab_size]
        """
        n_positions = tokens.shape[1]
        if n_positions > self.config.context_length:
            raise ConfigError(
                f"the model has a context of {self.config.context_length} tokens; got {n_positions}"
            )
        stream = self.embed_tokens(tokens)
        rope = self.rope[:, :n_positions]
        for block in self.blocks:
            stream = block(stream, rope)
        logits: Tensor = self.lm_head(self.norm(stream))
        return logits.float()

    def _init_weights(self) -> None:
        std = self.config.init_std
        std_into_residual = std / math.sqrt(2 * self.config.n_blocks)
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                continue
            into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(weight, std=std_into_residual if into_residual else std)


class Block(nn.Module):
    """Compute ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attn_norm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.attn = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.mlp = FeedForward(config)

    def forward(self, stream: Tensor, rope: Tensor) -> Tensor:
        stream = stream + self.attn(self.attn_norm(stream), rope)
        return stream + self.mlp(self.mlp_norm(stream))


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_heads = config.n_heads
        self.kv_heads = config.kv_heads
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.d_model, self.n_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.d_model, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.d_model, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.n_heads * self.head_dim, config.d_model, bias=False)

    def forward(self, stream: Tensor, rope: Tensor) -> Tensor:
        query = rotate(self._heads(self.q_proj(stream)), rope)
        key = rotate(self._heads(self.k_proj(stream)), rope)
        value = self._heads(self.v_proj(stream))
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=self.kv_heads < self.n_heads
        )
        output: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return output

    def _heads(self, projected: Tensor) -> Tensor:
        """Split [batch, position, head * head_dim] into [batch, head, position, head_dim]."""
        return projected.unflatten(2, (-1, self.head_dim)).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU: ``down(silu(gate(x)) * up(x))`` (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, config.d_ffn, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.d_ffn, bias=False)
        self.down_proj = nn.Linear(config.d_ffn, config.d_model, bias=False)

    def forward(self, stream: Tensor) -> Tensor:
        output: Tensor = self.down_proj(F.silu(self.gate_proj(stream)) * self.up_proj(stream))
        return output


def rotary_table(n_positions: int, head_dim: int, base: float) -> Tensor:
    """Return cosine and sine of every position's angles: float32 [2, position, head_dim / 2] (Su et
    al. 2021, arXiv:2104.09864, eq. 15)."""
    frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.outer(torch.arange(n_positions, dtype=torch.float64), frequency)
    return torch.stack([angle.cos(), angle.sin()]).float()


def rotate(heads: Tensor, rope: Tensor) -> Tensor:
    """Rotate each pair (i, i + head_dim/2) of ``heads`` [..., position, head_dim] by the angle of
    its position; lengths stay the same."""
    cos, sin = rope.to(heads.dtype)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
