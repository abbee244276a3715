"""Find a model's ``ModelStructure`` by one watched pass of a probe: its decoder blocks, where each
attends, and its projections.

Called once by the Recorder, before training (and again if the model changes). Nothing is looked up
by model name: blocks are the numbered modules in which attention was seen to happen, and parameters
are told apart by name and shape.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture.attention.calls import AttentionCall, ModuleStack
from tracker_viz.capture.attention.interception import Binding, find_bindings, intercepted
from tracker_viz.capture.attention.replay import ReplayPlan
from tracker_viz.capture.attention.watch import AttentionWatch, Logits
from tracker_viz.capture.discover.adapters import adapter_projections
from tracker_viz.capture.discover.block_calls import (
    all_heads,
    all_rows,
    callers_within,
    calls_by_block,
    heads_of,
    looking_back,
    maps_of,
    max_logit_of,
    n_kv_heads_of,
    stored,
)
from tracker_viz.capture.discover.block_names import Block, found_blocks, named_blocks
from tracker_viz.capture.discover.mixers import add_by_kind, dark_blocks, mixing_of, split_by_kind
from tracker_viz.capture.discover.model_info import ModelStructure, Site, first_of
from tracker_viz.capture.discover.projections import find_projections, unnamed_matrices
from tracker_viz.capture.discover.replays import find_replays, replaying
from tracker_viz.capture.discover.row_loop import RowLoop
from tracker_viz.capture.discover.tensor_parallel import group_of_heads
from tracker_viz.capture.isolation import Forward, default_forward
from tracker_viz.capture.tracing.parameter_trace import ParameterTrace
from tracker_viz.capture.weights.adapters import virtual_tokens
from tracker_viz.capture.weights.gathering import Gatherer
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.capture.weights.stored import names_of_outputs
from tracker_viz.errors import CaptureError, ConfigError, ProbeError, UnsupportedModelError

_SURELY_ATTENTION = re.compile(
    r"(self_?|linear_?)?(attn|attention|mixer|mamba|rwkv)", re.IGNORECASE
)
# Attention is kept whole until it is scored, on the device and then in memory: a probe that needs
# more than this is refused.
MAX_ATTENTION_BYTES = 2 << 30


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
        dtype: of the attention that is returned; it is worked out in float32.
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
    calls, watch, widths = _watched_pass(model, input_ids, forward, evidence, dtype, bindings)
    rejected = watch.rejected
    replays: list[ReplayPlan] = []
    if not calls:
        calls, replays = _replayed(model, input_ids, forward, None, dtype, watch)
    if not calls:
        raise UnsupportedModelError(_nothing_seen(model, rejected))
    calls = looking_back(calls, rejected)
    if blocks is None:
        chosen = found_blocks(model, [call.modules for call in calls])
    else:
        chosen = named_blocks(model, blocks, [call.modules for call in calls])
    names = [block.name for block in chosen]
    per_block, elsewhere = calls_by_block(calls, chosen)
    per_block, mixing_calls, unclear = split_by_kind(per_block)
    dark = dark_blocks(chosen, per_block, mixing_calls)
    if dark and not replays:
        further, replays = _replayed(model, input_ids, forward, dark, dtype, watch, unclear)
        calls += further
        further_blocks, _ = calls_by_block(further, chosen)
        add_by_kind(further_blocks, per_block, mixing_calls)
    seen_again = {plan.module for plan in replays}
    rejected += [why for module, why in unclear.items() if module not in seen_again]
    if not any(per_block) and not any(mixing_calls):
        raise ConfigError(
            f"none of the blocks {names} has attention; attention was found in "
            f"{sorted({call.module for call in calls})}"
        )
    if blocks is None:
        for call in elsewhere:
            where = call.module or "the model itself"
            rejected.append(f"attention in {where}, outside of these blocks")

    d_model = _width(chosen, per_block, widths)
    found = _Found(d_model, evidence)
    gatherer = Gatherer(model)
    for index, block in enumerate(chosen):
        with gatherer.of_modules([block.name, *block.beside]):
            per_block[index] = _search_block(
                model, block, per_block[index], found, named=projections, max_experts=max_experts
            )

    vocabulary = watch.vocabulary
    if replays and watch.n_as_wide_as_logits > 1:
        # One of them may be of a mixer, whose place among them is not known.
        vocabulary = None
    attending = list(itertools.chain(*per_block))
    errors = [call.error for call in calls if call.error is not None]
    structure = ModelStructure(
        blocks=tuple(names),
        sites=tuple(tuple(call.site for call in block_calls) for block_calls in per_block),
        n_heads=tuple(found.n_heads),
        n_kv_heads=tuple(found.n_kv_heads),
        d_model=d_model,
        projections=tuple(found.projections),
        sources=tuple(sorted({call.source for call in attending})),
        error=max(errors, default=None),
        watched=frozenset(itertools.chain(*(call.modules for call in calls))),
        vocabulary=vocabulary,
        left_out=tuple(dict.fromkeys(rejected)),
        head_groups=tuple(found.head_groups),
        unnamed={path: tuple(indices) for path, indices in found.unnamed.items()},
        mixing=mixing_of(model, mixing_calls, watch, bindings),
        replays=tuple(replays),
    )
    if mixing is not None:
        mixing.update(maps_of(mixing_calls))
    return structure, [heads_of(block_calls) for block_calls in per_block]


def _replayed(
    model: nn.Module,
    input_ids: Tensor,
    forward: Forward,
    blocks: Sequence[str] | None,
    dtype: torch.dtype,
    watch: AttentionWatch,
    unclear: Collection[str] = (),
) -> tuple[list[AttentionCall], list[ReplayPlan]]:
    """Look again at blocks in which nothing was seen; at the whole model if None.

    Args:
        watch: of the first look; gets a sentence about each module that mixes tokens, and of which
            nothing is said yet.
        unclear: modules of which something will be said.
    """
    plans, calls, refused = find_replays(model, input_ids, forward, blocks)
    known = {module for module, _ in watch.asker.unanswered} | {*unclear}
    watch.rejected += [why for module, why in refused.items() if module not in known]
    by_site: dict[Site, list[AttentionCall]] = {}
    for call in calls:
        by_site.setdefault(call.site, []).append(stored(call, dtype))
    return [all_rows(of_site) for of_site in by_site.values()], plans


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
    expected = set(itertools.chain(*structure.sites, *mixing_sites))
    seen: dict[Site, list[AttentionCall]] = {}

    def keep(call: AttentionCall) -> None:
        if call.site in expected:
            seen.setdefault(call.site, []).append(stored(call, dtype))

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
    missing = expected - set(seen)
    if missing:
        where = {modules[-1] if modules else "the model itself" for modules, _ in missing}
        raise CaptureError(f"no attention was seen this time in {', '.join(sorted(where))}")
    whole = {site: all_rows(parts) for site, parts in seen.items()}
    if mixing is not None:
        mixing.update(maps_of([[whole[site] for site in sites] for sites in mixing_sites]))
    attention = []
    for block, sites in enumerate(structure.sites):
        calls = all_heads([whole[site] for site in sites], structure.head_groups[block])
        attention.append(heads_of(calls))
        if calls and max_logits is not None:
            max_logits[block] = torch.cat([max_logit_of(call) for call in calls], dim=1)
    return attention


def _watched_pass(
    model: nn.Module,
    input_ids: Tensor,
    forward: Forward,
    evidence: ParameterTrace,
    dtype: torch.dtype,
    bindings: Sequence[Binding],
) -> tuple[list[AttentionCall], AttentionWatch, dict[str, int]]:
    calls: list[AttentionCall] = []
    stack = ModuleStack()

    def keep(call: AttentionCall) -> None:
        calls.append(stored(call, dtype))
        if sum(call.pattern.nbytes for call in calls) > MAX_ATTENTION_BYTES:
            raise ProbeError(
                f"the attention of a probe of {input_ids.shape[0]} rows of "
                f"{input_ids.shape[1]} tokens needs more than "
                f"{MAX_ATTENTION_BYTES >> 30} GiB per capture; use fewer rows, or "
                "fewer tokens (128 are enough)"
            )

    watch = AttentionWatch(stack, input_ids.shape, keep, evidence=evidence)
    loop = RowLoop(input_ids.shape, watch.begin_rows)
    followed = [(name, module) for name, module in model.named_modules() if name]
    try:
        kernels = intercepted(bindings, watch.asker.call_function)
        with contextlib.ExitStack() as hooks:
            hooks.enter_context(stack.following(followed))
            hooks.enter_context(loop.following(model))
            hooks.enter_context(kernels)
            hooks.enter_context(_outputs_noted(model, evidence))
            hooks.enter_context(Gatherer(model).while_running())
            hooks.enter_context(watch)
            forward(model, input_ids)
        loop.check()
    except CaptureError:
        raise
    except Exception as error:
        rows, length = input_ids.shape
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ProbeError(
            f"the model's forward pass failed on the probe of {rows} rows of "
            f"{length} tokens: {what}. If the model is not called as "
            "model(input_ids), pass forward=lambda model, input_ids: ...; if the "
            "probe is longer than the model's context, cut it; if it only runs "
            "under autocast, pass autocast=torch.bfloat16"
        ) from error
    if loop.n_rows_seen:
        by_site: dict[Site, list[AttentionCall]] = {}
        for call in calls:
            by_site.setdefault(call.site, []).append(call)
        calls = [all_rows(of_site) for of_site in by_site.values()]
    _, width = watch.embedding or (0, 0)
    return calls, watch, {"": width, **stack.widths}


@contextlib.contextmanager
def _outputs_noted(model: nn.Module, evidence: ParameterTrace) -> Iterator[None]:
    """Tell ``evidence`` what the layers with adapters and the quantized ones return."""
    handles = []

    def first(inputs: tuple[Any, ...]) -> Any:
        return inputs[0] if inputs else None

    def noting(name: str) -> Callable[..., None]:
        return lambda _layer, inputs, output: evidence.saw_layer(name, first(inputs), output)

    try:
        for layer, name in names_of_outputs(model).items():
            handles.append(layer.register_forward_hook(noting(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _width(
    blocks: Sequence[Block],
    per_block: Sequence[Sequence[AttentionCall]],
    widths: Mapping[str, int],
) -> int:
    """Return the width of the residual stream: of what the first block returns; of what its
    attention returns, where the block is a container and never runs; of the embedding."""
    for block, calls in zip(blocks, per_block, strict=True):
        if block.name in widths and block.name:
            return widths[block.name]
        for call in calls:
            inside = block.first_inside(call.modules)
            if inside is not None and inside in widths:
                return widths[inside]
    return widths[""]


def _modules_of(model: nn.Module, block: Block) -> dict[str, nn.Module]:
    """Return the block's module, and those beside it, by name in the model."""
    return {name: model.get_submodule(name) for name in (block.name, *block.beside)}


def _nothing_seen(model: nn.Module, rejected: Sequence[str]) -> str:
    if n_virtual := virtual_tokens(model):
        return (
            f"an adapter puts {n_virtual} trained, virtual tokens before every row (prompt or "
            f"prefix tuning), so {type(model).__name__} attends over more positions than the "
            "probe has tokens, which no picture of the probe's tokens shows. No weight of a block "
            "is trained either; forward=lambda model, input_ids: model.get_base_model()(input_ids) "
            "films the model without these tokens"
        )
    suspects = []
    for name, module in model.named_modules():
        is_attention = _SURELY_ATTENTION.fullmatch(name.rpartition(".")[2])
        if is_attention and not isinstance(module, nn.Linear):
            suspects.append(name)
    parts = [f"no attention over the probe was seen in {type(model).__name__}"]
    if suspects:
        shown = ", ".join(suspects[:3])
        if len(suspects) > 3:
            shown += ", ..."
        parts.append(f"its modules {shown} use a kernel that hides its probabilities, or none")
    if rejected:
        parts.append(f"seen and left out: {first_of(list(dict.fromkeys(rejected)))}")
    parts.append(
        "what can be captured is scaled_dot_product_attention, softmax over [.., query, key], "
        "nn.MultiheadAttention, flex_attention, flash_attn, and functions of queries, keys and "
        "values that are linear in their values: switch the model to one of these "
        "(attn_implementation='sdpa'), at least for the probe: forward=lambda model, input_ids: ..."
    )
    return "; ".join(parts)
