"""The web server of ``live``.

It listens on the loopback interface only; other machines need a tunnel. Requests from other sites
open in a browser on this machine are refused: by ``Host`` if their own name resolves to this
machine (DNS rebinding), else by ``Origin``.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from tracker_viz.errors import ConfigError, MissingDependencyError
from tracker_viz.pipeline.following.live_view import Shown

if TYPE_CHECKING:
    from flask import Flask, Response

HOST = "127.0.0.1"
_HEARTBEAT_S = 15.0
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self'; frame-src 'self'; frame-ancestors 'self'; "
        "base-uri 'none'; form-action 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Board:
    """The state that a browser shows, with a wait for its changes. Used by several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_changes, self._is_closed = 0, False
        self.shown = Shown()

    def show(self, **changes: Any) -> None:
        with self._changed:
            self.shown = replace(self.shown, **changes)
            self._n_changes += 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def events(self) -> Iterator[str]:
        """Yield server-sent events: what is shown now, then every change; a beat now and then, by
        which a browser and this server notice that the other is gone."""
        known = -1
        while True:
            with self._changed:
                self._changed.wait_for(partial(self._is_new, known), _HEARTBEAT_S)
                if self._is_closed:
                    return
                is_new, known, shown = known != self._n_changes, self._n_changes, self.shown
            if not is_new:
                yield "event: beat\ndata: \n\n"
                continue
            event = {
                "step": shown.step,
                "loss": shown.loss,
                "page": shown.page_step,
                "ended": shown.has_ended,
            }
            yield f"data: {json.dumps(event)}\n\n"

    def _is_new(self, known: int) -> bool:
        return self._is_closed or known != self._n_changes


def live_server(board: Board, port: int) -> Any:
    """Return the server, which listens already; ``serve_forever`` answers.

    Raises:
        MissingDependencyError: Flask is not installed.
        ConfigError: the port is taken.
    """
    try:
        from flask import Flask, Response, abort
        from werkzeug.serving import make_server
    except ImportError as error:
        raise MissingDependencyError(
            f"live needs Flask, which comes with MLflow ({error}): pip install flask"
        ) from error
    app = Flask("tracker_viz", static_folder=None)
    try:
        server = make_server(HOST, port, app, threaded=True)
    except (OSError, SystemExit) as error:
        raise ConfigError(
            f"port {port} of {HOST} cannot be used ({error}); choose another with port="
        ) from error
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    _protect(app, server.server_port)

    @app.get("/")
    def start() -> Response:
        page = files("tracker_viz.pipeline.following").joinpath("live.html").read_bytes()
        return Response(page, mimetype="text/html")

    @app.get("/picture.png")
    def picture() -> Response:
        return Response(board.shown.picture or abort(404), mimetype="image/png")

    @app.get("/explorer")
    def explorer() -> Response:
        return Response(board.shown.page or abort(404), mimetype="text/html")

    @app.get("/events")
    def events() -> Response:
        return Response(board.events(), mimetype="text/event-stream")

    return server


def _protect(app: Flask, port: int) -> None:
    """Refuse requests of other sites, and keep browsers from letting other sites use the pages."""
    from flask import abort, request

    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
    origins = {f"http://{host}" for host in hosts}

    @app.before_request
    def refuse_other_sites() -> None:
        origin = request.headers.get("Origin")
        if request.host not in hosts or (origin and origin not in origins):
            abort(403)

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(_HEADERS)
        return response
