"""Measure what a sweep costs afterwards: rendering all of its runs, and comparing a thousand.

    python benchmarks/sweep.py               # both parts; the second needs about 7 GB of disk
    python benchmarks/sweep.py --part render --run mlflow:<id> --tracking-uri sqlite:////<path>

``render`` makes 16 copies of a run of the demo's size in a local MLflow and renders them with
``render sweep=``. Between these renderings, it renders one of them on one core. ``compare``
compares 1,000 runs of 200 captures of 30 MB in a local directory. To save disk, all runs share one
file for each step.

Writes sweep.json and sweep.md beside this file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from measuring import (
    import_from_tests,
    options_parser,
    peak_mb,
    read_results,
    table,
    timed,
    wrapped,
    write_results,
)

from tracker_viz import capture_file, trackers
from tracker_viz.comparison import BEHAVIOR
from tracker_viz.cores import usable_cores
from tracker_viz.metrics import SCORE_FILE, Scorer, ScoreSeries, score_bytes
from tracker_viz.pipeline import CompareResult, compare, render, render_sweep
from tracker_viz.trackers import capture_index
from tracker_viz.trackers.local import LocalRun, LocalTracker
from tracker_viz.types import CapturePath, CaptureRef, RunRef

SCORES = ("specialisation", "confidence", *BEHAVIOR)
NETWORK_GB_S, REQUEST_S, REQUESTS_AT_ONCE, REQUESTS_A_RUN = 0.12, 0.15, 8, 5
TITLE = """
# Sweeps: rendering all of their runs, and comparing a thousand

Measured by `python benchmarks/sweep.py`.
"""
RENDERED = """
## `tracker-viz render sweep=`

The sweep is {runs} copies of a run of the demo ({captures} captures) with one parent in a local
MLflow. They are rendered at 1080p on {cores} cores. The table compares the rate per core with that
of one run on one core. The load of the machine was {load:.1f}. A load above the number of cores
means that other work took part of them; then processor time is the better measure.

{times}

As many runs are drawn at once as there are cores, each by its own process. These processes start
once for the whole sweep, which is the difference to the last row. Threads of one process reached
two thirds of the rate, because they wait for each other when pictures are planned and read back.
"""
COMPARED = """
## `tracker-viz compare sweep=` of {runs:,} runs

There are {runs:,} runs of {captures} captures of {mb_a_capture:.0f} MB, or {all_tb:.1f} TB in all.
The models have 12 x 12 heads. Everything is on one disk, where the captures of a step are one file
that is linked into all runs.

{figures}

The notes of the comparison: {notes}

What this means for a store behind a network of 1 Gbit/s ({network_gb_s} GB/s), computed and not
measured:

* **All captures** are {all_tb:.1f} TB, which take {all_hours:.0f} hours and are more than a disk
  holds. A comparison by captures is impossible here. Therefore every run carries its scores in one
  file (`scores/heads.safetensors`, {mb_a_run:.1f} MB). The table, the onsets, the correlations, the
  matching, the distances and the clusters need nothing else. {scores_pulled_gb:.2f} GB take
  {scores_s:.0f} seconds.
* **The video** needs attention maps. It shows at most 64 runs, spread from the lowest loss to the
  highest, and at most 300 points of time. The listing has the sizes of what these need, so it is
  known before anything is pulled. Points are left out until the sum is at most `max_gb` (50). A
  downloaded capture is kept whole, and checked against its sha256.
* **Requests** are four or five a run, so about {requests:,}. At {request_ms:.0f} ms each and
  {at_once} at a time, they take {request_s:.0f} seconds.
* **Memory** is that of the scores, here {mb_a_run:.1f} MB a run. A model of 32 x 32 heads has 7
  times as many scores, and a thousand such runs need a large machine.
* **Distances** grow with the square of the runs, and are computed for the shown runs only.
* **Runs without the file** (killed, or older than it) are read from all of their captures, here
  {run_gb:.0f} GB each.
* **Parts of captures.** MLflow's server answers ranged requests. One block's maps, a tenth of the
  bytes, could be pulled alone. This is not done, because a part cannot be checked against the
  capture's sha256, and nothing that comes from a server is trusted unchecked.
"""


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--part", choices=["render", "compare", "both"], default="both")
    parser.add_argument("--copies", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--run", help="a run of the demo to copy; by default a synthetic one")
    parser.add_argument("--tracking-uri", help="of the run to copy")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--captures", type=int, default=200)
    parser.add_argument("--shown", type=int, default=64)
    parser.add_argument("--max-gb", type=float, default=50.0)
    options = parser.parse_args()
    found = read_results("sweep", options.output)
    with tempfile.TemporaryDirectory(prefix="tracker_viz-sweep-") as name:
        directory = Path(name)
        if options.part != "compare":
            place = directory / "render"
            captures = captures_to_copy(options.run, options.tracking_uri, place / "source")
            found["render"] = rendering(place, captures, options.copies, options.rounds)
            print(json.dumps(found["render"], indent=1, default=float))
        if options.part != "render":
            refs = write_captures(directory / "captures", options.captures)
            write_runs(directory / "runs", refs, options.runs)
            found["compare"] = comparing(directory, refs, options)
            print(json.dumps(found["compare"], indent=1, default=float))
    write_results("sweep", found, report, options.output)


# -- render


def captures_to_copy(
    run: str | None, tracking_uri: str | None, directory: Path
) -> list[CapturePath]:
    """Pull the captures of a run, or write synthetic ones of the demo's size."""
    captures = []
    if run is not None:
        address = {"tracking_uri": tracking_uri} if tracking_uri else {}
        source = trackers.open_run(RunRef.parse(run), **address)
        for ref in source.list_captures():
            captures.append(CapturePath(ref, source.fetch(ref, directory)))
        return captures

    synthetic_run = import_from_tests("rendering", "synthetic_run")
    scorer = Scorer()
    for capture in synthetic_run.captures(100, blocks=4, heads=4, length=64, width=128, hidden=352):
        path = directory / capture.file_name
        captures.append(CapturePath(capture_file.write(scorer(capture), path), path))
    return captures


def rendering(
    directory: Path, captures: list[CapturePath], n_runs: int, rounds: int
) -> dict[str, Any]:
    """Render copies of one run with one parent, and one of them alone on one core."""
    options = {"mlflow": {"tracking_uri": f"sqlite:///{directory}/mlflow.db"}}
    tracker = trackers.connect("mlflow", **options["mlflow"])
    parent = tracker.create_run(name="copies", config={})
    for number in range(n_runs):
        made = tracker.create_run(name=f"copy {number}", config={"seed": number}, parent=parent.ref)
        made.put_captures(captures)
        made.finish("finished")

    common = {"tracker_options": options, "progress": False, "cache": directory / "cache"}
    as_job = partial(render, video={"workers": 1}, **common)
    render_one = partial(as_job, parent.children()[0])
    render_one()
    cores = usable_cores()
    alone, whole, jobs = [], [], []
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        list(pool.map(as_job, parent.children()[:cores]))  # so that everything is imported
        # The ways take turns, so that a busy moment of the machine does not meet one of them alone.
        for _ in range(rounds):
            alone.append(timed(render_one))
            whole.append(timed(lambda: render_sweep(parent.ref, **common)))
            jobs.append(timed(lambda: list(pool.map(as_job, parent.children()))))
            alone.append(timed(render_one))
    (clock_one, cpu_one), (clock_all, cpu_all) = np.median(alone, axis=0), np.median(whole, axis=0)
    return {
        "runs": n_runs,
        "captures": len(captures),
        "cores": cores,
        "load": os.getloadavg()[0],
        "one_run_s": clock_one,
        "one_run_cpu_s": cpu_one,
        "sweep_s": clock_all,
        "sweep_cpu_s": cpu_all,
        "jobs_s": np.median(jobs, axis=0)[0],
        "rate_per_core": n_runs / clock_all / cores * clock_one,
        "rate_by_processor_time": n_runs / cpu_all * cpu_one,
        "samples": {"one": alone, "sweep": whole, "jobs": jobs},
    }


# -- compare


def comparing(directory: Path, refs: list[CaptureRef], options: Any) -> dict[str, Any]:
    """Compare the runs of a sweep, and measure what this pulls and needs."""
    parent = RunRef("local", str(directory / "runs" / "sweep"))
    cache = directory / "cache"
    results: list[CompareResult] = []

    def compare_all() -> None:
        result = compare(
            sweep=parent,
            shown=options.shown,
            max_gb=options.max_gb,
            output=directory / "out",
            cache=cache,
            progress=True,
        )
        results.append(result)

    with counted_pulls() as pulled:
        taken = timed(compare_all)
    kept = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    return {
        "runs": options.runs,
        "captures": len(refs),
        "mb_a_capture": refs[0].nbytes / 1e6,
        "all_tb": options.runs * sum(ref.nbytes for ref in refs) / 1e12,
        "shown": len(results[0].shown),
        "wall_s": taken.clock_s,
        "cpu_s": taken.processor_s,
        "captures_pulled": pulled["captures"],
        "captures_pulled_gb": pulled["capture_bytes"] / 1e9,
        "scores_pulled_gb": pulled["other_bytes"] / 1e9,
        "peak_gb": peak_mb() / 1000,
        "kept_gb": kept / 1e9,
        "video_mb": results[0].video.stat().st_size / 1e6,
        "notes": list(results[0].notes),
    }


@contextmanager
def counted_pulls() -> Iterator[Counter[str]]:
    """Count the captures that are pulled from local runs, and their bytes and those of files."""
    pulled: Counter[str] = Counter()
    fetch, get_file = LocalRun.fetch, LocalRun.get_file

    def counted_fetch(run: LocalRun, ref: CaptureRef, folder: Path) -> Path:
        pulled["captures"] += 1
        pulled["capture_bytes"] += ref.nbytes
        return fetch(run, ref, folder)

    def counted_get_file(run: LocalRun, artifact: str, folder: Path) -> Path:
        path = get_file(run, artifact, folder)
        pulled["other_bytes"] += path.stat().st_size
        return path

    LocalRun.fetch, LocalRun.get_file = counted_fetch, counted_get_file  # type: ignore[method-assign]
    try:
        yield pulled
    finally:
        LocalRun.fetch, LocalRun.get_file = fetch, get_file  # type: ignore[method-assign]


def write_captures(directory: Path, n: int) -> list[CaptureRef]:
    """Write captures like those of GPT-2 (12 x 12 heads), with the same arrays in each."""
    synthetic_run = import_from_tests("rendering", "synthetic_run")
    first = next(
        synthetic_run.captures(1, blocks=12, heads=12, length=128, width=352, hidden=352, period=16)
    )
    refs = []
    for number in range(n):
        loss = 4.0 - number / n
        capture = dataclasses.replace(first, step=10 * number, metrics={"loss": loss})
        refs.append(capture_file.write(capture, directory / capture.file_name))
    return refs


def write_runs(directory: Path, refs: list[CaptureRef], n_runs: int) -> None:
    """Make runs that share the files of their captures; scores and settings differ."""
    parent = LocalTracker(directory).create_run(name="sweep", config={})
    steps = np.array([ref.step for ref in refs])
    by_step = {ref.step: ref for ref in refs}
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
        rows = header.labels.get("probe", ())
        path.write_bytes(score_bytes(grown_scores(steps, number), by_step, header.probe, rows))
        run.finish("finished")


def grown_scores(steps: np.ndarray, seed: int) -> ScoreSeries:
    """Return scores of 12 x 12 heads that grow at random steps."""
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


# -- page


def report(found: dict[str, Any]) -> str:
    """Return the page of the parts that were measured."""
    text = TITLE
    if "render" in found:
        text += render_report(found["render"])
    if "compare" in found:
        text += compare_report(found["compare"])
    return wrapped(text)


def render_report(part: dict[str, Any]) -> str:
    runs, cores = part["runs"], part["cores"]
    rows = [
        {
            "": "one run, one core",
            "time by the clock": f"{part['one_run_s']:.1f} s",
            "processor time": f"{part['one_run_cpu_s']:.1f} s",
        },
        {
            "": f"{runs} runs, {cores} cores",
            "time by the clock": f"{part['sweep_s']:.1f} s",
            "processor time": f"{part['sweep_cpu_s']:.1f} s",
        },
        {
            "": "rate per core, over that of one run",
            "time by the clock": f"**{part['rate_per_core']:.0%}**",
            "processor time": f"{part['rate_by_processor_time']:.0%}",
        },
        {
            "": f"the same runs by {cores} processes that have imported everything already",
            "time by the clock": f"{part['jobs_s']:.1f} s",
            "processor time": "",
        },
    ]
    return RENDERED.format(**part, times=table(rows))


def compare_report(part: dict[str, Any]) -> str:
    figures = {
        "scores pulled, of all runs": f"{part['scores_pulled_gb']:.2f} GB",
        "kept in the cache": f"{part['kept_gb']:.2f} GB",
        f"captures pulled, of the {part['shown']} runs shown": f"{part['captures_pulled']:,}",
        "bytes of these captures": f"{part['captures_pulled_gb']:.1f} GB",
        "time by the clock": f"{part['wall_s']:.0f} s",
        "processor time": f"{part['cpu_s']:.0f} s",
        "peak memory of the process, mapped files included": f"{part['peak_gb']:.1f} GB",
        "the video": f"{part['video_mb']:.1f} MB",
    }
    mb_a_run = part["scores_pulled_gb"] * 1e3 / part["runs"]
    requests = REQUESTS_A_RUN * part["runs"]
    return COMPARED.format(
        **(part | {"notes": " ".join(f"*{note}*" for note in part["notes"])}),
        figures=table([{"": name, "measured": value} for name, value in figures.items()]),
        network_gb_s=NETWORK_GB_S,
        mb_a_run=mb_a_run,
        all_hours=part["all_tb"] * 1e3 / NETWORK_GB_S / 3600,
        scores_s=part["scores_pulled_gb"] / NETWORK_GB_S,
        requests=requests,
        request_ms=1000 * REQUEST_S,
        at_once=REQUESTS_AT_ONCE,
        request_s=requests * REQUEST_S / REQUESTS_AT_ONCE,
        run_gb=part["captures"] * part["mb_a_capture"] / 1e3,
    )


if __name__ == "__main__":
    main()
