"""The training loop: that it learns, stops, resumes bit for bit, and says what went wrong."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from tracker_viz.demo.checkpoint import Checkpoint
from tracker_viz.demo.data import DataConfig, Mixture
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.demo.trainer import (
    Trainer,
    TrainerConfig,
    TrainingDivergedError,
    choose_device,
    stop_on_signal,
)
from tracker_viz.errors import ConfigError

TINY = ModelConfig(n_blocks=2, n_heads=2, d_model=16, d_ffn=32, context_length=32)


class Log:
    """A recorder that keeps what it is told, and can act at a step."""

    def __init__(self, at=None):
        self.points = {}
        self.at = at or {}

    def step(self, step, tokens_seen=None, **metrics):
        assert step not in self.points
        self.points[step] = {"tokens_seen": tokens_seen, **metrics}
        self.at.get(step, lambda: None)()

    @property
    def losses(self):
        return {step: point["loss"] for step, point in self.points.items()}


@pytest.fixture
def make(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 100)

    def trainer(seed=0, model=TINY, **recipe):
        torch.manual_seed(seed)
        recipe = {
            "steps": 12,
            "batch_size": 4,
            "warmup_steps": 3,
            "evaluate_rows": 4,
            "checkpoint_every": 4,
            "device": "cpu",
        } | recipe
        mixture = Mixture(
            DataConfig(path=str(path)),
            context_length=32,
            batch_size=recipe["batch_size"],
            seed=seed,
        )
        return Trainer(Decoder(model), mixture, TrainerConfig(**recipe))

    return trainer


def fit(trainer, log=None, evaluate_at=lambda step: False):
    """Train; returns the outcome, what the recorder saw, and the saved states by step."""
    log = log or Log()
    saved = {}

    def keep(state, step):
        saved[step] = {name: tensor.clone() for name, tensor in state.items()}

    outcome = trainer.fit(log, save=keep, evaluate_at=evaluate_at, progress=False)
    return outcome, log, saved


def test_training_lowers_the_loss(make):
    _, log, _ = fit(make(steps=60, learning_rate=1e-2))
    assert log.losses[1] == pytest.approx(5.55, abs=0.1)  # ln 257
    assert log.losses[60] < log.losses[1] - 1


def test_every_finished_step_is_shown_once(make):
    outcome, log, _ = fit(make())
    assert list(log.points) == list(range(1, 13))
    assert (outcome.finished, outcome.step, outcome.loss) == (True, 12, log.losses[12])
    assert log.points[3]["tokens_seen"] == 3 * 4 * 32


def test_held_out_losses_come_where_they_are_asked_for(make):
    _, log, _ = fit(make(), evaluate_at=lambda step: step in (1, 7))
    evaluated = [
        step
        for step, point in log.points.items()
        if "validation/loss" in point and "validation/second_copy_loss" in point
    ]
    assert evaluated == [1, 7]
    assert list(fit(make(evaluate_rows=0), evaluate_at=lambda step: True)[1].points[1]) == [
        "tokens_seen",
        "loss",
    ]


def test_looking_at_held_out_rows_does_not_change_training(make):
    assert fit(make(), evaluate_at=lambda step: True)[1].losses == fit(make())[1].losses


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(make, tie_embeddings):
    model = TINY.model_copy(update={"tie_embeddings": tie_embeddings})
    _, whole, states = fit(make(model=model))
    resumed = make(seed=99, model=model)
    resumed.load_state(Checkpoint(4, states[4]))
    _, rest, rest_states = fit(resumed)
    assert rest.losses == {step: loss for step, loss in whole.losses.items() if step > 4}
    assert rest_states[12].keys() == states[12].keys()
    assert all(torch.equal(rest_states[12][name], tensor) for name, tensor in states[12].items())


def test_a_run_resumed_before_its_first_step_is_the_same_run(make):
    trainer = make()
    start = {name: tensor.clone() for name, tensor in trainer.state().items()}
    expected = fit(trainer)[1].losses
    resumed = make(seed=99)
    resumed.load_state(Checkpoint(0, start))
    assert fit(resumed)[1].losses == expected


def test_a_finished_run_can_be_trained_for_longer(make):
    _, _, states = fit(make())
    longer = make(steps=20)
    longer.load_state(Checkpoint(12, states[12]))
    assert list(fit(longer)[1].points) == list(range(13, 21))


def test_a_run_with_nothing_left_to_train_shows_and_saves_nothing(make):
    states = fit(make())[2]
    done = make()
    done.load_state(Checkpoint(12, states[12]))
    outcome, log, saved = fit(done)
    assert (outcome.finished, log.points, saved) == (True, {}, {})


def test_checkpoints_come_at_their_cadence_and_at_the_end(make):
    assert list(fit(make(steps=10))[2]) == [4, 8, 10]
    assert list(fit(make(checkpoint_every=0))[2]) == []


def test_a_checkpoint_of_another_shape_is_refused_by_name(make):
    _, _, states = fit(make(steps=4))
    other = make(model=ModelConfig(n_blocks=2, n_heads=2, d_model=16, d_ffn=48, context_length=32))
    with pytest.raises(
        ConfigError, match=r"blocks.0.mlp.down_proj.weight is \(16, 32\), not \(16, 48\)"
    ):
        other.load_state(Checkpoint(4, states[4]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_after_the_step_with_everything_saved(make, number):
    whole = fit(make())[1].losses
    outcome, log, saved = fit(make(), Log(at={6: lambda: os.kill(os.getpid(), number)}))
    assert (outcome.finished, outcome.step, outcome.loss) == (False, 6, whole[6])
    assert list(log.points) == [1, 2, 3, 4, 5, 6]
    resumed = make(seed=99)
    resumed.load_state(Checkpoint(6, saved[6]))
    assert log.losses | fit(resumed)[1].losses == whole


def test_a_second_signal_interrupts_at_once():
    with stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_signal_handlers_are_put_back(make):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fit(make(), Log(at={2: lambda: os.kill(os.getpid(), signal.SIGINT)}))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_loss_that_is_no_number_stops_training_before_the_weights_change(make):
    trainer = make()
    weight = trainer.model.embed_tokens.weight
    log = Log(at={5: lambda: weight.data[65:].fill_(float("inf"))})
    with pytest.raises(
        TrainingDivergedError,
        match=r"the loss is nan after 5 steps; try a lower trainer.learning_rate \(now 0.001\)",
    ):
        fit(trainer, log)
    assert list(log.points) == [1, 2, 3, 4, 5]
    assert weight[0].isfinite().all()
    assert trainer.step == 5


def test_the_learning_rate_warms_up_and_follows_a_cosine_to_its_share():
    config = TrainerConfig(steps=1050, learning_rate=1e-3, warmup_steps=50, final_lr_share=0.1)
    rate = config.learning_rate_at
    assert [rate(0), rate(24), rate(49), rate(50)] == pytest.approx([2e-5, 5e-4, 1e-3, 1e-3])
    assert rate(550) == pytest.approx(5.5e-4)
    assert rate(1050) == rate(2000) == pytest.approx(1e-4)


def test_every_update_uses_its_own_learning_rate(make):
    trainer = make(steps=6)
    used = []
    fit(
        trainer,
        Log(
            at=dict.fromkeys(
                range(1, 7),
                lambda: used.append([group["lr"] for group in trainer.optimizer.param_groups]),
            )
        ),
    )
    assert used == [[trainer.config.learning_rate_at(step)] * 2 for step in range(6)]
    assert len(set(map(tuple, used))) == 5  # the warm-up ends where the cosine begins


def test_only_matrices_decay(make):
    decayed, kept = make().optimizer.param_groups
    assert {weight.ndim for weight in decayed["params"]} == {2}
    assert {weight.ndim for weight in kept["params"]} == {1}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "trainer.steps must be a whole number of at least 1; got 0"),
        ({"learning_rate": 0.0}, "trainer.learning_rate must be a number above 0; got 0.0"),
        ({"learning_rate": float("inf")}, "trainer.learning_rate must be a number above 0; got"),
        ({"warmup_steps": -1}, "trainer.warmup_steps must be a whole number of at least 0; got -1"),
        ({"beta2": 1.0}, "trainer.beta2 must be a number of at least 0 and below 1; got 1.0"),
        ({"final_lr_share": 2.0}, "trainer.final_lr_share must be a number from 0 to 1; got 2.0"),
    ],
)
def test_impossible_recipes_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainerConfig(**changes)


def test_an_unknown_device_is_refused():
    with pytest.raises(
        ConfigError, match=r"trainer.device must be auto or a device of this machine .* got 'gpuu'"
    ):
        choose_device("gpuu")


def test_the_jobs_of_a_sweep_take_turns_on_the_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device("auto", job=job).index for job in range(4)] == [0, 1, 0, 1]
    assert choose_device("cpu", job=1) == torch.device("cpu")


def test_torch_works_with_as_many_threads_as_it_is_told(make):
    before = torch.get_num_threads()
    try:
        make(threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
