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

from fault_trials import kills
from fault_trials.stores import STORES, LocalStore
from fault_trials.tally import Tallies, table
from fault_trials.training import train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["kill", "draw", "table"])
    parser.add_argument("--trials", type=int, default=40, help="of each row, in the end")
    parser.add_argument("--store", nargs="+", default=list(STORES), choices=list(STORES))
    options = parser.parse_args()
    warm_up()
    for name in options.store:
        with tempfile.TemporaryDirectory(prefix="faults-") as directory:
            place = Path(directory)
            if options.kind == "kill":
                kills.kill_trainings(name, options.trials, place)
            if options.kind == "draw":
                kills.kill_drawings(name, options.trials, place)
    print(table(Tallies("kill").rows(), kills.COLUMNS, "store"))
    print(table(Tallies("drawings").rows(), kills.DRAWN_COLUMNS, "killed"))


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
