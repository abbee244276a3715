"""Show the user a line that is worth reading once: in the log where the script has set one up, else
on the terminal. Used by recordings and renderings; commands print their results themselves."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("tracker_viz")

_is_result_printed = False


def say(message: str, *, log: logging.Logger = log) -> None:
    """Log the message, or print it to stderr where no log handler is set up."""
    if log.hasHandlers():
        log.info("%s", message)
    else:
        print(f"tracker_viz: {message}", file=sys.stderr)


def is_result_printed() -> bool:
    """Return whether the caller prints results itself, so that they are not to be said here."""
    return _is_result_printed


@contextmanager
def results_printed() -> Iterator[None]:
    """Enter this where results are printed by the caller, such as a command, or dropped."""
    global _is_result_printed
    before, _is_result_printed = _is_result_printed, True
    try:
        yield
    finally:
        _is_result_printed = before
