"""Measure what a new version of a film costs while a run grows.

    python benchmarks/follow.py [--captures 10000]

Compares ``follow`` with rendering the whole run again, in processor seconds, and measures the
memory and the disk that following takes. The captures are synthetic (2 blocks x 4 heads, 32 tokens)
and the pictures small (640x360): the question is how costs grow.

Writes follow.json and follow.md beside this file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import (
    import_from_tests,
    options_parser,
    peak_mb,
    table,
    timed,
    wrapped,
    write_results,
)

from tracker_viz import capture_file
from tracker_viz.pipeline import PictureOptions, render
from tracker_viz.pipeline.following.live_film import LiveFilm
from tracker_viz.rendering import resolve_layout
from tracker_viz.trackers.local import LocalRun
from tracker_viz.types import Capture, CapturePath, CaptureRef

VIDEO = {"size": "640x360", "workers": 1}
SHAPE = {"blocks": 2, "heads": 4, "length": 32, "width": 32, "hidden": 48, "period": 9}
MEASURED_AT = (8, 32, 128, 512, 1000, 2000, 5000, 10_000)
NEW = 8  # captures in each version that is measured
MOST_NEW = 64  # captures in the versions between these
RENDERED_UP_TO = 1000
PAGE = """
# Following a run

Measured by `python benchmarks/follow.py`: the processor seconds of one version (the film and the
page) with {new} new captures, and those of rendering the whole run again.

{versions}

All versions up to {captures:,} captures took {all_versions_s:.0f} s, which is {ms_a_capture:.0f} ms
per capture. This includes the frames that were left out, and encoded again, once the film had
become long.
"""


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--captures", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="follow-") as directory:
        os.environ["TRACKER_VIZ_CACHE"] = f"{directory}/cache"
        versions = measure(Path(directory), options.captures)
    write_results("follow", {"new": NEW, "versions": versions}, report, options.output)


class FollowedRun:
    """A growing run, and the film that follows it.

    Attributes:
        n_captures: how many captures the run has.
        total_s: processor seconds of all versions.
    """

    def __init__(self, directory: Path, n_captures: int) -> None:
        synthetic_run = import_from_tests("rendering", "synthetic_run")
        # So many steps that no two captures share one.
        last_step = round(2 * n_captures**1.5)
        self._captures = synthetic_run.captures(n_captures, last_step=last_step, **SHAPE)
        self._directory = directory
        self.run = LocalRun.create(directory / "run", name="synthetic", config={})
        options = PictureOptions(video=VIDEO, format=("video", "html"))
        layout = resolve_layout("overview")
        self.film = LiveFilm(directory / "film", self.run, layout, options, "synthetic")
        self.paths = [directory / "film.webm", directory / "film.html"]
        self.n_captures, self.total_s = 0, 0.0

    def add(self, n_captures: int) -> None:
        """Put new captures into the run."""
        put(self.run, self._captures, n_captures)
        self.n_captures += n_captures

    def draw(self) -> None:
        """Draw the new captures, without writing a film."""
        self.total_s += timed(self._draw).processor_s

    def write_version(self) -> float:
        """Draw the new captures and write a version; return its processor seconds."""
        taken_s = timed(self._write).processor_s
        self.total_s += taken_s
        return taken_s

    def _draw(self) -> None:
        self.film.draw(self.film.new(self.run.list_captures()))

    def _write(self) -> None:
        self._draw()
        self.film.note_put(self.film.write(self.paths))

    def render_all(self) -> float:
        """Render the whole run; return the processor seconds."""
        output = self._directory / "whole"
        options = {"video": VIDEO, "format": ("video", "html"), "upload": False, "progress": False}
        return timed(lambda: render(self.run.ref, output=output, **options)).processor_s


def measure(directory: Path, n_captures: int) -> list[dict[str, float | None]]:
    """Return a row for each number of captures at which a version is measured."""
    followed = FollowedRun(directory, n_captures)
    followed.add(2)
    followed.write_version()  # loads seaborn and all else
    followed.total_s = 0.0
    rows: list[dict[str, float | None]] = []
    for mark in MEASURED_AT:
        if mark > n_captures:
            break
        while followed.n_captures < mark - NEW:
            followed.add(min(MOST_NEW, mark - NEW - followed.n_captures))
            followed.draw()
        rows.append(measured_version(followed, mark, directory))
        print(rows[-1], flush=True)
    return rows


def measured_version(followed: FollowedRun, mark: int, directory: Path) -> dict[str, float | None]:
    """Return what the version costs that brings the film to ``mark`` captures."""
    n_new = mark - followed.n_captures
    followed.add(n_new)
    version_s = followed.write_version()
    render_s = followed.render_all() if mark <= RENDERED_UP_TO else None
    return {
        "captures": mark,
        "version_s": version_s,
        "per_capture_s": version_s / n_new,
        "render_s": render_s,
        "frames": len(followed.film._state.drawn),
        "film_mb": followed.paths[0].stat().st_size / 1e6,
        "memory_mb": peak_mb(),
        "disk_mb": nbytes(directory / "film") / 1e6,
        "all_versions_s": followed.total_s,
    }


def put(run: LocalRun, made: Iterator[Capture], n_captures: int) -> None:
    """Write the next captures of an iterator into a run."""
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


def nbytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def report(found: dict[str, Any]) -> str:
    """Return the page of the results."""
    rows = []
    for version in found["versions"]:
        rendered = ""
        if version["render_s"] is not None:
            rendered = f"{version['render_s']:.1f} s"
        row = {
            "captures in the run": f"{version['captures']:,}",
            "follow: one version": f"{version['version_s']:.1f} s",
            "follow: per new capture": f"{version['per_capture_s']:.2f} s",
            "render: the whole run": rendered,
            "frames": f"{version['frames']:,}",
            "film": f"{version['film_mb']:.1f} MB",
            "memory": f"{version['memory_mb']:.0f} MB",
            "disk": f"{version['disk_mb']:.1f} MB",
        }
        rows.append(row)
    last = found["versions"][-1]
    return wrapped(
        PAGE.format(
            new=found["new"],
            versions=table(rows),
            captures=last["captures"],
            all_versions_s=last["all_versions_s"],
            ms_a_capture=1000 * last["all_versions_s"] / last["captures"],
        )
    )


if __name__ == "__main__":
    main()
