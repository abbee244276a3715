"""Run the trials that the command line asks for."""

from __future__ import annotations

import argparse
import importlib
import tempfile
import threading
from pathlib import Path

from fault_trials import disks, fuzz, kills, many, networks
from fault_trials.stores import STORES, LocalStore
from fault_trials.training import train

# Kind of trial -> the stores that it is tried with by default; every other kind: all.
STORES_OF = {"networks": ["mlflow-server", "wandb"], "many": ["local", "mlflow"]}


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
