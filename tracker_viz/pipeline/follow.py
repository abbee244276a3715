"""``tv.follow``: keep the film of a run up to date while it trains, on any machine, without
torch."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np

from tracker_viz.delivery import TappedSpool
from tracker_viz.errors import ConfigError, RunActiveError, TransientTrackerError
from tracker_viz.files import locked, remove_torn
from tracker_viz.options import seconds_of
from tracker_viz.pipeline.following.live_film import AT_ONCE, LiveFilm, Version
from tracker_viz.pipeline.load import TrackerOptions, open_run
from tracker_viz.pipeline.options import FollowOptions, PictureOptions
from tracker_viz.pipeline.render import (
    RenderResult,
    check_outputs,
    film_name,
    output_paths,
    render,
)
from tracker_viz.pipeline.results.delivering import Picture, put_pictures
from tracker_viz.trackers import Run, cache_directory
from tracker_viz.types import CaptureRef, RunRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracker_viz.rendering import Layout

log = logging.getLogger(__name__)

LIVE_FORMATS = ("video", "html")
# If an update takes longer than this share of the time between two, a warning says so and the next
# ones come less often: following is to leave most of a machine to others.
_LARGEST_SHARE = 0.5
_LONGEST_PAUSE_S = 300.0


@np.errstate(all="ignore")  # the user's process may turn float errors into exceptions
def follow(
    run: RunRef | str | Run,
    *,
    layout: str | Path | Mapping[str, Any] | Layout = "overview",
    options: FollowOptions | Mapping[str, Any] | None = None,
    tracker_options: TrackerOptions | None = None,
    on_version: Callable[[RenderResult], None] | None = None,
) -> RenderResult:
    """Draw the captures of a run as they arrive, until it ends; then render the whole run.

    Each new version of the film replaces the previous one in the run. Only new captures are drawn
    and encoded. If this is killed and started again, it continues where it was.

    Args:
        run: the run's reference, like ``mlflow:<run_id>``, or an open run.
        layout: as in ``render``.
        options: see ``FollowOptions``; a mapping of some of them, or all.
        tracker_options: tracker -> options of its adapter.
        on_version: called with each version, after it is uploaded.

    Returns:
        The last version: the result of ``render``, unless ``final`` is off.

    Raises:
        ConfigError: an option has an invalid value, or another process follows this run here.
        RunNotFoundError: there is no such run.
        RunActiveError: the tracker allows no second process to write to an active run.
        TrackerError: the run cannot be read or written, and retrying would not help.
        LayoutError: the captures lack arrays that the layout shows.
        VideoError: the video cannot be written here.
    """
    from tracker_viz.rendering import resolve_layout

    drawn, chosen = resolve_layout(layout), FollowOptions.of(options)
    whole = chosen.pictures()
    opened = run if isinstance(run, Run) else open_run(run, tracker_options)
    name = film_name(drawn.name, whole)
    downloads = cache_directory(opened.ref, chosen.cache)
    directory = downloads / "following" / name
    paths: dict[str, Path] = dict(
        zip(whole.format, output_paths(whole, downloads, name), strict=True)
    )
    check_outputs(chosen.format, list(paths.values()), chosen.video)
    with _alone(directory):
        # A process that was killed left files half-written, here and where it was putting them.
        remove_torn(downloads)
        opened.remove_torn()
        following = _Following(opened, drawn, chosen, directory, paths, name, on_version)
        result = following.until_end()
        if not chosen.final:
            return result
        pictures: dict[str, Any] = {
            each: getattr(whole, each) for each in PictureOptions.model_fields
        }
        result = following.patiently(
            lambda: render(
                opened.ref,
                layout=drawn,
                tracker_options=tracker_options,
                progress=False,
                **pictures,
            )
        )
        shutil.rmtree(directory, ignore_errors=True)
        return result


class _Following:
    """One run, and when its film was updated last."""

    def __init__(
        self,
        run: Run,
        layout: Layout,
        options: FollowOptions,
        directory: Path,
        paths: Mapping[str, Path],
        name: str,
        on_version: Callable[[RenderResult], None] | None,
    ) -> None:
        self._run, self._options, self._name = run, options, name
        live = {each: path for each, path in paths.items() if each in LIVE_FORMATS}
        self._paths = list(live.values())
        pictures = options.pictures().model_copy(update={"format": tuple(live)})
        self._film = LiveFilm(directory, run, layout, pictures, run.info().name)
        self._on_version = on_version
        self._result = RenderResult((), 0, ())
        self._next_s = 0.0  # of time.monotonic: not before this
        self._n_listed, self._quiet_since_s = -1, time.monotonic()
        self._was_slow = self._was_away = False

    def until_end(self) -> RenderResult:
        """Keep the film up to date until the run is over; return the last version."""
        pause_s = self._options.poll_s
        while True:
            try:
                is_over = self._look()
            except TransientTrackerError as error:
                self._say_away(error)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                if is_over:
                    return self._result
                self._was_away, pause_s = False, self._options.poll_s
            time.sleep(pause_s)

    def patiently(self, call: Callable[[], RenderResult]) -> RenderResult:
        """Return what ``call`` returns, asking again while the tracker is away, until ``give_up``
        is over."""
        deadline_s = time.monotonic() + seconds_of(self._options.give_up)
        while True:
            try:
                return call()
            except TransientTrackerError as error:
                if time.monotonic() > deadline_s:
                    raise
                self._say_away(error)
            time.sleep(self._options.poll_s)

    def _look(self) -> bool:
        """Look for captures and bring the film up to date; return whether the run is over."""
        # The state first: captures that came before the run ended are listed after it.
        is_running = self._run.info().state == "running"
        listed = self._run.list_captures()
        if len(listed) != self._n_listed:
            self._n_listed, self._quiet_since_s = len(listed), time.monotonic()
        is_over = not is_running or self._is_quiet()
        # Otherwise the whole run is rendered at once.
        if not is_over or not self._options.final:
            self._update(listed, is_over=is_over)
        return is_over

    def _is_quiet(self) -> bool:
        """Return whether no capture came for so long that the run must have ended."""
        if time.monotonic() - self._quiet_since_s < seconds_of(self._options.give_up):
            return False
        log.warning(
            "no new capture for %s: treating %s as ended (give_up=)",
            self._options.give_up,
            self._run.ref,
        )
        return True

    def _update(self, listed: list[CaptureRef], *, is_over: bool) -> None:
        """Draw new captures if a version is due or many wait, and put a version that is due."""
        started_s = time.monotonic()
        new = self._film.new(listed)
        is_due = is_over or self._is_due(len(new))
        if is_due or len(new) >= AT_ONCE:
            self._film.draw(new)
            if isinstance(self._run, TappedSpool):
                self._run.release(new)
        if is_due and self._film.has_news:
            self._put(self._film.write(self._paths))
            self._pace(time.monotonic() - started_s)

    def _is_due(self, n_new: int) -> bool:
        """Return whether it is time for a version, and there is something new to show."""
        has_enough = n_new >= self._options.min_captures
        return time.monotonic() >= self._next_s and (has_enough or self._film.has_news)

    def _put(self, version: Version) -> None:
        pictures = list(version.pictures)
        if self._options.upload:
            try:
                pictures = self._uploaded(version)
            except RunActiveError as error:
                raise RunActiveError(
                    f"{error} To see a film while it trains, use watch(..., "
                    "preview='15min') in the training process, which then "
                    "uploads it; or upload=false here"
                ) from error
        self._film.note_put(version)
        self._result = RenderResult(tuple(pictures), version.n_captures, ())
        if self._on_version:
            self._on_version(self._result)

    def _uploaded(self, version: Version) -> list[Picture]:
        return put_pictures(
            [self._run],
            version.pictures,
            version.renderer,
            name=self._name,
            is_whole_run=True,
            n_key_frames=0,
            is_live=True,
        )

    def _pace(self, took_s: float) -> None:
        """Set the earliest time of the next version."""
        every_s = seconds_of(self._options.every)
        pause_s = every_s
        if took_s > _LARGEST_SHARE * every_s:
            pause_s = took_s / _LARGEST_SHARE
            if every_s and not self._was_slow:
                self._was_slow = True
                log.warning(
                    "this machine is busy: a version took %.0f s, so versions "
                    "come less often than every %s",
                    took_s,
                    self._options.every,
                )
        self._next_s = time.monotonic() + pause_s - took_s

    def _say_away(self, error: TransientTrackerError) -> None:
        if not self._was_away:
            log.warning("%s cannot be reached (%s); asking again", self._run.ref, error)
        self._was_away = True


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Be the only process that follows this run into ``directory``."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(directory.with_suffix(".lock"), timeout_s=0):
            yield
    except filelock.Timeout:
        raise ConfigError(
            f"another process on this machine follows the run with this layout ({directory}); "
            "choose another layout=, or another cache="
        ) from None
