"""Write what a server sends to a file, as much of it as was promised and no more. Called by the
adapters for every download that they make themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tracker_viz.errors import TrackerError, TransientTrackerError

CHUNK_BYTES = 1 << 20
# A download takes so long at most, however slowly its bytes come.
PATIENCE_S = 600.0
SLOWEST_BYTES_PER_S = 50_000


class TooManyBytesError(TrackerError):
    """A server sends more than was promised, or than is ever read."""


def write_bounded(read: Callable[[int], bytes], target: Path, *, max_bytes: int, what: str) -> None:
    """Write to ``target`` what ``read`` gives, until it gives nothing.

    Args:
        read: returns up to so many bytes, as they came.
        max_bytes: how many there may be.
        what: what messages call it.

    Raises:
        TooManyBytesError: there are more.
        TransientTrackerError: they come too slowly to wait for.
    """
    deadline = time.monotonic() + PATIENCE_S + max_bytes / SLOWEST_BYTES_PER_S
    n_bytes = 0
    with target.open("wb") as file:
        while chunk := read(CHUNK_BYTES):
            n_bytes += len(chunk)
            check_size(n_bytes, max_bytes=max_bytes, what=what)
            if time.monotonic() > deadline:
                raise TransientTrackerError(f"{what} arrives too slowly: {n_bytes:,} bytes so far")
            file.write(chunk)


def check_size(n_bytes: int, *, max_bytes: int, what: str) -> None:
    """Check a size that a server says, or that came.

    Raises:
        TooManyBytesError: it is above ``max_bytes``.
    """
    if n_bytes > max_bytes:
        raise TooManyBytesError(
            f"{what} has {n_bytes:,} bytes or more; at most {max_bytes:,} are read"
        )
