"""How fast pictures are drawn and encoded, against seaborn's own ways: one process, the same captures, 1080p overview of 6x6 heads.

    python benchmarks/rendering.py                 # all rows; the ordinary seaborn loop alone takes about a minute a picture
    python benchmarks/rendering.py --frames 60 --slow-frames 1 --memory 0

Writes a table, and the figures as JSON beside this file. Say which column a speed-up is against: seaborn's heatmap() redraws the
whole figure for every box, so the "ordinary" loop is not a fair opponent; with these draws suppressed it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tracker_viz.rendering import Renderer, Series
from tracker_viz.rendering import template as seaborn_template
from tracker_viz.video import write_video

HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("synthetic_run", HERE.parent / "tests" / "rendering" / "synthetic_run.py")
synthetic_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic_run)


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ordinary_seaborn(renderer: Renderer, index: int, *, quiet: bool, bars: bool) -> None:
    """The picture of one capture as a notebook would draw it: sns.heatmap per axes. ``quiet``: without its whole-figure draws."""
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
    figure = QuietFigure((plan.width / 100, plan.height / 100), dpi=100, facecolor=plan.theme.ground)
    FigureCanvasAgg(figure)
    values = renderer.values(index)
    for heatmap in plan.heatmaps:
        box, scale = heatmap.box, plan.scales[heatmap.scale]
        axes = figure.add_axes((box.x / plan.width, 1 - box.bottom / plan.height, box.width / plan.width, box.height / plan.height))
        extras = {} if bars else {"cbar": False, "xticklabels": False, "yticklabels": False}
        seaborn.heatmap(
            values[heatmap.name].astype(np.float32), mask=heatmap.mask, cmap=scale.mpl_cmap(), norm=scale.mpl_norm(), ax=axes, **extras
        )
    figure.building = False
    figure.canvas.draw()


def matplotlib_animation(renderer: Renderer, n_frames: int, directory: Path) -> float | None:
    """Seconds a frame of FuncAnimation + FFMpegWriter, with set_array on meshes that seaborn drew once; None without ffmpeg."""
    executable = shutil.which("ffmpeg")
    if executable is None:
        return None
    from matplotlib.animation import FFMpegWriter, FuncAnimation

    with seaborn_template.fixed_style():
        figure, meshes = seaborn_template._build(renderer.plan, renderer.values(0), None, played=False)

        def update(index: int) -> list[object]:
            values = renderer.values(index)
            for heatmap in renderer.plan.heatmaps:
                shown = np.ma.masked_array(values[heatmap.name].astype(np.float32), heatmap.mask)
                meshes[heatmap.name].set_array(shown)
            return list(meshes.values())

        animation = FuncAnimation(figure, update, frames=n_frames)
        return timed(lambda: animation.save(directory / "animation.mp4", writer=FFMpegWriter(fps=30))) / n_frames


def speed(n_frames: int, n_slow: int, workers: int, directory: Path) -> dict[str, object]:
    series = Series(synthetic_run.write_run(directory / "run", n_frames, blocks=6, heads=6, length=64))
    renderer = Renderer(series, "overview")
    renderer.frame(0)
    frames = [renderer.frame(index).pixels for index in range(min(n_frames, 64))]
    rows: dict[str, object] = {}
    loops = {
        "seaborn, ordinary": {"quiet": False, "bars": True},
        "seaborn, no colour bars and ticks": {"quiet": False, "bars": False},
        "seaborn, whole-figure draws suppressed too": {"quiet": True, "bars": False},
    }
    for name, options in loops.items():
        count = n_slow if not options["quiet"] else max(3, n_slow)
        if count:
            each = [
                timed(lambda index=index, options=options: ordinary_seaborn(renderer, index % n_frames, **options))
                for index in range(count)
            ]
            rows[name] = float(np.median(each))
    full = [timed(lambda index=index: seaborn_template.seaborn_pixels(renderer.plan, renderer.values(index))) for index in range(3)]
    rows["tracker_viz, drawn by seaborn in full"] = float(np.median(full))
    rows["FuncAnimation + FFMpegWriter (drawn once, set_array)"] = matplotlib_animation(renderer, 4, directory)
    rows["tracker_viz, read + painted, one thread"] = timed(lambda: [renderer.frame(index) for index in range(n_frames)]) / n_frames

    def encode(frame_at: Callable[[int], object]) -> float:
        return timed(lambda: write_video(n_frames, frame_at, directory / "video", duration_s=0.1, workers=workers)) / n_frames

    # Interleaved, so that a busy moment of the machine does not fall on one of them alone.
    alone, whole = zip(*[(encode(lambda index: frames[index % len(frames)]), encode(renderer.frame)) for _ in range(3)], strict=True)
    rows["the encoder alone, same frames"] = min(alone)
    rows["tracker_viz, end to end"] = min(whole)
    return rows


def memory(n_captures: int, directory: Path) -> dict[str, object]:
    """Peak memory of the process after a tenth of the captures (at least 16: both workers busy) and after all of them, 30 MB each."""
    first = next(synthetic_run.captures(1, blocks=12, heads=12, length=128, width=352, hidden=352, period=16))
    captures = [synthetic_run.write_capture(directory, dataclasses.replace(first, step=index)) for index in range(n_captures)]
    nbytes = captures[0].path.stat().st_size
    peaks = []
    for part in (captures[: max(16, n_captures // 10)], captures):
        renderer = Renderer(Series(part), "overview")
        write_video(len(part), renderer.frame, directory / "many_video", duration_s=0.05)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {"captures": n_captures, "mb_a_capture": nbytes / 1e6, "peak_mb_tenth": peaks[0], "peak_mb_all": peaks[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=180)
    parser.add_argument("--slow-frames", type=int, default=1, help="pictures of the ordinary seaborn loops; 0 leaves them out")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--memory", type=int, default=0, help="captures of 30 MB to render; 0 leaves the memory test out (1000 need 30 GB of disk)"
    )
    parser.add_argument("--output", type=Path, default=HERE / "rendering.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        rows = speed(options.frames, options.slow_frames, options.workers, Path(directory))
        used = memory(options.memory, Path(directory)) if options.memory else None
    ours = rows["tracker_viz, end to end"]
    print(f"1080p overview, 6x6 heads, T = 64, {options.frames} captures, {options.workers} workers, load {os.getloadavg()[0]:.1f}\n")
    print(f"{'way':<54} {'ms a frame':>11} {'frames/s':>9} {'ours is':>9}")
    for name, seconds in rows.items():
        if seconds is None:
            print(f"{name:<54} {'no ffmpeg':>11}")
        else:
            print(f"{name:<54} {seconds * 1000:>11,.1f} {1 / seconds:>9.2f} {seconds / ours:>8.1f}x")
    share = rows["the encoder alone, same frames"] / ours
    print(f"\nend to end at {share:.0%} of the encoder's own speed")
    if used:
        print(f"memory: {used}")
    report = {"python": platform.python_version(), "cpus": os.cpu_count(), "load": os.getloadavg()[0], "frames": options.frames}
    report |= {"workers": options.workers, "seconds_a_frame": rows, "share_of_encoder": share, "memory": used}
    options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
