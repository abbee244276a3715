"""A job that submitit requeues goes on in the same spool and the same run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from local_runs import only_run, steps_at

from tracker_viz.trackers.local import LocalRun

LOOP = """
import os
import time
from pathlib import Path

import hydra
import torch

import tracker_viz as tv
from tracker_viz.demo.model import Decoder, ModelConfig

SHAPE = {"n_blocks": 1, "n_heads": 2, "d_model": 8, "d_ffn": 8}


@hydra.main(version_base=None)
def main(config):
    torch.manual_seed(0)
    model = Decoder(ModelConfig(context_length=8, vocab_size=16, **SHAPE))
    work, start = Path(os.environ["WORK"]), 0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        start, weights = torch.load(checkpoint)
        model.load_state_dict(weights)
    recorder = tv.watch(
        model,
        run="local",
        every=2,
        total_steps=12,
        start_step=start,
        spool=work / "spool",
        tracker_options={"local": {"directory": str(work / "runs")}},
        score_rows=0,
    )
    recorder.flush_on_signals()
    with recorder:
        for step in range(start, 12):
            recorder.step(step)
            if step == 5:
                torch.save((6, model.state_dict()), checkpoint)
            if step == 8 and start == 0:
                (work / "pid").write_text(f"{os.getpid()}.")
                while True:
                    time.sleep(0.01)  # until it is requeued


main()
"""


def test_a_requeued_job_goes_on_in_its_run(tmp_path):
    (tmp_path / "loop.py").write_text(LOOP)
    words = ["loop.py", "-m", "+lr=1", "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep"]
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=tmp_path,
        env={**os.environ, "WORK": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    pid = tmp_path / "pid"
    while not pid.exists() or not pid.read_text().endswith("."):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.kill(int(pid.read_text()[:-1]), signal.SIGUSR2)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    (log,) = tmp_path.glob("sweep/.submitit/*/*_log.out")
    assert log.read_text().count("Starting with JobEnvironment") == 2
    (errors,) = tmp_path.glob("sweep/.submitit/*/*_log.err")
    assert f"on the disk; upload: tracker-viz push spool={tmp_path}/spool" in errors.read_text()
    run = only_run(tmp_path / "runs")
    # Step 9 was the latest when the signal came.
    assert steps_at(run) == [0, 2, 4, 6, 8, 9, 10, 12]
    info = LocalRun(run.directory).info()
    assert (info.name, info.state) == ("loop", "finished")
