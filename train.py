"""Train a small decoder, capture what its blocks look like meanwhile, and put the video of it into
the tracker's run.

    python train.py                                            into MLflow, in ./mlflow.db
    python train.py tracker=[mlflow,wandb] model.n_heads=8     into both
    python train.py data=text data.path=~/books                on your own text
    python train.py -m seed=0,1,2 model.n_heads=4,8            a sweep
    python train.py resume=mlflow:<run_id>                     continue a run from its checkpoint

`python train.py --help` lists all options; their defaults are in conf/.
"""

from __future__ import annotations

import os
from pathlib import Path

# Read when torch loads: OpenMP threads that spin while they wait make a step on a busy machine ten
# times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from tracker_viz import RunRef, pipeline, trackers
from tracker_viz.capture import make_probe
from tracker_viz.delivery import Destination
from tracker_viz.demo import (
    BOS,
    SPAN_TOKENS,
    Checkpoint,
    CheckpointUploader,
    Decoder,
    Mixture,
    Trainer,
    fetch_latest,
)
from tracker_viz.errors import ConfigError
from tracker_viz.files import temporary_directory, user_path
from tracker_viz.jobs.application import application
from tracker_viz.jobs.report import print_delivery, print_rendered, resume_command
from tracker_viz.jobs.settings.train_settings import TRAINED_WITH, TrainSettings, places, resumed


@application(TrainSettings, name="train", config_path="conf")
def main(settings: TrainSettings) -> float:
    start = None
    runs: list[str | Destination] = list(settings.tracker)
    if settings.resume:
        run = RunRef.parse(settings.resume)
        options = settings.tracker.get(run.scheme, {})
        runs = [Destination(run.scheme, options, ref=run, ours=True)]
        with temporary_directory() as directory:
            start = fetch_latest(trackers.open_run(run, **options), directory)
        settings = resumed(settings, start.config, HydraConfig.get().overrides.task)

    torch.manual_seed(settings.seed)
    mixture = make_mixture(settings)
    trainer = Trainer(Decoder(settings.model), mixture, settings.trainer, job=job_number())
    if start:
        trainer.load_state(start)
    spool = spool_directory(settings)
    watcher = pipeline.watch(
        trainer.model,
        run=runs,
        tracker_options=settings.tracker,
        probe=make_probe(
            mixture.vocab_size,
            settings.model.context_length,
            text_ids=mixture.probe_text(1 + settings.capture.score_rows),
            decode=mixture.token_text,
            bos_id=BOS,
            token_range=SPAN_TOKENS,
            score_rows=settings.capture.score_rows,
        ),
        total_steps=settings.trainer.steps,
        start_step=trainer.step,
        counts_from=1,
        name=settings.name,
        config={name: getattr(settings, name) for name in TRAINED_WITH},
        spool=spool,
        **dict(settings.capture),
    )
    is_finished, loss = train(trainer, watcher, spool, settings)
    if settings.render:
        render(watcher, settings)
    if not is_finished:
        raise KeyboardInterrupt
    return settings.outcome(loss, watcher.summary())


def make_mixture(settings: TrainSettings) -> Mixture:
    """Return the training data.

    Raises:
        ConfigError: the model's vocabulary is too small for it.
    """
    mixture = Mixture(
        settings.data,
        settings.model.context_length,
        batch_size=settings.trainer.batch_size,
        seed=settings.seed,
    )
    if settings.model.vocab_size < mixture.vocab_size:
        raise ConfigError(
            f"model.vocab_size={settings.model.vocab_size} is less than the {mixture.vocab_size} "
            f"tokens of data.words={settings.data.words}: set model.vocab_size="
            f"{mixture.vocab_size} or more"
        )
    return mixture


def spool_directory(settings: TrainSettings) -> Path:
    if settings.spool:
        return user_path(settings.spool)
    # Two jobs that start in one second share the directory that Hydra gives them, and must not
    # share this.
    return pipeline.new_directory(Path(HydraConfig.get().runtime.output_dir, "spool"))


def train(
    trainer: Trainer, watcher: pipeline.Watcher, spool: Path, settings: TrainSettings
) -> tuple[bool, float]:
    """Train, deliver captures and checkpoints, and print where they are; return whether training
    came to its end, and the last loss."""
    with watcher, CheckpointUploader(spool, lambda: watcher.runs) as checkpoints:
        try:
            outcome = trainer.fit(
                watcher,
                save=lambda state, step: checkpoints.save(
                    Checkpoint(step, state, settings.trained_with())
                ),
                evaluate_at=watcher.is_due,
            )
            checkpoints.close()  # before the runs are ended
            report = watcher.close("finished" if outcome.finished else "killed")
            checkpoints.offer_late()
        except KeyboardInterrupt:
            # The second one: captures go to the disk, and no tracker is waited for.
            watcher.close("killed", timeout_s=5.0)
            raise

    print_delivery(report)
    for trained in watcher.runs:
        print(f"To make the video of it, from any directory:\n  {pipeline.render_command(trained)}")
        if not outcome.finished:
            print(f"To go on training:\n  {resume_command(trained, places(settings))}")
    return outcome.finished, outcome.loss


def render(watcher: pipeline.Watcher, settings: TrainSettings) -> None:
    """Make the pictures, in the runs that hold every capture."""
    whole = watcher.whole_runs()
    if not whole:
        return
    rendered = pipeline.render(
        whole[0],
        also_into=whole[1:],
        layout=settings.layout,
        theme=settings.theme,
        format=settings.format,
        video=settings.video,
        tracker_options=settings.tracker,
    )
    print_rendered(rendered)


def job_number() -> int:
    """Return the number of this job in its sweep; 0 outside one."""
    job = HydraConfig.get().job
    return 0 if OmegaConf.is_missing(job, "num") else int(job.num)


if __name__ == "__main__":
    main()
