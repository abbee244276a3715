"""Follow a training into a real MLflow server while all of them are killed at random instants, and
play every version of the film in a real Chromium.

    python benchmarks/followed.py [--captures 100] [--kills 9]

Writes followed.md beside this file. An hour of training has about a hundred captures; here they are
made up (2 blocks x 4 heads, 32 tokens) and come as fast as the machine draws. Each killed process
is started again. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/trackers"))
os.environ.update({"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"})

from mlflow_server import QUIET, MlflowServer

from tracker_viz.delivery import Destination, Outbox, push
from tracker_viz.pipeline import render
from tracker_viz.trackers import open_run
from tracker_viz.video.writer import _packets

HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location(
    "synthetic_run", HERE.parent / "tests" / "rendering" / "synthetic_run.py"
)
synthetic_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic_run)

SHAPE = {"blocks": 2, "heads": 4, "length": 32, "width": 32, "hidden": 48, "period": 9}
VIDEO = {"size": "720p", "key_frames": 0}
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


def train(spool: Path, uri: str, n_captures: int, pause_s: float) -> None:
    """The training's process: goes on after the captures that it has."""
    destination = Destination("mlflow", {"tracking_uri": uri, "experiment": "followed"})
    with Outbox(spool, [destination], name="followed") as outbox:
        done = outbox.captured_steps
        for capture in synthetic_run.captures(n_captures, **SHAPE):
            if capture.step not in done:
                outbox.submit(capture)
                outbox.flush()
                with (spool / "written.txt").open("a") as written:
                    written.write(f"{capture.step}\n")
                time.sleep(pause_s)


class Players:
    """The three processes, and which of them was killed how often."""

    def __init__(self, directory: Path, n_captures: int) -> None:
        self.server = MlflowServer(directory / "server").start()
        self.spool, self.directory, self.n_captures = directory / "spool", directory, n_captures
        self.kills = dict.fromkeys(("follower", "server", "trainer"), 0)
        self.trainer = self.start_trainer()
        while not (ref := self._ref()):
            time.sleep(0.2)
        self.ref = ref
        self.follower = self.start_follower()

    def _ref(self):
        try:
            from tracker_viz.delivery import Spool

            return Spool(self.spool).destinations()[0].ref
        except (IndexError, OSError):
            return None

    def start_trainer(self):
        code = [sys.executable, __file__, "--train", str(self.spool), self.server.uri]
        return subprocess.Popen([*code, "--captures", str(self.n_captures)], env=os.environ | QUIET)

    def start_follower(self):
        command = [str(Path(sys.executable).with_name("tracker-viz")), "follow", f"run={self.ref}"]
        command += [f"tracking_uri={self.server.uri}", "every=2s", "poll_s=0.5", "give_up=20min"]
        command += ["video.size=720p", "video.key_frames=0", f"cache={self.directory / 'cache'}"]
        return subprocess.Popen(command, env=os.environ | QUIET, stdout=subprocess.DEVNULL)

    def kill(self, who: str) -> None:
        self.kills[who] += 1
        if who == "server":
            self.server.kill()
            time.sleep(1.0)
            self.server.start()
            return
        process = getattr(self, who)
        process.send_signal(signal.SIGKILL)
        process.wait()
        setattr(self, who, getattr(self, f"start_{who}")())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captures", type=int, default=100)
    parser.add_argument("--kills", type=int, default=9)
    parser.add_argument("--train", nargs=2)
    options = parser.parse_args()
    if options.train:
        train(Path(options.train[0]), options.train[1], options.captures, 0.5)
        return
    with tempfile.TemporaryDirectory(prefix="followed-") as directory:
        os.environ["TRACKER_VIZ_CACHE"] = f"{directory}/cache"
        text = follow(Path(directory), options.captures, options.kills)
    (HERE / "followed.md").write_text(text)
    print(text)


def follow(directory: Path, n_captures: int, n_kills: int) -> str:
    players = Players(directory, n_captures)
    versions: list[Path] = []
    seen: set[str] = set()
    victims = [list(players.kills)[number % 3] for number in range(n_kills)]
    chosen = random.Random(0)
    next_kill = time.monotonic() + 25
    try:
        while players.trainer.poll() is None or victims:
            keep_version(players, versions, seen)
            if victims and time.monotonic() > next_kill and players.trainer.poll() is None:
                players.kill(victims.pop())
                next_kill = time.monotonic() + chosen.uniform(4, 14)
            if players.trainer.poll() is not None:
                victims.clear()
            if players.follower.poll() not in (None, 0):
                players.follower = players.start_follower()
            time.sleep(0.2)
        push(players.spool)
        players.follower.wait(600)
        keep_version(players, versions, seen)
        return report(players, versions, directory)
    finally:
        for process in (players.trainer, players.follower):
            process.kill()
        players.server.kill()


def keep_version(players: Players, versions: list[Path], seen: set[str]) -> None:
    for film in players.server.artifacts.rglob("artifacts/overview.webm"):
        contents = film.read_bytes()
        digest = hashlib.sha256(contents).hexdigest()
        if digest not in seen and contents:
            seen.add(digest)
            versions.append(players.directory / f"version-{len(versions)}.webm")
            versions[-1].write_bytes(contents)


def report(players: Players, versions: list[Path], directory: Path) -> str:
    run = open_run(players.ref, tracking_uri=players.server.uri)
    written = {int(line) for line in (players.spool / "written.txt").read_text().split()}
    there = {ref.step for ref in run.list_captures()}
    whole = render(
        players.ref,
        video=VIDEO,
        upload=False,
        output=directory / "at_once.webm",
        tracker_options={"mlflow": {"tracking_uri": players.server.uri}},
        progress=False,
    )
    is_same = _packets(whole.path) == _packets(versions[-1])
    played = play(versions)
    frames = [len(_packets(version)) for version in versions]
    lines = [
        "# Following under fire",
        "",
        "`python benchmarks/followed.py`: a training into a real MLflow server, followed by",
        "`tracker-viz follow every=2s`, while `kill -9` ends one of them after the other.",
        "",
        "| what | |",
        "|---|---|",
        f"| captures of the training | {players.n_captures} |",
        *(f"| kills of the {who} | {n} |" for who, n in players.kills.items()),
        f"| captures that were on the disk and are not in the run | {len(written - there)} |",
        f"| captures in the run | {len(there)} |",
        f"| versions of the film that were seen in the run | {len(versions)} |",
        f"| of these played to the end and sought in Chromium | {sum(map(bool, played))} |",
        f"| frames of the versions | {', '.join(map(str, frames))} |",
        f"| the last one has the frames and times of `render` | {'yes' if is_same else 'no'} |",
        "",
    ]
    return "\n".join(lines)


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


if __name__ == "__main__":
    main()
