"""Add scalars and media to a W&B run's history without disturbing other code that logs to the run.

A W&B run has one step counter, and drops a row below it without an error. So no row here sets a
step: the training step is a value of the row, named ``tracker_viz/step``, and ``define_metric``
makes it the charts' axis.

In a run of the user's own, even a committed row would move their counter, and if their loop logs
with ``step=``, rows of theirs would be lost. ``JoinedRows`` therefore adds values to the rows that
their loop writes.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import wandb

from tracker_viz.errors import ConfigError
from tracker_viz.trackers.values import MetricPoint
from tracker_viz.trackers.wandb.key_frames import KeyFrame, frame_media
from tracker_viz.trackers.wandb.service import AWAY, RENDER, WandbService, translated
from tracker_viz.types import RunRef

log = logging.getLogger(__name__)

STEP = "tracker_viz/step"

POLL_S = 0.2

_logged: WeakKeyDictionary[Any, dict[str, dict[int, KeyFrame]]] = WeakKeyDictionary()


class Rows(Protocol):
    def add(self, points: Sequence[MetricPoint]) -> None: ...

    def add_media(self, key: str, media: Any) -> None:
        """Add a row with a medium that is made again now and then; the newest is last in its
        panel."""
        ...

    def add_frames(
        self, key: str, frames: Mapping[KeyFrame, Path], changed: Collection[KeyFrame]
    ) -> None:
        """Add the frames that ``changed``, each in its own row, so that the panel's slider goes
        through training.

        Where that would move the user's counter, add all ``frames`` in one row, which the panel
        shows as a gallery.
        """
        ...

    def close(self) -> None:
        """Stop adding."""
        ...


class OwnRows:
    """A run that only we write to.

    Args:
        every_metric: the run is ours altogether, so that one rule can give all of its metrics their
            axis.
        counted: the loop that wrote the run set the steps of its rows. It may continue some day,
            and would lose as many rows as we add.
        n_renders: how many media the run had before, where this client does not know.
    """

    def __init__(
        self, sdk_run: Any, *, every_metric: bool, counted: bool = False, n_renders: int = 0
    ) -> None:
        self._run = sdk_run
        self._n_renders = n_renders
        self._counted = counted
        self._defined = {STEP}
        self._every_metric = every_metric
        self._ruled = False

    def add(self, points: Sequence[MetricPoint]) -> None:
        for point in points:
            self._define(point.values)
            self._run.log({**point.values, STEP: point.step})

    def add_media(self, key: str, media: Any) -> None:
        self._run.log(media_row(self._run, key, media, self._n_renders))

    def add_frames(
        self, key: str, frames: Mapping[KeyFrame, Path], changed: Collection[KeyFrame]
    ) -> None:
        if self._counted:
            log_gallery(self._run, key, frames, commit=True)
        else:
            log_frames(self._run, key, {frame: frames[frame] for frame in changed})

    def close(self) -> None:
        return

    def _define(self, names: Mapping[str, float]) -> None:
        if not self._ruled:
            self._run.define_metric(STEP, hidden=True)
            if self._every_metric:
                self._run.define_metric("*", step_metric=STEP)
            self._ruled = True
        if not self._every_metric:
            define_metrics(self._run, names, self._defined)


class JoinedRows:
    """A run whose own loop logs to it, with ``step=`` or without.

    Where the loop leaves the counter to W&B (as Lightning and the HF Trainer do), a row of ours
    among theirs does no harm. Where it counts itself, each of our points waits for a row of theirs
    and travels in it. Points that still wait at the end share the last row, so that the charts have
    the final values; the captures have them all.
    """

    def __init__(self, sdk_run: Any) -> None:
        self._run = sdk_run
        self._defined: set[str] = set()
        self._waiting: deque[dict[str, Any]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, points: Sequence[MetricPoint]) -> None:
        if not self._defined:
            self._run.define_metric(STEP, hidden=True)
            self._defined.add(STEP)
        for point in points:
            define_metrics(self._run, point.values, self._defined)
        self._enqueue([{**point.values, STEP: point.step} for point in points])

    def add_media(self, key: str, media: Any) -> None:
        # Into the row that their loop is at: a video need not wait its turn, and must not wait
        # until its file is gone.
        self._run.log(media_row(self._run, key, media), commit=False)

    def add_frames(
        self, key: str, frames: Mapping[KeyFrame, Path], changed: Collection[KeyFrame]
    ) -> None:
        if loop_leaves_counting_to_wandb(self._run):
            log_frames(self._run, key, {frame: frames[frame] for frame in changed})
        else:
            log_gallery(self._run, key, frames, commit=False)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()

    def _enqueue(self, rows: Sequence[dict[str, Any]]) -> None:
        with self._changed:
            self._waiting.extend(rows)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="tracker_viz-rows", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            self._pace()
            self._share_the_last_row()
        except (wandb.Error, *AWAY) as error:
            log.info(
                "the training loop ended the run; %d of our points are not in its charts (%s)",
                len(self._waiting),
                error,
            )

    def _pace(self) -> None:
        """Log points until closed, and after that as long as none has to wait."""
        # The newest row of theirs that may carry a point of ours already
        used_step: int | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
            if loop_leaves_counting_to_wandb(self._run):
                self._run.log(self._waiting[0])
            elif self._run.step != used_step and self._run.step > 0:
                self._run.log(self._waiting[0], commit=False)
                # Read after it, because their loop may have gone on to another row meanwhile.
                used_step = self._run.step
            else:
                with self._changed:
                    if self._changed.wait_for(lambda: self._closed, POLL_S):
                        return
                continue
            with self._changed:
                self._waiting.popleft()

    def _share_the_last_row(self) -> None:
        if not self._waiting:
            return
        together: dict[str, Any] = {}
        for row in self._waiting:
            together |= row
        self._run.log(together, commit=False)
        if len(self._waiting) > 1:
            log.info(
                "%d points share the last row of the run's charts; the captures have them all",
                len(self._waiting),
            )


def define_metrics(sdk_run: Any, names: Mapping[str, float], defined: set[str]) -> None:
    """Make the training step the axis of new metrics, and leave the loop's own metrics alone."""
    for name in sorted(set(names) - defined):
        sdk_run.define_metric(name, step_metric=STEP)
        defined.add(name)


def loop_leaves_counting_to_wandb(sdk_run: Any) -> bool:
    """Return whether the run's own loop logs and never sets a step. Unsure is no: then no row of
    ours may move the counter."""
    # The client notes it for its own statistics; there is no public way to ask.
    feature = getattr(getattr(sdk_run, "_telemetry_obj", None), "feature", None)
    set_a_step = getattr(feature, "set_step_log", True)
    return not set_a_step and sdk_run.step > 0


def media_row(sdk_run: Any, key: str, media: Any, n_before: int = 0) -> dict[str, Any]:
    """Return a row with one medium. A counter goes up each time, so that the newest is last in its
    panel."""
    n_renders = max(n_before, int(sdk_run.summary.get(RENDER) or 0))
    sdk_run.define_metric(RENDER, hidden=True)
    sdk_run.define_metric(key, step_metric=RENDER)
    return {key: media, RENDER: n_renders + 1}


def log_frames(sdk_run: Any, key: str, frames: Mapping[KeyFrame, Path]) -> None:
    _define_frames(sdk_run, key)
    for frame, picture in frames.items():
        sdk_run.log({key: frame_media(frame, picture), STEP: frame.step})
    _note(sdk_run, key, frames)


def log_gallery(sdk_run: Any, key: str, frames: Mapping[KeyFrame, Path], *, commit: bool) -> None:
    """Log all frames in one row.

    Raises:
        ConfigError: there are more than a gallery holds.
    """
    if len(frames) > wandb.Image.MAX_ITEMS:
        raise ConfigError(
            f"in a run whose loop counts its own steps W&B shows {wandb.Image.MAX_ITEMS} key "
            f"frames; got {len(frames)}"
        )
    _define_frames(sdk_run, key)
    pictures = [frame_media(frame, picture) for frame, picture in frames.items()]
    sdk_run.log({key: pictures, STEP: max(frame.step for frame in frames)}, commit=commit)
    _note(sdk_run, key, frames)


def _define_frames(sdk_run: Any, key: str) -> None:
    sdk_run.define_metric(STEP, hidden=True)
    sdk_run.define_metric(key, step_metric=STEP)


def _note(sdk_run: Any, key: str, frames: Mapping[KeyFrame, Path]) -> None:
    _logged.setdefault(sdk_run, {}).setdefault(key, {}).update(
        {frame.step: frame for frame in frames}
    )


def shown_points(
    service: WandbService, ref: RunRef, points: Sequence[MetricPoint]
) -> frozenset[int]:
    """Return the steps of those points that the service's history has."""
    run = service.fetch_run(ref)
    shown: set[int] = set()
    # Rows of key frames have a step, too: a point is known by one of its own values beside it.
    names = {min(point.values) for point in points if point.values}
    with translated(service.base_url, ref):
        for name in sorted(names):
            rows = run.scan_history(keys=[STEP, name], use_cache=False)
            shown.update(int(row[STEP]) for row in rows)
    return frozenset(shown.intersection(point.step for point in points))


def logged_frames(sdk_run: Any, key: str) -> list[KeyFrame]:
    """Return the frames that this process logged last for their steps; the server may not show them
    yet."""
    return list(_logged.get(sdk_run, {}).get(key, {}).values())
