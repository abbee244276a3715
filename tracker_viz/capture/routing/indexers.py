"""See which keys the indexer of sparse attention chooses for every query (DeepSeek-V3.2,
arXiv:2512.02556, section 2.1: a small scorer ranks the keys, and attention is to its top k alone).

Nothing is looked up by name: an indexer is what ranks all tokens of a row for each of them, later
ones masked, and picks the largest. ``RouterWatch`` calls this.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Scores of later tokens are -inf, or far below all others.
_MASKED = -1e4


@dataclass(frozen=True, slots=True)
class KeyChoice:
    """The choice of one indexer.

    Attributes:
        modules: names of the modules that were running, outermost first.
        chosen: bool [probe, query, key], or [probe, head, query, key] where each head has its own;
            causal.
        n_chosen: keys that are chosen for a query that has as many before it.
    """

    modules: tuple[str, ...]
    chosen: Tensor
    n_chosen: int


def chosen_keys(
    modules: tuple[str, ...], ranked: Tensor, indices: Tensor, n_rows: int, length: int
) -> KeyChoice | None:
    """Return what a call of ``topk`` chooses, or None if it does not choose keys for queries.

    Args:
        ranked: [..., query, key], what is ranked.
        indices: int64 [..., query, choice], its largest.
    """
    is_square = ranked.ndim >= 3 and tuple(ranked.shape[-2:]) == (length, length)
    if not is_square or length < 2 or ranked.numel() % (n_rows * length**2):
        return None
    is_later = torch.ones(length, length, dtype=torch.bool, device=ranked.device).triu(1)
    if bool((ranked.detach()[..., is_later] > _MASKED).any()):
        return None
    chosen = torch.zeros_like(ranked, dtype=torch.bool).scatter_(-1, indices.detach(), True)
    # The first queries have fewer keys before them than are chosen: the rest is masked.
    chosen = chosen.tril().reshape(n_rows, -1, length, length)
    if chosen.shape[1] == 1:
        chosen = chosen[:, 0]
    return KeyChoice(modules, chosen, indices.shape[-1])
