"""The video as a viewer meets it: played and sought in a real Chromium, its pictures compared with
the pixels that were drawn."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from tracker_viz.video import write_video

pytestmark = pytest.mark.chromium

PAGE = """
<video id=v muted></video>
<script>
const v = document.getElementById('v');
const until = (name) => new Promise((resolve, reject) => {
  v.addEventListener(name, resolve, {once: true});
  v.addEventListener('error', () => reject(new Error('media error ' + v.error.code)), {once: true});
});
async function load(base64, type) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  v.src = URL.createObjectURL(new Blob([bytes], {type}));
  await until('loadeddata');
  return {duration: v.duration, width: v.videoWidth, height: v.videoHeight};
}
async function seek(time) {
  const done = until('seeked');
  v.currentTime = time;
  await done;
}
function shown() {
  const c = document.createElement('canvas');
  c.width = v.videoWidth; c.height = v.videoHeight;
  const g = c.getContext('2d');
  g.drawImage(v, 0, 0);
  const pixels = g.getImageData(0, 0, c.width, c.height).data;
  let text = '';
  for (let i = 0; i < pixels.length; i += 32768)
    text += String.fromCharCode(...pixels.subarray(i, i + 32768));
  return btoa(text);
}
async function playToTheEnd() {
  v.currentTime = 0;
  v.playbackRate = 4;
  const ended = until('ended');
  await v.play();
  await ended;
  return v.currentTime;
}
</script>
"""


@pytest.fixture
def player(page):
    page.set_content(PAGE)
    return page


def pictures(n_frames, width=320, height=192, cell=8, seed=0):
    """Cells of random colors, all new in every picture, so that a picture taken for another is far
    off."""
    rng = np.random.default_rng(seed)
    small = rng.integers(40, 216, (n_frames, height // cell, width // cell, 3), np.uint8)
    return small.repeat(cell, 1).repeat(cell, 2)


def open_video(player, path: Path):
    kind = {".webm": "video/webm", ".mp4": "video/mp4"}[path.suffix]
    return player.evaluate(
        "([b, t]) => load(b, t)", [base64.b64encode(path.read_bytes()).decode(), kind]
    )


def comes_to_show(player, picture, at_least_db):
    """Return whether that picture is on screen. On a busy machine it is painted some time after it
    was found."""
    for _ in range(200):
        rgba = base64.b64decode(player.evaluate("() => shown()"))
        if (
            psnr(np.frombuffer(rgba, np.uint8).reshape(*picture.shape[:2], 4)[..., :3], picture)
            > at_least_db
        ):
            return True
        player.wait_for_timeout(100)
    return False


def psnr(one, other):
    return 10 * np.log10(
        255**2 / max(1e-9, np.mean((one.astype(float) - other.astype(float)) ** 2))
    )


DURATIONS_S = [0.1, 0.5, 0.1, 2.0, 0.25] * 25 + [3.0]


@pytest.mark.parametrize(
    ("encoder", "at_least_db"), [("opencv", 28), ("h264", 28), ("lossless", 90)]
)
def test_uneven_durations_play_seek_and_end_when_they_should(
    player, tmp_path, encoder, at_least_db
):
    drawn = pictures(len(DURATIONS_S))
    info = write_video(
        len(drawn),
        drawn.__getitem__,
        tmp_path / "v",
        duration_s=DURATIONS_S,
        encoder=encoder,
        workers=2,
    )
    opened = open_video(player, info.path)
    assert opened["duration"] == pytest.approx(sum(DURATIONS_S), abs=0.02)
    starts = np.cumsum([0, *DURATIONS_S])
    for index in (0, 1, 60, 3, 124, 31, 8, 100, 125):
        for part in (0.2, 0.9):
            player.evaluate("(t) => seek(t)", starts[index] + part * DURATIONS_S[index])
            assert comes_to_show(player, drawn[index], at_least_db), (
                f"picture {index} at {part} of its time is another one"
            )


@pytest.mark.parametrize(
    ("encoder", "at_least_db"), [("opencv", 28), ("h264", 28), ("lossless", 90)]
)
def test_a_held_picture_stays_on_screen_and_the_video_ends_after_it(
    player, tmp_path, encoder, at_least_db
):
    drawn = pictures(6)
    info = write_video(
        len(drawn),
        drawn.__getitem__,
        tmp_path / "v",
        duration_s=[0.4] * 5 + [4.0],
        encoder=encoder,
        workers=2,
    )
    open_video(player, info.path)
    assert player.evaluate("() => playToTheEnd()") == pytest.approx(6.0, abs=0.03)
    assert comes_to_show(player, drawn[-1], at_least_db), "the held picture is not what stays"
