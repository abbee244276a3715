"""The command ``tracker-viz``: what it says of itself and of what was mistyped, and that it leaves
nothing lying about."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import yaml

from tracker_viz import __version__, capture_file, trackers
from tracker_viz.delivery import Destination, Outbox
from tracker_viz.jobs import JOBS
from tracker_viz.rendering import LAYOUTS
from tracker_viz.rendering.layout import PANELS
from tracker_viz.trackers.local import LocalTracker
from tracker_viz.trackers.testing import make_capture, write_captures
from tracker_viz.types import CapturePath, RunRef

QUICK = ("layout=heads", "video.size=720p", "video.seconds_per_capture=0.1", "video.hold_s=0.1")


@pytest.mark.parametrize("word", ["--help", "help", "-h"])
def test_help_lists_every_command(tracker_viz, word):
    result = tracker_viz(word)
    assert result.code == 0
    assert all(f"  {job} " in result.out for job in JOBS)


def test_without_a_command_it_says_how_to_call_it(tracker_viz):
    result = tracker_viz()
    assert result.code == 2
    assert "tracker-viz <command>" in result.out


def test_an_unknown_command_suggests_the_near_one(tracker_viz):
    result = tracker_viz("rendr", "run=local:x")
    assert result.code == 1
    assert "unknown command 'rendr'; did you mean 'render'?" in result.err


def test_the_version_is_the_packages(tracker_viz):
    assert tracker_viz("--version").out == f"tracker-viz {__version__}\n"


@pytest.mark.parametrize("job", JOBS)
def test_every_command_has_a_module_and_help_that_explains_each_of_its_keys(
    tracker_viz, monkeypatch, job
):
    monkeypatch.setenv("COLUMNS", "120")
    assert callable(importlib.import_module(f"tracker_viz.jobs.{job}").main)
    result = tracker_viz(job, "--help")
    assert result.code == 0
    assert f"tracker-viz {job} " in result.out
    composed = yaml.safe_load(tracker_viz(job, "--cfg", "job").out)
    for key, value in composed.items():
        if not isinstance(value, dict) or not value:
            (line,) = [line for line in result.out.splitlines() if line.startswith(f"  {key}=")]
            assert len(line.split(maxsplit=1)) == 2, f"{key} has no meaning"
    assert "hydra" not in result.out.replace("hydra/launcher", "")


def test_render_makes_the_video_in_the_run_and_leaves_nothing_in_the_working_directory(
    tracker_viz, run
):
    result = tracker_viz("render", f"run={run.ref}", *QUICK)
    assert result.code == 0, result.err
    assert f"Watch it in the run: {run.url('heads.webm')}" in result.out
    assert cv2.VideoCapture(str(run.directory / "heads.webm")).read()[0]
    assert list(Path.cwd().iterdir()) == []


def test_render_can_leave_the_run_alone_and_write_where_it_is_told(tracker_viz, run):
    result = tracker_viz("render", f"run={run.ref}", *QUICK, "upload=false", "output=mine.webm")
    assert result.code == 0, result.err
    assert "Watch it" not in result.out
    assert [path.name for path in Path.cwd().iterdir()] == ["mine.webm"]
    assert not list(run.directory.glob("*.webm"))


def test_a_layout_of_ones_own_is_found_in_the_folder_that_was_named(tracker_viz, run, tmp_path):
    mine = tmp_path / "conf" / "layout" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("name: mine\npanels: [{panel: attention}]\n")
    options = ("layout=mine", "video.size=720p", "upload=false", "format=poster", "output=mine")
    result = tracker_viz(
        "render", "--config-dir", str(tmp_path / "conf"), f"run={run.ref}", *options
    )
    assert result.code == 0, result.err
    assert Path("mine.png").stat().st_size > 1000


def test_the_help_of_render_says_what_each_layout_shows_and_what_a_panel_takes(
    tracker_viz, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "120")
    text = tracker_viz("render", "--help").out
    for name in LAYOUTS:
        assert re.search(rf"^  {name} +[A-Z]", text, re.MULTILINE), name
    for name, panel in PANELS.items():
        section = text[text.index(f"of a panel {name} (") :].split("\n\n")[0]
        options = set(panel.model_fields) - {"panel"}
        assert {word.split("=")[0].strip() for word in section.splitlines()} >= options
    assert "[dark | light]" in " ".join(text.split())
    assert "model" not in [line.split("=")[0] for line in text.splitlines()], "a group of train.py"


@pytest.mark.parametrize(
    "place", ["{folder}/mine.yaml", "folder/my own, layout.yml", "~/mine.yaml"]
)
def test_a_layout_of_ones_own_is_named_by_its_path(tracker_viz, run, tmp_path, monkeypatch, place):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    typed = place.format(folder=tmp_path)
    path = Path(typed).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("panels: [{panel: attention, probe: 0}]")
    result = tracker_viz(
        "render", f"run={run.ref}", f"layout={typed}", "layout.timeline=false", *QUICK[1:]
    )
    assert result.code == 0, result.err
    assert (run.directory / f"{path.stem}.webm").is_file(), "named like the file"


def test_files_are_options_of_every_group_also_among_others_and_with_a_shipped_name(
    tracker_viz, run
):
    Path("heads.yaml").write_text("name: mine\npanels: [{panel: attention}]")
    Path("quick.yaml").write_text(
        "defaults: [default]\nsize: 640x360\nseconds_per_capture: 0.1\nhold_s: 0.1\n"
    )
    result = tracker_viz(
        "render", "-m", f"run={run.ref}", "layout=heads,heads.yaml", "video=quick.yaml"
    )
    assert result.code == 0, result.err
    assert {path.name for path in run.directory.glob("*.webm")} == {"heads.webm", "mine.webm"}
    assert cv2.VideoCapture(str(run.directory / "mine.webm")).get(cv2.CAP_PROP_FRAME_WIDTH) == 640


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, f"no such file; layout is one of {', '.join(sorted(LAYOUTS))}, or a file"),
        ("panels: [{panel: attention", "layout=mine.yaml cannot be read: while parsing a flow"),
        ("- panel: attention", "layout=mine.yaml must be a mapping of options to values"),
        ("panel: attention", "unknown option of layout 'panel'; did you mean 'panels'?"),
        (b"\xff\xfe", "layout=mine.yaml cannot be read: 'utf-8' codec"),
    ],
)
def test_a_file_that_is_no_layout_is_told_in_one_line(tracker_viz, run, text, message):
    if text is not None:
        Path("mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    result = tracker_viz("render", f"run={run.ref}", "layout=mine.yaml", "upload=false")
    assert (result.code, message in result.err, len(result.err.splitlines())) == (2, True, 1), (
        result.err
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: mine\npanels: [{panel: attention\n",
            "expected ',' or '}'",
        ),
        ("pannels: [{panel: attention}]\n", "unknown option of layout 'pannels'"),
    ],
)
def test_a_layout_that_is_no_layout_is_told_without_a_traceback(
    tracker_viz, run, tmp_path, text, message
):
    mine = tmp_path / "conf" / "layout" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(text)
    result = tracker_viz(
        "render",
        "--config-dir",
        str(tmp_path / "conf"),
        f"run={run.ref}",
        "layout=mine",
        "upload=false",
    )
    assert (result.code, message in result.err, "Traceback" in result.err) == (2, True, False), (
        result.err
    )


def test_render_of_several_runs_is_a_multirun(tracker_viz, run):
    again = run.directory.with_name("again")
    run.directory.rename(again)
    again_ref = RunRef("local", str(again))
    result = tracker_viz("render", "-m", f"run={again_ref}", *QUICK[:-1], "video.hold_s=0.1,0.2")
    assert result.code == 0, result.err
    assert result.out.count("Watch it in the run") == 2
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["render"],
            2,
            "give run=<RunRef>, or sweep=<RunRef of the parent> for all runs of a sweep; got none",
        ),
        (["render", "run=local:a", "sweep=local:b"], 2, "got both"),
        (["render", "-m", "sweep=local:nowhere"], 1, "is not a run: expected a directory"),
        (["render", "run=demo"], 2, "a run must look like one of mlflow:<run_id>"),
        (["render", "run=local:nowhere"], 1, "is not a run: expected a directory"),
        (
            ["render", "run=local:nowhere", "layout=haeds"],
            2,
            "unknown layout 'haeds'; did you mean 'heads'",
        ),
        (
            ["render", "run=local:nowhere", "vidoe.size=4k"],
            2,
            "unknown option 'vidoe'; did you mean 'video'",
        ),
        (
            ["render", "run=local:nowhere", "layout.scales.score.cmap=mako"],
            2,
            "'+layout.scales.score=...'",
        ),
        (["render", "run=local:nowhere", "tracking_uri=sqlite:///x.db"], 2, "tracking_uri"),
        (
            ["render", "run=local:nowhere", "layout.panels.0.panel=atention"],
            2,
            "layout.panels.0: unknown panel 'atention'; did you mean",
        ),
        (
            ["render", "run=local:nowhere", "hydra/launcher=ray"],
            2,
            "not installed: pip install hydra-ray-launcher",
        ),
        (
            ["render", "run=local:/tmp/jürgen"],
            2,
            """needs quotes: "run='local:/tmp/jürgen'\"""",
        ),
        (["push"], 2, "spool has no value yet"),
        (
            ["push", "spool=nowhere"],
            2,
            "spool must be a directory with a run.json that training wrote",
        ),
        (["ui"], 2, "no run was trained from"),
        (["ui", "port=0"], 2, "port must be a whole number from 1 to 65535; got 0"),
        (["doctor", "timeout=1"], 2, "unknown option 'timeout'; did you mean 'timeout_s'"),
    ],
)
def test_mistakes_end_with_one_helpful_message(tracker_viz, words, code, message):
    result = tracker_viz(*words)
    assert (result.code, message in result.err) == (code, True), result.err
    assert len(result.err.splitlines()) == 1, result.err
    assert list(Path.cwd().iterdir()) == []


def test_a_directory_of_captures_without_their_index_says_so(tracker_viz, tmp_path):
    captures = tmp_path / "copied" / "captures"
    write_captures([0, 10], captures)
    result = tracker_viz("render", f"run=local:{captures}", "upload=false")
    assert (result.code, "use its parent directory" in result.err) == (1, True), result.err
    result = tracker_viz("render", f"run=local:{captures.parent}", "upload=false")
    assert result.err == (
        "there is no capture to draw: its captures/ has 2 files and no index of them; "
        "captures/index/ belongs to them, copy it too from where they were written\n"
    )


def test_a_misspelled_metric_among_many_is_told_in_a_short_line(tracker_viz, run, tmp_path):
    made = LocalTracker(tmp_path / "runs").create_run(name="many", config={})
    metrics = {f"heads/block_{index:03}/specialisation": 0.5 for index in range(110)}
    taken = replace(make_capture(0), metrics={"loss": 1.0, **metrics})
    path = tmp_path / taken.file_name
    made.put_captures([CapturePath(capture_file.write(taken, path), path)])
    result = tracker_viz("render", f"run={made.ref}", "layout.metric=los", "upload=false")
    assert result.code == 1
    assert "did you mean 'loss'?" in result.err
    assert "... (111 in all)" in result.err
    assert len(result.err) < 600


def test_push_of_a_spool_that_is_the_run_leads_to_its_video(tracker_viz, tmp_path):
    with Outbox(tmp_path / "spool", name="local") as outbox:
        outbox.submit(make_capture(0))
    result = tracker_viz("push", f"spool={tmp_path}/spool")
    assert result.code == 0
    assert result.out.endswith(f"  tracker-viz render run=local:{tmp_path}/spool\n")


def test_one_capture_is_named_in_the_singular(tracker_viz, tmp_path):
    with Outbox(tmp_path / "spool", name="local") as outbox:
        outbox.submit(make_capture(0))
    result = tracker_viz("render", f"run={outbox.run.ref}", "layout=heads", "format=poster")
    assert result.out.startswith("Made of 1 capture: ")


def test_push_delivers_what_a_crashed_run_left(tracker_viz, tmp_path):
    outbox = Outbox(
        tmp_path / "spool",
        [Destination("local", {"directory": str(tmp_path / "runs")})],
        name="crashed",
    )
    in_the_way = tmp_path / "runs" / "crashed" / "captures"
    in_the_way.write_text("a file where the captures' directory will be")
    for step in (0, 5):
        outbox.submit(make_capture(step))
    assert not outbox.close("failed", timeout_s=0.1).complete

    result = tracker_viz("push", f"spool={tmp_path}/spool", "timeout_s=0.2")
    assert result.code == 1
    assert "2 still to go" in result.out
    # Hydra logs to standard output.
    lines = (result.out + result.err).splitlines()
    assert sum("Not a directory" in line for line in lines) == 1, "why, once"
    assert sum("tracker-viz push" in line for line in lines) == 1
    assert len(lines) == 3
    in_the_way.unlink()
    result = tracker_viz("push", f"spool={tmp_path}/spool")
    assert result.code == 0, result.err
    assert "2, all of them" in result.out
    assert [
        ref.step
        for ref in trackers.open_run(RunRef("local", str(in_the_way.parent))).list_captures()
    ] == [0, 5]
