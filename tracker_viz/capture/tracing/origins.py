"""Follow through a watched pass which weight matrices a tensor's values were last multiplied by.

Every torch function of the pass goes through ``Origins.follow``. A product with a weight starts
over: its output comes from that weight alone. Anything else passes on where its operands came from.
So the query of an attention is seen to come from ``q_proj``, whatever rotates or normalizes it on
the way, and ``o_proj`` is the weight that is seen to read what the attention made.

Filled by ``AttentionWatch`` during the one exploring pass, read by
``discover.naming.projections``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from tracker_viz.capture.tracing.functions import (
    ACTIVATIONS,
    CONVOLUTIONS,
    PRODUCTS,
    WITH_ADDEND,
    is_in_place,
    makes_new,
    rows_are_second,
    takes_form_of_second,
    takes_query_key_value,
)

# Marks what comes from more weights than a block has: the residual stream.
MANY = "@many"
_ATTENTION = "@attention "
_MOST_WEIGHTS = 64


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tensor's values come from.

    Attributes:
        weights: names of the matrices whose products made it, and marks: ``MANY``, and that of an
            attention (``SeenAttention.mark``).
        scores: of a product of two activations, where its rows and its columns come from; kept by
            what is made of it (a mask, a softmax).
        is_weight: it is made of parameters alone.
    """

    weights: frozenset[str]
    scores: tuple[frozenset[str], frozenset[str]] | None = None
    is_weight: bool = False


_NOWHERE = Origin(frozenset())


@dataclass(frozen=True, slots=True)
class SeenAttention:
    """One attention of the pass.

    Attributes:
        modules: names of the modules that were running, outermost first.
        query, key, value: the weights that they come from.
        mark: represents the attention's output in a set of weight names.
        key_per_value: width of a key over that of a value.
    """

    modules: tuple[str, ...]
    query: frozenset[str]
    key: frozenset[str]
    value: frozenset[str]
    mark: str
    key_per_value: float = 1.0


@dataclass(slots=True)
class Origins:
    """Observations of a pass.

    Attributes:
        modules: of the model, by name.
        attentions: in the order in which they happened.
        readers: weight -> origins of its first input, and the marks of all attentions whose output
            it multiplied.
        activated: weights whose products went into an activation function by themselves.
        whole: weights that were multiplied with whole, not by one of their slices.
        split_over: weights whose rows different processes multiply with (tensor parallelism) ->
            their process group.
    """

    modules: Mapping[str, nn.Module]
    attentions: list[SeenAttention] = field(default_factory=list)
    readers: dict[str, frozenset[str]] = field(default_factory=dict)
    activated: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    split_over: dict[str, Any] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)
    # tensor -> its Origin. Weak, so that tracing keeps no activation alive; by id, because == on
    # tensors is elementwise.
    _known: Any = field(default_factory=WeakIdKeyDictionary)
    _first_name: dict[int, str] = field(default_factory=dict)
    _alias: dict[str, str] = field(default_factory=dict)
    _alive: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        root = self.modules.get("")
        if root is None:
            return
        for name, parameter in root.named_parameters(remove_duplicate=False):
            # Offloaded ones are replaced during the pass: their ids must not be given again.
            self._alive.append(parameter)
            self._alias[name] = self._first_name.setdefault(id(parameter), name)
            self._sizes[name] = parameter.numel()

    def first_name(self, parameter: str) -> str:
        """Return the name under which a parameter is known here: blocks may share one."""
        return self._alias.get(parameter, parameter)

    def follow(
        self, func: Any, args: Sequence[Any], kwargs: Any, output: Any, running: Sequence[str]
    ) -> None:
        """Note a torch function that was called, inside the modules ``running``."""
        made = list(_tensors((output,)))
        if func is Tensor.__setitem__:  # returns nothing, and writes into the first
            made = [args[0]]
        if not made:
            return
        if makes_new(func):
            return
        operands = list(_tensors((*args, *kwargs.values())))
        if takes_form_of_second(func):
            operands = operands[:1]
        origins = [self._origin(operand, running) for operand in operands]
        if func is F.multi_head_attention_forward:
            # Its own output projection comes last, and its names tell its parts.
            self._set(made, Origin(frozenset(self._names_of(origins))))
            return
        if takes_query_key_value(func):
            keys, values = operands[1:3]
            ratio = keys.shape[-1] / max(values.shape[-1], 1)
            query, key, value = (each or _NOWHERE for each in origins[:3])
            self._set(
                made, self._attended(running, query.weights, key.weights, value.weights, ratio)
            )
            return

        origin = self._of_output(func, args, operands, origins, running)
        if origin is not None:
            self._set(made, origin)
            if is_in_place(func):
                self._set(operands[:1], origin)
                self._written_through(operands[0], origin)

    def saw_layer(self, name: str, entering: Tensor, output: Tensor) -> None:
        """Note a layer that multiplies by the weight ``name`` in a way of its own."""
        name = self.first_name(name)
        came_from = self._known.get(entering) or _NOWHERE
        # Inside it the weight may have multiplied what the layer made of that.
        self.readers.pop(name, None)
        self._note_reader(name, came_from.weights)
        self.whole.add(name)
        self._set([output], Origin(frozenset({name})))

    def _note_reader(self, name: str, came_from: frozenset[str]) -> None:
        first = self.readers.setdefault(name, came_from)
        # Blocks that share an output projection have an attention each.
        self.readers[name] = first | {each for each in came_from if is_attention_mark(each)}

    def _of_output(
        self,
        func: Any,
        args: Sequence[Any],
        operands: Sequence[Tensor],
        origins: Sequence[Origin | None],
        running: Sequence[str],
    ) -> Origin | None:
        activations = [each for each in origins if each is not None and not each.is_weight]
        weights = [each for each in origins if each is not None and each.is_weight]
        # Two: with an adapter beside it.
        if func in ACTIVATIONS and activations and len(activations[0].weights) <= 2:
            self.activated |= activations[0].weights
        if func in PRODUCTS:
            factors = list(zip(operands, origins, strict=True))
            if func in WITH_ADDEND:
                factors = factors[1:]
            return self._of_product(func, args, factors, running)
        if activations:
            return _joined(activations)
        if not weights:
            return None
        # Rows that token ids choose are activations; entries that are put into a matrix are not.
        has_indices = any(not operand.is_floating_point() for operand in operands)
        looked_up = has_indices and func is not Tensor.__setitem__
        return Origin(_names(weights), is_weight=not looked_up)

    def _of_product(
        self,
        func: Any,
        args: Sequence[Any],
        factors: Sequence[tuple[Tensor, Origin | None]],
        running: Sequence[str],
    ) -> Origin | None:
        pairs = [(operand, origin) for operand, origin in factors if origin is not None]
        weights = [(operand, origin) for operand, origin in pairs if origin.is_weight]
        activations = [(operand, origin) for operand, origin in pairs if not origin.is_weight]
        of_weights = _names([origin for _, origin in weights])
        if not activations:
            return Origin(of_weights, is_weight=True) if weights else None
        came_from = _joined([origin for _, origin in activations])
        if func in CONVOLUTIONS:
            return came_from  # along positions, channel by channel, where a decoder has one
        if weights:
            for name in of_weights:
                self._note_reader(name, came_from.weights)
                if any(operand.numel() == self._sizes.get(name) for operand, _ in weights):
                    self.whole.add(name)
            return Origin(of_weights)
        if len(activations) != 2:
            return came_from
        left_origin, right_origin = (origin for _, origin in activations)
        if left_origin.scores is not None and right_origin.scores is None:
            return self._attended(running, *left_origin.scores, right_origin.weights)
        scores = left_origin.weights, right_origin.weights
        if func is torch.einsum and rows_are_second(args):
            scores = scores[1], scores[0]
        return Origin(came_from.weights, scores)

    def _attended(
        self,
        running: Sequence[str],
        query: frozenset[str],
        key: frozenset[str],
        value: frozenset[str],
        key_per_value: float = 1.0,
    ) -> Origin:
        """Note an attention; return where what it made comes from."""
        mark = f"{_ATTENTION}{len(self.attentions)}"
        self.attentions.append(
            SeenAttention(tuple(running), query, key, value, mark, key_per_value)
        )
        return Origin(frozenset({mark}))

    def _origin(self, tensor: Tensor, running: Sequence[str]) -> Origin | None:
        known = self._known.get(tensor)
        if known is None and hasattr(tensor, "_local_tensor"):  # a DTensor made of a plain one
            known = self._known.get(tensor._local_tensor)
        if known is not None:
            return known
        name = self._first_name.get(id(tensor))
        if name is None and isinstance(tensor, nn.Parameter):
            name = self._in_running(tensor, running)
        if name is None:
            return None
        group = group_of_rows(tensor)
        if group is not None and tensor.ndim > 1:
            self.split_over[name] = group
        origin = Origin(frozenset({name} if tensor.ndim > 1 else ()), is_weight=True)
        self._known[tensor] = origin
        return origin

    def _in_running(self, tensor: Tensor, running: Sequence[str]) -> str | None:
        """Return the name of a parameter that a sharded model has put into a module for the time of
        its call."""
        for module in (*reversed(running), ""):
            for name, parameter in self.modules[module].named_parameters(recurse=False):
                if parameter is tensor:
                    return self.first_name(f"{module}.{name}".strip("."))
        return None

    def _set(self, tensors: Iterable[Tensor], origin: Origin) -> None:
        for tensor in tensors:
            if tensor.is_floating_point():
                self._known[tensor] = origin
                local = getattr(tensor, "_local_tensor", None)  # what a DTensor becomes again
                if local is not None:
                    self._known[local] = origin

    def _written_through(self, tensor: Tensor, origin: Origin) -> None:
        """Note that the tensor of which ``tensor`` is a view was written as well."""
        if tensor.is_inference() or not tensor._is_view():
            return
        base = tensor._base
        known = self._known.get(base)
        if known is None:
            self._known[base] = origin
        elif not known.is_weight:
            self._known[base] = _joined([known, origin])

    def _names_of(self, origins: Iterable[Origin | None]) -> Iterator[str]:
        for origin in origins:
            if origin is not None and origin.is_weight:
                yield from origin.weights


def is_attention_mark(name: str) -> bool:
    """Return whether a name among weights is the mark of what an attention made."""
    return name.startswith(_ATTENTION)


def group_of_rows(tensor: Tensor) -> Any:
    """Return the processes over which a DTensor's first axis is split, or None."""
    placements = getattr(tensor, "placements", ())
    split = [axis for axis, placement in enumerate(placements) if placement.is_shard(0)]
    if len(split) != 1:
        return None
    return tensor.device_mesh.get_group(split[0])  # type: ignore[attr-defined]


def _joined(origins: Sequence[Origin]) -> Origin:
    if len(origins) == 1:
        return origins[0]
    scores = next((origin.scores for origin in origins if origin.scores is not None), None)
    return Origin(_names(origins), scores)


def _names(origins: Iterable[Origin]) -> frozenset[str]:
    names: frozenset[str] = frozenset().union(*(origin.weights for origin in origins))
    return names if len(names) <= _MOST_WEIGHTS else frozenset({MANY})


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among ``values``, and in lists and tuples of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
