"""Train the demo's model and score its heads as it learns. Used by the benchmarks of scores."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from tracker_viz.capture import Probe, Schedule, make_probe, record
from tracker_viz.demo.data import BOS, SPAN_TOKENS, VOCAB_SIZE, DataConfig, Mixture
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.demo.trainer import Trainer, TrainerConfig
from tracker_viz.metrics import ROLES, Scorer, ScoreSeries
from tracker_viz.types import Capture


@dataclass(frozen=True)
class TrainedDemo:
    """A finished training.

    Attributes:
        model: the model at the end.
        mixture: the data that it saw.
        series: the scores of its heads on the way.
        at_onset: the model at the first capture in which a head scored as an induction head; None
            if none ever did.
    """

    model: Decoder
    mixture: Mixture
    probe: Probe
    series: ScoreSeries
    at_onset: Decoder | None


def train_demo(
    *, n_blocks: int = 4, n_heads: int = 4, seed: int = 0, steps: int = 1000, every: int = 20
) -> TrainedDemo:
    """Train on one thread, and score the probe every ``every`` steps."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = TrainerConfig(steps=steps, checkpoint_every=0, device="cpu")
    model = Decoder(ModelConfig(n_blocks=n_blocks, n_heads=n_heads, vocab_size=VOCAB_SIZE))
    length = model.config.context_length
    mixture = Mixture(DataConfig(), context_length=length, batch_size=config.batch_size, seed=seed)
    text = mixture.validation_rows(1)[0][0]
    probe = make_probe(
        VOCAB_SIZE, length, text_ids=text[:length], bos_id=BOS, token_range=SPAN_TOKENS
    )
    scorer = Scorer()
    enter = next(role.enter for role in ROLES if role.name == "induction")
    at_onset: list[Decoder] = []

    def keep_scores(capture: Capture) -> None:
        scored = scorer(capture)
        if not at_onset and np.nanmax(scored.arrays["scores.head.induction"]) >= enter:
            at_onset.append(copy.deepcopy(model))

    schedule = Schedule.every(every, total_steps=steps)
    with record(model, probe, schedule, keep_scores) as recorder:
        trainer = Trainer(model, mixture, config)
        trainer.fit(recorder, save=lambda state, step: None, progress=False)
    return TrainedDemo(model, mixture, probe, scorer.series(), at_onset[0] if at_onset else None)
