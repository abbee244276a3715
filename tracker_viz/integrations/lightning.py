"""Record what a Lightning ``Trainer`` trains, by one callback.

    Trainer(logger=WandbLogger(...), callbacks=[TrackerVizCallback()])

The captures go into the runs of the trainer's W&B and MLflow loggers, which stay the loggers': they
are never ended here.
"""

from __future__ import annotations

import importlib
import logging
import math
import sys
from collections.abc import Mapping
from typing import Any

from tracker_viz import trackers
from tracker_viz.errors import ConfigError
from tracker_viz.integrations.recording import Recording
from tracker_viz.pipeline import Watcher

log = logging.getLogger(__name__)

# The same framework has two names, and the Trainer of one refuses callbacks of the other.
_name = "lightning.pytorch"
if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
    _name = "pytorch_lightning"
pl: Any = importlib.import_module(_name)


class TrackerVizCallback(pl.Callback):
    """Capture the model that a Lightning ``Trainer`` trains.

    Nothing is recorded under ``fast_dev_run``, nor under ``barebones`` unless ``run`` is given.

    Args:
        model: name of the LightningModule's attribute that is the decoder; the whole module by
            default.
        run: as in ``watch``; by default the runs of the trainer's W&B and MLflow loggers. Where it
            has none, captures are kept on this machine.
        watch_options: everything else that ``watch`` takes (``probe``, ``every``, ``captures``,
            ...).
    """

    def __init__(self, model: str | None = None, run: Any = None, **watch_options: Any) -> None:
        self.model = model
        self.run = run
        self.watch_options = watch_options
        self._recording = Recording()

    @property
    def watcher(self) -> Watcher | None:
        """The ``Watcher`` of the latest training; None where nothing is recorded."""
        return self._recording.watcher

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        decoder = self._decoder(pl_module)
        switch = _debug_switch(trainer, has_run=self.run is not None)
        if switch:
            self._recording = Recording()
            log.warning("%s: nothing is captured", switch)
            return

        options = dict(self.watch_options)
        # It is infinite where max_epochs=-1.
        if math.isfinite(trainer.estimated_stepping_batches):
            options.setdefault("total_steps", int(trainer.estimated_stepping_batches))
        run = self.run
        tracker_options = dict(options.pop("tracker_options", None) or {})
        if run is None:
            run, of_loggers = _loggers_runs(trainer)
            tracker_options = of_loggers | tracker_options
        self._recording.begin(
            decoder,
            run=run,
            start_step=trainer.global_step,
            counts_from=1,
            tracker_options=tracker_options,
            **options,
        )

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.watcher is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is None:
            self.watcher.step(trainer.global_step)
            return
        # Lightning divides what training_step returns by the number of accumulated batches.
        self.watcher.step(trainer.global_step, loss=loss * trainer.accumulate_grad_batches)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._recording.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.watcher is not None:
            self.watcher.close(trackers.state_after(type(exception)))

    def _decoder(self, pl_module: Any) -> Any:
        parts = [name for name, _ in pl_module.named_children()]
        if self.model is not None and self.model not in parts:
            raise ConfigError(
                f"model= must name the attribute of {type(pl_module).__name__} "
                f"that is the decoder: one of {parts}; got {self.model!r}"
            )
        if self.model is not None:
            return getattr(pl_module, self.model)
        if type(pl_module).forward is pl.LightningModule.forward:
            raise ConfigError(
                f"{type(pl_module).__name__} has no forward that takes token ids; "
                "name the attribute that is the decoder, "
                f"TrackerVizCallback(model=...): one of {parts}"
            )
        return pl_module


def _debug_switch(trainer: Any, *, has_run: bool) -> str | None:
    """Return the debug setting that keeps the trainer from recording, or None."""
    if trainer.fast_dev_run:
        return f"fast_dev_run={trainer.fast_dev_run}"
    return "barebones=True" if trainer.barebones and not has_run else None


def _loggers_runs(trainer: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the runs of the trainer's loggers, as ``watch`` takes them, and the options of their
    trackers. On other ranks loggers have no run, and none is needed."""
    runs: list[Any] = []
    tracker_options: dict[str, Any] = {}
    if not trainer.is_global_zero:
        return runs, tracker_options
    for logger in trainer.loggers:
        found = trackers.run_of_logger(logger)
        if found:
            scheme, behind = found
            runs.append(behind.run)
            tracker_options[scheme] = dict(behind.options)
    if not runs:
        names = ", ".join(type(logger).__name__ for logger in trainer.loggers)
        log.warning(
            "the Trainer's loggers (%s) cannot hold captures: they stay on this "
            "machine, in the spool. Draw them with tv.render(callback.watcher). "
            "To upload them to a run, use a WandbLogger, an MLFlowLogger or "
            "TrackerVizCallback(run='mlflow')",
            names or "none",
        )
    return runs, tracker_options
