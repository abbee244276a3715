"""Taps: captures of a spool for other processes on this machine, while a training works in it.

A spool deletes a capture once its trackers have it. A process that wants to draw it first makes a
directory below ``.taps``; the writer then links each new capture into that, too:

    <spool>/.taps/<host>-<pid>/captures/step-00000100.safetensors    and captures/index/

A link costs neither time nor disk until the spool's own file goes. The reader deletes what it has
read. One that is behind gets no more than ``MOST_WAITING``, so that the disk does not fill.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tracker_viz.errors import TrackerError
from tracker_viz.files import is_alive, read_json, user_path
from tracker_viz.trackers import LocalRun, RunInfo
from tracker_viz.types import CaptureRef, RunRef

log = logging.getLogger(__name__)

TAPS = ".taps"
MOST_WAITING = 64


def link_to_taps(spool: LocalRun, ref: CaptureRef) -> None:
    """Give every reader of ``spool`` a link to a capture that was just written. Never raises: no
    reader is worth a capture."""
    with suppress(OSError):
        for tap in (spool.directory / TAPS).iterdir():
            reader = LocalRun(tap)
            if len(reader.sizes("captures")) < MOST_WAITING:
                with suppress(OSError):
                    _link(spool, reader, ref)


def _link(spool: LocalRun, reader: LocalRun, ref: CaptureRef) -> None:
    # The entry first, as in the spool: a file is never listed without its hash.
    reader.entry_path(ref).parent.mkdir(parents=True, exist_ok=True)
    for file, link in (
        (spool.entry_path(ref), reader.entry_path(ref)),
        (spool.capture_path(ref), reader.capture_path(ref)),
    ):
        link.unlink(missing_ok=True)
        os.link(file, link)


class TappedSpool(LocalRun):
    """A spool as a run, whose captures stay until ``release``. A context manager: on leaving, the
    writer is asked for no more links.

    Args:
        spool: its directory. The training that makes it may begin later: the tap is there before,
            because a tracker can have the first capture within milliseconds.
    """

    def __init__(self, spool: str | Path) -> None:
        self._spool = LocalRun(user_path(spool))
        taps = self._spool.directory / TAPS
        super().__init__(taps / f"{socket.gethostname()}-{os.getpid()}")
        remove_dead_taps(self._spool.directory)

    def __enter__(self) -> TappedSpool:
        self._tap()
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        # No training came: leave nothing behind.
        with suppress(OSError):
            self.directory.parent.rmdir()
            self._spool.directory.rmdir()

    @property
    def ref(self) -> RunRef:
        return self._spool.ref

    @property
    def is_there(self) -> bool:
        """Whether a training has made the spool."""
        return (self._spool.directory / "run.json").is_file()

    def info(self) -> RunInfo:
        """Return the spool's; ``killed`` where its training is gone without a word."""
        info = self._spool.info()
        if info.state == "running" and not self._is_held():
            return replace(info, state="killed")
        return info

    def list_captures(self) -> list[CaptureRef]:
        if not self.directory.is_dir() and self.is_there:
            self._tap()
        return super().list_captures()

    def release(self, refs: Sequence[CaptureRef]) -> None:
        """Delete the links to captures that were read."""
        for ref in refs:
            self.capture_path(ref).unlink(missing_ok=True)
            self.entry_path(ref).unlink(missing_ok=True)

    def _tap(self) -> None:
        """Ask for links, and take those to the captures that are there already."""
        (self.directory / "captures" / "index").mkdir(parents=True, exist_ok=True)
        for ref in self._spool.list_captures():
            # Delivered and deleted at this moment.
            with suppress(FileNotFoundError):
                _link(self._spool, self, ref)

    def _is_held(self) -> bool:
        """Return whether the process that took the spool's lock last is alive, as far as this
        machine can tell."""
        try:
            holder = read_json(self._spool.directory / ".holder.json")
        except TrackerError:
            return True
        pid = holder.get("pid")
        is_here = holder.get("host") == socket.gethostname()
        return not is_here or (isinstance(pid, int) and is_alive(pid))


def remove_dead_taps(spool: Path) -> None:
    """Remove the taps of readers on this machine that were killed."""
    with suppress(OSError):
        for tap in (spool / TAPS).iterdir():
            host, _, pid = tap.name.rpartition("-")
            is_read = pid.isdigit() and is_alive(int(pid))
            if host == socket.gethostname() and not is_read:
                shutil.rmtree(tap, ignore_errors=True)
