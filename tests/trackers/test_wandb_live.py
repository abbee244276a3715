"""Against the real W&B service, for what a stand-in cannot know: whether it merges configs, takes equal versions for one, and plays videos.

    WANDB_API_KEY=... python -m pytest -m live -s tests/trackers/test_wandb_live.py

Makes one run in the project ``tracker_viz-live`` (``WANDB_PROJECT`` chooses another) of the key's account, and leaves it there to be
looked at.
"""

from __future__ import annotations

import os
from uuid import uuid4

import pytest

from tracker_viz.trackers.base import MetricPoint
from tracker_viz.trackers.testing import write_captures

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get("WANDB_API_KEY"), reason="needs WANDB_API_KEY, of an account that may get a small run"),
]


@pytest.fixture
def asked_for(request):
    """An API key in the environment is no wish to have runs made in one's account."""
    if "live" not in request.config.getoption("-m"):
        pytest.skip("makes a run in a real account: ask for it with -m live")


def test_the_real_service_keeps_the_contract(asked_for, tmp_path):
    import cv2
    import numpy as np

    from tracker_viz.trackers.wandb import WandbTracker

    tracker = WandbTracker(project=os.environ.get("WANDB_PROJECT", "tracker_viz-live"))
    run = tracker.create_run(name="live test", config={"lr": 0.1, "model": {"d": 8}}, tags={"made-by": "tests"}, key=uuid4().hex)
    print("\nlook at", run.url())
    captures = write_captures(list(range(12)), tmp_path / "source", size=64)
    run.put_captures(captures[:6])
    run.put_captures(captures[:6])
    run.put_captures(captures[6:])
    run.log_metrics([MetricPoint(step, {"loss": 1 / (1 + step), "attn/induction_max": step / 12}) for step in range(0, 120, 10)])
    run.set_summary({"induction": 0.5})
    (tmp_path / "page.html").write_text("<script>document.body.textContent = 'scripts run here'</script>")
    run.put_file(tmp_path / "page.html", "reports/page.html")
    assert [ref.step for ref in tracker.open_run(run.ref).list_captures()] == list(range(12))  # a preview
    run.finish("failed")

    service = tracker._service
    before = service.fetch_run(run.ref)
    assert before.state == "failed"
    versions = {artifact.id for artifact in before.logged_artifacts() if artifact.type == "tracker-viz-capture"}
    assert len(versions) == 2, "a chunk that is put again must not become another version"
    for n_frames in (20, 40):
        video = tmp_path / "heads.webm"
        writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"VP80"), 10, (320, 240))
        for frame in range(n_frames):
            writer.write(np.full((240, 320, 3), (frame * 255 // n_frames, 80, 160), np.uint8))
        writer.release()
        tracker.open_run(run.ref).put_video(video, layout="heads", last_step=110)
    after = service.fetch_run(run.ref)
    assert after.state == before.state
    assert dict(after.config) == dict(before.config)
    assert after.rawconfig["_wandb"]["m"][: len(before.rawconfig["_wandb"]["m"])] == before.rawconfig["_wandb"]["m"]
    for name in ("name", "group", "job_type", "tags", "notes", "metadata"):
        assert getattr(after, name) == getattr(before, name), name
    changed = {key for key, value in after.summary_metrics.items() if before.summary_metrics.get(key) != value}
    assert changed == {"tracker_viz/heads", "tracker_viz/render", "_step"}
    assert [row["tracker_viz/render"] for row in after.scan_history() if row.get("tracker_viz/render")] == [1, 2, 3]  # the page, two videos

    opened = WandbTracker().open_run(run.ref)
    for capture in captures:
        assert opened.fetch(capture.ref, tmp_path / "back").read_bytes() == capture.path.read_bytes()
    assert opened.get_file("reports/page.html", tmp_path / "back").read_text() == (tmp_path / "page.html").read_text()
    print("now see with your own eyes: the panel tracker_viz/heads plays, and steps between two versions; the panel tracker_viz/page")
    print("runs its script; loss and attn/induction_max have tracker_viz/step, 0 to 110, as their horizontal axis")
