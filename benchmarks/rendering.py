"""Measure how fast a video is drawn and encoded, compared with seaborn's own ways.

    python benchmarks/rendering.py                   # about four minutes
    python benchmarks/rendering.py --memory 1000     # and memory; needs 30 GB of disk

All ways draw the same captures in one process: the overview of 6 x 6 heads at 1080p. They take
turns, so that a busy moment of the machine does not meet one of them alone. seaborn's ``heatmap``
redraws the whole figure for every box, which makes the ordinary loop slow. The fair opponent is the
loop in which these draws are suppressed. FuncAnimation's row needs an ffmpeg on the path.

Writes rendering.json and rendering.md beside this file.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

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
from rendering_ways import ENCODER, FAIREST, FULL, NO_BARS, ORDINARY, OURS, WRITER, ways_to_draw

from tracker_viz import capture_file, trackers
from tracker_viz.cores import usable_cores
from tracker_viz.pipeline import VideoOptions
from tracker_viz.rendering import Renderer, Series, storyboard
from tracker_viz.types import CapturePath, CaptureRef, RunRef
from tracker_viz.video import write_video

ONLY_DRAW = (FAIREST, NO_BARS, ORDINARY, FULL)
FIRST_STEP = 1_000_000
WHOLE_CAPTURES = 100
WITH_PAGE = ("video", "webp", "html")
SPEED = """
# Rendering: how fast a video is drawn and encoded

Measured by `python benchmarks/rendering.py`: the overview of 6 x 6 heads at 1080p, {frames}
captures, {workers} worker threads on {cpus} cores. The load at the end was {load:.1f}. The figures
are medians of {rounds} rounds in which the ways took turns. The two slowest ways ran once.
`tracker_viz, end to end` reads, draws and writes. Loops that only draw are compared with it twice:
as they are, and with the time added that OpenCV's own writer takes to write their pictures.

{ways}

End to end runs at **{share:.0%}** of the encoder's own speed on the same frames, or
{cpu_share:.0%} by processor time.
"""
WHOLE = """
`tracker-viz render` of {captures} captures of 4 x 4 heads at 1080p, upload included, runs as a
process. It is compared with encoding its frames alone with as many threads. The figures are
processor times, and medians of {rounds} rounds. *Cold* means that no earlier command left anything
in the cache.

{ways}
"""
MEMORY = """
Peak memory was {peak_mb_of_a_tenth:,.0f} MB when {tenth:,} of {captures:,} captures of
{mb_a_capture:.0f} MB were drawn, and **{peak_mb_of_all:,.0f} MB** when all were.
"""


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--frames", type=int, default=180)
    parser.add_argument("--rounds", type=int, default=5, help="of the speed; 0 keeps the last one")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument(
        "--memory", type=int, default=0, help="captures of 30 MB to render; 0 keeps the last result"
    )
    parser.add_argument(
        "--whole", type=int, default=3, help="rounds of the whole command; 0 keeps the last result"
    )
    options = parser.parse_args()
    found = read_results("rendering", options.output)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if options.memory:
            found["memory"] = memory(options.memory, directory)
        if options.whole:
            found["whole"] = whole_command(options.whole, options.workers, directory)
            found["whole_captures"] = WHOLE_CAPTURES
        if options.rounds:
            found |= speed(options.frames, options.rounds, options.workers, directory)
            found |= {
                "frames": options.frames,
                "rounds": options.rounds,
                "workers": options.workers,
                "python": platform.python_version(),
                "cpus": usable_cores(),
                "load": os.getloadavg()[0],
            }
    write_results("rendering", found, report, options.output)


# -- speed


def speed(
    n_frames: int, rounds: int, workers: int, directory: Path
) -> dict[str, dict[str, list[float]]]:
    """Return the seconds a frame that each way takes in each round, by the clock and of processors.

    The two slowest ways run in the first round only.
    """
    synthetic_run = import_from_tests("rendering", "synthetic_run")
    captures = synthetic_run.write_run(
        directory / "run", n_frames, blocks=6, heads=6, length=64, last_step=50 * n_frames
    )
    ways, slow_ways = ways_to_draw(Series(captures), n_frames, workers, directory)
    seconds: dict[str, list[float]] = {}
    cpu_seconds: dict[str, list[float]] = {}
    for number in range(rounds):
        in_this_round = dict(ways)
        if number == 0:
            in_this_round |= slow_ways
        for name, (n, work) in in_this_round.items():
            taken = timed(work)
            seconds.setdefault(name, []).append(taken.clock_s / n)
            cpu_seconds.setdefault(name, []).append(taken.processor_s / n)
    return {"seconds_a_frame": seconds, "cpu_seconds_a_frame": cpu_seconds}


# -- memory


def memory(n_captures: int, directory: Path) -> dict[str, float]:
    """Return the peak memory of a process that renders captures of 30 MB."""
    # Each call gets its own process, whose peak is measured.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        captures = pool.apply(write_large_captures, (n_captures, directory))
        return pool.apply(peaks_of_rendering, (captures,))


def write_large_captures(n_captures: int, directory: Path) -> list[CapturePath]:
    """Write captures of 30 MB with the same arrays.

    The first one is copied, because computing the quantiles of each again takes long.
    """
    synthetic_run = import_from_tests("rendering", "synthetic_run")
    first = next(
        synthetic_run.captures(1, blocks=12, heads=12, length=128, width=352, hidden=352, period=16)
    )
    contents = capture_file.to_bytes(dataclasses.replace(first, step=FIRST_STEP))
    captures = []
    for step in range(FIRST_STEP, FIRST_STEP + n_captures):
        path = directory / f"step-{step:08d}.safetensors"
        path.write_bytes(contents.replace(str(FIRST_STEP).encode(), str(step).encode(), 1))
        ref = CaptureRef(step, path.name, path.stat().st_size, "0" * 64)
        captures.append(CapturePath(ref, path))
    return captures


def peaks_of_rendering(captures: list[CapturePath]) -> dict[str, float]:
    """Return this process's peak memory when a tenth of the frames, at least 48, and all were
    drawn."""
    renderer = Renderer(Series(captures), "overview")
    n_captures = len(captures)
    tenth = max(48, n_captures // 10)
    peaks: dict[int, float] = {}

    def measure(done: int, total: int) -> None:
        if done in (tenth, total):
            peaks[done] = peak_mb()

    film = renderer.film(storyboard(renderer.series.steps))
    path = captures[0].path.parent / "many_video"
    write_video(n_captures, film, path, duration_s=0.05, progress=measure)
    return {
        "captures": n_captures,
        "mb_a_capture": captures[0].ref.nbytes / 1e6,
        "tenth": tenth,
        "peak_mb_of_a_tenth": peaks[tenth],
        "peak_mb_of_all": peaks[n_captures],
    }


# -- the whole command


def whole_command(rounds: int, workers: int, directory: Path) -> dict[str, list[float]]:
    """Return the processor seconds of ``tracker-viz render`` and of encoding its frames alone.

    The command runs as a process, upload included. In each round it runs with an empty cache, and
    then twice with what the run before kept.
    """
    run = write_small_run(directory)
    renderer = Renderer(Series(run.captures, title="whole"), "overview", theme="light")
    shots = storyboard(renderer.series.steps, story=renderer.plan.story, **VideoOptions().pacing())
    film = renderer.film(shots)
    frames = [film(number).pixels.copy() for number in range(len(shots))]  # 6 MB each

    def encode() -> None:
        write_video(len(frames), frames.__getitem__, directory / "alone", workers=workers)

    def render(formats: tuple[str, ...], cache: Path) -> None:
        words = [f"run={run.ref}", f"format=[{','.join(formats)}]", f"video.workers={workers}"]
        program = Path(sys.executable).with_name("tracker-viz")
        environment = os.environ | {"TRACKER_VIZ_CACHE": str(cache)}
        subprocess.run(
            [program, "render", *words], env=environment, check=True, capture_output=True
        )

    seconds: dict[str, list[float]] = {}
    for number in range(rounds):
        cache = directory / f"cache-{number}"
        ways = {
            "encoding alone": encode,
            "cold": partial(render, ("video",), cache),
            "warm": partial(render, ("video",), cache),
            "warm, with webp and html": partial(render, WITH_PAGE, cache),
        }
        for name, work in ways.items():
            seconds.setdefault(name, []).append(timed(work).processor_s)
    return seconds


@dataclasses.dataclass(frozen=True, slots=True)
class SmallRun:
    """A finished local run of 4 x 4 heads."""

    ref: RunRef
    captures: list[CapturePath]


def write_small_run(directory: Path) -> SmallRun:
    """Write the run that the whole command renders."""
    synthetic_run = import_from_tests("rendering", "synthetic_run")
    run = trackers.connect("local", directory=directory).create_run(name="whole", config={})
    captures = []
    shape = {"blocks": 4, "heads": 4, "length": 64}
    for capture in synthetic_run.captures(WHOLE_CAPTURES, last_step=5000, **shape):
        path = directory / capture.file_name
        captures.append(CapturePath(capture_file.write(capture, path), path))
    run.put_captures(captures)
    run.finish("finished")
    return SmallRun(run.ref, captures)


# -- page


def report(found: dict[str, Any]) -> str:
    """Return the page of the parts that were measured."""
    text = ""
    if "seconds_a_frame" in found:
        text += speed_report(found)
    if "whole" in found:
        text += whole_report(found["whole"], found["whole_captures"])
    if "memory" in found:
        text += MEMORY.format(**found["memory"])
    return wrapped(text)


def speed_report(found: dict[str, Any]) -> str:
    seconds, cpu_seconds = found["seconds_a_frame"], found["cpu_seconds_a_frame"]
    cpu_s = {name: statistics.median(times) for name, times in cpu_seconds.items()}
    rows = []
    for name, times in sorted(seconds.items(), key=lambda item: -statistics.median(item[1])):
        median_s = statistics.median(times)
        with_writer = ""
        if name in ONLY_DRAW:
            both = [drawn + written for drawn, written in zip(times, seconds[WRITER], strict=False)]
            with_writer = f"{times_slower(both, seconds):,.1f} x"
        row = {
            "way": name,
            "ms a frame": f"{median_s * 1000:,.1f}",
            "frames/s": f"{1 / median_s:,.2f}",
            "CPU ms a frame": f"{cpu_s[name] * 1000:,.1f}",
            "end to end is faster by": f"{times_slower(times, seconds):,.1f} x",
            "... with the video written": with_writer,
        }
        rows.append(row)
    return SPEED.format(
        **found,
        ways=table(rows),
        share=times_slower(seconds[ENCODER], seconds),
        cpu_share=cpu_s[ENCODER] / cpu_s[OURS],
    )


def times_slower(times: list[float], seconds: Mapping[str, list[float]]) -> float:
    """Return a way's time over that of a frame end to end: the median over the rounds."""
    rounds = zip(times, seconds[OURS], strict=False)  # the slowest ways have one round
    return statistics.median(other / ours for other, ours in rounds)


def whole_report(seconds: Mapping[str, list[float]], n_captures: int) -> str:
    alone = seconds["encoding alone"]
    rows = []
    for name, times in seconds.items():
        ratio = statistics.median(each / one for each, one in zip(times, alone, strict=True))
        row = {
            "": name,
            "CPU s": f"{statistics.median(times):.2f}",
            "times encoding": f"{ratio:.2f} x",
        }
        rows.append(row)
    return WHOLE.format(captures=n_captures, rounds=len(alone), ways=table(rows))


if __name__ == "__main__":
    main()
