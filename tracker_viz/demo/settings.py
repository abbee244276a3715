"""Everything that ``train.py`` can be told, as one checked value. The groups of ``conf/`` fill
it."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tracker_viz.demo.data import DataConfig
from tracker_viz.demo.model import ModelConfig
from tracker_viz.demo.trainer import TrainerConfig
from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.metrics import ROLES

# What a sweeper can be told to optimise: the last loss, or one of the values that
# ``metrics.run_summary`` gives
OUTCOMES = (
    "loss",
    *(
        f"specialisation/{role.name}_{value}"
        for role in ROLES
        for value in ("max", "heads", "onset_step")
    ),
    *(
        f"specialisation/{value}"
        for value in ("heads_specialised", "share_specialised", "index_mean")
    ),
)
# What a resumed run takes over from its checkpoint, where the command line does not say otherwise
TRAINED_WITH = ("name", "seed", "model", "data", "trainer", "capture")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Attributes are the keys of ``conf/train.yaml``.

    ``capture``, ``layout`` and ``video`` are options of those stations; ``tracker`` is tracker ->
    its options.
    """

    name: str
    seed: int
    render: bool
    resume: str | None
    spool: str | None
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    capture: dict[str, Any] = field(default_factory=dict)
    tracker: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    video: dict[str, Any] = field(default_factory=dict)
    theme: str = "dark"
    format: Any = "video"
    optimize: str = "loss"

    def __post_init__(self) -> None:
        if self.optimize not in OUTCOMES:
            raise ConfigError(unknown_name("outcome to optimize", self.optimize, OUTCOMES))

    def outcome(self, loss: float, summary: Mapping[str, float]) -> float:
        """What ``optimize`` names. A role that no head took for good has no onset: it came later
        than any that came, at infinity."""
        return (
            loss
            if self.optimize == "loss"
            else float(
                summary.get(self.optimize, math.inf if "_onset_" in self.optimize else math.nan)
            )
        )

    def trained_with(self) -> dict[str, Any]:
        """What the run's model, losses and captures depend on, as plain data that means the same in
        every working directory."""
        chosen = {key: value for key, value in asdict(self).items() if key in TRAINED_WITH}
        if self.data.path is not None:
            chosen["data"]["path"] = os.path.abspath(os.path.expanduser(self.data.path))
        return chosen


def resumed(
    cfg: DictConfig, trained_with: Mapping[str, Any], overrides: Iterable[str]
) -> DictConfig:
    """``cfg`` with what the checkpoint was trained with, but for what ``overrides`` (the command
    line's words) say explicitly.

    ``python train.py resume=... trainer.steps=2000`` so goes on with the same model, data and
    recipe, for longer.
    """
    merged = copy.deepcopy(cfg)
    OmegaConf.set_struct(merged, False)
    merged.merge_with({key: trained_with[key] for key in TRAINED_WITH if key in trained_with})
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~").partition("@")[0].replace("/", ".")
        if key.partition(".")[0] in TRAINED_WITH:
            OmegaConf.update(merged, key, OmegaConf.select(cfg, key), merge=False)
    return merged
