"""A small LLaMA-style decoder in plain PyTorch: RMSNorm, rotary positions, grouped-query attention,
SwiGLU.

Tokens go in, logits come out. Module names follow the LLaMA checkpoints that everybody knows
(``q_proj``, ``gate_proj``, ...).

Sources: Touvron et al. 2023 (arXiv:2302.13971) for the block, Ainslie et al. 2023
(arXiv:2305.13245) for grouped queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_viz.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the decoder. Two configs with equal fields make models that can exchange their
    weights.

    Attributes:
        context_length: longest sequence, in tokens.
        n_kv_heads: key/value heads, each shared by ``n_heads / n_kv_heads`` query heads; None: one
            for every query head.
        d_ffn: inner width of the feed-forward layers.
        rope_base: wavelength base of the rotary positions; the slowest pair of dimensions turns
            once in about 2π * base tokens.
        tie_embeddings: use the embedding matrix for the output projection too.
        init_std: standard deviation of the initial weights; projections back into the residual
            stream get ``init_std / sqrt(2 n_blocks)``.
    """

    n_blocks: int = 4
    n_heads: int = 4
    n_kv_heads: int | None = None
    d_model: int = 128
    d_ffn: int = 352
    context_length: int = 64
    vocab_size: int = 257
    rope_base: float = 10_000.0
    tie_embeddings: bool = False
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for name in (
            "n_blocks",
            "n_heads",
            "d_model",
            "d_ffn",
            "context_length",
            "vocab_size",
            "rope_base",
            "init_std",
        ):
            if not getattr(self, name) > 0:
                raise ConfigError(f"model.{name} must be greater than 0; got {getattr(self, name)}")
        if self.n_kv_heads is not None and self.n_kv_heads <= 0:
            raise ConfigError(
                "model.n_kv_heads must be greater than 0, or null for one per query head; got "
                f"{self.n_kv_heads}"
            )
        if self.d_model % self.n_heads:
            near = [n for n in _divisors(self.d_model) if self.d_model // n % 2 == 0]
            raise ConfigError(
                f"model.d_model={self.d_model} must be a multiple of model.n_heads={self.n_heads}; "
                f"n_heads that fit: {', '.join(map(str, near)) or 'none, choose an even d_model'}"
            )
        if self.head_dim % 2:
            raise ConfigError(
                "rotary positions turn pairs of dimensions, so d_model / n_heads must be even; "
                f"got {self.d_model} / {self.n_heads} "
                f"= {self.head_dim}: try model.d_model={2 * self.d_model}"
            )
        if self.n_heads % self.kv_heads:
            raise ConfigError(
                f"model.n_heads={self.n_heads} must be a multiple of "
                f"model.n_kv_heads={self.kv_heads}; "
                f"n_kv_heads that fit: {', '.join(map(str, _divisors(self.n_heads)))}"
            )

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
        """Logits of the next token at every position.

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
        config = self.config
        into_residual = config.init_std / math.sqrt(2 * config.n_blocks)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                std = (
                    into_residual
                    if name.endswith(("o_proj.weight", "down_proj.weight"))
                    else config.init_std
                )
                nn.init.normal_(weight, std=std)


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``."""

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
        self.n_heads, self.kv_heads, self.head_dim = (
            config.n_heads,
            config.kv_heads,
            config.head_dim,
        )
        self.q_proj = nn.Linear(config.d_model, self.n_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.d_model, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.d_model, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.n_heads * self.head_dim, config.d_model, bias=False)

    def forward(self, stream: Tensor, rope: Tensor) -> Tensor:
        batch, n_positions, _ = stream.shape
        query, key, value = (
            projection(stream)
            .view(batch, n_positions, heads, self.head_dim)
            .transpose(1, 2)  # [batch, head, position, head_dim]
            for projection, heads in (
                (self.q_proj, self.n_heads),
                (self.k_proj, self.kv_heads),
                (self.v_proj, self.kv_heads),
            )
        )
        mixed = F.scaled_dot_product_attention(
            rotate(query, rope),
            rotate(key, rope),
            value,
            is_causal=True,
            enable_gqa=self.kv_heads < self.n_heads,
        )
        output: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, n_positions, -1))
        return output


class FeedForward(nn.Module):
    """SwiGLU, ``down(silu(gate(x)) * up(x))`` (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, config.d_ffn, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.d_ffn, bias=False)
        self.down_proj = nn.Linear(config.d_ffn, config.d_model, bias=False)

    def forward(self, stream: Tensor) -> Tensor:
        output: Tensor = self.down_proj(F.silu(self.gate_proj(stream)) * self.up_proj(stream))
        return output


def rotary_table(n_positions: int, head_dim: int, base: float) -> Tensor:
    """Cosine and sine of every position's angles: float32 [2, position, head_dim / 2] (Su et al.
    2021, arXiv:2104.09864, eq. 15)."""
    frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.outer(torch.arange(n_positions, dtype=torch.float64), frequency)
    return torch.stack([angle.cos(), angle.sin()]).float()


def rotate(heads: Tensor, rope: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim/2) of ``heads`` [..., position, head_dim] by its position's
    angle; lengths are kept."""
    cos, sin = rope.to(heads.dtype)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
