"""Measure how fast a video is drawn and encoded, against seaborn's own ways: one process, the same
captures, 1080p overview of 6x6 heads.

    python benchmarks/rendering.py                       # about four minutes; FuncAnimation's row
    needs an ffmpeg on the path python benchmarks/rendering.py --memory 1000         # and the
    memory over 1000 captures of 30 MB, which need 30 GB of disk

Writes rendering.json and rendering.md beside this file. The contenders take turns, so that a busy
moment of the machine does not fall on one of them alone. seaborn's heatmap() redraws the whole
figure for every box, so the ordinary loop is no fair opponent; the one in which these draws are
suppressed is.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracker_viz import capture_file, trackers
from tracker_viz.cores import usable_cores
from tracker_viz.pipeline import VideoOptions
from tracker_viz.rendering import Renderer, Series, storyboard
from tracker_viz.rendering.painting import template as seaborn_template
from tracker_viz.rendering.theme import fixed_style
from tracker_viz.types import CapturePath, CaptureRef
from tracker_viz.video import write_video

HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location(
    "synthetic_run", HERE.parent / "tests" / "rendering" / "synthetic_run.py"
)
synthetic_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic_run)

OURS, ENCODER = "tracker_viz, end to end", "the encoder alone, frames in memory"
PAINTED, FULL = "tracker_viz, read and painted, one thread", "tracker_viz, drawn by seaborn in full"
FAIREST = "seaborn loop, no bars, whole-figure draws suppressed"
NO_BARS, ORDINARY = (
    "seaborn loop, no color bars and tick labels",
    "seaborn loop, as in its documentation",
)
ANIMATION = "FuncAnimation + FFMpegWriter, set_array on meshes drawn once"
_FIRST_STEP = 1_000_000
WRITER = "OpenCV's VideoWriter, VP8, opened at 24 fps"
_WHOLE_CAPTURES = 100
_WITH_PAGE = ("video", "webp", "html")


def seaborn_loop(renderer: Renderer, index: int, *, quiet: bool, bars: bool) -> np.ndarray:
    """The picture of one capture as a notebook would draw it: sns.heatmap per axes. ``quiet``:
    without its whole-figure draws."""
    import seaborn
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class QuietFigure(Figure):
        building = quiet

        def draw(self, canvas_renderer: object) -> None:
            if self.building:
                self.stale = False
            else:
                super().draw(canvas_renderer)

    plan = renderer.plan
    figure = QuietFigure(
        (plan.width / 100, plan.height / 100), dpi=100, facecolor=plan.theme.ground
    )
    FigureCanvasAgg(figure)
    values = renderer.values(index)
    for heatmap in plan.heatmaps:
        box, scale = heatmap.box, plan.scales[heatmap.scale]
        axes = figure.add_axes(
            (
                box.x / plan.width,
                1 - box.bottom / plan.height,
                box.width / plan.width,
                box.height / plan.height,
            )
        )
        extras = {} if bars else {"cbar": False, "xticklabels": False, "yticklabels": False}
        seaborn.heatmap(
            values[heatmap.name].astype(np.float32),
            mask=heatmap.mask,
            cmap=scale.mpl_cmap(),
            norm=scale.mpl_norm(),
            ax=axes,
            **extras,
        )
    figure.building = False
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def animation(renderer: Renderer, n_frames: int, directory: Path) -> None:
    """matplotlib's own way to a video, with the meshes of a figure that seaborn drew once."""
    from matplotlib.animation import FFMpegWriter, FuncAnimation

    with fixed_style():
        figure, meshes = seaborn_template._build(renderer.plan, renderer.values(0))

        def update(index: int) -> list[Any]:
            values = renderer.values(index)
            for heatmap in renderer.plan.heatmaps:
                meshes[heatmap.name].set_array(
                    np.ma.masked_array(values[heatmap.name].astype(np.float32), heatmap.mask)
                )
            return list(meshes.values())

        FuncAnimation(figure, update, frames=n_frames).save(
            directory / "animation.mp4", writer=FFMpegWriter(fps=24)
        )


def plain_writer(frames: list[np.ndarray], path: Path) -> None:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"VP80"), 24.0, (width, height))
    for pixels in frames:
        writer.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    writer.release()


def speed(
    n_frames: int, rounds: int, workers: int, directory: Path
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Way -> seconds, and seconds of all processors, a frame, once for each round; the slowest two
    are timed in the first round alone."""
    series = Series(
        synthetic_run.write_run(
            directory / "run", n_frames, blocks=6, heads=6, length=64, last_step=50 * n_frames
        )
    )
    renderer = Renderer(series, "overview")
    frames = [renderer.frame(index).pixels for index in range(n_frames)]  # 6 MB each
    film = renderer.film(storyboard(series.steps))

    def encode(frame_at: Callable[[int], Any]) -> None:
        write_video(n_frames, frame_at, directory / "video", duration_s=0.1, workers=workers)

    def loop(n: int, **options: bool) -> None:
        for index in range(n):
            seaborn_loop(renderer, index * n_frames // n, **options)

    def full() -> None:
        seaborn_template.seaborn_pixels(renderer.plan, renderer.values(n_frames // 2))

    ways: dict[str, tuple[int, Callable[[], object]]] = {
        FAIREST: (3, lambda: loop(3, quiet=True, bars=False)),
        OURS: (n_frames, lambda: encode(film)),
        ENCODER: (n_frames, lambda: encode(frames.__getitem__)),
        PAINTED: (n_frames, lambda: [film(index) for index in range(n_frames)]),
        FULL: (1, full),
        WRITER: (16, lambda: plain_writer(frames[:16], directory / "plain.webm")),
    }
    if shutil.which("ffmpeg"):
        ways[ANIMATION] = (6, lambda: animation(renderer, 6, directory))
    slow = {
        NO_BARS: (1, lambda: loop(1, quiet=False, bars=False)),
        ORDINARY: (1, lambda: loop(1, quiet=False, bars=True)),
    }
    seconds: dict[str, list[float]] = {}
    cpu_seconds: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, (n, work) in (ways | slow if number == 0 else ways).items():
            start, cpu_start = time.perf_counter(), cpu_time()
            work()
            seconds.setdefault(name, []).append((time.perf_counter() - start) / n)
            cpu_seconds.setdefault(name, []).append((cpu_time() - cpu_start) / n)
    return seconds, cpu_seconds


def cpu_time() -> float:
    """Seconds of processors that this process has had, and its children (FuncAnimation's
    ffmpeg)."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def write_many(n_captures: int, directory: Path) -> list[CapturePath]:
    """Captures of 30 MB, the same arrays in each: finding their quantiles anew would say nothing
    here."""
    first = next(
        synthetic_run.captures(1, blocks=12, heads=12, length=128, width=352, hidden=352, period=16)
    )
    contents = capture_file.to_bytes(dataclasses.replace(first, step=_FIRST_STEP))
    captures = []
    for step in range(_FIRST_STEP, _FIRST_STEP + n_captures):
        path = directory / f"step-{step:08d}.safetensors"
        path.write_bytes(contents.replace(str(_FIRST_STEP).encode(), str(step).encode(), 1))
        captures.append(
            CapturePath(CaptureRef(step, path.name, path.stat().st_size, "0" * 64), path)
        )
    return captures


def memory(captures: list[CapturePath]) -> dict[str, float]:
    """Peak memory of this process while it renders: by the time that a tenth of the frames was
    drawn, at least 48, and in the end."""
    renderer = Renderer(Series(captures), "overview")
    tenth, peaks = max(48, len(captures) // 10), {}

    def measure(done: int, total: int) -> None:
        if done in (tenth, total):
            peaks[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    film = renderer.film(storyboard(renderer.series.steps))
    write_video(
        len(captures),
        film,
        captures[0].path.parent / "many_video",
        duration_s=0.05,
        progress=measure,
    )
    nbytes = captures[0].ref.nbytes
    return {
        "captures": len(captures),
        "mb_a_capture": nbytes / 1e6,
        "tenth": tenth,
        "peak_mb_of_a_tenth": peaks[tenth],
        "peak_mb_of_all": peaks[len(captures)],
    }


def whole_command(rounds: int, workers: int, directory: Path) -> dict[str, list[float]]:
    """Way -> seconds of processors, once for each round, of ``tracker-viz render`` as a process of
    its own, upload included, and of encoding its video's frames alone; of 100 captures of 4 x 4
    heads at 1080p.

    Cold: nothing is kept from an earlier process on this machine; warm: what the command before
    kept.
    """
    captures = synthetic_run.captures(_WHOLE_CAPTURES, blocks=4, heads=4, length=64, last_step=5000)
    run = trackers.connect("local", directory=directory).create_run(name="whole", config={})
    paths = []
    for capture in captures:
        path = directory / capture.file_name
        capture_file.write(capture, path)
        paths.append(CapturePath(capture_file.file_ref(path, capture.step), path))
    run.put_captures(paths)
    run.finish("finished")

    renderer = Renderer(Series(paths, title="whole"), "overview", theme="light")
    shots = storyboard(renderer.series.steps, story=renderer.plan.story, **VideoOptions().pacing())
    film = renderer.film(shots)
    frames = [film(number).pixels.copy() for number in range(len(shots))]  # 6 MB each

    def encode() -> None:
        write_video(len(frames), frames.__getitem__, directory / "alone", workers=workers)

    def command(formats: tuple[str, ...], cache: Path) -> None:
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
            "cold": lambda cache=cache: command(("video",), cache),
            "warm": lambda cache=cache: command(("video",), cache),
            "warm, with webp and html": lambda cache=cache: command(_WITH_PAGE, cache),
        }
        for name, work in ways.items():
            start = cpu_time()
            work()
            seconds.setdefault(name, []).append(cpu_time() - start)
    return seconds


def report(result: dict[str, Any]) -> str:
    seconds = result["seconds_a_frame"]
    cpu = {name: statistics.median(times) for name, times in result["cpu_seconds_a_frame"].items()}

    def ratio(name: str, extra: list[float] | None = None) -> float:
        """A way's time as a multiple of the frame's time end to end: the median over the rounds,
        each against its own round."""
        extra = extra or [0.0] * len(seconds[name])
        return statistics.median(
            (other + more) / ours
            for other, more, ours in zip(seconds[name], extra, seconds[OURS], strict=False)
        )

    lines = [
        "# Rendering: how fast a video is drawn and encoded",
        "",
        (
            "Written by `python benchmarks/rendering.py`: the overview of 6 x 6 heads at 1080p, "
            f"{result['frames']} captures,"
        ),
        (
            f"{result['workers']} worker threads on {result['cpus']} cores, load "
            f"{result['load']:.1f} at the end. Medians of"
        ),
        (
            f"{result['rounds']} rounds, in which the ways take turns (the two slowest run once). "
            "Loops that only draw are compared once as"
        ),
        (
            "they are, and once with their pictures written by OpenCV's writer as its "
            "documentation has it, because `tracker_viz, end to end`"
        ),
        "reads, draws and writes.",
        "",
        (
            "| way | ms a frame | frames/s | CPU ms a frame | end to end is faster by | ... with "
            "the video written |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for name, times in sorted(seconds.items(), key=lambda item: -statistics.median(item[1])):
        each = statistics.median(times)
        only_draws = name in (FAIREST, NO_BARS, ORDINARY, FULL)
        written = f"{ratio(name, seconds[WRITER]):,.1f} x" if only_draws else ""
        lines.append(
            f"| {name} | {each * 1000:,.1f} | {1 / each:,.2f} | {cpu[name] * 1000:,.1f} | "
            f"{ratio(name):,.1f} x | {written} |"
        )
    share = (
        f"**{ratio(ENCODER):.0%}** of the encoder's own speed on the same frames, "
        f"{cpu[ENCODER] / cpu[OURS]:.0%} by processor time"
    )
    lines += ["", f"End to end runs at {share}."]
    if result.get("whole"):
        lines += ["", *whole_lines(result["whole"])]
    if result.get("memory"):
        used = result["memory"]
        lines += [
            "",
            f"Memory: {used['peak_mb_of_a_tenth']:,.0f} MB at most until {used['tenth']:,} of "
            f"{used['captures']:,} captures of "
            f"{used['mb_a_capture']:.0f} MB were drawn, **{used['peak_mb_of_all']:,.0f} MB** until "
            "all were.",
        ]
    return "\n".join(lines) + "\n"


def whole_lines(seconds: dict[str, list[float]]) -> list[str]:
    """The table of the whole command: against encoding in the same round."""
    alone = seconds["encoding alone"]
    lines = [
        f"`tracker-viz render` of {_WHOLE_CAPTURES} captures, 4 x 4 heads, 1080p, upload included,",
        "as a process, against encoding its frames alone with as many threads: processor",
        f"time, medians of {len(alone)} rounds. Cold: nothing was kept by an earlier command.",
        "",
        "| | CPU s | times encoding |",
        "|---|---|---|",
    ]
    for name, times in seconds.items():
        ratio = statistics.median(each / one for each, one in zip(times, alone, strict=True))
        lines.append(f"| {name} | {statistics.median(times):.2f} | {ratio:.2f} x |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=180)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument(
        "--memory",
        type=int,
        default=0,
        help="captures of 30 MB to render; 0 keeps what rendering.json says of it",
    )
    parser.add_argument(
        "--whole", type=int, default=3, help="rounds of the whole command; 0 keeps what is known"
    )
    options = parser.parse_args()
    written = HERE / "rendering.json"
    result: dict[str, Any] = json.loads(written.read_text()) if written.exists() else {}
    with tempfile.TemporaryDirectory() as directory:
        if options.memory:
            with multiprocessing.get_context("spawn").Pool(
                1, maxtasksperchild=1
            ) as pool:  # a process of its own for each
                captures = pool.apply(write_many, (options.memory, Path(directory)))
                result["memory"] = pool.apply(memory, (captures,))
        if options.whole:
            result["whole"] = whole_command(options.whole, options.workers, Path(directory))
        if options.rounds:
            seconds, cpu_seconds = speed(
                options.frames, options.rounds, options.workers, Path(directory)
            )
            result |= {
                "seconds_a_frame": seconds,
                "cpu_seconds_a_frame": cpu_seconds,
                "frames": options.frames,
                "rounds": options.rounds,
                "workers": options.workers,
            }
            result |= {
                "python": platform.python_version(),
                "cpus": usable_cores(),
                "load": os.getloadavg()[0],
            }
    written.write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "rendering.md").write_text(report(result))
    print(report(result))


if __name__ == "__main__":
    main()
