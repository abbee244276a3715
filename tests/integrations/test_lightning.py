"""The Lightning Trainer with one callback more: its logger's run gets the captures, and stays the
logger's."""

from __future__ import annotations

import copy
import pickle

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from torch import nn

import tracker_viz as tv
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.errors import ConfigError

pl = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, WandbLogger  # noqa: E402
from lightning.pytorch.tuner import Tuner  # noqa: E402

from tracker_viz.integrations.lightning import TrackerVizCallback  # noqa: E402


@pytest.fixture(autouse=True)
def _own_directories(tmp_path, monkeypatch, mlflow_store):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", ""
    )  # restored afterwards: the logger sets it for the whole process
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    yield
    mlflow.set_tracking_uri(None)


class Module(pl.LightningModule):
    def __init__(self, fail_at=None):
        super().__init__()
        self.decoder = Decoder(
            ModelConfig(
                n_blocks=2, n_heads=2, d_model=16, d_ffn=32, context_length=16, vocab_size=40
            )
        )
        self.fail_at = fail_at

    def training_step(self, batch, index):
        if index == self.fail_at:
            raise RuntimeError("out of luck")
        return nn.functional.cross_entropy(
            self.decoder(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()
        )

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


class LogsLoss(Module):
    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        self.log("train_loss", loss)
        return loss


def fit(logger, callback, *, fail_at=None, ckpt_path=None, module=None, **options):
    rows = torch.randint(40, (24, 17), generator=torch.Generator().manual_seed(0))
    options = {"max_epochs": 1, "enable_checkpointing": False, **options}
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(
        module or Module(fail_at),
        torch.utils.data.DataLoader(rows, batch_size=2),
        ckpt_path=ckpt_path,
    )
    return trainer


def test_captures_land_in_the_loggers_run(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logger = MLFlowLogger(tracking_uri=uri)
    callback = TrackerVizCallback(model="decoder", captures=4, max_overhead=float("inf"))
    fit(logger, callback, accumulate_grad_batches=2)
    assert str(callback.watcher.ref) == f"mlflow:{logger.run_id}"
    captures = list(
        tv.load_captures(callback.watcher.ref, tracker_options={"mlflow": {"tracking_uri": uri}})
    )
    assert [capture.step for capture in captures] == [0, 1, 3, 6]
    # ln 40 = 3.69: what training_step returned, not its half that Lightning adds up
    assert all(capture.metrics["loss"] == pytest.approx(3.7, abs=0.2) for capture in captures)
    assert MlflowClient(uri).get_run(logger.run_id).info.status == "FINISHED"


def test_a_capture_shows_the_loss_of_its_own_step(tmp_path):
    logger = MLFlowLogger(tracking_uri=f"sqlite:///{tmp_path / 'other.db'}")
    callback = TrackerVizCallback("decoder", run="local", every=1, max_overhead=float("inf"))
    fit(logger, callback, max_steps=4, module=LogsLoss())
    client = MlflowClient(logger._tracking_uri)
    history = client.get_metric_history(logger.run_id, "train_loss")
    captures = list(tv.load_captures(callback.watcher.ref))
    # The logger counts the steps that were finished before a batch, and captures those after it.
    logged = {point.step + 1: point.value for point in history}
    shown = {capture.step: capture.metrics["loss"] for capture in captures[1:]}
    assert list(shown) == [1, 2, 3, 4]
    assert shown == pytest.approx(logged)


def test_what_was_captured_before_training_failed_is_kept(tmp_path):
    callback = TrackerVizCallback(model="decoder", run="local", every=2, max_overhead=float("inf"))
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(False, callback, fail_at=5)
    assert [capture.step for capture in tv.load_captures(callback.watcher.ref)] == [0, 2, 4, 5]
    assert callback.watcher.outbox.run.info().state == "failed"


def test_a_training_that_goes_on_from_a_checkpoint_counts_on(tmp_path):
    options = {
        "model": "decoder",
        "run": "local",
        "every": 2,
        "spool": "spool",
        "max_overhead": float("inf"),
    }
    first, resumed = TrackerVizCallback(**options), TrackerVizCallback(**options)
    fit(False, first, max_epochs=5, max_steps=4).save_checkpoint(
        tmp_path / "at4.ckpt", weights_only=False
    )
    fit(False, resumed, max_epochs=5, max_steps=8, ckpt_path=tmp_path / "at4.ckpt")
    assert resumed.watcher.recorder.schedule.total == 8
    assert [capture.step for capture in tv.load_captures(resumed.watcher.ref)] == [0, 2, 4, 6, 8]


def test_a_training_without_an_end_is_captured_too(tmp_path):
    callback = TrackerVizCallback(model="decoder", run="local", every=2, max_overhead=float("inf"))
    fit(False, callback, max_epochs=-1, max_time={"seconds": 1})
    assert callback.watcher.recorder.schedule.total is None
    assert len(callback.watcher.captured_steps) > 1


def test_the_loggers_own_server_is_found_whatever_the_process_is_set_to(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logger = MLFlowLogger(tracking_uri=uri)
    assert logger.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/other.db")
    fit(logger, TrackerVizCallback(model="decoder", captures=3, max_overhead=float("inf")))
    assert [f.path for f in MlflowClient(uri).list_artifacts(logger.run_id, "captures")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("decode", r"the decoder: one of \['decoder'\]; got 'decode'"),
        (None, "has no forward that takes token ids"),
    ],
)
def test_the_part_that_is_the_decoder_must_be_named_where_the_module_cannot_be_called(
    name, message
):
    with pytest.raises(ConfigError, match=message):
        fit(False, TrackerVizCallback(model=name, run="local"))


@pytest.mark.parametrize("logger", [False, CSVLogger])
def test_without_a_tracker_among_the_loggers_captures_stay_on_this_machine(
    tmp_path, logger, caplog
):
    callback = TrackerVizCallback(model="decoder", every=4)
    fit(logger and logger(tmp_path), callback)
    assert callback.watcher.ref.scheme == "local"
    assert [capture.step for capture in tv.load_captures(callback.watcher.ref)] == [0, 4, 8, 12]
    assert caplog.text.count("cannot hold captures: they stay on this machine") == 1


@pytest.mark.parametrize("switch", ["fast_dev_run", "barebones"])
def test_a_debug_switch_trains_without_captures(tmp_path, switch, caplog):
    callback = TrackerVizCallback(model="decoder", every=4)
    rows = torch.randint(40, (24, 17), generator=torch.Generator().manual_seed(0))
    trainer = pl.Trainer(accelerator="cpu", callbacks=[callback], max_steps=3, **{switch: True})
    trainer.fit(Module(), torch.utils.data.DataLoader(rows, batch_size=2))
    assert trainer.global_step == (1 if switch == "fast_dev_run" else 3)
    assert callback.watcher is None
    assert f"{switch}=True: nothing is captured" in caplog.text


def test_a_logger_that_is_switched_off_leaves_the_other(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    kept = MLFlowLogger(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    callback = TrackerVizCallback(model="decoder", every=4)
    fit([WandbLogger(save_dir=tmp_path), kept], callback)
    assert [str(ref) for ref in callback.watcher.refs] == [f"mlflow:{kept.run_id}"]


def test_searches_before_training_leave_no_captures(tmp_path):
    callback = TrackerVizCallback(model="decoder", run="local", every=4)
    rows = torch.randint(40, (24, 17), generator=torch.Generator().manual_seed(0))
    module, data = Module(), torch.utils.data.DataLoader(rows, batch_size=2)
    module.lr = 1e-3
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        max_steps=8,
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    Tuner(trainer).lr_find(module, data, num_training=5)
    assert callback.watcher is None
    trainer.fit(module, data)
    assert callback.watcher.captured_steps == [0, 4, 8]


def test_a_second_training_in_the_loggers_run_is_kept_apart(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logger, options = MLFlowLogger(tracking_uri=uri), {"mlflow": {"tracking_uri": uri}}
    refs = []
    for _ in range(2):
        callback = TrackerVizCallback(model="decoder", every=4)
        fit(logger, callback)
        refs.append(callback.watcher.ref)
    assert str(refs[0]) == f"mlflow:{logger.run_id}"
    found = [list(tv.load_captures(ref, tracker_options=options)) for ref in refs]
    assert refs[0] != refs[1]
    assert [[capture.step for capture in captures] for captures in found] == [[0, 4, 8, 12]] * 2


def test_the_callback_can_be_copied_and_sent_after_training_began(tmp_path):
    callback = TrackerVizCallback(model="decoder", run="local", every=4)
    fit(False, callback)
    for twin in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert twin.watcher is None
        fit(False, twin)
        assert twin.watcher.captured_steps == [0, 4, 8, 12]
