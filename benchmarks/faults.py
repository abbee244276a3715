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

`python benchmarks/faults.py kill`, `draw`, `threads`, `disks`, `networks`, `many` and `fuzz` run
the trials; `table` prints the counts. Each trial is a separate process. It trains a small model
and takes eleven captures into one run while something goes wrong. Then `push` finishes the upload,
and the run is compared with what the training process noted.

| word | meaning |
|---|---|
| lost | captures that were on the disk and are not in the run |
| doubled | captures that are in the run twice, or in two runs |
| changed | captures with other bytes than on the disk |
| points | points of the loss chart |
| half files | `.partial` files that are left |
| stall | the longest time that the training thread waited for `submit` |
| memory | peak of the process, most of it torch |

W&B is the real client against a stand-in for the service. The machine had two cores and was shared
with other work.

The trials found these faults. Each is fixed and has a test:

* An artifact store that was unmounted for a moment hid 4 of 11 captures below its mount point.
* A lost answer to `runs/create` made a second run. That row was taken again.
* A connection to W&B that broke while a run started made the start fail.
* A cache that cannot be written to ended a render without a way out.
* A journal key of a newer version and a size of 5,000 digits were not read.
* A killed `follow` left half-written files.

Left out: three pushes that gave up after a minute without progress, at a load of 20, with
everything still in the spool or already in the run. For several processes that write one W&B run,
see [followed.md](followed.md)."""
EXPLAINED = {
    "kill": """## Trainings and pushes killed with SIGKILL at random instants

The push after the training run is killed, too, and the next push finishes. *While uploading*:
captures on the disk were waiting for their upload. Trials without a kill had ended before it. *Two
threads*: two training loops in one process, each into its own run, without a kill.""",
    "draw": """## render, compare and follow killed

After each kill, every capture of the two runs must be as it was, and every video must have all its
bytes and decode. *Half files* are counted after the next command that finishes; *failed*: the
command raised. A killed `follow` continues when it is started again. W&B accepts one writer: of two
renders *at once* one may be refused with a message; the other is in the run.""",
    "disks": """## Disks

Small file systems in memory: full (also from the start), without inodes, read-only, moved away for
1.5 s, or with 0.2 s for every sync and rename. They hold the spool, the temporary directory or
MLflow's artifacts of a training run, or the cache of a render from a server.""",
    "networks": """## Networks and servers

A proxy disturbs a share of the requests during training (with 8 s of patience at the end), then
lets everything through for `push`. *Reset after*: the connection breaks after the service did what
was asked; *lost*: its answer never comes; 429, 503 and 500 say Retry-After: 1. *Killed*: the
server, while captures are uploaded. *Lost database*: the run is deleted, and the rest is pushed
into another run.""",
    "many": """## Ten thousand captures

Small captures of one run, 100 at a time. *Us each*: how long `submit` took on the training thread.
*Delivered*: until the last was confirmed. *Memory* is that of the process.""",
    "fuzz": """## Damaged files

Hypothesis changes bytes, JSON values and headers of a valid file of each kind. Readers must read
the result or raise our errors.""",
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
