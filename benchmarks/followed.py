"""Follow and render a run while it trains, in a real MLflow server or in W&B's shared mode, kill
all of them at random instants, and play every version of the film in a real Chromium.

    python benchmarks/followed.py [--stores mlflow wandb] [--captures 100] [--kills 12]

A real training takes a capture at every step into the run. Beside it are a server, a
``tracker-viz follow``, and a ``tracker-viz render`` of another layout that begins again when it has
ended. ``kill -9`` ends one after the other; each is started again. The training waits before its
last captures until the kills are over. W&B is the real client against the stand-in of
``tests/trackers``. Writes followed.json and followed.md beside this file. Needs Chromium and
playwright.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/trackers"))
os.environ.update({"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"})

import torch
from fault_trials.chromium import play
from fault_trials.training import LENGTH, VOCAB_SIZE, make_model, step_once
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from wandb_server import WandbServer

import tracker_viz as tv
from tracker_viz import capture_file
from tracker_viz.delivery import Spool, push
from tracker_viz.files import write_json
from tracker_viz.pipeline import render
from tracker_viz.trackers import connect
from tracker_viz.types import RunRef
from tracker_viz.video.writer import _packets

HERE = Path(__file__).resolve().parent
VIDEO = {"size": "640x360", "key_frames": 0, "max_mb": 20}
BESIDE = {"size": "640x360", "key_frames": 0, "seconds_per_capture": 0.05, "hold_s": 0.1}
HELD = 3  # captures that the training takes once the kills are over
ROWS = {
    "captures": "captures of the training",
    "kills of the trainer": "",
    "kills of the follower": "",
    "kills of the renderer": "",
    "kills of the server": "",
    "lost": "captures that were on the disk and are not in the run",
    "doubled": "captures that are in it twice",
    "changed": "captures with other bytes than on the disk",
    "points lost": "points of the loss's chart that are missing",
    "points doubled": "that are there twice",
    "overwritten": "times that an earlier row of the history was another one later",
    "refused": "requests that the stand-in does not know",
    "renderings": "renderings of the other layout that ended whole, while it trained",
    "versions": "versions of the film that were in the run",
    "played": "of these played to the end and sought in Chromium",
    "frames": "frames of the versions",
    "same": "the last one has the frames and times of `render`",
    "state": "state of the run in the end",
    "took_s": "seconds in all",
}


def train(
    spool: Path, store: str, options: dict[str, Any], n_captures: int, pause_s: float
) -> None:
    """The training's process: goes on after the captures that it has."""
    model, generator = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    watcher = tv.watch(
        model,
        probe=tv.make_probe(VOCAB_SIZE, LENGTH, bos_id=0),
        run=[store],
        every=1,
        total_steps=n_captures - 1,
        score_rows=0,
        spool=spool,
        name="followed",
        tracker_options={store: options},
    )
    assert watcher.outbox is not None
    done = watcher.outbox.captured_steps
    with watcher, (spool.parent / "written.jsonl").open("a") as written:
        for step in range(n_captures):
            loss = step_once(model, optimizer, generator)
            while step >= n_captures - HELD and not (spool.parent / "kills-are-over").exists():
                time.sleep(0.1)
            if step in done:
                continue
            watcher.step(step, loss=loss)
            watcher.flush()
            ref = watcher.outbox.written[step]
            written.write(json.dumps([step, ref.sha256]) + "\n")
            written.flush()
            time.sleep(pause_s)


class Service(ABC):
    """Where the run is, in this process or one of its own.

    Attributes:
        scheme: its tracker.
        options: of that tracker's adapter.
        environment: variables of the training alone.
        seen: versions of the film that were in the run, by digest.
        overwritten: how often an earlier row of the history was another one when looked at again.
    """

    scheme: str
    options: dict[str, Any]
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self) -> None:
        self.seen: dict[str, bytes] = {}
        self.overwritten = 0

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def look(self, ref: RunRef) -> None:
        """Take new versions of the film, and hold the history against what it was."""

    @abstractmethod
    def charted(self, ref: RunRef) -> list[int]:
        """Return the steps of all points of the loss."""

    def refused(self) -> int:
        return 0

    def _keep(self, film: bytes) -> None:
        if film:
            self.seen.setdefault(hashlib.sha256(film).hexdigest(), film)


class Mlflow(Service):
    scheme = "mlflow"

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._server = MlflowServer(directory / "server").start()
        self.options = {"tracking_uri": self._server.uri, "experiment": "followed"}

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.kill()

    def look(self, ref: RunRef) -> None:
        for film in self._server.artifacts.rglob("artifacts/overview.webm"):
            self._keep(film.read_bytes())

    def charted(self, ref: RunRef) -> list[int]:
        history = MlflowClient(self._server.uri).get_metric_history(ref.path, "loss")
        return [point.step for point in history]


class Wandb(Service):
    """W&B in shared mode. A kill of the server is its going away: what it stored stays."""

    scheme = "wandb"
    environment = MappingProxyType({"WANDB_MODE": "shared"})

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._server = WandbServer().start()
        (directory / "home").mkdir()
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(self._server.environment(directory))
        self.options = {"project": "followed"}
        self._history: list[dict[str, Any]] = []

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def look(self, ref: RunRef) -> None:
        run = self._server.run(ref.path)
        with self._server.state.lock:
            history, files = run.history, dict(run.files)
        self.overwritten += history[: len(self._history)] != self._history
        self._history = history
        for row in history:
            if film := row.get("tracker_viz/overview"):
                self._keep(files.get(film["path"], b""))

    def charted(self, ref: RunRef) -> list[int]:
        rows = self._server.run(ref.path).history
        return [row["tracker_viz/step"] for row in rows if "loss" in row]

    def refused(self) -> int:
        return len(self._server.refused)


SERVICES = {"mlflow": Mlflow, "wandb": Wandb}


class Players:
    """The processes, and which of them was killed how often."""

    def __init__(self, service: Service, directory: Path, n_captures: int, pause_s: float) -> None:
        self.service, self.directory, self.n_captures = service, directory, n_captures
        self.pause_s = pause_s
        self.spool = directory / "spool"
        self.kills = dict.fromkeys(("trainer", "follower", "renderer", "server"), 0)
        self.n_renderings = 0
        began = time.monotonic()
        self.trainer = self.start_trainer()
        while (ref := self._ref()) is None:
            assert self.trainer.poll() is None, (directory / "trainer.log").read_text()
            time.sleep(0.2)
        self.start_s, self.ref = time.monotonic() - began, ref
        self.follower = self.start_follower()
        self.renderer = self.start_renderer()

    def _ref(self) -> RunRef | None:
        """Return the training's run once it has a capture."""
        destinations = Spool(self.spool).destinations()
        has_any = (self.directory / "written.jsonl").exists()
        return destinations[0].ref if has_any and destinations else None

    def start_trainer(self) -> subprocess.Popen[bytes]:
        arguments = [self.service.scheme, str(self.spool), json.dumps(self.service.options)]
        code = [sys.executable, __file__, "--train", *arguments]
        code += ["--captures", str(self.n_captures), "--pause", str(self.pause_s)]
        return self._started("trainer", code, **self.service.environment)

    def start_follower(self) -> subprocess.Popen[bytes]:
        waits = ["every=2s", "poll_s=0.5", "give_up=20min"]
        return self._command("follow", *waits, video=VIDEO)

    def start_renderer(self) -> subprocess.Popen[bytes]:
        return self._command("render", "layout=heads", video=BESIDE)

    def _command(self, name: str, *more: str, video: dict[str, Any]) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("tracker-viz")), name, f"run={self.ref}"]
        if uri := self.service.options.get("tracking_uri"):
            command += [f"tracking_uri={uri}"]
        options = [f"video.{key}={value}" for key, value in video.items()]
        cache = f"cache={self.directory / name}"
        return self._started(name, [*command, *more, *options, cache])

    def _started(
        self, name: str, command: list[str], **environment: str
    ) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                command,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )

    def kill(self, who: str) -> None:
        self.kills[who] += 1
        if who == "server":
            self.service.stop()
            time.sleep(1.0)
            self.service.start()
            return
        process = getattr(self, who)
        process.send_signal(signal.SIGKILL)
        process.wait()
        setattr(self, who, getattr(self, f"start_{who}")())

    def keep_going(self) -> None:
        """Start again what has ended before the training has."""
        assert self.trainer.poll() in (None, 0), (self.directory / "trainer.log").read_text()
        if self.trainer.poll() == 0:
            return
        if self.renderer.poll() is not None:
            self.n_renderings += self.renderer.returncode == 0
            self.renderer = self.start_renderer()
        if self.follower.poll() is not None:
            self.follower = self.start_follower()

    def end(self) -> None:
        for process in (self.trainer, self.follower, self.renderer):
            process.kill()
        self.service.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stores", nargs="+", choices=list(SERVICES), default=list(SERVICES))
    parser.add_argument("--captures", type=int, default=100)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between captures")
    parser.add_argument("--train", nargs=3)
    options = parser.parse_args()
    if options.train:
        store, spool, said = options.train
        train(Path(spool), store, json.loads(said), options.captures, options.pause)
        return
    kept = HERE / "followed.json"
    for store in options.stores:
        with tempfile.TemporaryDirectory(prefix="followed-") as directory:
            os.environ["TRACKER_VIZ_CACHE"] = f"{directory}/cache"
            found = follow(store, Path(directory), options)
        write_json((json.loads(kept.read_text()) if kept.exists() else {}) | {store: found}, kept)
    if kept.exists():
        text = table(json.loads(kept.read_text()))
        (HERE / "followed.md").write_text(text)
        print(text)


def follow(store: str, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    service = SERVICES[store](directory)
    players = Players(service, directory, options.captures, options.pause)
    try:
        chosen = random.Random(0)
        victims = [list(players.kills)[number % 4] for number in range(options.kills)]
        # A process that starts again is killed in its start, or while it is at work.
        next_kill = time.monotonic() + 2 * players.start_s
        while players.trainer.poll() is None:
            service.look(players.ref)
            players.keep_going()
            if victims and time.monotonic() > next_kill:
                players.kill(victims.pop())
                next_kill = time.monotonic() + chosen.uniform(0.2, 2.0) * players.start_s
                print(f"{store}: {players.kills}", flush=True)
            if not victims:
                (directory / "kills-are-over").touch()
            time.sleep(0.2)
        players.keep_going()
        players.renderer.wait(600)
        push(players.spool)
        while players.follower.wait(600) != 0:
            players.follower = players.start_follower()
        service.look(players.ref)
        found = count(players, service, directory)
        return found | {"took_s": round(time.monotonic() - began)}
    except BaseException:
        for log in directory.glob("*.log"):
            print(f"-- {log.name}\n{log.read_text()[-3000:]}", flush=True)
        raise
    finally:
        players.end()


def count(players: Players, service: Service, directory: Path) -> dict[str, Any]:
    run = connect(service.scheme, **service.options).open_run(players.ref)
    lines = (directory / "written.jsonl").read_text().splitlines()
    written = dict(json.loads(line) for line in lines)
    refs = run.list_captures()
    there = {ref.step: ref for ref in refs}
    for ref in refs:
        capture_file.read(run.fetch(ref, directory / "pulled"))
    charted = Counter(service.charted(players.ref))
    films = list(service.seen.values())
    versions = [directory / f"version-{number}.webm" for number in range(len(films))]
    for path, film in zip(versions, films, strict=True):
        path.write_bytes(film)
    whole = render(
        players.ref,
        video=VIDEO,
        upload=False,
        output=directory / "at_once.webm",
        tracker_options={service.scheme: service.options},
        progress=False,
    )
    return {
        "captures": len(there),
        **{f"kills of the {who}": n for who, n in players.kills.items()},
        "lost": len(written.keys() - there.keys()),
        "doubled": len(refs) - len(there),
        "changed": sum(there[step].sha256 != sha256 for step, sha256 in written.items()),
        "points lost": len(there.keys() - charted.keys()),
        "points doubled": sum(n - 1 for n in charted.values()),
        "overwritten": service.overwritten,
        "refused": service.refused(),
        "renderings": players.n_renderings,
        "versions": len(versions),
        "played": sum(map(bool, play(versions))),
        "frames": ", ".join(str(len(_packets(version))) for version in versions),
        "same": "yes" if _packets(whole.path) == _packets(versions[-1]) else "no",
        "state": run.info().state,
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return Markdown: a column for each tracker."""
    lines = [
        "# Following a run while processes are killed",
        "",
        "`python benchmarks/followed.py`: a training run into a real MLflow server, and into W&B's",
        "shared mode (the real client, a stand-in for the service), followed by `tracker-viz",
        "follow every=2s` and rendered at the same time. `kill -9` ends one process after another.",
        "",
        f"| what | {' | '.join(found)} |",
        f"|---|{'---:|' * len(found)}",
    ]
    for name, says in ROWS.items():
        cells = [str(row.get(name, "")) for row in found.values()]
        lines.append(f"| {says or name} | {' | '.join(cells)} |")
    notes = [row["note"] for row in found.values() if "note" in row]  # added by hand
    return "\n".join([*lines, "", *notes, ""])


if __name__ == "__main__":
    main()
