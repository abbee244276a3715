"""Commands that are printed can be typed: a shell splits them, and Hydra reads the values that were
meant."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tracker_viz.commands import option, override
from tracker_viz.delivery import Spool


@pytest.mark.parametrize(
    "value",
    [
        "mlflow:0123abc",
        "sqlite:////home/me/mlflow.db",
        "postgresql://me@db/runs?sslmode=require",
        "local:/home/jürgen/模型/run",
        "local:/a b/c(1)/[x]{y},z",
        '/it\'s/"quoted"',
        "/a\\'b\\",
        "wandb:me/p/1",
        "local:/runs/${oc.env:HOME}",
        "local:/runs/\\\\${x}\\",
    ],
)
def test_what_is_printed_is_read_as_it_was(value):
    words = shlex.split(shlex.join(["tracker-viz", "render", override("run", value)]))
    (read,) = OverridesParser.create().parse_overrides(words[2:])
    # A run's name must not be looked up in the environment of whoever types it.
    composed = OmegaConf.to_container(OmegaConf.create({"run": read.value()}), resolve=True)
    assert (read.key_or_group, composed["run"]) == ("run", value)
    assert not read.is_sweep_override()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2.5,
        "a b",
        "${x}",
        [0, 1],
        ["mlp.w_gate", "a b"],
        {3: [0, 7]},
        {"mlp.*": "rms"},
    ],
)
def test_an_option_of_any_kind_is_read_as_it_was(value):
    (read,) = OverridesParser.create().parse_overrides([option("capture.x", value)])
    composed = OmegaConf.create({"x": read.value()})
    assert OmegaConf.to_container(composed, resolve=True)["x"] == value


def test_plain_values_stay_plain():
    assert shlex.join([override("spool", "/tmp/spool/demo-1")]) == "spool=/tmp/spool/demo-1"


def test_the_command_of_a_spool_can_be_typed_wherever_it_lies(tmp_path):
    spool = Spool(tmp_path / "jürgen=1")
    (read,) = OverridesParser.create().parse_overrides(shlex.split(spool.push_command)[2:])
    assert read.value() == str(tmp_path / "jürgen=1")
