"""The three promises of a capture, held by models of every kind: nothing of the training changes,
steps without a capture cost nothing, and what captures cost is counted."""

from __future__ import annotations

import contextlib
import sys

import pytest
import torch
from hf_mixers import recorded
from plain_decoders import DK, T
from promising_models import KINDS, N_CALLS, made, probe_of, trainer
from test_nothing_changes import hooks_of
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from tracker_viz.capture import CostLimit, Governor, Schedule, record


@pytest.mark.parametrize("kind", KINDS)
def test_losses_weights_and_generators_are_the_same_to_the_bit(kind):
    def trained(capture):
        model = made(kind)
        torch.manual_seed(1)
        captures = []
        recorder = None
        if capture:
            recorder = record(model, probe_of(model), Schedule.every(1), captures.append)
        train, losses = trainer(model), []
        for step in range(1, 4):
            losses.append(train(step).item())
            if recorder is not None:
                recorder.step(step)
        if recorder is not None:
            recorder.close()
            assert [each.step for each in captures] == [0, 1, 2, 3]
        return losses, model.state_dict(), torch.get_rng_state()

    losses, state, generator = trained(False)
    assert len(set(losses)) == len(losses), "nothing was trained"
    losses_with, state_with, generator_with = trained(True)
    assert losses_with == losses
    assert torch.equal(generator_with, generator)
    for name, tensor in state.items():
        assert torch.equal(state_with[name], tensor), name


@pytest.mark.parametrize("kind", KINDS)
def test_between_captures_a_step_is_one_call_that_calls_nothing_and_the_model_is_as_it_was(kind):
    model = made(kind)
    before = traces_of(model)
    recorder = record(model, probe_of(model), Schedule.every(4), [].append)
    train = trainer(model)
    for step in range(1, 7):
        loss = train(step)
        with Calls() as calls:
            recorder.step(step, loss=loss)
        # At the first one the recorder learns how the loop counts.
        if step not in (1, 4):
            assert calls.names == ["step"]
        assert traces_of(model) == before


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_a_capture_calls_is_on_the_governors_bill_which_thins_the_schedule(kind):
    model = made(kind)
    schedule = Schedule.every(1)
    captured = {}
    with Calls() as calls:
        clock = calls.names.__len__
        governor = Governor(schedule, CostLimit(0.5, free_s=0), clock=clock)
        recorder = record(model, probe_of(model), schedule, [].append, governor=governor)
        train = trainer(model)
        for step in range(1, 7):
            train(step)
            started = clock()
            recorder.step(step)
            if recorder.captured_steps[-1] == step:
                captured[step] = clock() - started
    assert len(captured) == governor.n_captures
    assert 0.97 * sum(captured.values()) <= governor.spent_s <= sum(captured.values())
    assert governor.n_left_out > 0
    assert len(captured) < 6


# kind -> (its kernel, how often a step calls it, how often more a capture calls it): once for as
# many columns of the identity as a head has channels, or all channels together.
ASKED = {
    "mixer, asked": ("torch_chunk_gated_delta_rule", 1, 1 * T // 8),
    "mixer of channels, asked": ("mamba_selective_scan", 2, 2 * -(-8 // (48 // T))),
    "kernel, asked": ("memory_efficient_attention", 2, 2 * -(-T // DK)),
    "loop, run again": ("delta", 2, 2 * -(-T // DK)),
    "module, asked": ("SigmoidCore", 2, 2 * -(-T // DK)),
}


@pytest.mark.parametrize("kind", ASKED)
def test_asking_costs_one_further_call_for_each_piece_of_columns_on_capture_steps_alone(kind):
    kernel, own, further = ASKED[kind]
    model = made(kind)
    seen = []
    counting = contextlib.nullcontext()
    if kernel not in N_CALLS:
        counting = recorded(model, kernel, seen)

    def n_calls():
        return N_CALLS.get(kernel, 0) + len(seen)

    with counting:
        recorder = record(model, probe_of(model), Schedule.every(2), [].append)
        train, made_by = trainer(model), []
        for step in range(1, 5):
            started = n_calls()
            train(step)
            trained = n_calls()
            recorder.step(step)
            made_by.append((trained - started, n_calls() - trained))
    assert made_by == [(own, 0), (own, own + further)] * 2


class Calls:
    """The names of the functions that this thread calls inside the block, in order."""

    def __enter__(self):
        self.names = []
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        del self.names[-2:]  # this function, and what it called

    def _note(self, frame, event, argument):
        if event == "call":
            self.names.append(frame.f_code.co_name)
        elif event == "c_call":
            self.names.append(argument.__qualname__)


def traces_of(model):
    """Return what a capture could leave behind."""
    files = {type(module).__module__ for module in model.modules()}
    functions = {}
    for file in files - {"torch.nn.modules.container"}:
        for name, value in vars(sys.modules[file]).items():
            if callable(value):
                functions[file, name] = id(value)
    return {
        "hooks": hooks_of(model),
        "functions": functions,
        "attributes": {name: {*vars(module)} for name, module in model.named_modules()},
        "modes": (
            torch.overrides._get_current_function_mode_stack(),
            _get_current_dispatch_mode_stack(),
        ),
        "global hooks": (
            dict(torch.nn.modules.module._global_forward_hooks),
            dict(torch.nn.modules.module._global_forward_pre_hooks),
        ),
    }
