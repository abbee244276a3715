"""Every option of ``train.py`` as one checked value, from the groups of ``conf/``."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import field_validator

from tracker_viz.capture import CaptureOptions
from tracker_viz.demo import DataConfig, ModelConfig, TrainerConfig
from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.jobs.settings.config import Settings
from tracker_viz.metrics import ROLES
from tracker_viz.pipeline import FORMAT_VALUES, Appearance, Format
from tracker_viz.rendering import Layout

_OF_A_ROLE = ("max", "heads", "onset_step")
_OF_THE_RUN = ("heads_specialised", "share_specialised", "index_mean")

# A sweeper can optimize these: the last loss, or a value that ``metrics.run_summary`` returns.
OUTCOMES = (
    "loss",
    *(f"specialisation/{role.name}_{value}" for role in ROLES for value in _OF_A_ROLE),
    *(f"specialisation/{value}" for value in _OF_THE_RUN),
)
# The settings that a run's model, losses and captures depend on.
TRAINED_WITH = ("name", "seed", "model", "data", "trainer", "capture")
# A resumed run takes these from its checkpoint, unless the command line sets them. A checkpoint
# comes from a server, so it never decides which files are read here, or what is captured.
_CONTINUED = ("name", "seed", "model", "data", "trainer")
_PLACES = {"data": ("path", "pattern")}


class TrainSettings(Settings, Appearance):
    """Trains a small decoder, captures its blocks at chosen steps into the runs of your trackers,
    and renders the video at the end."""

    usage = ("[group=option ...] [key=value ...]", "-m seed=0,1,2 model.n_heads=4,8")
    groups: ClassVar = {
        "model": "llama",
        "data": "source",
        "trainer": "default",
        "capture": "default",
        "tracker": "[mlflow]",
        "layout": "overview",
        "video": "default",
        "experiment": "null",
    }

    name: str = "demo"
    """Name of the run in the tracker and in the pictures."""

    seed: int = 0
    """Seed of the weights and of the batch order."""

    render: bool = True
    """Make the pictures when training ends; false leaves them for tracker-viz render."""

    optimize: str = "loss"
    """Objective for a sweeper such as Optuna: loss, or a value of the run's summary such as
    specialisation/induction_max."""

    resume: str | None = None
    """Continue this run from its last checkpoint: mlflow:<run_id>, ..."""

    spool: str | None = None
    """Directory where captures wait for the tracker; null: a new one in the job's directory."""

    format: Annotated[tuple[Format, ...], FORMAT_VALUES] = ("video", "webp", "html")
    """Pictures to make when training ends."""

    model: ModelConfig
    data: DataConfig
    trainer: TrainerConfig
    capture: CaptureOptions
    tracker: dict[str, Any]
    layout: Layout

    @field_validator("optimize")
    @classmethod
    def _check_outcome(cls, optimize: str) -> str:
        if optimize not in OUTCOMES:
            raise ConfigError(unknown_name("outcome to optimize", optimize, OUTCOMES))
        return optimize

    def outcome(self, loss: float, summary: Mapping[str, float]) -> float:
        """Return the value that ``optimize`` names. The onset of a role that no head took is
        infinite: later than any other."""
        if self.optimize == "loss":
            return loss
        missing = math.inf if "_onset_" in self.optimize else math.nan
        return float(summary.get(self.optimize, missing))

    def trained_with(self) -> dict[str, Any]:
        """Return the settings that the run's model, losses and captures depend on, as plain data
        that means the same in every working directory."""
        chosen = self.model_dump(include=set(TRAINED_WITH))
        if self.data.path is not None:
            chosen["data"]["path"] = os.path.abspath(os.path.expanduser(self.data.path))
        # As a checkpoint gives it back: lists, not tuples.
        plain: dict[str, Any] = json.loads(json.dumps(chosen))
        return plain


def resumed(
    settings: TrainSettings, trained_with: Mapping[str, Any], overrides: Iterable[str]
) -> TrainSettings:
    """Return ``settings`` with those of a checkpoint in their place, except what ``overrides`` (the
    words of the command line) set explicitly.

    So ``python train.py resume=... trainer.steps=2000`` trains the same model with the same data
    and recipe for longer. The checkpoint is data from elsewhere: only known options are taken, as
    they are written, and none that names files or says what to capture.

    Raises:
        ConfigError: an option has an impossible value, or the training read text that the command
            line does not name.
    """
    composed = settings.model_dump()
    values = copy.deepcopy(composed)
    for key in _CONTINUED:
        stored = trained_with.get(key, values[key])
        if isinstance(values[key], Mapping):
            known = values[key].keys() - _PLACES.get(key, ())
            stored = {**values[key], **_only(known, stored, key)}
        values[key] = stored

    typed = [_words_of(override) for override in overrides]
    for *parents, option in typed:
        if [*parents, option][0] in _CONTINUED:
            _at(values, parents)[option] = _at(composed, parents)[option]
    _check_text(trained_with, typed)
    return TrainSettings.of(values)


def places(settings: TrainSettings) -> dict[str, Any]:
    """Return the options, by name, that ``resumed`` takes from the command line alone, where they
    are not at their default: a command that resumes this training has to say them."""
    chosen = settings.trained_with()
    defaults = {"data": DataConfig().model_dump(), "capture": CaptureOptions().model_dump()}
    names = {"data": _PLACES["data"], "capture": tuple(chosen["capture"])}
    changed = {}
    for group in names:
        for name in names[group]:
            value = chosen[group][name]
            if value != defaults[group][name]:
                changed[f"{group}.{name}"] = value
    return changed


def _only(known: Iterable[str], stored: Any, key: str) -> dict[str, Any]:
    if not isinstance(stored, Mapping):
        raise ConfigError(f"the checkpoint's {key} must be a mapping of options; got {stored!r}")
    return {name: stored[name] for name in known if name in stored}


def _check_text(trained_with: Mapping[str, Any], typed: Iterable[list[str]]) -> None:
    data = trained_with.get("data")
    path = data.get("path") if isinstance(data, Mapping) else None
    if path is not None and not any(words in (["data"], ["data", "path"]) for words in typed):
        raise ConfigError(
            f"the run was trained on the text data.path={path!r}: choose the "
            "files to continue with, data.path=<file, folder or glob>, or "
            "data=source for Python's standard library"
        )


def _words_of(override: str) -> list[str]:
    key = override.partition("=")[0].lstrip("+~").partition("@")[0]
    return key.replace("/", ".").split(".")


def _at(values: dict[str, Any], path: Iterable[str]) -> dict[str, Any]:
    for key in path:
        values = values[key]
    return values
