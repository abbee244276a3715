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
    """Watch a decoder while it trains: captures at scheduled steps go into the run. Call it before
    the first training step, on every process.

    Everything that waiting could not fix raises here, before any training: a model or a probe that
    cannot be captured, a tracker that refuses. Later on nothing raises into training, and captures
    that a tracker does not take stay in the spool, for ``tracker-viz push``.

    A run holds the captures of one training. A run that holds some already is continued if the
    model has the same structure and, where ``start_step`` is 0, the same weights; steps that it
    holds are not captured again. For another training a new run is created where ``run`` only names
    a tracker; a run that ``run`` names itself is refused.

    Args:
        run: ``"mlflow"``, ``"wandb"`` or ``"local"``: the run that is active in this process
            (joined, never ended), else a new one. Or an existing run: a ``RunRef`` or its text, a
            ``wandb.Run``, an MLflow run. Or a list of these, to log into several.
        probe: token ids [probe, position] whose attention is captured; by default repeated random
            tokens of the model's vocabulary, because induction and duplicate-token heads show only
            on repetition. ``tv.make_probe`` gives a row of these and one of your text.
        decode: token id -> the text that pictures show, a tokenizer, or a table of texts by id; ids
            themselves by default, and where there is no text.
            A ``Probe`` has its own.
        schedule, every, total_steps, captures: the steps: a ``Schedule``; or every so many; or
            ``captures`` of them, dense at the start, over ``total_steps``; by default every step up
            to 32, then ever fewer, and every 1000 in the end. Step 0 and the last always.
        max_overhead: share of the wall time that captures may take, 0.02 by default; due steps are
            left out rather than exceed it. 1: no limit. Steps that you chose yourself, with
            ``schedule=`` or ``every=``, are kept whatever they cost unless you pass this, too.
        free_s: seconds that captures may take in all even where that is more than
            ``max_overhead``, so that a short training has a film, too.
        start_step: optimizer steps that were finished before.
        counts_from: the loop's counter at the first call of ``step``, minus ``start_step``: 0 or 1;
            by default taken from that call. Pass 1 where the same number may come several times,
            as under gradient accumulation.
        name, config, tags: of a run that is created here. The name is the script's by default, or
            the model's where there is no script. ``config`` holds your training's settings, in any
            form (dict, ``argparse.Namespace``, dataclass, Hugging Face, OmegaConf, ...), ``tags`` a
            mapping, a list or a text.
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
        score_rows: hidden rows of each kind that heads are scored on beside the rows of the probe
            that are drawn, see ``tv.make_probe``. A probe made by it keeps at most this many of its
            own; token ids get rows of repeated random tokens, where the model's vocabulary size is
            known. 0: none.
        alarms: look at every capture for signs of a training that goes wrong; they are logged, told
            to the run's tracker, and followed by denser captures.
        on_alarm: called with every alarm, on a thread of our own; what it raises is logged.
        signals: names of what is measured in the probe's pass beside attention, see the option
            ``capture.signals``; by default those that cost little.
        preview: put a film of what was captured so far into the runs, at most once in this time,
            such as ``"15min"``. A process of the lowest priority draws it, on one thread and
            without a GPU; what fails there is said in the log.
        forward: how to call the model on [probe, position] ids; found from its signature by
            default.
        autocast: run the probe under autocast to this dtype.
        keep_captures: keep the spool's copy after the trackers confirmed a capture: ``tracker-viz
            push`` can then repair what a server damages later, and ``local:<spool>`` can be
            rendered.
        start_timeout_s: longest time that this call waits for trackers that do not answer; their
            run is created when they do.
        max_stall_s: longest time that training waits for a disk that takes nothing. It never waits
            for trackers.
        enabled: False for debug runs: nothing is captured, and the result does nothing.

    Raises:
        UnsupportedModelError, ProbeError: the model or the probe cannot be captured.
        ConfigError, MissingDependencyError, RunNotFoundError, TrackerError: a run could not be
            opened.
        RunTakenError: a run that ``run`` names, or the spool, holds the captures of another
            training.
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
