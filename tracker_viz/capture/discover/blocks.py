"""Find a model's ``ModelStructure`` by one watched pass of a probe: its decoder blocks, where each
attends, and its projections.

Called once by the Recorder, before training (and again if the model changes). Nothing is looked up
by model name: blocks are the numbered modules in which attention was seen to happen, and parameters
are told apart by name and shape.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture.attention.calls import AttentionCall, ModuleStack
from tracker_viz.capture.attention.interception import Binding, find_bindings, intercepted
from tracker_viz.capture.attention.watch import AttentionWatch
from tracker_viz.capture.discover.adapters import adapter_projections
from tracker_viz.capture.discover.mixers import mixing_of, split_by_kind
from tracker_viz.capture.discover.model_info import ModelStructure, Site, first_of
from tracker_viz.capture.discover.projections import find_projections, unnamed_matrices
from tracker_viz.capture.isolation import Forward, default_forward
from tracker_viz.capture.parameter_trace import ParameterTrace
from tracker_viz.capture.weights.adapters import virtual_tokens
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.capture.weights.stored import names_of_outputs
from tracker_viz.errors import CaptureError, ConfigError, ProbeError, UnsupportedModelError

_NUMBERED = re.compile(r"(.*?)(\d+)$")
_SURELY_ATTENTION = re.compile(
    r"(self_?|linear_?)?(attn|attention|mixer|mamba|rwkv)", re.IGNORECASE
)
# Attention is kept whole until it is scored, on the device and then in memory: more than this is no
# picture any more.
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
            ``decoder.layers.*``; found by itself if None.
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
    if not calls:
        raise UnsupportedModelError(_nothing_seen(model, rejected))
    if blocks is None:
        names = _numbered_blocks(model, calls)
    else:
        names = _named_blocks(model, blocks)
    per_block, elsewhere = _by_block(calls, names)
    per_block, mixing_calls = split_by_kind(per_block, rejected)
    if not any(per_block) and not any(mixing_calls):
        raise ConfigError(
            f"none of the blocks {list(names)} attends; attention was seen in "
            f"{sorted({call.module for call in calls})}"
        )
    if blocks is None:
        for call in elsewhere:
            where = call.module or "the model itself"
            rejected.append(f"attention in {where}, outside of these blocks")

    d_model = widths.get(names[0]) or widths[""]
    n_heads, n_kv_heads = [], []
    found: list[Projection] = []
    unnamed: dict[str, list[int]] = {}
    for index, block_calls in enumerate(per_block):
        of_block = find_projections(
            model.get_submodule(names[index]),
            index=index,
            prefix=names[index],
            attention=_within(names[index], block_calls),
            attends=bool(block_calls),
            d_model=d_model,
            evidence=evidence,
            max_experts=max_experts,
            named=projections,
        )
        n_heads.append(sum(call.pattern.shape[1] for call in block_calls))
        n_kv_heads.append(_kv_heads(block_calls, n_heads[index], of_block))
        found += [*of_block, *adapter_projections(model, of_block)]
        for path in unnamed_matrices(
            model.get_submodule(names[index]),
            prefix=names[index],
            d_model=d_model,
            evidence=evidence,
            found=of_block,
        ):
            unnamed.setdefault(path, []).append(index)

    attending = list(itertools.chain(*per_block))
    errors = [call.error for call in calls if call.error is not None]
    structure = ModelStructure(
        blocks=tuple(names),
        sites=tuple(tuple(call.site for call in block_calls) for block_calls in per_block),
        n_heads=tuple(n_heads),
        n_kv_heads=tuple(n_kv_heads),
        d_model=d_model,
        projections=tuple(found),
        sources=tuple(sorted({call.source for call in attending})),
        error=max(errors, default=None),
        watched=frozenset(itertools.chain(*(call.modules for call in calls))),
        vocabulary=watch.vocabulary,
        left_out=tuple(dict.fromkeys(rejected)),
        unnamed={path: tuple(blocks) for path, blocks in unnamed.items()},
        mixing=mixing_of(model, mixing_calls, watch, bindings),
    )
    if mixing is not None:
        mixing.update(_maps_of(mixing_calls))
    return structure, [_heads_of(block_calls) for block_calls in per_block]


def attend(
    model: nn.Module,
    input_ids: Tensor,
    structure: ModelStructure,
    *,
    forward: Forward = default_forward,
    dtype: torch.dtype = torch.float32,
    mixing: dict[int, Tensor] | None = None,
) -> list[Tensor]:
    """Run the probe again, inside ``isolated``; return the attention of every block, and fill
    ``mixing``, as ``discover`` did.

    Raises:
        CaptureError: the calls are not those that were discovered: the model was changed.
    """
    mixing_sites = structure.mixing.sites if mixing is not None else ()
    expected = set(itertools.chain(*structure.sites, *mixing_sites))
    seen: dict[Site, AttentionCall] = {}

    def keep(call: AttentionCall) -> None:
        if call.site in expected:
            seen[call.site] = _stored(call, dtype)

    stack = ModuleStack()
    watch = AttentionWatch(
        stack,
        input_ids.shape,
        keep,
        vocabulary=structure.vocabulary,
        unanswered=structure.mixing.unanswered,
    )
    modules = dict(model.named_modules())
    followed = [(name, modules[name]) for name in modules if name in structure.watched]
    kernels = intercepted(structure.mixing.bindings, watch.asker.call_function)
    with stack.following(followed), kernels, watch:
        forward(model, input_ids)
    missing = expected - set(seen)
    if missing:
        where = {modules[-1] if modules else "the model itself" for modules, _ in missing}
        raise CaptureError(f"no attention was seen this time in {', '.join(sorted(where))}")
    if mixing is not None:
        mixing.update(_maps_of([[seen[site] for site in sites] for sites in mixing_sites]))
    return [_heads_of([seen[site] for site in sites]) for sites in structure.sites]


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
        calls.append(_stored(call, dtype))
        if sum(call.pattern.nbytes for call in calls) > MAX_ATTENTION_BYTES:
            raise ProbeError(
                f"the attention of a probe of {input_ids.shape[0]} rows of {input_ids.shape[1]} "
                f"tokens takes more than {MAX_ATTENTION_BYTES >> 30} GiB a capture; give it fewer "
                "rows, or fewer tokens (128 show what heads do)"
            )

    watch = AttentionWatch(stack, input_ids.shape, keep, evidence=evidence)
    followed = [(name, module) for name, module in model.named_modules() if name]
    try:
        asked = intercepted(bindings, watch.asker.call_function)
        with stack.following(followed), asked, _outputs_noted(model, evidence), watch:
            forward(model, input_ids)
    except CaptureError:
        raise
    except Exception as error:
        rows, length = input_ids.shape
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ProbeError(
            f"the model's forward pass failed on the probe of {rows} rows of {length} tokens: "
            f"{what}. If the model is called in another way than model(input_ids), pass "
            "forward=lambda model, input_ids: ...; if the probe is longer than the model's "
            "context, cut it; if it only runs under autocast, pass autocast=torch.bfloat16"
        ) from error
    _, width = watch.embedding or (0, 0)
    return calls, watch, {"": width, **stack.widths}


@contextlib.contextmanager
def _outputs_noted(model: nn.Module, evidence: ParameterTrace) -> Iterator[None]:
    """Tell ``evidence`` what the layers with adapters and the quantised ones return."""
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


def _numbered_blocks(model: nn.Module, calls: Sequence[AttentionCall]) -> list[str]:
    """Return the outermost numbered modules in which attention happened, and their numbered
    siblings that do not attend."""
    containers: dict[str, int] = {}
    for call in calls:
        prefix = next(filter(None, map(_outermost_numbered, call.modules)), None)
        if prefix is not None:
            containers[prefix] = containers.get(prefix, 0) + 1
    if not containers:
        parents = dict.fromkeys(call.module.rpartition(".")[0] or call.module for call in calls)
        return list(parents)
    stem = max(containers, key=lambda prefix: containers[prefix])
    attending = set(itertools.chain(*(call.modules for call in calls)))
    siblings = []
    for name, module in model.named_modules():
        if _outermost_numbered(name) != stem or not _is_numbered_child(name, stem):
            continue
        # In an nn.Sequential of everything the embedding and the head are numbered too.
        if name in attending or any(module.children()):
            siblings.append(name)
    return sorted(siblings, key=lambda name: int(name.removeprefix(stem)))


def _by_block(
    calls: Sequence[AttentionCall], names: Sequence[str]
) -> tuple[list[list[AttentionCall]], list[AttentionCall]]:
    """Return the calls of every block, and those of none. A block that is run again is shown as it
    ran first."""
    per_block: list[list[AttentionCall]] = [[] for _ in names]
    elsewhere = []
    for call in calls:
        around = [name for name in names if name == "" or name in call.modules]
        name = around[0] if around else None
        if name is None:
            elsewhere.append(call)
        elif name == "" or call.entries[call.modules.index(name)] == 1:
            per_block[names.index(name)].append(call)
    return [_each_once(block_calls) for block_calls in per_block], elsewhere


def _outermost_numbered(name: str) -> str | None:
    """Return the name up to its first number, ``model.layers.3.attn`` -> ``model.layers.``,
    ``layer_3.attn`` -> ``layer_``, or None."""
    parts = name.split(".")
    for position, part in enumerate(parts):
        match = _NUMBERED.fullmatch(part)
        if match:
            return ".".join([*parts[:position], match[1]])
    return None


def _is_numbered_child(name: str, stem: str) -> bool:
    return name.startswith(stem) and name[len(stem) :].isdigit()


def _named_blocks(model: nn.Module, blocks: str | Sequence[str]) -> list[str]:
    known = [name for name, _ in model.named_modules() if name]
    if isinstance(blocks, str):
        depth = blocks.count(".")
        chosen = [name for name in fnmatch.filter(known, blocks) if name.count(".") == depth]
    elif isinstance(blocks, Sequence) and all(isinstance(name, str) for name in blocks):
        chosen = [name for name in blocks if name in known]
        if len(chosen) < len(blocks):
            raise ConfigError(
                f"blocks={sorted(set(blocks) - set(known))} are no modules of the model; it has "
                f"{_first_names(known)}"
            )
    else:
        raise ConfigError(
            f"blocks are names of modules, or a pattern like 'model.layers.*'; got {blocks!r} "
            "(only_blocks= chooses among them by number)"
        )
    if not chosen:
        raise ConfigError(
            f"blocks={blocks!r} matches no module of the model; it has {_first_names(known)}"
        )
    return chosen


def _first_names(names: Sequence[str]) -> str:
    """Return the outermost ones, where a block would be looked for."""
    outermost = sorted(names, key=lambda name: name.count("."))
    text = ", ".join(outermost[:20])
    if len(names) > 20:
        text += " ..."
    return text


def _each_once(calls: Sequence[AttentionCall]) -> list[AttentionCall]:
    """Leave out what shows the same map again: one attention applied to two halves of its
    values."""
    kept: list[AttentionCall] = []
    for call in calls:
        of_module = [other.pattern for other in kept if other.module == call.module]
        if not any(torch.equal(call.pattern, pattern) for pattern in of_module):
            kept.append(call)
    return kept


def _kv_heads(
    calls: Sequence[AttentionCall], n_heads: int, projections: Sequence[Projection]
) -> int:
    """Count the key/value heads. Keys may be repeated before they reach the attention function: the
    weights then tell how many there are."""
    if not n_heads:
        return 0
    out = {projection.name: projection.shape[0] for projection in projections}
    if {"attn.w_q", "attn.w_k"} <= set(out):
        head_dim = out["attn.w_q"] // n_heads
        if head_dim and out["attn.w_k"] % head_dim == 0 and out["attn.w_k"] // head_dim <= n_heads:
            return out["attn.w_k"] // head_dim
    return sum(call.n_kv_heads or call.pattern.shape[1] for call in calls)


def _within(block: str, calls: Sequence[AttentionCall]) -> list[str]:
    """Return the names, within a block, of the modules that made its attention calls."""
    inside = [call.module for call in calls if call.module.startswith(block)]
    return [module.removeprefix(block).strip(".") for module in inside]


def _heads_of(calls: Sequence[AttentionCall]) -> Tensor:
    if not calls:
        return torch.empty(0)
    if len(calls) == 1:
        return calls[0].pattern
    return torch.cat([call.pattern for call in calls], dim=1)


def _maps_of(calls: Sequence[Sequence[AttentionCall]]) -> dict[int, Tensor]:
    return {index: _heads_of(of_block) for index, of_block in enumerate(calls) if of_block}


def _stored(call: AttentionCall, dtype: torch.dtype) -> AttentionCall:
    """Return the call with its attention in ``dtype``; mixing maps have no bound to fit float16."""
    if call.kind == "mixing":
        return replace(call, pattern=call.pattern.float())
    return replace(call, pattern=call.pattern.to(dtype))


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
