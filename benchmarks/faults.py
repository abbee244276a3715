"""Kill, starve and cut off trainings, pushes and drawings, and count what became of captures.

    python benchmarks/faults.py kill --trials 40 --store mlflow-server
    python benchmarks/faults.py draw --trials 10           # kills render, compare and follow
    python benchmarks/faults.py threads --trials 5         # two trainings in one process
    python benchmarks/faults.py disks --trials 3           # needs root: mounts small file systems
    python benchmarks/faults.py networks --trials 5
    python benchmarks/faults.py many --captures 10000
    python benchmarks/faults.py fuzz --examples 100000
    python benchmarks/faults.py                            # prints what was counted so far

Trials are forks. What is counted is kept in ``faults.json`` after each of them, so a run that was
stopped goes on where it was; ``--trials`` says how many a row has in the end. Captures count as
lost if they were on the disk when a fault came and are not in the run after the next ``push``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from fault_trials.page import SECTIONS, report
from fault_trials.tally import KEPT
from measuring import add_tests_to_path

STORES = ("local", "mlflow", "mlflow-server", "mlflow-postgresql", "wandb")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = [*SECTIONS, "threads", "table"]
    parser.add_argument("kind", nargs="?", default="table", choices=kinds)
    parser.add_argument("--trials", type=int, default=5, help="of each row, in the end")
    parser.add_argument("--captures", type=int, default=10_000, help="of many")
    parser.add_argument("--examples", type=int, default=100_000, help="of fuzz, in all")
    parser.add_argument("--store", nargs="+", choices=STORES)
    options = parser.parse_args()
    if options.kind != "table":
        run_trials(options)

    page = report(json.loads(KEPT.read_text()))
    KEPT.with_suffix(".md").write_text(page)
    print(page)


def run_trials(options: argparse.Namespace) -> None:
    # One thread a process: what forks must have none, and the machine is shared. Libraries read
    # this when they are imported.
    os.environ.update({"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"})
    add_tests_to_path("trackers")
    from fault_trials import run

    run.warm_up()
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        run.run(options, Path(directory))


if __name__ == "__main__":
    main()
