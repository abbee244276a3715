"""train.py as a person uses it: in a process of its own, with real trackers, stopped by signals and
gone on with."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import filelock
import pytest

from tracker_viz import RunRef, capture_file, trackers

TRAIN = Path(__file__).parents[1] / "train.py"
SMOKE = (
    "experiment=smoke",
    "trainer.steps=400",
    "trainer.checkpoint_every=50",
    "capture.captures=12",
)


def start(*words, cwd):
    """``words`` in ``cwd``, with a cache of its own and one thread, so that two runs add their
    numbers in the same order."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "WANDB_", "HYDRA_", "TRACKER_VIZ_"))
    }
    environment |= {"XDG_CACHE_HOME": str(cwd / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        list(map(str, words)),
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output = process.communicate(timeout=500)[0]
    return process.returncode, output


def train(*overrides, cwd):
    return finish(start(sys.executable, TRAIN, *overrides, cwd=cwd))


def losses(run):
    """step -> loss as its capture holds it."""
    loaded = {}
    for ref in run.list_captures():
        header = capture_file.read_header(run.fetch(ref, Path()))
        loaded[header.step] = header.metrics["loss"]
    return loaded


def the_command(output, program):
    """The words of the one printed command that begins like this."""
    (command,) = re.findall(rf"^  (.*{program} .*)$", output, re.MULTILINE)
    return shlex.split(command)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody interrupted, with its video: (output, the run)."""
    cwd = tmp_path_factory.mktemp("whole")
    code, output = train(*SMOKE, "tracker=local", "spool=spool", cwd=cwd)
    assert code == 0, output
    return output, trackers.open_run(RunRef("local", str(cwd / "spool")))


def test_the_whole_line_from_the_model_to_the_video(whole):
    output, run = whole
    steps = [ref.step for ref in run.list_captures()]
    assert (len(steps), steps[0], steps[-1]) == (12, 0, 400)
    assert run.info().state == "finished"
    video = cv2.VideoCapture(str(run.directory / "overview.webm"))
    assert video.get(cv2.CAP_PROP_FRAME_WIDTH) == 1920
    assert video.read()[0]
    assert f"Watch it in the run: {run.url('overview.webm')}" in output
    assert the_command(output, "tracker-viz") == ["tracker-viz", "render", f"run={run.ref}"]
    assert output.count(f"run={run.ref}") == 1
    assert output.count(run.url("overview.webm")) == 1


def test_captures_carry_the_losses_scores_and_the_probes_tokens(whole):
    _, run = whole
    last = capture_file.read_header(run.fetch(run.list_captures()[-1], Path()))
    assert {
        "loss",
        "validation/loss",
        "validation/second_copy_loss",
        "attn/induction_max",
    } <= last.metrics.keys()
    assert last.tokens_seen == 400 * 8 * 32
    assert [row["kind"] for row in last.probe["rows"]] == ["repeated", "text"]
    assert all(row["tokens"][0] == "<bos>" for row in last.probe["rows"])


def test_ctrl_c_keeps_everything_and_the_run_is_gone_on_with_from_elsewhere_bit_for_bit(
    whole, tmp_path, put_mlflow_store
):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir(), elsewhere.mkdir()
    put_mlflow_store(here)
    process = start(sys.executable, TRAIN, *SMOKE, "render=false", cwd=here)
    while process.poll() is None and not list(
        here.glob("outputs/*/*/spool/checkpoints/latest.json")
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    run = trackers.open_run(
        the_command(output, "tracker-viz")[2].removeprefix("run="),
        tracking_uri=f"sqlite:///{here}/mlflow.db",
    )
    assert run.info().state == "killed"
    stopped_at = run.list_captures()[-1].step
    assert 50 <= stopped_at < 400

    code, output = finish(start(*the_command(output, "train.py"), "render=false", cwd=elsewhere))
    assert code == 0, output
    assert run.info().state == "finished"
    resumed, expected = losses(run), losses(whole[1])
    resumed.pop(stopped_at) if stopped_at not in expected else None
    assert resumed == expected
    assert not list(elsewhere.glob("mlflow.db"))


@pytest.mark.parametrize("steps", [100_000, 30], ids=["twice while it trains", "while it uploads"])
def test_who_asks_it_to_quit_at_once_waits_for_no_tracker_and_loses_nothing(tmp_path, steps):
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        tracker = f"tracker.mlflow.tracking_uri=http://127.0.0.1:{hangs.getsockname()[1]}"
        words = ("experiment=smoke", "render=false", "capture.captures=8", f"trainer.steps={steps}")
        process = start(sys.executable, "-u", TRAIN, *words, tracker, cwd=tmp_path)
        output = ""

        def read_until(said):
            nonlocal output
            while said not in output:
                chunk = os.read(process.stdout.fileno(), 1 << 16).decode()
                assert chunk, f"it ended before it said {said!r}: {output}"
                output += chunk

        if steps == 30:
            read_until("uploading: ")
        else:
            while not list(tmp_path.glob("outputs/*/*/spool/captures/step-*")):
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            read_until("once more to quit")
        process.send_signal(signal.SIGTERM)
        before = time.monotonic()
        code, rest = finish(process)
    assert code == 130, output + rest
    assert time.monotonic() - before < 110, "a tracker that hangs was waited for, which is 120 s"
    (spool,) = tmp_path.glob("outputs/*/*/spool")
    captured = trackers.open_run(RunRef("local", str(spool))).list_captures()
    assert captured
    assert steps != 30 or captured[-1].step == 30
    assert f"tracker-viz push spool={spool}" in output + rest


def test_two_that_start_in_one_second_are_both_trained(tmp_path):
    words = (
        "experiment=smoke",
        "render=false",
        "tracker=local",
        "capture.captures=3",
        "hydra.run.dir=one",
    )
    both = [start(sys.executable, TRAIN, *words, f"seed={seed}", cwd=tmp_path) for seed in (0, 1)]
    ended = [finish(process) for process in both]
    assert [code for code, _ in ended] == [0, 0], ended
    runs = [
        trackers.open_run(RunRef("local", str(tmp_path / "one" / name)))
        for name in ("spool", "spool-2")
    ]
    assert sorted(run.info().config["seed"] for run in runs) == [0, 1]
    assert [len(run.list_captures()) for run in runs] == [3, 3]


@pytest.fixture(scope="module")
def reached_late(tmp_path_factory, put_mlflow_store):
    """A run in MLflow whose tracker was away until it had trained: (output, its directory)."""
    cwd = tmp_path_factory.mktemp("reached-late")
    put_mlflow_store(cwd)
    described = cwd / "spool" / "run.json"
    # As if making the database took that long.
    with filelock.FileLock(cwd / "mlflow.db.init.lock"):
        words = ("experiment=smoke", "render=false", "capture.captures=3", "spool=spool")
        process = start(sys.executable, TRAIN, *words, cwd=cwd)
        while process.poll() is None and not (
            described.is_file() and json.loads(described.read_text())["state"] == "finished"
        ):
            time.sleep(0.02)
    code, output = finish(process)
    assert code == 0, output
    return output, cwd


def test_a_run_that_is_reached_only_after_training_can_be_gone_on_with_too(reached_late):
    _, cwd = reached_late
    assert list(cwd.glob("mlruns/*/*/artifacts/checkpoints/step-00000030.safetensors"))
    assert list(cwd.glob("mlruns/*/*/artifacts/checkpoints/latest.json"))


def test_the_printed_command_renders_from_another_directory_without_torch(reached_late, tmp_path):
    output, cwd = reached_late
    words = the_command(output, "tracker-viz")
    assert words[0] == "tracker-viz"
    program = (
        "import sys; from tracker_viz.jobs import main; main(); assert 'torch' not in sys.modules"
    )
    quick = "video.seconds_per_capture=0.1"
    code, output = finish(start(sys.executable, "-c", program, *words[1:], quick, cwd=tmp_path))
    assert code == 0, output
    assert re.search(r"Watch it in the run: http\S+/artifacts/overview.webm", output)
    assert list(cwd.glob("mlruns/*/*/artifacts/overview.webm"))
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_run_is_verified_with_nothing_but_its_name(whole, tmp_path):
    """Its checkpoints, its model and held-out rows of its data are found from the run."""
    _, run = whole
    program = (sys.executable, "-c", "from tracker_viz.jobs import main; main()", "verify")
    words = (f"run={run.ref}", "steps=[50,400]", "n_rows=4", "draws=3")
    code, output = finish(start(*program, *words, cwd=tmp_path))
    assert code == 0, output
    assert output.startswith("Step 50\n")
    assert "Step 400" in output
    described = json.loads((run.directory / "verify.json").read_text())
    assert described["settings"]["rows"]["repeated"] == [4, 33]
    assert described["settings"]["rows"]["text"] == [4, 33]
    last = next(row for row in described["table"] if (row["step"], row["what"]) == (400, "model"))
    captured = capture_file.read_header(run.fetch(run.list_captures()[-1], Path())).metrics
    assert last["text"] == pytest.approx(captured["validation/loss"], rel=0.1)

    code, output = finish(start(*program, f"run={run.ref}", "steps=[70]", cwd=tmp_path))
    assert code == 2
    assert "the run has no checkpoint of step 70; it has the last one, of step 400" in output


def test_a_wrong_override_is_told_before_anything_is_made(tmp_path):
    code, output = train("trainer.stepz=5", cwd=tmp_path)
    assert code == 2, output
    assert "unknown option of trainer 'stepz'; did you mean 'steps'" in output
    assert "Traceback" not in output
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {"config.yaml", "hydra.yaml", "overrides.yaml", "train.log"}


def test_a_diverging_run_fails_with_what_it_captured_kept(tmp_path):
    overrides = (
        "tracker=local",
        "spool=spool",
        "trainer.learning_rate=1e30",
        "trainer.warmup_steps=0",
        "capture.every=1",
    )
    code, output = train("experiment=smoke", *overrides, cwd=tmp_path)
    assert code == 1, output
    assert re.search(
        r"the loss is (nan|inf) after \d+ steps; try a lower trainer.learning_rate", output
    )
    assert "Traceback" not in output
    run = trackers.open_run(RunRef("local", str(tmp_path / "spool")))
    assert run.info().state == "failed"
    assert run.list_captures()[0].step == 0
    assert json.loads((tmp_path / "spool" / "run.json").read_text())["state"] == "failed"
