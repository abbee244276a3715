"""``tracker-viz backfill``: capture checkpoints that were saved earlier into a run."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from tracker_viz import pipeline, trackers
from tracker_viz.jobs.application import application
from tracker_viz.jobs.builders import build_model
from tracker_viz.jobs.report import print_delivery
from tracker_viz.jobs.settings.config import Settings
from tracker_viz.notebook import count
from tracker_viz.types import RunRef


class BackfillSettings(Settings):
    """Captures existing checkpoints into a run, except for steps that the run already holds."""

    usage = ("checkpoints='<glob>' model=<builder> [run=<RunRef>] [key=value ...]",)

    checkpoints: str
    """Glob of safetensors or torch.save files, or of Hugging Face directories, with the step in the
    name: 'out/checkpoint-*'."""

    model: str
    """Builder of the model: a function without arguments, my_package.build_model, or a directory
    with a config.json."""

    run: str = "mlflow"
    """An existing run, mlflow:<run_id>, or a tracker (mlflow, wandb, local) for a new run."""

    name: str = "backfill"
    """Name of a new run."""

    spool: str | None = None
    """Directory where captures wait for the tracker; null: spool/<name>-<time>."""

    max_mb: float = Field(10.0, gt=0)
    """Largest size of one capture, in megabytes."""

    tracker: dict[str, Any] = Field(default_factory=dict)
    """Options of the tracker: +tracker.mlflow.tracking_uri=http://..."""

    @field_validator("run")
    @classmethod
    def _check_run(cls, run: str) -> str:
        if run not in trackers.schemes():
            RunRef.parse(run)
        return run


@application(BackfillSettings, name="backfill")
def main(settings: BackfillSettings) -> None:
    done = pipeline.backfill(
        settings.checkpoints,
        model=build_model(settings.model),
        run=settings.run,
        name=settings.name,
        spool=settings.spool,
        tracker_options=settings.tracker,
        max_mb=settings.max_mb,
    )
    steps = ": the run holds all of them"
    if done.steps:
        steps = f", steps {done.steps[0]} to {done.steps[-1]}"
    print(f"Captured {count(len(done.steps), 'checkpoint')}{steps}")
    print_delivery(done.report)
    for run in done.runs:
        print(f"To make its video, from any directory:\n  {pipeline.render_command(run)}")
