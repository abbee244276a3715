"""Kill a training run, its follower, a renderer and the server, and count what was lost.

    python benchmarks/followed.py [--stores mlflow wandb] [--captures 100] [--kills 12]

A real training takes a capture at every step, into a real MLflow server or into W&B's shared mode
(the real client against the stand-in of ``tests/trackers``). ``tracker-viz follow`` follows it, and
``tracker-viz render`` renders another layout again and again. ``kill -9`` ends one of them at a
time, and it is started again. The training waits before its last captures until the kills are over.
At the end, every version of the film is played in a real Chromium. Needs Chromium and playwright.

Writes followed.json and followed.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import options_parser, read_results, table, wrapped, write_results

if TYPE_CHECKING:
    from follow_trials.processes import Processes

STORES = ("mlflow", "wandb")
PAGE = """
# Following a run while processes are killed

Measured by `python benchmarks/followed.py`. A training run logs into a real MLflow server, and into
W&B's shared mode (the real client, a stand-in for the service). `tracker-viz follow every=2s`
follows it while `tracker-viz render` renders it. `kill -9` ends one process after another.

{counts}

{notes}
"""
MEANINGS = {
    "captures": "captures of the training",
    "kills of the trainer": "kills of the training",
    "kills of the follower": "kills of the follower",
    "kills of the renderer": "kills of the renderer",
    "kills of the server": "kills of the server",
    "lost": "captures that were on the disk and are not in the run",
    "doubled": "captures that are in the run twice",
    "changed": "captures with other bytes than on the disk",
    "points lost": "points of the loss chart that are missing",
    "points doubled": "points of the loss chart that are there twice",
    "overwritten": "times that an earlier row of the history had changed",
    "refused": "requests that the stand-in does not know",
    "renderings": "renderings of the other layout that succeeded while the run trained",
    "versions": "versions of the film that were in the run",
    "played": "versions that played to the end and could be sought in Chromium",
    "frames": "frames of the versions",
    "same": "the last version has the frames and times of `render`",
    "state": "state of the run at the end",
    "took_s": "seconds in all",
}


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    parser.add_argument("--captures", type=int, default=100)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between captures")
    parser.add_argument("--train", nargs=3, help="used for the process of the training")
    options = parser.parse_args()
    # Read when torch and MLflow are imported: all processes share the machine.
    os.environ.update({"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"})
    if options.train:
        from follow_trials.processes import train

        store, spool, tracker_options = options.train
        train(Path(spool), store, json.loads(tracker_options), options.captures, options.pause)
        return
    found = read_results("followed", options.output)
    for store in options.stores:
        with tempfile.TemporaryDirectory(prefix="followed-") as directory:
            os.environ["TRACKER_VIZ_CACHE"] = f"{directory}/cache"
            found[store] = follow(store, Path(directory), options)
        write_results("followed", found, report, options.output)


def follow(store: str, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one trial, and return what was counted."""
    from follow_trials.processes import Processes
    from follow_trials.services import SERVICES

    from tracker_viz.delivery import push

    began = time.monotonic()
    processes = Processes(SERVICES[store](directory), directory, options.captures, options.pause)
    try:
        kill_at_random(processes, options.kills)
        processes.keep_going()
        processes.renderer.wait(600)
        push(processes.spool)
        while processes.follower.wait(600) != 0:
            processes.follower = processes.start_follower()
        processes.service.look(processes.ref)
        return count(processes) | {"took_s": round(time.monotonic() - began)}
    except BaseException:
        for log in directory.glob("*.log"):
            print(f"-- {log.name}\n{log.read_text()[-3000:]}", flush=True)
        raise
    finally:
        processes.end()


def kill_at_random(processes: Processes, n_kills: int) -> None:
    """Kill the processes in turn, at random instants, until the training ends."""
    from follow_trials.processes import KILLS_ARE_OVER

    rng = random.Random(0)
    names = list(processes.kills)
    victims = [names[number % len(names)] for number in range(n_kills)]
    # A process that was started again is killed during its start, or while it works.
    next_kill = time.monotonic() + 2 * processes.start_s
    while processes.trainer.poll() is None:
        processes.service.look(processes.ref)
        processes.keep_going()
        if victims and time.monotonic() > next_kill:
            processes.kill(victims.pop())
            next_kill = time.monotonic() + rng.uniform(0.2, 2.0) * processes.start_s
            print(f"{processes.service.scheme}: {processes.kills}", flush=True)
        if not victims:
            (processes.directory / KILLS_ARE_OVER).touch()
        time.sleep(0.2)


def count(processes: Processes) -> dict[str, Any]:
    """Compare the run with what the training noted, and play the versions of the film."""
    from fault_trials.chromium import play
    from follow_trials.processes import VIDEO

    from tracker_viz import capture_file
    from tracker_viz.pipeline import render
    from tracker_viz.trackers import connect
    from tracker_viz.video.read_back import _packets

    service, directory = processes.service, processes.directory
    run = connect(service.scheme, **service.options).open_run(processes.ref)
    lines = (directory / "written.jsonl").read_text().splitlines()
    written = dict(json.loads(line) for line in lines)
    refs = run.list_captures()
    stored = {ref.step: ref for ref in refs}
    for ref in refs:
        capture_file.read(run.fetch(ref, directory / "pulled"))
    charted = Counter(service.charted(processes.ref))
    versions = written_versions(processes)
    whole = render(
        processes.ref,
        video=VIDEO,
        upload=False,
        output=directory / "at_once.webm",
        tracker_options={service.scheme: service.options},
        progress=False,
    )
    same = _packets(whole.path) == _packets(versions[-1])
    return {
        "captures": len(stored),
        **{f"kills of the {name}": n for name, n in processes.kills.items()},
        "lost": len(written.keys() - stored.keys()),
        "doubled": len(refs) - len(stored),
        "changed": sum(stored[step].sha256 != sha256 for step, sha256 in written.items()),
        "points lost": len(stored.keys() - charted.keys()),
        "points doubled": sum(n - 1 for n in charted.values()),
        "overwritten": service.overwritten,
        "refused": service.refused(),
        "renderings": processes.n_renderings,
        "versions": len(versions),
        "played": sum(map(bool, play(versions))),
        "frames": ", ".join(str(len(_packets(version))) for version in versions),
        "same": "yes" if same else "no",
        "state": run.info().state,
    }


def written_versions(processes: Processes) -> list[Path]:
    """Write every version of the film that was in the run, and return the paths."""
    paths = []
    for number, film in enumerate(processes.service.seen.values()):
        paths.append(processes.directory / f"version-{number}.webm")
        paths[-1].write_bytes(film)
    return paths


def report(found: dict[str, Any]) -> str:
    """Return the page of the results: a column for each tracker."""
    trials = {store: found[store] for store in STORES if store in found}
    rows = []
    for name, meaning in MEANINGS.items():
        row = {"what": meaning}
        row |= {store: trial.get(name, "") for store, trial in trials.items()}
        rows.append(row)
    # A note about a trial is added to the JSON file by hand.
    notes = [trial["note"] for trial in trials.values() if "note" in trial]
    return wrapped(PAGE.format(counts=table(rows), notes="\n\n".join(notes)))


if __name__ == "__main__":
    main()
