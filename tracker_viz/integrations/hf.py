"""Record what a Hugging Face ``Trainer`` trains, by one callback.

    Trainer(model, args, ..., callbacks=[TrackerVizCallback()])

The captures go into the runs that ``report_to`` opened (W&B, MLflow, ...), which stay the
Trainer's: they are never ended here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tracker_viz import trackers
from tracker_viz.comparison import run_title
from tracker_viz.errors import TrackerError
from tracker_viz.integrations.recording import Recording
from tracker_viz.pipeline import Watcher

log = logging.getLogger(__name__)


class TrackerVizCallback(TrainerCallback):
    """Capture the model that a ``Trainer`` trains.

    Args:
        run: as in ``watch``; by default the runs that ``report_to`` opened. Where it names no
            tracker that can hold captures, they are kept on this machine.
        watch_options: everything else that ``watch`` takes (``probe``, ``every``, ``captures``,
            ...). Tokens are decoded by the Trainer's tokenizer, unless ``decode`` is given.
    """

    def __init__(self, run: Any = None, **watch_options: Any) -> None:
        self.run = run
        self.watch_options = watch_options
        self._recording = Recording()
        self._loss: float | None = None
        # A step is finished that the watcher was not told of: the Trainer is about to log its loss.
        self._is_step_waiting = False

    @property
    def watcher(self) -> Watcher | None:
        """The ``Watcher`` of the latest training; None before the first."""
        return self._recording.watcher

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
        self._loss, self._is_step_waiting = None, False
        name = state.trial_name or args.run_name
        trial = state.trial_params or {}
        if trial:
            # The trials of a search differ in these, and in nothing else that a list shows.
            name = run_title(name or "trial", trial)
        options = {"total_steps": state.max_steps, "name": name, **self.watch_options}
        # The processing class may be an image processor as well.
        if hasattr(processing_class, "decode"):
            options.setdefault("decode", processing_class)

        run = self.run
        if run is None:
            run = _reported_to(args, name, trial) if state.is_world_process_zero else []
        self._recording.begin(
            model, run=run, start_step=state.global_step, counts_from=1, **options
        )
        if state.is_world_process_zero and self.watcher is not None:
            _warn_without_loss(args, state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # The Trainer logs a step's loss after this event, and before anything changes the model.
        self._is_step_waiting = True
        if not _is_logged_next(args, state, control):
            self._step(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        # The Trainer keeps each step's loss to itself, and logs the mean since the last log.
        if logs and "loss" in logs:
            self._loss = logs["loss"]
            self._step(state)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # Another callback may have kept the Trainer from logging.
        self._step(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.watcher is None:
            return
        if args.load_best_model_at_end and state.best_global_step != state.global_step:
            # The Trainer has loaded an earlier step's weights.
            self.watcher.forget_latest()
        else:
            self._step(state)
        self._recording.end()

    def _step(self, state: TrainerState) -> None:
        """Tell the watcher of the finished step, once."""
        if self.watcher is None or not self._is_step_waiting:
            return
        self._is_step_waiting = False
        metrics = {} if self._loss is None else {"loss": self._loss}
        self.watcher.step(
            state.global_step, tokens_seen=state.num_input_tokens_seen or None, **metrics
        )


def _is_logged_next(args: TrainingArguments, state: TrainerState, control: TrainerControl) -> bool:
    """Return whether the Trainer logs the loss before the next step. Its own callback, which comes
    before ours, decides that."""
    if args.logging_strategy != "epoch":
        return control.should_log
    is_cut_short = control.should_epoch_stop or control.should_training_stop
    return is_cut_short or (state.epoch is not None and float(state.epoch).is_integer())


def _warn_without_loss(args: TrainingArguments, state: TrainerState) -> None:
    """Say that the film will show no loss where the Trainer will log none."""
    why = ""
    if args.logging_strategy == "no":
        why = "the Trainer logs none (logging_strategy='no')"
    elif args.logging_strategy == "steps":
        every = state.logging_steps
        is_first_logged = args.logging_first_step and state.global_step == 0
        next_log = every * (state.global_step // every + 1)
        if next_log > state.max_steps and not is_first_logged:
            why = (
                f"the Trainer logs it every {every:g} steps (logging_steps), and training ends at "
                f"step {state.max_steps}"
            )
    if why:
        log.warning("the film will show no loss: %s. Set logging_steps=1 in TrainingArguments", why)


def _reported_to(args: TrainingArguments, name: str | None, trial: Mapping[str, Any]) -> list[str]:
    """Return the trackers that the Trainer reports to, each with a run open where it needs one;
    empty where none of them can hold captures.

    Args:
        trial: settings of a search's trial.
    """
    wanted = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    reported = trackers.reported_to(wanted)
    if not reported:
        others = ", ".join(wanted) or "no tracker"
        log.warning(
            "the Trainer reports to %s: captures stay on this machine, in the "
            "spool. Draw them with tv.render(callback.watcher). To upload them "
            "to a run, use report_to='mlflow' or 'wandb', or "
            "TrackerVizCallback(run='mlflow')",
            others,
        )
    for scheme in reported:
        # After its first training the Trainer's own callback opens no run; the client would, at
        # the first loss, and split losses and captures over two runs.
        tracker = trackers.connect(scheme)
        try:
            if tracker.active_run() is None:
                tracker.start_live_run(name, trial)
        except TrackerError as error:
            log.warning("captures get a separate run in %s: %s", scheme, error)
    return reported
