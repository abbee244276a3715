"""``tv.watch`` as a training script calls it: on several processes, without a tracker, in a first
try, and into runs that are somebody else's."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
import wandb
from torch import nn

import tracker_viz as tv
from tracker_viz.capture.governor import Governor
from tracker_viz.capture.options import CaptureOptions
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.errors import ConfigError, RenderError, RunTakenError, TrackerError
from tracker_viz.trackers import open_run

SCRIPT = Path(__file__).with_name("watched_script.py")
SMALL = {"size": "640x360", "hold_s": 0.1, "seconds_per_capture": 0.1}


@pytest.fixture(autouse=True)
def _own_directories(tmp_path, monkeypatch, mlflow_store):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)


def make_model(seed=0, **shape):
    torch.manual_seed(seed)
    shape = {"n_blocks": 2, "n_heads": 2, "d_model": 16, "d_ffn": 32} | shape
    return Decoder(ModelConfig(n_kv_heads=1, context_length=32, vocab_size=40, **shape))


def train(model, recorder, steps):
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in steps:
        batch = torch.randint(40, (4, 17), generator=generator)
        logits = model(batch[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(step, loss=loss)


def watched(model, steps=range(4), **options):
    """The recorder of a finished training."""
    recorder = tv.watch(model, **{"run": "local", "every": 2, **options})
    train(model, recorder, steps)
    recorder.close(progress=False)
    return recorder


def run_script(*arguments, processes=1, **options):
    """Return the report of each process of the script, by rank."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [
            sys.executable,
            *(launcher if processes > 1 else []),
            str(SCRIPT),
            *map(str, arguments),
            json.dumps(options),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    reports.sort(key=lambda report: str(report["rank"]))
    return done, reports


# -- the README's lines


def test_on_two_processes_the_main_one_records_and_draws_and_the_other_does_nothing():
    done, (first, second) = run_script("mlflow", 6, processes=2, every=2)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (second["ref"], second["steps"], second["film"]) == ("None", [], None)
    assert first["steps"] == [0, 2, 4, 6]
    assert Path(first["film"]).stat().st_size > 1000
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert first["ref"] == f"mlflow:{run.info.run_id}"
    files = mlflow.MlflowClient().list_artifacts(run.info.run_id)
    assert "overview.webm" in [file.path for file in files]


@pytest.mark.parametrize("launched", [False, True])
def test_where_nothing_is_recorded_every_line_does_nothing(launched, monkeypatch):
    if launched:
        monkeypatch.setenv("RANK", "1")
    model = make_model()
    with tv.watch(model, run="mlflow", enabled=launched) as recorder:
        train(model, recorder, range(3))
    assert recorder.close() is None
    assert not tv.render(recorder)
    assert not recorder.render(layout="heads")
    assert str(tv.render(recorder)) == "nothing"
    with pytest.raises(RenderError, match="this process recorded nothing"):
        open(tv.render(recorder))  # noqa: SIM115 - it does not open
    assert (recorder.ref, recorder.refs, recorder.runs) == (None, [], [])
    assert (recorder.captured_steps, recorder.summary(), recorder.whole_runs()) == ([], {}, [])
    assert not recorder.is_due(0)
    recorder.forget_latest()
    assert os.listdir() == ["mlflow.db"]


def test_without_a_network_the_film_of_a_wandb_run_is_drawn_from_the_spool(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    recorder = watched(make_model(), run="wandb")
    assert recorder.ref.scheme == "wandb"
    film = tv.render(recorder, video=SMALL, progress=False)
    assert film.n_captures == 3
    (spool,) = Path("spool").iterdir()
    assert (spool / "overview.webm").read_bytes() == film.path.read_bytes()


def test_where_no_server_answers_the_film_is_drawn_from_the_spool():
    dead = {"mlflow": {"tracking_uri": "http://127.0.0.1:9"}}
    model = make_model()
    recorder = tv.watch(model, run="mlflow", every=2, tracker_options=dead)
    train(model, recorder, range(4))
    recorder.close(timeout_s=0.5, progress=False)
    (spool,) = Path("spool").iterdir()
    assert recorder.ref == tv.RunRef("local", str(spool.absolute()))
    assert tv.render(recorder, video=SMALL, progress=False).n_captures == 3
    assert (spool / "overview.webm").is_file()


def test_a_recorder_that_is_still_open_is_closed_and_drawn_into_every_run(tmp_path):
    model = make_model()
    options = {"local": {"directory": str(tmp_path / "runs")}}
    recorder = tv.watch(model, run=["mlflow", "local"], every=2, tracker_options=options)
    train(model, recorder, range(3))
    film = recorder.render(video=SMALL, progress=False)
    assert [upload.ref.scheme for upload in film.pictures[0].uploads] == ["mlflow", "local"]
    assert film.n_captures == 3  # the last step is one of them
    assert recorder.runs[1].info().state == "finished"


def in_the_way(directory):
    """Put a file where a directory was; an upload on its way may make the directory again."""
    while True:
        try:
            directory.write_text("in the way")
        except IsADirectoryError:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            return


def test_captures_that_are_in_no_one_place_lead_to_the_command_that_brings_them_together(tmp_path):
    model = make_model()
    recorder = tv.watch(
        model,
        run="local",
        every=1,
        tracker_options={"local": {"directory": str(tmp_path / "runs")}},
    )
    train(model, recorder, range(2))
    recorder.outbox.flush()
    run = Path(recorder.ref.path)
    while not (run / "captures/step-00000002.safetensors").exists():
        torch.randn(100).sum()
    run.rename(tmp_path / "away")
    in_the_way(run)
    train(model, recorder, range(2, 4))
    recorder.close(timeout_s=0.5, progress=False)
    with pytest.raises(TrackerError, match="finish the upload with: tracker-viz push spool="):
        tv.render(recorder)


# -- a first try


@pytest.mark.parametrize(
    ("steps", "options", "captures"),
    [(60, {}, 30), (60, {"total_steps": 60}, 40), (51, {"total_steps": 51}, 40)],
)
def test_a_short_first_try_has_a_film_worth_watching(steps, options, captures, monkeypatch):
    # Whatever else the machine does meanwhile.
    monkeypatch.setitem(Governor.__init__.__kwdefaults__, "clock", time.process_time)
    recorder = watched(make_model(), range(steps), every=None, **options)
    assert len(recorder.captured_steps) >= captures


@pytest.mark.parametrize("chosen", [{"every": 5}, {"schedule": tv.Schedule.at([5, 10])}])
def test_steps_that_were_chosen_are_kept_whatever_they_cost(chosen, caplog):
    with caplog.at_level(logging.INFO, "tracker_viz.capture"):
        recorder = watched(make_model(), range(11), free_s=0, **{"every": None, **chosen})
    assert recorder.captured_steps == [0, 5, 10, 11]
    assert "4 captures took " in caplog.text
    assert "s; no limit" in caplog.text


def test_a_limit_that_was_passed_beside_them_is_held(caplog):
    recorder = watched(make_model(), range(200), every=1, max_overhead=0.01, free_s=0)
    assert len(recorder.captured_steps) < 100
    assert caplog.text.count("1 % of the wall time (max_overhead)") == 1


def test_a_share_of_1_is_no_limit():
    recorder = watched(
        make_model(), range(20), every=None, total_steps=20, max_overhead=1.0, free_s=0
    )
    assert recorder.captured_steps == list(range(21))


def test_the_options_of_watch_are_those_of_the_group_capture():
    for name, field in CaptureOptions.model_fields.items():
        assert tv.watch.__kwdefaults__[name] == field.default, name
    for name, default in tv.backfill.__kwdefaults__.items():
        assert tv.watch.__kwdefaults__.get(name, default) == default, name


# -- the first thing that is wrong is named


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": 3}, "model must be a torch.nn.Module; got int"),
        ({"model": nn.Sequential(nn.Linear(2, 2))}, "no token embedding was found in Sequential"),
        ({"run": "mlfow"}, "unknown tracker 'mlfow'; did you mean 'mlflow'"),
        ({"run": "mlfow:123"}, "'mlfow:123'"),
        ({"run": 3}, "a run is a name, a RunRef, .* got builtins.int"),
        ({"schedule": 10}, r"a Schedule, like Schedule.every\(100\); got 10"),
        ({"schedule": tv.Schedule.every(1), "every": 2}, "schedule= or every=, not both"),
        ({"max_overhead": "2%"}, "max_overhead must be a number above 0 or null; got '2%'"),
        ({"pooling": "max"}, "pooling must be one of sample, mean, rms"),
        ({"every": 0}, "every must be a whole number of at least 1 or null; got 0"),
        ({"start_step": 2.5}, "start_step must be a whole number of at least 0; got 2.5"),
    ],
)
def test_a_wrong_argument_is_named_before_the_model_is_looked_at(options, message, tmp_path):
    unseen = nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 40))
    with pytest.raises(ConfigError, match=message):
        tv.watch(options.pop("model", unseen), **options)
    assert os.listdir(tmp_path) == ["mlflow.db"]


# -- names


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("/home/me/train_gpt.py", "train_gpt"),
        ("/home/me/trainer/__main__.py", "trainer"),
        ("/usr/lib/python3/site-packages/ipykernel_launcher.py", "Decoder"),
        ("-c", "Decoder"),
        ("", "Decoder"),
    ],
)
def test_a_run_is_called_after_the_script_or_else_after_the_model(program, name, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    recorder = watched(make_model())
    assert recorder.runs[0].info().name == name
    assert Path(recorder.ref.path).name.startswith(f"{name}-")


# -- one run, one training


@pytest.fixture
def run():
    """An MLflow run that the user's script made."""
    with mlflow.start_run() as active:
        yield f"mlflow:{active.info.run_id}"


def weights_in(ref):
    return {
        capture.step: capture.arrays["blocks.0.mlp.w_gate"].copy()
        for capture in tv.load_captures(ref)
    }


def test_a_second_model_is_refused_while_the_first_is_recorded_into_the_run(run):
    first = tv.watch(make_model(0), run=run, every=2)
    with pytest.raises(RunTakenError, match=rf"{run} is being recorded by another watch\(\)"):
        tv.watch(make_model(1), run=run, every=2)
    train(first.recorder.camera.model, first, range(4))
    assert first.close(progress=False).complete
    assert len(list(Path("spool").iterdir())) == 1, "the refused one left no spool"
    assert sorted(weights_in(run)) == [0, 2, 4]


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
@pytest.mark.parametrize("at_once", [True, False])
def test_two_models_beside_one_active_run_are_recorded_into_a_run_each(
    tracker, at_once, monkeypatch, caplog
):
    """An active run is joined by the first of them; W&B is offline and cannot be asked."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    active = mlflow.start_run() if tracker == "mlflow" else wandb.init(project="two")
    try:
        models = make_model(0), make_model(1)
        recorders = []
        for model in models:
            recorders.append(tv.watch(model, run=tracker, every=2))
            train(model, recorders[-1], range(4))
            if not at_once:
                recorders[-1].close(progress=False)
        for recorder in recorders:
            recorder.close(progress=False)
    finally:
        mlflow.end_run() if tracker == "mlflow" else active.finish()
    first, second = (recorder.ref for recorder in recorders)
    assert first != second
    assert f"{first} belongs to another training run: creating a new run" in caplog.text
    for recorder, model in zip(recorders, models, strict=True):
        (place,) = recorder.whole_runs()
        last = weights_in(place)[4]
        assert np.allclose(last, model.blocks[0].mlp.gate_proj.weight.detach(), atol=1e-3)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"n_blocks": 3}, "another model, Decoder with 2 blocks of 2 heads, 16 wide"),
        (
            {"seed": 1},
            r"another training run \(steps 0 to 4\), whose blocks.0.attn.w_q started with",
        ),
    ],
)
def test_another_model_is_refused_in_the_run_of_an_earlier_training(run, other, message):
    watched(make_model(), run=run)
    before = weights_in(run)
    with pytest.raises(RunTakenError, match=message):
        tv.watch(make_model(**other), run=run, every=2)
    after = weights_in(run)
    assert all(np.array_equal(before[step], after[step]) for step in before)


def test_so_it_is_where_the_earlier_training_was_another_process(run):
    watched(make_model(), run=run)
    done, _ = run_script(run, 4, every=2, shape={"n_blocks": 3})
    assert done.returncode == 1
    assert "RunTakenError" in done.stderr
    assert "give this one a separate run" in done.stderr


def test_so_it_is_in_a_spool_that_a_script_names_the_same_at_every_run():
    watched(make_model(), spool="spool")
    with pytest.raises(RunTakenError, match="another spool= if you pass one"):
        tv.watch(make_model(seed=1), run="local", spool="spool")
    assert sorted(weights_in("local:spool")) == [0, 2, 4]


def test_a_run_where_one_of_two_trackers_holds_another_training_is_refused_too(run, tmp_path):
    options = {"local": {"directory": str(tmp_path / "runs")}}
    watched(make_model(), run=run)
    with pytest.raises(RunTakenError, match=run):
        tv.watch(make_model(seed=1), run=["local", run], every=2, tracker_options=options)


def test_the_same_training_begun_again_or_resumed_continues_its_run(run, caplog):
    watched(make_model(), run=run)
    before = weights_in(run)
    again = watched(make_model(), run=run)
    assert "the run already holds captures up to step 4" in caplog.text
    resumed = watched(make_model(seed=1), range(4, 8), run=run, start_step=4)
    assert (again.captured_steps, resumed.captured_steps) == ([0, 2, 4], [0, 2, 4, 6, 8])
    after = weights_in(run)
    assert sorted(after) == [0, 2, 4, 6, 8]
    assert all(np.array_equal(before[step], after[step]) for step in before)


def test_a_run_is_free_again_once_its_recorder_is_closed(run):
    model = make_model()
    first = tv.watch(model, run=run, every=2)
    train(model, first, range(4))
    first.close(progress=False)
    second = tv.watch(model, run=run, every=2, start_step=4)
    train(model, second, range(4, 6))
    assert second.close(progress=False).complete
    assert open_run(run).info().state == "running", "it is the script's, which has not ended it"


# -- alarms ----------------------------------------------------------------------------------------


class Overflowing:
    """Breaks a weight after some steps, as an overflow in half precision does."""

    def __init__(self, model, recorder, at):
        self.model, self.recorder, self.at = model, recorder, at

    def step(self, step, **metrics):
        if step == self.at:
            with torch.no_grad():
                self.model.blocks[1].mlp.down_proj.weight[0, 0] = torch.inf
        self.recorder.step(step, **metrics)


def test_an_alarm_is_told_to_the_run_the_log_and_the_function_and_captures_come_densely(caplog):
    told = []

    def on_alarm(alarm):
        told.append(alarm)
        raise ValueError("a mistake of the user's")

    model = make_model()
    recorder = tv.watch(model, run="local", every=20, on_alarm=on_alarm)
    train(model, Overflowing(model, recorder, at=20), range(1, 21))
    recorder.flush()
    train(model, recorder, range(21, 25))
    recorder.close()
    (alarm,) = told
    assert (alarm.kind, alarm.step) == ("not_finite", 20)
    assert "mlp.down_proj (its parameter weight is not finite)" in alarm.sentence
    assert caplog.text.count(f"alarm: {alarm.sentence}") == 1
    assert "on_alarm= failed" in caplog.text
    assert recorder.captured_steps == [0, 20, 21, 22, 23, 24]
    stored = {capture.step: capture.model for capture in tv.load_captures(str(recorder.ref))}
    assert stored[20]["alarms"] == [alarm.description()]
    assert "alarms" not in stored[21]


def test_alarms_are_off_where_nobody_wants_them(caplog):
    model = make_model()
    recorder = tv.watch(model, run="local", every=20, alarms=False)
    train(model, Overflowing(model, recorder, at=20), range(1, 25))
    recorder.close()
    assert recorder.captured_steps == [0, 20, 24]
    assert "alarm" not in caplog.text
