"""Kill, starve and cut off trainings, pushes and drawings, and count what became of captures.

    python benchmarks/faults.py kill --trials 40 --store mlflow-server
    python benchmarks/faults.py draw --trials 10           # kills render, compare and follow
    python benchmarks/faults.py threads --trials 5         # two trainings in one process
    python benchmarks/faults.py disks --trials 3           # needs root: mounts small file systems
    python benchmarks/faults.py networks --trials 5
    python benchmarks/faults.py many --captures 10000
    python benchmarks/faults.py fuzz --examples 100000
    python benchmarks/faults.py table                      # what was counted so far

Trials are forks. What is counted is kept in ``faults.json`` after each of them, so a run that was
stopped goes on where it was; ``--trials`` says how many a row has in the end. Captures count as
lost if they were on the disk when a fault came and are not in the run after the next ``push``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import threading
from pathlib import Path

# One thread a process: what forks must have none, and the machine is shared.
os.environ.update({"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"})
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/trackers"))

from fault_trials import disks, fuzz, kills, many, networks
from fault_trials.stores import STORES, LocalStore
from fault_trials.tally import Tallies, table
from fault_trials.training import train

TABLES = {
    "kill": kills.COLUMNS,
    "draw": kills.DRAWN_COLUMNS,
    "disks": disks.COLUMNS,
    "networks": networks.COLUMNS,
    "many": many.COLUMNS,
    "fuzz": fuzz.COLUMNS,
}
INTRODUCTION = """# Kills, disks, networks and damaged files

`python benchmarks/faults.py kill`, `draw`, `disks`, `networks`, `many`, `fuzz`; `table` prints
what was counted. Every trial is a process of its own that trains a small model and captures it
eleven times into one run, and that something happens to; then `push`, and the run is compared
with what the training noted. *Lost*: captures that were on the disk and are not in the run.
*Doubled*: twice in it, or in two runs. *Changed*: other bytes. *Points*: of the loss's chart.
*Half files*: `.partial` files that are left. W&B is the real client against a stand-in for the
service. The stall is the longest wait of the training for `submit`; memory is the process's,
most of which is torch. The machine had two cores, shared with others.

Found by these trials, and fixed with a test: an artifact store that was unmounted for a moment
(4 of 11 captures went below its mount point); an answer to `runs/create` lost on its way (2 runs
too many; that row was left out and taken anew); a line to W&B that broke while a run started (the
start was refused: the row *wandb: truncated* is of before); a cache that cannot be written; a
journal's key of a newer version, and a size of 5,000 digits; half-written files of a `follow` that
was killed, which the next one left. Three pushes gave up after a minute without progress, on a
machine with a load of 20, with everything still in the spool or all of it in the run: left out.
Several processes that write one run of W&B: [followed.md](followed.md)."""
EXPLAINED = {
    "kill": """## Trainings and pushes killed with SIGKILL at random instants

A push after the training is killed, too, and the next one finishes. *While uploading*: captures
on the disk waited for their upload. Trials without a kill had ended before it. *Two threads*: two
trainings in one process, each into a run of its own, and no kill.""",
    "draw": """## Renderings, comparisons and followings killed

After each kill every capture of the two runs and every video in them is read: it is there as it
was, or whole. *Half files* are counted after the next whole one; *failed*: the work raised. A
following that was killed is gone on with. W&B takes one writer: of two renderings *at once* one is
refused there, in words, and the other one is in the run.""",
    "disks": """## Disks

File systems in memory of their own, full (also from the start), without inodes, read-only or
moved away for 1.5 s, or with 0.2 s for every sync and rename. Under the spool, the temporary
directory and MLflow's artifacts a training writes on; with the cache a run is drawn from a
server.""",
    "networks": """## Networks and servers

A proxy does this to a share of the requests while the training lasts (8 s of patience at its
end), then lets all through for `push`. Resets *after* come when the service has done what it
was asked for; *lost*: its answer never comes; 429, 503 and 500 say Retry-After: 1. *Killed*:
the server, while captures are uploaded. *Lost database*: the run is deleted in it, and what is
left is pushed into another.""",
    "many": """## Ten thousand captures""",
    "fuzz": """## Damaged files

Bytes, JSON values and headers of a whole file of each kind, changed by hypothesis. Readers
raise our errors, or read it.""",
}
STORES_OF = {"networks": ["mlflow-server", "wandb"], "many": ["local", "mlflow"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=[*TABLES, "threads", "table"])
    parser.add_argument("--trials", type=int, default=5, help="of each row, in the end")
    parser.add_argument("--captures", type=int, default=10_000, help="of many")
    parser.add_argument("--examples", type=int, default=100_000, help="of fuzz, in all")
    parser.add_argument("--store", nargs="+", choices=list(STORES))
    options = parser.parse_args()
    if options.kind != "table":
        warm_up()
        with tempfile.TemporaryDirectory(prefix="faults-") as directory:
            run(options, Path(directory))
    write_tables()


def run(options: argparse.Namespace, directory: Path) -> None:
    kind, n_trials = options.kind, options.trials
    if kind == "disks":
        disks.try_disks(n_trials, directory)
    elif kind == "fuzz":
        fuzz.fuzz(options.examples, directory)
    else:
        for name in options.store or STORES_OF.get(kind, list(STORES)):
            place = directory / name
            place.mkdir()
            match kind:
                case "kill":
                    kills.kill_trainings(name, n_trials, place)
                case "threads":
                    kills.train_in_threads(name, n_trials, place)
                case "draw":
                    kills.kill_drawings(name, n_trials, place)
                case "networks":
                    networks.try_networks(name, n_trials, place)
                case "many":
                    many.try_many(name, options.captures, place)
    if kind == "networks" and not options.store:
        networks.try_restarts(n_trials, directory)
        networks.try_lost_database(n_trials, directory)


def write_tables() -> None:
    """Print what was counted so far, and write it beside this file."""
    parts = [INTRODUCTION]
    for kind, columns in TABLES.items():
        rows = Tallies(kind).rows()
        if rows:
            parts.append(f"{EXPLAINED[kind]}\n\n{table(rows, columns, kind)}")
    text = "\n\n".join(parts) + "\n"
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


def warm_up() -> None:
    """Import here what every fork would import again: half of a trial's time."""
    for name in ("mlflow.tracker", "wandb.tracker"):
        importlib.import_module(f"tracker_viz.trackers.{name}")
    for name in ("mlflow.store.tracking.sqlalchemy_store", "tracker_viz.rendering", "seaborn"):
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        place = Path(directory)
        train(LocalStore(place), "warm-up", place)
    assert threading.active_count() == 1, "what forks has no threads"


if __name__ == "__main__":
    main()
