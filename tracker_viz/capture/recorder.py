"""Take captures of a model while it trains: a camera and a schedule in, captures into a sink.

``pipeline.watch`` builds a Recorder; the training loop calls ``step``. On every due step one raw
``Capture`` (see ``camera.py``) goes to the sink, which must not block: scoring, cutting to size and
writing happen behind it, off the training thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture import distributed
from tracker_viz.capture.camera import Camera
from tracker_viz.capture.checks import whole
from tracker_viz.capture.discover.model_info import summary
from tracker_viz.capture.governor import CostLimit, Governor
from tracker_viz.capture.loop_counter import LoopCounter
from tracker_viz.capture.probe import Probe, as_probe
from tracker_viz.capture.schedule import Schedule
from tracker_viz.errors import ConfigError
from tracker_viz.notebook import count
from tracker_viz.notice import say
from tracker_viz.types import Capture

log = logging.getLogger("tracker_viz.capture")

_NEVER = 1 << 62
_MAX_FAILURES = 3


# The arguments of one call of ``step``: a plain tuple, because one is made at every step.
_Call = tuple[Any, int | None, Mapping[str, Any]]
_NO_CALL: _Call = (-1, None, {})


class Recorder:
    """Capture what ``camera`` sees on the steps of ``schedule``.

    ``Capture.step`` counts finished optimizer steps. ``step(counter)`` is called after each of them
    with the loop's own counter. A loop may count from 0 (``enumerate``) or from 1: the first call
    shows which, unless ``counts_from`` says so. A failure is logged, never raised.

    Args:
        camera: has looked at the model already (``explore``), on every process that takes part.
        sink: takes each Capture on the training thread; called on the main process only.
        first: the capture that ``explore`` gave. It waits for the first call of ``step``, whose
            metrics belong to these very weights.
        start_step: optimizer steps finished before (a resumed run).
        captured: steps that the run holds already; they are not captured again.
        counts_from: the loop's counter at the first call after one finished step, minus
            ``start_step``: 0 or 1. Give it (1) where ``step`` may be called with the same number
            several times, as under gradient accumulation.
        governor: times captures and limits their cost; by default it only times them.
    """

    def __init__(
        self,
        camera: Camera,
        schedule: Schedule,
        sink: Callable[[Capture], None],
        *,
        first: Capture | None = None,
        start_step: int = 0,
        captured: Collection[int] = (),
        counts_from: int | None = None,
        governor: Governor | None = None,
    ) -> None:
        self.camera = camera
        self.schedule = schedule
        self.governor = governor or Governor(schedule, start_step=start_step)
        self._sink = sink
        self._counter = LoopCounter(start_step, counts_from)
        self._latest = _NO_CALL
        # In the loop's own count. -_NEVER sends the first call of ``step`` to ``_on_due``.
        self._next_call = -_NEVER if camera.takes_part else _NEVER
        if camera.sharded:
            # Every process must skip the same steps: a capture is a collective that all must join.
            captured = distributed.agreed_steps(captured, camera.device)
        self._captured = set(captured)
        self._held: Capture | None = None
        self._n_handed_on = 0
        self._is_dense_wanted = False
        self._n_failures = 0
        self._price_was_logged = False
        self._bad_step_was_logged = False
        self._closed = False

        is_wanted = schedule.is_due(start_step) or not captured
        if first is not None and is_wanted and start_step not in self._captured:
            self._captured.add(start_step)
            # Other processes of a sharded model take part, and keep nothing.
            self._held = first if camera.main else None
        if camera.main:
            say(summary(camera.model_info), log=log)

    @property
    def captured_steps(self) -> list[int]:
        """Steps that were captured, here and before a resume, in order."""
        return sorted(self._captured)

    def step(self, step: int, tokens_seen: int | None = None, **metrics: float | Tensor) -> None:
        """Call after each optimizer step. Off due steps this only compares integers.

        Args:
            step: the loop's own counter, from 0 or from 1.
            tokens_seen: training tokens so far.
            metrics: numbers or 0-d tensors; read (which waits for the device) on due steps only.
        """
        before = self._latest
        self._latest = (step, tokens_seen, metrics)
        try:
            if before[0] <= step < self._next_call:
                return
        except TypeError:
            pass  # not a number, which the next line reports
        self._on_due(self._latest, before)

    def close(self, *, failed: bool = False) -> None:
        """Capture the model as it is now, if the last step was not due, and stop. Safe to repeat.

        Args:
            failed: training ended by an error in this process. A sharded model is then left alone:
                the other processes may not come.
        """
        if self._closed:
            return
        self._closed = True
        self._release({})
        self._next_call = _NEVER

        is_out_of_reach = (failed and self.camera.sharded) or not self.camera.takes_part
        last, self._latest = self._latest, _NO_CALL
        if last is not _NO_CALL and not is_out_of_reach and self._n_failures < _MAX_FAILURES:
            self._capture_last(last)
        self._log_costs()

    def come_densely(self) -> None:
        """Take the next captures a few steps apart, beginning with the next step where the limit on
        their cost pays for it. May be called from another thread; a sharded model's other processes
        learn of it at the next due step."""
        self._is_dense_wanted = True
        is_recording = 0 <= self._next_call < _NEVER
        if is_recording and not self.camera.sharded and self.governor.pays_dense():
            self._next_call = min(self._next_call, self._latest[0] + 1)

    def forget_latest(self) -> None:
        """Keep ``close`` from capturing the model: it is no longer what the latest step left."""
        self._latest = _NO_CALL

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(failed=error is not None)

    # -- on due steps

    def _on_due(self, call: _Call, before: _Call) -> None:
        step, _, metrics = call
        is_first = self._next_call == -_NEVER
        done = self._finished_steps(step)
        if done is None:
            self._latest = before
            return
        if step < before[0]:
            next_call = self._next_call if self._next_call < _NEVER else None
            self._counter.note_going_back(before[0], step, next_call)
            return

        self._release(metrics)
        if is_first:
            # What the user's script did between ``watch`` and here (data, compilation) is no
            # training that pays for captures.
            self.governor.start(done)
            due = self.schedule.next_due(self._counter.start_step)
        else:
            due = self._next_call + self._counter.offset
        if due is not None and done >= due:
            due = self._capture_due(done, call)
        self._wait_until(due)

    def _capture_due(self, done: int, call: _Call) -> int | None:
        """Capture the model, and return the next step to capture; None: no more."""
        self._capture_timed(done, call)
        if self._is_dense_wanted:
            self._is_dense_wanted = False
            self.governor.come_densely()
        due, n_left_out = self.governor.next_step(done)
        self._log_price(n_left_out, due)
        return due

    def _wait_until(self, due: int | None) -> None:
        """Let ``step`` do nothing until ``due`` steps are finished; None: until the end."""
        if due is None or self._n_failures >= _MAX_FAILURES:
            due = _NEVER
        if self.camera.sharded:
            due = distributed.agreed(due, self.camera.device)
        self._next_call = _NEVER
        if due < _NEVER:
            self._next_call = due - self._counter.offset

    def _capture_last(self, call: _Call) -> None:
        """Capture the model as it is at the end, unless that step was captured, or its number is
        not known because the loop's counter went back."""
        done = self._finished_steps(call[0])
        if done is None or done in self._captured or self._counter.is_behind(call[0]):
            return
        try:
            self._capture_timed(done, call)
        except Exception:
            # If the device's failure ended the training, this capture usually fails, too.
            log.exception("could not capture the last step, %d", done)

    def _finished_steps(self, step: Any) -> int | None:
        """Return how many optimizer steps are finished, by the loop's counter; None where it is no
        whole number.

        Raises:
            ConfigError: it was none at the first call.
        """
        try:
            return self._counter.finished(step)
        except ConfigError as error:
            if self._next_call == -_NEVER:
                raise
            if not self._bad_step_was_logged:
                log.error("%s: such calls are ignored", error)
            self._bad_step_was_logged = True
            return None

    def _release(self, metrics: Mapping[str, Any]) -> None:
        """Hand on the first capture, with the metrics of the first step."""
        if self._held is None:
            return
        held, self._held = self._held, None
        try:
            self._hand_on(replace(held, metrics=_numbers(metrics)))
        except Exception:
            log.exception("could not queue the capture of step %d; training goes on", held.step)

    def _capture_timed(self, step: int, call: _Call) -> None:
        _wait_for(self.camera.device)
        with self.governor.timing(step, self.camera.device):
            try:
                if step not in self._captured:
                    self._capture(step, call)
                self._n_failures = 0
            except Exception:  # training goes on, whatever happens to a capture
                self._n_failures += 1
                if self._n_failures == 1:
                    log.exception(
                        "could not capture step %d; training goes on, and "
                        "capturing is tried again at the next due step",
                        step,
                    )
                elif self._n_failures == _MAX_FAILURES:
                    log.error(
                        "%d captures in a row failed: no more are taken in this run", _MAX_FAILURES
                    )

    def _capture(self, step: int, call: _Call) -> None:
        _, tokens_seen, metrics = call
        capture = self.camera.take(step, _count(tokens_seen), _numbers(metrics))
        if self.camera.main:
            self._hand_on(capture)
        self._captured.add(step)

    def _hand_on(self, capture: Capture) -> None:
        self._sink(capture)
        self._n_handed_on += 1

    # -- what the user reads

    def _log_price(self, n_left_out: int, due: int | None) -> None:
        """Log once that captures cost more than the limit allows, or more than the usual limit
        would where there is none."""
        governor = self.governor
        over_usual_s = governor.spent_s - CostLimit().allowed_s(governor.trained_s)
        is_worth_saying = n_left_out > 0 or (governor.limit is None and over_usual_s > 0)
        if self._price_was_logged or not is_worth_saying or not self.camera.main:
            return
        self._price_was_logged = True

        each_ms = 1000 * governor.spent_s / governor.n_captures
        if governor.limit is None:
            log.warning(
                "captures took %.1f %% of the wall time (%.0f ms each), and all chosen steps are "
                "captured; max_overhead=%g would skip some",
                100 * governor.overhead,
                each_ms,
                CostLimit().max_overhead,
            )
        else:
            log.warning(
                "a capture takes %.0f ms: steps are skipped to keep captures within %s; the next "
                "one is at step %s",
                each_ms,
                governor.limit,
                due,
            )

    def _log_costs(self) -> None:
        if not self.camera.main or not self._n_handed_on:
            return
        governor = self.governor
        words = count(self._n_handed_on, "capture")
        if governor.n_left_out:
            words += f" ({count(governor.n_left_out, 'due step')} left out)"
        limit, spent_s = governor.limit, governor.spent_s
        share = f"{_percent(governor.overhead)} of the wall time"
        if limit is None or limit.max_overhead >= 1:
            spent = f"{share}, {spent_s:.1f} s; no limit"
        elif spent_s <= limit.free_s:
            free = f"the {limit.free_s:g} s that any run may use (free_s)"
            spent = f"{spent_s:.1f} s, within {free}; {share}"
        else:
            spent = f"{share}, {spent_s:.1f} s; the limit is {limit}"
        say(f"{words} took {spent}", log=log)


def record(
    model: nn.Module,
    probe: Probe | Any,
    schedule: Schedule,
    sink: Callable[[Capture], None],
    *,
    start_step: int = 0,
    captured: Collection[int] = (),
    counts_from: int | None = None,
    governor: Governor | None = None,
    **camera_options: Any,
) -> Recorder:
    """Record raw captures into a sink of your own, without a run: look at the model, and return the
    Recorder. The arguments are those of ``Camera`` and ``Recorder``."""
    start_step = whole("start_step", start_step, 0)
    camera = Camera(distributed.unwrapped(model), as_probe(probe), **camera_options)
    first = None
    if camera.takes_part:
        first = camera.explore(start_step, 0 if start_step == 0 else None)
    return Recorder(
        camera,
        schedule,
        sink,
        first=first,
        start_step=start_step,
        captured=captured,
        counts_from=counts_from,
        governor=governor,
    )


def _wait_for(device: torch.device) -> None:
    # Work that the device still has to do is part of training, not of the capture that would wait
    # for it.
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _percent(share: float) -> str:
    """Return a share of 0..1 with two digits: ``0.63 %``, ``100 %``."""
    percent = 100 * share
    if percent >= 9.95:
        return f"{percent:.0f} %"
    return f"{percent:.2g} %"


def _count(tokens_seen: Any) -> int | None:
    try:
        return None if tokens_seen is None else int(tokens_seen)
    except (TypeError, ValueError, RuntimeError):
        log.warning("tokens_seen=%r is not a number and is left out of the capture", tokens_seen)
        return None


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    numbers = {}
    for name, value in metrics.items():
        try:
            numbers[name] = float(value.detach() if isinstance(value, Tensor) else value)
        except (TypeError, ValueError, RuntimeError):
            log.warning("metric %s must be one number; got %s: left out", name, _shown(value))
    return numbers


def _shown(value: Any) -> str:
    """Return a value in few characters, without reading one from a device."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{value!r:.60}"
