"""One process at a time works in a spool: the training, or one ``push``."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import filelock

from tracker_viz.errors import RunActiveError, TrackerError
from tracker_viz.files import locks_explained, read_json, write_json

POLL_S = 0.2


def acquire(directory: Path, *, wait_s: float) -> filelock.BaseFileLock:
    """Return the held lock of a spool.

    Args:
        wait_s: how long to wait for another ``push``; a training process is not waited for.

    Raises:
        RunActiveError: another process has it.
        ConfigError: the file system has no locks.
        OSError: the directory cannot be written to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # The thread that closes the outbox need not be the one that opened it.
    lock = filelock.FileLock(directory / ".lock", thread_local=False)
    deadline = time.monotonic() + wait_s
    while True:
        left_s = max(0.0, deadline - time.monotonic())
        try:
            with locks_explained(directory / ".lock"):
                lock.acquire(timeout=min(POLL_S, left_s))
        except filelock.Timeout:
            holder = _holder(directory)
            if holder.get("role") != "push" or left_s == 0:
                raise RunActiveError(_in_use(directory, holder)) from None
        else:
            return lock


def note_holder(directory: Path, role: str) -> None:
    """Write who holds the lock, for a process that comes second. ``role``: ``training`` or
    ``push``."""
    holder = {"role": role, "pid": os.getpid(), "host": socket.gethostname()}
    write_json(holder, directory / ".holder.json")


def _holder(directory: Path) -> dict[str, Any]:
    file = directory / ".holder.json"
    try:
        return read_json(file)
    except TrackerError:
        return {}  # not there yet, or a kill cut it


def _in_use(directory: Path, holder: dict[str, Any]) -> str:
    pid, host = holder.get("pid", "?"), holder.get("host", "?")
    way_out = "wait until it ends"
    if (pid, host) == (os.getpid(), socket.gethostname()):
        way_out = "that is this process: call close() on the earlier watch() first"
    return (
        f"the spool {directory} is in use by process {pid} on {host} "
        f"({holder.get('role', 'unknown')}), which uploads by itself; {way_out}"
    )
