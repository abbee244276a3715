"""``tv.live``: show a run in a browser on this machine while it trains.

The server listens on the loopback interface only; other machines need a tunnel. Requests from other
sites open in a browser on this machine are refused: by ``Host`` if their own name resolves to this
machine (DNS rebinding), else by ``Origin``.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_viz.delivery import TappedSpool
from tracker_viz.errors import (
    ConfigError,
    MissingDependencyError,
    TrackerVizError,
    TransientTrackerError,
)
from tracker_viz.files import temporary_directory
from tracker_viz.pipeline.following.live_view import LiveView, Shown
from tracker_viz.pipeline.load import TrackerOptions, open_run
from tracker_viz.pipeline.options import DEFAULT_THEME, ThemeName
from tracker_viz.trackers import Run
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    from tracker_viz.rendering import Layout

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
# The explorer is made anew when no capture came for so long, or after the longest time.
_QUIET_S, _LONGEST_S = 1.0, 10.0
_HEARTBEAT_S = 15.0
_STATE_S = 2.0
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


def live(
    run: RunRef | str | None = None,
    *,
    spool: str | Path | None = None,
    layout: str | Path | Mapping[str, Any] | Layout = "overview",
    theme: ThemeName = DEFAULT_THEME,
    size: str = "720p",
    port: int = 5007,
    poll_s: float | None = None,
    tracker_options: TrackerOptions | None = None,
    on_ready: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve a page that shows a run's captures as they arrive, until ``stop`` or Ctrl-C.

    Args:
        run: the run's reference; or
        spool: the spool of a training run on this machine, which may start later. This is the
            fastest.
        layout, theme: as in ``render``.
        size: of the picture of the newest capture, as ``VideoOptions.size``.
        port: on the loopback interface; 0: any free port.
        poll_s: seconds between two checks for captures; None: 0.1 for a spool, else 2.
        on_ready: called with the page's address.
        stop: set this to stop serving.

    Raises:
        ConfigError: not exactly one of ``run`` and ``spool`` is given, or the port is taken.
        MissingDependencyError: Flask, which comes with MLflow, is not installed.
        RunNotFoundError: there is no such run.
    """
    from tracker_viz.rendering import resolve_layout

    if (run is None) == (spool is None):
        raise ConfigError(
            "give run=<RunRef>, or spool=<directory> of a training run on this machine"
        )
    drawn = resolve_layout(layout)
    stop = stop or threading.Event()
    with ExitStack() as held:
        opened: Run
        if spool is not None:
            opened = held.enter_context(TappedSpool(spool))
        else:
            opened = open_run(str(run), tracker_options)
        directory = held.enter_context(temporary_directory())
        view = LiveView(opened, drawn, directory, size=size, theme=theme)
        board = _Board()
        pause_s = poll_s or (0.1 if spool is not None else 2.0)
        server = _server(board, port)
        address = f"http://{HOST}:{server.server_port}/"
        serving = threading.Thread(target=server.serve_forever, name="live-server", daemon=True)
        serving.start()
        try:
            if on_ready:
                on_ready(address)
            _watch(view, board, pause_s, stop)
        finally:
            board.close()
            server.shutdown()
            serving.join()


class _Board:
    """What is shown now, and who waits for what comes next."""

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
            said = {
                "step": shown.step,
                "loss": shown.loss,
                "page": shown.page_step,
                "ended": shown.has_ended,
            }
            yield f"data: {json.dumps(said)}\n\n"

    def _is_new(self, known: int) -> bool:
        return self._is_closed or known != self._n_changes


def _watch(view: LiveView, board: _Board, pause_s: float, stop: threading.Event) -> None:
    """Look for captures and draw them until ``stop``; what fails is said once, and tried again."""
    said = ""
    page_at = looked_at = 0.0
    while not stop.is_set():
        try:
            if view.look():
                step, loss, picture = view.picture()
                board.show(step=step, loss=loss, picture=picture, has_ended=False)
                looked_at = time.monotonic()
            shown, now = board.shown, time.monotonic()
            if shown.step != shown.page_step:
                is_quiet = now - looked_at > _QUIET_S or not shown.page
                if is_quiet or now - page_at > _LONGEST_S:
                    board.show(page=view.page(), page_step=shown.step)
                    page_at = time.monotonic()
            # Before its first capture a run may not be there yet.
            elif shown.page and not shown.has_ended and now - page_at > _STATE_S:
                page_at = now
                if view.has_ended:
                    board.show(has_ended=True)
            said = ""
        except TrackerVizError as error:
            if str(error) != said:
                log.warning("the run cannot be shown now: %s; trying again", error)
            said = str(error)
            if not isinstance(error, TransientTrackerError):
                stop.wait(1.0)
        stop.wait(pause_s)


def _server(board: _Board, port: int) -> Any:
    """Return the server, which listens already.

    Raises:
        MissingDependencyError: Flask is not installed.
        ConfigError: the port is taken.
    """
    try:
        from flask import Flask, Response, abort, request
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
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells every request
    ours = {f"{name}:{server.server_port}" for name in (HOST, "localhost")}

    @app.before_request
    def refuse_other_sites() -> None:
        origin = request.headers.get("Origin")
        if request.host not in ours or (origin and origin not in {f"http://{x}" for x in ours}):
            abort(403)

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(_HEADERS)
        return response

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
