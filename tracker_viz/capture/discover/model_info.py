"""What was found in a model, and how that is said: to a person in one line, to whoever reads a
capture as JSON.

Made by ``blocks.discover``; the ``Camera`` follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tracker_viz.capture.weights import Projection

# Names of the modules that ran at a call of attention, and how many calls the innermost of them had
# made before.
Site = tuple[tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class ModelStructure:
    """What was found in a model.

    Attributes:
        blocks: module name of every block, in order.
        sites: which attention calls belong to each block, in the order of its heads; empty where a
            block does not attend.
        n_heads: query heads of every block; 0 where it does not attend.
        n_kv_heads: key/value heads of every block; equal to ``n_heads`` where they are not shared
            or could not be told.
        error: largest ``|P V - output|`` of any call that could be checked.
        left_out: what looked like attention and could not be shown, in words, each once.
        watched: names of the modules that were running at any call; the others need not be followed
            again.
        vocabulary: number of tokens, where a projection to as many outputs can be left out (see
            ``AttentionWatch``).
    """

    blocks: tuple[str, ...]
    sites: tuple[tuple[Site, ...], ...]
    n_heads: tuple[int, ...]
    n_kv_heads: tuple[int, ...]
    d_model: int
    projections: tuple[Projection, ...]
    sources: tuple[str, ...]
    error: float | None
    watched: frozenset[str]
    vocabulary: int | None = None
    left_out: tuple[str, ...] = ()

    @property
    def d_mlp(self) -> int | None:
        widths = [p.shape[1] for p in self.projections if p.name in ("mlp.w_down", "mlp.w_out")]
        return max(widths, default=None)


def describe(anatomy: ModelStructure, model: nn.Module) -> dict[str, Any]:
    """JSON-like, as ``Capture.model`` holds it; ``n_heads`` is a list where blocks differ."""
    attending = [index for index, heads in enumerate(anatomy.n_heads) if heads]
    kinds: dict[str, int] = {}
    for projection in anatomy.projections:
        kinds[projection.name] = kinds.get(projection.name, 0) + 1
    return {
        "name": type(model).__name__.removeprefix(
            "FSDP"
        ),  # fully_shard changes the class of what it shards
        "n_blocks": len(anatomy.blocks),
        "n_heads": _one_or_all(anatomy.n_heads),
        "n_kv_heads": _one_or_all(anatomy.n_kv_heads),
        "d_model": anatomy.d_model,
        "d_mlp": anatomy.d_mlp,
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "found": {
            "blocks": list(anatomy.blocks),
            "attending": attending,
            "attention": list(anatomy.sources),
            "projections": kinds,
            "attention_error": anatomy.error,
            **({"left_out": list(anatomy.left_out)} if anatomy.left_out else {}),
        },
    }


def matrices_of(model: nn.Module, block: str) -> list[str]:
    """Names of a block's matrices, within it."""
    return [
        name
        for name, parameter in model.get_submodule(block).named_parameters()
        if parameter.ndim >= 2
    ]


def summary(description: dict[str, Any]) -> str:
    """One line for a person."""
    found = description["found"]
    blocks = found["blocks"]
    where = blocks[0] if len(blocks) == 1 else f"{blocks[0]} .. {blocks[-1].rpartition('.')[2]}"
    attending = (
        ""
        if len(found["attending"]) == len(blocks)
        else f" ({len(found['attending'])} of them attend)"
    )
    projections = (
        ", ".join(name for name in found["projections"] if ".experts." not in name) or "none"
    )
    left_out = f"; left out: {first_of(found['left_out'])}" if "left_out" in found else ""
    return (
        f"{description['name']}: {len(blocks)} blocks ({where}){attending}, "
        f"{description['n_heads']} heads, "
        f"{description['n_kv_heads']} key/value heads, attention by "
        f"{' and '.join(found['attention'])}; weights: {projections}{left_out}"
    )


def first_of(left_out: Sequence[str]) -> str:
    return "; ".join(left_out[:3]) + (
        f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    )


def _one_or_all(counts: Sequence[int]) -> int | list[int]:
    return counts[0] if len(set(counts)) == 1 else list(counts)
