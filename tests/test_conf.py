"""Every option of every group composes and makes what it stands for; what is misspelled or
impossible says what to type instead."""

from __future__ import annotations

import itertools
import math
import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf

from tracker_viz import trackers
from tracker_viz.capture import Schedule
from tracker_viz.commands import option
from tracker_viz.errors import ConfigError
from tracker_viz.jobs.settings.config import typed
from tracker_viz.jobs.settings.explain import explain
from tracker_viz.jobs.settings.help import help_text
from tracker_viz.jobs.settings.train_settings import OUTCOMES, TrainSettings, places, resumed
from tracker_viz.metrics import ROLES, ScoreSeries, run_summary
from tracker_viz.rendering import LAYOUTS

CONF = Path(str(resources.files("tracker_viz.conf")))
GROUPS = ("model", "data", "trainer", "capture", "tracker", "layout", "video", "experiment")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.fixture(scope="module", autouse=True)
def conf():
    with initialize_config_module("tracker_viz.conf", version_base="1.3"):
        yield


def settings_of(*overrides):
    # interpolations of Hydra's own need a running application
    cfg = compose("train", [*overrides, "spool=spool"])
    if OmegaConf.is_missing(cfg.data, "path"):
        cfg.data.path = "book.txt"
    return typed(TrainSettings, cfg)


def test_every_group_has_options():
    assert {group for group, _ in OPTIONS} == set(GROUPS)


@pytest.mark.parametrize(
    ("group", "option"), OPTIONS, ids=itertools.starmap("{}={}".format, OPTIONS)
)
def test_every_option_composes_and_makes_what_it_stands_for(group, option):
    settings = settings_of(f"{group}={option}")
    assert settings.layout in LAYOUTS.values()
    for scheme, options in settings.tracker.items():
        trackers.connect(scheme, **options)
    if settings.capture.every is None:
        Schedule.for_total(settings.trainer.steps, settings.capture.captures)


def test_several_trackers_are_chosen_at_once():
    assert set(settings_of("tracker=[mlflow,wandb]").tracker) == {"mlflow", "wandb"}
    assert set(settings_of("tracker=wandb").tracker) == {"wandb"}
    assert set(settings_of().tracker) == {"mlflow"}


def test_the_yaml_of_train_has_every_declared_default():
    """Hydra overrides only what YAML holds, and ``--help`` prints what is declared."""
    settings = settings_of()
    for name, field in TrainSettings.model_fields.items():
        if not field.is_required() and name != "spool":
            assert getattr(settings, name) == field.default, name
    for group in ("model", "data", "trainer", "capture", "video"):
        chosen = getattr(settings, group)
        assert chosen == type(chosen)(), group


def test_train_is_helped_with_the_same_words_as_the_jobs(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = help_text("python train.py", TrainSettings)
    for group in GROUPS:
        assert re.search(rf"^{group}=|^Options of {group}:", text, re.MULTILINE), group
    assert "trainer.steps=1000" in text
    assert "tracker.mlflow.tracking_uri=null\n" in text
    assert "Address of MLflow; null: MLFLOW_TRACKING_URI" in text
    assert "Optimizer steps. [a whole number of at least 1]" in text
    assert "induction heads appear between steps 450" in text


def test_an_experiment_overrides_groups_and_is_overridden_by_the_command_line():
    settings = settings_of("experiment=smoke")
    assert (settings.name, settings.model.n_blocks, settings.trainer.steps) == ("smoke", 2, 30)
    assert math.isinf(settings.capture.max_overhead), (
        "or the governor leaves out captures wherever the machine is busy"
    )
    assert settings_of("experiment=smoke", "trainer.steps=7").trainer.steps == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.stepz=5", "unknown option of trainer 'stepz'; did you mean 'steps'"),
        ("modle=llama", "unknown option 'modle'; did you mean 'model'"),
        ("seeed=3", "unknown option 'seeed'; did you mean 'seed'"),
        ("model=lama", "unknown model 'lama'; did you mean 'llama'"),
        ("experiment=smok", "unknown experiment 'smok'; did you mean 'smoke'"),
        ("tracker=[mlflow,wandbb]", "unknown tracker 'wandbb'; did you mean 'wandb'"),
        ("trainer.nope.x=3", "unknown option of trainer 'nope'"),
        ("a=b=[", "cannot read the override 'a=b=[': mismatched input"),
        ("mlflow:1a2b", "options are key=value; did you mean run=mlflow:1a2b?"),
        ("1a2b", "cannot read '1a2b': options are key=value; --help lists them"),
        (
            "model.n_heads=four",
            "model.n_heads must be a whole number of at least 1; got 'four'",
        ),
        ("model.n_heads=null", "model.n_heads must be a whole number of at least 1; got None"),
        ("+model.n_head=3", "unknown option of model 'n_head'; did you mean 'n_heads'"),
        ("seed=abc", "seed must be a whole number; got 'abc'"),
        ("render=maybe", "render must be true or false; got 'maybe'"),
        (
            "model.n_heads=7",
            (
                "model.d_model=128 must be a multiple of model.n_heads=7; n_heads that fit: 1, 2, "
                "4, 8, 16, 32, 64"
            ),
        ),
        ("trainer.steps=0", "trainer.steps must be a whole number of at least 1; got 0"),
        ("data.repeat_share=2", "data.repeat_share must be a number from 0 to 1; got 2"),
        (
            "trainer.threads=0",
            "trainer.threads must be a whole number of at least 1 or null; got 0",
        ),
        (
            "optimize=specialisation/induction",
            "unknown outcome to optimize 'specialisation/induction'; did you mean",
        ),
    ],
)
def test_what_is_misspelled_or_impossible_says_what_to_type(override, message):
    with pytest.raises((ConfigError, HydraException)) as caught:
        settings_of(override)
    assert message in explain(caught.value)


def test_every_value_of_a_runs_summary_can_be_optimized():
    names = [role.name for role in ROLES]
    of_one_head = {
        name: np.tile((np.arange(len(names)) == index).astype(np.float32), (3, 1, 1))
        for index, name in enumerate(names)
    }
    series = ScoreSeries(
        np.arange(3),
        {"specialisation": np.full((3, 1, len(names)), 0.9, np.float32), **of_one_head},
    )
    summary = run_summary(series)
    assert set(OUTCOMES) == {"loss", *summary}
    assert settings_of("optimize=specialisation/induction_max").outcome(2.0, summary) == 1.0
    assert settings_of().outcome(2.0, summary) == 2.0
    assert settings_of("optimize=specialisation/sink_onset_step").outcome(2.0, {}) == math.inf, (
        "an onset that never came is no early one"
    )


def test_text_data_needs_a_path():
    with pytest.raises(ConfigError, match=r"data.path has no value yet; give it one: data.path="):
        typed(TrainSettings, compose("train", ["data=text", "spool=spool"]))


def test_a_resumed_run_keeps_what_it_was_trained_with_but_for_the_command_line():
    trained = settings_of("experiment=smoke", "seed=5", "data.repeat_share=0.5").trained_with()
    words = ["trainer.steps=77", "resume=local:x", "tracker=local"]
    settings = resumed(settings_of("trainer.steps=77"), trained, words)
    assert (settings.name, settings.seed, settings.model.n_blocks, settings.data.repeat_share) == (
        "smoke",
        5,
        2,
        0.5,
    )
    assert (settings.trainer.steps, settings.trainer.warmup_steps) == (77, 5)


def test_a_resumed_run_can_be_given_another_group():
    trained = settings_of("experiment=smoke").trained_with()
    settings = resumed(settings_of("trainer=default"), trained, ["trainer=default"])
    assert (settings.trainer.steps, settings.model.n_blocks) == (1000, 2)


def test_a_resumed_run_takes_neither_files_nor_captures_from_its_checkpoint(monkeypatch):
    monkeypatch.setenv("PLANTED", "secret")
    trained = settings_of("experiment=smoke").trained_with()
    trained["name"] = "${oc.env:PLANTED}"
    trained["data"] |= {"pattern": "**/.*", "of_a_newer_version": 1}
    trained["capture"] |= {"max_mb": 1e9}
    settings = resumed(settings_of(), trained, [])
    assert settings.name == "${oc.env:PLANTED}", "as it is written"
    assert settings.data.pattern == "**/*"
    assert settings.capture == settings_of().capture
    assert "secret" not in str(settings)

    trained["data"]["path"] = "/etc/passwd"
    with pytest.raises(ConfigError, match=r"text data\.path='/etc/passwd': choose the files"):
        resumed(settings_of(), trained, ["trainer.steps=77"])
    words = ["data=text", "data.path=books"]
    assert resumed(settings_of(*words), trained, words).data.path == "books"
    assert resumed(settings_of("data=source"), trained, ["data=source"]).data.path is None


def test_the_command_that_resumes_says_what_is_not_taken_from_the_checkpoint(tmp_path):
    words = ["data=text", f"data.path={tmp_path}", "capture.max_mb=3", "capture.captures=8"]
    settings = settings_of("experiment=smoke", *words)
    said = places(settings)
    assert said["data.path"] == str(tmp_path)
    again = [option(name, value) for name, value in said.items()]
    assert resumed(settings_of(*again), settings.trained_with(), again).capture == settings.capture


def test_what_was_trained_with_means_the_same_in_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        settings_of("data=text", "data.path=books/*.txt").trained_with()["data"]["path"]
        == f"{tmp_path}/books/*.txt"
    )


def test_the_groups_can_be_used_by_another_application(tmp_path):
    (tmp_path / "theirs.yaml").write_text(
        "defaults:\n  - capture: small\n  - _self_\nhydra:\n  searchpath: "
        "[pkg://tracker_viz.conf]\n"
    )
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert compose("theirs").capture.captures == 60
    initialize_config_module("tracker_viz.conf", version_base="1.3")
