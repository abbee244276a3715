"""Train the demo's model on its data, and report every step to a recorder.

``train.py`` is the only caller. With this recipe (AdamW, warm-up, cosine) induction heads appear in
the default model within a thousand steps.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from tracker_viz.demo.checkpoint import Checkpoint
from tracker_viz.demo.data import Mixture, second_copies
from tracker_viz.errors import ConfigError, TrackerVizError
from tracker_viz.options import Options
from tracker_viz.progress import progress_bar


class TrainingDivergedError(TrackerVizError):
    """The loss is NaN or infinite; earlier captures are kept."""


class Recorder(Protocol):
    """The part of ``Watcher`` that the loop calls after each step."""

    def step(self, step: int, tokens_seen: int | None = None, **metrics: float) -> Any: ...


class TrainerConfig(Options):
    """The group ``trainer``: the recipe."""

    group_name = "trainer"

    steps: int = Field(1000, ge=1)
    """Optimizer steps."""

    batch_size: int = Field(16, ge=1)
    """Sequences per step."""

    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate, reached after warmup_steps; training stalls at 0.003."""

    warmup_steps: int = Field(50, ge=0)
    """Steps over which the learning rate rises to its peak."""

    final_lr_share: float = Field(0.1, ge=0, le=1)
    """The cosine ends at this share of the peak."""

    beta1: float = Field(0.9, ge=0, lt=1)
    """First beta of AdamW."""

    beta2: float = Field(0.999, ge=0, lt=1)
    """Second beta of AdamW."""

    weight_decay: float = Field(0.1, ge=0)
    """Weight decay of the matrices; norms are not decayed."""

    clip_norm: float = Field(1.0, gt=0)
    """Gradient clipping: largest norm of the whole gradient."""

    evaluate_rows: int = Field(16, ge=0)
    """Number of held-out text rows, and of unseen spans, to evaluate at each captured step; 0:
    none."""

    checkpoint_every: int = Field(400, ge=0)
    """Steps between two checkpoints; 0: no checkpoints, and no resume=."""

    device: str = "auto"
    """auto (a GPU if there is one; the jobs of a sweep are spread over several), or a torch device:
    cpu, cuda, cuda:1, ..."""

    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of torch; null: all cores that the job may use."""

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of the update that follows ``step`` finished ones."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate * (self.final_lr_share + (1 - self.final_lr_share) * cosine)


@dataclass(frozen=True)
class Outcome:
    """The end of a training.

    Attributes:
        finished: False: interrupted after ``step``.
        loss: of the last batch; NaN where nothing was left to train.
    """

    finished: bool
    step: int
    loss: float


class Trainer:
    """Model, optimizer and batches between two steps.

    Args:
        job: number of this job in its sweep, by which ``device=auto`` chooses among several GPUs.
    """

    def __init__(self, model: nn.Module, mixture: Mixture, config: TrainerConfig, *, job: int = 0):
        self.config = config
        self.device = choose_device(config.device, job=job)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.model = model.to(self.device)
        self.mixture = mixture
        self.step = 0

        matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
        vectors = [weight for weight in model.parameters() if weight.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
        )

    @property
    def tokens_per_step(self) -> int:
        return self.config.batch_size * self.mixture.context_length

    def fit(
        self,
        recorder: Recorder,
        *,
        save: Callable[[Mapping[str, Tensor], int], Any],
        evaluate_at: Callable[[int], bool] = lambda step: False,
        progress: bool = True,
    ) -> Outcome:
        """Train until ``config.steps`` are done or a signal asks to stop (SIGINT, SIGTERM).

        Args:
            recorder: gets every finished step and its loss, and the held-out losses where
                ``evaluate_at(step)``.
            save: called with the state and its step: every ``checkpoint_every`` steps, at the end,
                and when interrupted.
            progress: show progress on standard error.

        Raises:
            TrainingDivergedError: the loss became NaN or infinite; the weights stay as they were
                then.
        """
        config = self.config
        metrics = {"loss": math.nan}
        with (
            stop_on_signal() as stop,
            progress_bar("training", "steps", shown=progress, done=self.step) as advance,
            logging_redirect_tqdm(),
        ):
            while self.step < config.steps and not stop.requested:
                metrics = {"loss": self._train_step()}
                if config.evaluate_rows and evaluate_at(self.step):
                    metrics |= self.evaluate(config.evaluate_rows)
                recorder.step(self.step, self.step * self.tokens_per_step, **metrics)
                advance(self.step, config.steps, f"loss {metrics['loss']:.3f}")

                is_last = self.step == config.steps or stop.requested
                if config.checkpoint_every and (
                    is_last or self.step % config.checkpoint_every == 0
                ):
                    save(self.state(), self.step)
        return Outcome(self.step >= config.steps, self.step, metrics["loss"])

    def _train_step(self) -> float:
        inputs, targets = (tokens.to(self.device) for tokens in self.mixture.batch())
        loss = F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"the loss is {value} after {self.step} steps; try a lower trainer.learning_rate "
                f"(now {self.config.learning_rate:g}) or a longer trainer.warmup_steps (now "
                f"{self.config.warmup_steps})"
            )

        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return value

    @torch.no_grad()
    def evaluate(self, n_rows: int) -> dict[str, float]:
        """Return the loss in nats per token on held-out text, and on the second and later copies of
        unseen spans (near 0 once the model looks back)."""
        text, repeats = (rows.to(self.device) for rows in self.mixture.validation_rows(n_rows))
        self.model.eval()
        text_loss = self._losses(text).mean()
        copied_loss = self._losses(repeats)[second_copies(repeats)[:, 1:]].mean()
        self.model.train()
        return {
            "validation/loss": text_loss.item(),
            "validation/second_copy_loss": copied_loss.item(),
        }

    def _losses(self, rows: Tensor) -> Tensor:
        """Return the loss at every position: float32 [row, token - 1]."""
        logits = self.model(rows[:, :-1]).transpose(1, 2)
        return F.cross_entropy(logits, rows[:, 1:], reduction="none")

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that the next step depends on, by name."""
        state = {"random.data": self.mixture.state(), "random.torch": torch.get_rng_state()}
        # named_parameters gives tied weights once.
        for name, weight in self.model.named_parameters():
            state[f"model.{name}"] = weight
            for kind, tensor in self.optimizer.state[weight].items():
                state[f"optimizer.{name}.{kind}"] = tensor
        return state

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Continue from ``checkpoint``.

        Raises:
            ConfigError: the checkpoint's model has another shape.
        """
        state, weights = checkpoint.tensors, dict(self.model.named_parameters())
        _check_shapes(state, weights)
        for name, weight in weights.items():
            weight.data.copy_(state[f"model.{name}"])
            # AdamW has no state before its first step, and counts its steps on the CPU.
            self.optimizer.state[weight] = {}
            if checkpoint.step:
                self.optimizer.state[weight] = {
                    "step": state[f"optimizer.{name}.step"].to("cpu"),
                    "exp_avg": state[f"optimizer.{name}.exp_avg"].to(self.device),
                    "exp_avg_sq": state[f"optimizer.{name}.exp_avg_sq"].to(self.device),
                }
        self.mixture.set_state(state["random.data"])
        torch.set_rng_state(state["random.torch"])
        self.step = checkpoint.step


class StopRequest:
    """Set by the first signal; read by the loop between two steps."""

    requested = False


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request to end cleanly; the second one interrupts at
    once.

    Outside the main thread, where Python delivers no signals, this changes nothing.
    """
    stop = StopRequest()
    previous: dict[signal.Signals, Any] = {}

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.requested = True
        for each in previous:
            signal.signal(each, signal.default_int_handler)
        name = signal.Signals(number).name
        tqdm.write(f"{name}: ending after this step; once more to quit at once", file=sys.stderr)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def choose_device(name: str, *, job: int = 0) -> torch.device:
    """Return the torch device called ``name``. ``auto`` gives job 0 of a sweep the first GPU, job 1
    the second, and so on in turn.

    Raises:
        ConfigError: torch does not know the device, or this machine does not have it.
    """
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    if name == "auto":
        return torch.device(f"cuda:{job % torch.cuda.device_count()}")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            "trainer.device must be auto or a device of this machine (cpu, cuda, cuda:1, ...); "
            f"got {name!r} ({reason})"
        ) from error
    return device


def _check_shapes(state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    stored = {}
    for name, tensor in state.items():
        if name.startswith("model."):
            stored[name.removeprefix("model.")] = tuple(tensor.shape)
    present = {name: tuple(weight.shape) for name, weight in weights.items()}

    for name in sorted(stored.keys() | present.keys()):
        there, here = stored.get(name), present.get(name)
        if there != here:
            raise ConfigError(
                f"the checkpoint is from another model: its {name} is {there}, "
                f"not {here}; remove the model overrides"
            )
