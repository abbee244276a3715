"""Describe what was found in a model: to a person in one line, in a capture as JSON.

Made by ``blocks.discover``; the ``Camera`` follows it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tracker_viz.capture.attention.kernels.interception import Binding
from tracker_viz.capture.attention.replay import ReplayPlan
from tracker_viz.capture.distributed import wrapped_to_shard
from tracker_viz.capture.weights.adapters import inside_wrapper, kinds
from tracker_viz.capture.weights.gathering import Gatherer
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.notebook import count

# Weights that the line for a person leaves out: single experts, adapters' own matrices.
_BESIDE = re.compile(r"\.(experts|lora_[ab])(\.|$)")

# Names of the modules that ran at a call of attention, and how many calls the innermost of them had
# made before.
Site = tuple[tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class Mixing:
    """Blocks that mix tokens by matrices that are no probabilities, and how to see them again.

    Attributes:
        sites: which calls belong to each block; empty where a block mixes by attention alone.
        channels: of each block, the channels that its maps show; empty where they show heads.
        notes: of each block, what its maps are, in words; empty where there are none.
        bindings: names of Python functions that are asked in each pass.
        unanswered: (module, kernel) of those that are not asked again.
    """

    sites: tuple[tuple[Site, ...], ...] = ()
    channels: tuple[tuple[int, ...], ...] = ()
    notes: tuple[str, ...] = ()
    bindings: tuple[Binding, ...] = ()
    unanswered: frozenset[tuple[str, str]] = frozenset()

    @property
    def blocks(self) -> tuple[int, ...]:
        return tuple(index for index, sites in enumerate(self.sites) if sites)


@dataclass(frozen=True, slots=True)
class ModelStructure:
    """The blocks, heads and projections that were found in a model.

    Attributes:
        blocks: module name of every block, in order.
        sites: which attention calls belong to each block, in the order of its heads; empty where a
            block does not attend.
        n_heads: query heads of every block; 0 where it does not attend.
        n_kv_heads: key/value heads of every block; equal to ``n_heads`` where they are not shared
            or their number is not known.
        error: largest ``|P V - output|`` of any call that could be checked.
        left_out: what looked like attention and could not be shown, in words, each once.
        unnamed: matrices of the blocks that no projection shows, path within a block -> numbers of
            the blocks.
        head_groups: of every block, the process group over which its heads are split, or None.
        watched: names of the modules that were running at any call; the others need not be followed
            again.
        mixing: the token mixers that are no attention.
        replays: modules that are run again with other values inside.
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
    head_groups: tuple[Any, ...] = ()
    unnamed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    mixing: Mixing = field(default_factory=Mixing)
    replays: tuple[ReplayPlan, ...] = ()

    @property
    def d_mlp(self) -> int | None:
        widths = [p.shape[1] for p in self.projections if p.name in ("mlp.w_down", "mlp.w_out")]
        return max(widths, default=None)

    @property
    def without_feed_forward(self) -> tuple[int, ...]:
        """Numbers of the blocks in which no feed-forward weights were found."""
        having = {p.block for p in self.projections if p.name.startswith("mlp.")}
        return tuple(index for index in range(len(self.blocks)) if index not in having)


def describe(structure: ModelStructure, model: nn.Module) -> dict[str, Any]:
    """Return what ``Capture.model`` holds, JSON-like; ``n_heads`` is a list where blocks differ."""
    found = {
        "blocks": list(structure.blocks),
        "attending": [index for index, heads in enumerate(structure.n_heads) if heads],
        "attention": list(structure.sources),
        "projections": dict(Counter(projection.name for projection in structure.projections)),
        "attention_error": structure.error,
    }
    if structure.mixing.blocks:
        mixing = structure.mixing
        found["mixing"] = {str(index): mixing.notes[index] for index in mixing.blocks}
    if structure.left_out:
        found["left_out"] = list(structure.left_out)
    if structure.unnamed:
        found["weights_left_out"] = {
            path: list(blocks) for path, blocks in structure.unnamed.items()
        }
    if structure.without_feed_forward and structure.projections:
        found["without_feed_forward"] = list(structure.without_feed_forward)
    description = {
        "name": model_name(model),
        "n_blocks": len(structure.blocks),
        "n_heads": _one_or_all(structure.n_heads),
        "n_kv_heads": _one_or_all(structure.n_kv_heads),
        "d_model": structure.d_model,
        "d_mlp": structure.d_mlp,
        "n_parameters": Gatherer(model).n_parameters,
        "found": found,
    }
    if adapters := kinds(model):
        description["adapters"] = list(adapters)
    return description


def model_name(model: nn.Module) -> str:
    """Return the class of a model, or of the model inside an adapter's wrapper."""
    model = wrapped_to_shard(model)
    # fully_shard changes the class of what it shards.
    return type(inside_wrapper(model)).__name__.removeprefix("FSDP")


def matrices_of(model: nn.Module, block: str) -> list[str]:
    """Return the names of a block's matrices, within it."""
    parameters = dict(model.get_submodule(block).named_parameters())
    return [name for name in parameters if parameters[name].ndim >= 2]


def summary(description: dict[str, Any]) -> str:
    """Return one line for a person."""
    found = description["found"]
    first, *others = found["blocks"]
    blocks = f"1 block ({first})"
    if others:
        blocks = f"{1 + len(others)} blocks ({first} .. {others[-1].rpartition('.')[2]})"
    n_attending = len(found["attending"])
    if n_attending <= len(others):
        blocks += f" ({n_attending} of them attend)"
    by = found["attention"]
    if "mixing" in found:
        n_mixing = len(found["mixing"])
        by = [*by, f"mixing maps of {count(n_mixing, 'block')}"]
    weights = [name for name in found["projections"] if not _BESIDE.search(name)]
    name = " + ".join([description["name"], *description.get("adapters", ())])
    line = (
        f"{name}: {blocks}, {_heads_in_words(description['n_heads'], 'head')}, "
        f"{_heads_in_words(description['n_kv_heads'], 'key/value head')}, attention by "
        f"{' and '.join(by)}; weights: {', '.join(weights) or 'none'}"
    )
    if "routers" in description:
        line += _routers(description["routers"], "experts")
    if "attention_routers" in description:
        line += _routers(description["attention_routers"], "attention experts")
    if "indexers" in description:
        line += _indexers(description["indexers"])
    if "left_out" in found:
        line += f"; left out: {first_of(found['left_out'])}"
    n_blocks = len(found["blocks"])
    if "weights_left_out" in found:
        line += f"; weights left out: {_unnamed_in_words(found['weights_left_out'], n_blocks)}"
    if "without_feed_forward" in found:
        where = _blocks_in_words(found["without_feed_forward"], n_blocks)
        line += f"; no feed-forward weights in {where}"
    if "missing_signals" in description:
        line += f"; not measured: {'; '.join(description['missing_signals'])}"
    return line


def _heads_in_words(n_heads: int | list[int], noun: str) -> str:
    """Return how many heads each block has; a list is that of blocks that differ."""
    return count(n_heads, noun) if isinstance(n_heads, int) else f"{n_heads} {noun}s"


def _routers(described: dict[str, Any], experts: str) -> str:
    parts = []
    kinds = zip(described["experts"], described["chosen"], described["squashing"], strict=True)
    for (n_experts, n_chosen, squashing), n_blocks in Counter(kinds).items():
        blocks = "1 block" if n_blocks == 1 else f"{n_blocks} blocks"
        parts.append(
            f"; {blocks} of {n_experts} {experts}, {n_chosen} for each token, routed by {squashing}"
        )
    if "left_out" in described:
        parts.append(f"; left out: {first_of(described['left_out'])}")
    return "".join(parts)


def _indexers(described: dict[str, Any]) -> str:
    parts = []
    for n_chosen, n_blocks in Counter(described["chosen"]).items():
        attend = "1 block attends" if n_blocks == 1 else f"{n_blocks} blocks attend"
        parts.append(f"; {attend} to at most {n_chosen} keys, chosen by an indexer")
    return "".join(parts)


def _unnamed_in_words(paths: Mapping[str, Sequence[int]], n_blocks: int) -> str:
    """Return the paths, together where they are of the same blocks."""
    by_blocks: dict[tuple[int, ...], list[str]] = {}
    for path, blocks in paths.items():
        by_blocks.setdefault(tuple(blocks), []).append(path)
    parts = []
    for blocks, of_these in by_blocks.items():
        parts.append(f"{', '.join(of_these)} in {_blocks_in_words(blocks, n_blocks)}")
    return "; ".join(parts)


def _blocks_in_words(blocks: Sequence[int], n_blocks: int) -> str:
    if len(blocks) == n_blocks:
        return "every block"
    if len(blocks) == 1:
        return f"block {blocks[0]}"
    shown = ", ".join(map(str, blocks[:8]))
    if len(blocks) > 8:
        shown += f" and {len(blocks) - 8} more"
    return f"blocks {shown}"


def first_of(left_out: Sequence[str]) -> str:
    """Return the first three, and how many follow."""
    parts = list(left_out[:3])
    if len(left_out) > 3:
        parts.append(f"and {len(left_out) - 3} more")
    return "; ".join(parts)


def _one_or_all(counts: Sequence[int]) -> int | list[int]:
    return counts[0] if len(set(counts)) == 1 else list(counts)
