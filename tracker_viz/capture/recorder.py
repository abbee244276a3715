"""Takes Captures of a model while it trains. ``pipeline.watch`` builds one; the training loop calls
``step``.

In: a model, a probe, a schedule. Out: on every due step one raw ``Capture`` (see ``camera.py``)
into ``sink``, which must not block; scoring, cutting to size and writing happen behind it, off the
training thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture import distributed, options
from tracker_viz.capture.camera import Camera
from tracker_viz.capture.governor import Governor, cores_are_busy
from tracker_viz.capture.probe import Probe, as_probe
from tracker_viz.capture.schedule import Schedule
from tracker_viz.errors import ConfigError
from tracker_viz.types import Capture

log = logging.getLogger("tracker_viz.capture")

_NEVER = 1 << 62
_MAX_FAILURES = 3


class Recorder:
    """Captures ``model`` on the steps of ``schedule``.

    What ``Capture.step`` counts is optimiser steps finished. The untrained model is captured here,
    at construction, as step ``start_step`` (0); every problem with the model or the probe raises
    here too. Afterwards ``step(counter)`` is called after each optimiser step with the loop's own
    counter. A loop may count from 0 (``enumerate``) or from 1: the first call tells which, unless
    ``counts_from`` says so; it also hands the first capture on, with its metrics. A later failure
    is logged, never raised.

    Args:
        model: any decoder; DistributedDataParallel, FSDP2, ``torch.compile`` wrappers are looked
            through.
        probe: a ``Probe``, or token ids [probe, position].
        sink: takes each Capture on the training thread; called on the main process only.
        start_step: optimiser steps finished before (a resumed run).
        captured: steps that the run holds already; they are not captured again.
        counts_from: the loop's counter at the first call after one finished step, less
            ``start_step``: 0 or 1. Say it (1) where ``step`` may be called with the same number
            several times, as under gradient accumulation.
        max_overhead: most of the wall time that captures may take, 0..1; the schedule is thinned to
            keep it.
        behind_sink: processor seconds that were spent on captures behind the sink so far. They
            count as taken from training where training keeps every core busy, that is on a CPU.
        camera_options: what is captured, and how (``max_mb``, ``blocks``, ``projections``,
            ``autocast``, ...): see ``Camera``.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Probe | Any,
        schedule: Schedule,
        sink: Callable[[Capture], None],
        *,
        start_step: int = 0,
        captured: Collection[int] = (),
        counts_from: int | None = None,
        max_overhead: float = 0.02,
        behind_sink: Callable[[], float] = float,
        clock: Callable[[], float] = time.perf_counter,
        **camera_options: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigError(f"what is watched is a torch.nn.Module; got {type(model).__name__}")
        if not isinstance(schedule, Schedule):
            raise ConfigError(
                f"schedule is a Schedule, like Schedule.every(100); got {schedule!r} (every=100 "
                "makes one)"
            )
        if counts_from not in (None, 0, 1):
            raise ConfigError(f"counts_from is 0 or 1, or None to find out; got {counts_from!r}")
        options.positive("max_overhead", max_overhead, "a share of the wall time, like 0.02")
        start_step = options.whole("start_step", start_step, 0)
        self._next_call: int = (
            -_NEVER
        )  # in the loop's own count: the first call always looks closer
        self._offset = None if counts_from is None else 1 - counts_from
        self._latest: tuple[int, int | None, Mapping[str, Any]]
        self.forget_latest()
        self._start_step = start_step
        self._clock = clock
        self._sink = sink
        self._behind_sink, self._behind_s = behind_sink, 0.0
        self._captured = set(captured)
        self._held: Capture | None = None
        self._governor = Governor(schedule, max_overhead)
        self._failures = 0
        self._handed_on = self._left_out = 0
        self._closed = self._went_back = False
        self.schedule = schedule
        self.probe = as_probe(probe)
        self._camera = Camera(distributed.unwrapped(model), self.probe, **camera_options)
        # Of a model that is whole on every process, only the main one takes captures.
        self._takes_part = self._camera.main or self._camera.sharded
        self._since, self._since_step = self._clock(), start_step
        if self._takes_part:
            self._explore(start_step)
        else:
            self._next_call = _NEVER
        self._explored_s = self._clock() - self._since

    @property
    def captured_steps(self) -> list[int]:
        """Steps that were captured, here and before a resume, in order."""
        return sorted(self._captured)

    @property
    def model_info(self) -> dict[str, Any]:
        """What was found in the model, as ``Capture.model`` holds it."""
        return self._camera.model_info

    @property
    def overhead(self) -> float:
        """Share of the training time that captures took so far, 0..1; the first, which is taken
        before training, aside."""
        return self._governor.overhead

    def step(self, step: int, tokens_seen: int | None = None, **metrics: float | Tensor) -> None:
        """Call after each optimiser step. Off due steps this compares integers, and nothing else.

        Args:
            step: the loop's own counter, from 0 or from 1.
            tokens_seen: training tokens so far.
            metrics: numbers or 0-d tensors; read (which waits for the device) on due steps only.
        """
        before = self._latest[0]
        self._latest = (step, tokens_seen, metrics)
        try:
            if before <= step < self._next_call:
                return
        except TypeError:
            pass  # no number at all, which is said where it is looked at
        self._on_due(step, tokens_seen, metrics, before)

    def skip(self, captured: Collection[int]) -> None:
        """Leave out steps that the run turned out to hold already; to be called before the first
        ``step``."""
        self._captured.update(captured)
        if self._held is not None and self._held.step in captured:
            self._held = None

    def capture_now(
        self, step: int, tokens_seen: int | None = None, **metrics: float | Tensor
    ) -> None:
        """Capture the model as it is, as ``step`` finished optimiser steps, unless that step is
        captured already.

        The capture that was taken at construction, if it is this step's, is handed on at once.

        Raises:
            CaptureError: it could not be captured.
        """
        if self._held is not None and self._held.step == step:
            self._release(metrics)
        if step in self._captured or not self._takes_part:
            return
        self._deliver(self._camera.take(step, _count(tokens_seen), _numbers(metrics)))

    def close(self, *, failed: bool = False) -> None:
        """Capture the model as it is now, if the last step was not due, and stop. Safe to call
        twice.

        Args:
            failed: training ended by an error in this process. A sharded model is then left alone:
                the other processes may not come.
        """
        if self._closed:
            return
        self._closed = True
        self._release({})
        self._next_call = _NEVER
        left_alone = (
            not self._takes_part
            or (failed and self._camera.sharded)
            or self._failures >= _MAX_FAILURES
        )
        step, tokens_seen, metrics = self._latest
        self.forget_latest()
        if step != -1 and not left_alone:
            done = self._finished(step)
            if done is not None and done not in self._captured:
                try:
                    self._capture_timed(done, tokens_seen, metrics)
                except (
                    Exception
                ):  # of a device that ended the training by its failure, as a rule, and fails again
                    log.exception("could not capture the last step, %d", done)
        if self._camera.main and self._handed_on:
            log.info(
                "%d captures%s: %.2g %% of the training time, and %.2g s before it for looking at "
                "the model",
                self._handed_on,
                f" ({self._left_out} due steps left out)" if self._left_out else "",
                100 * self._governor.overhead,
                self._explored_s,
            )

    def forget_latest(self) -> None:
        """The model is no longer what the latest call of ``step`` left: ``close`` is not to capture
        it as that step."""
        self._latest = (-1, None, {})

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
    # ------------------------------------------------------------------------------------------

    def _on_due(
        self, step: int, tokens_seen: int | None, metrics: Mapping[str, Any], before: int
    ) -> None:
        done = self._finished(step)
        if done is None or self._offset is None:
            return
        if step < before:
            self._say_went_back(before, step)
            return
        self._release(metrics)
        if self._next_call == -_NEVER:
            due = self.schedule.next_due(self._since_step)
            # What the user's script did between ``watch`` and here, data and compilation, is no
            # training that pays for captures.
            self._since, self._since_step = self._clock(), done
        else:
            due = self._next_call + self._offset
        if due is not None and done >= due:
            self._capture_timed(done, tokens_seen, metrics)
            due, skipped = self._governor.next_step(done)
            if skipped and self._camera.main:
                self._say_thinned(skipped, due)
        if self._failures >= _MAX_FAILURES:
            due = None
        if self._camera.sharded:
            due = distributed.agreed(_NEVER if due is None else due, self._camera.device)
        self._next_call = _NEVER if due is None or due >= _NEVER else due - self._offset

    def _finished(self, step: Any) -> int | None:
        """The loop's counter as optimiser steps finished; None where it is no whole number.

        Raises:
            ConfigError: so it was from the first call on.
        """
        try:
            number = options.whole("step", step, 0)
        except ConfigError as error:
            if self._next_call == -_NEVER:
                raise
            if self._next_call != _NEVER:
                log.error("%s: no more captures are taken in this run", error)
            self._next_call = _NEVER
            return None
        if self._offset is None:
            self._offset = 1 if number == self._start_step else 0
        return number + self._offset

    def _capture_timed(
        self, step: int, tokens_seen: int | None, metrics: Mapping[str, Any]
    ) -> None:
        self._settle()
        behind_s = 0.0
        if cores_are_busy(self._camera.device):
            before, self._behind_s = self._behind_s, self._behind_sink()
            behind_s = self._behind_s - before
        started = self._clock()
        self._governor.trained(step - self._since_step, max(started - self._since - behind_s, 0.0))
        self._try_capture(step, tokens_seen, metrics)
        self._since, self._since_step = self._clock(), step
        self._governor.captured(self._since - started + behind_s)

    def _release(self, metrics: Mapping[str, Any]) -> None:
        """Hand on the capture that was taken at construction, with what the first step said of the
        weights that it began with."""
        if self._held is None:
            return
        held, self._held = self._held, None
        try:
            self._sink(replace(held, metrics=_numbers(metrics)))
            self._handed_on += 1
        except Exception:
            log.exception("could not hand on the capture of step %d; training goes on", held.step)

    def _try_capture(self, step: int, tokens_seen: int | None, metrics: Mapping[str, Any]) -> None:
        try:
            self.capture_now(step, tokens_seen, **metrics)
            self._failures = 0
        except Exception:  # training goes on whatever a picture costs
            self._failures += 1
            if self._failures == 1:
                log.exception(
                    "could not capture step %d; training goes on, and the next due step is tried "
                    "again",
                    step,
                )
            elif self._failures == _MAX_FAILURES:
                log.error(
                    "%d captures in a row failed: no more are taken in this run", _MAX_FAILURES
                )

    def _say_thinned(self, skipped: int, due: int | None) -> None:
        governor = self._governor
        # Once is enough to act on; how many it were is said at the end.
        log.log(
            logging.DEBUG if self._left_out else logging.WARNING,
            "captures took %.1f %% of the training time so far (%.0f ms each, max_overhead is %.1f %%): "
            "leaving out %d due steps, the next capture is at step %s; so it goes on while they "
            "take that long",
            100 * governor.overhead,
            1000 * governor.spent_s / governor.captures,
            100 * governor.max_overhead,
            skipped,
            due,
        )
        self._left_out += skipped

    def _say_went_back(self, before: int, step: int) -> None:
        if self._camera.main and not self._went_back:
            log.warning(
                "step went back from %d to %d: captures are numbered by the optimiser steps of the "
                "whole training, and the next is taken "
                "at step %d; give a counter that goes on from epoch to epoch",
                before,
                step,
                self._next_call,
            )
        self._went_back = True

    def _settle(self) -> None:
        # What the device still has to do belongs to training, not to the capture that would wait
        # for it.
        if self._camera.device.type == "cuda":
            torch.cuda.synchronize(self._camera.device)

    def _explore(self, start_step: int) -> None:
        first = self._camera.explore(start_step, 0 if start_step == 0 else None)
        if start_step not in self._captured and (
            self.schedule.is_due(start_step) or not self._captured
        ):
            # It waits for the first call of ``step``, whose loss is that of these very weights.
            self._held = first if self._camera.main else None
            self._captured.add(start_step)

    def _deliver(self, capture: Capture) -> None:
        if self._camera.main:
            self._sink(capture)
            self._handed_on += 1
        self._captured.add(capture.step)


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
            log.warning(
                "metric %s=%r is not a number and is left out of the capture",
                name,
                type(value).__name__,
            )
    return numbers
