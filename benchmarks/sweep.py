"""Measures what a sweep costs afterwards: rendering all of its runs, and comparing a thousand.

    python benchmarks/sweep.py               # both parts; about 7 GB of disk for the second
    python benchmarks/sweep.py --part render --run mlflow:<id> --tracking-uri sqlite:////<path>

render: 16 copies of a run of the demo's size below a parent in a local MLflow, by ``render
sweep=``, against one of them on one core, turn about in one process. compare: 1,000 runs of 200
captures of 30 MB on this disk, of which all of a step are links to one file. Writes sweep.md and
sweep.json beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tracker_viz import capture_file, trackers
from tracker_viz.comparison import BEHAVIOR
from tracker_viz.cores import usable_cores
from tracker_viz.metrics import SCORE_FILE, Scorer, ScoreSeries, score_bytes
from tracker_viz.pipeline import compare, render, render_sweep
from tracker_viz.trackers import capture_index
from tracker_viz.trackers.local import LocalRun, LocalTracker
from tracker_viz.types import CapturePath, CaptureRef, RunRef

HERE = Path(__file__).resolve().parent
SCORES = ("specialisation", "confidence", *BEHAVIOR)
_spec = importlib.util.spec_from_file_location(
    "synthetic_run", HERE.parent / "tests" / "rendering" / "synthetic_run.py"
)
synthetic_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic_run)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of wall time, and of processor time of this process and of those that it started and
    that ended meanwhile."""

    def processor_s() -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + ended.ru_utime + ended.ru_stime

    wall, cpu = time.perf_counter(), processor_s()
    work()
    return time.perf_counter() - wall, processor_s() - cpu


def rendering(
    directory: Path, n_runs: int, rounds: int, run: str | None, tracking_uri: str | None
) -> dict[str, Any]:
    """Render copies of one run below a parent, against one of them alone on one core."""
    options = {"mlflow": {"tracking_uri": f"sqlite:///{directory}/mlflow.db"}}
    captures = _copied(run, tracking_uri, directory) if run else _made_up(directory)
    tracker = trackers.connect("mlflow", **options["mlflow"])
    parent = tracker.create_run(name="copies", config={})
    for number in range(n_runs):
        made = tracker.create_run(name=f"copy {number}", config={"seed": number}, parent=parent.ref)
        made.put_captures(captures)
        made.finish("finished")

    common = {"tracker_options": options, "progress": False, "cache": directory / "cache"}
    as_job = partial(render, video={"workers": 1}, **common)
    one = partial(as_job, parent.children()[0])
    one()
    cores = usable_cores()
    alone, whole, jobs = [], [], []
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        list(pool.map(as_job, parent.children()[:cores]))  # everything is imported
        # Turn about, so that a busy moment of the machine does not fall on one of them alone.
        for _ in range(rounds):
            alone.append(timed(one))
            whole.append(timed(lambda: render_sweep(parent.ref, **common)))
            jobs.append(timed(lambda: list(pool.map(as_job, parent.children()))))
            alone.append(timed(one))
    (wall_one, cpu_one), (wall_all, cpu_all) = np.median(alone, axis=0), np.median(whole, axis=0)
    return {
        "runs": n_runs,
        "captures": len(captures),
        "cores": cores,
        "load": os.getloadavg()[0],
        "one_run_s": wall_one,
        "one_run_cpu_s": cpu_one,
        "sweep_s": wall_all,
        "sweep_cpu_s": cpu_all,
        "jobs_s": np.median(jobs, axis=0)[0],
        "rate_per_core": n_runs / wall_all / cores * wall_one,
        "rate_by_processor_time": n_runs / cpu_all * cpu_one,
        "samples": {"one": alone, "sweep": whole, "jobs": jobs},
    }


def _copied(run: str, tracking_uri: str | None, directory: Path) -> list[CapturePath]:
    """Pull the captures of a run."""
    source = trackers.open_run(RunRef.parse(run), tracking_uri=tracking_uri)
    captures = []
    for each in source.list_captures():
        captures.append(CapturePath(each, source.fetch(each, directory / "source")))
    return captures


def _made_up(directory: Path) -> list[CapturePath]:
    """Write captures of the demo's size."""
    scorer, captures = Scorer(), []
    for capture in synthetic_run.captures(100, blocks=4, heads=4, length=64, width=128, hidden=352):
        path = directory / "source" / capture.file_name
        captures.append(CapturePath(capture_file.write(scorer(capture), path), path))
    return captures


def comparing(
    directory: Path, n_runs: int, n_captures: int, shown: int, max_gb: float
) -> dict[str, Any]:
    """Runs like GPT-2 (12 x 12 heads); captures of one step are one file, linked into every run,
    and every run has scores of its own."""
    refs = _captures(directory / "captures", n_captures)
    _runs(directory / "runs", refs, n_runs)
    pulled: Counter[str] = Counter()
    fetch, get_file = LocalRun.fetch, LocalRun.get_file

    def fetched(run: LocalRun, ref: CaptureRef, folder: Path) -> Path:
        pulled["captures"] += 1
        pulled["capture_bytes"] += ref.nbytes
        return fetch(run, ref, folder)

    def got(run: LocalRun, artifact: str, folder: Path) -> Path:
        path = get_file(run, artifact, folder)
        pulled["other_bytes"] += path.stat().st_size
        return path

    LocalRun.fetch, LocalRun.get_file = fetched, got  # type: ignore[method-assign]
    parent = LocalTracker(directory / "runs").open_run(
        RunRef("local", str(directory / "runs" / "sweep"))
    )
    result: Any = None

    def compare_all() -> None:
        nonlocal result
        result = compare(
            sweep=parent.ref,
            shown=shown,
            max_gb=max_gb,
            output=directory / "out",
            cache=directory / "cache",
            progress=True,
        )

    try:
        wall, cpu = timed(compare_all)
    finally:
        LocalRun.fetch, LocalRun.get_file = fetch, get_file  # type: ignore[method-assign]
    return {
        "runs": n_runs,
        "captures": n_captures,
        "mb_a_capture": refs[0].nbytes / 1e6,
        "all_tb": n_runs * sum(ref.nbytes for ref in refs) / 1e12,
        "shown": len(result.shown),
        "wall_s": wall,
        "cpu_s": cpu,
        "captures_pulled": pulled["captures"],
        "captures_pulled_gb": pulled["capture_bytes"] / 1e9,
        "scores_pulled_gb": pulled["other_bytes"] / 1e9,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "kept_gb": sum(
            path.stat().st_size for path in (directory / "cache").rglob("*") if path.is_file()
        )
        / 1e9,
        "video_mb": result.video.stat().st_size / 1e6,
        "notes": list(result.notes),
    }


def _captures(directory: Path, n: int) -> list[CaptureRef]:
    first = next(
        synthetic_run.captures(1, blocks=12, heads=12, length=128, width=352, hidden=352, period=16)
    )
    refs = []
    for number in range(n):
        loss = 4.0 - number / n
        capture = dataclasses.replace(first, step=10 * number, metrics={"loss": loss})
        refs.append(capture_file.write(capture, directory / capture.file_name))
    return refs


def _runs(directory: Path, refs: list[CaptureRef], n_runs: int) -> None:
    """Make runs that share the files of their captures, and have scores and settings of their
    own."""
    tracker = LocalTracker(directory)
    parent = tracker.create_run(name="sweep", config={})
    steps = np.array([ref.step for ref in refs])
    captures = directory.parent / "captures"
    header = capture_file.read_header(captures / refs[-1].file_name)
    for number in range(n_runs):
        config = {
            "seed": number % 10,
            "learning_rate": 10.0 ** -(number // 10 % 10),
            "n_layers": number // 100,
        }
        run = LocalRun.create(
            directory / f"run-{number}", name=f"run {number}", config=config, parent=parent.ref
        )
        (run.directory / capture_index.INDEX).mkdir(parents=True)
        for ref in refs:
            link = run.directory / capture_index.CAPTURES / ref.file_name
            os.link(captures / ref.file_name, link)
            (run.directory / capture_index.INDEX / capture_index.entry_name(ref)).touch()
        path = run.directory / SCORE_FILE
        path.parent.mkdir()
        by_step = {ref.step: ref for ref in refs}
        rows = header.labels.get("probe", ())
        path.write_bytes(score_bytes(_series(steps, number), by_step, header.probe, rows))
        run.finish("finished")


def _series(steps: np.ndarray, seed: int) -> ScoreSeries:
    """Scores of 12 x 12 heads that grow at random steps."""
    rng = np.random.default_rng(seed)
    onset = rng.uniform(0.2, 0.9, (12, 12)) * steps[-1]
    grown = 1 / (1 + np.exp(-(steps[:, None, None] - onset) / (0.03 * steps[-1])))
    heads = {}
    for name in SCORES:
        top = rng.uniform(0, 1, (12, 12)) ** 3
        heads[name] = (0.05 + 0.9 * top * grown).astype(np.float32)
    loss = 4.0 - rng.uniform(0, 2) * steps / steps[-1]
    return ScoreSeries(
        steps,
        heads,
        uniform=dict.fromkeys(SCORES, 0.05),
        tokens_seen=steps * 1000.0,
        metrics={"loss": loss},
    )


REPORT = """# Sweeps: rendering all of their runs, and comparing a thousand

Written by `python benchmarks/sweep.py`.
"""
RENDERED = """
## `tracker-viz render sweep=`

{runs} copies of a run of the demo ({captures} captures) below a parent in a local MLflow, 1080p,
on {cores} cores. The rate of the whole
sweep for each core, against that of one run alone on one core. The load of the machine was
{load:.1f}: more than it has cores means that
other work took part of them, and the processor time then is the better measure.

| | wall time | processor time |
|---|---|---|
| one run, one core | {one_run_s:.1f} s | {one_run_cpu_s:.1f} s |
| {runs} runs, {cores} cores | {sweep_s:.1f} s | {sweep_cpu_s:.1f} s |
| rate for each core, of one run's | **{rate_per_core:.0%}** | {rate_by_processor_time:.0%} |
| the same runs by {cores} processes that have imported everything already | {jobs_s:.1f} s | |

As many runs are drawn at once as there are cores, each by a process of its own. Their start, once
for the whole sweep, is the difference
to the last row. Threads of one process kept two thirds of the rate: they wait for each other
where pictures are planned and read back.
"""
COMPARED = """
## `tracker-viz compare sweep=` of {runs:,} runs

{runs:,} runs of {captures} captures of {mb_a_capture:.0f} MB, which are {all_tb:.1f} TB; 12 x 12
heads; on one disk, where the captures of
a step are one file that is linked into all runs.

| | |
|---|---|
| scores pulled, of all runs | {scores_pulled_gb:.2f} GB, all that is kept ({kept_gb:.2f} GB) |
| captures pulled, of the {shown} runs shown | {captures_pulled:,}, {captures_pulled_gb:.1f} GB |
| wall time, processor time | {wall_s:.0f} s, {cpu_s:.0f} s |
| peak memory of the process, mapped files included | {peak_gb:.1f} GB |
| the video | {video_mb:.1f} MB |

What it said: {said}

On paper, for a store behind a network of 1 Gbit/s (0.12 GB/s):

* **All captures**: {all_tb:.1f} TB, {all_hours:.0f} hours, more than a disk holds. This is where
  comparing by captures breaks, and why
  every run carries its scores in one file (`scores/heads.safetensors`, {mb_a_run:.1f} MB): the
  table, the onsets, the correlations, the
  matching, the distances and the clusters need nothing else. {scores_pulled_gb:.2f} GB are
  {scores_s:.0f} seconds.
* **The video** needs attention maps. It shows at most 64 runs, spread from the lowest loss to the
  highest, and at most 300 points of
  time. What these need is known before anything is pulled, from the sizes in the listing, and
  points are left out until it is at most
  `max_gb` (50). A downloaded capture is kept, whole and checked against its sha256.
* **Requests**: four or five a run, so about {requests:,}; at 150 ms each and eight at a time
  {request_s:.0f} s.
* **Memory** is that of the scores, {mb_a_run:.1f} MB a run here; a model of 32 x 32 heads has 7
  times that, and a thousand such runs need
  a large machine.
* **Distances** grow with the square of the runs, and are of those shown only.
* **Runs without the file** (killed, or from before there was one) are read from their captures,
  all of them: {run_gb:.0f} GB each here.
* **Parts of captures.** MLflow's server answers ranged requests, so that one block's maps, a
  tenth of the
  bytes, could be pulled alone. That is not done: a part cannot be checked against the capture's
  sha256, and nothing that comes from a
  server is believed unchecked.
"""


def write_report(found: dict[str, Any]) -> None:
    text = REPORT
    if "render" in found:
        text += RENDERED.format(**found["render"])
    if compared := found.get("compare"):
        mb_a_run = compared["scores_pulled_gb"] * 1e3 / compared["runs"]
        text += COMPARED.format(
            **compared,
            said=" ".join(f"*{note}*" for note in compared["notes"]),
            mb_a_run=mb_a_run,
            all_hours=compared["all_tb"] * 1e3 / 0.12 / 3600,
            scores_s=compared["scores_pulled_gb"] / 0.12,
            requests=5 * compared["runs"],
            request_s=5 * compared["runs"] * 0.15 / 8,
            run_gb=compared["captures"] * compared["mb_a_capture"] / 1e3,
        )
    (HERE / "sweep.md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=["render", "compare", "both"], default="both")
    parser.add_argument("--copies", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--run", help="a run of the demo to copy; by default a made-up one of the same size"
    )
    parser.add_argument("--tracking-uri")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--captures", type=int, default=200)
    parser.add_argument("--shown", type=int, default=64)
    parser.add_argument("--max-gb", type=float, default=50.0)
    options = parser.parse_args()
    output = HERE / "sweep.json"
    found = json.loads(output.read_text()) if output.is_file() else {}
    directory = Path(tempfile.mkdtemp(prefix="tracker_viz-sweep-"))
    try:
        if options.part != "compare":
            (directory / "render").mkdir()
            found["render"] = rendering(
                directory / "render",
                options.copies,
                options.rounds,
                options.run,
                options.tracking_uri,
            )
            print(json.dumps(found["render"], indent=1, default=float))
        if options.part != "render":
            found["compare"] = comparing(
                directory, options.runs, options.captures, options.shown, options.max_gb
            )
            print(json.dumps(found["compare"], indent=1, default=float))
    finally:
        shutil.rmtree(directory)
    output.write_text(json.dumps(found, indent=1, default=float) + "\n")
    write_report(found)


if __name__ == "__main__":
    sys.exit(main())
