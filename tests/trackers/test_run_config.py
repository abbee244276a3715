"""Configurations and tags as people have them never end a training, and arrive as plain values."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import functools
import json
import pathlib
import types
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from mlflow import MlflowClient
from omegaconf import MISSING, OmegaConf
from transformers import LlamaConfig, TrainingArguments
from wandb_server.fixtures import wandb_server, wandb_service  # noqa: F401

from tracker_viz.jobs.settings.train_settings import TrainSettings
from tracker_viz.trackers.local import LocalTracker
from tracker_viz.trackers.mlflow.tracker import MlflowTracker
from tracker_viz.trackers.redaction import without_secrets
from tracker_viz.trackers.run_config import MAX_ENTRIES, as_config, as_name, as_tags
from tracker_viz.trackers.wandb.tracker import WandbTracker


@dataclasses.dataclass
class Args:
    lr: float = 1e-3
    layers: tuple[int, ...] = (1, 2)


@dataclasses.dataclass
class Schema:
    steps: int = MISSING
    optimizer: Args = MISSING


class Settings:
    lr = 1e-3
    name = "x"


class Slotted:
    __slots__ = ("lr",)

    def __str__(self) -> str:
        return "slotted"


class Point(NamedTuple):
    x: int
    y: int


class Kind(enum.Enum):
    A = 1
    B = "b"


class Sized:
    """As a data set is: describing it would read all that it has."""

    def __len__(self) -> int:
        return 3

    def to_dict(self) -> dict[str, Any]:
        raise AssertionError("it was read")


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def to_dict(self) -> dict[str, Any]:
        raise RuntimeError("no dict")

    @property
    def keys(self) -> Any:
        raise RuntimeError("no keys")


def self_containing() -> dict[str, Any]:
    loop: dict[str, Any] = {"x": 1}
    loop["me"] = loop
    loop["list"] = [loop]
    return loop


def bad_interpolations() -> Any:
    return OmegaConf.create(
        {
            "lr": "???",
            "a": "${nope}",
            "b": "${oc.env:NO_SUCH_VARIABLE}",
            "m": {"d": 16, "x": "${.d}", "l": [1, "${nope}"]},
        }
    )


CASES = {
    "nothing": (None, {}),
    "Namespace": (argparse.Namespace(lr=1e-3, layers=[1, 2]), {"lr": 1e-3, "layers": [1, 2]}),
    "SimpleNamespace": (types.SimpleNamespace(a=types.SimpleNamespace(b=1)), {"a": {"b": 1}}),
    "dataclass": (Args(), {"lr": 1e-3, "layers": [1, 2]}),
    "class with attributes": (Settings, {"lr": 1e-3, "name": "x"}),
    "object of it": (Settings(), {"lr": 1e-3, "name": "x"}),
    "named tuple": (Point(1, 2), {"x": 1, "y": 2}),
    "chain of mappings": (collections.ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
    "read-only mapping": (types.MappingProxyType({"a": 1}), {"a": 1}),
    "OmegaConf": (OmegaConf.create({"m": {"l": [1, 2]}}), {"m": {"l": [1, 2]}}),
    "OmegaConf that does not resolve": (
        bad_interpolations(),
        {
            "lr": "???",
            "a": "${nope}",
            "b": "${oc.env:NO_SUCH_VARIABLE}",
            "m": {"d": 16, "x": 16, "l": [1, "${nope}"]},
        },
    ),
    "structured OmegaConf": (OmegaConf.structured(Schema), {"steps": "???", "optimizer": "???"}),
    "OmegaConf in a dict": (
        {"m": OmegaConf.create({"d": 16, "x": "${.d}"})},
        {"m": {"d": 16, "x": 16}},
    ),
    "contains itself": (
        self_containing(),
        {"x": 1, "me": "(contains itself)", "list": ["(contains itself)"]},
    ),
    "keys of any kind": (
        {3: "int", None: 1, (1, 2): "pair", Kind.A: 2, "": "empty"},
        {"3": "int", "None": 1, "(1, 2)": "pair", "A": 2, "_": "empty"},
    ),
    "values of any kind": (
        {
            "dtype": torch.bfloat16,
            "device": torch.device("cpu"),
            "path": pathlib.Path("x"),
            "function": len,
            "class": torch.nn.Linear,
            "partial": functools.partial(len),
            "enum": [Kind.A, Kind.B],
            "set": {2, 1},
            "nan": float("nan"),
            "infinite": float("-inf"),
            "numpy": np.float32(0.5),
            "array": np.arange(3),
            "tensor": torch.ones(2),
            "big": torch.ones(100, 2),
            "bytes": b"\x00",
            "surrogate": "a\udc80b\0c",
            "slots": Slotted(),
            "hostile": Hostile(),
            "data": Sized(),
            "range": range(3),
            "complex": 1j,
        },
        {
            "dtype": "torch.bfloat16",
            "device": "cpu",
            "path": "x",
            "function": "builtins.len",
            "class": "torch.nn.modules.linear.Linear",
            "partial": "functools.partial(<built-in function len>)",
            "enum": ["A", "b"],
            "set": [1, 2],
            "nan": "nan",
            "infinite": "-inf",
            "numpy": 0.5,
            "array": [0, 1, 2],
            "tensor": [1.0, 1.0],
            "big": "torch.Tensor torch.float32 [100, 2]",
            "bytes": "b'\\x00'",
            "surrogate": "a?bc",
            "slots": "slotted",
            "hostile": f"{__name__}.Hostile",
            "data": f"<{__name__}.Sized object>",
            "range": [0, 1, 2],
            "complex": "1j",
        },
    ),
    "a text": ("configs/base.yaml", {"config": "configs/base.yaml"}),
    "a list": ([1, 2], {"config": [1, 2]}),
    "hostile itself": (Hostile(), {"config": f"{__name__}.Hostile"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_becomes_plain_values(case):
    config, plain = CASES[case]
    assert as_config(config) == plain
    json.dumps(as_config(config), allow_nan=False)


def test_hugging_face_configurations_come_whole_and_without_their_tokens(tmp_path):
    assert as_config(LlamaConfig(hidden_size=64))["hidden_size"] == 64
    arguments = TrainingArguments(tmp_path, hub_token="hf_secret", learning_rate=1e-3)
    plain = as_config(arguments)
    assert plain["learning_rate"] == 1e-3
    assert "hf_secret" not in json.dumps(without_secrets(plain))


def test_what_is_too_big_to_be_a_configuration_is_cut():
    plain = as_config(
        {"many": range(10**9), "names": dict.fromkeys(range(5000), 1), "text": "x" * 10**7}
    )
    assert len(plain["many"]) == len(plain["names"]) == MAX_ENTRIES
    assert len(plain["text"]) < 10**6
    deep: dict[str, Any] = {}
    for _ in range(10_000):
        deep = {"d": deep}
    json.dumps(as_config(deep))


def test_tags_are_names_with_or_without_a_text():
    assert as_tags(None) == {}
    assert as_tags("baseline") == {"baseline": ""}
    assert as_tags(["baseline", "v2", None, ""]) == {"baseline": "", "v2": ""}
    assert as_tags(("a",)) == as_tags({"a"}) == {"a": ""}
    assert as_tags({"n": 3, "x": None, "y": Kind.B}) == {"n": "3", "x": "", "y": "b"}
    assert as_tags(7) == {"7": ""}


ODD = {
    "a.b": 1,
    "a": {"b": 2, "": 3},
    "lr?": 1,
    "lr*": 2,
    "../x": "up",
    "long" * 200: "name",
    "text": "x" * 7000,
    "nan": float("nan"),
    "a/b//c": True,
    " ": "blank",
    "ключ": "значение",
    "none": None,
    "big": 2**70,
}
ODD_TAGS = [
    ["baseline", "v2"],
    "baseline",
    {"n": 3, "x": None},
    {"very " * 60: "y" * 9000},
    {"": ""},
]
ODD_NAMES = ["org/model-7B: v2?*", "..", "a\nb", "", " ", "x" * 600, "~", "\u202e reversed"]


def assert_made(tracker: Any, tags: Any = None, name: str = "odd") -> Any:
    run = tracker.create_run(name=name, config=as_config(ODD), tags=as_tags(tags))
    info = run.info()
    run.finish("finished")
    assert any(str(value) == "значение" for value in info.config.values())
    return info


@pytest.mark.parametrize("tags", ODD_TAGS)
def test_every_tracker_takes_odd_configurations_and_tags(embedded, wandb_server, tmp_path, tags):
    assert_made(MlflowTracker(embedded, "odd"), tags)
    assert_made(WandbTracker(), tags)
    assert_made(LocalTracker(str(tmp_path / "local")), tags)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_tracker_takes_odd_names(embedded, wandb_server, tmp_path, name):
    for tracker in (
        MlflowTracker(embedded, "odd"),
        WandbTracker(),
        LocalTracker(str(tmp_path / "local")),
    ):
        info = assert_made(tracker, name=as_name(name))
        assert "\n" not in info.name
        assert info.name.strip()


def test_two_names_that_become_one_keep_the_first_value(embedded):
    run = MlflowTracker(embedded, "odd").create_run(name="a", config={"lr?": 1, "lr*": 2})
    assert MlflowClient(embedded).get_run(run.ref.path).data.params["lr_"] == "1"
    run.finish("finished")


def test_values_that_are_declared_defaults_are_told_apart():
    config = as_config({"args": Args(lr=0.5), "model": LlamaConfig(hidden_size=64), "seed": 0})
    assert "args.layers" in config.at_default
    assert "model.rms_norm_eps" in config.at_default
    assert not {"args.lr", "model.hidden_size", "seed"} & config.at_default
    assert as_config(Args()).at_default == {"lr", "layers"}
    assert as_config({"lr": 1}).at_default == set()
    theme = TrainSettings.model_fields["theme"].default
    assert as_config(TrainSettings.model_construct(theme=theme, seed=0)).at_default >= {"theme"}


def test_what_was_typed_on_hydras_command_line_is_never_a_default(monkeypatch):
    typed = OmegaConf.create({"overrides": {"task": ["args.lr=0.001", "+seed=1"]}})
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: typed)
    assert as_config({"args": Args(), "seed": 1}).at_default == {"args.layers"}
