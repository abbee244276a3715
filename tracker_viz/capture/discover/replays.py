"""Look again at blocks in which nothing was seen to mix tokens: recurrences that are written as a
loop, convolutions. Their mixers are run once more with other values inside (``attention.replay``).

``find_replays`` is called once, by ``blocks.discover``; ``replaying`` in every pass after it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture.attention.calls import AGAIN, AttentionCall, Kind, ModuleStack
from tracker_viz.capture.attention.kernels.asking import Answer
from tracker_viz.capture.attention.probabilities import rows_sum_to_one
from tracker_viz.capture.attention.replay import (
    Place,
    Replay,
    ReplayPlan,
    Steps,
    ask_replay,
    tensors_of,
)
from tracker_viz.capture.attention.replay_search import ReplaySearch
from tracker_viz.capture.discover.row_loop import RowLoop
from tracker_viz.capture.isolation import Forward
from tracker_viz.capture.weights.gathering import Gatherer

log = logging.getLogger("tracker_viz.capture")

_Kind = tuple[type[nn.Module], ...]
# No other call of a module has this number.
_ORDINAL = -1
_ROUNDING = 1e-6


def find_replays(
    model: nn.Module, input_ids: Tensor, forward: Forward, blocks: Collection[str] | None
) -> tuple[list[ReplayPlan], list[AttentionCall], dict[str, str]]:
    """Run the probe once more, and search the modules that mix tokens.

    Args:
        blocks: names of the blocks to search, and of what is beside them; all of the model if None.

    Returns:
        Where in which modules, what was seen there, and of modules that mix tokens and have no
        matrix a sentence, by name: of each kind one.
    """
    search = _ModuleSearch(input_ids.shape)
    loop = RowLoop(input_ids.shape, search.begin_rows)
    modules = [(name, module) for name, module in model.named_modules() if name]
    within = [(name, module) for name, module in modules if _is_within(name, blocks)]
    handles = []
    try:
        # Registered before those of the stack, so that a module is still on it.
        for name, module in within:
            if _may_mix(module):
                hook = search.leaving(name)
                handles.append(module.register_forward_hook(hook, with_kwargs=True))
        running = Gatherer(model).while_running()
        with search.stack.following(modules), loop.following(model), running:
            forward(model, input_ids)
    finally:
        for handle in handles:
            handle.remove()
    return search.plans, search.calls, search.refused


@contextmanager
def replaying(
    model: nn.Module,
    plans: Sequence[ReplayPlan],
    stack: ModuleStack,
    shape: Callable[[], tuple[int, int]],
    aside: Callable[[], Any],
    keep: Callable[[AttentionCall], None],
) -> Iterator[None]:
    """Ask the modules of ``plans`` for their matrices when they run, inside the ``with``.

    Args:
        stack: the modules that are running, not yet followed.
        shape: returns rows and tokens of what the model is given now.
        aside: a ``with`` in which nobody else looks.
        keep: takes each call.
    """
    handles = []
    try:
        for plan in plans:
            module = model.get_submodule(plan.module)
            asking = _Asking(plan, stack, shape, aside, keep)
            handles.append(module.register_forward_pre_hook(asking.enter))
            handles.append(
                module.register_forward_hook(asking.leave, with_kwargs=True, always_call=True)
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


class _ModuleSearch:
    """Searches every module when it has run, those inside of another one first."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.stack = ModuleStack()
        self.calls: list[AttentionCall] = []
        self._n_rows, self._length = shape
        self._plans: dict[str, ReplayPlan] = {}
        self.refused: dict[str, str] = {}
        # Kind of module (see ``_kind``) -> the plan of the last one, or None if it had none: blocks
        # are alike, and searching takes many runs.
        self._plan_of_kind: dict[_Kind, ReplayPlan | None] = {}

    @property
    def plans(self) -> list[ReplayPlan]:
        return list(self._plans.values())

    def begin_rows(self, n_rows: int) -> None:
        self._n_rows = n_rows
        self.stack.entries.clear()

    def leaving(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if self.stack.entries.get(name) != 1:
                return
            replay = Replay(module, args, kwargs, self._n_rows, self._length)
            with self.stack.unmoved():
                if name in self._plans:  # further rows of the probe
                    self._keep(self._plans[name], _asked_again(replay, self._plans[name]))
                elif self._is_worth_searching(name):
                    self._search(name, module, replay, list(tensors_of(output)))

        return leave

    def _is_worth_searching(self, name: str) -> bool:
        inside = _within([*self._plans, *self.refused], name)
        # Around two mixers is no mixer; around one with heads neither.
        has_heads = any(each in self._plans and self._plans[each].how == "heads" for each in inside)
        return len(inside) < 2 and not has_heads

    def _search(self, name: str, module: nn.Module, replay: Replay, returned: list[Tensor]) -> None:
        kind = tuple(type(each) for each in module.modules())
        if kind in self._plan_of_kind:
            alike = self._plan_of_kind[kind]
            plan = None if alike is None else replace(alike, module=name)
            answer = None if plan is None else _asked_again(replay, plan)
            if plan is None or answer is not None:
                self._note(name, kind, plan, answer)
                return

        search = ReplaySearch(name, replay, returned)
        mixes, found = False, None
        try:
            mixes = search.mixes_tokens()
            if mixes:
                found = search.find(heads_only=bool(_within(self._plans, name)))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - somebody else's module, on values of ours
            log.debug("%s cannot be run again: %s", name, error)
        plan, answer = found or (None, None)
        self._note(name, kind, plan, answer)
        if mixes and plan is None and not _within([*self._plans, *self.refused], name):
            self.refused[name] = _refusal(name, is_linear=search.is_linear)

    def _note(self, name: str, kind: _Kind, plan: ReplayPlan | None, answer: Answer | None) -> None:
        self._plan_of_kind[kind] = plan
        if plan is None:
            return
        for inside in _within(self._plans, name):
            # A short convolution beside the mixer that was found now.
            del self._plans[inside]
            self.calls = [call for call in self.calls if call.module != inside]
        for inside in _within(self.refused, name):
            del self.refused[inside]
        self._plans[name] = plan
        self._keep(plan, answer)

    def _keep(self, plan: ReplayPlan, answer: Answer | None) -> None:
        if answer is not None:
            self.calls.append(_call_of(plan, answer, self.stack))


def _asked_again(replay: Replay, plan: ReplayPlan) -> Answer | None:
    """Ask a module at the places that a plan names, which are looked at by one more run."""
    noted = _Noted(plan)
    noted.entering(replay)
    replay.run(give=noted.give, take=noted.take)
    return noted.asked(replay)


class _Noted:
    """Notes what the two places of a plan hold during one pass."""

    def __init__(self, plan: ReplayPlan) -> None:
        self._plan = plan
        self._values: Tensor | None = None
        self._mixed: Tensor | None = None

    def entering(self, replay: Replay) -> None:
        for place, tensor in replay.entering():
            self.give(place, tensor, None)

    def give(self, place: Place, tensor: Tensor, _function: Any) -> None:
        if place == self._plan.values:
            self._values = tensor.detach().clone()

    def take(self, place: Place, tensor: Tensor) -> None:
        if place == self._plan.mixed:
            self._mixed = tensor.detach().clone()

    def asked(self, replay: Replay) -> Answer | None:
        if self._values is None or self._mixed is None:
            return None
        return ask_replay(replay, self._plan, self._values, self._mixed)


class _Asking:
    """Asks one module, each time that it runs."""

    def __init__(
        self,
        plan: ReplayPlan,
        stack: ModuleStack,
        shape: Callable[[], tuple[int, int]],
        aside: Callable[[], Any],
        keep: Callable[[AttentionCall], None],
    ) -> None:
        self._plan, self._stack = plan, stack
        self._shape, self._aside, self._keep = shape, aside, keep
        # One for each call of the module that is running.
        self._running: list[tuple[_Noted, Steps]] = []

    def enter(self, _module: nn.Module, _args: Any) -> None:
        noted = _Noted(self._plan)
        steps = Steps(give=noted.give, take=noted.take)
        self._running.append((noted, steps))
        steps.__enter__()

    def leave(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        noted, steps = self._running.pop()
        steps.__exit__(None, None, None)
        # None: the pass has failed inside the module.
        if output is None or self._stack.entries.get(self._plan.module) != 1:
            return
        steps.end(output)
        replay = Replay(module, args, kwargs, *self._shape())
        noted.entering(replay)
        with self._aside(), self._stack.unmoved():
            answer = noted.asked(replay)
        if answer is not None:
            self._keep(_call_of(self._plan, answer, self._stack))


def _call_of(plan: ReplayPlan, answer: Answer, stack: ModuleStack) -> AttentionCall:
    modules = tuple(stack.names)
    kind: Kind = "mixing"
    if plan.how == "heads" and answer.matrix.min() > -_ROUNDING and rows_sum_to_one(answer.matrix):
        kind = "attention"
    source = AGAIN
    if plan.how != "heads":
        source += ", a convolution"
    if plan.is_part:
        source += ", one step of several"
    return AttentionCall(
        modules,
        entries=tuple(stack.entries[name] for name in modules),
        ordinal=_ORDINAL,
        source=source,
        pattern=answer.matrix,
        n_kv_heads=answer.values.shape[1],
        error=answer.error,
        kind=kind,
        channels=answer.channels,
    )


def _refusal(name: str, *, is_linear: bool) -> str:
    if is_linear:
        return (
            f"{name}, which mixes every channel in its own way over the whole row: its scan as a "
            "function rnn_scan(x, a) of [row, token, channel] tensors can be asked"
        )
    return f"{name}, which mixes tokens, and nothing inside of it linearly"


def _within(names: Iterable[str], module: str) -> list[str]:
    """Return those of the names that are inside a module."""
    return [name for name in names if name.startswith(f"{module}.")]


def _is_within(name: str, blocks: Collection[str] | None) -> bool:
    return blocks is None or any(name == each or name.startswith(f"{each}.") for each in blocks)


def _may_mix(module: nn.Module) -> bool:
    is_torchs = type(module).__module__.startswith("torch.")
    return not is_torchs and not isinstance(module, torch.jit.ScriptModule)
