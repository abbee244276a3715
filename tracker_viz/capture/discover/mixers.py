"""Sort the calls of a watched pass into attention and mixing maps, and describe the maps."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from torch import nn

from tracker_viz.capture.attention.calls import AGAIN, AttentionCall
from tracker_viz.capture.attention.kernels.interception import Binding
from tracker_viz.capture.attention.watch import AttentionWatch
from tracker_viz.capture.discover.block_names import Block
from tracker_viz.capture.discover.model_info import Mixing

_BlockCalls = list[list[AttentionCall]]


def split_by_kind(
    per_block: Sequence[Sequence[AttentionCall]],
) -> tuple[_BlockCalls, _BlockCalls, dict[str, str]]:
    """Return the attention calls and the mixing calls of every block, and module -> a sentence
    about products that are left out: where a module multiplies by several matrices that are no
    probabilities, none of them alone is how it mixes."""
    attention: _BlockCalls = []
    mixing: _BlockCalls = []
    unclear: dict[str, str] = {}
    for calls in per_block:
        attention.append([call for call in calls if call.kind == "attention"])
        of_block = [call for call in calls if call.kind == "mixing"]
        n_products = Counter(call.module for call in of_block if call.source == "matmul")
        several = [module for module, count in n_products.items() if count > 1]
        for module in several:
            unclear[module] = (
                f"{n_products[module]} products by matrices that are no probabilities in "
                f"{module or 'the model itself'}, of which none alone is how it mixes tokens"
            )
        mixing.append([call for call in of_block if call.module not in several])
    return attention, mixing, unclear


def dark_blocks(
    blocks: Sequence[Block],
    attention: Sequence[Sequence[AttentionCall]],
    mixing: Sequence[Sequence[AttentionCall]],
) -> list[str]:
    """Return the names of the blocks in which nothing was seen to mix tokens, and of the modules
    beside them."""
    dark: list[str] = []
    for block, attending, mixed in zip(blocks, attention, mixing, strict=True):
        if not attending and not mixed:
            dark += (block.name, *block.beside)
    return dark


def add_by_kind(
    further: Sequence[Sequence[AttentionCall]], attention: _BlockCalls, mixing: _BlockCalls
) -> None:
    """Add further calls of every block to those of their kind."""
    for calls, attending, mixed in zip(further, attention, mixing, strict=True):
        attending += [call for call in calls if call.kind == "attention"]
        mixed += [call for call in calls if call.kind == "mixing"]


def mixing_of(
    model: nn.Module,
    mixing_calls: Sequence[Sequence[AttentionCall]],
    watch: AttentionWatch,
    bindings: Iterable[Binding],
) -> Mixing:
    """Return what a capture needs in order to see the mixers again, and to say what they are."""
    return Mixing(
        sites=tuple(tuple(call.site for call in calls) for calls in mixing_calls),
        channels=tuple(map(_channels, mixing_calls)),
        notes=tuple(_note(model, calls) for calls in mixing_calls),
        bindings=tuple(each for each in bindings if each.name in watch.asker.answering),
        unanswered=frozenset(watch.asker.unanswered),
    )


def _channels(calls: Sequence[AttentionCall]) -> tuple[int, ...]:
    return tuple(itertools.chain(*(call.channels for call in calls)))


def _note(model: nn.Module, calls: Sequence[AttentionCall]) -> str:
    if not calls:
        return ""
    sources = " and ".join(dict.fromkeys(call.source for call in calls))
    parts = [f"by {sources}"]
    if any(call.channels for call in calls):
        parts.append("some of its channels, each of which mixes in its own way")
    kernels = [call for call in calls if not call.source.startswith(AGAIN)]
    if any(_is_convolved(model, call.module) for call in kernels):
        parts.append("the scan alone: its values pass a convolution first")
    return "; ".join(parts)


def _is_convolved(model: nn.Module, name: str) -> bool:
    """Return whether the mixer, or the module right around it, holds a convolution."""
    around = name.rpartition(".")[0]
    for each in filter(None, (name, around)):
        children = model.get_submodule(each).children()
        if any(isinstance(child, nn.Conv1d) for child in children):
            return True
    return False
