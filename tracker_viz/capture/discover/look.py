"""Look at a model by one watched pass of the probe, and once more at blocks in which nothing was
seen to mix tokens. Called by ``blocks.discover``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture.attention.calls import AttentionCall, ModuleStack
from tracker_viz.capture.attention.kernels.interception import Binding, intercepted
from tracker_viz.capture.attention.replay import ReplayPlan
from tracker_viz.capture.attention.watch import AttentionWatch
from tracker_viz.capture.discover.block_calls import (
    by_site,
    calls_by_block,
    looking_back,
    stored,
)
from tracker_viz.capture.discover.block_names import Block, found_blocks, named_blocks
from tracker_viz.capture.discover.mixers import add_by_kind, dark_blocks, split_by_kind
from tracker_viz.capture.discover.model_info import first_of
from tracker_viz.capture.discover.replays import find_replays
from tracker_viz.capture.discover.row_loop import RowLoop
from tracker_viz.capture.isolation import Forward
from tracker_viz.capture.tracing.parameter_trace import ParameterTrace
from tracker_viz.capture.weights.adapters import virtual_tokens
from tracker_viz.capture.weights.gathering import Gatherer
from tracker_viz.capture.weights.stored import names_of_outputs
from tracker_viz.errors import CaptureError, ProbeError, UnsupportedModelError

_SURELY_ATTENTION = re.compile(
    r"(self_?|linear_?)?(attn|attention|mixer|mamba|rwkv)", re.IGNORECASE
)
# Attention is kept whole until it is scored, on the device and then in memory: a probe that needs
# more than this is refused.
MAX_ATTENTION_BYTES = 2 << 30


@dataclass(slots=True)
class Seen:
    """Findings of one pass through a model.

    Attributes:
        blocks: its decoder blocks.
        calls: all that mix tokens.
        attention, mixing: those of each block, by their kind.
        replays: modules that were run again.
        watch: of the pass; says what is left out (``rejected``).
        widths: module -> width of what it returned; of the embedding under "".
    """

    blocks: list[Block]
    calls: list[AttentionCall]
    attention: list[list[AttentionCall]]
    mixing: list[list[AttentionCall]]
    replays: list[ReplayPlan]
    watch: AttentionWatch
    widths: Mapping[str, int]


def look(
    model: nn.Module,
    input_ids: Tensor,
    forward: Forward,
    blocks: str | Sequence[str] | None,
    evidence: ParameterTrace,
    bindings: Sequence[Binding],
    dtype: torch.dtype,
) -> Seen:
    """Return what is seen of the model; arguments as those of ``blocks.discover``.

    Args:
        evidence: gathers what the pass tells about the parameters.
        bindings: functions that may be kernels.

    Raises:
        UnsupportedModelError: nothing mixes tokens.
        ProbeError: the pass failed on the probe.
    """
    calls, watch, widths = _watched_pass(model, input_ids, forward, evidence, dtype, bindings)
    rejected = watch.rejected
    replays: list[ReplayPlan] = []
    if not calls:
        calls, replays = _replayed(model, input_ids, forward, None, dtype, watch)
    if not calls:
        raise UnsupportedModelError(_nothing_seen(model, rejected))

    calls = looking_back(calls, rejected)
    running = [call.modules for call in calls]
    chosen = (
        found_blocks(model, running) if blocks is None else named_blocks(model, blocks, running)
    )
    per_block, elsewhere = calls_by_block(calls, chosen)
    attention, mixing, unclear = split_by_kind(per_block)
    dark = dark_blocks(chosen, attention, mixing)
    if dark and not replays:
        further, replays = _replayed(model, input_ids, forward, dark, dtype, watch, unclear)
        calls += further
        add_by_kind(calls_by_block(further, chosen)[0], attention, mixing)

    seen_again = {plan.module for plan in replays}
    rejected += [why for module, why in unclear.items() if module not in seen_again]
    if blocks is None:
        for call in elsewhere:
            where = call.module or "the model itself"
            rejected.append(f"attention in {where}, outside of these blocks")
    return Seen(chosen, calls, attention, mixing, replays, watch, widths)


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
        watch: of the first look; gets a sentence about each module that mixes tokens and has none
            yet.
        unclear: modules that get a sentence elsewhere.
    """
    plans, calls, refused = find_replays(model, input_ids, forward, blocks)
    known = {module for module, _ in watch.asker.unanswered} | {*unclear}
    watch.rejected += [why for module, why in refused.items() if module not in known]
    return list(by_site(stored(call, dtype) for call in calls).values()), plans


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
        raise ProbeError(_failed(error, input_ids)) from error
    if loop.n_rows_seen:
        calls = list(by_site(calls).values())
    _, width = watch.embedding or (0, 0)
    return calls, watch, {"": width, **stack.widths}


def _failed(error: Exception, input_ids: Tensor) -> str:
    """Return the message for a forward pass that failed on the probe."""
    rows, length = input_ids.shape
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    return (
        f"the model's forward pass failed on the probe of {rows} rows of "
        f"{length} tokens: {what}. If the model is not called as "
        "model(input_ids), pass forward=lambda model, input_ids: ...; if the "
        "probe is longer than the model's context, cut it; if it only runs "
        "under autocast, pass autocast=torch.bfloat16"
    )


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


def _nothing_seen(model: nn.Module, rejected: Sequence[str]) -> str:
    """Return the message for a model in which no attention and no mixing map was seen.

    Args:
        rejected: sentences about what was seen and left out.
    """
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
