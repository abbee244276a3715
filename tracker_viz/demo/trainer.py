"""The training loop: model and batches go in, a trained model comes out, and a recorder looks on.

``train.py`` is the only caller. The recipe (AdamW, warm-up, cosine) is the one with which the
default model shows the onset of induction heads within a thousand steps.
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
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from tracker_viz.demo.checkpoint import Checkpoint
from tracker_viz.demo.data import Mixture, second_copies
from tracker_viz.errors import ConfigError, TrackerVizError


class TrainingDivergedError(TrackerVizError):
    """The loss is no longer a number; what was captured until then is kept."""


class Recorder(Protocol):
    """What the loop tells of each finished step."""

    def step(self, step: int, tokens_seen: int | None = None, **metrics: float) -> Any: ...


@dataclass(frozen=True)
class TrainerConfig:
    """The recipe.

    Attributes:
        steps: optimiser steps.
        batch_size: sequences a step.
        learning_rate: its peak, reached after ``warmup_steps`` and then let down along a cosine to
            ``final_lr_share`` of it.
        weight_decay: of the matrices; norms have none.
        clip_norm: largest length of the whole gradient.
        evaluate_rows: rows of held-out text, and as many of unseen spans, that are looked at when a
            step is captured; 0: never.
        checkpoint_every: steps between two checkpoints; 0: none at all, and no ``resume=``.
        device: ``auto`` (a GPU where there is one), or a name that torch knows: ``cpu``,
            ``cuda:1``, ...
        threads: of torch on the CPU; None leaves them as they are.
    """

    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    final_lr_share: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    evaluate_rows: int = 16
    checkpoint_every: int = 400
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"trainer.{name} must be at least 1; got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(
                f"trainer.threads is a number of threads, at least 1, or null; got {self.threads}"
            )
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"trainer.{name} must be a finite number above 0; got {getattr(self, name)}"
                )
        for name in ("warmup_steps", "weight_decay", "evaluate_rows", "checkpoint_every"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"trainer.{name} must not be negative; got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"trainer.{name} must be at least 0 and below 1; got {getattr(self, name)}"
                )
        if not 0 <= self.final_lr_share <= 1:
            raise ConfigError(
                "trainer.final_lr_share is a share of the learning rate, 0..1; got "
                f"{self.final_lr_share}"
            )

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the update that follows ``step`` finished ones."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        share = self.final_lr_share + (1 - self.final_lr_share) * 0.5 * (
            1 + math.cos(math.pi * progress)
        )
        return self.learning_rate * share


@dataclass(frozen=True)
class Outcome:
    """How training ended: ``finished``, or interrupted after ``step``. ``loss``: of the last batch;
    NaN where nothing was left to train."""

    finished: bool
    step: int
    loss: float


class Trainer:
    """Model, optimiser and batches, standing between two steps.

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
        """Train until ``config.steps`` are done or somebody asks to stop (SIGINT, SIGTERM).

        Args:
            recorder: told of every finished step and its loss, and of the held-out losses where
                ``evaluate_at(step)``.
            save: called with the training's state and its step: every ``checkpoint_every`` steps,
                at the end, and when interrupted.
            progress: show a bar on standard error.

        Raises:
            TrainingDivergedError: the loss became NaN or infinite; the weights stay as they were
                when it did.
        """
        config = self.config
        metrics = {"loss": math.nan}
        with (
            stop_on_signal() as stop,
            _progress_bar(self.step, config.steps, shown=progress) as bar,
            logging_redirect_tqdm(),
        ):
            while self.step < config.steps and not stop.requested:
                metrics = {"loss": self._train_step()}
                if config.evaluate_rows and evaluate_at(self.step):
                    metrics |= self.evaluate(config.evaluate_rows)
                recorder.step(self.step, self.step * self.tokens_per_step, **metrics)
                _show(bar, self.step, metrics, self.tokens_per_step)
                ending = self.step == config.steps or stop.requested
                if config.checkpoint_every and (ending or self.step % config.checkpoint_every == 0):
                    save(self.state(), self.step)
        return Outcome(self.step >= config.steps, self.step, metrics["loss"])

    def _train_step(self) -> float:
        inputs, targets = (tokens.to(self.device) for tokens in self.mixture.batch())
        loss = F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())
        if not math.isfinite(value := loss.item()):
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
        """Loss in nats per token on held-out text, and on the second and later copies of unseen
        spans (near 0 once it looks back)."""
        self.model.eval()
        text, repeats = (rows.to(self.device) for rows in self.mixture.validation_rows(n_rows))
        text_loss, repeats_loss = (
            F.cross_entropy(self.model(rows[:, :-1]).transpose(1, 2), rows[:, 1:], reduction="none")
            for rows in (text, repeats)
        )
        self.model.train()
        return {
            "validation/loss": text_loss.mean().item(),
            "validation/second_copy_loss": repeats_loss[second_copies(repeats)[:, 1:]]
            .mean()
            .item(),
        }

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name."""
        state = {"random.data": self.mixture.state(), "random.torch": torch.get_rng_state()}
        for name, weight in self.model.named_parameters():  # tied weights come once
            state[f"model.{name}"] = weight
            state |= {
                f"optimizer.{name}.{kind}": tensor
                for kind, tensor in self.optimizer.state[weight].items()
            }
        return state

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Go on from ``checkpoint``.

        Raises:
            ConfigError: it is of a model of another shape.
        """
        state, weights = checkpoint.tensors, dict(self.model.named_parameters())
        stored = {name.removeprefix("model.") for name in state if name.startswith("model.")}
        for name in sorted(stored | weights.keys()):
            there = tuple(state[f"model.{name}"].shape) if name in stored else None
            here = tuple(weights[name].shape) if name in weights else None
            if there != here:
                raise ConfigError(
                    f"the checkpoint is of another model: {name} is {there} there and {here} here; "
                    "leave out model overrides"
                )
        for name, weight in weights.items():
            weight.data.copy_(state[f"model.{name}"])
            kinds = ("step", "exp_avg", "exp_avg_sq") if checkpoint.step else ()
            # AdamW counts its steps on the CPU, whatever the weights' device
            self.optimizer.state[weight] = {
                kind: state[f"optimizer.{name}.{kind}"].to("cpu" if kind == "step" else self.device)
                for kind in kinds
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

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.requested = True
        for each in previous:
            signal.signal(each, signal.default_int_handler)
        tqdm.write(
            f"{signal.Signals(number).name}: ending after this step; once more to quit at once",
            file=sys.stderr,
        )

    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        previous = {
            number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
    try:
        yield stop
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def choose_device(name: str, *, job: int = 0) -> torch.device:
    """The torch device called ``name``; ``auto`` takes turns: job 0 of a sweep the first GPU, job 1
    the second, and so on round.

    Raises:
        ConfigError: torch does not know it, or this machine does not have it.
    """
    if name == "auto":
        return torch.device(
            f"cuda:{job % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
        )
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


def _progress_bar(start: int, steps: int, *, shown: bool) -> tqdm[Any]:
    return tqdm(
        desc="the first step",
        initial=start,
        total=steps,
        disable=not shown,
        # a log file wants a line now and then, not ten a second
        mininterval=0.2 if sys.stderr.isatty() else 15.0,
        bar_format="{percentage:3.0f}% |{bar:24}| step {n_fmt}/{total_fmt} · {desc} · {remaining} left",
    )


def _show(bar: tqdm[Any], step: int, metrics: Mapping[str, float], tokens_per_step: int) -> None:
    words = [f"loss {metrics['loss']:.3f}"]
    if rate := bar.format_dict["rate"]:
        words.append(f"{rate * tokens_per_step:,.0f} tokens/s")
    bar.set_description_str(" · ".join(words), refresh=False)
    bar.update(step - bar.n)
