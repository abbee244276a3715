"""A TCP link that is slow, and that can be cut and restored: how tests and benchmarks make a server
far away, or dead.

    with SlowLink(("127.0.0.1", 5000), one_way_s=0.010) as link:       # 20 ms there and back
        ...  link.uri  link.cut()  link.restore()

To a client, a cut link is a killed server: its connections are reset and new ones refused, until it
is restored on the same port.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import struct
import threading
import time
from collections import deque
from types import TracebackType

from own_port import own_port

_RESET = struct.pack("ii", 1, 0)
_LOOK_S = 0.05  # a change of the delay is noticed after this at the latest


class SlowLink:
    """Passes bytes on between clients and ``target``, each ``one_way_s`` later than it came.

    Attributes:
        n_connections: how many clients were let in.
        one_way_s: delay, also of what is on its way; an hour of it makes a server that hangs, and 0
            after that lets it answer.
        cut_after_bytes: when set, the link cuts itself in the middle of an upload, once that many
            bytes went towards the target.
        lost_after_bytes: when set, what goes towards the target after that many bytes never
            arrives, and nobody is told.
    """

    def __init__(self, target: tuple[str, int], *, one_way_s: float = 0.0) -> None:
        self._target = target
        self.one_way_s = one_way_s
        self.n_connections = 0
        self.cut_after_bytes: int | None = None
        self.lost_after_bytes: int | None = None
        self._listener: socket.socket | None = None
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._guard = threading.Lock()
        self._held = own_port()
        self.port: int = self._held.getsockname()[1]

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def restore(self) -> None:
        """Accept connections."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Refuse new connections and reset those that are open, whatever is under way in them."""
        listener, self._listener = self._listener, None
        if listener:
            # A thread that waits in accept() keeps the socket open until it is woken.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._guard:
            pairs, self._pairs = self._pairs, set()
        for end in itertools.chain.from_iterable(pairs):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> SlowLink:
        self.restore()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cut()
        self._held.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self._guard:
                self._pairs.add(pair)
            self.n_connections += 1
            threading.Thread(target=self._pass_on, args=(pair,), daemon=True).start()

    def _pass_on(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """Both directions of one connection, until either end is done."""
        client, server = pair
        ends = {client.fileno(): (client, server), server.fileno(): (server, client)}
        on_its_way: deque[tuple[float, socket.socket, bytes]] = deque()
        with selectors.DefaultSelector() as ready, contextlib.suppress(OSError, ValueError):
            for end in pair:
                ready.register(end, selectors.EVENT_READ)
            while ready.get_map() or on_its_way:
                due_in_s = (
                    on_its_way[0][0] + self.one_way_s - time.monotonic() if on_its_way else None
                )
                wait_s = None if due_in_s is None else max(0.0, min(due_in_s, _LOOK_S))
                for key, _ in ready.select(wait_s):
                    end, other = ends[key.fd]
                    received = end.recv(1 << 16)
                    on_its_way.append((time.monotonic(), other, received))
                    if not received:
                        ready.unregister(end)
                while on_its_way and on_its_way[0][0] + self.one_way_s <= time.monotonic():
                    _, end, received = on_its_way.popleft()
                    if not received:
                        end.shutdown(socket.SHUT_WR)
                    elif end is server and self._spent("cut_after_bytes", len(received)):
                        self.cut()
                        return
                    elif end is not server or not self._spent("lost_after_bytes", len(received)):
                        end.sendall(received)
        with self._guard:
            self._pairs.discard(pair)
        for end in pair:
            end.close()

    def _spent(self, limit: str, nbytes: int) -> bool:
        with self._guard:
            left: int | None = getattr(self, limit)
            if left is not None:
                setattr(self, limit, left - nbytes)
            return left is not None and left < nbytes
