"""Watch a small GPT in your own PyTorch training loop, and log to MLflow.

python examples/own_loop.py
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import tracker_viz as tv


class Block(nn.Module):
    """Attention and a feed-forward layer."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.mlp_norm = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.n_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """A decoder of a few blocks."""

    def __init__(
        self,
        vocab_size: int = 128,
        context: int = 64,
        d_model: int = 64,
        n_heads: int = 4,
        n_blocks: int = 2,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(context, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_blocks))
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def main(steps: int = 300) -> None:
    """Train on the bytes of this file, and render the video into the same run."""
    torch.manual_seed(0)
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    text = torch.tensor(list(Path(__file__).read_bytes())) % 128
    # The probe: repeated random tokens, because induction heads only show on repetition, and text.
    probe = tv.make_probe(128, 64, text_ids=text, decode=chr)

    with tv.watch(model, probe=probe, run="mlflow", total_steps=steps) as recorder:
        for step in range(1, steps + 1):
            starts = torch.randint(len(text) - 65, (16,))
            batch = torch.stack([text[start : start + 65] for start in starts])
            loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(step, loss=loss)

    tv.render(recorder)


if __name__ == "__main__":
    main()
