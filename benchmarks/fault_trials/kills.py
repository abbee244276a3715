"""SIGKILL at random instants: of trainings and pushes, and of what draws a run and compares two."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2

import tracker_viz as tv
from fault_trials.forks import Ended, forked
from fault_trials.stores import STORES, Store
from fault_trials.tally import Tallies, Tally
from fault_trials.training import Noted, found, n_changed, train
from tracker_viz.delivery import push
from tracker_viz.errors import RunActiveError
from tracker_viz.rendering import Layout, Scores
from tracker_viz.trackers import connect
from tracker_viz.types import RunRef

# A start takes half of the time, and has no captures yet.
SHARE_KILLED_AT_THE_START = 0.2
STEP_S = 0.03
# One gives up when nothing moves for a minute, which a busy machine takes at times.
PUSHES = 3
VIDEO = {"size": "640x360", "seconds_per_capture": 0.05, "hold_s": 0.1, "encoder": "h264"}
# How a process that renders ends.
DONE, REFUSED, FAILED = range(3)
LAYOUT = Layout(name="scores", panels=(Scores(names=("head.induction",)),), timeline=False)


@contextmanager
def started(name: str, directory: Path) -> Iterator[Store]:
    """Start one of the stores."""
    place = directory / name
    place.mkdir(parents=True)
    store = STORES[name](place)
    store.start()
    try:
        yield store
    finally:
        store.stop()


def kill_trainings(name: str, n_trials: int, directory: Path) -> None:
    """Kill trainings and pushes into one store, until its row has so many trials."""
    tallies = Tallies("kill")
    tally = tallies.row(name)
    if tally.counts["trials"] >= n_trials:
        return
    with started(name, directory) as store:
        usual = _usual_times(store, directory / "usual")
        print(f"{name}: {usual}", flush=True)
        while tally.counts["trials"] < n_trials:
            trial = f"trial-{tally.counts['trials']}"
            place = directory / trial
            place.mkdir()
            try:
                _kill_one(store, trial, place, usual, tally)
            except Exception:
                print(f"{name} {trial}: see {place}", flush=True)
                raise
            tallies.keep(name, tally)
            if not any(tally.counts[bad] for bad in ("lost", "doubled", "changed", "half files")):
                shutil.rmtree(place)
            print(f"{name} {trial}: {dict(tally.counts)}", flush=True)


@dataclass(frozen=True, slots=True)
class UsualTimes:
    """Seconds that a trial takes when nobody kills it: its start, the rest, and a push."""

    start_s: float
    rest_s: float
    push_s: float


def _usual_times(store: Store, place: Path) -> UsualTimes:
    place.mkdir()
    noted = place / "noted"
    begun: list[float] = []

    def noticed() -> bool:
        if not begun and _has_begun(noted):
            begun.append(time.monotonic())
        return bool(begun)

    began = time.monotonic()
    trained = forked(
        lambda: train(store, "usual", place, step_s=STEP_S),
        place / "log",
        kill_after_s=600,
        since=noticed,
    )
    assert not trained.failed, (place / "log").read_text()
    pushed = forked(lambda: push(place / "spool"), place / "log")
    start_s = begun[0] - began
    return UsualTimes(start_s, trained.took_s - start_s, max(0.5, pushed.took_s))


def _has_begun(noted: Path) -> bool:
    """Return whether a training is beyond its start."""
    return noted.exists() and "stage train" in noted.read_text()


def _kill_one(store: Store, trial: str, place: Path, usual: UsualTimes, tally: Tally) -> None:
    rng = random.Random(f"{store.scheme} {trial}")
    log, spool = place / "log", place / "spool"
    if rng.random() < SHARE_KILLED_AT_THE_START:
        after_s, since = rng.uniform(0.05, usual.start_s), None
    else:
        after_s, since = rng.uniform(0.0, usual.rest_s), partial(_has_begun, place / "noted")
    ended = forked(
        lambda: train(store, trial, place, step_s=STEP_S), log, kill_after_s=after_s, since=since
    )
    noted = Noted.read(place / "noted")
    tally.counts["trials"] += 1
    tally.counts[f"killed in {noted.stage}"] += ended.killed
    tally.counts["while uploading"] += ended.killed and _is_uploading(spool, noted)
    _note(ended, noted, tally)
    if not (spool / "run.json").exists():
        tally.counts["lost"] += len(noted.captures)
        return
    pushed = forked(lambda: push(spool), log, kill_after_s=rng.uniform(0.05, usual.push_s))
    tally.counts["killed in push"] += pushed.killed
    finished = forked(lambda: finish(store, trial, place), log)
    assert not finished.failed, log.read_text()[-3000:]
    tally.counts.update(json.loads((place / "found").read_text()))


def finish(store: Store, trial: str, place: Path, **options: Any) -> None:
    """Push what is left, and write what is wrong with the run into ``found``."""
    for _ in range(PUSHES):
        report = push(place / "spool", **options)
        if report.complete:
            break
        options = {}  # a new run is made once
    ref = report.deliveries[0].ref if report.deliveries else None
    wrong = found(store, trial, place, ref) | {"unfinished": int(not report.complete)}
    (place / "found").write_text(json.dumps(wrong))


def _is_uploading(spool: Path, noted: Noted) -> bool:
    """Return whether a capture on the disk waited for its upload."""
    return any((spool / "captures").glob("step-*.safetensors")) and noted.stage != "start"


def _note(ended: Ended, noted: Noted, tally: Tally) -> None:
    tally.largest("longest stall, ms", 1000 * noted.longest_stall_s)
    tally.largest("memory, MB", ended.peak_mb)


def train_in_threads(name: str, n_trials: int, directory: Path) -> None:
    """Have two threads of one process train into runs of their own, until the row has so many."""
    tallies, row = Tallies("kill"), f"{name}, two threads"
    tally = tallies.row(row)
    if tally.counts["trials"] >= n_trials:
        return
    with started(name, directory) as store:
        while tally.counts["trials"] < n_trials:
            trials = [f"{part}-{tally.counts['trials']}" for part in ("first", "second")]
            places = [directory / trial for trial in trials]
            for place in places:
                place.mkdir()
            log = directory / "log"

            def both(trials: list[str] = trials, places: list[Path] = places) -> None:
                work = [
                    threading.Thread(target=train, args=(store, trial, place))
                    for trial, place in zip(trials, places, strict=True)
                ]
                for thread in work:
                    thread.start()
                for thread in work:
                    thread.join()

            ended = forked(both, log)
            tally.counts["trials"] += 1
            for trial, place in zip(trials, places, strict=True):
                _note(ended, Noted.read(place / "noted"), tally)
                whole = Noted.read(place / "noted").stage == "ended"
                finished = forked(lambda t=trial, p=place: finish(store, t, p), log)
                assert whole, log.read_text()[-3000:]
                assert not finished.failed, log.read_text()[-3000:]
                tally.counts.update(json.loads((place / "found").read_text()))
            tallies.keep(row, tally)
            print(f"{row}: {dict(tally.counts)}", flush=True)


# -- what reads a run, and puts results into it ----------------------------------------------------


def kill_drawings(name: str, n_trials: int, directory: Path) -> None:
    """Kill ``render``, ``compare`` and ``follow`` into runs of one store, and render one run twice
    at once, until their rows have so many."""
    tallies = Tallies("draw")
    doing: dict[str, Callable[[Store, list[RunRef], Path], object]] = {
        "render": _render,
        "compare": _compare,
        "follow": _follow,
        "render twice at once": _render_twice,
    }
    if all(tallies.row(f"{what}, {name}").counts["trials"] >= n_trials for what in doing):
        return
    with started(name, directory) as store:
        refs = [_shown_run(store, directory / trial, trial) for trial in ("first", "second")]
        for what, work in doing.items():
            row = f"{what}, {name}"
            tally = tallies.row(row)
            if tally.counts["trials"] >= n_trials:
                continue
            place = directory / what.replace(" ", "-")
            place.mkdir()
            _whole(work, store, refs, place)  # the first one fills caches
            usual_s = _whole(work, store, refs, place).took_s
            while tally.counts["trials"] < n_trials:
                after_s: float | None = None
                if work is not _render_twice:
                    chosen = random.Random(f"{row} {tally.counts['trials']}")
                    after_s = chosen.uniform(0.05, usual_s)
                ended = forked(
                    lambda work=work, place=place: work(store, refs, place),
                    place / "log",
                    kill_after_s=after_s,
                )
                tally.counts["trials"] += 1
                tally.counts["killed"] += ended.killed
                tally.counts["failed"] += ended.failed
                store.settle(refs[0])
                tally.counts.update(_checked(store, refs, place))
                tally.largest("memory, MB", ended.peak_mb)
                tallies.keep(row, tally)
                print(f"{row}: {dict(tally.counts)}", flush=True)
            _whole(work, store, refs, place)
            tally.counts.update(_checked(store, refs, place, at_the_end=True))
            tallies.keep(row, tally)


def _shown_run(store: Store, place: Path, trial: str) -> RunRef:
    """Return a finished run with captures."""
    place.mkdir()
    ended = forked(lambda: train(store, trial, place), place / "log")
    assert not ended.failed, (place / "log").read_text()
    described = json.loads((place / "spool/run.json").read_text())
    return RunRef.parse(described["destinations"][0]["ref"])


def _whole(work: Callable[..., object], store: Store, refs: list[RunRef], place: Path) -> Ended:
    store.settle(refs[0])  # a service process that outlived its kill may have reported since
    ended = forked(lambda: work(store, refs, place), place / "log")
    assert not ended.failed, (place / "log").read_text()[-3000:]
    return ended


def _render(store: Store, refs: list[RunRef], place: Path) -> None:
    _enter(place)
    tv.render(
        refs[0],
        layout=LAYOUT,
        video=VIDEO,
        tracker_options={store.scheme: _reached(store)},
        progress=False,
    )


def _compare(store: Store, refs: list[RunRef], place: Path) -> None:
    _enter(place)
    tv.compare(
        refs,
        into=refs[0],
        video=VIDEO,
        tracker_options={store.scheme: _reached(store)},
        progress=False,
    )


def _follow(store: Store, refs: list[RunRef], place: Path) -> None:
    """Make the film of a run as ``follow`` does, and go on with one that a kill left."""
    _enter(place)
    done = place / "cache" / "done"
    if done.exists():
        shutil.rmtree(place / "cache")
    tv.follow(
        refs[0],
        layout=LAYOUT,
        options={"video": {"size": "640x360"}, "final": False},
        tracker_options={store.scheme: _reached(store)},
    )
    done.touch()


def _render_twice(store: Store, refs: list[RunRef], place: Path) -> None:
    """Render in two processes. W&B takes one writer of a run and may refuse the other."""
    other = os.fork()
    if other == 0:
        os._exit(_rendered(store, refs, place))
    exit_codes = {_rendered(store, refs, place), os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])}
    expected = [{DONE}, {DONE, REFUSED}] if store.scheme == "wandb" else [{DONE}]
    assert exit_codes in expected, exit_codes


def _rendered(store: Store, refs: list[RunRef], place: Path) -> int:
    try:
        _render(store, refs, place)
    except RunActiveError:
        return REFUSED
    except BaseException:  # noqa: BLE001  a fork must not go on as its parent
        traceback.print_exc()
        return FAILED
    return DONE


def _enter(place: Path) -> None:
    work = place / "work"
    work.mkdir(exist_ok=True)
    os.chdir(work)
    os.environ["TRACKER_VIZ_CACHE"] = str(place / "cache")
    os.environ["TMPDIR"] = str(place / "tmp")
    (place / "tmp").mkdir(exist_ok=True)


def _reached(store: Store) -> dict[str, Any]:
    options = store.options("first")
    return {} if store.scheme == "local" else options


def _checked(
    store: Store, refs: list[RunRef], place: Path, *, at_the_end: bool = False
) -> dict[str, int]:
    ended = forked(lambda: _check(store, refs, place, at_the_end), place / "log")
    assert not ended.failed, (place / "log").read_text()[-3000:]
    return json.loads((place / "found").read_text())


def _check(store: Store, refs: list[RunRef], place: Path, at_the_end: bool) -> None:
    """Write what is wrong with the runs that were drawn: captures and videos are whole at every
    instant, and nothing half-written is left once a drawing has ended."""
    captures, changed, half_videos = 0, 0, 0
    for trial, ref in zip(("first", "second"), refs, strict=True):
        run = connect(store.scheme, **_reached(store)).open_run(ref)
        noted = Noted.read(place.parent / trial / "noted").captures
        listed = {each.step: each for each in run.list_captures()}
        captures += len(noted)
        changed += len(noted.keys() - listed.keys())
        changed += n_changed(run, listed, noted, place / f"pulled-{trial}")
        videos = [file for file in run.list_files() if file.endswith((".mp4", ".webm"))]
        half_videos += sum(not _plays(run.get_file(file, place / "seen")) for file in videos)
    half_files = 0
    if at_the_end:
        left = [file for part in ("work", "cache") for file in (place / part).rglob("*.partial")]
        half_files = len(left) + store.torn("first") + store.torn("second")
    wrong = {"captures": captures, "changed": changed, "half videos": half_videos}
    (place / "found").write_text(json.dumps(wrong | {"half files": half_files}))


def _plays(video: Path) -> bool:
    """Return whether a video has all the bytes that its headers promise, and decodes. A count of
    frames says less: those of a film that grows have times of their own."""
    is_whole = _is_whole_webm if video.suffix == ".webm" else _is_whole_mp4
    if not is_whole(video.read_bytes()):
        return False
    film = cv2.VideoCapture(str(video))
    read = 0
    while film.read()[0]:
        read += 1
    return read > 0


def _is_whole_webm(webm: bytes) -> bool:
    """Return whether the Segment, the last top element of a WebM file (RFC 8794), ends with it."""
    position = 0
    for identifier in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # EBML header, Segment
        if webm[position : position + 4] != identifier or len(webm) <= position + 4:
            return False
        first = webm[position + 4]
        width = 9 - first.bit_length()
        size = int.from_bytes(webm[position + 4 : position + 4 + width]) - (1 << 7 * width)
        position += 4 + width + size
    return position == len(webm)


def _is_whole_mp4(mp4: bytes) -> bool:
    """Return whether the boxes of an MP4 file (ISO/IEC 14496-12) end with it, and have both the
    index and the pictures."""
    names, position = set(), 0
    while position + 8 <= len(mp4):
        names.add(mp4[position + 4 : position + 8])
        position += max(8, int.from_bytes(mp4[position : position + 4]))
    return position == len(mp4) and {b"moov", b"mdat"} <= names
