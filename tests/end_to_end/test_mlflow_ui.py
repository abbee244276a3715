"""Look at MLflow's own UI, in a real Chromium, from the links that we print."""

from __future__ import annotations

import json
import os
import time
import urllib.parse
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torch import nn

import tracker_viz as tv
from tracker_viz import trackers
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.pipeline import RenderResult, put_sweep_page, render
from tracker_viz.types import RunRef

pytestmark = pytest.mark.chromium

LOADED = "() => document.querySelector('video')?.readyState >= 2"
BOTH_LOADED = """() => {
  const videos = [...document.querySelectorAll('video')];
  return videos.filter(video => video.readyState >= 2).length == 2;
}"""
PLAY_AND_SEEK = """
async () => {
  const video = document.querySelector('video');
  video.muted = true;
  await video.play();
  const begun = video.currentTime;
  while (!video.error && video.currentTime < begun + 0.3) await new Promise(requestAnimationFrame);
  video.pause();
  const sought = new Promise(done => video.addEventListener('seeked', done, {once: true}));
  video.currentTime = video.duration / 2;
  await sought;
  const {currentTime: at, duration, error, videoWidth: width, videoHeight: height} = video;
  return {at, duration, error, width, height};
}
"""


PLAY_BOTH = """
async () => {
  const videos = [...document.querySelectorAll('video')];
  await Promise.all(videos.map(video => { video.muted = true; return video.play(); }));
  const isWaiting = video => !video.error && video.currentTime < 0.3;
  while (videos.some(isWaiting)) await new Promise(requestAnimationFrame);
  return videos.map(video => { video.pause(); return {error: video.error, top: video.offsetTop}; });
}
"""


@pytest.fixture(scope="module")
def rendered(mlflow_server, tmp_path_factory) -> list[tuple[RunRef, RenderResult]]:
    """Two small runs on the server, trained, captured and rendered for real."""
    directory = tmp_path_factory.mktemp("runs")
    options = {"mlflow": {"tracking_uri": mlflow_server.uri, "experiment": "in-the-ui"}}
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = Decoder(
            ModelConfig(
                n_blocks=2, n_heads=2, d_model=32, d_ffn=64, context_length=32, vocab_size=40
            )
        )
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        with tv.watch(
            model,
            run="mlflow",
            every=2,
            total_steps=16,
            max_overhead=float("inf"),
            name=f"seed {seed}",
            config={"seed": seed},
            spool=directory / f"spool-{seed}",
            tracker_options=options,
        ) as watcher:
            for step in range(16):
                batch = torch.randint(40, (4, 17))
                loss = nn.functional.cross_entropy(
                    model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                watcher.step(step, loss=loss)
        result = render(
            watcher.ref,
            video={"size": "720p", "hold_s": 1.0},
            cache=directory / "cache",
            tracker_options=options,
            progress=False,
        )
        made.append((watcher.ref, result))
    return made


def comes_true(page, holds) -> None:
    """The page moves while its parts load: what it looks like in the end is what counts."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return holds()
        except (AssertionError, TypeError):  # a box that is not there yet is None
            if time.monotonic() > deadline:
                raise
            page.wait_for_timeout(200)


def screenshot(page, name: str) -> None:
    """Kept for a person to look at, where one asks for it."""
    if directory := os.environ.get("TRACKER_VIZ_SCREENSHOTS"):
        page.screenshot(path=Path(directory) / f"{name}.png")


def test_the_link_opens_the_video_and_it_plays_and_seeks(rendered, page):
    _, result = rendered[0]
    page.goto(result.url)
    page.wait_for_function(LOADED, timeout=60_000)
    seen = page.evaluate(PLAY_AND_SEEK)
    screenshot(page, "artifact-page")
    assert seen["error"] is None
    assert (seen["width"], seen["height"]) == (1280, 720)
    assert seen["duration"] == pytest.approx(result.pictures[0].duration_s, abs=0.1)
    assert seen["at"] == pytest.approx(result.pictures[0].duration_s / 2, abs=0.1)


def test_the_video_that_says_its_last_step_plays_too(rendered, page):
    _, result = rendered[0]
    page.goto(
        result.url.replace(
            "artifacts/overview.webm", "artifacts/videos/overview/step_00000016.webm"
        )
    )
    page.wait_for_function(LOADED, timeout=60_000)
    assert page.evaluate(PLAY_AND_SEEK)["error"] is None


def test_two_runs_play_side_by_side_on_the_compare_page(rendered, page):
    refs = [ref for ref, _ in rendered]
    base, experiment = rendered[0][1].url.split("/#/experiments/")
    runs = urllib.parse.quote(json.dumps([ref.path for ref in refs]))
    experiments = urllib.parse.quote(json.dumps([experiment.split("/")[0]]))
    page.goto(f"{base}/#/compare-runs?runs={runs}&experiments={experiments}")
    # The page moves under the pointer while its sections load, so the click is sent to the element
    # itself.
    page.get_by_text("overview.webm").first.dispatch_event("click", timeout=60_000)
    page.wait_for_function(BOTH_LOADED, timeout=60_000)
    page.locator("video").first.scroll_into_view_if_needed()
    seen = page.evaluate(PLAY_BOTH)
    screenshot(page, "compare-page")
    assert [each["error"] for each in seen] == [None, None]
    assert seen[0]["top"] == seen[1]["top"]


def test_the_runs_overview_shows_the_animation_and_says_what_became_of_the_heads(
    rendered, page, tmp_path
):
    ref, result = rendered[1]
    base = result.url.split("/#/")[0]
    render(
        ref,
        format="gif",
        video={"size": "640x360"},
        cache=tmp_path,
        tracker_options={"mlflow": {"tracking_uri": base}},
        progress=False,
    )
    page.goto(result.url.split("/artifacts/")[0] + "?workflowType=machine_learning")
    image = page.locator("img[src*='get-artifact?path=overview.gif']")
    image.wait_for(timeout=60_000, state="attached")
    learned = page.get_by_text("of the 4 heads has taken a role").or_(
        page.get_by_text("above chance")
    )

    def the_beginning_is_seen_before_the_note_is_unfolded():
        unfold = page.get_by_text("Show more").first.bounding_box()
        assert image.bounding_box()["y"] + image.bounding_box()["height"] > unfold["y"]
        for shown in (
            page.get_by_role("link", name="Watch this model learn: overview"),
            page.get_by_role("link", name="every head's scores"),
            learned.first,
        ):
            assert shown.bounding_box()["y"] + shown.bounding_box()["height"] < unfold["y"]

    comes_true(page, the_beginning_is_seen_before_the_note_is_unfolded)
    screenshot(page, "run-overview-folded")
    page.get_by_text("Show more").first.click()
    page.wait_for_function(
        "() => document.querySelector(\"img[src*='overview.gif']\").naturalWidth > 100",
        timeout=60_000,
    )
    image.scroll_into_view_if_needed()
    screenshot(page, "run-overview")


def test_the_explorer_page_runs_in_the_artifact_viewers_sandbox(rendered, page, tmp_path):
    ref, result = rendered[1]
    base = result.url.split("/#/")[0]
    explorer = render(
        ref,
        format="html",
        video={"size": "640x360"},
        cache=tmp_path,
        tracker_options={"mlflow": {"tracking_uri": base}},
        progress=False,
    )
    page.goto(explorer.url)
    frame = page.frame_locator("iframe")
    frame.locator(".tracker-viz[data-ready=yes]").wait_for(timeout=60_000)
    step = frame.locator(".now b")
    frame.get_by_role("slider", name="training step").press("Home")
    assert step.inner_text() == "step 0"
    frame.get_by_role("slider", name="training step").press("End")
    assert step.inner_text() == "step 16"
    screenshot(page, "explorer")
    frame.locator(".tile").first.click()
    assert "L0H0" in frame.locator(".detail nav h2").inner_text()
    screenshot(page, "explorer-head")


def test_key_frames_stand_behind_a_step_slider(rendered, page):
    _, result = rendered[0]
    page.goto(result.url.split("/artifacts/")[0] + "/model-metrics?workflowType=machine_learning")
    page.get_by_placeholder("Search metric charts").fill("overview")
    slider = page.get_by_role("slider")
    slider.focus(timeout=60_000)
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    image = page.locator("img[src*='overview%2Bstep%2B4%2B']")
    image.click(timeout=60_000)
    # the small picture opens the whole one
    page.wait_for_function(
        "() => [...document.querySelectorAll('img')].some(image => image.naturalWidth == 1280)",
        timeout=60_000,
    )
    page.wait_for_timeout(600)  # it grows into place
    screenshot(page, "key-frames")


def test_charts_come_in_a_few_groups_of_their_own(rendered, page):
    _, result = rendered[0]
    page.goto(result.url.split("/artifacts/")[0] + "/model-metrics?workflowType=machine_learning")
    page.get_by_text("attn/induction", exact=True).wait_for(timeout=60_000)

    def they_are_few():
        groups = page.evaluate(
            "() => [...document.body.innerText.matchAll(/^(.+)\\s\\(\\d+\\)$/gm)].map(found => "
            "found[1].trim())"
        )
        assert {
            "attn",
            "attn/induction",
            "attn/previous_token",
            "specialisation",
            "weights",
        } <= set(groups)
        assert groups[0] == "_training", "the loss comes first"
        assert len(groups) <= 8, (
            "the loss, what all heads do, two scores by block, the weights, the probe's losses, "
            "the summary, and what has no prefix"
        )

    comes_true(page, they_are_few)
    screenshot(page, "charts")


def test_the_table_of_heads_is_shown_as_a_table(rendered, page):
    _, result = rendered[0]
    page.goto(result.url.replace("artifacts/overview.webm", "artifacts/tables/head_roles.json"))
    page.get_by_text("L01H01").first.wait_for(timeout=60_000)
    screenshot(page, "head-table")


SEEN = """
() => [...document.querySelectorAll('figure')].map(figure => {
  const video = figure.querySelector('video');
  const label = figure.querySelector('b').textContent;
  return {label, at: video.currentTime, seeking: video.seeking, error: video.error};
})
"""


def test_the_page_above_a_sweep_plays_its_runs_in_step(rendered, page):
    base = rendered[0][1].url.split("/#/")[0]
    tracker = trackers.connect("mlflow", tracking_uri=base, experiment="in-the-ui")
    parent = tracker.create_run(name="two seeds", config={})
    for ref, _ in rendered:
        MlflowClient(base).set_tag(ref.path, "mlflow.parentRunId", parent.ref.path)
        assert not parent.guards_files(ref, "overview.webm"), (
            "everybody sees it, so the page only says where it is"
        )
    page.goto(put_sweep_page(parent.ref, tracker_options={"mlflow": {"tracking_uri": base}}))
    viewer = page.frame_locator("iframe")
    viewer.locator("#slider").wait_for(timeout=60_000)
    (frame,) = (each for each in page.frames if each != page.main_frame)
    frame.wait_for_function(
        "() => [...document.querySelectorAll('video')].every(video => video.readyState >= 2)",
        timeout=60_000,
    )
    # Each film takes its time where its own run changes.
    moments = [dict(result.pictures[0].moments) for _, result in rendered]
    for index, step in ((5, 10), (2, 4), (8, 16)):
        viewer.locator("#slider").fill(str(index))
        viewer.get_by_text(f"step {step}", exact=True).wait_for(timeout=60_000)

        def both_show_it(step=step):
            seen = frame.evaluate(SEEN)
            assert [each["label"] for each in seen] == ["seed 0 · seed=0", "seed 1 · seed=1"]
            assert [each["error"] for each in seen] == [None, None]
            assert [each["seeking"] for each in seen] == [False, False]
            assert [each["at"] for each in seen] == pytest.approx(
                [each[step] for each in moments], abs=0.03
            )

        comes_true(page, both_show_it)
    screenshot(page, "in-step")
    assert (
        viewer.locator("#slider").bounding_box()["width"] > 400
    )  # though the viewer of artifacts is narrow
    assert not viewer.locator("#layout").is_visible()
    viewer.locator("#play").click()  # at the end, so it begins anew
    frame.wait_for_function(
        "() => 0 < Number(slider.value) && Number(slider.value) < 8", timeout=60_000
    )
