"""The ``Watcher``: the user's handle on a recorded training run, returned by ``watch``."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tracker_viz import notebook
from tracker_viz.delivery import Outbox, Report
from tracker_viz.errors import TrackerError
from tracker_viz.metrics import run_summary
from tracker_viz.pipeline.load import TrackerOptions
from tracker_viz.pipeline.recording.outbox import close_outbox
from tracker_viz.pipeline.recording.preview import Preview
from tracker_viz.pipeline.recording.signals import USUAL, FlushOnSignals
from tracker_viz.pipeline.render import RenderResult, render
from tracker_viz.pipeline.results.result_lines import say_where_captures_are
from tracker_viz.pipeline.scoring import Scores
from tracker_viz.pipeline.showing import TrainingView
from tracker_viz.trackers import Run, RunState, state_after
from tracker_viz.types import RunRef

if TYPE_CHECKING:
    from tracker_viz.capture import Recorder

CLOSE_TIMEOUT_S = 120.0


class Watcher:
    """Handle on a recorded training run: call ``step`` after every optimizer step, and ``close`` at
    the end. As a context manager it closes itself.

    On processes that record nothing, and with ``enabled=False``, every method does nothing.

    Attributes:
        step: ``step(step, tokens_seen=None, **metrics)``: call after each optimizer step with the
            loop's own counter, from 0 or from 1, and with the metrics that pictures should show
            (``loss=``). Off due steps this only compares integers.
        recorder: takes the captures; None if nothing is recorded.
        outbox: delivers them; None on processes that only take part in the probe's forward pass.

    In a notebook, the training cell shows the latest capture.
    """

    def __init__(
        self,
        recorder: Recorder | None = None,
        outbox: Outbox | None = None,
        scores: Scores | None = None,
        tracker_options: TrackerOptions | None = None,
        view: TrainingView | None = None,
        preview: Preview | None = None,
    ) -> None:
        self.recorder = recorder
        self.outbox = outbox
        self.tracker_options = tracker_options or {}
        self._scores = scores
        self._view = view
        self._preview = preview
        self._signals: FlushOnSignals | None = None
        # The bound method itself, so that a step costs no second call.
        self.step: Callable[..., None] = _ignore_step
        if recorder is not None:
            self.step = recorder.step

    @property
    def ref(self) -> RunRef | None:
        """The first run that gets the captures. While no tracker could be reached it is the spool,
        as a local run; None if nothing is recorded."""
        if self.outbox is None:
            return None
        if self.refs:
            return self.refs[0]
        return self.outbox.run.ref

    @property
    def refs(self) -> list[RunRef]:
        """The runs that could be reached so far."""
        if self.outbox is None:
            return []
        return self.outbox.refs

    @property
    def runs(self) -> list[Run]:
        if self.outbox is None:
            return []
        return self.outbox.runs

    @property
    def captured_steps(self) -> list[int]:
        if self.recorder is None:
            return []
        return self.recorder.captured_steps

    def is_due(self, step: int) -> bool:
        """Return whether the schedule captures after ``step`` finished steps, if captures stay
        within their limit."""
        return self.recorder is not None and self.recorder.schedule.is_due(step)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all captures so far are on disk, in the spool; return whether they are. This
        does not wait for trackers: ``tracker-viz push`` uploads what is in the spool.

        Args:
            timeout_s: longest wait; None: no limit.
        """
        if self.outbox is None or self.outbox.in_fork:
            return True
        return self.outbox.flush(timeout_s)

    def flush_on_signals(self, *signals: signal.Signals, timeout_s: float = 20.0) -> None:
        """Flush when one of these signals arrives, then do what it did before: call your handler,
        or end the program. ``close`` removes the handlers.

        Nothing is installed unless you call this, on the main thread. SLURM sends SIGTERM before it
        kills a job, and with ``--signal`` a signal of your choice before it requeues it.

        Args:
            signals: default: SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2.
            timeout_s: longest time that a handler waits for the disk.

        Raises:
            ConfigError: this is not the main thread.
        """
        if self.outbox is None:
            return
        if self._signals is not None:
            self._signals.remove()
        self._signals = FlushOnSignals(partial(self._flush_and_say, timeout_s), signals or USUAL)

    def _flush_and_say(self, timeout_s: float) -> None:
        is_whole = self.flush(timeout_s)
        if self.outbox is None or self.outbox.push_command is None:
            return
        what = "captures are on the disk" if is_whole else "the last captures are not on the disk"
        # What a signal interrupts may be writing to the log or the terminal itself.
        os.write(2, f"tracker_viz: {what}; upload: {self.outbox.push_command}\n".encode())

    def forget_latest(self) -> None:
        """Call this after changing the model without a step, so that ``close`` does not capture it
        as the latest step."""
        if self.recorder:
            self.recorder.forget_latest()

    def close(
        self,
        state: RunState = "finished",
        *,
        timeout_s: float = CLOSE_TIMEOUT_S,
        progress: bool = True,
    ) -> Report | None:
        """Capture the last step, upload what is left, and end the runs that were created here. A
        tracker's failure never raises. It is safe to repeat.

        Args:
            timeout_s: longest wait for the trackers (20 s for a tracker that cannot be reached);
                the rest then stays in the spool.

        Returns:
            The outcome of the delivery; None on processes that record nothing, such as forks of
            this one.
        """
        was_open = self.is_open
        report = self._close(state, timeout_s, progress)
        if self.outbox is not None and report is not None and was_open:
            say_where_captures_are(self.outbox, report)
        return report

    def _close(self, state: RunState, timeout_s: float, progress: bool) -> Report | None:
        if self.outbox is not None and self.outbox.in_fork:
            return None
        report = None
        if self._preview is not None:
            # Before the runs end: its thread writes to them.
            self._preview.close()
        try:
            if self.recorder:
                self.recorder.close(failed=state == "failed")
        finally:
            if self.outbox is not None and self._scores is not None:
                report = close_outbox(self.outbox, state, self._scores, timeout_s, progress)
            if self._signals is not None:
                self._signals.remove()
        if self._view is not None and report is not None:
            self._view.closed(report.words)
        return report

    def render(self, **options: Any) -> RenderResult:
        """Draw the film into the run, see ``tv.render``."""
        return render(self, **options)

    def summary(self) -> dict[str, float | int]:
        """Return ``metrics.run_summary`` of the captures so far; empty if nothing is recorded."""
        if self._scores is None:
            return {}
        return run_summary(self._scores.series())

    def whole_runs(self) -> list[RunRef]:
        """Close, and return the runs that hold every capture, so that a film of them is complete.

        These are the runs with a complete delivery, else the spool, as a ``local:`` run, if it
        holds everything, else none.
        """
        if self.outbox is None:
            return []
        undelivered = set()
        for delivery in self.outbox.close().deliveries:
            if not delivery.complete:
                undelivered.add(delivery.ref)
        delivered = [ref for ref in self.refs if ref not in undelivered]
        if delivered:
            return delivered
        in_spool = {ref.step for ref in self.outbox.run.list_captures()}
        if in_spool.issuperset(self.captured_steps):
            return [self.outbox.run.ref]
        return []

    def runs_to_draw(self) -> list[RunRef]:
        """Close, and return ``whole_runs``; empty if nothing is recorded, as on other ranks.

        Raises:
            TrackerError: no run holds every capture; the error gives the commands that finish the
                upload.
        """
        report = self._close("finished", CLOSE_TIMEOUT_S, progress=True)
        whole = self.whole_runs()
        if self.outbox is not None and report is not None and not whole:
            raise TrackerError(
                f"no run holds every capture yet; finish the upload with: {report.command}, then "
                "draw with: tracker-viz render"
            )
        return whole

    @property
    def is_open(self) -> bool:
        """Whether captures are still taken: ``close`` was not called."""
        return self.outbox is not None and not self.outbox.closed

    def __repr__(self) -> str:
        if self.outbox is None:
            return "Watcher(records nothing in this process)"
        steps = self.captured_steps
        words = f"{self.ref}, {notebook.count(len(steps), 'capture')}"
        if steps:
            words += f" up to step {steps[-1]:,}"
        return f"Watcher({words}, {'open' if self.is_open else 'closed'})"

    def _repr_html_(self) -> str:
        """Show the latest capture in a notebook, with links to the runs."""
        if self._view is None:
            return notebook.box([notebook.text(repr(self))])
        return self._view.markup()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(state_after(kind))


def _ignore_step(step: int, tokens_seen: int | None = None, **metrics: Any) -> None:
    """Stand for ``Recorder.step`` where nothing is recorded."""
