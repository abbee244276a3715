"""Wait for an outage to be noticed."""

from __future__ import annotations

import time

from tracker_viz.delivery import Outbox


def until_met(outbox: Outbox) -> None:
    """Until every destination has run into its outage: one that is over before proves nothing.
    Something must wait for them."""
    deadline = time.monotonic() + 120
    while not all(uploader.status().error for uploader in outbox._uploaders):
        assert time.monotonic() < deadline
        time.sleep(0.02)
