"""All runs of a sweep are rendered by one command, in this process or by a launcher's jobs; one
that cannot be stops no other."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import cv2
import psutil
import pytest

from tracker_viz.trackers.local import LocalTracker
from tracker_viz.trackers.testing import write_captures

QUICK = (
    "layout=heads",
    "video.size=720p",
    "video.seconds_per_capture=0.1",
    "video.hold_s=0.1",
    "video.key_frames=0",
)


@pytest.fixture
def sweep(tmp_path):
    """(the parent's run, three finished runs below it with captures, one that failed before its
    first)."""
    tracker = LocalTracker(tmp_path / "o'sweeps, of mine")
    parent = tracker.create_run(name="sweep", config={})
    runs = []
    for seed in range(3):
        runs.append(
            tracker.create_run(name=f"seed {seed}", config={"seed": seed}, parent=parent.ref)
        )
        runs[-1].put_captures(write_captures([0, 10, 20], tmp_path / f"taken-{seed}", seed=seed))
        runs[-1].finish("finished")
    broken = tracker.create_run(name="broken", config={"seed": 3}, parent=parent.ref)
    broken.finish("failed")
    return parent, runs, broken


def plays(path):
    return cv2.VideoCapture(str(path)).read()[0]


def named(parent):
    quoted = str(parent.ref).replace("'", "\\'")
    return f"sweep='{quoted}'"


def command_line(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""


def remove(broken):
    (broken.directory / "run.json").unlink()


def test_every_run_gets_its_video_and_the_run_above_them_the_page(tracker_viz, sweep):
    parent, runs, broken = sweep
    remove(broken)
    result = tracker_viz("render", named(parent), *QUICK)
    assert result.code == 0, result.err
    assert all(plays(run.directory / "heads.webm") for run in runs)
    assert [line.partition(": ")[0] for line in result.out.splitlines()[:3]] == [
        str(run.ref) for run in runs
    ]
    assert f"The videos of its runs, in step: {parent.url('in_step.html')}" in result.out
    page = (parent.directory / "in_step.html").read_text()
    assert all(f'seed={seed}"' in page for seed in range(3))
    assert list(Path.cwd().iterdir()) == []


def test_a_run_that_cannot_be_rendered_stops_no_other_and_is_named(tracker_viz, sweep):
    parent, runs, broken = sweep
    result = tracker_viz("render", named(parent), *QUICK)
    assert result.code == 1
    assert all(plays(run.directory / "heads.webm") for run in runs)
    assert f"{broken.ref} has no video: there is no capture to draw" in result.out
    assert "1 of 4 runs could not be rendered" in result.err
    assert (parent.directory / "in_step.html").is_file()


def test_a_sweep_is_rendered_into_a_directory_of_ones_own(tracker_viz, sweep):
    parent, runs, broken = sweep
    remove(broken)
    result = tracker_viz("render", named(parent), *QUICK, "upload=false", "output=mine")
    assert result.code == 0, result.err
    assert {path.relative_to("mine") for path in Path("mine").rglob("*.webm")} == {
        Path(run.directory.name, "heads.webm") for run in runs
    }
    assert not list(parent.directory.parent.rglob("*.webm"))
    assert not list(parent.directory.parent.rglob("*.html"))


def test_a_process_that_is_killed_ends_the_command_and_says_so(sweep, tmp_path):
    parent, _, _ = sweep
    command = [
        Path(sys.executable).with_name("tracker-viz"),
        "render",
        named(parent),
        *QUICK,
        "video.workers=1",
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as render:
        while not (
            drawing := [
                child
                for child in psutil.Process(render.pid).children()
                if "spawn_main" in command_line(child)
            ]
        ):
            assert render.poll() is None
            time.sleep(0.02)
        drawing[0].kill()
        _, err = render.communicate(timeout=240)
    assert render.returncode == 1
    assert "a process that drew a run was killed when 0 of 4 were done" in err
    assert "Traceback" not in err


def test_no_process_is_left_over_where_the_command_itself_is_killed(sweep, tmp_path):
    parent, _, _ = sweep
    command = [
        Path(sys.executable).with_name("tracker-viz"),
        "render",
        named(parent),
        *QUICK,
        "video.workers=2",
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as render:
        deadline = time.monotonic() + 60
        while not list(parent.directory.parent.rglob("heads.webm")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        below = psutil.Process(render.pid).children()
        render.kill()
    assert len(below) >= 2
    assert psutil.wait_procs(below, timeout=30)[1] == []


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_under_a_launcher_every_run_is_a_job_and_the_page_comes_last(tracker_viz, sweep, launcher):
    parent, runs, _ = sweep
    result = tracker_viz("render", "-m", named(parent), f"hydra/launcher={launcher}", *QUICK)
    assert result.code == 1
    assert "there is no capture to draw" in result.err
    assert all(plays(run.directory / "heads.webm") for run in runs)
    assert f"in step: {parent.url('in_step.html')}" in result.out
    assert (parent.directory / "in_step.html").stat().st_mtime >= max(
        (run.directory / "heads.webm").stat().st_mtime for run in runs
    )


def test_a_run_that_is_no_sweep_and_a_wrong_option_are_refused(tracker_viz, sweep, tmp_path):
    parent, _, _ = sweep
    alone = LocalTracker(tmp_path / "more").create_run(name="alone", config={})
    assert (
        "has no runs below it; give the parent run of a sweep"
        in tracker_viz("render", f"sweep={alone.ref}").err
    )
    result = tracker_viz("render", f"sweep={alone.ref}", "format=film")
    assert result.code == 2
    result = tracker_viz("render", named(parent), "format=film")
    assert (result.code, "unknown format 'film'" in result.err) == (2, True)
    assert not list(parent.directory.parent.rglob("*.webm"))
