"""Measure what a version of a film costs while a run grows: ``follow`` beside rendering all of it
again, in processor seconds, with the memory and the disk that following takes.

    python benchmarks/follow.py [--captures 10000]

Writes follow.json and follow.md beside this file. Captures are made up (2 blocks x 4 heads, 32
tokens) and lie in a directory, pictures are 640x360: what is compared is how costs grow.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

from tracker_viz import capture_file
from tracker_viz.pipeline import PictureOptions, render
from tracker_viz.pipeline.following.live_film import LiveFilm
from tracker_viz.rendering import resolve_layout
from tracker_viz.trackers.local import LocalRun
from tracker_viz.types import CapturePath, CaptureRef

HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location(
    "synthetic_run", HERE.parent / "tests" / "rendering" / "synthetic_run.py"
)
synthetic_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic_run)

VIDEO = {"size": "640x360", "workers": 1}
NEW = 8  # captures of each version that is measured
AT = (8, 32, 128, 512, 1000, 2000, 5000, 10_000)
RENDERED_UP_TO = 1000
COLUMNS = "captures in the run|follow: one version|of it per new capture|render: all of it|frames"
COLUMNS += "|film|memory|disk"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captures", type=int, default=10_000)
    n_captures = parser.parse_args().captures
    with tempfile.TemporaryDirectory(prefix="follow-") as directory:
        os.environ["TRACKER_VIZ_CACHE"] = f"{directory}/cache"
        rows = measure(Path(directory), n_captures)
    (HERE / "follow.json").write_text(json.dumps(rows, indent=1) + "\n")
    (HERE / "follow.md").write_text(table(rows))
    print(table(rows))


def measure(directory: Path, n_captures: int) -> list[dict[str, float]]:
    run = LocalRun.create(directory / "run", name="synthetic", config={})
    options = PictureOptions(video=VIDEO, format=("video", "html"))
    layout = resolve_layout("overview")
    film = LiveFilm(directory / "film", run, layout, options, "synthetic")
    paths = [directory / "film.webm", directory / "film.html"]
    rows: list[dict[str, float]] = []
    shape = {"blocks": 2, "heads": 4, "length": 32, "width": 32, "hidden": 48, "period": 9}
    # So many steps that no two captures are of the same one.
    made = synthetic_run.captures(n_captures, last_step=round(2 * n_captures**1.5), **shape)
    marks = [number for number in AT if number <= n_captures]
    total_s = 0.0
    put(run, made, there := 2)
    update(film, run, paths)  # imports seaborn and what else is loaded once
    for mark in marks:
        while there < mark - NEW:
            # What comes between two measured versions, in versions of their own.
            n_new = min(64, mark - NEW - there)
            put(run, made, n_new)
            there += n_new
            total_s += seconds(lambda: film.draw(film.new(run.list_captures())))
        put(run, made, mark - there)
        n_new, there = mark - there, mark
        update_s = seconds(lambda: update(film, run, paths))
        total_s += update_s
        rows.append(
            {
                "captures": mark,
                "version_s": update_s,
                "per_capture_s": update_s / n_new,
                "render_s": rendered_s(run, directory) if mark <= RENDERED_UP_TO else None,
                "frames": len(film._state.drawn),
                "film_mb": paths[0].stat().st_size / 1e6,
                "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "disk_mb": nbytes(directory / "film") / 1e6,
                "all_versions_s": total_s,
            }
        )
        print(rows[-1], flush=True)
    return rows


def put(run: LocalRun, made, n_captures: int) -> None:
    folder = run.directory.parent / "made"
    folder.mkdir()
    captures = []
    for _ in range(n_captures):
        capture = next(made)
        contents = capture_file.to_bytes(capture)
        path = folder / capture.file_name
        path.write_bytes(contents)
        sha256 = hashlib.sha256(contents).hexdigest()
        ref = CaptureRef(capture.step, capture.file_name, len(contents), sha256)
        captures.append(CapturePath(ref, path))
    run.put_captures(captures)
    shutil.rmtree(folder)


def update(film: LiveFilm, run: LocalRun, paths: list[Path]) -> None:
    film.draw(film.new(run.list_captures()))
    film.note_put(film.write(paths))


def rendered_s(run: LocalRun, directory: Path) -> float:
    options = {"video": VIDEO, "format": ("video", "html"), "upload": False, "progress": False}
    return seconds(lambda: render(run.ref, output=directory / "whole", **options))


def seconds(call) -> float:
    start_s = time.process_time()
    call()
    return time.process_time() - start_s


def nbytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def table(rows: list[dict[str, float]]) -> str:
    lines = [
        "# Following a run",
        "",
        f"Processor seconds of one version (the film and the page) with {NEW} new captures, beside",
        "those of rendering the whole run again. `python benchmarks/follow.py` makes this table.",
        "",
        "| " + " | ".join(COLUMNS.split("|")) + " |",
        "|" + "---:|" * len(COLUMNS.split("|")),
    ]
    for row in rows:
        whole = "" if row["render_s"] is None else f"{row['render_s']:.1f} s"
        cells = [
            f"{row['captures']:,}",
            f"{row['version_s']:.1f} s",
            f"{row['per_capture_s']:.2f} s",
            whole,
            f"{row['frames']:,}",
            f"{row['film_mb']:.1f} MB",
            f"{row['memory_mb']:.0f} MB",
            f"{row['disk_mb']:.1f} MB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    last = rows[-1]
    lines += [
        "",
        f"All versions up to {last['captures']:,} captures took {last['all_versions_s']:.0f} s: "
        f"{1000 * last['all_versions_s'] / last['captures']:.0f} ms a capture, with the frames",
        "that were left out and encoded again where the film had become long.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
