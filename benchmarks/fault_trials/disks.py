"""Disks that are full, read-only, without inodes, away or slow: under the spool, the temporary
directory, the cache and the artifact store. Needs root, for small file systems in memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tracker_viz as tv
from fault_trials.forks import Host, forked
from fault_trials.kills import LAYOUT, VIDEO, finish, started
from fault_trials.stores import Store
from fault_trials.tally import Tallies
from fault_trials.training import Noted, train
from tracker_viz.errors import TrackerVizError

PLACES = ("spool", "temporary directory", "artifact store")
FAULTS = ("full", "full from the start", "no inodes", "read-only", "away", "slow")
FAULT_S = 1.5
SLOW_S = 0.2
STEP_S = 0.08  # so that training goes on beyond the fault


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system of its own, mounted at ``path``."""

    path: Path

    @classmethod
    @contextmanager
    def mounted(cls, path: Path) -> Iterator[Disk]:
        path.mkdir(parents=True, exist_ok=True)
        _call("mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=10000", "faults", str(path))
        try:
            yield cls(path)
        finally:
            _call("umount", "-l", str(path))

    def set(self, options: str) -> None:
        _call("mount", "-o", f"remount,{options}", str(self.path))

    def fill(self) -> None:
        """Take all space that is left."""
        with contextlib.suppress(OSError), (self.path / ".filled").open("wb") as file:
            while True:
                file.write(b"\0" * 4096)
                file.flush()

    def free(self) -> None:
        (self.path / ".filled").unlink(missing_ok=True)

    def take_inodes(self) -> None:
        used = os.statvfs(self.path)
        self.set(f"nr_inodes={max(1, used.f_files - used.f_ffree)}")

    def give_inodes(self) -> None:
        self.set("nr_inodes=10000")


class Breaker:
    """Breaks a disk for a while, from a process of its own."""

    def begin(self, fault: str, path: Path) -> str:
        """Break it; return what could not be done, or nothing."""
        disk = Disk(path)
        try:
            match fault:
                case "full" | "full from the start":
                    disk.fill()
                case "no inodes":
                    disk.take_inodes()
                case "read-only":
                    disk.set("ro")
                case "away":
                    # An unmounted disk leaves an empty directory; what had files open keeps them.
                    _call("mount", "--move", str(path), f"{path}.away")
        except subprocess.CalledProcessError as error:
            return str(error)
        return ""

    def end(self, fault: str, path: Path) -> None:
        disk = Disk(path)
        match fault:
            case "full" | "full from the start":
                disk.free()
            case "no inodes":
                disk.give_inodes()
            case "read-only":
                disk.set("rw")
            case "away":
                _call("mount", "--move", f"{path}.away", str(path))


def _call(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def try_disks(n_trials: int, directory: Path) -> None:
    """Try every fault on every place, so often each."""
    tallies = Tallies("disks")
    root = directory / "disks"
    root.mkdir()
    # Moving a mount needs one above it that no other namespace shares.
    _call("mount", "--bind", str(root), str(root))
    _call("mount", "--make-private", str(root))
    breaker = Host(Breaker)
    try:
        with started("mlflow", root) as store:
            for place in PLACES:
                for fault in FAULTS:
                    _try_row(store, place, fault, n_trials, root, breaker, tallies)
        with started("mlflow-server", root) as store:
            for fault in FAULTS:
                _try_cache(store, fault, n_trials, root, breaker, tallies)
    finally:
        breaker.end()
        _call("umount", "-l", str(root))


def _try_row(
    store: Store,
    place: str,
    fault: str,
    n_trials: int,
    root: Path,
    breaker: Host,
    tallies: Tallies,
) -> None:
    row = f"{place}: {fault}"
    tally = tallies.row(row)
    while tally.counts["trials"] < n_trials:
        trial = f"{place} {fault} {tally.counts['trials']}".replace(" ", "-")
        directory = root / trial
        disk_path = {
            "spool": directory / "spool",
            "temporary directory": directory / "tmp",
            "artifact store": store.directory / "mlruns",
        }[place]
        Path(f"{disk_path}.away").mkdir(parents=True, exist_ok=True)
        with Disk.mounted(disk_path):
            counts = _one(store, trial, fault, directory, disk_path, breaker)
        tally.counts["trials"] += 1
        for name in ("longest stall, ms", "memory, MB"):
            tally.largest(name, counts.pop(name))
        tally.counts.update(counts)
        tallies.keep(row, tally)
        print(f"{row}: {dict(tally.counts)} {tally.most}", flush=True)
        if not any(counts.get(bad) for bad in ("lost", "changed", "raised into training")):
            shutil.rmtree(directory, ignore_errors=True)


def _one(
    store: Store, trial: str, fault: str, directory: Path, disk_path: Path, breaker: Host
) -> dict[str, Any]:
    (directory / "tmp").mkdir(parents=True, exist_ok=True)
    log = directory / "log"
    at_once = fault == "full from the start"
    if at_once:
        breaker.call("begin", fault, disk_path)

    def work() -> None:
        os.environ["TMPDIR"] = tempfile.tempdir = str(directory / "tmp")
        if fault == "slow":
            slow_down(disk_path)
        try:
            train(store, trial, directory, step_s=STEP_S, close_s=10, max_stall_s=20.0)
        except TrackerVizError as error:
            print(f"refused: {error}", flush=True)
            (directory / "refused").write_text(str(error))

    watch = Interval(directory / "noted", partial(breaker.call, "begin", fault, disk_path))
    over = partial(breaker.call, "end", fault, disk_path)
    ended = forked(work, log, kill_after_s=300, since=partial(watch.look, over, at_once=at_once))
    watch.finish(over)
    noted = Noted.read(directory / "noted")
    counts: dict[str, Any] = {
        "raised into training": int(ended.failed),
        "refused at the start": int((directory / "refused").exists()),
        "given up, said so": len(noted.given_up),
        "longest stall, ms": 1000 * noted.longest_stall_s,
        "memory, MB": ended.peak_mb,
    }
    if watch.not_done:
        print(f"{trial}: {watch.not_done}", flush=True)
    if (directory / "spool/run.json").exists():
        finished = forked(lambda: finish(store, trial, directory), log)
        assert not finished.failed, log.read_text()[-3000:]
        found = json.loads((directory / "found").read_text())
        found["lost"] -= len(noted.given_up & noted.captures.keys())
        counts |= found
    return counts


class Interval:
    """Calls ``begin`` once a training has begun, and ``end`` some time later."""

    def __init__(self, noted: Path, begin: Callable[[], str]) -> None:
        self._noted = noted
        self._begin = begin
        self._since: float | None = None
        self._over = False
        self.not_done = ""

    def look(self, end: Callable[[], object], *, at_once: bool) -> bool:
        """Look whether it is time for either; never true, as what waits for it is not killed."""
        if self._since is None:
            has_begun = self._noted.exists() and "capture 2 " in self._noted.read_text()
            is_refused = at_once and self._noted.exists()
            if has_begun or is_refused:
                self._since = time.monotonic()
                if not at_once:
                    self.not_done = self._begin()
        elif not self._over and time.monotonic() - self._since > FAULT_S:
            self.finish(end)
        return False

    def finish(self, end: Callable[[], object]) -> None:
        if self._over:
            return
        self._over = True
        if self._since is not None and not self.not_done:
            end()


def slow_down(path: Path) -> None:
    """Make this process's writes below ``path`` slow: syncs and renames take their time."""
    fsync, replace = os.fsync, os.replace

    def slow_fsync(file: int) -> None:
        if os.readlink(f"/proc/self/fd/{file}").startswith(str(path)):
            time.sleep(SLOW_S)
        fsync(file)

    def slow_replace(source: Any, target: Any, **options: Any) -> None:
        if str(target).startswith(str(path)):
            time.sleep(SLOW_S)
        replace(source, target, **options)

    os.fsync, os.replace = slow_fsync, slow_replace


def _try_cache(
    store: Store, fault: str, n_trials: int, root: Path, breaker: Host, tallies: Tallies
) -> None:
    """Draw a run from a server with a cache on a disk that is broken, then with one that is not."""
    row = f"cache: {fault}"
    tally = tallies.row(row)
    while tally.counts["trials"] < n_trials:
        trial = f"cache {fault} {tally.counts['trials']}".replace(" ", "-")
        directory = root / trial
        (directory / "cache.away").mkdir(parents=True)
        log = directory / "log"
        trained = forked(partial(train, store, trial, directory), log)
        assert not trained.failed, log.read_text()
        described = json.loads((directory / "spool/run.json").read_text())
        ref = described["destinations"][0]["ref"]
        with Disk.mounted(directory / "cache") as disk:
            work = partial(_draw, store, trial, ref, directory, disk.path, fault == "slow")
            breaker.call("begin", fault, disk.path)
            broken = forked(work, log)
            breaker.call("end", fault, disk.path)
            whole = forked(work, log)
        tally.counts["trials"] += 1
        tally.counts["refused at the start"] += (directory / "refused").exists()
        tally.counts["raised into training"] += broken.failed
        tally.counts["unfinished"] += whole.failed
        tally.largest("memory, MB", broken.peak_mb)
        tallies.keep(row, tally)
        print(f"{row}: {dict(tally.counts)}", flush=True)
        if broken.failed or whole.failed:
            print(log.read_text()[-3000:], flush=True)


def _draw(store: Store, trial: str, ref: str, directory: Path, cache: Path, is_slow: bool) -> None:
    if is_slow:
        slow_down(cache)
    os.chdir(directory)
    try:
        tv.render(
            ref,
            layout=LAYOUT,
            video=VIDEO,
            cache=cache,
            upload=False,
            output=directory / "film.mp4",
            tracker_options={store.scheme: store.options(trial)},
            progress=False,
        )
    except TrackerVizError as error:
        print(f"refused: {error}", flush=True)
        (directory / "refused").write_text(str(error))
