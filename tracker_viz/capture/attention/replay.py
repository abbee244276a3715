"""Run a module again, with other values at one place inside, and look at another place.

A recurrence that somebody wrote as a loop has no function that could be asked for its matrix, but
the module around it can be run once more with the identity in place of its values. Places are found
by ``replay_search``; this module runs, and asks at places that are known (``ReplayPlan``).
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tracker_viz.capture.attention.kernels.asking import (
    Answer,
    chosen_channels,
    difference,
    is_trivial,
    tolerated,
)
from tracker_viz.capture.attention.kernels.axes import Axes
from tracker_viz.capture.attention.probabilities import looks_back_only, repeated

# In place of a function's name: what enters the module, and what it returns.
_ENTERING, _RETURNED = "entering", "returned"
_PLAIN = (Tensor, nn.Parameter, tuple, list)

# How a module mixes: head by head; channel by channel, over a few tokens; channel by channel, by
# the same filter everywhere.
How = Literal["heads", "taps", "filter"]


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor inside a module's pass.

    Calls are counted for each function apart: what a model does in its first pass alone, such as
    making a mask that it keeps, moves few others.

    Attributes:
        function: name of the torch function that takes or gives it.
        nth: number of that function's call.
        index: the tensor's number among those that the call takes, or gives.
    """

    function: str
    nth: int
    index: int


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """Where in a module its values are, and what they become.

    Attributes:
        module: its name.
        values: the place that gives the values.
        mixed: the place that takes what they were mixed to.
        letters: axes of both (see ``axes``).
        how: how they are mixed.
        n_taps: tokens that each token is mixed from, itself included, for ``taps``.
        is_part: the module mixes tokens before these places as well, or behind them.
    """

    module: str
    values: Place
    mixed: Place
    letters: tuple[str, str]
    how: How
    n_taps: int = 0
    is_part: bool = False


class Replay:
    """A module and one call of it, which can be run again.

    Args:
        module: that was called.
        args, kwargs: that it was called with.
        n_rows, length: of the probe.
    """

    def __init__(
        self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], n_rows: int, length: int
    ) -> None:
        self.shape = n_rows, length
        self._module, self._args, self._kwargs = module, args, kwargs

    def run(
        self,
        change: Callable[[Tensor], Tensor] | None = None,
        at: Place | None = None,
        *,
        give: Callable[[Place, Tensor, Any], None] | None = None,
        take: Callable[[Place, Tensor], None] | None = None,
    ) -> list[Tensor]:
        """Run the module; return the tensors that it returns.

        Args:
            change: makes another tensor of the one at the place ``at``, of the same shape.
            give: is shown every tensor that a function gives, with the function.
            take: is shown every tensor that a function takes.
        """
        args, kwargs = self._args, self._kwargs
        if change is not None and at is not None and at.function == _ENTERING:
            args, kwargs = _changed((args, kwargs), at.index, change)
        steps = Steps(change, at, give=give, take=take)
        with steps:
            returned = self._module.forward(*args, **kwargs)
        return steps.end(returned)

    def entering(self) -> Iterator[tuple[Place, Tensor]]:
        """Yield the tensors that enter the module."""
        for index, tensor in enumerate(tensors_of((self._args, self._kwargs))):
            yield Place(_ENTERING, 0, index), tensor


class Steps(TorchFunctionMode):
    """Counts the torch functions that are called while it is active: arguments as in
    ``Replay.run``."""

    def __init__(
        self,
        change: Callable[[Tensor], Tensor] | None = None,
        at: Place | None = None,
        *,
        give: Callable[[Place, Tensor, Any], None] | None = None,
        take: Callable[[Place, Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self._change, self._at, self._give, self._take = change, at, give, take
        self._n_calls: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_called_by_a_hook():
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        nth = self._n_calls[name]
        self._n_calls[name] += 1
        if self._take is not None:
            for index, tensor in enumerate(tensors_of((args, kwargs))):
                self._take(Place(name, nth, index), tensor)
        output = func(*args, **kwargs)
        at = self._at
        if self._change is not None and at is not None and (name, nth) == (at.function, at.nth):
            output = _changed(output, at.index, self._change)
        # What a function writes into its argument is no place of its own.
        is_new = type(output) in _PLAIN and not any(output is arg for arg in args)
        if self._give is not None and is_new:
            for index, tensor in enumerate(tensors_of(output)):
                self._give(Place(name, nth, index), tensor, func)
        return output

    def end(self, returned: Any) -> list[Tensor]:
        """Show what the module returned as the last to be taken; return its tensors."""
        tensors = list(tensors_of(returned))
        if self._take is not None:
            for index, tensor in enumerate(tensors):
                self._take(Place(_RETURNED, 0, index), tensor)
        return tensors


def ask_replay(replay: Replay, plan: ReplayPlan, values: Tensor, mixed: Tensor) -> Answer | None:
    """Ask a module for its matrix where the places are known; None if it does not mix so.

    Args:
        values, mixed: what the two places held in the model's own pass.
    """
    letters = plan.letters[0]
    asked = ask_places(replay, plan.values, values, letters, plan.how, {plan.mixed}, plan.n_taps)
    return asked.answer({plan.mixed: mixed}, plan.mixed, plan.letters[1])


@dataclass(slots=True)
class Asked:
    """A module's answer to the identity in place of its values.

    Attributes:
        values: [row, position, head, channel] of the model's own; channels as heads of width 1
            unless ``how`` is ``heads``.
        runs: for each run, place -> what it took.
    """

    values: Tensor
    how: How
    n_taps: int
    shape: tuple[int, int]
    runs: list[dict[Place, Tensor]]

    def answer(self, own: Mapping[Place, Tensor], place: Place, letters: str) -> Answer | None:
        """Return the matrix by which the values become what ``place`` takes, in these axes; None if
        there is none.

        Args:
            own: place -> what it took in the model's own pass.
        """
        if any(place not in run for run in self.runs):
            return None
        taken = [self._chosen(run[place], letters) for run in self.runs]
        mixed = self._chosen(own[place], letters)
        if mixed is None or any(each is None for each in taken):
            return None
        matrix = self._matrix([each for each in taken if each is not None])
        return self._checked(matrix, mixed.transpose(1, 2))

    @property
    def channels(self) -> tuple[int, ...]:
        """The channels that are kept; empty where heads are."""
        return () if self.how == "heads" else tuple(chosen_channels(self.values.shape[2]))

    def _chosen(self, tensor: Tensor, letters: str) -> Tensor | None:
        """Return [row, position, head, channel] of all heads, or of the channels that are kept."""
        canonical = self._canonical(tensor, letters)
        if canonical is None or self.how == "heads":
            return canonical
        return canonical[:, :, list(self.channels)]

    def _canonical(self, tensor: Tensor, letters: str) -> Tensor | None:
        """Return [row, position, head, channel] with the heads of the values, or None."""
        axes = Axes(letters, *self.shape)
        if not axes.fit(tensor.shape):
            return None
        tensor = axes.canonical(tensor).float()
        n_heads, width = self.values.shape[2:]
        if tensor.shape[2] == 1 and tensor.shape[3] == n_heads * width:
            return tensor.reshape(*tensor.shape[:2], n_heads, width)
        if tensor.shape[3] != width or tensor.shape[2] % n_heads:
            return None
        if self.how != "heads" and tensor.shape[2] != n_heads:
            return None
        return tensor

    def _matrix(self, taken: list[Tensor]) -> Tensor:
        """Return [row, head, query, key] of [row, query, head, column], run by run."""
        length = self.shape[1]
        if self.how == "heads":
            return torch.cat(taken, dim=-1)[..., :length].transpose(1, 2)
        by_run = torch.stack([each[..., 0].transpose(1, 2) for each in taken], dim=-1)
        place = torch.arange(length, device=by_run.device)
        behind = place[:, None] - place[None, :]  # [query, key]
        if self.how == "filter":  # one run, with a one at the first token
            return by_run[..., 0][..., behind.clamp(min=0)].masked_fill(behind < 0, 0)
        # In run c every n_taps-th token from c on was a one: of these, one alone reaches a query.
        column = (place % self.n_taps).expand(length, length)
        every = by_run.gather(-1, column.expand(*by_run.shape[:3], length))
        return every.masked_fill((behind < 0) | (behind >= self.n_taps), 0)

    def _checked(self, matrix: Tensor, mixed: Tensor) -> Answer | None:
        values = self.values.transpose(1, 2).float()
        if self.channels:
            values = values[:, list(self.channels)]
        error = difference(torch.matmul(matrix, repeated(values, matrix.shape[1])), mixed)
        if error > tolerated(mixed.to(self.values.dtype)) or is_trivial(matrix):
            return None
        if not looks_back_only(matrix.abs()):
            return None
        return Answer(matrix, error, values, self.channels)


def ask_places(
    replay: Replay,
    at: Place,
    values: Tensor,
    letters: str,
    how: How,
    wanted: Set[Place],
    n_taps: int = 0,
) -> Asked:
    """Run a module with the identity in place of the values: one run for as many columns as a head
    has channels, one for each tap, or a single one for a filter.

    Args:
        at: the place of the values.
        values, letters: what it holds in the model's own pass, and its axes.
        wanted: the places to look at.
    """
    n_rows, length = replay.shape
    axes = Axes(letters, n_rows, length)
    canonical = axes.canonical(values)
    if how != "heads":
        canonical = canonical.flatten(2).unsqueeze(-1)
    asked = Asked(canonical, how, n_taps, replay.shape, [])
    for given in _identities(canonical, how, n_taps, length):
        taken: dict[Place, Tensor] = {}

        def note(place: Place, tensor: Tensor, taken: dict[Place, Tensor] = taken) -> None:
            if place in wanted:
                taken[place] = tensor.detach().clone()

        as_given = axes.original(given.reshape(axes.canonical(values).shape))
        replay.run(partial(_instead, as_given), at, take=note)
        asked.runs.append(taken)
    return asked


def _instead(given: Tensor, _own: Tensor) -> Tensor:
    return given


def _identities(canonical: Tensor, how: How, n_taps: int, length: int) -> Iterator[Tensor]:
    """Yield what takes the place of the values [row, position, head, channel] in each run."""
    if how == "heads":
        width = canonical.shape[-1]
        for first in range(0, length, width):
            given = torch.zeros_like(canonical)
            place = torch.arange(min(width, length - first), device=canonical.device)
            given[:, first + place, :, place] = 1
            yield given
        return
    for first in range(n_taps if how == "taps" else 1):
        given = torch.zeros_like(canonical)
        if how == "taps":
            given[:, first::n_taps] = 1
        else:
            given[:, 0] = 1
        yield given


def is_of_tokens(tensor: Tensor, n_rows: int, length: int) -> bool:
    """Return whether a tensor may hold numbers for every token of the probe."""
    is_numbers = tensor.ndim >= 2 and tensor.is_floating_point()
    return is_numbers and tensor.numel() > 0 and tensor.numel() % (n_rows * length) == 0


def tensors_of(values: Any) -> Iterator[Tensor]:
    """Yield tensors, those inside tuples, lists and mappings too."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from tensors_of(value)
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from tensors_of(value)


def _is_called_by_a_hook() -> bool:
    """Return whether this package, and not the model, has called the torch function: hooks on
    modules inside are not the same in every pass."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_globals.get("__name__", "")
        if file.partition(".")[0] != "torch":
            return file.startswith("tracker_viz.capture.")
        frame = frame.f_back
    return False


def _changed(values: Any, index: int, change: Callable[[Tensor], Tensor]) -> Any:
    """Return values with their tensor ``index`` (in the order of ``tensors_of``) changed."""
    numbers = itertools.count()

    def replaced(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value) if next(numbers) == index else value
        if type(value) in (tuple, list):
            return type(value)(map(replaced, value))
        if type(value) is dict:
            return {name: replaced(each) for name, each in value.items()}
        for _ in tensors_of(value):
            next(numbers)
        return value

    return replaced(values)
