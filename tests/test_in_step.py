"""The page that plays a sweep's videos in step: which videos it shows, under which names, from
where."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tracker_viz.pipeline import put_sweep_page
from tracker_viz.pipeline.results import in_step
from tracker_viz.pipeline.results.in_step import timeline_artifact, timeline_text
from tracker_viz.trackers.local import LocalRun, LocalTracker


@pytest.fixture
def sweep(tmp_path):
    """(the parent's run, ``add(seed=..., layouts=...)``: a run below it)."""
    tracker = LocalTracker(tmp_path / "multirun")
    parent = tracker.create_run(name="two & more <seeds>", config={})
    (tmp_path / "video.webm").write_bytes(b"\x1aE\xdf\xa3")

    def add(layouts=("overview",), steps=(0, 5), parent=parent, **config):
        run = tracker.create_run(name="a job", config=config, parent=parent.ref)
        for layout in layouts:
            run.put_video(tmp_path / "video.webm", layout=layout, last_step=steps[-1])
            (tmp_path / "timeline.json").write_text(
                timeline_text(f"{layout}.webm", [(step, step / 10) for step in steps])
            )
            run.put_file(tmp_path / "timeline.json", timeline_artifact(layout))
        return run

    return parent, add


def shown(parent):
    """layout -> [(label, the file that is played, steps)], as the page has them."""
    text = (parent.directory / "in_step.html").read_text()
    (described,) = re.findall(
        r'<script type="application/json" id="description">(.*)</script>', text
    )
    return {
        layout: [
            (each["label"], (parent.directory / each["source"]).resolve(), each["steps"])
            for each in players
        ]
        for layout, players in json.loads(described)["videos"].items()
    }


def test_the_videos_of_a_sweep_stand_in_order_of_its_settings_by_relative_links(sweep, tmp_path):
    parent, add = sweep
    runs = {n_heads: add(model={"n_heads": n_heads}, steps=(0, n_heads)) for n_heads in (16, 4, 8)}
    page = put_sweep_page(parent.ref)
    assert page == (parent.directory / "in_step.html").as_uri()
    assert shown(parent) == {
        "overview": [
            (f"a job · n_heads={n_heads}", runs[n_heads].directory / "overview.webm", [0, n_heads])
            for n_heads in (4, 8, 16)
        ]
    }
    moved = (tmp_path / "multirun").rename(tmp_path / "elsewhere")
    parent = LocalTracker().open_run(
        parent.ref.__class__("local", str(moved / parent.directory.name))
    )
    assert all(played.is_file() for _, played, _ in shown(parent)["overview"])


def test_every_layout_that_two_runs_have_is_on_the_page_and_a_run_without_it_is_not(sweep):
    parent, add = sweep
    add(["heads", "mine"], seed=0)
    add(["heads", "overview"], seed=1)
    add(["heads", "overview"], seed=2)
    add([], seed=3)
    put_sweep_page(parent.ref)
    found = {
        layout: [label for label, _, _ in players] for layout, players in shown(parent).items()
    }
    assert found == {
        "heads": [f"a job · seed={seed}" for seed in (0, 1, 2)],
        "overview": [f"a job · seed={seed}" for seed in (1, 2)],
    }


def test_there_is_no_page_for_fewer_than_two_videos(sweep):
    parent, add = sweep
    assert put_sweep_page(parent.ref) is None
    add(seed=0)
    assert put_sweep_page(parent.ref) is None
    add(["heads"], seed=1)
    assert put_sweep_page(parent.ref) is None
    assert not (parent.directory / "in_step.html").exists()


@pytest.mark.parametrize(
    "timeline", ["no json", "[]", '{"video": "../../x.webm", "steps": [0], "starts_s": [0]}', "{}"]
)
def test_a_video_that_does_not_say_its_steps_is_left_out(sweep, timeline):
    parent, add = sweep
    add(seed=0)
    add(seed=1)
    damaged = add(seed=2)
    Path(damaged.directory / timeline_artifact("overview")).write_text(timeline)
    put_sweep_page(parent.ref)
    labels = [label for label, _, _ in shown(parent)["overview"]]
    assert labels == ["a job · seed=0", "a job · seed=1"]


def test_names_cannot_break_out_of_the_page(sweep):
    parent, add = sweep
    for seed in (0, 1):
        add(seed=seed, data=f"</script><img src=x onerror=alert({seed})>")
    put_sweep_page(parent.ref)
    text = (parent.directory / "in_step.html").read_text()
    assert "<img" not in text
    assert "<title>two &amp; more &lt;seeds&gt;</title>" in text
    assert all("</script><img" in label for label, _, _ in shown(parent)["overview"])


def test_what_a_comparison_found_stands_on_the_page_as_text(sweep):
    parent, add = sweep
    runs = [add(seed=seed) for seed in (0, 1)]
    labels = {str(run.ref): f"seed={seed}" for seed, run in enumerate(runs)}
    finding = "induction formed in 5 of 6 seeds, median step 480 (460 to 633) </script><img>"
    in_step.put_in_step_page(parent, runs, labels, title="a sweep", findings=[finding])
    text = (parent.directory / "in_step.html").read_text()
    (described,) = re.findall(
        r'<script type="application/json" id="description">(.*)</script>', text
    )
    assert json.loads(described)["findings"] == [finding]
    assert "<img" not in text


def test_videos_that_are_guarded_are_part_of_the_page_while_it_stays_small_enough_to_be_shown(
    sweep, monkeypatch, caplog
):
    parent, add = sweep
    for seed in (0, 1):
        add(["heads", "overview"], seed=seed)
    monkeypatch.setattr(LocalRun, "guards_files", lambda *_: True)
    put_sweep_page(parent.ref)
    page = (parent.directory / "in_step.html").read_text()
    assert page.count("data:video/webm;base64,GkXfow==") == 4
    monkeypatch.setattr(in_step, "MAX_PAGE_BYTES", 2 * len("data:video/webm;base64,GkXfow=="))
    put_sweep_page(parent.ref)
    page = (parent.directory / "in_step.html").read_text()
    assert page.count("data:video/webm;base64,GkXfow==") == 2
    assert "leaves out 'overview'" in caplog.text
