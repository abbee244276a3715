"""The Hugging Face Trainer with one callback more: its own run gets the captures, and stays its
own."""

from __future__ import annotations

import mlflow
import pytest
import torch

import tracker_viz as tv
from tracker_viz import trackers
from tracker_viz.errors import ConfigError

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from tracker_viz.integrations.hf import TrackerVizCallback, _reported_to  # noqa: E402

STEPS = 6


@pytest.fixture(autouse=True)
def _own_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    yield
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)


def make_trainer(
    tmp_path, report_to, callback, *, save_steps=None, stop_at=None, tokenizer=None, **arguments
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
        per_device_train_batch_size=2,
        logging_steps=1,
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


def test_every_run_that_the_trainer_reports_to_is_logged_into(tmp_path):
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path), report_to=["tensorboard", "mlflow", "wandb"], use_cpu=True
    )
    assert _reported_to(args) == ["wandb", "mlflow"]


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
        tmp_path, [], callback, save_steps=2, stop_at=5, eval_strategy="steps", eval_steps=2, load_best_model_at_end=True,
        metric_for_best_model="loss", greater_is_better=True,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_global_step == 2
    assert [capture.step for capture in tv.load_captures(callback.watcher.ref)] == [0]


def test_a_trainer_that_reports_nowhere_needs_a_run(tmp_path):
    with pytest.raises(ConfigError, match="report_to"):
        make_trainer(tmp_path, [], TrackerVizCallback()).train()


def test_a_trainer_that_reports_nowhere_can_be_given_a_run(tmp_path):
    callback = TrackerVizCallback(run="local", captures=3)
    make_trainer(tmp_path, [], callback).train()
    steps = [capture.step for capture in tv.load_captures(callback.watcher.ref)]
    assert (steps[0], steps[-1]) == (0, STEPS)
