"""Every option of ``train.py`` as one checked value, filled from the groups of ``conf/``."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import field_validator

from tracker_viz.demo.data import DataConfig
from tracker_viz.demo.model import ModelConfig
from tracker_viz.demo.trainer import TrainerConfig
from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.metrics import ROLES
from tracker_viz.options import Options

_OF_A_ROLE = ("max", "heads", "onset_step")
_OF_THE_RUN = ("heads_specialised", "share_specialised", "index_mean")

# What a sweeper can optimize: the last loss, or a value that ``metrics.run_summary`` returns.
OUTCOMES = (
    "loss",
    *(f"specialisation/{role.name}_{value}" for role in ROLES for value in _OF_A_ROLE),
    *(f"specialisation/{value}" for value in _OF_THE_RUN),
)
# What a resumed run takes from its checkpoint, unless the command line says otherwise.
TRAINED_WITH = ("name", "seed", "model", "data", "trainer", "capture")


class TrainSettings(Options):
    """The keys of ``conf/train.yaml``.

    ``capture``, ``layout`` and ``video`` are checked by the stations that take them; ``tracker`` is
    tracker -> its options.
    """

    name: str
    """Name of the run, in the tracker and in the pictures."""

    seed: int
    """Seed of the weights and of the order of the batches."""

    render: bool
    """Make the pictures when training ends; false leaves them for tracker-viz render."""

    resume: str | None
    """Continue from the last checkpoint of this run, into this run."""

    spool: str | None
    """Directory where captures wait for the tracker; null: a new one in the job's directory."""

    model: ModelConfig
    data: DataConfig
    trainer: TrainerConfig
    capture: dict[str, Any]
    tracker: dict[str, Any]
    layout: dict[str, Any]
    video: dict[str, Any]

    theme: Literal["dark", "light"] = "dark"
    """Colors of the pictures."""

    format: Any = "video"
    """What to make: video, poster, webp, gif or html; or a list of these."""

    optimize: str = "loss"
    """What a sweeper such as Optuna gets from each job: loss, or a value of the run's summary such
    as specialisation/induction_max."""

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
        """Return what the run's model, losses and captures depend on, as plain data that means the
        same in every working directory."""
        chosen = self.model_dump(include=set(TRAINED_WITH))
        if self.data.path is not None:
            chosen["data"]["path"] = os.path.abspath(os.path.expanduser(self.data.path))
        # As a checkpoint gives it back: lists, not tuples.
        plain: dict[str, Any] = json.loads(json.dumps(chosen))
        return plain


def resumed(
    cfg: DictConfig, trained_with: Mapping[str, Any], overrides: Iterable[str]
) -> DictConfig:
    """Return ``cfg`` with the settings of a checkpoint, except those that ``overrides`` (the words
    of the command line) set explicitly.

    So ``python train.py resume=... trainer.steps=2000`` trains the same model with the same data
    and recipe for longer.
    """
    merged = copy.deepcopy(cfg)
    OmegaConf.set_struct(merged, False)
    merged.merge_with({key: trained_with[key] for key in TRAINED_WITH if key in trained_with})

    for override in overrides:
        key = override.partition("=")[0].lstrip("+~").partition("@")[0].replace("/", ".")
        if key.partition(".")[0] in TRAINED_WITH:
            OmegaConf.update(merged, key, OmegaConf.select(cfg, key), merge=False)
    return merged
