"""Capture existing checkpoints into a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_viz import notebook
from tracker_viz.delivery import Report
from tracker_viz.pipeline.load import TrackerOptions
from tracker_viz.pipeline.recording.arguments import checked_model, chosen_probe
from tracker_viz.pipeline.recording.destinations import destinations_of
from tracker_viz.pipeline.recording.outbox import close_outbox, open_outbox
from tracker_viz.pipeline.scoring import Scores
from tracker_viz.progress import progress_bar
from tracker_viz.trackers import Run, RunState

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tracker_viz.capture import Decode, Forward, Pooling, Probe

CLOSE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Backfilled:
    """The result of ``backfill``.

    Attributes:
        steps: the steps captured by this call.
        runs: the runs that got them.
        report: the result of their delivery.
    """

    steps: tuple[int, ...]
    runs: tuple[Run, ...]
    report: Report

    def __repr__(self) -> str:
        runs = ", ".join(str(run.ref) for run in self.runs)
        captures = notebook.count(len(self.steps), "capture")
        return f"Backfilled({captures} into {runs}; {self.report.words})"

    def _repr_html_(self) -> str:
        """Say in a notebook what was captured, with links to the runs."""
        links = [notebook.link(run.url(), str(run.ref)) for run in self.runs]
        return notebook.box(
            [
                notebook.text(f"{notebook.count(len(self.steps), 'capture')}; {self.report.words}"),
                " · ".join(links),
            ]
        )


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
    blocks: str | Sequence[str] | None = None,
    only_blocks: Collection[int] | None = None,
    only_heads: Collection[int] | Mapping[int, Collection[int]] | None = None,
    projections: Collection[str] | Mapping[str, str] | None = None,
    pooling: Pooling | Mapping[str, Pooling] = "sample",
    max_experts: int = 4,
    score_rows: int = 4,
    signals: Collection[str] | None = None,
    forward: Forward | None = None,
    autocast: torch.dtype | None = None,
    progress: bool = True,
) -> Backfilled:
    """Capture existing checkpoints into a run, except for steps that it already holds.

    Args:
        checkpoints: glob pattern of safetensors files, ``torch.save`` files or Hugging Face
            directories, with the step in their names.
        model: with the class and configuration of the checkpoints; its weights are overwritten.
        name: of a run that is created here; ``backfill`` by default.
        progress: show progress bars.

    The other arguments are those of ``watch``.

    Raises:
        ConfigError: no checkpoint matches, or a name has no step in it; checked first.
        CaptureError: a checkpoint does not fit the model. Earlier captures are kept and uploaded.
        RunTakenError: the run holds the captures of another training run.
    """
    from tracker_viz.capture import (
        Camera,
        CaptureOptions,
        capture_checkpoints,
        find_checkpoints,
        load_checkpoint,
        unwrapped,
    )

    model = unwrapped(checked_model(model))
    destinations = destinations_of(run, tracker_options or {})
    options = CaptureOptions(
        max_mb=max_mb,
        blocks=blocks,
        only_blocks=only_blocks,
        only_heads=only_heads,
        projections=projections,
        pooling=pooling,
        max_experts=max_experts,
        score_rows=score_rows,
        signals=signals,
    )
    found = find_checkpoints(checkpoints)
    load_checkpoint(model, found[0].path)
    batch = chosen_probe(model, probe, decode, options.score_rows)

    camera = Camera(model, batch, forward=forward, autocast=autocast, **options.for_camera())
    first = camera.explore(found[0].step, None)
    scores = Scores(options.max_mb)
    outbox = open_outbox(destinations, scores, first=first, spool=spool, name=name or "backfill")
    state: RunState = "failed"
    steps: list[int] = []
    try:
        captured = outbox.captured_steps
        n_due = sum(each.step not in captured for each in found)
        with progress_bar("capturing", "checkpoints", shown=progress) as advance:
            for capture in capture_checkpoints(camera, found, captured=captured):
                outbox.submit(capture)
                steps.append(capture.step)
                advance(len(steps), n_due)
        state = "finished"
    finally:
        report = close_outbox(outbox, state, scores, CLOSE_TIMEOUT_S, progress)
    return Backfilled(tuple(steps), tuple(outbox.runs), report)
