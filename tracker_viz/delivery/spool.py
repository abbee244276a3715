"""The spool: the local directory that holds every capture until each tracker has it.

It is a local run (``local.py``: captures with their index, metrics, summary) plus what an upload
needs to go on in another process, after a kill at any instant:

    run.json          also "destinations": where the captures go, which run there is ours, never a
    secret; "files": final ones for them .tables/          final tables, as the trackers shall show
    them sent/mlflow.jsonl what that destination has confirmed, one line per call .lock
    held by the training process, or by the one push that is at work .reserve          disk space
    for what an upload notes here: a disk that captures filled becomes free by uploading them

Written by the outbox and by ``push``; nothing here talks to a tracker.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import filelock

from tracker_viz import capture_file
from tracker_viz.commands import override
from tracker_viz.errors import ConfigError, RunActiveError
from tracker_viz.files import append_lines, read_json, read_lines, write_json
from tracker_viz.metrics import charted
from tracker_viz.trackers import capture_index
from tracker_viz.trackers.base import Cell, MetricPoint, RunState, checked_artifact
from tracker_viz.trackers.local import LocalRun
from tracker_viz.trackers.redaction import without_secrets
from tracker_viz.trackers.run_config import RunConfig
from tracker_viz.types import Capture, CapturePath, CaptureRef, RunRef, capture_step

RESERVE_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class StoredDestination:
    """One destination as ``run.json`` keeps it.

    Attributes:
        name: unique in this spool; the scheme, numbered where there are several of one scheme.
        options: what ``connect`` needs in another process; never a secret.
        ref: the run; None while it could not be created yet.
        ours: the run is (or will be) created by us, and is ours to end.
        key: makes creating the run repeatable, see ``Tracker.create_run``.
    """

    name: str
    scheme: str
    options: Mapping[str, str] = field(default_factory=dict)
    ref: RunRef | None = None
    ours: bool = True
    parent: RunRef | None = None
    key: str = field(default_factory=lambda: uuid4().hex)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "ref": self.ref and str(self.ref),
            "parent": self.parent and str(self.parent),
        }

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> StoredDestination:
        refs = {
            name: RunRef.from_stored(described[name]) if described.get(name) else None
            for name in ("ref", "parent")
        }
        return cls(**(dict(described) | refs))


class Journal:
    """What one destination has confirmed: lines appended and synced, so that a kill loses at most
    the line being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.captures: dict[str, CaptureRef] = {}
        self.metrics: set[str] = set()
        for line in read_lines(path):
            self.captures |= {
                ref.file_name: ref for ref in map(_ref_from_json, line.get("captures", ()))
            }
            self.metrics |= set(line.get("metrics", ()))

    def note_captures(self, refs: Sequence[CaptureRef]) -> None:
        if refs:
            self._append({"captures": [asdict(ref) for ref in refs]})
            self.captures |= {ref.file_name: ref for ref in refs}

    def note_metrics(self, file_names: Sequence[str]) -> None:
        if file_names:
            self._append({"metrics": list(file_names)})
            self.metrics |= set(file_names)

    def forget(self, refs: Sequence[CaptureRef]) -> None:
        """The destination turned out to lack these: they are to be sent again."""
        for ref in refs:
            self.captures.pop(ref.file_name, None)

    def has(self, ref: CaptureRef) -> bool:
        return self.captures.get(ref.file_name) == ref

    def has_all_of(self, ref: CaptureRef) -> bool:
        return self.has(ref) and ref.file_name in self.metrics

    def _append(self, line: Mapping[str, Any]) -> None:
        append_lines([json.dumps(line)], self._path)


class Spool:
    """The directory. One process at a time works in it, see ``held``; its threads share this
    object."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()
        self.run = LocalRun(self.directory, ours=True)
        self._journals: dict[str, Journal] = {}
        self._reserve = self.directory / ".reserve"
        self._guard = threading.Lock()
        self._removal = threading.Lock()

    def create(self, *, name: str, config: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Make the directory a spool; one that is a spool already keeps its name, config and tags.
        For who has taken it."""
        if not self.exists():
            # What goes from here into the trackers' parameters and onto the disk is free of
            # passwords.
            more: dict[str, Any] = {"destinations": []}
            if isinstance(config, RunConfig) and config.at_default:
                more["at_default"] = sorted(config.at_default)
            config, tags = (
                without_secrets(config),
                {name: str(value) for name, value in without_secrets(tags).items()},
            )
            LocalRun.create(self.directory, name=name, config=config, tags=tags, more=more)

    def exists(self) -> bool:
        return (self.directory / "run.json").is_file()

    @contextmanager
    def held(self, role: str, *, wait_s: float) -> Iterator[None]:
        """Be the only process that works in this spool.

        Args:
            role: ``training`` or ``push``, told to whoever comes second.
            wait_s: how long to wait for another ``push``; a training process is not waited for.

        Raises:
            RunActiveError, ConfigError: as ``take``.
        """
        with self.take(role, wait_s=wait_s):
            yield

    def take(self, role: str, *, wait_s: float) -> filelock.BaseFileLock:
        """As ``held``, for a holder that outlives one function: ``release()`` what is returned.

        Raises:
            RunActiveError: another process has it.
            ConfigError: the directory cannot be written to.
        """
        try:
            return self._taken(role, wait_s)
        except OSError as error:
            raise ConfigError(f"{self.directory} cannot be used as a spool: {error}") from error

    def _taken(self, role: str, wait_s: float) -> filelock.BaseFileLock:
        self.directory.mkdir(parents=True, exist_ok=True)
        # Whoever closes the outbox may be another thread than the one that opened it.
        lock = filelock.FileLock(self.directory / ".lock", thread_local=False)
        holder = self.directory / ".holder.json"
        deadline_s = wait_s
        while True:
            try:
                lock.acquire(timeout=min(0.2, max(deadline_s, 0)))
            except filelock.Timeout:
                deadline_s -= 0.2
                other = read_json(holder) if holder.is_file() else {}
                if other.get("role") != "push" or deadline_s <= 0:
                    here = (other.get("pid"), other.get("host")) == (
                        os.getpid(),
                        socket.gethostname(),
                    )
                    raise RunActiveError(
                        f"the spool {self.directory} is in use by process {other.get('pid', '?')} "
                        f"on {other.get('host', '?')} "
                        f"({other.get('role', 'unknown')}), which uploads by itself; "
                        + (
                            "that is this one: close what watch() returned, first"
                            if here
                            else "wait until it ends"
                        )
                    ) from None
            else:
                if role == "push":
                    self.make_room()
                write_json({"role": role, "pid": os.getpid(), "host": socket.gethostname()}, holder)
                return lock

    def make_room(self) -> None:
        """Let go of the disk space that is held back, so that on a full disk it can be noted what
        was uploaded, and then be deleted."""
        self._reserve.unlink(missing_ok=True)

    # -- captures
    # -------------------------------------------------------------------------------------------

    def write(self, capture: Capture, *, taken: float) -> CaptureRef:
        """Write one capture with its index entry; on the disk when this returns. ``taken``: seconds
        since 1970.

        Raises:
            CaptureFileError: its arrays are of a kind that a capture file does not hold.
            OSError: the disk is full or away.
        """
        contents = capture_file.to_bytes(capture)
        ref = CaptureRef(
            capture.step, capture.file_name, len(contents), hashlib.sha256(contents).hexdigest()
        )
        self.run.write_entry(ref, taken)
        capture_file.write_atomically(contents, self.path(ref))
        self.run.log_metrics([MetricPoint(capture.step, capture.metrics, taken)])
        return ref

    def path(self, ref: CaptureRef) -> Path:
        return self.directory / capture_index.CAPTURES / ref.file_name

    def capture_paths(self, refs: Sequence[CaptureRef]) -> list[CapturePath]:
        return [CapturePath(ref, self.path(ref)) for ref in refs]

    def metric_point(
        self, ref: CaptureRef, *, without: frozenset[str] = frozenset()
    ) -> MetricPoint:
        """Return what trackers chart of a capture, with the time at which it was taken.

        Args:
            without: names to leave out.
        """
        metrics = charted(capture_file.read_header(self.path(ref)).metrics)
        entry = read_json(self.directory / capture_index.INDEX / capture_index.entry_name(ref))
        return MetricPoint(
            ref.step,
            {name: value for name, value in metrics.items() if name not in without},
            float(entry["time"]),
        )

    def known_steps(self) -> frozenset[int]:
        """Steps that are here, or were here until every destination had them."""
        # What is here comes first: a capture that is delivered meanwhile is in the journals by
        # then, which uploaders add to.
        here = frozenset(ref.step for ref in self.run.list_captures())
        sent = [
            name
            for addressee in self.addressees()
            for name in list(self.journal(addressee.name).captures)
        ]
        return here | frozenset(map(capture_step, sent))

    def hold_captures(self) -> AbstractContextManager[Any]:
        """While this is entered, what lies here stays here, for whoever lists it and then reads it.
        Deliveries wait for the end of it."""
        return self._removal

    def remove_delivered(self, refs: Sequence[CaptureRef]) -> None:
        """Delete the captures that every destination has confirmed, metrics included; none where
        they are to be kept here too."""
        with self._removal, self._guard:
            if self.run.description().get("keep_captures"):
                return
            journals = [self.journal(addressee.name) for addressee in self.addressees()]
            for ref in refs:
                if journals and all(journal.has_all_of(ref) for journal in journals):
                    self.path(ref).unlink(missing_ok=True)
                    (self.directory / capture_index.INDEX / capture_index.entry_name(ref)).unlink(
                        missing_ok=True
                    )

    def keep_captures(self) -> None:
        """From now on and in every later process captures stay here, whoever else has them."""
        with self._guard:
            self.run.describe(keep_captures=True)

    # -- destinations
    # ---------------------------------------------------------------------------------------

    def addressees(self) -> list[StoredDestination]:
        return [
            StoredDestination.from_json(described)
            for described in self.run.description().get("destinations", [])
        ]

    def address(self, wanted: StoredDestination) -> StoredDestination:
        """Note a destination, or find the one that an earlier process noted; ``wanted.name`` says
        which.

        Raises:
            ConfigError: the spool belongs to another run there.
        """
        with self._guard:
            known = {addressee.name: addressee for addressee in self.addressees()}
            noted = known.get(wanted.name)
            if noted and noted.ref and wanted.ref not in (None, noted.ref):
                raise ConfigError(
                    f"the spool {self.directory} belongs to {noted.ref}; to record into "
                    f"{wanted.ref}, give it another directory"
                )
            if not self._reserve.exists():
                capture_file.write_atomically(os.urandom(RESERVE_BYTES), self._reserve)
            if noted:
                wanted = replace(
                    noted, options=wanted.options or noted.options, ref=noted.ref or wanted.ref
                )
            known[wanted.name] = wanted
            self.run.describe(destinations=[addressee.to_json() for addressee in known.values()])
            return wanted

    def note_run(self, name: str, ref: RunRef) -> StoredDestination:
        """Remember the run that was created for a destination."""
        with self._guard:
            known = [
                replace(addressee, ref=ref) if addressee.name == name else addressee
                for addressee in self.addressees()
            ]
            self.run.describe(destinations=[addressee.to_json() for addressee in known])
        return next(addressee for addressee in known if addressee.name == name)

    def journal(self, name: str) -> Journal:
        if name not in self._journals:
            if not re.fullmatch(r"[a-z0-9_-]+", name):
                raise ConfigError(
                    f"{self.directory / 'run.json'} names a destination {name!r}; expected "
                    "letters, digits and '-'"
                )
            self._journals[name] = Journal(self.directory / "sent" / f"{name}.jsonl")
        return self._journals[name]

    # -- what the training loop said
    # ------------------------------------------------------------------------

    def note_loop_metrics(self, names: frozenset[str]) -> None:
        """Names that the training loop passed in: a run that is not ours gets them from its own
        logger already."""
        with self._guard:
            self.run.describe(loop_metrics=sorted(names | self.loop_metrics()))

    def loop_metrics(self) -> frozenset[str]:
        return frozenset(self.run.description().get("loop_metrics", ()))

    def note_state(self, state: RunState) -> None:
        with self._guard:
            self.run.describe(state=state)

    def summary(self) -> dict[str, Any]:
        path = self.directory / "summary.json"
        return read_json(path) if path.is_file() else {}

    def put_table(self, rows: Sequence[Mapping[str, Cell]], name: str) -> None:
        """Keep a final table for the trackers. The spool's own CSV of it knows no types."""
        self.run.put_table(rows, name)
        write_json(
            {"rows": [dict(row) for row in rows]}, self.directory / ".tables" / f"{name}.json"
        )

    def tables(self) -> dict[str, list[dict[str, Cell]]]:
        """Name -> rows."""
        return {
            path.stem: read_json(path)["rows"]
            for path in sorted((self.directory / ".tables").glob("*.json"))
        }

    def put_file(self, contents: bytes, artifact: str) -> None:
        """Keep a final file for the trackers."""
        capture_file.write_atomically(contents, self.directory / checked_artifact(artifact))
        with self._guard:
            self.run.describe(files=sorted({*self.run.description().get("files", ()), artifact}))

    def files(self) -> dict[str, Path]:
        """Run-relative path -> where the file lies here."""
        return {
            artifact: self.directory / checked_artifact(artifact)
            for artifact in self.run.description().get("files", ())
        }

    @property
    def push_command(self) -> str:
        """What finishes the upload, from any directory."""
        return shlex.join(["tracker-viz", "push", override("spool", self.directory)])


def _ref_from_json(described: Mapping[str, Any]) -> CaptureRef:
    return CaptureRef(
        int(described["step"]),
        str(described["file_name"]),
        int(described["nbytes"]),
        str(described["sha256"]),
    )
