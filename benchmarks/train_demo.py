"""Train the demo's model with its heads scored as it learns: what the benchmarks about scores share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tracker_viz.capture import Probe, Recorder, Schedule, make_probe
from tracker_viz.demo.data import BOS, SPAN_TOKENS, VOCAB_SIZE, DataConfig, Mixture
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.demo.trainer import Trainer, TrainerConfig
from tracker_viz.metrics import Scorer, ScoreSeries


@dataclass(frozen=True)
class TrainedDemo:
    """A finished training: the model, the data it saw, and the scores of its heads on the way."""

    model: Decoder
    mixture: Mixture
    probe: Probe
    series: ScoreSeries


def train_demo(*, n_blocks: int = 4, n_heads: int = 4, seed: int = 0, steps: int = 1000, every: int = 20) -> TrainedDemo:
    """Train on one thread, so that several trainings can share a machine, and score the probe every ``every`` steps."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = TrainerConfig(steps=steps, checkpoint_every=0, device="cpu")
    model = Decoder(ModelConfig(n_blocks=n_blocks, n_heads=n_heads, vocab_size=VOCAB_SIZE))
    mixture = Mixture(DataConfig(), context_length=model.config.context_length, batch_size=config.batch_size, seed=seed)
    text = mixture.validation_rows(1)[0][0]
    probe = make_probe(
        VOCAB_SIZE,
        model.config.context_length,
        text_ids=text[: model.config.context_length],
        bos_id=BOS,
        token_range=SPAN_TOKENS,
    )
    scorer = Scorer()

    def keep_scores(capture: object) -> None:
        scorer(capture)  # type: ignore[arg-type]

    schedule = Schedule.every(every, total_steps=steps)
    with Recorder(model, probe, schedule, keep_scores, max_overhead=float("inf")) as recorder:
        Trainer(model, mixture, config).fit(recorder, save=lambda state, step: None, progress=False)
    return TrainedDemo(model, mixture, probe, scorer.series())
