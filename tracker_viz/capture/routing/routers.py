"""See which experts the routers of a mixture send the probe's tokens to.

``RouterWatch`` is active during one forward pass. Nothing is looked up by a module's name: a router
is what was seen to do three things with every token of the probe. It multiplies the token by a
matrix (one column for each expert), puts the result through a softmax or a sigmoid, and picks the
largest. The last two may come in either order: gpt-oss picks first, and squashes what it picked.
What picks keys for queries instead is an indexer (``indexers``). Nothing in the model is replaced.
Called by ``Camera``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tracker_viz.capture.attention.calls import ModuleStack
from tracker_viz.capture.routing.indexers import KeyChoice, chosen_keys

# A wider product is a feed-forward layer or a vocabulary; and up to here a float16 holds every
# whole number, so that chosen experts can be stored as such.
MAX_EXPERTS = 2048
# Product, squashing and choice happen in one module, or in children of it: DBRX multiplies two
# levels below the module that chooses.
_MOST_LEVELS_APART = 2

_PRODUCTS = {
    F.linear,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    torch.mm,
    Tensor.mm,
    torch.addmm,
    Tensor.addmm,
    torch.einsum,
}
_SQUASHINGS: dict[Any, str] = {
    F.softmax: "softmax",
    torch.softmax: "softmax",
    Tensor.softmax: "softmax",
    torch.special.softmax: "softmax",
    F.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    torch.special.expit: "sigmoid",
    F.softplus: "softplus",
}
_SQUASHED: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}
_ROOTS = {torch.sqrt, Tensor.sqrt}
_TOP_K = {torch.topk, Tensor.topk}
_LARGEST = {torch.max, Tensor.max, torch.argmax, Tensor.argmax}


@dataclass(frozen=True, slots=True)
class Routing:
    """The decisions of one router over the probe.

    Attributes:
        modules: names of the modules that were running at the choice, outermost first.
        probabilities: [probe, token, expert]: the router's logits through its own squashing, before
            the choice. Rows sum to 1 for ``softmax`` alone.
        chosen: int64 [probe, token, choice]: the experts that each token went to.
        weights: [probe, token, choice]: what the model multiplies their outputs by.
        squashing: ``softmax``, ``sigmoid``, ``softplus`` or ``sqrt of softplus`` (these above 0,
            without a limit).
    """

    modules: tuple[str, ...]
    probabilities: Tensor
    chosen: Tensor
    weights: Tensor
    squashing: str

    @property
    def n_experts(self) -> int:
        return self.probabilities.shape[-1]


@dataclass(slots=True)
class _Product:
    """A product that gave each token a few numbers: logits, if the rest follows."""

    modules: tuple[str, ...]
    squashing: str = ""
    squashed: Tensor | None = None


@dataclass(slots=True)
class _Choice:
    """A choice that was seen, and its weights as far as they were followed."""

    product: _Product
    modules: tuple[str, ...]
    entries: tuple[int, ...]
    n_experts: int
    chosen: Tensor
    # Chosen from unsquashed logits; kept until the squashing is seen.
    logits: Tensor | None = None
    probabilities: Tensor | None = None
    weights: Tensor | None = None
    by_largest: bool = False
    squashing: str = ""
    # Tensors that were made from the choice, by identity.
    followed: dict[int, Tensor] = field(default_factory=dict)

    @property
    def scope(self) -> tuple[str, ...]:
        return _common(self.modules, self.product.modules)

    @property
    def k(self) -> int:
        return self.chosen.shape[-1]


class RouterWatch(TorchFunctionMode):
    """Follows the routers of a model through one pass over the probe.

    Args:
        shape: of the probe, (rows, tokens a row).
        dtype: of the probabilities and weights that are kept.

    Attributes:
        key_choices: what indexers of sparse attention chose, in the order of the calls.
    """

    def __init__(self, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.key_choices: list[KeyChoice] = []
        self._n_rows, self._length = shape
        self._dtype = dtype
        self._stack = ModuleStack()
        self._products: dict[int, _Product] = {}  # number of columns -> the latest
        self._choices: list[_Choice] = []

    @contextmanager
    def following(self, modules: Iterable[tuple[str, nn.Module]]) -> Iterator[RouterWatch]:
        """Watch the calls inside the ``with``; ``modules`` by name: those that may route, and
        those around them."""
        with self._stack.following(modules), self:
            yield self

    def routings(self) -> list[Routing]:
        """Return the decisions that were seen, in the order of the calls; for a module that ran
        several times, those of its first run."""
        found = []
        for choice in self._choices:
            is_whole = choice.probabilities is not None and choice.weights is not None
            if is_whole and all(entry == 1 for entry in choice.entries):
                found.append(self._routing(choice))
        return found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in _PRODUCTS:
            self._saw_product(args, output)
        elif func in _SQUASHINGS:
            self._saw_squashing(func, args, kwargs, output)
        elif func in _ROOTS and args:
            self._saw_root(args[0], output)
        elif func in _TOP_K or func in _LARGEST:
            self._saw_choice(func, args, kwargs, output)
        self._follow(args, kwargs, output)
        return output

    def _saw_product(self, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or not self._is_of_tokens(output):
            return
        # Attention multiplies tokens by tokens, which have a row axis; a matrix of weights has
        # none.
        has_matrix = any(isinstance(arg, Tensor) and arg.ndim == 2 for arg in _flat(args))
        if has_matrix and 2 <= output.shape[-1] <= MAX_EXPERTS:
            self._products[output.shape[-1]] = _Product(tuple(self._stack.names))

    def _saw_squashing(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or not self._is_of_tokens(output):
            return
        squashing = _SQUASHINGS[func]
        if squashing == "softmax" and not _is_last(_dim(args, kwargs), output.ndim):
            return
        product = self._products.get(output.shape[-1])
        if product is not None and self._is_near(product.modules):
            product.squashing, product.squashed = squashing, output
        self._squash_chosen(squashing, output)

    def _squash_chosen(self, squashing: str, output: Tensor) -> None:
        """Note that the latest choice, made from logits, is squashed now."""
        choice = self._latest()
        if choice is None or choice.logits is None:
            return
        if output.shape[-1] not in (choice.k, choice.n_experts):
            return
        logits, choice.logits = choice.logits.float(), None
        choice.squashing = squashing
        choice.probabilities = _SQUASHED[squashing](logits).to(self._dtype)
        # What was followed so far were logits.
        choice.weights = None

    def _saw_root(self, entering: Any, output: Any) -> None:
        for product in self._products.values():
            if product.squashing == "softplus" and product.squashed is entering:
                product.squashing, product.squashed = "sqrt of softplus", output

    def _saw_choice(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        ranked = args[0] if args else kwargs.get("input")
        if not isinstance(ranked, Tensor) or not ranked.is_floating_point():
            return
        by_largest = func in _LARGEST
        dim = kwargs.get("dim", -1)
        position = 1 if by_largest else 2
        if len(args) > position:
            dim = args[position]
        elif by_largest and "dim" not in kwargs:
            return
        if not _is_last(dim, ranked.ndim) or not kwargs.get("largest", True):
            return
        values, indices = (None, output) if isinstance(output, Tensor) else output
        if func in _TOP_K:
            modules = tuple(self._stack.names)
            choice = chosen_keys(modules, ranked, indices, self._n_rows, self._length)
            if choice is not None:
                self.key_choices.append(choice)
                return
        product = self._products.get(ranked.shape[-1])
        if product is None or not self._is_of_tokens(ranked):
            return
        if not self._is_near(product.modules):
            return
        self._choose(product, ranked, values, indices, by_largest=by_largest)

    def _choose(
        self,
        product: _Product,
        ranked: Tensor,
        values: Tensor | None,
        indices: Tensor,
        *,
        by_largest: bool,
    ) -> None:
        n_tokens = self._n_rows * self._length
        chosen = indices.detach().reshape(n_tokens, -1)
        before = self._choices[-1] if self._choices else None
        if before is not None and before.product is product:
            if by_largest and before.by_largest:
                # The second largest, and so on, of the same logits (PhiMoE).
                before.chosen = torch.cat([before.chosen, chosen], dim=-1)
                before.followed |= _by_identity(values, indices)
                return
            # Groups of experts are chosen first, by their best members (DeepSeek).
            self._choices.pop()

        choice = _Choice(
            product=product,
            modules=tuple(self._stack.names),
            entries=tuple(self._stack.entries[name] for name in self._stack.names),
            n_experts=ranked.shape[-1],
            chosen=chosen,
            by_largest=by_largest,
            weights=values,
            followed=_by_identity(values, indices),
        )
        if product.squashed is None:
            choice.logits = ranked.detach()
        else:
            choice.squashing = product.squashing
            choice.probabilities = product.squashed.detach().to(self._dtype, copy=True)
        self._choices.append(choice)

    def _follow(self, args: Any, kwargs: Any, output: Any) -> None:
        """Follow the tensors that are made from the latest choice: the last one with a number for
        each chosen expert holds the weights."""
        choice = self._latest()
        if choice is None or not isinstance(output, Tensor):
            return
        n_tokens = self._n_rows * self._length
        is_sparse = output.numel() == n_tokens * choice.k
        is_dense = output.numel() == n_tokens * choice.n_experts
        if not is_sparse and not is_dense:
            return
        if not any(id(arg) in choice.followed for arg in _flat((args, tuple(kwargs.values())))):
            return

        choice.followed[id(output)] = output
        if not output.is_floating_point() or choice.logits is not None:
            return
        if is_sparse and (choice.k == 1 or output.shape[-1] == choice.k):
            choice.weights = output
        elif is_dense and choice.weights is None and output.shape[-1] == choice.n_experts:
            # One number for every expert, 0 for those that were not chosen (Llama 4).
            choice.weights = output.reshape(n_tokens, -1).gather(-1, choice.chosen)

    def _latest(self) -> _Choice | None:
        """Return the latest choice, if the module that it was made in is still running."""
        if not self._choices:
            return None
        choice = self._choices[-1]
        scope = choice.scope
        if tuple(self._stack.names[: len(scope)]) != scope:
            choice.followed.clear()
            return None
        return choice

    def _routing(self, choice: _Choice) -> Routing:
        def by_row(values: Tensor) -> Tensor:
            return values.detach().reshape(self._n_rows, self._length, -1)

        assert choice.probabilities is not None
        assert choice.weights is not None
        return Routing(
            modules=choice.modules,
            probabilities=by_row(choice.probabilities),
            chosen=by_row(choice.chosen),
            weights=by_row(choice.weights).to(self._dtype),
            squashing=choice.squashing,
        )

    def _is_of_tokens(self, values: Tensor) -> bool:
        """Return whether there is one row of numbers for each token of the probe."""
        is_row = values.ndim >= 2 and values.is_floating_point()
        return is_row and values.numel() == self._n_rows * self._length * values.shape[-1]

    def _is_near(self, modules: tuple[str, ...]) -> bool:
        here = tuple(self._stack.names)
        n_common = len(_common(here, modules))
        return max(len(here), len(modules)) - n_common <= _MOST_LEVELS_APART


def _common(one: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    shared = []
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        shared.append(mine)
    return tuple(shared)


def _dim(args: Any, kwargs: Any) -> Any:
    if "dim" in kwargs:
        return kwargs["dim"]
    return args[1] if len(args) > 1 else None


def _is_last(dim: Any, ndim: int) -> bool:
    return dim in (-1, ndim - 1)


def _by_identity(*tensors: Tensor | None) -> dict[int, Tensor]:
    return {id(tensor): tensor for tensor in tensors if tensor is not None}


def _flat(values: Any) -> Iterator[Any]:
    """Yield arguments, and those inside tuples and lists."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value
