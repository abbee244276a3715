"""The benchmarks of capturing run: what they say on an idle machine, or on a GPU, cannot be tested
here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import psutil

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def rows(script, *options):
    """The cells of the table that a benchmark prints, header first."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in done.stdout.splitlines()
        if line.startswith("| ")
    ]


def test_the_gpu_benchmark_trains_a_tiny_model_anywhere_and_finds_nothing_changed():
    header, cells = rows("capture_gpu.py", "--size", "tiny", "--steps", "4", "--every", "2")
    found = dict(zip(header, cells, strict=True))
    assert found["losses"] == "same"
    assert found["compiled"] == "0 more"
    assert float(found["a step, ms"]) > 0
    assert float(found["a capture, ms (range)"].split()[0]) > 0


def test_a_process_that_ends_while_it_is_measured_ends_no_benchmark(monkeypatch):
    spec = importlib.util.spec_from_file_location("capture_benchmark", BENCHMARKS / "capture.py")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, benchmark)
    spec.loader.exec_module(benchmark)
    with subprocess.Popen(
        [sys.executable, "-c", "sum(range(10_000_000)); print(); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        child.stdout.readline()
        children = {psutil.Process(child.pid): 0.0}
        before = benchmark.processor_s(children)
        child.kill()
    assert 0 < next(iter(children.values())) <= before <= benchmark.processor_s(children)


def test_every_contestant_is_measured_and_none_changes_the_losses(tmp_path):
    short = ("--rounds", "1", "--steps", "2", "--every", "2")
    header, *contestants = rows("capture.py", *short, "--output", tmp_path)
    assert [cells[0].split("(")[0] for cells in contestants] == [
        "plain training", "tracker_viz", "wandb.watch", "output_attentions + torch.save",
    ]  # fmt: skip
    assert all(len(cells) == len(header) for cells in contestants)
    assert {cells[header.index("losses")] for cells in contestants} == {"same"}
