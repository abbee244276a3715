"""The stand-in over HTTP: POST /graphql, POST /files/<run>/file_stream, PUT and GET of stored
bytes."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import re
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from own_port import own_port

from wandb_server.graphql import GraphQL
from wandb_server.state import Artifact, Run, State

ENTITY = "tester"
API_KEY = "0123456789abcdef" * 2 + "01234567"  # 40 characters; worth nothing anywhere

AWAITED_S = 20.0

_OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")


@dataclass(frozen=True)
class Request:
    """One request that was answered: an operation's name, or ``PUT artifact-file`` and the like."""

    what: str
    at: float
    nbytes: int


class WandbServer:
    """Owns the state and, between ``start`` and ``stop``, a listening socket on one and the same
    port."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.state = State()
        self.entity = ENTITY
        self.delay_s = delay_s
        self.slow: dict[str, float] = {}  # what is asked -> its own delay in seconds
        self.awaited: Counter[str] = (
            Counter()
        )  # what is asked -> answered only once so many of it were in flight together
        self.pages_behind = 0  # that many pages of history are empty, as where rows show late
        self.loses = ""  # the suffix of run files that are taken in and never stored
        self.cut: set[str] = set()  # what is asked and lost on the way: nobody answers it
        self.requests: list[Request] = []
        self.refused: list[str] = []
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight: Counter[str] = Counter()
        self.flight = threading.Condition()
        self.graphql = GraphQL(self)
        self._held = own_port()
        self._port = self._held.getsockname()[1]
        self._http: _HTTPServer | None = None

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> WandbServer:
        assert self._http is None, "the server runs already"
        self._http = _HTTPServer(("127.0.0.1", self._port), self)
        threading.Thread(
            target=self._http.serve_forever, args=(0.05,), daemon=True, name="wandb-server"
        ).start()
        return self

    def stop(self) -> None:
        """Gone as after a power cut: the port refuses, open connections break. What is stored
        stays."""
        http, self._http = self._http, None
        if http:
            http.shutdown()
            http.server_close()
            http.break_connections()

    def __enter__(self) -> WandbServer:
        return self if self._http else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._held.close()

    # -- for its clients ---------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def environment(self, directory: Path) -> dict[str, str]:
        """Variables with which a client reaches this server, keeps its files in ``directory``, and
        can reach nothing else."""
        # the discard port: a request that would leave this machine fails at once
        nowhere = "http://127.0.0.1:9"
        return {
            "WANDB_BASE_URL": self.base_url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_DIR": str(directory),
            "WANDB_CACHE_DIR": str(directory / "cache"),
            "WANDB_DATA_DIR": str(directory / "data"),
            "WANDB_CONFIG_DIR": str(directory / "config"),
            "WANDB_ARTIFACT_DIR": str(directory / "artifacts"),
            "WANDB_ERROR_REPORTING": "false",
            "HOME": str(directory / "home"),
            "NETRC": str(directory / "home" / ".netrc"),
            "HTTP_PROXY": nowhere,
            "HTTPS_PROXY": nowhere,
            "http_proxy": nowhere,
            "https_proxy": nowhere,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    # -- what it holds -----------------------------------------------------------------------------

    def run(self, path: str) -> Run:
        return self.state.runs[path]

    @property
    def runs(self) -> list[Run]:
        return list(self.state.runs.values())

    def artifacts(self, run: str, type: str | None = None) -> list[Artifact]:
        """Committed versions that ``run`` (entity/project/id) put out, in order."""
        outputs = [
            self.state.artifacts[artifact_id]
            for artifact_id in self.state.runs[run].output_artifacts
        ]
        return [artifact for artifact in outputs if type in (None, artifact.type)]

    def counts(self) -> Counter[str]:
        """The number of answers to each kind of request."""
        return Counter(request.what for request in self.requests)


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: WandbServer) -> None:
        self.owner = owner
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def break_connections(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # the client may have hung up first
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is no news here; anything else is a fault of the
        stand-in, and must be seen."""
        if not isinstance(sys.exc_info()[1], OSError):
            self.owner.refused.append(traceback.format_exc())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _HTTPServer

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            asked = json.loads(body)
            operation = asked.get("operationName") or _OPERATION.search(asked["query"])[1]  # type: ignore[index]
            self._answer(
                operation,
                len(body),
                lambda owner: {
                    "data": owner.graphql.answer(operation, asked.get("variables") or {})
                },
            )
        elif match := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", self.path):
            run = "/".join(map(unquote, match.groups()))
            self._answer(
                "file_stream",
                len(body),
                lambda owner: self._file_stream(owner.state, run, json.loads(body), self._writer()),
            )
        else:
            self._refuse(f"POST {self.path}")

    def do_PUT(self) -> None:
        body = self._body()
        kind, *names = self._stored()
        self._answer(f"PUT {kind}", len(body), lambda owner: self._store(owner, kind, names, body))

    def do_GET(self) -> None:
        if self.path == "/":  # the web page, by which a server's health is seen
            self._send(200, b"", "text/html")
            return
        if not self.path.startswith("/storage/"):
            self._refuse(f"GET {self.path}")
            return
        kind, *names = self._stored()
        self._answer(f"GET {kind}", 0, lambda owner: self._load(owner.state, kind, names))

    # -- parts of an answer ------------------------------------------------------------------------

    def _stored(self) -> list[str]:
        return [
            unquote(part) for part in self.path.removeprefix("/storage/").split("?")[0].split("/")
        ]

    def _store(
        self, owner: WandbServer, kind: str, names: list[str], body: bytes
    ) -> dict[str, Any]:
        state = owner.state
        with state.lock:
            if kind == "run-file":
                if not (owner.loses and names[1].endswith(owner.loses)):
                    state.runs[names[0]].files[names[1]] = body
            elif kind == "manifest":
                state.artifacts[names[0]].manifest = body
            else:
                state.artifacts[names[0]].contents[names[1]] = body
        return {}

    def _load(self, state: State, kind: str, names: list[str]) -> bytes:
        with state.lock:
            if kind == "run-file":
                return state.runs[names[0]].files[names[1]]
            return state.artifacts[names[0]].contents[names[1]]

    def _writer(self) -> str | None:
        """Return the id of one of several writers, which the client sends in shared mode only."""
        if self.headers.get("X-Wandb-Use-Async-Filestream") != "true":
            return None
        return self.headers["X-Wandb-Async-Client-Id"]

    def _file_stream(
        self, state: State, run: str, posted: dict[str, Any], writer: str | None
    ) -> dict[str, Any]:
        with state.lock:
            state.file_stream(state.runs[run], posted, writer)
        return {"limits": {}}

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(chunks)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, what: str, nbytes: int, work: Any) -> None:
        owner = self.server.owner
        if (
            not what.startswith(("GET ", "PUT "))
            and f"api:{API_KEY}"
            != base64.b64decode(self.headers.get("Authorization", "")[6:]).decode()
        ):
            self._send(
                401, b'{"errors": [{"message": "user is not logged in"}]}', "application/json"
            )
            return
        if what in owner.cut:
            self.close_connection = True
            return
        with owner.flight:
            owner.in_flight[what] += 1
            owner.most_in_flight[what] = max(owner.most_in_flight[what], owner.in_flight[what])
            owner.flight.notify_all()
            owner.flight.wait_for(
                lambda: owner.most_in_flight[what] >= owner.awaited[what], AWAITED_S
            )
        if delay_s := owner.slow.get(what, owner.delay_s):
            time.sleep(delay_s)
        with owner.flight:
            owner.in_flight[what] -= 1
        try:
            answer = work(owner)
        except Exception as error:  # noqa: BLE001 (a stand-in that guesses wrong must say where)
            self._refuse(
                f"{what}: {error if type(error) is LookupError else traceback.format_exc()}"
            )
            return
        owner.requests.append(
            Request(what, time.time(), nbytes or (len(answer) if isinstance(answer, bytes) else 0))
        )
        if isinstance(answer, bytes):
            self._send(200, answer, "application/octet-stream")
        else:
            self._send(200, json.dumps(answer).encode(), "application/json")

    def _refuse(self, what: str) -> None:
        self.server.owner.refused.append(what)
        self._send(400, json.dumps({"errors": [{"message": what}]}).encode(), "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: ``WandbServer.requests`` says more."""
