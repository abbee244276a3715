"""Checkpoints that were saved earlier -> captures in a run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_viz.delivery.report import Report
from tracker_viz.pipeline.load import TrackerOptions
from tracker_viz.pipeline.watch import close_outbox, default_probe, open_outbox
from tracker_viz.progress import progress_bar
from tracker_viz.trackers.base import Run, RunState

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tracker_viz.capture import Decode, Probe


def backfill(
    checkpoints: str,
    *,
    model: nn.Module,
    run: Any,
    probe: Probe | Tensor | Sequence[Any] | None = None,
    decode: Decode | Any | None = None,
    name: str | None = None,
    spool: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    max_mb: float = 10.0,
    progress: bool = True,
    **recorder_options: Any,
) -> Backfilled:
    """Captures of checkpoints that were saved earlier, into a run; steps that the run holds already
    are left out.

    Args:
        checkpoints: glob pattern of safetensors files, ``torch.save`` files or Hugging Face
            directories, with the step in their names.
        model: of the class and configuration that was saved; its weights are overwritten.
        run, probe, decode, name, spool, tracker_options, max_mb, recorder_options: as ``watch``
            takes them.

    Raises:
        ConfigError: no checkpoint matches, or the step is not in a name; before anything else is
            done.
        CaptureError: a checkpoint does not fit the model. What was captured before is kept and
            uploaded.
    """
    from tracker_viz.capture import as_probe, capture_checkpoints, find_checkpoints, load_checkpoint

    found = find_checkpoints(checkpoints)
    load_checkpoint(model, found[0].path)
    probe = default_probe(model, decode) if probe is None else as_probe(probe, decode=decode)
    outbox, scores = open_outbox(
        run, name or "backfill", spool, None, None, tracker_options, max_mb
    )
    state: RunState = "failed"
    try:
        left_out = outbox.captured_steps
        n_due = sum(each.step not in left_out for each in found)
        with progress_bar("capturing", "checkpoints", shown=progress) as advance:
            loaded = itertools.count(1)
            steps = capture_checkpoints(
                model,
                found,
                probe,
                outbox.put,
                captured=left_out,
                max_mb=max_mb,
                loaded=lambda _: advance(next(loaded), n_due),
                **recorder_options,
            )
        state = "finished"
    finally:
        report = close_outbox(outbox, state, scores, 120.0, progress)
    return Backfilled(tuple(steps), tuple(outbox.runs), report)


@dataclass(frozen=True, slots=True)
class Backfilled:
    """Which steps were captured now, the runs that they went into, and what became of them."""

    steps: tuple[int, ...]
    runs: tuple[Run, ...]
    report: Report
