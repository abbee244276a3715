"""Training with capture is training without it, to the last bit."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hf_decoders import build
from plain_decoders import (
    VOCAB,
    D,
    FusedAttention,
    Model,
    Residual,
    T,
    by_kernel,
    by_softmax,
    two_layers,
)
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tracker_viz.capture import Schedule, make_probe, record
from tracker_viz.capture.probe import DEFAULT_SCORE_ROWS


class Noisy(nn.Module):
    """Uses up every kind of random number, in evaluation too; counts its calls in a buffer."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.dropout = inner, nn.Dropout(0.2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("average", torch.zeros(D))

    def forward(self, x):
        with torch.no_grad():
            self.calls += 1
            self.average.mul_(0.9).add_(x.mean(dim=(0, 1)), alpha=0.1)
        x = x + 1e-3 * (torch.rand(()) + random.random() + np.random.rand())  # noqa: NPY002 - the global generator is the point
        return self.dropout(self.inner(x)) + 1e-3 * self.average


def careless(q, k, v):
    """Dropout in the kernel whatever the mode, as in many a training script."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.2)


def make_model(attend=by_kernel):
    torch.manual_seed(0)
    return Model(lambda _: Noisy(Residual(FusedAttention(attend, noted=False), two_layers())))


def recorder_of(model, schedule=None, **options):
    captures = []
    recorder = record(
        model,
        make_probe(VOCAB, T, text_ids=range(T)),
        schedule or Schedule.every(1),
        captures.append,
        **options,
    )
    return recorder, captures


def losses_of(model, *, capture, steps=6, autocast=False, inside_autocast=False):
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    recorder = recorder_of(model)[0] if capture else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(1, steps + 1):
        ids = torch.randint(VOCAB, (2, T))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(ids).flatten(0, 1).float(), ids.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if recorder and inside_autocast:
                recorder.step(step, loss=loss)
        if recorder and not inside_autocast:
            recorder.step(step, loss=loss)
        losses.append(loss.item())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ends = (torch.rand(()).item(), random.random(), np.random.rand())  # noqa: NPY002 - where each generator stands
    return losses, state, ends


@pytest.mark.parametrize("attend", [by_kernel, by_softmax, careless])
@pytest.mark.parametrize("autocast", [False, True, "inside"])
def test_the_loss_curve_the_weights_the_buffers_and_every_generator_are_the_same_to_the_bit(
    attend, autocast
):
    options = {"autocast": bool(autocast), "inside_autocast": autocast == "inside"}
    without, with_capture = (
        losses_of(make_model(attend), capture=capture, **options) for capture in (False, True)
    )
    assert with_capture[0] == without[0]
    assert with_capture[2] == without[2]
    for name, tensor in without[1].items():
        assert torch.equal(tensor, with_capture[1][name]), name


class KeepsAttributes(nn.Module):
    """Keep losses of layers in a list, a counter and a cache as plain attributes, as many training
    scripts do."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.n_calls, self.losses, self.by_name, self.seen = inner, 0, [], {}, set()

    def forward(self, x):
        self.n_calls += 1
        y = self.inner(x) * (1 + 0.01 * self.n_calls)
        self.cached_mean = y.detach().mean()
        self.losses.append(y.square().mean())
        self.by_name[self.n_calls] = y
        self.seen.add(self.n_calls)
        return y


def test_losses_counters_and_caches_in_attributes_are_as_they_were():
    def losses(capture):
        torch.manual_seed(0)
        model = Model(
            lambda _: KeepsAttributes(
                Residual(FusedAttention(by_kernel, noted=False), two_layers())
            )
        )
        recorder = recorder_of(model)[0] if capture else None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        seen = []
        for step in range(1, 4):
            ids = torch.randint(VOCAB, (2, T), generator=torch.Generator().manual_seed(step))
            loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()) + sum(
                sum(block.losses) for block in model.blocks
            )
            for block in model.blocks:
                block.losses.clear()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if recorder:
                recorder.step(step, loss=loss)
            seen.append(loss.item())
        first = model.blocks[0]
        return (
            seen,
            [set(vars(block)) for block in model.blocks],
            first.n_calls,
            first.cached_mean,
            list(first.by_name),
            first.seen,
        )

    assert losses(True) == losses(False)


@pytest.mark.parametrize(("attend", "dropout"), [(careless, 0.0), (by_kernel, 0.5)])
def test_a_probe_shows_the_same_attention_each_time_even_if_dropout_stays_on_in_the_kernel(
    attend, dropout
):
    torch.manual_seed(0)
    mlp = nn.Sequential(two_layers(), nn.Dropout(dropout))
    recorder, captures = recorder_of(
        Model(lambda _: Residual(FusedAttention(attend, noted=False), mlp))
    )
    recorder.step(1)
    torch.rand(5)
    recorder.step(2)
    name = "blocks.1.attn.pattern"
    assert np.array_equal(captures[1].arrays[name], captures[2].arrays[name])


def test_weights_cast_for_the_probe_are_not_found_by_a_training_step_under_the_same_autocast():
    model = make_model()
    recorder, _ = recorder_of(model, autocast=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        capture = recorder.camera.take(1, None, {})
        model(torch.zeros(1, T, dtype=torch.int64)).sum().backward()
    assert "blocks.1.attn.pattern" in capture.arrays
    assert all(
        parameter.grad is not None
        for parameter in model.parameters()
        if parameter is not model.positions.weight
    )


def test_every_module_keeps_its_own_mode():
    model = make_model()
    model.blocks[0].eval()  # frozen, inside a model that trains
    before = {name: module.training for name, module in model.named_modules()}
    recorder, _ = recorder_of(model)
    recorder.step(1)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert True in before.values()
    assert False in before.values()


def test_gradients_and_what_requires_them_are_left_alone():
    model = make_model()
    model.blocks[0].requires_grad_(False)
    model(torch.zeros(1, T, dtype=torch.int64)).sum().backward()
    gradients = {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    recorder, _ = recorder_of(model)
    recorder.step(1)
    assert torch.is_grad_enabled()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (gradients[name] is None)
        assert parameter.grad is None or torch.equal(parameter.grad, gradients[name])


def test_capture_works_where_gradients_are_off_and_leaves_them_off():
    model = make_model()
    with torch.inference_mode():
        recorder, captures = recorder_of(model)
        recorder.step(1)
        assert torch.is_inference_mode_enabled()
    assert len(captures) == 2


def test_hooks_come_off_and_the_users_own_stay():
    model = make_model()
    own = model.blocks[0].register_forward_hook(lambda *_: None)
    before = hooks_of(model)
    recorder, _ = recorder_of(model)
    recorder.step(1)
    assert hooks_of(model) == before
    assert own.id in model.blocks[0]._forward_hooks


def test_hooks_and_modes_come_back_when_the_model_raises():
    model = make_model()
    recorder, _ = recorder_of(model)
    before = hooks_of(model)

    def broken(q, k, v):
        raise RuntimeError("out of memory")

    model.blocks[1].inner.attn.attend = broken
    with pytest.raises(RuntimeError, match="out of memory"):
        recorder.camera.take(1, None, {})
    assert hooks_of(model) == before
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()
    assert not torch.overrides._get_current_function_mode_stack()


def test_a_training_that_allows_one_attention_kernel_only_is_captured_by_any_and_keeps_its_own():
    recorder, _ = recorder_of(make_model())
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):  # which does not take what the probe gives it
        capture = recorder.camera.take(1, None, {})
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert not torch.backends.cuda.math_sdp_enabled()
    assert "blocks.1.attn.pattern" in capture.arrays


def hooks_of(model):
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_forward_hooks_always_called",
        "_forward_hooks_with_kwargs",
    )
    return {
        (name, kind): list(getattr(module, kind))
        for name, module in model.named_modules()
        for kind in kinds
    }


# -- torch.compile ---------------------------------------------------------------------------------


@pytest.fixture
def compilations():
    """A backend that only counts what it is asked to compile."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    yield backend, graphs
    torch._dynamo.reset()


@pytest.mark.parametrize("how", ["wrapper", "in place", "block by block"])
def test_a_compiled_model_is_captured_uncompiled_and_never_compiled_again(compilations, how):
    backend, graphs = compilations
    torch.manual_seed(0)
    model = Model(lambda _: Residual(FusedAttention(by_kernel, noted=False), two_layers()))
    if how == "wrapper":
        trained = torch.compile(model, backend=backend)
    elif how == "in place":
        model.compile(backend=backend)
        trained = model
    else:
        for index, block in enumerate(model.blocks):
            model.blocks[index] = torch.compile(block, backend=backend)
        trained = model
    ids = torch.randint(VOCAB, (2, T))
    trained(ids).sum().backward()
    before, breaks = len(graphs), sum(torch._dynamo.utils.counters["graph_break"].values())
    assert before > 0
    recorder, captures = recorder_of(trained)
    for step in range(1, 4):
        trained(ids).sum().backward()
        recorder.step(step)
    trained(ids).sum().backward()
    assert len(graphs) == before
    assert sum(torch._dynamo.utils.counters["graph_break"].values()) == breaks
    assert [capture.arrays["blocks.1.attn.pattern"].shape for capture in captures] == [
        (2 + DEFAULT_SCORE_ROWS, 4, T, T)
    ] * 4
    assert captures[0].model["name"] == "Model"


# -- Hugging Face ----------------------------------------------------------------------------------


def test_gradient_checkpointing_stays_on_and_the_loss_the_same():
    def losses(capture):
        model = build("llama").train()
        model.gradient_checkpointing_enable()
        recorder = recorder_of(model)[0] if capture else None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        seen = []
        for step in range(1, 4):
            ids = torch.randint(90, (2, T), generator=torch.Generator().manual_seed(step))
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if recorder:
                recorder.step(step, loss=loss)
            seen.append(loss.item())
        assert model.is_gradient_checkpointing
        assert model.training
        return seen

    assert losses(True) == losses(False)


def test_no_cache_is_made_and_the_configuration_is_as_before():
    model = build("llama")
    before = copy.deepcopy(model.config.to_dict())
    seen = []
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs.get("past_key_values")), with_kwargs=True
    )
    recorder, _ = recorder_of(model)
    recorder.step(1)
    first_look = [None, None]  # on what is drawn, and on what is scored
    assert seen == [*first_look, None]
    assert model.config.to_dict() == before
    prompt = torch.tensor([[5, 6, 7]])
    continued = model.generate(prompt, max_new_tokens=4, do_sample=False)
    recorder.step(2)
    assert torch.equal(model.generate(prompt, max_new_tokens=4, do_sample=False), continued)


class Around(nn.Module):
    """As a LightningModule is."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids)


@pytest.mark.parametrize(
    "around", [lambda model: model, Around], ids=["alone", "inside another module"]
)
def test_flex_attention_is_shown_through_the_same_maths_and_put_back(around):
    model = build("llama")
    model.set_attn_implementation("flex_attention")
    recorder, captures = recorder_of(around(model))
    assert recorder.camera.model_info["found"]["attention"] == ["scaled_dot_product_attention"]
    recorder.step(1)
    assert model.config._attn_implementation == "flex_attention"
    reference, shown = recorder_of(build("llama"))
    reference.step(1)
    for name, array in shown[0].arrays.items():
        assert np.array_equal(captures[0].arrays[name], array, equal_nan=True)
