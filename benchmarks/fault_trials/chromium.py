"""Play films in a real Chromium: to the end, and after seeks."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

PLAY = """
async (bytes) => {
  const video = document.createElement('video');
  const until = (name) => new Promise((done, failed) => {
    video.addEventListener(name, done, {once: true});
    video.addEventListener('error', () => failed(new Error('error ' + video.error.code)));
  });
  const raw = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
  video.muted = true;
  const loaded = until('loadeddata');
  video.src = URL.createObjectURL(new Blob([raw], {type: 'video/webm'}));
  await loaded;
  for (const part of [0.5, 0.95, 0.1]) {
    const sought = until('seeked');
    video.currentTime = part * video.duration;
    await sought;
  }
  video.playbackRate = 16;
  const ended = until('ended');
  await video.play();
  await ended;
  return [video.duration, video.videoWidth];
}
"""


def play(versions: list[Path]) -> list[list[float] | None]:
    from playwright.sync_api import Error, sync_playwright

    played: list[list[float] | None] = []
    flags = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        page = browser.new_page()
        for version in versions:
            try:
                contents = base64.b64encode(version.read_bytes()).decode()
                played.append(page.evaluate(PLAY, contents))
            except Error as error:
                print(version, error)
                played.append(None)
        browser.close()
    return played
