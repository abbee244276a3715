"""A model that trains -> captures in its run: Recorder, scores, budget, spool and trackers, put
together by ``watch``."""

from __future__ import annotations

import inspect
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tracker_viz import trackers
from tracker_viz.delivery.outbox import Destination, Outbox
from tracker_viz.delivery.report import Report
from tracker_viz.errors import ConfigError, TrackerError, unknown_name
from tracker_viz.metrics import run_summary
from tracker_viz.pipeline.load import TrackerOptions
from tracker_viz.pipeline.scoring import Scores
from tracker_viz.progress import progress_bar
from tracker_viz.trackers.base import Run, RunState
from tracker_viz.trackers.local import directory_name
from tracker_viz.trackers.run_config import as_config, as_name, as_tags
from tracker_viz.trackers.sweep import parent_runs
from tracker_viz.types import Capture, RunRef

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tracker_viz.capture import Decode, Probe, Recorder, Schedule

log = logging.getLogger(__name__)


def watch(
    model: nn.Module,
    *,
    run: Any = "mlflow",
    probe: Probe | Tensor | Sequence[Any] | None = None,
    decode: Decode | Any | None = None,
    schedule: Schedule | None = None,
    every: int | None = None,
    total_steps: int | None = None,
    captures: int = 100,
    start_step: int = 0,
    name: str | None = None,
    config: Any = None,
    tags: Any = None,
    spool: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    max_mb: float = 10.0,
    keep_captures: bool = False,
    start_timeout_s: float = 15.0,
    max_stall_s: float = 60.0,
    **recorder_options: Any,
) -> Watcher:
    """Watch a decoder while it trains: captures at scheduled steps go into the run. Call it before
    the first training step.

    Everything that waiting could not mend raises here, before any training: a model or a probe that
    cannot be captured, a tracker that refuses. Later on nothing raises into training, and what a
    tracker does not take stays in the spool, for ``tracker-viz push``.

    Args:
        run: ``"mlflow"``, ``"wandb"`` or ``"local"``: the run that is active in this process
            (joined, never ended), else a new one. Or an existing run: a ``RunRef`` or its text, a
            ``wandb.Run``, an MLflow run. Or a list of these, to log into several.
        probe: token ids [probe, position] whose attention is captured; by default repeated random
            tokens of the model's vocabulary, on which alone induction and duplicate-token heads
            show. ``tv.make_probe`` gives a row of these and one of your text.
        decode: token id -> the text that pictures show, or a tokenizer; ids themselves by default.
            A ``Probe`` has its own.
        schedule, every, total_steps, captures: which steps: a ``Schedule``; or every that many
            steps; or ``captures`` of them, dense at the start, over ``total_steps``; or, without a
            word, 0, 1, 2, 4, ... 1000 and every 1000 after that. Step 0 and the last always.
        start_step: optimiser steps that were finished before.
        name, config, tags: of a run that is made here. ``config`` is what you train with, in any
            form (dict, ``argparse.Namespace``, dataclass, Hugging Face, OmegaConf, ...), ``tags`` a
            mapping, a list or a text.
        spool: directory where captures wait for the trackers; ``spool/<name>-<time>`` by default. A
            spool that an earlier process left is gone on with, into the same runs.
        tracker_options: tracker -> options of its adapter, e.g. ``{"mlflow": {"tracking_uri": ...,
            "experiment": ...}}``.
        max_mb: size of one capture in megabytes.
        keep_captures: keep the spool's copy of what the trackers have confirmed: ``tracker-viz
            push`` can then mend what a server damages later, and ``local:<spool>`` can be rendered.
        start_timeout_s: how long this call may wait for trackers that do not answer; their run is
            made when they do.
        max_stall_s: how long training may stand still for a disk that takes nothing. Trackers are
            never waited for while it runs.
        recorder_options: everything else that ``capture.Recorder`` and ``capture.camera.Camera``
            take (``max_overhead``, ``blocks``, ``only_heads``, ``projections``, ``pooling``,
            ``autocast``, ...).

    Raises:
        UnsupportedModelError, ProbeError: the model or the probe cannot be captured.
        ConfigError, MissingDependencyError, RunNotFoundError, TrackerError: a run cannot be had.
    """
    from tracker_viz.capture import Recorder, as_probe, is_main_process

    _check_names(recorder_options)
    probe = default_probe(model, decode) if probe is None else as_probe(probe, decode=decode)
    schedule = _schedule(schedule, every, total_steps, captures)
    options: dict[str, Any] = {"start_step": start_step, "max_mb": max_mb, **recorder_options}
    if not is_main_process():
        # Sharded models need every process in the probe pass; only the main one keeps what comes
        # out.
        return Watcher(Recorder(model, probe, schedule, _drop, **options), None)

    # The Recorder comes first: a model that it cannot see must leave no run behind. It hands
    # nothing on before the first step.
    recorder = Recorder(
        model,
        probe,
        schedule,
        lambda capture: outbox.put(capture),
        behind_sink=lambda: outbox.writer_s,
        **options,
    )
    waiting: dict[str, Any] = {
        "keep_captures": keep_captures,
        "start_timeout_s": start_timeout_s,
        "max_stall_s": max_stall_s,
    }
    outbox, scores = open_outbox(
        run, name or "watched", spool, config, tags, tracker_options, max_mb, **waiting
    )
    there = outbox.captured_steps
    if start_step == 0 and any(there):
        log.warning(
            "captures up to step %d are in the run already, and are not taken again: another "
            "training needs a run and a spool of its own",
            max(there),
        )
    recorder.skip(there)
    return Watcher(recorder, outbox, scores)


class Watcher:
    """What ``watch`` returns: tell it of every step, and close it. As a context manager it closes
    itself.

    Attributes:
        step: ``step(step, tokens_seen=None, **metrics)``: call after each optimiser step with the
            loop's own counter, from 0 or from 1, and with what the pictures should say (``loss=``).
            Off due steps this compares two integers, and nothing else.
    """

    def __init__(
        self, recorder: Recorder, outbox: Outbox | None, scores: Scores | None = None
    ) -> None:
        self.recorder = recorder
        self.outbox = outbox
        self._scores = scores
        # The bound method itself, so that a step costs no second call.
        self.step = recorder.step

    @property
    def ref(self) -> RunRef:
        """The first run that is logged into.

        Raises:
            TrackerError: it could not be reached so far; its captures wait in the spool.
        """
        if not self.refs:
            raise TrackerError("no run could be reached so far; captures wait in the spool")
        return self.refs[0]

    @property
    def refs(self) -> list[RunRef]:
        """The runs that could be reached so far."""
        return self.outbox.refs if self.outbox else []

    @property
    def runs(self) -> list[Run]:
        return self.outbox.runs if self.outbox else []

    @property
    def captured_steps(self) -> list[int]:
        return self.recorder.captured_steps

    def close(
        self, state: RunState = "finished", *, timeout_s: float = 120.0, progress: bool = True
    ) -> Report | None:
        """Capture the last step, upload what is left, end the runs that were made here. Never
        raises for a tracker's sake.

        Args:
            timeout_s: how long to wait for the trackers; what is left then stays in the spool.

        Returns:
            What became of the captures; None on processes that record nothing, forks of this one
            among them.
        """
        if self.outbox is not None and self.outbox.in_fork:
            return None
        report = None
        try:
            self.recorder.close(failed=state == "failed")
        finally:
            if self.outbox is not None and self._scores is not None:
                report = close_outbox(self.outbox, state, self._scores, timeout_s, progress)
        return report

    def summary(self) -> dict[str, float | int]:
        """What the trackers' tables of runs say about the captures so far, see
        ``metrics.run_summary``; empty where nothing is recorded."""
        return run_summary(self._scores.series()) if self._scores else {}

    def whole_runs(self) -> list[RunRef]:
        """After ``close``: runs that hold every capture, so that a picture of them is whole.

        Those that everything was delivered to; else the spool, as a ``local:`` run, while it still
        holds everything itself; else none.
        """
        if self.outbox is None:
            return []
        undelivered = {
            delivery.ref for delivery in self.outbox.close().deliveries if not delivery.complete
        }
        delivered = [ref for ref in self.refs if ref not in undelivered]
        if delivered:
            return delivered
        in_spool = {ref.step for ref in self.outbox.run.list_captures()}
        return [self.outbox.run.ref] if in_spool.issuperset(self.captured_steps) else []

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stopped_by_hand = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.close("finished" if kind is None else "killed" if stopped_by_hand else "failed")


def default_probe(model: nn.Module, decode: Decode | Any | None = None) -> Probe:
    from tracker_viz.capture import context_length, learned_positions, make_probe, vocab_size

    size = vocab_size(model)
    if size is None:
        raise ConfigError(
            "the model does not say how many tokens it knows; tell it: "
            "probe=tv.make_probe(vocab_size, context_length), or give token ids "
            "[probe, position] of your own"
        )
    return make_probe(size, context_length(model) or learned_positions(model), decode=decode)


def _check_names(options: Mapping[str, Any]) -> None:
    from tracker_viz.capture import Recorder
    from tracker_viz.capture.camera import Camera

    taken = [
        name
        for function in (watch, Recorder, Camera)
        for name in inspect.signature(function).parameters
    ]
    for name in options:
        if name not in taken:
            own = {"model", "sink", "clock", "behind_sink", "recorder_options", "camera_options"}
            raise ConfigError(unknown_name("option of watch", name, set(taken) - own))


def _schedule(
    schedule: Schedule | None, every: int | None, total_steps: int | None, captures: int
) -> Schedule:
    from tracker_viz.capture import Schedule

    if schedule is not None:
        if every is not None:
            raise ConfigError("give schedule= or every=, not both")
        return schedule
    if every is not None:
        return Schedule.every(every, total_steps)
    return (
        Schedule.open_ended() if total_steps is None else Schedule.for_total(total_steps, captures)
    )


def open_outbox(
    run: Any,
    name: str,
    spool: str | Path | None,
    config: Any,
    tags: Any,
    tracker_options: TrackerOptions | None,
    max_mb: float,
    **outbox_options: Any,
) -> tuple[Outbox, Scores]:
    """Where captures go, scored and cut to their size on the way; and all scores so far.
    ``outbox_options``: as ``Outbox`` takes them."""
    scores = Scores(max_mb)
    outbox = Outbox(
        spool
        or new_directory(
            Path("spool") / f"{directory_name(name)}-{time.strftime('%Y%m%d-%H%M%S')}"
        ),
        _destinations(run, tracker_options or {}),
        name=as_name(name),
        config=as_config(config),
        tags=as_tags(tags),
        prepare=scores.prepare,
        **outbox_options,
    )
    try:
        if outbox.captured_steps:
            scores.resume(outbox)
    except BaseException:
        outbox.close("failed")
        raise
    return outbox, scores


def close_outbox(
    outbox: Outbox, state: RunState, scores: Scores, timeout_s: float, progress: bool
) -> Report:
    if outbox.closed:
        return outbox.close()
    outbox.flush(timeout_s)
    try:
        scores.deliver(outbox)
    except Exception:
        log.exception(
            "the summary and the tables of the run could not be kept in %s; its captures are",
            outbox.directory,
        )
    with progress_bar("uploading", "captures", shown=progress, delay_s=1.0) as advance:
        return outbox.close(state, timeout_s=timeout_s, progress=advance)


def _destinations(run: Any, tracker_options: TrackerOptions) -> list[Destination | Run]:
    return [
        _destination(each, tracker_options)
        for each in (run if isinstance(run, list | tuple) else [run])
    ]


def _destination(run: Any, tracker_options: TrackerOptions) -> Destination | Run:
    if isinstance(run, str) and run in trackers.schemes():
        return Destination(run, tracker_options.get(run, {}), parent=parent_runs().get(run))
    if isinstance(run, str | RunRef):
        ref = RunRef.parse(run) if isinstance(run, str) else run
        return Destination(ref.scheme, tracker_options.get(ref.scheme, {}), ref=ref)
    if isinstance(run, Destination | Run):
        return run
    return trackers.join(run, **tracker_options.get(trackers.scheme_of(run), {}))


def _drop(capture: Capture) -> None:
    """Sink of the processes that record nothing."""


def new_directory(path: Path) -> Path:
    """``path``, or ``path-2``, ...: several trainings may start in one second, and each of them
    needs a spool of its own."""
    for number in itertools.count(1):
        directory = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"no spool can be made here: {error}; choose where with spool="
            ) from error
        return directory
    raise AssertionError("the loop returns")
