"""``tv.live``: show a run in a browser on this machine while it trains."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_viz.delivery import TappedSpool
from tracker_viz.errors import (
    ConfigError,
    TrackerVizError,
    TransientTrackerError,
)
from tracker_viz.files import temporary_directory
from tracker_viz.pipeline.following.live_server import HOST, Board, live_server
from tracker_viz.pipeline.following.live_view import LiveView
from tracker_viz.pipeline.load import TrackerOptions, open_run
from tracker_viz.pipeline.options import DEFAULT_THEME, ThemeName
from tracker_viz.trackers import Run
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    from tracker_viz.rendering import Layout

log = logging.getLogger(__name__)

# The explorer is made again when no capture came for so long, or after the longest time.
_QUIET_S, _LONGEST_S = 1.0, 10.0
_STATE_S = 2.0


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
        board = Board()
        pause_s = poll_s or (0.1 if spool is not None else 2.0)
        server = live_server(board, port)
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


def _watch(view: LiveView, board: Board, pause_s: float, stop: threading.Event) -> None:
    """Look for captures and draw them until ``stop``. Failures are logged once, and tried again."""
    last_error = ""
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
            last_error = ""
        except TrackerVizError as error:
            if str(error) != last_error:
                log.warning("the run cannot be shown now: %s; trying again", error)
            last_error = str(error)
            if not isinstance(error, TransientTrackerError):
                stop.wait(1.0)
        stop.wait(pause_s)
