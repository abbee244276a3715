"""A team's gateway in front of an MLflow server: it lets through who has the token, and takes the
token off."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP_BY_HOP = {"connection", "transfer-encoding", "authorization", "host", "content-length"}


class BearerProxy:
    """``with BearerProxy(port, token) as proxy: ... proxy.uri``"""

    def __init__(self, target_port: int, token: str) -> None:
        class Gateway(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Authorization") != f"Bearer {token}":
                    # As careless gateways do, it says what it was given.
                    self.reply(
                        401, {}, f"not let in with: {self.headers.get('Authorization')}".encode()
                    )
                    return
                beyond = http.client.HTTPConnection("127.0.0.1", target_port, timeout=60)
                beyond.request(
                    self.command,
                    self.path,
                    body,
                    {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP},
                )
                said = beyond.getresponse()
                self.reply(
                    said.status,
                    {k: v for k, v in said.getheaders() if k.lower() not in HOP_BY_HOP},
                    said.read(),
                )
                beyond.close()

            def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> BearerProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
