"""Show the user a line that is worth reading once per training: in the log where the script has set
one up, else on the terminal."""

from __future__ import annotations

import logging
import sys

log = logging.getLogger("tracker_viz.capture")


def say(message: str) -> None:
    """Log the message, or print it to stderr where no log handler is set up."""
    if log.hasHandlers():
        log.info("%s", message)
    else:
        print(f"tracker_viz: {message}", file=sys.stderr)
