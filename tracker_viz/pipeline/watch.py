"""Watch a model while it trains: captures at scheduled steps go into its tracker's run.

camera looks ──▶ outbox opens ──▶ recorder is made of both
training loop ──step──▶ recorder ──▶ outbox, which scores and cuts ──▶ spool ──▶ trackers
"""

from __future__ import annotations

import itertools
import logging
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tracker_viz import trackers
from tracker_viz.comparison import run_title
from tracker_viz.delivery import Destination, Outbox, Report
from tracker_viz.errors import ConfigError, RunTakenError, TrackerError, unknown_name
from tracker_viz.metrics import run_summary
from tracker_viz.pipeline.continuation import continue_run
from tracker_viz.pipeline.load import TrackerOptions
from tracker_viz.pipeline.scoring import Scores
from tracker_viz.progress import progress_bar
from tracker_viz.trackers import (
    Run,
    RunState,
    as_config,
    as_name,
    as_tags,
    directory_name,
    job_settings,
    parent_runs,
)
from tracker_viz.types import Capture, RunRef

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tracker_viz.capture import Decode, Forward, Pooling, Probe, Recorder, Schedule
    from tracker_viz.pipeline.render import RenderResult

log = logging.getLogger(__name__)

# Programs that run other people's code: a run is not called after them.
_LAUNCHERS = ("", "-c", "-m", "ipykernel_launcher", "colab_kernel_launcher", "pytest", "ipython")


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
    max_overhead: float | None = None,
    free_s: float = 30.0,
    start_step: int = 0,
    counts_from: int | None = None,
    name: str | None = None,
    config: Any = None,
    tags: Any = None,
    spool: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    max_mb: float = 10.0,
    blocks: str | Sequence[str] | None = None,
    only_blocks: Collection[int] | None = None,
    only_heads: Collection[int] | Mapping[int, Collection[int]] | None = None,
    projections: Collection[str] | Mapping[str, str] | None = None,
    pooling: Pooling | Mapping[str, Pooling] = "sample",
    max_experts: int = 4,
    forward: Forward | None = None,
    autocast: torch.dtype | None = None,
    keep_captures: bool = False,
    start_timeout_s: float = 15.0,
    max_stall_s: float = 60.0,
    enabled: bool = True,
) -> Watcher:
    """Watch a decoder while it trains: captures at scheduled steps go into the run. Call it before
    the first training step, on every process.

    Everything that waiting could not fix raises here, before any training: a model or a probe that
    cannot be captured, a tracker that refuses. Later on nothing raises into training, and what a
    tracker does not take stays in the spool, for ``tracker-viz push``.

    A run holds the captures of one training. A run that holds some already is continued if the
    model has the same structure and, where ``start_step`` is 0, the same weights; steps that it
    holds are not captured again. For another training a new run is made where ``run`` only names a
    tracker; a run that ``run`` names itself is refused.

    Args:
        run: ``"mlflow"``, ``"wandb"`` or ``"local"``: the run that is active in this process
            (joined, never ended), else a new one. Or an existing run: a ``RunRef`` or its text, a
            ``wandb.Run``, an MLflow run. Or a list of these, to log into several.
        probe: token ids [probe, position] whose attention is captured; by default repeated random
            tokens of the model's vocabulary, because induction and duplicate-token heads show only
            on repetition. ``tv.make_probe`` gives a row of these and one of your text.
        decode: token id -> the text that pictures show, or a tokenizer; ids themselves by default.
            A ``Probe`` has its own.
        schedule, every, total_steps, captures: which steps: a ``Schedule``; or every that many
            steps; or ``captures`` of them, dense at the start, over ``total_steps``; by default
            every step up to 32, then ever fewer, and every 1000 in the end. Step 0 and the last
            always.
        max_overhead: share of the wall time that captures may take, 0.02 by default; due steps are
            left out rather than exceed it. 1: no limit. Steps that you chose yourself, with
            ``schedule=`` or ``every=``, are kept whatever they cost unless you pass this, too.
        free_s: seconds that captures may take in all even where that is more than
            ``max_overhead``, so that a short training has a film, too.
        start_step: optimizer steps that were finished before.
        counts_from: the loop's counter at the first call of ``step``, minus ``start_step``: 0 or 1;
            by default that call tells. Pass 1 where the same number may come several times, as
            under gradient accumulation.
        name, config, tags: of a run that is made here. The name is the script's by default, or the
            model's where there is no script. ``config`` is what you train with, in any form (dict,
            ``argparse.Namespace``, dataclass, Hugging Face, OmegaConf, ...), ``tags`` a mapping, a
            list or a text.
        spool: directory where captures wait for the trackers; ``spool/<name>-<time>`` by default. A
            spool that an earlier process left is continued, into the same runs.
        tracker_options: tracker -> options of its adapter, e.g. ``{"mlflow": {"tracking_uri": ...,
            "experiment": ...}}``.
        max_mb: size of one capture in megabytes.
        blocks: the decoder blocks' module names, or a pattern; found if None.
        only_blocks: keep these blocks, by number; all if None.
        only_heads: keep the attention of these heads, by number: of every block, or block -> heads;
            all if None.
        projections: keep only weights with these names (``mlp.w_gate``); all that are found if
            None. A mapping says where each is: ``{"attn.w_q": "mixer.query.weight"}``, parameter
            names within a block.
        pooling: how weights become smaller: ``sample``, ``mean`` or ``rms``, or pattern of a name
            -> one of them (``{"mlp.*": "rms"}``).
        max_experts: experts of a mixture that are captured one by one, besides their mean.
        forward: how to call the model on [probe, position] ids; found from its signature by
            default.
        autocast: run the probe under autocast to this dtype.
        keep_captures: keep the spool's copy of what the trackers have confirmed: ``tracker-viz
            push`` can then repair what a server damages later, and ``local:<spool>`` can be
            rendered.
        start_timeout_s: how long this call may wait for trackers that do not answer; their run is
            made when they do.
        max_stall_s: how long training may stand still for a disk that takes nothing. Trackers are
            never waited for while it runs.
        enabled: False for debug runs: nothing is captured, and what is returned does nothing.

    Raises:
        UnsupportedModelError, ProbeError: the model or the probe cannot be captured.
        ConfigError, MissingDependencyError, RunNotFoundError, TrackerError: a run could not be
            opened.
        RunTakenError: a run that ``run`` names, or the spool, holds the captures of another
            training.
    """
    if not enabled:
        return Watcher()
    from tracker_viz.capture import (
        Camera,
        CaptureOptions,
        Governor,
        Recorder,
        as_probe,
        unwrapped,
        whole,
    )

    model = unwrapped(checked_model(model))
    destinations = destinations_of(run, tracker_options or {})
    options = CaptureOptions(
        captures=captures,
        every=every,
        max_overhead=max_overhead,
        free_s=free_s,
        max_mb=max_mb,
        blocks=blocks,
        only_blocks=only_blocks,
        only_heads=only_heads,
        projections=projections,
        pooling=pooling,
        max_experts=max_experts,
    )
    start_step = whole("start_step", start_step, 0)
    chosen = chosen_schedule(schedule, options.every, total_steps, options.captures)
    limit = options.limit(steps_are_chosen=schedule is not None or every is not None)
    probe = default_probe(model, decode) if probe is None else as_probe(probe, decode=decode)

    # The camera looks first: a model that it cannot see must leave no run behind.
    camera = Camera(model, probe, forward=forward, autocast=autocast, **options.for_camera())
    if not camera.takes_part:
        return Watcher()
    first = camera.explore(start_step, 0 if start_step == 0 else None)

    # Then the outbox is opened, on the main process: it keeps the captures of all.
    scores = Scores(options.max_mb)
    outbox = None
    if camera.main:
        outbox = open_outbox(
            destinations,
            scores,
            spool=spool,
            name=sweep_run_name(name or default_name(model)),
            config=config,
            tags=tags,
            keep_captures=keep_captures,
            start_timeout_s=start_timeout_s,
            max_stall_s=max_stall_s,
            first=first,
        )

    # The recorder is made of both.
    governor = Governor(
        chosen,
        limit,
        start_step=start_step,
        background_s=(lambda: outbox.background_s) if outbox else float,
    )
    recorder = Recorder(
        camera,
        chosen,
        outbox.submit if outbox else _discard,
        first=first,
        start_step=start_step,
        captured=outbox.captured_steps if outbox else (),
        counts_from=counts_from,
        governor=governor,
    )
    return Watcher(recorder, outbox, scores, tracker_options)


class Watcher:
    """What ``watch`` returns: call ``step`` after every optimizer step, and ``close`` at the end.
    As a context manager it closes itself.

    On processes that record nothing, and with ``enabled=False``, every method does nothing.

    Attributes:
        step: ``step(step, tokens_seen=None, **metrics)``: call after each optimizer step with the
            loop's own counter, from 0 or from 1, and with what the pictures should show
            (``loss=``). Off due steps this compares two integers, and nothing else.
        recorder: takes the captures; None where nothing is recorded.
        outbox: delivers them; None on processes that only take part in the probe's pass.
    """

    def __init__(
        self,
        recorder: Recorder | None = None,
        outbox: Outbox | None = None,
        scores: Scores | None = None,
        tracker_options: TrackerOptions | None = None,
    ) -> None:
        self.recorder = recorder
        self.outbox = outbox
        self.tracker_options = tracker_options or {}
        self._scores = scores
        # The bound method itself, so that a step costs no second call.
        self.step: Callable[..., None] = recorder.step if recorder else _ignore_step

    @property
    def ref(self) -> RunRef | None:
        """The first run that is logged into; the spool, as a local run, while no tracker could be
        reached; None where nothing is recorded."""
        if self.outbox is None:
            return None
        return self.refs[0] if self.refs else self.outbox.run.ref

    @property
    def refs(self) -> list[RunRef]:
        """The runs that could be reached so far."""
        return self.outbox.refs if self.outbox else []

    @property
    def runs(self) -> list[Run]:
        return self.outbox.runs if self.outbox else []

    @property
    def captured_steps(self) -> list[int]:
        return self.recorder.captured_steps if self.recorder else []

    def is_due(self, step: int) -> bool:
        """Return whether the schedule captures after ``step`` finished steps, as long as captures
        stay within their limit."""
        return self.recorder is not None and self.recorder.schedule.is_due(step)

    def forget_latest(self) -> None:
        """Call where the model is no longer what the latest step left: ``close`` then does not
        capture it as that step."""
        if self.recorder:
            self.recorder.forget_latest()

    def close(
        self, state: RunState = "finished", *, timeout_s: float = 120.0, progress: bool = True
    ) -> Report | None:
        """Capture the last step, upload what is left, and end the runs that were made here. A
        tracker's failure is never raised. Safe to repeat.

        Args:
            timeout_s: how long to wait for the trackers; what is left then stays in the spool.

        Returns:
            What became of the captures; None on processes that record nothing, such as forks of
            this one.
        """
        if self.outbox is not None and self.outbox.in_fork:
            return None
        report = None
        try:
            if self.recorder:
                self.recorder.close(failed=state == "failed")
        finally:
            if self.outbox is not None and self._scores is not None:
                report = close_outbox(self.outbox, state, self._scores, timeout_s, progress)
        return report

    def render(self, **options: Any) -> RenderResult:
        """Draw the film into the run: ``tv.render(recorder, ...)``, which see."""
        from tracker_viz.pipeline.render import render

        return render(self, **options)

    def summary(self) -> dict[str, float | int]:
        """Return what the trackers' tables of runs show of the captures so far, see
        ``metrics.run_summary``; empty where nothing is recorded."""
        return run_summary(self._scores.series()) if self._scores else {}

    def whole_runs(self) -> list[RunRef]:
        """Return the runs that hold every capture, after closing; a film of them is complete.

        These are the runs that everything was delivered to, else the spool, as a ``local:`` run,
        while it holds everything itself, else none.
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

    def runs_to_draw(self) -> list[RunRef]:
        """Close, and return ``whole_runs``; empty where nothing is recorded, as on other ranks.

        Raises:
            TrackerError: no place holds every capture; names the commands that finish the work.
        """
        report = self.close()
        whole = self.whole_runs()
        if self.outbox is not None and report is not None and not whole:
            raise TrackerError(
                f"no run holds every capture yet; finish the upload with: {report.command}, then "
                "draw with: tracker-viz render"
            )
        return whole

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close("finished")
        elif issubclass(kind, KeyboardInterrupt):
            self.close("killed")
        else:
            self.close("failed")


# -- what ``watch`` and ``backfill`` are made of


def checked_model(model: Any) -> nn.Module:
    from torch import nn

    if not isinstance(model, nn.Module):
        raise ConfigError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    return model


def default_probe(model: nn.Module, decode: Decode | Any | None = None) -> Probe:
    """Return repeated random tokens of the model's vocabulary, as long as its context allows."""
    from tracker_viz.capture import context_length, learned_positions, make_probe, vocab_size

    size = vocab_size(model)
    if size is None:
        raise ConfigError(
            "the model does not say how many tokens it knows; pass "
            "probe=tv.make_probe(vocab_size, context_length), or token ids [probe, position] of "
            "your own"
        )
    return make_probe(size, context_length(model) or learned_positions(model), decode=decode)


def default_name(model: nn.Module) -> str:
    """Return the script's name, or the model's where there is no script."""
    program = Path(sys.argv[0]) if sys.argv else Path()
    script = program.parent.name if program.stem == "__main__" else program.stem
    if script in _LAUNCHERS:
        return type(model).__name__.removeprefix("FSDP")
    return script


def sweep_run_name(name: str) -> str:
    """Return ``name`` with the settings of this sweep job, ``demo · n_heads=4 seed=0``: lists of
    runs show what tells them apart. Outside a sweep it stays as it is."""
    settings = job_settings()
    is_told_already = run_title("", settings) in name
    return name if is_told_already else run_title(name, settings)


def chosen_schedule(
    schedule: Schedule | None, every: int | None, total_steps: int | None, captures: int
) -> Schedule:
    from tracker_viz.capture import Schedule

    if schedule is None:
        if every is not None:
            return Schedule.every(every, total_steps)
        if total_steps is not None:
            return Schedule.for_total(total_steps, captures)
        return Schedule.open_ended()
    if every is not None:
        raise ConfigError("pass schedule= or every=, not both")
    if not isinstance(schedule, Schedule):
        raise ConfigError(
            f"schedule must be a Schedule, like Schedule.every(100); got {schedule!r} (every=100 "
            "makes one)"
        )
    return schedule


def destinations_of(run: Any, tracker_options: TrackerOptions) -> list[Destination | Run]:
    """Return where captures go, without reaching for it.

    Raises:
        ConfigError: ``run`` names no tracker and no run.
    """
    runs = run if isinstance(run, list | tuple) else [run]
    switches, found = [], []
    for each in runs:
        switch = _switched_off(each)
        if switch:
            switches.append(switch)
        else:
            found.append(_destination(each, tracker_options))
    if switches:
        # A debug switch must not end a training: the other trackers still get the captures.
        where = "go to the other trackers only"
        if not found:
            where = "stay on this machine, in the spool; tv.render(recorder) draws them from there"
        log.warning("%s: captures %s", ", ".join(switches), where)
    return found


def _switched_off(run: Any) -> str | None:
    """Return the setting that keeps the run's tracker from recording, or None."""
    if isinstance(run, Run):
        return None
    if isinstance(run, Destination | RunRef):
        scheme = run.scheme
    elif isinstance(run, str):
        scheme = run.partition(":")[0]
    else:
        return trackers.switched_off(trackers.scheme_of(run), run)
    return trackers.switched_off(scheme) if scheme in trackers.schemes() else None


def _destination(run: Any, tracker_options: TrackerOptions) -> Destination | Run:
    if isinstance(run, str) and run in trackers.schemes():
        return Destination(run, tracker_options.get(run, {}), parent=parent_runs().get(run))
    if isinstance(run, str) and ":" not in run:
        raise ConfigError(
            f"{unknown_name('tracker', run, trackers.schemes())}; an existing run looks like "
            "mlflow:<run_id>"
        )
    if isinstance(run, str | RunRef):
        ref = RunRef.parse(run) if isinstance(run, str) else run
        return Destination(ref.scheme, tracker_options.get(ref.scheme, {}), ref=ref)
    if isinstance(run, Destination | Run):
        return run
    return trackers.join(run, **tracker_options.get(trackers.scheme_of(run), {}))


def open_outbox(
    destinations: Sequence[Destination | Run],
    scores: Scores,
    *,
    first: Capture,
    spool: str | Path | None,
    name: str,
    config: Any = None,
    tags: Any = None,
    **outbox_options: Any,
) -> Outbox:
    """Open the way of the captures: scored and cut by ``scores``, then into the spool and the runs.
    Runs that hold captures are continued.

    Args:
        first: the model's first capture, as the camera took it. It is not put into the outbox here.

    Raises:
        RunTakenError: a run that was named, or the spool, belongs to another training. Where the
            active run of a tracker does, a new one is made.
    """
    name = as_name(name, max_characters=1000)
    directory = Path(spool) if spool else new_directory(_default_spool(name))
    is_new = not (directory / "run.json").exists()

    def opened(destinations: Sequence[Destination | Run]) -> Outbox:
        outbox = Outbox(
            directory,
            destinations,
            name=name,
            config=as_config(config),
            tags=as_tags(tags),
            prepare=scores.score_and_cut,
            **outbox_options,
        )
        try:
            continue_run(outbox, scores, first)
        except BaseException:
            outbox.close("failed")
            raise
        return outbox

    try:
        while True:
            try:
                return opened(destinations)
            except RunTakenError as taken:
                others = [_not_joining(each, taken.ref) for each in destinations]
                if others == destinations or not is_new:
                    raise
                log.warning("%s is recorded by another training: a new run is made", taken.ref)
                destinations = others
                # It names the run that is taken.
                (directory / "run.json").unlink()
    except BaseException:
        if spool is None:
            # Made a moment ago, for captures that never came.
            shutil.rmtree(directory, ignore_errors=True)
        raise


def _not_joining(destination: Destination | Run, taken: object) -> Destination | Run:
    """Return a destination that makes a run of its own where it would join ``taken``, the run that
    is active in this process."""
    if not isinstance(destination, Destination) or destination.ref or not destination.join_active:
        return destination
    active = trackers.connect(destination.scheme, **destination.options).active_run()
    if active is None or active.ref != taken:
        return destination
    return replace(destination, join_active=False)


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


def new_directory(path: Path) -> Path:
    """Make ``path``, or ``path-2``, ... where it is taken: several trainings may start in one
    second, and each needs a spool of its own."""
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


def _default_spool(name: str) -> Path:
    return Path("spool") / f"{directory_name(name)}-{time.strftime('%Y%m%d-%H%M%S')}"


def _discard(capture: Capture) -> None:
    """Sink of the processes that record nothing."""


def _ignore_step(step: int, tokens_seen: int | None = None, **metrics: Any) -> None:
    """Stands for ``Recorder.step`` where nothing is recorded."""
