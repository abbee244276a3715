"""A W&B run that is somebody else's, also when Lightning or the HF Trainer made it: joined, fed,
and never disturbed or ended."""

from __future__ import annotations

import json
import time

import pytest
import wandb
from wandb_server.fixtures import wandb_server, wandb_service  # noqa: F401

from tracker_viz.delivery import Destination, Outbox
from tracker_viz.errors import ConfigError
from tracker_viz.trackers import join
from tracker_viz.trackers.sweep import JOB, PARENTS, SweepJob, noted_parents
from tracker_viz.trackers.testing import make_capture, write_captures
from tracker_viz.trackers.values import MetricPoint
from tracker_viz.trackers.wandb.history import POLL_S
from tracker_viz.trackers.wandb.tracker import WandbTracker

TYPE = "tracker-viz-capture"


@pytest.fixture
def theirs(wandb_server):
    """The run that the user's own script has open."""
    run = wandb.init(project="theirs", settings=wandb.Settings(silent=True, console="off"))
    yield run
    run.finish()


def stored(server, run):
    return server.run(f"tester/{run.project}/{run.id}")


def steps_in(server, run):
    return sorted(
        name
        for artifact in server.artifacts(f"tester/{run.project}/{run.id}", TYPE)
        for name in artifact.files
    )


def their_rows(history, *names):
    return [(row["_step"], *(row[name] for name in names)) for row in history if names[0] in row]


def our_points(history, name):
    return {row["tracker_viz/step"]: row[name] for row in history if name in row}


def until_carried(run):
    """Until rows of theirs carry all points that ours has; each takes one."""
    deadline = time.monotonic() + 60
    while run._writer._rows._waiting:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_without_a_run_of_theirs_there_is_none_to_join(wandb_server):
    assert WandbTracker().active_run() is None


def test_a_joined_run_is_never_ended_and_goes_on_afterwards(wandb_server, theirs):
    with Outbox(theirs.dir + "/../spool", [Destination("wandb")], name="ignored") as outbox:
        for step in range(3):
            outbox.submit(make_capture(step))
    assert str(outbox.refs[0]) == f"wandb:tester/theirs/{theirs.id}"
    assert wandb.run is theirs
    theirs.log({"after": 1})
    theirs.finish()
    assert steps_in(wandb_server, theirs) == [
        f"step-0000000{step}.safetensors" for step in range(3)
    ]
    assert stored(wandb_server, theirs).values("after") == [1]
    assert stored(wandb_server, theirs).state == "finished"


def test_a_loop_that_counts_its_own_steps_loses_none_of_its_rows(wandb_server, theirs):
    run = WandbTracker().active_run()
    run.log_metrics([MetricPoint(0, {"score": 0.0})])  # before their first row
    for step in range(40):
        theirs.log({"loss": 1 / (1 + step)}, step=step)
        if step % 10 == 5:
            run.log_metrics([MetricPoint(step, {"score": step / 40})])
        if step:
            until_carried(run)
    run.finish("finished")
    theirs.log({"final": 1.0}, step=40)
    theirs.finish()
    history = stored(wandb_server, theirs).history
    assert their_rows(history, "loss") == [(step, 1 / (1 + step)) for step in range(40)]
    assert their_rows(history, "final") == [(40, 1.0)]
    assert our_points(history, "score") == {0: 0.0, 5: 0.125, 15: 0.375, 25: 0.625, 35: 0.875}


def test_a_loop_that_goes_on_while_a_point_is_added_to_its_row_costs_no_point(
    wandb_server, theirs, monkeypatch
):
    run, log = WandbTracker().active_run(), theirs.log

    def log_and_go_on(row, **how):
        if "score" in row and theirs.step == 1:
            log(
                {"loss": 2.0}, step=2
            )  # as if their thread came between the look at their counter and this
        log(row, **how)

    theirs.log({"loss": 1.0}, step=1)
    monkeypatch.setattr(theirs, "log", log_and_go_on)
    run.log_metrics([MetricPoint(step, {"score": float(step)}) for step in (10, 20)])
    while len(run._writer._rows._waiting) == 2:
        time.sleep(0.005)
    time.sleep(2 * POLL_S)  # the other one must not follow into the same row
    theirs.log({"loss": 3.0}, step=3)
    until_carried(run)
    run.finish("finished")
    theirs.finish()
    history = stored(wandb_server, theirs).history
    assert our_points(history, "score") == {10: 10.0, 20: 20.0}


def test_points_that_find_no_row_of_theirs_share_the_last_one(wandb_server, theirs):
    run = WandbTracker().active_run()
    theirs.log({"loss": 1.0}, step=100)
    run.log_metrics([MetricPoint(step, {"score": float(step)}) for step in range(5)])
    time.sleep(0.5)
    run.finish("finished")
    theirs.log({"loss": 0.5}, step=101)
    theirs.finish()
    history = stored(wandb_server, theirs).history
    assert their_rows(history, "loss") == [(100, 1.0), (101, 0.5)]
    assert our_points(history, "score")[4] == 4.0


def test_a_loop_that_leaves_counting_to_wandb_gets_every_point(wandb_server, theirs):
    run = WandbTracker().active_run()
    theirs.log({"loss": 1.0, "my_step": 0})
    run.log_metrics([MetricPoint(step, {"score": float(step)}) for step in range(8)])
    time.sleep(0.3)
    theirs.log({"loss": 0.5, "my_step": 500})
    run.finish("finished")
    theirs.finish()
    history = stored(wandb_server, theirs).history
    assert [row[1:] for row in their_rows(history, "loss", "my_step")] == [(1.0, 0), (0.5, 500)]
    assert our_points(history, "score") == {step: float(step) for step in range(8)}


def test_their_definitions_of_metrics_stay(wandb_server, theirs):
    theirs.define_metric("val/*", step_metric="epoch")
    run = WandbTracker().active_run()
    run.log_metrics([MetricPoint(1, {"score": 1.0})])
    theirs.log({"val/loss": 1.0, "epoch": 1})
    run.finish("finished")
    theirs.finish()
    definitions = stored(wandb_server, theirs).config["_wandb"]["value"]["m"]
    axis = {
        entry.get("1") or entry.get("2"): definitions[entry["5"] - 1]["1"]
        for entry in definitions
        if "5" in entry
    }
    assert axis == {"val/*": "epoch", "score": "tracker_viz/step"}


def test_captures_still_arrive_when_their_script_ends_the_run_first(wandb_server, theirs, tmp_path):
    run = join(theirs)
    run.put_captures(write_captures([0], tmp_path / "source"))
    theirs.finish()
    run.put_captures(write_captures([1], tmp_path / "source"))
    run.finish("finished")
    assert steps_in(wandb_server, theirs) == [
        "step-00000000.safetensors",
        "step-00000001.safetensors",
    ]
    assert stored(wandb_server, theirs).state == "finished"


def test_a_video_in_their_going_run_waits_for_no_row_and_moves_no_counter(
    wandb_server, theirs, tmp_path
):
    (tmp_path / "heads.webm").write_bytes(b"video")
    theirs.log({"loss": 1.0}, step=7)
    WandbTracker().open_run(join(theirs).ref).put_video(
        tmp_path / "heads.webm", layout="heads", last_step=7
    )
    theirs.log({"more": 2.0}, step=7)
    theirs.finish()
    history = stored(wandb_server, theirs).history
    assert [row["_step"] for row in history] == [7]
    assert {"loss", "more", "tracker_viz/heads"} <= set(history[0])


def test_what_is_no_run_of_wandb_is_refused(wandb_server):
    with pytest.raises(ConfigError, match=r"wandb\.Run"):
        WandbTracker().join("tester/theirs/abc")


def test_a_run_made_by_lightnings_logger_is_joined(wandb_server, tmp_path):
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import WandbLogger

    class Model(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch, index):
            loss = self.layer(batch).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    class Captures(Callback):
        def on_train_start(self, trainer, module):
            self.outbox = Outbox(
                tmp_path / "spool", [Destination("wandb")], name="ignored", prepare=scored
            )

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            self.outbox.submit(make_capture(trainer.global_step))

        def on_train_end(self, trainer, module):
            self.report = self.outbox.close()

    logger = WandbLogger(
        project="lightning",
        save_dir=str(tmp_path),
        settings=wandb.Settings(silent=True, console="off"),
    )
    run, captures = logger.experiment, Captures()
    trainer = Trainer(
        max_steps=6,
        logger=logger,
        callbacks=[captures],
        log_every_n_steps=1,
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Model(), torch.utils.data.DataLoader(torch.ones(12, 2), batch_size=2))
    assert captures.report.complete
    assert wandb.run is run
    run.finish()
    history = stored(wandb_server, run).history
    assert [
        row["trainer/global_step"]
        for row in history
        if "loss" in row and "tracker_viz/step" not in row
    ] == list(range(6))
    assert our_points(history, "score") == {step: step / 10 for step in range(1, 7)}
    assert steps_in(wandb_server, run) == [
        f"step-0000000{step}.safetensors" for step in range(1, 7)
    ]


def test_a_run_made_by_the_hf_trainer_is_joined(wandb_server, tmp_path, monkeypatch):
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Captures(TrainerCallback):
        def on_train_begin(self, arguments, state, control, **_):
            self.outbox = Outbox(
                tmp_path / "spool", [Destination("wandb")], name="ignored", prepare=scored
            )

        def on_step_end(self, arguments, state, control, **_):
            self.outbox.submit(make_capture(state.global_step))

        def on_train_end(self, arguments, state, control, **_):
            self.report = self.outbox.close()

    monkeypatch.setenv("WANDB_PROJECT", "hf")
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=6,
        logging_steps=2,
        report_to=["wandb"],
        use_cpu=True,
        save_strategy="no",
        per_device_train_batch_size=1,
        disable_tqdm=True,
    )
    captures = Captures()
    data = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 8
    Trainer(LlamaForCausalLM(config), arguments, train_dataset=data, callbacks=[captures]).train()
    run = wandb.run
    assert captures.report.complete
    assert run is not None
    run.finish()
    history = stored(wandb_server, run).history
    assert [row["train/global_step"] for row in history if "train/loss" in row] == [2, 4, 6]
    assert our_points(history, "score") == {step: step / 10 for step in range(1, 7)}
    assert len(steps_in(wandb_server, run)) == 6


def scored(capture):
    """As the scorer does on the writer's thread: a metric that the user's loop never heard of."""
    import dataclasses

    return dataclasses.replace(capture, metrics={**capture.metrics, "score": capture.step / 10})


def test_a_run_of_theirs_becomes_part_of_the_sweep_that_its_job_is_of(
    wandb_server, theirs, monkeypatch, tmp_path
):
    parent = WandbTracker(project="theirs").create_run(name="sweep", config={})
    monkeypatch.setenv(PARENTS, json.dumps([str(parent.ref)]))
    with Outbox(tmp_path / "spool", [Destination("wandb")], name="ignored") as outbox:
        outbox.submit(make_capture(0))
    theirs.finish()
    assert parent.children() == outbox.refs
    assert WandbTracker().open_run(outbox.refs[0]).info().parent == parent.ref
    assert stored(wandb_server, theirs).attributes["groupName"] == parent.ref.path.split("/")[2]
    parent.finish("finished")


def test_a_group_that_the_users_code_chose_stays_and_the_sweep_finds_the_run(
    wandb_server, monkeypatch, tmp_path
):
    theirs = wandb.init(project="theirs", group="their group", tags=["baseline"])
    parent = WandbTracker(project="theirs").create_run(name="sweep", config={})
    monkeypatch.setenv(PARENTS, json.dumps([str(parent.ref)]))
    with Outbox(tmp_path / "spool", [Destination("wandb")], name="ignored") as outbox:
        outbox.submit(make_capture(0))
    theirs.finish()
    assert parent.children() == outbox.refs
    there = stored(wandb_server, theirs).attributes
    assert there["groupName"] == "their group"
    assert there["tags"][0] == "baseline"
    parent.finish("finished")


def test_a_sweep_without_a_parent_in_the_runs_project_gets_one_there(
    wandb_server, theirs, monkeypatch, tmp_path
):
    elsewhere = WandbTracker(project="elsewhere").create_run(name="sweep", config={})
    monkeypatch.setenv(PARENTS, json.dumps([str(elsewhere.ref)]))
    monkeypatch.setenv(JOB, SweepJob(str(tmp_path), "ablation", "seed=0,1").to_text())
    with Outbox(tmp_path / "spool", [Destination("wandb")], name="ignored") as outbox:
        outbox.submit(make_capture(0))
    theirs.finish()
    (noted,) = noted_parents(tmp_path)
    parent = WandbTracker().open_run(noted.ref)
    assert (parent.info().name, parent.children()) == ("ablation", outbox.refs)
    elsewhere.finish("finished")


def test_an_alarm_is_an_alert_and_a_tag_beside_theirs(wandb_server, theirs):
    theirs.tags = ("baseline",)
    run = join(theirs)
    for _ in range(2):
        run.alert("logit", 40, "step 40: the largest attention logit is 134 (L2H1), beyond 100")
    theirs.finish()
    there = stored(wandb_server, theirs)
    assert there.alerts[0][:2] == ("WARN", "tracker_viz: logit")
    assert "134 (L2H1)" in there.alerts[0][2]
    assert sorted(there.attributes["tags"]) == ["alarm: logit", "baseline"]
