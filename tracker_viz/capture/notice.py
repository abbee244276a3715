"""Tell the user what is read once per training: to the log where the script has set one up, else to
the terminal."""

from __future__ import annotations

import logging
import sys

log = logging.getLogger("tracker_viz.capture")


def say(message: str) -> None:
    if log.hasHandlers():
        log.info("%s", message)
    else:
        print(f"tracker_viz: {message}", file=sys.stderr)
