"""``tracker-viz backfill``: checkpoints that were saved earlier -> captures in a run. The work is
``pipeline.backfill``'s."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from tracker_viz import pipeline, trackers
from tracker_viz.errors import ConfigError, MissingDependencyError
from tracker_viz.jobs.application import application, typed
from tracker_viz.jobs.report import say_what_is_left
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BackfillSettings:
    """The keys of ``conf/backfill.yaml``."""

    checkpoints: str
    model: str
    run: str = "mlflow"
    name: str = "backfill"
    spool: str | None = None
    max_mb: float = 10.0
    tracker: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.run not in trackers.schemes():
            RunRef.parse(self.run)


def main() -> None:
    """Entry point. ``model=`` is a plain key here; where Hydra finds train.py's group of that name,
    it takes it for a choice among its options, so this configuration is stored apart from the
    groups."""
    conf = Path(str(resources.files("tracker_viz.conf")))
    for group, name in (
        (None, "backfill"),
        ("hydra/help", "job"),
        ("hydra/job_logging", "console"),
    ):
        ConfigStore.instance().store(
            name, OmegaConf.load(conf / (group or "") / f"{name}.yaml"), group=group
        )
    backfill()


@application(config_name="backfill", config_path=None)
def backfill(cfg: DictConfig) -> None:
    settings = typed(BackfillSettings, cfg)
    done = pipeline.backfill(
        settings.checkpoints,
        model=build_model(settings.model),
        run=settings.run,
        name=settings.name,
        spool=settings.spool,
        tracker_options=settings.tracker,
        max_mb=settings.max_mb,
    )
    print(
        f"Captured {len(done.steps)} checkpoints"
        + (
            f", steps {done.steps[0]} to {done.steps[-1]}"
            if done.steps
            else ": the run holds all of them"
        )
    )
    say_what_is_left(done.report)
    for run in done.runs:
        print(f"To make the video of it, from any directory:\n  {pipeline.render_command(run)}")


def build_model(name: str) -> nn.Module:
    """The model that ``name`` stands for: a function or class ``package.module.name`` that is
    called without arguments, or a directory with the ``config.json`` of a Hugging Face model, whose
    weights stay random until a checkpoint is loaded.

    Raises:
        ConfigError: there is no such function, or it gives no model.
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
