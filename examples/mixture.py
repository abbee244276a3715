"""Watch a small mixture of experts in plain PyTorch: which tokens each expert gets.

python examples/mixture.py
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import tracker_viz as tv

N_EXPERTS, N_CHOSEN = 8, 2


class Mixture(nn.Module):
    """A feed-forward layer of experts; each token goes through the two that the router prefers."""

    def __init__(self, d_model: int, d_expert: int) -> None:
        super().__init__()
        self.router = nn.Linear(d_model, N_EXPERTS, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(d_model, d_expert), nn.GELU(), nn.Linear(d_expert, d_model))
            for _ in range(N_EXPERTS)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(0, 1)
        probabilities = F.softmax(self.router(tokens), dim=-1)
        weights, chosen = probabilities.topk(N_CHOSEN, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)

        mixed = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            token, place = torch.where(chosen == index)
            mixed = mixed.index_add(0, token, weights[token, place, None] * expert(tokens[token]))

        # The loss of the Switch Transformer: lowest if all experts get equally many tokens.
        load = F.one_hot(chosen, N_EXPERTS).float().mean((0, 1))
        self.imbalance = N_EXPERTS * (load * probabilities.mean(0)).sum()
        return mixed.view_as(x)


class Block(nn.Module):
    """Attention and a mixture of experts."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.mixture_norm = nn.LayerNorm(d_model)
        self.mixture = Mixture(d_model, 2 * d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.n_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        return x + self.mixture(self.mixture_norm(x))


class GPT(nn.Module):
    """A decoder of three blocks."""

    def __init__(self, vocab_size: int = 128, context: int = 64, d_model: int = 64) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(context, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads=4) for _ in range(3))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def main(steps: int = 400) -> None:
    """Train on the bytes of this file, and render the video into the same run."""
    torch.manual_seed(0)
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    text = torch.tensor(list(Path(__file__).read_bytes())) % 128
    # The probe: repeated random tokens, and this text. Experts may get more of one kind.
    probe = tv.make_probe(128, 64, text_ids=text[-600:], decode=chr)

    with tv.watch(model, probe=probe, run="mlflow", total_steps=steps) as recorder:
        for step in range(1, steps + 1):
            starts = torch.randint(len(text) - 65, (16,))
            batch = torch.stack([text[start : start + 65] for start in starts])
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            imbalance = sum(block.mixture.imbalance for block in model.blocks)
            optimizer.zero_grad()
            (loss + 0.01 * imbalance).backward()
            optimizer.step()
            recorder.step(step, loss=loss)

    tv.render(recorder, layout="experts")


if __name__ == "__main__":
    main()
