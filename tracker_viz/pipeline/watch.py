"""``tv.watch``: record captures of a model while it trains into its tracker's run.

camera looks ──▶ outbox opens ──▶ recorder is made of both
training loop ──step──▶ recorder ──▶ outbox, which scores and cuts ──▶ spool ──▶ trackers
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_viz import notebook
from tracker_viz.delivery import Outbox
from tracker_viz.metrics import Alarm
from tracker_viz.pipeline.load import TrackerOptions
from tracker_viz.pipeline.recording.alarm_listener import AlarmListener
from tracker_viz.pipeline.recording.arguments import (
    checked_model,
    chosen_probe,
    chosen_schedule,
    default_name,
    sweep_run_name,
)
from tracker_viz.pipeline.recording.destinations import destinations_of
from tracker_viz.pipeline.recording.outbox import open_outbox
from tracker_viz.pipeline.recording.preview import Preview
from tracker_viz.pipeline.recording.run_twice import close_earlier, remember
from tracker_viz.pipeline.recording.watcher import Watcher
from tracker_viz.pipeline.scoring import Scores
from tracker_viz.pipeline.showing import Place, TrainingView
from tracker_viz.types import Capture

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tracker_viz.capture import (
        Camera,
        CostLimit,
        Decode,
        Forward,
        Pooling,
        Probe,
        Recorder,
        Schedule,
    )


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
    score_rows: int = 4,
    alarms: bool = True,
    on_alarm: Callable[[Alarm], object] | None = None,
    signals: Collection[str] | None = None,
    preview: str | None = None,
    forward: Forward | None = None,
    autocast: torch.dtype | None = None,
    keep_captures: bool = False,
    start_timeout_s: float = 15.0,
    max_stall_s: float = 60.0,
    enabled: bool = True,
) -> Watcher:
    """Watch a decoder while it trains: capture it at scheduled steps, into the run. Call this
    before the first training step, on every process.

    Errors that waiting could not fix raise here, before training: a model or a probe that cannot be
    captured, a tracker that refuses. After that, nothing raises into training, and captures that a
    tracker does not accept stay in the spool, for ``tracker-viz push``.

    A run holds the captures of one training run. If it already holds some, it is continued only if
    the model has the same structure and, when ``start_step`` is 0, the same weights; steps that it
    holds are not captured again. Otherwise a new run is created if ``run`` only names a tracker,
    and a run that ``run`` names itself is refused.

    Args:
        run: ``"mlflow"``, ``"wandb"`` or ``"local"``: the active run of this process (joined, never
            ended), else a new one. Or an existing run: a ``RunRef`` or its text, a ``wandb.Run``,
            an MLflow run. Or a list of these, to log to several.
        probe: token ids [probe, position] whose attention is captured. Default: repeated random
            tokens of the model's vocabulary, because induction and duplicate-token heads only show
            on repetition. ``tv.make_probe`` makes a row of these and a row of your text.
        decode: token id -> the text that pictures show, a tokenizer, or a table of texts by id.
            Default: the ids themselves, also for ids without a text. A ``Probe`` has its own.
        schedule, every, total_steps, captures: the steps: a ``Schedule``, or every this many steps,
            or ``captures`` of them, dense at the start, over ``total_steps``. Default: every step
            up to 32, then ever fewer, and every 1000 in the end. Always step 0 and the last.
        max_overhead: share of the wall time that captures may take, 0.02 by default; due steps are
            skipped rather than exceed it. 1: no limit. Steps that you choose with ``schedule=`` or
            ``every=`` are always captured unless you also pass this.
        free_s: total seconds that captures may take even if that is more than ``max_overhead``.
            This gives short runs a film, too.
        start_step: number of optimizer steps finished before.
        counts_from: the loop's counter at the first call of ``step``, minus ``start_step``: 0 or 1;
            by default taken from that call. Pass 1 if the same number can come several times, as
            with gradient accumulation.
        name, config, tags: of a run that is created here. ``name`` is by default the script's, or
            the model's if there is no script. ``config`` holds your training settings, in any form
            (dict, ``argparse.Namespace``, dataclass, Hugging Face, OmegaConf, ...), ``tags`` a
            mapping, a list or a string.
        spool: directory where captures wait for the trackers; ``spool/<name>-<time>`` by default. A
            spool from an earlier process is continued, into the same runs.
        tracker_options: tracker -> options of its adapter, e.g. ``{"mlflow": {"tracking_uri": ...,
            "experiment": ...}}``.
        max_mb: largest size of one capture in megabytes.
        blocks: module names of the decoder blocks, or a pattern; found if None.
        only_blocks: keep only these blocks, by number; all if None.
        only_heads: keep only the attention of these heads, by number: of every block, or block ->
            heads; all if None.
        projections: keep only weights with these names (``mlp.w_gate``); all that are found if
            None. A mapping gives their parameters within a block: ``{"attn.w_q":
            "mixer.query.weight"}``.
        pooling: how weights are reduced: ``sample``, ``mean`` or ``rms``, or name pattern -> one of
            these (``{"mlp.*": "rms"}``).
        max_experts: number of experts of a mixture that are captured individually, in addition to
            their mean.
        score_rows: number of hidden rows of each kind that heads are scored on in addition to the
            drawn rows of the probe, see ``tv.make_probe``. A probe made by it keeps at most this
            many of its own; token ids get rows of repeated random tokens, if the model's vocabulary
            size is known. 0: none.
        alarms: check every capture for signs of failing training. Alarms are logged, sent to the
            run's tracker, and followed by denser captures.
        on_alarm: called with every alarm, on a separate thread; exceptions that it raises are
            logged.
        signals: names of what is measured in the probe's forward pass besides attention, see the
            option ``capture.signals``; by default those that cost little.
        preview: upload a film of the captures so far, at most once in this time, such as
            ``"15min"``. A process with the lowest priority draws it, with one thread and without a
            GPU; its failures are logged.
        forward: how to call the model on [probe, position] ids; found from its signature by
            default.
        autocast: run the probe under autocast to this dtype.
        keep_captures: keep the spool's copy after the trackers confirmed a capture: ``tracker-viz
            push`` can then repair captures that a server damages later, and ``local:<spool>`` can
            be rendered.
        start_timeout_s: longest time that this call waits for trackers that do not answer; their
            run is created once they do.
        max_stall_s: longest time that training waits for a disk that accepts no data. It never
            waits for trackers.
        enabled: False for debug runs: nothing is captured, and the result does nothing.

    Raises:
        UnsupportedModelError, ProbeError: the model or the probe cannot be captured.
        ConfigError, MissingDependencyError, RunNotFoundError, TrackerError: a run could not be
            opened.
        RunTakenError: a run that ``run`` names, or the spool, holds the captures of another
            training run.
    """
    if not enabled:
        return Watcher()
    from tracker_viz.capture import Camera, CaptureOptions, unwrapped, whole

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
        score_rows=score_rows,
        alarms=alarms,
        signals=signals,
        preview=preview,
    )
    start_step = whole("start_step", start_step, 0)
    chosen = chosen_schedule(schedule, options.every, total_steps, options.captures)
    limit = options.limit(steps_are_chosen=schedule is not None or every is not None)
    batch = chosen_probe(model, probe, decode, options.score_rows)

    # The camera looks first: a model that it cannot see must leave no run behind.
    camera = Camera(model, batch, forward=forward, autocast=autocast, **options.for_camera())
    if not camera.takes_part:
        return Watcher()
    first = camera.explore(start_step, 0 if start_step == 0 else None)

    # Then the outbox is opened, on the main process: it keeps the captures of all.
    close_earlier(model)
    listener = AlarmListener(on_alarm)
    scores = Scores(options.max_mb, listener if options.alarms else None)
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

    view = None
    if outbox is not None and notebook.in_notebook():
        view = TrainingView(partial(_places, outbox))
    recorder = _recorder(camera, chosen, limit, outbox, view, first, start_step, counts_from)
    listener.recorder = recorder
    previews = None
    if outbox is not None and options.preview is not None:
        previews = Preview(outbox, options.preview)
        previews.start()
    watcher = Watcher(recorder, outbox, scores, tracker_options, view, previews)
    remember(watcher, model)
    return watcher


def _places(outbox: Outbox) -> list[Place]:
    """Return the runs that could be reached so far with the address of each; else the spool."""
    places: list[Place] = [(run.ref, run.url()) for run in outbox.runs]
    return places or [(outbox.run.ref, outbox.run.url())]


def _recorder(
    camera: Camera,
    schedule: Schedule,
    limit: CostLimit | None,
    outbox: Outbox | None,
    view: TrainingView | None,
    first: Capture,
    start_step: int,
    counts_from: int | None,
) -> Recorder:
    """Return a recorder into ``outbox``; without one it keeps nothing, as on processes that only
    take part in the probe's pass."""
    from tracker_viz.capture import Governor, Recorder

    sink: Callable[[Capture], None] = _discard
    captured: Collection[int] = ()
    if outbox is not None:
        sink, captured = outbox.submit, outbox.captured_steps
        if view is not None:
            sink = view.behind(sink)

    def background_s() -> float:
        return 0.0 if outbox is None else outbox.background_s

    return Recorder(
        camera,
        schedule,
        sink,
        first=first,
        start_step=start_step,
        captured=captured,
        counts_from=counts_from,
        governor=Governor(schedule, limit, start_step=start_step, background_s=background_s),
    )


def _discard(capture: Capture) -> None:
    """Stand for ``Outbox.submit`` on processes that record nothing."""
