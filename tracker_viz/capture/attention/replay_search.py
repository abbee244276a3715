"""Find where in a module its values are, and what they are mixed to: two places between which the
module is linear, later tokens take from earlier ones, and every head (or channel) by one matrix.

A module is run again with the values of the first half of a row doubled and the others 0. Where it
is linear in them, what they become is doubled in the first half; where it mixes tokens, it is not 0
in the second. What remains is asked, and the answer is checked as every other one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tracker_viz.capture.attention.kernels.asking import Answer, tolerated
from tracker_viz.capture.attention.kernels.axes import Axes, possible_axes
from tracker_viz.capture.attention.replay import (
    Asked,
    How,
    Place,
    Replay,
    ReplayPlan,
    ask_places,
    is_of_tokens,
)
from tracker_viz.capture.distributed import is_dtensor

# A gate times values is linear in both: what is not made by a product is looked at first.
_PRODUCTS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__}
# Tensors of a module that are tried as its values; a module takes fewer before it mixes them.
_MOST_TRIED = 32
# Tokens that a short convolution reaches back, itself included.
_MOST_TAPS = 8


@dataclass(frozen=True, slots=True)
class _Given:
    """A tensor that a place gives, its axes, and whether a product made it."""

    tensor: Tensor
    letters: str
    is_product: bool


class ReplaySearch:
    """Searches one call of a module.

    Args:
        name: of the module.
        replay: of the call.
        returned: the tensors that it returned.
    """

    def __init__(self, name: str, replay: Replay, returned: list[Tensor]) -> None:
        self._name, self._replay = name, replay
        self._returned = returned
        self._own: dict[Place, Tensor] = {}
        self._given: dict[Place, _Given] = {}
        # Place that takes a tensor -> the one that gave it
        self._giver: dict[Place, Place | None] = {}
        # What enters the module, and a change of its first half.
        self._stream: tuple[Place, Callable[[Tensor], Tensor]] | None = None
        self._mixed: dict[Place, list[Place]] = {}

    def mixes_tokens(self) -> bool:
        """Return whether the end of a row changes with its beginning."""
        for place, tensor in list(self._replay.entering())[:4]:
            letters = self._reading(tensor)
            if not letters or tensor.ndim < 3:
                continue
            self._stream = place, partial(self._halved, letters, 2, 1)
            changed = self._replay.run(self._stream[1], place)
            for ours, own in zip(changed, self._returned, strict=False):
                if ours.shape == own.shape and self._differs_at_the_end(ours, own):
                    return True
        return False

    def find(self, *, heads_only: bool = False) -> tuple[ReplayPlan, Answer] | None:
        """Return where the module mixes, and its matrix; heads before channels."""
        if not self._note_places():
            return None
        hows: tuple[How, ...] = ("heads",) if heads_only else ("heads", "taps")
        for how in hows:
            for place in self._by_promise():
                found = self._asked(place, how)
                if found is not None:
                    plan, answer = found
                    is_part = self._is_mixed_before(place) or self._mixes_after(plan.mixed)
                    return replace(plan, is_part=is_part), answer
        return None

    @property
    def is_linear(self) -> bool:
        """After ``find``: whether anything inside is mixed linearly."""
        return any(self._mixed.values())

    def _note_places(self) -> bool:
        """Run once more as before; return whether the module returns the same."""

        # Kept alive, so that no other tensor gets their addresses.
        alive: list[Tensor] = []
        seen: dict[tuple[int, int], Tensor] = {}
        givers: dict[tuple[int, int], Place] = {}

        def take(place: Place, tensor: Tensor) -> None:
            # A loop takes the same tensor at every token; one that it writes into is not whole yet.
            once = _identity(tensor)
            if place.function == "__setitem__" or once in seen or not self._reading(tensor):
                return
            seen[once] = tensor
            self._own[place] = tensor.detach().clone()
            self._giver[place] = givers.get(once)

        def give(place: Place, tensor: Tensor, func: Any) -> None:
            letters = self._reading(tensor)
            if letters and func is not None:
                givers[_identity(tensor)] = place
                alive.append(tensor)
            if letters and tensor.ndim >= 3 and len(self._given) < _MOST_TRIED:
                self._given[place] = _Given(tensor.detach().clone(), letters, func in _PRODUCTS)

        for place, tensor in self._replay.entering():
            give(place, tensor, None)
        again = self._replay.run(give=give, take=take)
        if len(again) != len(self._returned):
            return False
        for ours, own in zip(again, self._returned, strict=True):
            if ours.shape != own.shape or not torch.allclose(ours, own, 1e-4, 1e-6, True):
                return False
        return True

    def _by_promise(self) -> list[Place]:
        """Return the places that may hold the values, in the order in which they are tried: the
        first calls first, products after all others; of parts of one tensor the last, where values
        usually are."""

        def order(place: Place) -> tuple[bool, int, int]:
            call = calls.index((place.function, place.nth))
            return self._given[place].is_product, call, -place.index

        calls = list(dict.fromkeys((place.function, place.nth) for place in self._given))
        return sorted(self._given, key=order)

    def _asked(self, place: Place, how: How) -> tuple[ReplayPlan, Answer] | None:
        values, letters = self._given[place].tensor, self._given[place].letters
        mixed = self._mixed_from(place)
        if not mixed:
            return None
        if how == "heads":
            asked = ask_places(self._replay, place, values, letters, "heads", {*mixed})
            return self._first_answer(place, letters, asked, mixed)
        # Asked as a filter first: how far it reaches says how to ask.
        asked = ask_places(self._replay, place, values, letters, "filter", {*mixed})
        (taken,) = asked.runs
        n_taps = max((self._reach(taken[each]) for each in mixed if each in taken), default=1)
        if n_taps <= _MOST_TAPS:
            asked = ask_places(self._replay, place, values, letters, "taps", {*mixed}, n_taps)
        return self._first_answer(place, letters, asked, mixed)

    def _is_mixed_before(self, place: Place) -> bool:
        """Return whether the values of a token depend on earlier ones already."""
        own, given = self._given[place].tensor, []

        def give(at: Place, tensor: Tensor, _function: Any) -> None:
            if at == place:
                given.append(self._differs_at_the_end(tensor, own))

        if self._stream is None:
            return False
        entering, change = self._stream
        self._replay.run(change, entering, give=give)
        return any(given)

    def _mixes_after(self, place: Place) -> bool:
        """Return whether what the module returns for a token depends on what this place takes for
        earlier ones; False where no function gave it as it is (it was written piece by piece)."""
        giver = self._giver[place]
        letters = self._reading(self._own[place])
        if giver is None:
            return False
        changed = self._replay.run(partial(self._halved, letters, 2, 1), giver)
        pairs = zip(changed, self._returned, strict=True)
        return any(self._differs_at_the_end(ours, own) for ours, own in pairs)

    def _first_answer(
        self, place: Place, letters: str, asked: Asked, mixed: list[Place]
    ) -> tuple[ReplayPlan, Answer] | None:
        for taken in reversed(mixed):
            for axes in possible_axes(self._own[taken].shape, *self._replay.shape):
                answer = asked.answer(self._own, taken, axes.letters)
                if answer is None:
                    continue
                both = letters, axes.letters
                plan = ReplayPlan(self._name, place, taken, both, asked.how, asked.n_taps)
                return plan, answer
        return None

    def _mixed_from(self, place: Place) -> list[Place]:
        """Return the places that take tensors in which tokens are mixed linearly from what this
        place gives."""
        if place in self._mixed:
            return self._mixed[place]
        letters = self._given[place].letters
        taken: dict[Place, Tensor] = {}

        def take(at: Place, tensor: Tensor) -> None:
            if at in self._own and tensor.shape == self._own[at].shape:
                taken[at] = tensor.detach().clone()

        self._replay.run(partial(self._halved, letters, 2, 0), place, take=take)
        self._mixed[place] = [at for at, tensor in taken.items() if self._is_mixed(at, tensor)]
        return self._mixed[place]

    def _is_mixed(self, place: Place, tensor: Tensor) -> bool:
        own = self._own[place]
        letters = self._reading(own)
        ours, theirs = self._by_token(tensor, letters), self._by_token(own, letters)
        half = ours.shape[1] // 2
        is_linear = (ours[:, :half] - 2 * theirs[:, :half]).abs().max() <= 2 * tolerated(own)
        return bool(is_linear & (ours[:, half:].abs().max() > tolerated(own)))

    def _differs_at_the_end(self, ours: Tensor, own: Tensor) -> bool:
        letters = self._reading(own)
        if not letters:
            return False
        change = self._by_token(ours, letters) - self._by_token(own, letters)
        return bool(change[:, change.shape[1] // 2 :].abs().max() > 1e-3 * tolerated(own))

    def _reach(self, response: Tensor) -> int:
        """Return the number of tokens, from the first on, that what the first one gave reaches."""
        sizes = self._by_token(response, self._reading(response)).abs().amax((0, 2))
        places = (sizes > 0).nonzero()
        return int(places.max()) + 1 if len(places) else 1

    def _reading(self, tensor: Tensor) -> str:
        """Return the most likely axes of a tensor, in letters; empty if it is nothing of tokens."""
        if not is_of_tokens(tensor, *self._replay.shape) or is_dtensor(tensor):
            return ""
        axes = next(possible_axes(tensor.shape, *self._replay.shape), None)
        return axes.letters if axes is not None else ""

    def _by_token(self, tensor: Tensor, letters: str) -> Tensor:
        """Return [row, position, channel]."""
        axes = Axes(letters, *self._replay.shape)
        return axes.canonical(tensor).flatten(2).float()

    def _halved(self, letters: str, first: float, last: float, tensor: Tensor) -> Tensor:
        """Return a tensor times ``first`` in the first half of each row, ``last`` in the other."""
        axes = Axes(letters, *self._replay.shape)
        canonical = axes.canonical(tensor).clone()
        half = canonical.shape[1] // 2
        canonical[:, :half] *= first
        canonical[:, half:] *= last
        return axes.original(canonical)


def _identity(tensor: Tensor) -> tuple[int, int]:
    """Return what is another number for every tensor, and for every time that it was written."""
    return id(tensor), 0 if tensor.is_inference() else tensor._version
