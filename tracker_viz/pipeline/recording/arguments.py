"""Check the arguments of ``watch``, ``backfill`` and ``inspect``, and choose what was left out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_viz.comparison import run_title
from tracker_viz.errors import ConfigError
from tracker_viz.trackers import job_settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tracker_viz.capture import Decode, Probe, Schedule

# Programs that run other people's code: a run is not called after them.
_LAUNCHERS = (
    *("", "-c", "-m", "ipykernel_launcher", "colab_kernel_launcher", "pytest", "ipython"),
    "_submit",  # submitit's
)


def checked_model(model: Any) -> nn.Module:
    from torch import nn

    if not isinstance(model, nn.Module):
        raise ConfigError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    return model


def chosen_probe(
    model: nn.Module,
    probe: Probe | Tensor | Sequence[Any] | None,
    decode: Decode | Any | None,
    score_rows: int,
) -> Probe:
    """Return the probe that was passed, else repeated random tokens of the model's vocabulary, as
    long as its context allows.

    Args:
        score_rows: see ``CaptureOptions``.
    """
    from tracker_viz.capture import (
        as_probe,
        cached_positions,
        context_length,
        learned_positions,
        make_probe,
        vocab_size,
    )

    size = vocab_size(model)
    if probe is not None:
        return as_probe(probe, decode=decode, vocab_size=size, score_rows=score_rows)
    if size is None:
        raise ConfigError(
            f"no token embedding was found in {type(model).__name__}, and tracker_viz captures "
            "decoders that take token ids. If this model does, pass "
            "probe=tv.make_probe(vocab_size, context_length), or your own token ids "
            "[probe, position]"
        )
    length = context_length(model) or learned_positions(model) or cached_positions(model)
    return make_probe(size, length, decode=decode, score_rows=score_rows)


def chosen_schedule(
    schedule: Schedule | None, every: int | None, total_steps: int | None, captures: int
) -> Schedule:
    from tracker_viz.capture import Schedule

    if schedule is None:
        if every is not None:
            return Schedule.every(every, total_steps)
        if total_steps is not None:
            return Schedule.for_total(total_steps, captures)
        return Schedule.open_ended()
    if every is not None:
        raise ConfigError("pass schedule= or every=, not both")
    if not isinstance(schedule, Schedule):
        raise ConfigError(
            f"schedule must be a Schedule, like Schedule.every(100); got {schedule!r} (every=100 "
            "makes one)"
        )
    return schedule


def default_name(model: nn.Module) -> str:
    """Return the script's name, or the model's where there is no script."""
    from tracker_viz.capture import model_name

    # A job of Hydra may run in a process of its launcher's; the job has the script's name.
    hydra = sys.modules.get("hydra.core.hydra_config")
    if hydra is not None and hydra.HydraConfig.initialized():
        return str(hydra.HydraConfig.get().job.name)
    program = Path(sys.argv[0]) if sys.argv else Path()
    script = program.parent.name if program.stem == "__main__" else program.stem
    if script in _LAUNCHERS:
        return model_name(model)
    return script


def sweep_run_name(name: str) -> str:
    """Return ``name`` with the settings of this sweep job, ``demo · n_heads=4 seed=0``, so that
    lists of runs show how they differ. Outside a sweep it stays as it is."""
    settings = job_settings()
    has_settings = run_title("", settings) in name
    return name if has_settings else run_title(name, settings)
