"""Destinations of captures in three forms: wanted by ``watch``, connected, stored in the spool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

from tracker_viz.stored import DestinationEntry
from tracker_viz.trackers import Run, Tracker, connect
from tracker_viz.types import RunRef


@dataclass(frozen=True, slots=True)
class Destination:
    """A run to send captures to, or a tracker in which one is created.

    Attributes:
        scheme: the tracker, ``mlflow``, ``wandb``, ``local``, ...
        options: the adapter's own (``tracking_uri``, ``experiment``, ``project``, ...).
        ref: the run to join; None creates one, or joins the one that the user's own code has open
            if ``join_active``.
        run: the run to join, where it is open already; its tracker is not connected again.
        ours: the run is ours to end; None means only a run that we create.
        parent: the sweep's run above it; None takes that of the sweep job that this process is. A
            run that is joined keeps the parent that it has.
    """

    scheme: str
    options: Mapping[str, Any] = field(default_factory=dict)
    ref: RunRef | None = None
    run: Run | None = None
    ours: bool | None = None
    parent: RunRef | None = None
    join_active: bool = True

    @classmethod
    def joining(cls, run: Run, parent: RunRef | None = None) -> Destination:
        return cls(run.ref.scheme, run=run, parent=parent)


@dataclass(frozen=True, slots=True)
class StoredDestination:
    """One destination as ``run.json`` of the spool keeps it.

    Attributes:
        name: unique in this spool; the scheme, numbered where there are several of one scheme.
        options: what ``connect`` needs in another process; never a secret.
        ref: the run; None while it could not be created yet.
        ours: the run is (or will be) created by us, and is ours to end.
        key: makes creating the run repeatable, see ``Tracker.create_run``.
        unknown: what a newer version noted beside these.
    """

    name: str
    scheme: str
    options: Mapping[str, str] = field(default_factory=dict)
    ref: RunRef | None = None
    ours: bool = True
    parent: RunRef | None = None
    key: str = field(default_factory=lambda: uuid4().hex)
    unknown: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        known = asdict(self) | {"ref": _text(self.ref), "parent": _text(self.parent)}
        del known["unknown"]
        return {**self.unknown, **known}

    @classmethod
    def from_json(cls, stored: Any, where: object) -> StoredDestination:
        """Read one that ``to_json`` wrote.

        Raises:
            TrackerError: it is none.
        """
        entry = DestinationEntry.of(stored, where)
        return cls(
            name=entry.name,
            scheme=entry.scheme,
            options=entry.options,
            ref=_ref(entry.ref),
            ours=entry.ours,
            parent=_ref(entry.parent),
            key=entry.key,
            unknown=entry.model_extra or {},
        )


@dataclass(frozen=True, slots=True)
class ConnectedDestination:
    """The input of an uploader: a tracker, a run that is open already, or both."""

    asked: Destination
    tracker: Tracker | None
    run: Run | None

    def stored_as(self, name: str) -> StoredDestination:
        ref: RunRef | None
        ours: bool | None
        if self.run is not None:
            options, ref, ours = self.run.environment, self.run.ref, False
        else:
            assert self.tracker is not None
            options, ref, ours = self.tracker.options, self.asked.ref, self.asked.ours
            if ours is None:
                ours = ref is None

        scheme, parent = self.asked.scheme, self.asked.parent
        return StoredDestination(name, scheme, dict(options), ref, ours=ours, parent=parent)


def connected(destination: Destination) -> ConnectedDestination:
    """Connect the tracker of a destination, and find the run that is open already. Call on the
    user's own thread: the active run of an SDK belongs to its thread."""
    if destination.run is not None:
        return ConnectedDestination(destination, None, destination.run)

    tracker = connect(destination.scheme, **destination.options)
    active = None
    if destination.ref is None and destination.join_active:
        active = tracker.active_run()
    return ConnectedDestination(destination, tracker, active)


def _text(ref: RunRef | None) -> str | None:
    return None if ref is None else str(ref)


def _ref(text: str | None) -> RunRef | None:
    return RunRef.from_stored(text) if text else None
