"""Reach a tracker by its scheme, a run by its reference, and a live run by its object or logger."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from tracker_viz import plugins
from tracker_viz.errors import ConfigError, MissingDependencyError, unknown_name
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.tracker import Tracker
from tracker_viz.trackers.values import LoggerRun
from tracker_viz.types import RunRef


def connect(scheme: str, **options: Any) -> Tracker:
    """Return the tracker called ``scheme``, with its adapter's own options (``tracking_uri=`` for
    MLflow, ``base_url=`` for W&B, ...).

    Raises:
        ConfigError: there is no such tracker, or it does not take these options.
        MissingDependencyError: its SDK is not installed.
    """
    tracker_class: type[Tracker] = plugins.tracker_class(scheme)
    known = tracker_class.option_names()
    for name in options:
        if name not in known:
            raise ConfigError(unknown_name(f"option of tracker {scheme!r}", name, known))

    given = {name: value for name, value in options.items() if value is not None}
    try:
        if tracker_class.client:
            _import_client(tracker_class.client)
        return tracker_class(**given)
    except ImportError as error:
        raise MissingDependencyError(
            f"tracker {scheme!r} needs a package that is not installed ({error}); install it with: "
            f"{tracker_class.install}"
        ) from error


def _import_client(package: str) -> None:
    try:
        importlib.import_module(package)
    except RuntimeError as error:
        # MLflow's looks for the home directory, which a user id without an entry in passwd lacks.
        raise ConfigError(
            f"{package} cannot be imported ({error}); if it looks for a home directory, set HOME "
            "to one that can be written, such as HOME=/tmp"
        ) from error


def open_run(ref: RunRef | str, **options: Any) -> Run:
    """Open an existing run by its reference.

    Raises:
        RunNotFoundError: there is none.
    """
    ref = RunRef.parse(ref) if isinstance(ref, str) else ref
    return connect(ref.scheme, **options).open_run(ref)


def join(live: Any, **options: Any) -> Run:
    """Return the run behind an object of a tracker's own client: a ``wandb.Run``, an MLflow run. It
    is joined and never ended by us.

    Args:
        options: of the tracker that ``scheme_of(live)`` names.

    Raises:
        ConfigError: no tracker's client makes such objects.
    """
    return connect(scheme_of(live), **options).join(live)


def scheme_of(live: Any) -> str:
    """Return the scheme of the tracker whose client the object ``live`` comes from.

    Raises:
        ConfigError: no tracker's client makes such objects.
    """
    packages = {each.__module__.partition(".")[0] for each in type(live).__mro__}
    classes = plugins.tracker_classes()
    for scheme, tracker in classes.items():
        if tracker.client and tracker.client in packages:
            return scheme

    known = [tracker.live_run for tracker in classes.values() if tracker.live_run]
    raise ConfigError(
        f"a run is a name, a RunRef, {' or '.join(known)}; got "
        f"{type(live).__module__}.{type(live).__qualname__}"
    )


def switched_off(scheme: str, live: Any = None) -> str | None:
    """Return the setting by which the user keeps a tracker from recording anything, such as
    ``WANDB_MODE=disabled``; or None.

    Args:
        live: an object of the tracker's client, for which alone it may be set.
    """
    tracker: type[Tracker] = plugins.tracker_class(scheme)
    return tracker.switched_off(live)


def reported_to(report_to: Sequence[str]) -> list[str]:
    """Return the schemes of the trackers among the names of a Hugging Face Trainer's
    ``report_to``, in their order."""
    names = {tracker.report_to: scheme for scheme, tracker in plugins.tracker_classes().items()}
    return [names[name] for name in report_to if name and name in names]


def run_of_logger(logger: Any) -> tuple[str, LoggerRun] | None:
    """Return the scheme of the tracker that a Lightning logger writes into, and its run; None for a
    logger of no tracker."""
    names = {each.__name__ for each in type(logger).__mro__}
    for scheme, tracker in plugins.tracker_classes().items():
        if names.intersection(tracker.lightning_loggers):
            return scheme, tracker.run_of_logger(logger)
    return None
