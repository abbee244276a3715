"""Hugging Face ``Trainer`` -> ``watch``: one callback, nothing else to change.

    Trainer(model, args, ..., callbacks=[TrackerVizCallback()])

The captures go into the runs that ``report_to`` opened (W&B, MLflow), which stay the Trainer's:
they are never ended here.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tracker_viz import trackers
from tracker_viz.errors import ConfigError
from tracker_viz.pipeline import Watcher, watch

EARLIER_TIMEOUT_S = 15.0


class TrackerVizCallback(TrainerCallback):
    """Captures the model that a ``Trainer`` trains.

    Args:
        run: as in ``watch``; by default the runs of W&B and MLflow that ``report_to`` opened.
        watch_options: everything else that ``watch`` takes (``probe``, ``every``, ``captures``,
            ...). Tokens are spelt by the Trainer's tokenizer, unless ``decode`` says otherwise.
    """

    def __init__(self, run: Any = None, **watch_options: Any) -> None:
        self.run = run
        self.watch_options = watch_options
        self.watcher: Watcher | None = None
        self._loss: float | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        if self.watcher is not None:
            # The Trainer says nothing when training fails, and the model may no longer be what
            # failed.
            self.watcher.forget_latest()
            self.watcher.close("failed", timeout_s=EARLIER_TIMEOUT_S)
        tokenizer = (
            processing_class if hasattr(processing_class, "decode") else None
        )  # it may be an image processor as well
        options = {
            "total_steps": state.max_steps,
            "name": args.run_name,
            "decode": tokenizer,
            **self.watch_options,
        }
        self.watcher = watch(
            model,
            run=self.run or _reported_to(args),
            start_step=state.global_step,
            counts_from=1,
            **options,
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        # The Trainer keeps each step's loss to itself and tells only its mean since the last log.
        self._loss = (logs or {}).get("loss", self._loss)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        assert self.watcher is not None, "the Trainer calls on_train_begin first"
        metrics = {} if self._loss is None else {"loss": self._loss}
        self.watcher.step(
            state.global_step, tokens_seen=state.num_input_tokens_seen or None, **metrics
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        assert self.watcher is not None, "the Trainer calls on_train_begin first"
        if args.load_best_model_at_end and state.best_global_step != state.global_step:
            # the Trainer has put an earlier step's weights back
            self.watcher.forget_latest()
        self.watcher.close()


def _reported_to(args: TrainingArguments) -> list[str]:
    wanted = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    reported = trackers.reported_to(wanted)
    if not reported:
        raise ConfigError(
            f"the Trainer reports to {wanted or 'nothing'}; "
            "set report_to='wandb' or 'mlflow', or name a run: TrackerVizCallback(run='mlflow')"
        )
    return reported
