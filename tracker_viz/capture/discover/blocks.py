"""Find a model's ``ModelStructure`` by one watched pass of a probe: its decoder blocks, where each
attends, and its projections.

Called once by the Recorder, before training (and again if the model changes). Nothing is looked up
by model name: blocks are the numbered modules in which attention was seen, and parameters are named
by their use in the pass (``naming``).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture.attention.calls import AttentionCall, ModuleStack
from tracker_viz.capture.attention.kernels.interception import Binding, find_bindings, intercepted
from tracker_viz.capture.attention.watch import AttentionWatch, Logits
from tracker_viz.capture.discover.adapters import adapter_projections
from tracker_viz.capture.discover.block_calls import (
    all_heads,
    by_site,
    callers_within,
    heads_of,
    maps_of,
    max_logit_of,
    n_kv_heads_of,
    stored,
)
from tracker_viz.capture.discover.block_names import Block
from tracker_viz.capture.discover.look import Seen, look
from tracker_viz.capture.discover.mixers import mixing_of
from tracker_viz.capture.discover.model_info import ModelStructure, Site
from tracker_viz.capture.discover.naming.projections import find_projections, unnamed_matrices
from tracker_viz.capture.discover.replays import replaying
from tracker_viz.capture.discover.row_loop import RowLoop
from tracker_viz.capture.discover.tensor_parallel import group_of_heads
from tracker_viz.capture.isolation import Forward, default_forward
from tracker_viz.capture.tracing.parameter_trace import ParameterTrace
from tracker_viz.capture.weights.gathering import Gatherer
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.errors import CaptureError, ConfigError


def discover(
    model: nn.Module,
    input_ids: Tensor,
    *,
    forward: Forward = default_forward,
    blocks: str | Sequence[str] | None = None,
    projections: Mapping[str, str] | None = None,
    max_experts: int = 4,
    dtype: torch.dtype = torch.float32,
    mixing: dict[int, Tensor] | None = None,
) -> tuple[ModelStructure, list[Tensor]]:
    """Run the probe once, inside ``isolated``, and return what was seen.

    Args:
        input_ids: int64 [probe, position], on the model's device.
        dtype: of the attention that is returned; it is computed in float32.
        blocks: names of the modules that are the decoder's blocks, or a pattern such as
            ``decoder.layers.*``; found automatically if None.
        projections: where each is, by hand: its name -> its parameter's name within a block; found
            by themselves if None.
        mixing: filled with the mixing maps: block -> float32 [probe, head or channel, query, key].

    Returns:
        The structure, and the attention of every block, float [probe, head, query, key] (an empty
        tensor where it does not attend).

    Raises:
        UnsupportedModelError: no attention was seen; says where to look.
        ProbeError: the pass failed on the probe.
    """
    evidence = ParameterTrace(input_ids.shape[0], input_ids.shape[1], dict(model.named_modules()))
    bindings = find_bindings(model)
    seen = look(model, input_ids, forward, blocks, evidence, bindings, dtype)
    attention = seen.attention
    if not any(attention) and not any(seen.mixing):
        raise ConfigError(
            f"none of the blocks {[block.name for block in seen.blocks]} has attention; attention "
            f"was found in {sorted({call.module for call in seen.calls})}"
        )

    found = _Found(_width(seen), evidence)
    gatherer = Gatherer(model)
    for index, block in enumerate(seen.blocks):
        with gatherer.of_modules([block.name, *block.beside]):
            attention[index] = _search_block(
                model, block, attention[index], found, named=projections, max_experts=max_experts
            )

    if mixing is not None:
        mixing.update(maps_of(seen.mixing))
    structure = _structure_of(model, seen, found, bindings)
    return structure, [heads_of(calls) for calls in attention]


@dataclass(slots=True)
class _Found:
    """Findings of the blocks that were searched so far.

    Attributes:
        d_model, evidence: of the model and its pass.
        n_heads, n_kv_heads, head_groups: one of each block.
        projections: of all blocks, with the matrices of their adapters.
        unnamed: path of a matrix that has no name within its block -> numbers of the blocks.
    """

    d_model: int
    evidence: ParameterTrace
    n_heads: list[int] = field(default_factory=list)
    n_kv_heads: list[int] = field(default_factory=list)
    head_groups: list[Any] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    unnamed: dict[str, list[int]] = field(default_factory=dict)


def _search_block(
    model: nn.Module,
    block: Block,
    calls: Sequence[AttentionCall],
    found: _Found,
    *,
    named: Mapping[str, str] | None,
    max_experts: int,
) -> list[AttentionCall]:
    """Add the next block's findings to ``found``; return its calls with the heads of all
    processes."""
    index = len(found.n_heads)
    within = callers_within(block.name, calls)
    heads_over = group_of_heads(found.evidence.origins, block.name, within)
    whole_calls = all_heads(calls, heads_over)
    modules = _modules_of(model, block)
    of_block = find_projections(
        modules,
        index=index,
        prefix=block.name,
        attention=within,
        attends=bool(whole_calls),
        d_model=found.d_model,
        evidence=found.evidence,
        max_experts=max_experts,
        named=named,
    )
    n_heads = sum(call.pattern.shape[1] for call in whole_calls)
    found.n_heads.append(n_heads)
    found.n_kv_heads.append(n_kv_heads_of(whole_calls, n_heads, of_block))
    found.head_groups.append(heads_over)
    found.projections += [*of_block, *adapter_projections(model, of_block)]

    unnamed = unnamed_matrices(
        modules,
        prefix=block.name,
        d_model=found.d_model,
        evidence=found.evidence,
        found=of_block,
    )
    for path in unnamed:
        found.unnamed.setdefault(path, []).append(index)
    return whole_calls


def _structure_of(
    model: nn.Module, seen: Seen, found: _Found, bindings: Sequence[Binding]
) -> ModelStructure:
    vocabulary = seen.watch.vocabulary
    if seen.replays and seen.watch.n_as_wide_as_logits > 1:
        # One of them may be of a mixer, whose place among them is not known.
        vocabulary = None
    attending = list(itertools.chain(*seen.attention))
    errors = [call.error for call in seen.calls if call.error is not None]
    return ModelStructure(
        blocks=tuple(block.name for block in seen.blocks),
        sites=tuple(tuple(call.site for call in calls) for calls in seen.attention),
        n_heads=tuple(found.n_heads),
        n_kv_heads=tuple(found.n_kv_heads),
        d_model=found.d_model,
        projections=tuple(found.projections),
        sources=tuple(sorted({call.source for call in attending})),
        error=max(errors, default=None),
        watched=frozenset(itertools.chain(*(call.modules for call in seen.calls))),
        vocabulary=vocabulary,
        left_out=tuple(dict.fromkeys(seen.watch.rejected)),
        head_groups=tuple(found.head_groups),
        unnamed={path: tuple(indices) for path, indices in found.unnamed.items()},
        mixing=mixing_of(model, seen.mixing, seen.watch, bindings),
        replays=tuple(seen.replays),
    )


def attend(
    model: nn.Module,
    input_ids: Tensor,
    structure: ModelStructure,
    *,
    forward: Forward = default_forward,
    dtype: torch.dtype = torch.float32,
    mixing: dict[int, Tensor] | None = None,
    logits: Logits | None = None,
    max_logits: dict[int, Tensor] | None = None,
) -> list[Tensor]:
    """Run the probe again, inside ``isolated``; return the attention of every block, and fill
    ``mixing``, as ``discover`` did.

    Args:
        max_logits: filled with the largest attention logits: block -> float32 [probe, head], NaN
            where a head's are not known.
        logits: computes those that are read (see ``AttentionWatch``); None: nobody reads any.

    Raises:
        CaptureError: the calls are not those that were discovered: the model was changed.
    """
    mixing_sites = structure.mixing.sites if mixing is not None else ()
    sites = set(itertools.chain(*structure.sites, *mixing_sites))
    seen = _seen_again(
        model, input_ids, structure, sites, forward=forward, dtype=dtype, logits=logits
    )
    if mixing is not None:
        mixing.update(maps_of([[seen[site] for site in of_block] for of_block in mixing_sites]))
    attention = []
    for block, of_block in enumerate(structure.sites):
        calls = all_heads([seen[site] for site in of_block], structure.head_groups[block])
        attention.append(heads_of(calls))
        if calls and max_logits is not None:
            max_logits[block] = torch.cat([max_logit_of(call) for call in calls], dim=1)
    return attention


def _seen_again(
    model: nn.Module,
    input_ids: Tensor,
    structure: ModelStructure,
    sites: set[Site],
    *,
    forward: Forward,
    dtype: torch.dtype,
    logits: Logits | None,
) -> dict[Site, AttentionCall]:
    """Run the probe, and return the call of every site.

    Raises:
        CaptureError: there was none at one of them.
    """
    kept: list[AttentionCall] = []

    def keep(call: AttentionCall) -> None:
        if call.site in sites:
            kept.append(stored(call, dtype))

    stack = ModuleStack()
    watch = AttentionWatch(
        stack,
        input_ids.shape,
        keep,
        vocabulary=structure.vocabulary,
        logits=logits,
        unanswered=structure.mixing.unanswered,
    )
    loop = RowLoop(input_ids.shape, watch.begin_rows)
    modules = dict(model.named_modules())
    followed = [(name, modules[name]) for name in modules if name in structure.watched]
    kernels = intercepted(structure.mixing.bindings, watch.asker.call_function)
    running = Gatherer(model).while_running()
    # Before the stack, so that a module is still on it when it is asked.
    replays = replaying(
        model, structure.replays, stack, lambda: watch.shape, watch.asker.aside, keep
    )
    with replays, stack.following(followed), loop.following(model), kernels, running, watch:
        forward(model, input_ids)
    loop.check()
    seen = by_site(kept)
    missing = sites - set(seen)
    if missing:
        where = {modules[-1] if modules else "the model itself" for modules, _ in missing}
        raise CaptureError(f"no attention was seen this time in {', '.join(sorted(where))}")
    return seen


def _width(seen: Seen) -> int:
    """Return the width of the residual stream: of what the first block returns; of what its
    attention returns, where the block is a container and never runs; of the embedding."""
    for block, calls in zip(seen.blocks, seen.attention, strict=True):
        if block.name in seen.widths and block.name:
            return seen.widths[block.name]
        for call in calls:
            inside = block.first_inside(call.modules)
            if inside is not None and inside in seen.widths:
                return seen.widths[inside]
    return seen.widths[""]


def _modules_of(model: nn.Module, block: Block) -> dict[str, nn.Module]:
    """Return the block's module, and those beside it, by name in the model."""
    return {name: model.get_submodule(name) for name in (block.name, *block.beside)}
