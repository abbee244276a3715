"""Kill, starve and cut off trainings, pushes and drawings, and count what became of captures.

    python benchmarks/faults.py kill --trials 40 --store mlflow-server
    python benchmarks/faults.py draw --trials 10           # kills render and compare
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
STORES_OF = {"networks": ["mlflow-server", "wandb"], "many": ["local", "mlflow"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=[*TABLES, "table"])
    parser.add_argument("--trials", type=int, default=5, help="of each row, in the end")
    parser.add_argument("--captures", type=int, default=10_000, help="of many")
    parser.add_argument("--examples", type=int, default=100_000, help="of fuzz, in all")
    parser.add_argument("--store", nargs="+", choices=list(STORES))
    options = parser.parse_args()
    if options.kind != "table":
        warm_up()
        with tempfile.TemporaryDirectory(prefix="faults-") as directory:
            run(options, Path(directory))
    print_tables()


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
                case "draw":
                    kills.kill_drawings(name, n_trials, place)
                case "networks":
                    networks.try_networks(name, n_trials, place)
                case "many":
                    many.try_many(name, options.captures, place)
    if kind == "networks" and not options.store:
        networks.try_restarts(n_trials, directory)
        networks.try_lost_database(n_trials, directory)


def print_tables() -> None:
    for kind, columns in TABLES.items():
        print(table(Tallies(kind).rows(), columns, kind), end="\n\n")


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
