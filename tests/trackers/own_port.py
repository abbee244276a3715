"""A port that is a test's own from the beginning to the end, also while nothing listens on it."""

from __future__ import annotations

import socket


def own_port() -> socket.socket:
    """Holds a free port of 127.0.0.1 until it is closed: no other process is given the port, and
    clients are refused.

    Servers set SO_REUSEADDR, and so can listen on it all the same. A port that was only looked up
    is free for whoever asks next: another test process, or anybody's connection while a server
    starts or is down.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held
