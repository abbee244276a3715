"""A proxy between a client and an HTTP service that does what networks do."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from own_port import own_port

_RESET = struct.pack("ii", 1, 0)
_OF_THE_LINK = {"connection", "keep-alive", "transfer-encoding", "content-length"}
LATENCY_S = 0.2
HANG_S = 3600.0
RETRY_AFTER_S = 1
STATUSES = {"429": 429, "503": 503, "500": 500}


class Proxy:
    """What the proxy's process answers; ``port`` stays the same."""

    def __init__(self) -> None:
        self._held = own_port()
        self.rng = random.Random(0)
        self.target = ("", 0)
        self.fault = "none"
        self.share = 0.0
        self._http: ThreadingHTTPServer | None = None

    def reached(self, target: tuple[str, int]) -> str:
        """Pass requests on to ``target``; return the address of the proxy."""
        self.target = target
        self.restart()
        return f"http://127.0.0.1:{self._held.getsockname()[1]}"

    def set(self, fault: str, share: float, seed: str) -> None:
        """Have this fault in so large a share of requests; ``down``: in all of them."""
        self.rng = random.Random(seed)
        self.fault, self.share = fault, share
        if fault == "down":
            self.stop()
        elif self._http is None:
            self.restart()

    def restart(self) -> None:
        self._http = _Server(self._held.getsockname(), self)
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        http_server, self._http = self._http, None
        if http_server:
            http_server.shutdown()
            http_server.server_close()

    def chosen(self) -> str:
        """Return the fault of the next request."""
        return self.fault if self.rng.random() < self.share else "none"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], proxy: Proxy) -> None:
        self.proxy = proxy
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def _pass_on(self) -> None:
        body = self._body()
        fault = self.server.proxy.chosen()
        if fault == "latency":
            time.sleep(LATENCY_S)
        if fault == "hang":
            time.sleep(HANG_S)
        if fault in STATUSES:
            self._refuse(STATUSES[fault])
            return
        if fault == "reset before":
            self._reset()
            return
        status, headers, contents = self._asked(body)
        # The service has done what it was asked for, and its client does not learn of it.
        if fault == "reset after":
            self._reset()
            return
        if fault == "lost":
            time.sleep(HANG_S)
        self._answer(status, headers, contents, cut=fault == "truncated")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _pass_on

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _asked(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.server.proxy.target, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _OF_THE_LINK}
        try:
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], contents: bytes, *, cut: bool
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _OF_THE_LINK:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        if cut:
            self.wfile.write(contents[: len(contents) // 2])
            self.wfile.flush()
            self._reset()
            return
        self.wfile.write(contents)

    def _refuse(self, status: int) -> None:
        self.send_response_only(status)
        self.send_header("Retry-After", str(RETRY_AFTER_S))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
