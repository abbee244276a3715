"""Lightning ``Trainer`` -> ``watch``: one callback, nothing else to change.

    Trainer(logger=WandbLogger(...), callbacks=[TrackerVizCallback()])

The captures go into the run of the trainer's W&B or MLflow logger, which stays the logger's: it is
never ended here.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping
from typing import Any

from tracker_viz import trackers
from tracker_viz.errors import ConfigError
from tracker_viz.pipeline import Watcher, watch

# The same framework goes by two names, and a callback of one is refused by the other's Trainer.
_name = (
    "pytorch_lightning"
    if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules
    else "lightning.pytorch"
)
pl: Any = importlib.import_module(_name)


class TrackerVizCallback(pl.Callback):
    """Captures the model that a Lightning ``Trainer`` trains.

    Args:
        model: name of the LightningModule's attribute that holds the decoder; the whole module by
            default.
        run: as in ``watch``; by default the runs of the trainer's W&B and MLflow loggers.
        watch_options: everything else that ``watch`` takes (``probe``, ``every``, ``captures``,
            ...).
    """

    def __init__(self, model: str | None = None, run: Any = None, **watch_options: Any) -> None:
        self.model = model
        self.run = run
        self.watch_options = watch_options
        self.watcher: Watcher | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        options = dict(self.watch_options)
        if math.isfinite(trainer.estimated_stepping_batches):  # it is infinite where max_epochs=-1
            options.setdefault("total_steps", int(trainer.estimated_stepping_batches))
        run, tracker_options = (self.run, {}) if self.run else _loggers_runs(trainer)
        tracker_options |= options.pop("tracker_options", {})
        self.watcher = watch(
            self._decoder(pl_module),
            run=run,
            start_step=trainer.global_step,
            counts_from=1,
            tracker_options=tracker_options,
            **options,
        )

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.watcher is not None, "the Trainer calls on_train_start first"
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None and trainer.accumulate_grad_batches > 1:
            loss = loss * trainer.accumulate_grad_batches  # Lightning hands it on divided by that
        self.watcher.step(trainer.global_step, **({} if loss is None else {"loss": loss}))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        assert self.watcher is not None, "the Trainer calls on_train_start first"
        self.watcher.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.watcher is not None:
            self.watcher.close("killed" if isinstance(exception, KeyboardInterrupt) else "failed")

    def _decoder(self, pl_module: Any) -> Any:
        parts = [name for name, _ in pl_module.named_children()]
        if self.model is not None and self.model not in parts:
            raise ConfigError(
                f"model= names the part of {type(pl_module).__name__} that is the decoder: one of "
                f"{parts}; got {self.model!r}"
            )
        if self.model is None and type(pl_module).forward is pl.LightningModule.forward:
            raise ConfigError(
                f"{type(pl_module).__name__} has no forward of its own to call with token ids; "
                f"name its part that is the decoder, TrackerVizCallback(model=...): one of {parts}"
            )
        return pl_module if self.model is None else getattr(pl_module, self.model)


def _loggers_runs(trainer: Any) -> tuple[list[Any], dict[str, Any]]:
    runs: list[Any] = []
    tracker_options: dict[str, Any] = {}
    for logger in trainer.loggers:
        if found := trackers.run_of_logger(logger):
            scheme, behind = found
            runs.append(behind.run)
            tracker_options[scheme] = behind.options
    if not runs:
        names = [type(logger).__name__ for logger in trainer.loggers] or "none"
        raise ConfigError(
            f"the Trainer's loggers are {names}; give it a WandbLogger or an MLFlowLogger, or name "
            "a run: TrackerVizCallback(run='mlflow')"
        )
    return runs, tracker_options
