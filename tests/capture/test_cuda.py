"""On a GPU: training with capture is training without it, and nothing waits for the device but a
capture."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_decoders import (
    VOCAB,
    FusedAttention,
    GroupedAttention,
    Model,
    Residual,
    SwappedGate,
    T,
    by_kernel,
    two_layers,
)
from test_nothing_changes import make_model, recorder_of
from torch.nn.attention import SDPBackend, sdpa_kernel

from tracker_viz.capture import Schedule, record
from tracker_viz.errors import ProbeError

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def deterministic(monkeypatch):
    """Flash attention and embeddings add gradients up in any order unless told not to: two
    trainings without captures would differ, too."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def plain():
    torch.manual_seed(0)
    kinds = [
        lambda: (GroupedAttention(noted=False), SwappedGate()),
        lambda: (FusedAttention(by_kernel, noted=False), two_layers()),
    ]
    return Model(lambda index: Residual(*kinds[index]()))


def losses_of(model, *, capture, compiled=False, steps=6):
    model = model.cuda()
    trained = torch.compile(model) if compiled else model
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the model draws from the global generators
    recorder = recorder_of(trained)[0] if capture else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    losses = []
    for step in range(1, steps + 1):
        ids = torch.randint(VOCAB, (4, T), device="cuda")
        with torch.autocast("cuda", torch.bfloat16), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            logits = trained(ids)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if recorder:
            recorder.step(step, loss=loss)
        losses.append(loss.item())
    return losses, torch.cuda.get_rng_state().tolist(), torch.rand((), device="cuda").item()


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(("make", "compiled"), [(plain, False), (plain, True), (make_model, False)])
def test_under_bf16_flash_attention_and_compile_loss_and_generators_are_the_same_to_the_bit(
    make, compiled
):
    without, with_capture = (
        losses_of(make(), capture=capture, compiled=compiled) for capture in (False, True)
    )
    assert with_capture == without


def test_what_is_seen_on_the_gpu_is_what_is_seen_on_the_cpu():
    recorders = [recorder_of(model) for model in (plain().cuda(), plain())]
    for recorder, _ in recorders:
        recorder.close()
    on_gpu, on_cpu = (captures[0] for _, captures in recorders)
    assert set(on_gpu.arrays) == set(on_cpu.arrays)
    for name, array in on_gpu.arrays.items():
        np.testing.assert_allclose(
            array, on_cpu.arrays[name], atol=2e-3 if name.endswith("pattern") else 0
        )


def test_a_capture_does_not_change_when_training_goes_on():
    model = plain().cuda()
    recorder, captures = recorder_of(model)
    recorder.step(1)
    before = {name: array.copy() for name, array in captures[-1].arrays.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    recorder.step(2)
    torch.cuda.synchronize()
    for name, array in before.items():
        assert np.array_equal(captures[1].arrays[name], array, equal_nan=True)


def test_off_due_steps_nothing_waits_for_the_device():
    recorder, _ = recorder_of(plain().cuda(), Schedule.every(100))
    loss = torch.zeros((), device="cuda")
    recorder.step(1, loss=loss)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(2, 100):
            recorder.step(step, loss=loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("wrong", [VOCAB, VOCAB + 1000])
def test_a_token_that_the_model_does_not_know_leaves_the_device_fit_for_use(wrong):
    model = plain().cuda()
    with pytest.raises(ProbeError, match=f"token id {wrong}; the model's vocabulary has {VOCAB}"):
        record(model, [[1, 2, wrong, 3] * (T // 4)], Schedule.every(1), print)
    assert torch.isfinite(model(torch.zeros(1, T, dtype=torch.int64, device="cuda"))).all()
