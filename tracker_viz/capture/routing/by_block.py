"""Sort by block what the routers and indexers of a pass chose, and put it into arrays. Called by
``Camera``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture.discover.model_info import ModelStructure
from tracker_viz.capture.routing.indexers import KeyChoice
from tracker_viz.capture.routing.routers import RouterWatch, Routing

# name, values, names of axes
_Array = tuple[str, Tensor, tuple[str, ...]]


@dataclass(slots=True)
class Choices:
    """Choices of routers and indexers for the tokens of the probe, by number of the block.

    Attributes:
        experts: by the router of a feed-forward mixture.
        heads: by the router of a mixture of attention heads (JetMoE).
        keys: by the indexer of sparse attention.
        left_out: routers that are left out, in words.
    """

    experts: dict[int, Routing] = field(default_factory=dict)
    heads: dict[int, Routing] = field(default_factory=dict)
    keys: dict[int, KeyChoice] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def modules(self) -> list[tuple[str, ...]]:
        """The modules in which each was made, outermost first."""
        routings = (*self.experts.values(), *self.heads.values())
        of_keys = [choice.modules for choice in self.keys.values()]
        return [routing.modules for routing in routings] + of_keys

    def arrays(self, is_kept: Callable[[int], bool]) -> Iterator[_Array]:
        """Yield name, values and axes of what a capture holds of the blocks that ``is_kept(block)``
        says:

        * ``blocks.<i>.mlp.router`` [probe, token, expert]: a router's probabilities;
        * ``blocks.<i>.mlp.router.chosen`` [probe, token, choice]: the experts' numbers;
        * ``blocks.<i>.mlp.router.weight`` [probe, token, choice]: their weights;
        * ``blocks.<i>.attn.router``, ``.chosen``, ``.weight``: the same of a mixture of heads;
        * ``blocks.<i>.attn.indexer`` [probe, query, key], or [probe, head, query, key]: 1 where the
          indexer chose the key for the query, else 0.
        """
        for part, routings in (("mlp", self.experts), ("attn", self.heads)):
            for block in filter(is_kept, routings):
                yield from _router_arrays(f"blocks.{block}.{part}.router", routings[block])
        for block in filter(is_kept, self.keys):
            chosen = self.keys[block].chosen
            axes: tuple[str, ...] = ("probe", "query", "key")
            if chosen.ndim == 4:
                axes = ("probe", "head", "query", "key")
            yield f"blocks.{block}.attn.indexer", chosen.to(torch.float16), axes

    def description(self) -> dict[str, Any]:
        """Return what ``Capture.model`` says of them, JSON-like; empty without any.

        Under ``routers``: ``blocks`` that have one, and of each of them, in this order, the number
        of ``experts``, how many are ``chosen``, and the ``squashing``; ``attention_routers`` the
        same. Under ``indexers``: ``blocks``, and the number of keys ``chosen`` in each.
        """
        described: dict[str, Any] = {}
        if self.experts or self.left_out:
            described["routers"] = _described(self.experts)
        if self.left_out:
            described["routers"]["left_out"] = list(dict.fromkeys(self.left_out))
        if self.heads:
            described["attention_routers"] = _described(self.heads)
        if self.keys:
            n_chosen = [choice.n_chosen for choice in self.keys.values()]
            described["indexers"] = {"blocks": list(self.keys), "chosen": n_chosen}
        return described


def choices_by_block(watch: RouterWatch, structure: ModelStructure) -> Choices:
    """Return what a pass has chosen, the first of its kind in every block."""
    found = Choices()
    for routing in watch.routings():
        block = _block_of(routing.modules, structure)
        where = routing.modules[-1] if routing.modules else "the model itself"
        if block is None:
            found.left_out.append(f"a router in {where}, outside of the blocks")
            continue
        of_heads = _is_of_attention(routing, structure, block)
        routings = found.heads if of_heads else found.experts
        if block in routings:
            found.left_out.append(f"a second router in {where}")
        else:
            routings[block] = routing
    for choice in watch.key_choices:
        block = _block_of(choice.modules, structure)
        if block is not None:
            found.keys.setdefault(block, choice)
    return found


def router_modules(
    model: nn.Module, chosen_in: Iterable[tuple[str, ...]]
) -> list[tuple[str, nn.Module]]:
    """Return the modules to follow in the next pass: those that choices were made in, all around
    them, and all inside the innermost ones, where the product is."""
    chosen_in = list(chosen_in)
    around = {name for modules in chosen_in for name in modules}
    innermost = tuple(f"{modules[-1]}." for modules in chosen_in if modules)
    found = []
    for name, module in model.named_modules():
        if name in around or (name and name.startswith(innermost)):
            found.append((name, module))
    return found


def _router_arrays(name: str, routing: Routing) -> Iterator[_Array]:
    yield name, routing.probabilities, ("probe", "token", "expert")
    yield f"{name}.chosen", routing.chosen.to(torch.float16), ("probe", "token", "choice")
    yield f"{name}.weight", routing.weights, ("probe", "token", "choice")


def _described(routings: Mapping[int, Routing]) -> dict[str, Any]:
    return {
        "blocks": list(routings),
        "experts": [routing.n_experts for routing in routings.values()],
        "chosen": [routing.chosen.shape[-1] for routing in routings.values()],
        "squashing": [routing.squashing for routing in routings.values()],
    }


def _block_of(modules: Sequence[str], structure: ModelStructure) -> int | None:
    for index, name in enumerate(structure.blocks):
        if name in ("", *modules):
            return index
    return None


def _is_of_attention(routing: Routing, structure: ModelStructure, block: int) -> bool:
    """Return whether the router is inside the module that attends."""
    attending = {modules[-1] for modules, _ in structure.sites[block] if modules}
    return bool((attending - {structure.blocks[block]}) & {*routing.modules})
