"""Find the trackers that are installed: scheme -> the class that reaches that tracker.

``mlflow``, ``wandb`` and ``local`` come with this package. Another distribution adds one by an
entry point in its ``pyproject.toml``, and needs no line in here:

    [project.entry-points."tracker_viz.trackers"]
    mine = "my_tracker:MyTracker"

The key is the scheme, the first word of ``mine:<run>``. The class is a subclass of
``tracker_viz.trackers.Tracker``, and its module must not import the tracker's own SDK: it is loaded
to read a reference, on machines and in processes that never talk to that tracker.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from tracker_viz.errors import ConfigError, unknown_name

log = logging.getLogger(__name__)

GROUP = "tracker_viz.trackers"

_BUILT_IN = {
    "mlflow": "tracker_viz.trackers.mlflow.tracker:MlflowTracker",
    "wandb": "tracker_viz.trackers.wandb.tracker:WandbTracker",
    "local": "tracker_viz.trackers.local:LocalTracker",
}
# A scheme is part of file names (the spool's journals) and overrides (tracker.<scheme>.<option>).
_SCHEME = re.compile(r"[a-z][a-z0-9_]*")


def schemes() -> tuple[str, ...]:
    """Return the schemes of all installed trackers, our own first."""
    return tuple(_installed())


def tracker_class(scheme: str) -> Any:
    """Return the ``Tracker`` subclass that is installed for ``scheme``.

    Raises:
        ConfigError: no such tracker is installed, or its class cannot be loaded.
    """
    if scheme not in _installed():
        raise ConfigError(unknown_name("tracker", scheme, schemes()))

    return _loaded(scheme)


def tracker_classes() -> dict[str, Any]:
    """Return scheme -> class for all installed trackers; one that cannot be loaded is left out
    with a warning."""
    classes = {}
    for scheme in schemes():
        try:
            classes[scheme] = _loaded(scheme)
        except ConfigError as error:
            log.warning("%s", error)
    return classes


@functools.cache
def _installed() -> Mapping[str, EntryPoint]:
    found = {name: EntryPoint(name, value, GROUP) for name, value in _BUILT_IN.items()}
    for entry in entry_points(group=GROUP):
        if not _SCHEME.fullmatch(entry.name):
            log.warning(
                "the tracker %r (%s) is ignored: a scheme is lower-case letters, digits and '_'",
                entry.name,
                entry.value,
            )
        elif entry.name in _BUILT_IN:
            log.warning("%s is ignored: the scheme %r is taken", entry.value, entry.name)
        else:
            found[entry.name] = entry
    return found


@functools.cache
def _loaded(scheme: str) -> Any:
    entry = _installed()[scheme]
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the tracker {scheme!r} cannot be loaded from {entry.value} ({error}); reinstall the "
            "package that brings it"
        ) from error
