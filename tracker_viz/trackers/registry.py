"""Experiment trackers behind one protocol. ``connect``, ``open_run`` and ``join`` are all that
other stations call.

An adapter's SDK is imported by its own module only, and that module only when it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from tracker_viz.errors import ConfigError, MissingDependencyError, unknown_name
from tracker_viz.trackers.base import Run, Tracker
from tracker_viz.types import RunRef

# scheme -> (module, class, what installs its SDK)
_ADAPTERS = {
    "mlflow": ("tracker_viz.trackers.mlflow.tracker", "MlflowTracker", "pip install mlflow"),
    "wandb": ("tracker_viz.trackers.wandb.tracker", "WandbTracker", "pip install 'wandb>=0.31'"),
    "local": ("tracker_viz.trackers.local", "LocalTracker", ""),
}


def connect(scheme: str, **options: Any) -> Tracker:
    """The tracker called ``scheme``, with its adapter's own options (``tracking_uri=`` for MLflow,
    ``base_url=`` for W&B, ...).

    Raises:
        ConfigError: there is no such tracker, or it does not take these options.
        MissingDependencyError: its SDK is not installed.
    """
    if scheme not in _ADAPTERS:
        raise ConfigError(unknown_name("tracker", scheme, _ADAPTERS))
    module_name, class_name, install = _ADAPTERS[scheme]
    try:
        adapter = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise MissingDependencyError(
            f"tracker {scheme!r} needs a package that is not installed ({error}); install it with: "
            f"{install}"
        ) from error
    known = inspect.signature(adapter).parameters
    for name in options:
        if name not in known:
            raise ConfigError(unknown_name(f"option of tracker {scheme!r}", name, known))
    tracker: Tracker = adapter(
        **{name: value for name, value in options.items() if value is not None}
    )
    return tracker


def open_run(ref: RunRef | str, **options: Any) -> Run:
    """An existing run by its reference.

    Raises:
        RunNotFoundError: there is none.
    """
    ref = RunRef.parse(ref) if isinstance(ref, str) else ref
    return connect(ref.scheme, **options).open_run(ref)


def join(live: Any, **options: Any) -> Run:
    """The run behind an object of a tracker's own client: a ``wandb.Run``, an MLflow run. It is
    joined and never ended by us.

    Raises:
        ConfigError: no tracker's client makes such objects.
    """
    package = type(live).__module__.partition(".")[0]
    if package not in _ADAPTERS:
        raise ConfigError(
            "a run is a name, a RunRef, a wandb.Run or an MLflow run; got "
            f"{type(live).__module__}.{type(live).__qualname__}"
        )
    return connect(package, **options).join(live)
