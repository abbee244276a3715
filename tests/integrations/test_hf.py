"""The Hugging Face Trainer with one callback more: its own run gets the captures, and stays its
own."""

from __future__ import annotations

import copy
import pickle

import mlflow
import pytest
import torch

import tracker_viz as tv
from tracker_viz import trackers

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from tracker_viz.integrations.hf import TrackerVizCallback  # noqa: E402

STEPS = 6


@pytest.fixture(autouse=True)
def _own_directories(tmp_path, monkeypatch, mlflow_store):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    yield
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)


def make_trainer(
    tmp_path,
    report_to,
    callback,
    *,
    save_steps=None,
    stop_at=None,
    tokenizer=None,
    batch_size=2,
    logging_steps=1,
    **arguments,
):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    rows = [
        {"input_ids": row, "labels": row}
        for row in torch.randint(64, (16, 16), generator=torch.Generator().manual_seed(1))
    ]
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=STEPS,
        per_device_train_batch_size=batch_size,
        logging_steps=logging_steps,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 1000,
        report_to=report_to,
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    callbacks = [callback, StopAt(stop_at)] if stop_at else [callback]
    return transformers.Trainer(
        transformers.LlamaForCausalLM(config),
        args,
        data_collator=transformers.default_data_collator,
        train_dataset=rows,
        eval_dataset=rows[:4],
        processing_class=tokenizer,
        callbacks=callbacks,
    )


class StopAt(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step >= self.step
        return control


def test_captures_land_in_the_run_that_the_trainer_opened(tmp_path):
    callback = TrackerVizCallback(every=2, max_overhead=float("inf"))
    make_trainer(tmp_path, ["mlflow"], callback, gradient_accumulation_steps=2).train()
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert [f"mlflow:{run.info.run_id}" for run in runs] == [str(callback.watcher.ref)]
    assert runs[0].info.status == "FINISHED"
    captures = list(tv.load_captures(callback.watcher.ref))
    assert [capture.step for capture in captures] == [0, 2, 4, 6]
    assert captures[-1].metrics["loss"] == pytest.approx(4.16, abs=0.3)
    assert callback.watcher.recorder.schedule.total == STEPS


@pytest.mark.parametrize(
    ("options", "logged_at"),
    [
        ({"logging_steps": 2}, [2, 4, 6]),
        ({"logging_steps": 2, "logging_first_step": True}, [1, 2, 4, 6]),
        ({"logging_strategy": "epoch", "batch_size": 4}, [4, 6]),
    ],
)
def test_a_capture_shows_the_loss_that_was_logged_at_its_step(tmp_path, options, logged_at, caplog):
    callback = TrackerVizCallback(run="local", every=1)
    weights = Weights()
    trainer = make_trainer(tmp_path, [], callback, learning_rate=3e-2, **options)
    trainer.add_callback(weights)
    trainer.train()
    logged = {line["step"]: line["loss"] for line in trainer.state.log_history if "loss" in line}
    assert list(logged) == logged_at
    shown = {}
    for capture in tv.load_captures(callback.watcher.ref):
        weight = capture.arrays["blocks.0.attn.w_q"]
        assert weight == pytest.approx(weights.at[capture.step], abs=1e-3)
        if "loss" in capture.metrics:
            shown[capture.step] = capture.metrics["loss"]
    assert min(step for step in shown if step) == logged_at[0]
    assert {step: shown[step] for step in logged_at} == pytest.approx(logged)
    assert "no loss" not in caplog.text


def test_a_step_whose_loss_another_callback_kept_from_the_log_is_captured_too(tmp_path):
    class LogsNothing(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_log = False

    callback = TrackerVizCallback(run="local", every=2)
    trainer = make_trainer(tmp_path, [], callback)
    trainer.add_callback(LogsNothing())
    trainer.train()
    assert callback.watcher.captured_steps == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"logging_steps": 500}, "logs it every 500 steps (logging_steps), and training ends at"),
        ({"logging_strategy": "no"}, "logs none (logging_strategy='no')"),
    ],
)
def test_a_training_that_logs_no_loss_is_told_so_once_with_the_setting(
    tmp_path, options, why, caplog
):
    callback = TrackerVizCallback(run="local", every=2)
    make_trainer(tmp_path, [], callback, **options).train()
    (line,) = [line for line in caplog.messages if "the film will show no loss" in line]
    assert why in line
    assert line.endswith("Set logging_steps=1 in TrainingArguments")


@pytest.mark.parametrize("probe", [None, [[3, 5, 7, 9]]])
def test_pictures_spell_tokens_as_the_trainers_tokenizer_does(tmp_path, probe):
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({f"w{token}": token for token in range(64)}, unk_token="w0")
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    callback = TrackerVizCallback(run="local", spool=tmp_path / "spool", probe=probe)
    make_trainer(tmp_path, [], callback, tokenizer=tokenizer).train()
    (row,) = next(iter(tv.load_captures(callback.watcher.ref))).probe["rows"]
    assert row["tokens"] == [
        f"w{token}" for token in callback.watcher.recorder.camera.probe.input_ids[0]
    ]


def mlflow_runs():
    """The runs, the first one first."""
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    return sorted(found, key=lambda run: run.info.start_time)


def steps_of(run):
    return [capture.step for capture in tv.load_captures(f"mlflow:{run.info.run_id}")]


def test_a_switch_that_turns_one_tracker_off_leaves_the_other(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    callback = TrackerVizCallback(every=2)
    make_trainer(tmp_path, ["wandb", "mlflow"], callback).train()
    (run,) = mlflow_runs()
    assert [str(ref) for ref in callback.watcher.refs] == [f"mlflow:{run.info.run_id}"]
    assert caplog.text.count("WANDB_MODE=disabled: captures go to the other trackers only") == 1


def test_trackers_that_are_all_switched_off_leave_the_captures_on_this_machine(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    callback = TrackerVizCallback(every=2)
    make_trainer(tmp_path, ["wandb"], callback).train()
    assert [capture.step for capture in tv.load_captures(callback.watcher.ref)] == [0, 2, 4, 6]
    assert callback.watcher.ref.scheme == "local"
    assert caplog.text.count("WANDB_MODE=disabled: captures stay on this machine") == 1


class OutOfMemory(transformers.TrainerCallback):
    """Fails once at each of the steps."""

    def __init__(self, *steps):
        self.steps = list(steps)

    def on_step_begin(self, args, state, control, **_):
        if self.steps and state.global_step == self.steps[0]:
            self.steps.pop(0)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


class Weights(transformers.TrainerCallback):
    """Notes step -> a weight, of the latest attempt."""

    def __init__(self):
        self.at = {}

    def on_train_begin(self, args, state, control, *, model=None, **_):
        self.at = {0: self._weight(model)}

    def on_step_end(self, args, state, control, *, model=None, **_):
        self.at[state.global_step] = self._weight(model)

    def _weight(self, model):
        return model.model.layers[0].self_attn.q_proj.weight.detach().numpy().copy()


def test_an_attempt_that_ran_out_of_memory_is_replaced_by_the_next(tmp_path):
    callback, weights = TrackerVizCallback(every=1), Weights()
    trainer = make_trainer(
        tmp_path,
        ["mlflow"],
        callback,
        batch_size=8,
        auto_find_batch_size=True,
        learning_rate=3e-2,
    )
    trainer.add_callback(OutOfMemory(5, 3))
    trainer.add_callback(weights)
    trainer.train()
    (run,) = mlflow_runs()
    captures = list(tv.load_captures(f"mlflow:{run.info.run_id}"))
    assert [capture.step for capture in captures] == list(range(STEPS + 1))
    for capture in captures:
        captured = capture.arrays["blocks.0.attn.w_q"]
        assert captured == pytest.approx(weights.at[capture.step], abs=1e-3)


def test_an_attempt_in_a_spool_is_set_aside(tmp_path):
    callback = TrackerVizCallback(run="local", every=1, spool="spool")
    trainer = make_trainer(tmp_path, [], callback, auto_find_batch_size=True, learning_rate=3e-2)
    trainer.add_callback(OutOfMemory(3))
    trainer.train()
    directories = [tmp_path / "spool-failed", tmp_path / "spool"]
    found = [list(tv.load_captures(f"local:{directory}")) for directory in directories]
    assert [len(captures) for captures in found] == [4, STEPS + 1]


def test_every_trial_of_a_search_has_its_captures_beside_its_losses(tmp_path):
    pytest.importorskip("optuna")
    callback = TrackerVizCallback(every=3)
    trainer = make_trainer(tmp_path, ["mlflow"], callback, eval_strategy="steps", eval_steps=3)
    model = trainer.model
    trainer.model_init = lambda trial=None: type(model)(model.config)
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)},
        backend="optuna",
        n_trials=3,
    )
    runs = mlflow_runs()
    assert [steps_of(run) for run in runs] == [[0, 3, 6]] * 3
    assert all("eval_loss" in run.data.metrics for run in runs)
    rates = [float(run.data.params["learning_rate"]) for run in runs]
    assert len(set(rates)) == 3
    assert [run.info.run_name for run in runs[1:]] == [
        f"trial · learning_rate={rate:g}" for rate in rates[1:]
    ]


def test_training_again_makes_another_run_with_captures_and_losses(tmp_path):
    callback = TrackerVizCallback(every=3)
    trainer = make_trainer(tmp_path, ["mlflow"], callback)
    trainer.train()
    trainer.train()
    runs = mlflow_runs()
    assert [steps_of(run) for run in runs] == [[0, 3, 6]] * 2
    assert [run.data.metrics["loss"] > 0 for run in runs] == [True, True]
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_second_training_in_a_run_of_the_users_is_kept_apart(tmp_path, caplog):
    callback = TrackerVizCallback(every=3)
    trainer = make_trainer(tmp_path, ["mlflow"], callback)
    with mlflow.start_run() as theirs:
        trainer.train()
        first = callback.watcher.ref
        trainer.train()
    assert str(first) == f"mlflow:{theirs.info.run_id}"
    assert callback.watcher.ref != first
    assert [steps_of(run) for run in mlflow_runs()] == [[0, 3, 6]] * 2
    assert caplog.text.count("recorded in a separate run") == 1


def test_the_callback_can_be_copied_and_sent_after_training_began(tmp_path):
    callback = TrackerVizCallback(run="local", every=3)
    make_trainer(tmp_path, [], callback, stop_at=3).train()
    for twin in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert twin.watcher is None
        make_trainer(tmp_path, [], twin).train()
        assert twin.watcher.captured_steps == [0, 3, 6]
    assert callback.watcher.captured_steps == [0, 3]


def test_what_was_captured_before_training_failed_is_kept(tmp_path):
    class Fails(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 3:
                raise RuntimeError("out of luck")

    callback = TrackerVizCallback(run="local", every=2, max_overhead=float("inf"))
    trainer = make_trainer(tmp_path, [], callback)
    trainer.add_callback(Fails())
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer.train()
    callback.watcher.outbox.flush()
    assert [capture.step for capture in tv.load_captures(callback.watcher.ref)] == [0, 2]


def test_training_that_failed_can_be_begun_again_in_the_same_process(tmp_path):
    """As in a notebook, where the first training's spool and threads are still there."""

    class FailsOnce(transformers.TrainerCallback):
        steps = iter([3])

        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 3 and next(self.steps, None):
                raise RuntimeError("out of luck")

    options = {"every": 2, "spool": "spool", "max_overhead": float("inf")}
    callback = TrackerVizCallback(
        run="local", tracker_options={"local": {"directory": str(tmp_path / "runs")}}, **options
    )
    trainer = make_trainer(tmp_path, [], callback, save_steps=2)
    trainer.add_callback(FailsOnce())
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer.train()
    trainer.train(resume_from_checkpoint=True)
    assert [capture.step for capture in tv.load_captures(callback.watcher.ref)] == [0, 2, 4, 6]
    assert trackers.open_run(callback.watcher.ref).info().state == "finished"


def test_a_training_that_goes_on_from_a_checkpoint_counts_on(tmp_path):
    first = TrackerVizCallback(run="local", every=2, spool="spool", max_overhead=float("inf"))
    make_trainer(tmp_path, [], first, save_steps=4, stop_at=4).train()
    resumed = TrackerVizCallback(run="local", every=2, spool="spool", max_overhead=float("inf"))
    make_trainer(tmp_path, [], resumed).train(resume_from_checkpoint=True)
    assert [capture.step for capture in tv.load_captures(resumed.watcher.ref)] == [0, 2, 4, 6]


def test_the_best_weights_that_the_trainer_puts_back_are_not_shown_as_the_last_step(tmp_path):
    callback = TrackerVizCallback(run="local", every=10, max_overhead=float("inf"))
    trainer = make_trainer(
        tmp_path,
        [],
        callback,
        save_steps=2,
        stop_at=5,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,
    )
    trainer.train()
    assert trainer.state.best_global_step == 2
    assert [capture.step for capture in tv.load_captures(callback.watcher.ref)] == [0]


@pytest.mark.parametrize("report_to", ["none", []])
def test_a_trainer_that_reports_nowhere_is_recorded_on_this_machine(tmp_path, report_to, caplog):
    callback = TrackerVizCallback(every=3)
    make_trainer(tmp_path, report_to, callback).train()
    assert [capture.step for capture in tv.load_captures(callback.watcher.ref)] == [0, 3, 6]
    assert caplog.text.count("the Trainer reports to no tracker: captures stay") == 1


def test_a_trainer_that_reports_nowhere_can_be_given_a_run(tmp_path):
    callback = TrackerVizCallback(run="local", captures=3)
    make_trainer(tmp_path, [], callback).train()
    steps = [capture.step for capture in tv.load_captures(callback.watcher.ref)]
    assert (steps[0], steps[-1]) == (0, STEPS)
