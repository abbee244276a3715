"""``tracker-viz backfill``: puts captures of checkpoints that were saved earlier into a run."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from tracker_viz import pipeline, trackers
from tracker_viz.errors import ConfigError, MissingDependencyError
from tracker_viz.jobs.application import application
from tracker_viz.jobs.config import Settings
from tracker_viz.jobs.report import say_what_is_left
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    from torch import nn


class BackfillSettings(Settings):
    """Captures from checkpoints that were saved earlier. Steps that the run holds already are left
    out."""

    usage = ("checkpoints='<glob>' model=<builder> [run=<RunRef>] [key=value ...]",)

    checkpoints: str
    """Glob of safetensors or torch.save files, or of Hugging Face directories, with the step in
    their names: 'out/checkpoint-*'."""

    model: str
    """What builds the model: a function without arguments, my_package.build_model, or a directory
    with a config.json."""

    run: str = "mlflow"
    """An existing run, mlflow:<run_id>, or mlflow, wandb, local for a new one."""

    name: str = "backfill"
    """Name of a new run."""

    spool: str | None = None
    """Directory where captures wait for the tracker; null: spool/<name>-<time>."""

    max_mb: float = Field(10.0, gt=0)
    """Size of one capture in megabytes."""

    tracker: dict[str, Any] = Field(default_factory=dict)
    """Options of the tracker: +tracker.mlflow.tracking_uri=http://..."""

    @field_validator("run")
    @classmethod
    def _check_run(cls, run: str) -> str:
        if run not in trackers.schemes():
            RunRef.parse(run)
        return run


@application(BackfillSettings, name="backfill")
def main(settings: BackfillSettings) -> None:
    done = pipeline.backfill(
        settings.checkpoints,
        model=build_model(settings.model),
        run=settings.run,
        name=settings.name,
        spool=settings.spool,
        tracker_options=settings.tracker,
        max_mb=settings.max_mb,
    )
    steps = ": the run holds all of them"
    if done.steps:
        steps = f", steps {done.steps[0]} to {done.steps[-1]}"
    print(f"Captured {len(done.steps)} checkpoints{steps}")
    say_what_is_left(done.report)
    for run in done.runs:
        print(f"To make the video of it, from any directory:\n  {pipeline.render_command(run)}")


def build_model(name: str) -> nn.Module:
    """Return the model that ``name`` stands for.

    It is a function or class ``package.module.name`` that is called without arguments, or a
    directory with the ``config.json`` of a Hugging Face model, whose weights stay random until a
    checkpoint is loaded.

    Raises:
        ConfigError: there is no such function, or it returns no model.
    """
    from torch import nn

    if (Path(name) / "config.json").is_file():
        try:
            from transformers import AutoConfig, AutoModelForCausalLM
        except ImportError as error:
            raise MissingDependencyError(
                f"{name} is a Hugging Face model; install its library with: pip install "
                "transformers"
            ) from error
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name))
    else:
        module_name, _, function = name.rpartition(".")
        sys.path.insert(0, str(Path.cwd()))
        try:
            model = getattr(importlib.import_module(module_name), function)()
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise ConfigError(
                "model must be a function that needs no arguments, like my_package.build_model, "
                "or a directory with a config.json; "
                f"got {name!r} ({type(error).__name__}: {error})"
            ) from error
        finally:
            sys.path.pop(0)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model={name} must give a torch.nn.Module; it gave a {type(model).__name__}"
        )
    return model
