"""Kill trainings and pushes with SIGKILL at random instants, and count what became of captures.

Every trial is a fork that records captures into a run and is killed while it writes, uploads or
ends; a push after it is killed, too; the next push finishes. Then the run holds every capture that
was on the disk when a kill came, once, byte for byte, and nothing half-written is left anywhere.

    python benchmarks/faults.py --trials 200
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import mlflow.store.tracking.sqlalchemy_store

from tracker_viz import capture_file
from tracker_viz.delivery import Destination, Outbox, push
from tracker_viz.trackers import Run, connect
from tracker_viz.trackers.local import LocalRun
from tracker_viz.trackers.mlflow.service import initialize_embedded
from tracker_viz.trackers.testing import make_capture

N_CAPTURES = 20
PAUSE_S = 0.01
LONGEST_TRAINING_S = {"local": 1.5, "mlflow": 2.5}
LONGEST_PUSH_S = {"local": 0.3, "mlflow": 1.0}


@dataclass
class Tally:
    """What was counted over the trials of one tracker."""

    counts: Counter[str] = field(default_factory=Counter)
    longest_stall_s: float = 0.0


def destination(tracker: str, directory: Path) -> Destination:
    if tracker == "local":
        return Destination("local", {"directory": str(directory / "runs")})
    return Destination("mlflow", {"tracking_uri": f"sqlite:///{directory}/mlflow.db"})


def train(tracker: str, directory: Path) -> None:
    """Record captures, and note each one once it is on the disk, with the longest wait."""
    noted = os.open(directory / "noted", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Outbox(directory / "spool", [destination(tracker, directory)], name="faults") as outbox:
        for step in range(N_CAPTURES):
            began = time.perf_counter()
            outbox.submit(make_capture(step, size=64))
            waited_s = time.perf_counter() - began
            outbox.flush()
            os.write(noted, f"{step} {waited_s}\n".encode())
            time.sleep(PAUSE_S)


def killed(work: Callable[[], object], after_s: float) -> bool:
    """Run ``work`` in a fork and kill it after so long; return whether it was still at work."""
    child = os.fork()
    if child == 0:
        logging.disable(logging.CRITICAL)
        work()
        os._exit(0)
    deadline = time.monotonic() + after_s
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def trial(tracker: str, directory: Path, rng: random.Random, tally: Tally) -> None:
    if tracker == "mlflow":
        finish(lambda: initialize_embedded(f"sqlite:///{directory}/mlflow.db", "Default"))
    longest_s = LONGEST_TRAINING_S[tracker]
    tally.counts["trials"] += 1
    tally.counts["trainings killed"] += killed(
        lambda: train(tracker, directory), rng.uniform(0.02, longest_s)
    )
    if not (directory / "spool/run.json").exists():
        tally.counts["killed before anything"] += 1
        return
    tally.counts["pushes killed"] += killed(
        lambda: push(directory / "spool"), rng.uniform(0.01, LONGEST_PUSH_S[tracker])
    )
    finish(lambda: check(tracker, directory))
    lines = (directory / "noted").read_text().split("\n") if (directory / "noted").exists() else []
    stalls = [float(line.split()[1]) for line in lines if line]
    tally.longest_stall_s = max([tally.longest_stall_s, *stalls])
    for line in (directory / "found").read_text().split("\n"):
        name, _, number = line.rpartition(" ")
        tally.counts[name] += int(number)


def finish(work: Callable[[], object]) -> None:
    """Run ``work`` in a fork of its own: the process that forks trials has no threads."""
    child = os.fork()
    if child == 0:
        try:
            logging.disable(logging.CRITICAL)
            work()
        except BaseException as error:  # noqa: BLE001  the fork must not go on as the benchmark
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "see above"


def check(tracker: str, directory: Path) -> None:
    """Finish the upload, and write what is wrong with the run into ``found``."""
    report = push(directory / "spool")
    spool = LocalRun(directory / "spool")
    noted = []
    if (directory / "noted").exists():
        noted = [int(line.split()[0]) for line in (directory / "noted").read_text().splitlines()]
    if not report.deliveries:
        # The kill came before the spool had its destinations, and so before any capture.
        (directory / "found").write_text(f"lost {len(noted)}")
        return
    run = delivered_run(tracker, directory, report.deliveries[0].ref)
    refs = run.list_captures()
    steps = [ref.step for ref in refs]
    changed = 0
    for ref in refs:
        contents = run.fetch(ref, directory / "pulled").read_bytes()
        changed += contents != capture_file.to_bytes(make_capture(ref.step, size=64))
    found = {
        "captures": len(noted),
        "lost": len(set(noted) - set(steps)),
        "doubled": len(steps) - len(set(steps)),
        "changed": changed,
        "half files": len(list(directory.rglob("*.partial"))),
        "left in the spool": len(spool.list_captures()),
        "pushes that did not finish": int(not report.complete),
        "runs too many": n_runs(tracker, directory) - 1,
    }
    (directory / "found").write_text("\n".join(f"{name} {n}" for name, n in found.items()))


def delivered_run(tracker: str, directory: Path, ref: object) -> Run:
    wanted = destination(tracker, directory)
    return connect(wanted.scheme, **wanted.options).open_run(ref)  # type: ignore[arg-type]


def n_runs(tracker: str, directory: Path) -> int:
    if tracker == "local":
        return len(list((directory / "runs").glob("*/run.json")))
    client = mlflow.MlflowClient(f"sqlite:///{directory}/mlflow.db")
    return len(client.search_runs(["0"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="of each tracker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trackers", nargs="+", default=sorted(LONGEST_TRAINING_S))
    options = parser.parse_args()
    names = [
        *("trials", "trainings killed", "pushes killed", "captures", "lost", "doubled"),
        *("changed", "half files", "left in the spool", "pushes that did not finish"),
        "runs too many",
    ]
    print(f"| tracker | {' | '.join(names)} | longest stall, ms |")
    print(f"|{' --- |' * (len(names) + 2)}")
    for tracker in options.trackers:
        tally, rng = Tally(), random.Random(options.seed)
        for _ in range(options.trials):
            with tempfile.TemporaryDirectory(prefix="faults-") as directory:
                trial(tracker, Path(directory), rng, tally)
        cells = [str(tally.counts[name]) for name in names]
        print(f"| {tracker} | {' | '.join(cells)} | {1000 * tally.longest_stall_s:.0f} |")


if __name__ == "__main__":
    main()
