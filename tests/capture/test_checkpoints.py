"""Captures of checkpoints saved earlier."""

from __future__ import annotations

import copy
import json
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from plain_decoders import VOCAB, FusedAttention, Model, Residual, T, by_kernel, two_layers
from torch import nn

from tracker_viz.capture import Camera, as_probe
from tracker_viz.capture.checkpoints import (
    capture_checkpoints,
    find_checkpoints,
    load_checkpoint,
    read_weights,
    step_of,
)
from tracker_viz.errors import CaptureError, ConfigError

METHODS = {"packed": zipfile.ZIP_DEFLATED, "overlapping": zipfile.ZIP_STORED}


def tiny(seed=0):
    torch.manual_seed(seed)
    return Model(lambda _: Residual(FusedAttention(by_kernel, noted=False), two_layers()))


def looked_at(model):
    """The camera that backfill takes captures with."""
    camera = Camera(model, as_probe(torch.arange(T)[None] % VOCAB))
    camera.explore(0, None)
    return camera


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-500/model.safetensors", 500),
        ("run7/step_000120.safetensors", 120),
        ("run7/epoch=3-step=450.ckpt", 450),
        ("out/ckpt_12.pt", 12),
        ("llama-7b/model_900.pt", 900),
        ("v2-base/iter_0001000/pytorch_model.bin", 1000),
    ],
)
def test_the_step_stands_in_the_name(tmp_path, name, step):
    assert step_of(tmp_path / name) == step


def test_a_name_without_a_step_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no step in the name"):
        step_of(tmp_path.parent / "models" / "final.pt")


def test_checkpoints_are_found_in_the_order_of_their_steps(tmp_path):
    for step in (1000, 20, 300):
        safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / f"step{step}.safetensors")
    (tmp_path / "step7.txt").write_text("no checkpoint")
    assert [checkpoint.step for checkpoint in find_checkpoints(str(tmp_path / "*"))] == [
        20,
        300,
        1000,
    ]
    with pytest.raises(ConfigError, match="no checkpoint matches"):
        find_checkpoints(str(tmp_path / "*.pt"))
    torch.save({}, tmp_path / "again-step20.pt")
    with pytest.raises(ConfigError, match="both of step 20; narrow the pattern"):
        find_checkpoints(str(tmp_path / "*"))


def test_each_checkpoint_is_captured_as_it_was_saved_and_none_twice(tmp_path):
    for step in (0, 10, 20):
        safetensors.torch.save_file(
            tiny(seed=step).state_dict(), tmp_path / f"step{step}.safetensors"
        )
    camera, found = looked_at(tiny(seed=99)), find_checkpoints(str(tmp_path / "*"))
    captures = list(capture_checkpoints(camera, found, captured=[10]))
    assert [capture.step for capture in captures] == [0, 20]
    for capture in captures:
        saved = tiny(seed=capture.step).blocks[1].attn.c_proj.weight.detach().numpy()
        assert np.array_equal(capture.arrays["blocks.1.attn.w_o"], saved)


def test_captures_come_in_order_whatever_the_run_holds(tmp_path):
    for step in (5, 10, 15):
        torch.save(tiny(seed=step).state_dict(), tmp_path / f"step{step}.pt")
    found = find_checkpoints(str(tmp_path / "*"))
    captures = capture_checkpoints(looked_at(tiny()), reversed(found))
    assert [capture.step for capture in captures] == [5, 10, 15]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"model": state, "optimizer": {"lr": 0.1}, "step": 3},
        lambda state: {
            "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
            "epoch": 1,
        },
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
    ],
)
def test_wrappers_around_the_weights_are_looked_through(tmp_path, wrapped):
    torch.save(wrapped(tiny(seed=3).state_dict()), tmp_path / "step1.pt")
    model = tiny()
    load_checkpoint(model, tmp_path / "step1.pt")
    assert torch.equal(model.head.weight, tiny(seed=3).head.weight)


def test_a_directory_with_shards_is_read_as_one(tmp_path):
    state = tiny(seed=3).state_dict()
    names = sorted(state)
    shards = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, held in shards.items():
        safetensors.torch.save_file({name: state[name] for name in held}, tmp_path / file)
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    model = tiny()
    load_checkpoint(model, tmp_path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_tied_weight_that_was_saved_once_is_enough(tmp_path):
    def tied(seed):
        model = tiny(seed)
        model.head = nn.Linear(32, VOCAB, bias=False)
        model.head.weight = model.tokens.weight
        return model

    state = tied(3).state_dict()
    del state["head.weight"]
    torch.save(state, tmp_path / "step1.pt")
    model = tied(0)
    load_checkpoint(model, tmp_path / "step1.pt")
    assert torch.equal(model.head.weight, tied(3).tokens.weight)


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    state = tiny().state_dict()
    torch.save({**state, "head.weight": torch.zeros(3, 3)}, tmp_path / "step1.pt")
    with pytest.raises(
        CaptureError,
        match=(
            r"step1.pt does not fit Model: other shapes: head.weight is \(3, 3\), the model's "
            r"\(96, 32\)"
        ),
    ):
        load_checkpoint(tiny(), tmp_path / "step1.pt")
    del state["head.weight"]
    torch.save(state, tmp_path / "step2.pt")
    with pytest.raises(CaptureError, match=r"it lacks head.weight; it holds tokens.weight"):
        load_checkpoint(tiny(), tmp_path / "step2.pt")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("run",))

    with (tmp_path / "step1.pt").open("wb") as file:
        pickle.dump({"weight": Harmful()}, file)
    with pytest.raises(CaptureError, match=r"(?s)cannot be read .*; save weights alone"):
        read_weights(tmp_path / "step1.pt")


@pytest.mark.parametrize("kind", ["packed", "overlapping"])
def test_a_small_file_that_holds_far_more_is_refused_before_it_is_unpacked(tmp_path, kind):
    path, bomb = tmp_path / "step_1.pt", tmp_path / "step_2.pt"
    torch.save({"w": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(bomb, "w") as file:
        for entry in whole.infolist():
            file.writestr(entry.filename, whole.read(entry), METHODS[kind])
        if kind == "overlapping":
            again = [copy.copy(entry) for entry in file.filelist for _ in range(8)]
            for number, entry in enumerate(again):
                entry.filename = f"archive/data/{number}"
            file.filelist += again
    with pytest.raises(
        CaptureError, match=r"step_2\.pt .*[\d,]+ bytes, and [\d,]+ once it is unpa"
    ):
        read_weights(bomb)
    assert list(read_weights(path)) == ["w"]


def test_what_holds_no_weights_is_refused(tmp_path):
    torch.save({"lr": 0.1}, tmp_path / "step1.pt")
    with pytest.raises(CaptureError, match="holds no weights by name; it has lr"):
        read_weights(tmp_path / "step1.pt")
    with pytest.raises(CaptureError, match=r"holds none of model.safetensors"):
        read_weights(tmp_path)
