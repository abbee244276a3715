"""Against the real W&B service, for what a stand-in cannot know: whether it merges configs, takes
equal versions for one, filters by group, keeps a finished run's state when its inputs are linked,
and shows rows at once; and what only eyes can see.

    WANDB_API_KEY=... python -m pytest -m live -s tests/trackers/test_wandb_live.py

Makes five runs in the project ``tracker_viz-live`` (``WANDB_PROJECT`` chooses another) of the key's
account, and leaves them there to be looked at. The whole suite runs the same against the stand-in,
so that it works on the day when somebody has a key.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from wandb_server import WandbServer

from tracker_viz.trackers.testing import write_captures
from tracker_viz.trackers.values import MetricPoint
from tracker_viz.types import RunRef

TYPE = "tracker-viz-capture"


def live(test):
    needs_key = pytest.mark.skipif(
        not os.environ.get("WANDB_API_KEY"),
        reason="needs WANDB_API_KEY, of an account that may get small runs",
    )
    return pytest.mark.live(needs_key(test))


@pytest.fixture
def tracker(request):
    """An API key in the environment is no wish to have runs made in one's account."""
    if "live" not in request.config.getoption("-m"):
        pytest.skip("makes runs in a real account: ask for it with -m live")
    from tracker_viz.trackers.wandb.tracker import WandbTracker

    return WandbTracker(project=os.environ.get("WANDB_PROJECT", "tracker_viz-live"))


def write_video(path, n_frames):
    import cv2
    import numpy as np

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"VP80"), 10, (320, 240))
    for frame in range(n_frames):
        writer.write(np.full((240, 320, 3), (frame * 255 // n_frames, 80, 160), np.uint8))
    writer.release()
    return path


def write_picture(path, shade):
    """A still one; as WebP and GIF a moving one."""
    from PIL import Image

    first, *rest = (Image.new("RGB", (320, 240), (shade, turn * 60, 120)) for turn in range(4))
    first.save(
        path,
        **(
            {}
            if path.suffix == ".png"
            else {"save_all": True, "append_images": rest, "duration": 300, "loop": 0}
        ),
    )
    return path


@live
def test_the_real_service_keeps_the_contract(tracker, tmp_path):
    run = tracker.create_run(
        name="live test",
        config={"lr": 0.1, "model": {"d": 8}},
        tags={"made-by": "tests"},
        key=uuid4().hex,
    )
    print("\nlook at", run.url())
    captures = write_captures(list(range(12)), tmp_path / "source", size=64)
    run.put_captures(captures[:6])
    run.put_captures(captures[:6])
    run.put_captures(captures[6:])
    run.log_metrics(
        [
            MetricPoint(step, {"loss": 1 / (1 + step), "attn/induction_max": step / 12})
            for step in range(0, 120, 10)
        ]
    )
    run.set_summary({"induction": 0.5})
    (tmp_path / "page.html").write_text(
        "<script>document.body.textContent = 'scripts run here'</script>"
    )
    run.put_file(tmp_path / "page.html", "reports/page.html")
    assert [ref.step for ref in tracker.open_run(run.ref).list_captures()] == list(
        range(12)
    )  # a preview
    run.finish("failed")

    service = tracker._service
    before = service.fetch_run(run.ref)
    assert before.state == "failed"
    versions = {artifact.id for artifact in before.logged_artifacts() if artifact.type == TYPE}
    assert len(versions) == 2, "a chunk that is put again must not become another version"
    for n_frames in (20, 40):
        tracker.open_run(run.ref).put_video(
            write_video(tmp_path / "heads.webm", n_frames), layout="heads", last_step=110
        )
    for suffix in ("png", "webp", "gif"):
        tracker.open_run(run.ref).put_file(
            write_picture(tmp_path / f"heads.{suffix}", 40), f"heads.{suffix}"
        )
    rows = [
        {"head": "L0H0", "role": None, "score": 0.25, "onset": None},
        {"head": "L1H0", "role": "induction", "score": 0.9, "onset": 60},
    ]
    for n_rows in (1, 2):
        tracker.open_run(run.ref).put_table(rows[:n_rows], "head_roles")
    frames = [
        (step, write_picture(tmp_path / f"frame-{step}.png", 2 * step))
        for step in range(0, 120, 30)
    ]
    for _ in range(2):
        tracker.open_run(run.ref).put_key_frames(frames, "heads")

    after = service.fetch_run(run.ref)
    assert after.state == before.state
    assert dict(after.config) == dict(before.config)
    assert (
        after.rawconfig["_wandb"]["m"][: len(before.rawconfig["_wandb"]["m"])]
        == before.rawconfig["_wandb"]["m"]
    )
    for name in ("name", "group", "job_type", "tags", "notes", "metadata"):
        assert getattr(after, name) == getattr(before, name), name
    changed = {
        key
        for key, value in after.summary_metrics.items()
        if before.summary_metrics.get(key) != value
    }
    ours = {
        "heads",
        "heads_png",
        "heads_webp",
        "heads_gif",
        "tables/head_roles",
        "frames/heads",
        "render",
        "step",
    }
    assert changed - {"_step"} <= {f"tracker_viz/{name}" for name in ours}
    history = list(after.scan_history())
    # The page, two videos, three pictures, two tables.
    assert [row["tracker_viz/render"] for row in history if row.get("tracker_viz/render")] == list(
        range(1, 9)
    )
    assert [row["tracker_viz/step"] for row in history if row.get("tracker_viz/frames/heads")] == [
        0,
        30,
        60,
        90,
    ], "put twice, shown once"

    opened = tracker.open_run(run.ref)
    for capture in captures:
        assert (
            opened.fetch(capture.ref, tmp_path / "back").read_bytes() == capture.path.read_bytes()
        )
    assert (
        opened.get_file("reports/page.html", tmp_path / "back").read_text()
        == (tmp_path / "page.html").read_text()
    )
    print("now see with your own eyes, in the section tracker_viz of that run:")
    print(
        "  heads plays, and steps between two versions; heads_png, heads_webp and heads_gif show, "
        "the last two moving"
    )
    print(
        "  reports/page_html runs its script; tables/head_roles has two rows, its scores and "
        "onsets sort as numbers"
    )
    print(
        "  frames/heads steps through four pictures; set the stepper's metric to tracker_viz/step, "
        "and it says 0 to 90"
    )
    print("  loss and attn/induction_max have tracker_viz/step, 0 to 110, as their horizontal axis")


@live
def test_the_real_service_keeps_a_sweep_together(tracker, tmp_path):
    parent = tracker.create_run(name="live sweep", config={})
    print("\nlook at", parent.url())
    children = []
    for seed in range(2):
        run = tracker.create_run(name=f"seed {seed}", config={"seed": seed}, parent=parent.ref)
        run.put_captures(write_captures([0, 1], tmp_path / f"source-{seed}", seed=seed))
        run.finish("finished" if seed else "failed")
        children.append(run.ref)
    parent.finish("finished")
    sweep = tracker.open_run(parent.ref)
    assert {ref.path for ref in sweep.children()} == {ref.path for ref in children}

    elsewhere = RunRef("mlflow", "0" * 32)
    for n_frames in (20, 40):
        results = tracker.open_run(parent.ref).results_run()
        results.put_table(
            [{"run": f"seed {seed}", "onset": 60 + seed} for seed in range(2)], "compare"
        )
        results.put_video(
            write_video(tmp_path / "compare.webm", n_frames), layout="compare", last_step=1
        )
        results.link_inputs([*children, elsewhere])
        results.finish("finished")
    tracker.open_run(results.ref).link_inputs(
        [*children, elsewhere]
    )  # after its end, and once more
    shown = tracker._service.fetch_run(results.ref)
    captures = {
        artifact.id
        for ref in children
        for artifact in tracker._service.fetch_run(ref).logged_artifacts()
        if artifact.type == TYPE
    }
    assert [artifact.id for artifact in shown.used_artifacts()] == list(
        dict.fromkeys(artifact.id for artifact in shown.used_artifacts())
    )
    assert {artifact.id for artifact in shown.used_artifacts()} == captures
    assert shown.config["tracker_viz"]["inputs"] == [str(elsewhere)]
    assert (shown.state, shown.group, shown.job_type) == (
        "finished",
        parent.ref.path.split("/")[-1],
        "compare",
    )
    assert {ref.path for ref in sweep.children()} == {ref.path for ref in children}
    assert [tracker.open_run(ref).info().state for ref in children] == ["failed", "finished"]
    print(
        "now see with your own eyes: the project's table of runs, grouped by Group, holds two "
        "trials and one compare together;"
    )
    print(
        "  the run",
        results.url(),
        "shows its video and its table, and its artifacts' lineage leads to the two trials",
    )


def test_what_would_be_asked_of_the_real_service_works(tmp_path):
    with WandbServer() as server:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        (tmp_path / "home").mkdir()
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "live",
            "-q",
            "-p",
            "no:cacheprovider",
            __file__,
        ]
        done = subprocess.run(
            command,
            cwd=Path(__file__).parents[2],
            env=clean | server.environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert "2 passed" in done.stdout, done.stdout + done.stderr
        assert server.refused == []
        assert len(server.runs) == 5
