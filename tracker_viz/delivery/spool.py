"""The spool: the local directory that keeps every capture until each tracker has it.

It is a local run (``trackers/local.py``: captures with their index, metrics, summary) plus what an
upload needs to continue in another process, after a kill at any instant:

    run.json          also "destinations": where the captures go, which run there is ours, never a
                      secret; "files": final ones for them
    .tables/          final tables, as the trackers show them
    sent/mlflow.jsonl what that destination has confirmed, one line per call
    .taps/            links to captures for processes that draw them: taps.py
    .lock             held by the training process, or by the one push that is at work
    .reserve          disk space for what an upload notes here: a disk that captures filled becomes
                      free by uploading them

Written by the outbox and by ``push``; nothing here talks to a tracker.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock

from tracker_viz import capture_file, commands
from tracker_viz.delivery import spool_lock
from tracker_viz.delivery.destinations import StoredDestination
from tracker_viz.delivery.journal import Journal
from tracker_viz.delivery.points import log_left_out
from tracker_viz.delivery.taps import link_to_taps, remove_dead_taps
from tracker_viz.errors import ConfigError
from tracker_viz.files import read_json, remove_torn, user_path, write_atomically, write_json
from tracker_viz.notebook import count
from tracker_viz.stored import SummaryFile, TableFile
from tracker_viz.trackers import (
    Cell,
    LocalRun,
    MetricPoint,
    RunConfig,
    RunState,
    checked_artifact,
    without_secrets,
)
from tracker_viz.types import Capture, CapturePath, CaptureRef, RunRef, capture_step

log = logging.getLogger(__name__)

RESERVE_BYTES = 1 << 17


class Spool:
    """The directory. One process at a time works in it, see ``lock``; its threads share this
    object."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = user_path(directory)
        self.run = LocalRun(self.directory, ours=True)
        self._journals: dict[str, Journal] = {}
        self._reserve = self.directory / ".reserve"
        self._lock: filelock.BaseFileLock | None = None
        # The last contents of run.json: a spool deleted during training is restored from it
        self._described: dict[str, Any] = {}
        # Around a change of run.json, which reads the file first
        self._description = threading.Lock()
        # Held while captures are deleted, and by readers that need them to stay
        self._removal = threading.Lock()

    def create(self, *, name: str, config: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Make the directory a spool; one that is a spool already keeps its name, config and tags.
        Call with the lock held."""
        if self.exists():
            return
        # From here the config goes onto the disk and into the trackers' parameters.
        tags = {name: str(value) for name, value in without_secrets(tags).items()}
        more: dict[str, Any] = {"destinations": []}
        if isinstance(config, RunConfig) and config.at_default:
            more["at_default"] = sorted(config.at_default)
        LocalRun.create(
            self.directory, name=name, config=without_secrets(config), tags=tags, more=more
        )

    def exists(self) -> bool:
        return (self.directory / "run.json").is_file()

    def description(self) -> dict[str, Any]:
        """Return ``run.json``; as this process read it last, while the directory is away."""
        self._described = self.run.description() or self._described
        return self._described

    def check_there(self) -> None:
        """Check that the directory is there. A disk that is unmounted for a while shows no
        captures, and that must not be taken for their end.

        Raises:
            OSError: it is away, or was deleted.
        """
        if not self.exists():
            raise FileNotFoundError(
                errno.ENOENT, "the spool is not there: unmounted, or deleted", str(self.directory)
            )

    def remake(self) -> None:
        """Make a directory that was deleted a spool again, with its destinations and what they have
        confirmed. Captures that were in it are gone."""
        with self._description:
            if self.exists():
                return
            write_json(self._described, self.directory / "run.json")
            for journal in self._journals.values():
                journal.rewrite()
        if self._lock is not None:
            # The file that this process had locked was deleted, too.
            self._lock.release(force=True)
            self._lock.acquire(timeout=0)

    def lock(self, role: str, *, wait_s: float) -> filelock.BaseFileLock:
        """Become the only process that works in this spool, until ``release()`` of what is
        returned; it is a context manager, too.

        Args:
            role: ``training`` or ``push``, shown to a process that comes second.
            wait_s: how long to wait for another ``push``; a training process is not waited for.

        Raises:
            RunActiveError: another process has it.
            ConfigError: the directory cannot be written to.
        """
        try:
            lock = spool_lock.acquire(self.directory, wait_s=wait_s)
            if role == "push":
                self.make_room()
            spool_lock.note_holder(self.directory, role)
            self._clean()
        except OSError as error:
            raise ConfigError(f"{self.directory} cannot be used as a spool: {error}") from error
        self._lock = lock
        return lock

    def _clean(self) -> None:
        """Remove what a kill left half done: files without their name, entries without their
        capture. Call with the lock held, before anything is written."""
        remove_torn(self.directory)
        remove_dead_taps(self.directory)
        for entry in self.run.entries_without_capture():
            entry.unlink(missing_ok=True)
        log_left_out(self.run)

    def make_room(self) -> None:
        """Free the disk space that is held back, so that on a full disk an upload can be noted, and
        the uploaded captures deleted."""
        self._reserve.unlink(missing_ok=True)

    # -- captures ----------------------------------------------------------------------------------

    def write(self, capture: Capture, *, taken: float) -> CaptureRef:
        """Write one capture with its index entry; on the disk when this returns. ``taken``: seconds
        since 1970.

        Raises:
            CaptureFileError: its arrays are of a kind that a capture file does not hold.
            OSError: the disk is full or away, or the directory was deleted.
        """
        self.check_there()
        contents = capture_file.to_bytes(capture)
        sha256 = hashlib.sha256(contents).hexdigest()
        ref = CaptureRef(capture.step, capture.file_name, len(contents), sha256)
        self.run.write_entry(ref, taken)
        capture_file.write_atomically(contents, self.path(ref))
        # Before an uploader hears of it, which may delete it.
        link_to_taps(self.run, ref)
        self.run.log_metrics([MetricPoint(capture.step, capture.metrics, taken)])
        return ref

    def path(self, ref: CaptureRef) -> Path:
        return self.run.capture_path(ref)

    def capture_paths(self, refs: Sequence[CaptureRef]) -> list[CapturePath]:
        return [CapturePath(ref, self.path(ref)) for ref in refs]

    def known_steps(self) -> frozenset[int]:
        """Return the steps that are here, or were until every destination had them."""
        # First the captures, then the journals: one that is delivered meanwhile is in a journal.
        steps = {ref.step for ref in self.run.list_captures()}
        for destination in self.destinations():
            # An uploader may add to it meanwhile.
            sent = list(self.journal(destination.name).captures)
            steps.update(map(capture_step, sent))
        return frozenset(steps)

    def hold_captures(self) -> AbstractContextManager[Any]:
        """Hold this while listing captures and reading them: nothing is deleted until you leave.
        Deliveries wait for that."""
        return self._removal

    def remove_delivered(self, refs: Sequence[CaptureRef]) -> None:
        """Delete the captures that every destination has confirmed, metrics included; nothing where
        they are to be kept here too."""
        with self._removal, self._description:
            if self.description().get("keep_captures"):
                return
            journals = [self.journal(destination.name) for destination in self.destinations()]
            for ref in refs:
                if journals and all(journal.has_all_of(ref) for journal in journals):
                    self.path(ref).unlink(missing_ok=True)
                    self.run.entry_path(ref).unlink(missing_ok=True)

    def keep_captures(self) -> None:
        """Keep captures here even when all destinations have them, also in later processes."""
        with self._description:
            self._describe(keep_captures=True)

    # -- destinations ------------------------------------------------------------------------------

    def destinations(self) -> list[StoredDestination]:
        stored = self.description().get("destinations", [])
        where = self.directory / "run.json"
        return [StoredDestination.from_json(each, where) for each in stored]

    def add_destination(self, wanted: StoredDestination) -> StoredDestination:
        """Store a destination, or return the one of that name that an earlier process stored.

        Raises:
            ConfigError: the spool belongs to another run there.
        """
        with self._description:
            known = {each.name: each for each in self.destinations()}
            earlier = known.get(wanted.name)
            if earlier and earlier.ref and wanted.ref not in (None, earlier.ref):
                raise ConfigError(
                    f"the spool {self.directory} belongs to {earlier.ref}; to record into "
                    f"{wanted.ref}, give it another directory"
                )
            if not self._reserve.exists():
                write_atomically(os.urandom(RESERVE_BYTES), self._reserve)
            if earlier:
                wanted = replace(
                    earlier,
                    options=wanted.options or earlier.options,
                    ref=earlier.ref or wanted.ref,
                )
            self._store_destinations(known | {wanted.name: wanted})
        return wanted

    def note_run(self, name: str, ref: RunRef) -> StoredDestination:
        """Store the run that was created for a destination."""
        with self._description:
            known = {each.name: each for each in self.destinations()}
            known[name] = replace(known[name], ref=ref)
            self._store_destinations(known)
        return known[name]

    def redirect(self, wanted: StoredDestination) -> None:
        """Send the captures to another run than so far: in the place of the destination of the same
        tracker, or beside the others where there is none. Call with the lock held.

        Raises:
            ConfigError: several destinations are of that tracker.
        """
        with self._description:
            known = {each.name: each for each in self.destinations()}
            same = [each for each in known.values() if each.scheme == wanted.scheme]
            if len(same) > 1:
                raise ConfigError(
                    f"{self.directory} has {len(same)} destinations of the "
                    f"tracker {wanted.scheme!r}; into= can replace only one"
                )
            if not known:
                # The spool is the run itself, which keeps what it has.
                self._describe(keep_captures=True)
            if same and same[0].ref != wanted.ref:
                wanted = replace(
                    wanted, name=same[0].name, options={**same[0].options, **wanted.options}
                )
                self._set_aside(wanted.name)
            if not same or same[0].ref != wanted.ref:
                self._store_destinations(known | {wanted.name: wanted})

    def _set_aside(self, name: str) -> None:
        """Start a new journal for a destination, and keep the old one beside it."""
        journal = self.directory / "sent" / f"{name}.jsonl"
        number = 1
        while (aside := journal.with_name(f"{name}.{number}.jsonl")).exists():
            number += 1
        here = set(self.run.list_captures())
        n_gone = sum(ref not in here for ref in self.journal(name).captures.values())
        if n_gone:
            captures = count(n_gone, "capture")
            log.warning("only the former run has %s of this spool, which it keeps", captures)
        if journal.exists():
            journal.rename(aside)
        self._journals.pop(name, None)

    def _store_destinations(self, known: Mapping[str, StoredDestination]) -> None:
        self._describe(destinations=[each.to_json() for each in known.values()])

    def _describe(self, **changes: Any) -> None:
        """Change entries of ``run.json``. Call with ``_description`` held."""
        self.check_there()
        self.run.describe(**changes)
        self.description()

    def journal(self, name: str) -> Journal:
        """Return the journal of the destination ``name``; the same object every time."""
        if name not in self._journals:
            if not re.fullmatch(r"[a-z0-9_-]+", name):
                raise ConfigError(
                    f"{self.directory / 'run.json'} names a destination {name!r}; expected "
                    "letters, digits, '_' and '-'"
                )
            self._journals[name] = Journal(self.directory / "sent" / f"{name}.jsonl")
        return self._journals[name]

    # -- what the training loop logged -------------------------------------------------------------

    def note_loop_metrics(self, names: frozenset[str]) -> None:
        """Store the names that the training loop passed in: a run that is not ours gets them from
        its own logger already."""
        with self._description:
            self._describe(loop_metrics=sorted(names | self.loop_metrics()))

    def loop_metrics(self) -> frozenset[str]:
        return frozenset(self.description().get("loop_metrics", ()))

    def note_state(self, state: RunState) -> None:
        with self._description:
            self._describe(state=state)

    def summary(self) -> dict[str, Any]:
        path = self.directory / "summary.json"
        if not path.is_file():
            return {}
        stored = read_json(path)
        SummaryFile.of(stored, path)
        return stored

    def put_table(self, rows: Sequence[Mapping[str, Cell]], name: str) -> None:
        """Keep a final table for the trackers, with its types, which the run's CSV lacks."""
        self.run.put_table(rows, name)
        stored = {"rows": [dict(row) for row in rows]}
        write_json(stored, self.directory / ".tables" / f"{name}.json")

    def tables(self) -> dict[str, list[dict[str, Cell]]]:
        """Return name -> rows."""
        files = sorted((self.directory / ".tables").glob("*.json"))
        return {file.stem: list(TableFile.of(read_json(file), file).rows) for file in files}

    def put_file(self, contents: bytes, artifact: str) -> None:
        """Keep a final file for the trackers."""
        write_atomically(contents, self.directory / checked_artifact(artifact))
        with self._description:
            known = self.description().get("files", ())
            self._describe(files=sorted({*known, artifact}))

    def files(self) -> dict[str, Path]:
        """Return run-relative path -> the file here."""
        known = self.description().get("files", ())
        return {artifact: self.directory / checked_artifact(artifact) for artifact in known}

    @property
    def push_command(self) -> str:
        """The command that finishes the upload, from any directory."""
        return commands.push(self.directory)

    def push_into_command(self, into: str) -> str:
        """Return the command that sends what is left into another run."""
        return commands.push(self.directory, into=into)

    def way_out_without_run(self, scheme: str) -> str:
        """Say what can be done where the run of a tracker is gone."""
        # A disk that is away may have captures.
        with contextlib.suppress(OSError):
            if not self.run.list_captures():
                return "Captures that were in it only are gone, too: the spool has none left"
        return f"To send what is left into a new run: {self.push_into_command(scheme)}"
