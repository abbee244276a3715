"""The only module that joins stations.

    watch           model ──Recorder──▶ scores, budget ──▶ spool ──▶ every tracker          (while training)
    load_captures   a run ──▶ Captures                                                      (afterwards, anywhere)
    render          a run ──▶ captures here ──▶ frames ──▶ video ──▶ the same run

Called by users (as ``tv.watch``, ``tv.render``, ``tv.load_captures``), by ``train.py``, the jobs and the integrations. torch is
imported when something is watched, seaborn and OpenCV when something is drawn, a tracker's SDK when that tracker is used.
"""

from __future__ import annotations

import csv
import logging
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tracker_viz import capture_file, trackers
from tracker_viz.errors import ConfigError, TrackerError, unknown_name
from tracker_viz.metrics import Scorer, head_table, run_summary, score_series
from tracker_viz.trackers.base import Run, RunState
from tracker_viz.trackers.outbox import Destination, Outbox, Report, push
from tracker_viz.trackers.pull import Pulled, cache_directory, pull
from tracker_viz.types import SCHEMES, Capture, RunRef

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tracker_viz.capture import Probe, Recorder, Schedule
    from tracker_viz.rendering import Layout, Renderer
    from tracker_viz.rendering.storyboard import Pace
    from tracker_viz.video import EncoderName

__all__ = ["RenderResult", "Watcher", "load_captures", "push", "render", "render_command", "render_run", "watch"]

log = logging.getLogger(__name__)

TrackerOptions = Mapping[str, Mapping[str, Any]]


# -- while training -------------------------------------------------------------------------------------------


def watch(
    model: nn.Module,
    *,
    run: Any = "mlflow",
    probe: Probe | Tensor | Sequence[Any] | None = None,
    schedule: Schedule | None = None,
    every: int | None = None,
    total_steps: int | None = None,
    captures: int = 100,
    start_step: int = 0,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    spool: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    max_mb: float = 10.0,
    **recorder_options: Any,
) -> Watcher:
    """Watch a decoder while it trains: captures at scheduled steps go into the run. Call it before the first training step.

    Everything that waiting could not mend raises here, before any training: a model or a probe that cannot be captured, a tracker
    that refuses. Later on nothing raises into training, and what a tracker does not take stays in the spool, for ``tracker-viz push``.

    Args:
        run: ``"mlflow"``, ``"wandb"`` or ``"local"``: the run that is active in this process (joined, never ended), else a new one. Or an
            existing run: a ``RunRef`` or its text, a ``wandb.Run``, an MLflow run. Or a list of these, to log into several.
        probe: token ids [probe, position] whose attention is captured; by default repeated random tokens of the model's vocabulary.
        schedule, every, total_steps, captures: which steps: a ``Schedule``; or every that many steps; or ``captures`` of them, dense at
            the start, over ``total_steps``; or, without a word, 0, 1, 2, 4, ... 1000 and every 1000 after that. Step 0 and the last always.
        start_step: optimiser steps that were finished before.
        name, config, tags: of a run that is made here.
        spool: directory where captures wait for the trackers; ``spool/<name>-<time>`` by default. A spool that an earlier process
            left is gone on with, into the same runs.
        tracker_options: tracker -> options of its adapter, e.g. ``{"mlflow": {"tracking_uri": ..., "experiment": ...}}``.
        max_mb: size of one capture in megabytes.
        recorder_options: everything else that ``capture.Recorder`` takes (``max_overhead``, ``blocks``, ``autocast``, ...).

    Raises:
        UnsupportedModelError, ProbeError: the model or the probe cannot be captured.
        ConfigError, MissingDependencyError, RunNotFoundError, TrackerError: a run cannot be had.
    """
    from tracker_viz.capture import Recorder, fit, is_main_process

    probe = _default_probe(model) if probe is None else probe
    schedule = _schedule(schedule, every, total_steps, captures)
    options: dict[str, Any] = {"start_step": start_step, "max_mb": max_mb, **recorder_options}
    if not is_main_process():
        # Sharded models need every process in the probe pass; only the main one keeps what comes out.
        return Watcher(Recorder(model, probe, schedule, _drop, **options), None)

    # The Recorder comes first: a model that it cannot see must leave no run behind. It hands nothing on before the first step.
    recorder = Recorder(model, probe, schedule, lambda capture: outbox.put(capture), **options)
    name = name or "watched"
    scorer = Scorer()
    outbox = Outbox(
        spool or Path("spool") / f"{_file_name(name)}-{time.strftime('%Y%m%d-%H%M%S')}",
        _destinations(run, tracker_options or {}),
        name=name,
        config=config,
        tags=tags,
        prepare=lambda capture: fit(scorer(capture), max_mb),
    )
    try:
        if outbox.captured_steps:
            scorer = _resumed_scorer(outbox)
            recorder.skip(outbox.captured_steps)
    except BaseException:
        outbox.close("failed")
        raise
    return Watcher(recorder, outbox, lambda: run_summary(scorer.series()))


class Watcher:
    """What ``watch`` returns: tell it of every step, and close it. As a context manager it closes itself.

    Attributes:
        step: ``step(step, tokens_seen=None, **metrics)``: call after each optimiser step with the loop's own counter, from 0 or from 1, and
            with what the pictures should say (``loss=``). Off due steps this compares two integers, and nothing else.
    """

    def __init__(self, recorder: Recorder, outbox: Outbox | None, summary: Callable[[], Mapping[str, float]] = dict) -> None:
        self.recorder = recorder
        self.outbox = outbox
        self._summary = summary
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

    def close(self, state: RunState = "finished", *, timeout_s: float = 120.0, progress: bool = True) -> Report | None:
        """Capture the last step, upload what is left, end the runs that were made here. Never raises for a tracker's sake.

        Args:
            timeout_s: how long to wait for the trackers; what is left then stays in the spool.

        Returns:
            What became of the captures; None on processes that record nothing.
        """
        self.recorder.close()
        if self.outbox is None:
            return None
        self.outbox.flush()
        self.outbox.set_summary(self._summary())
        with _progress("uploading", "captures", shown=progress, delay_s=1.0) as advance:
            return self.outbox.close(state, timeout_s=timeout_s, progress=advance)

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        stopped_by_hand = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.close("finished" if kind is None else "killed" if stopped_by_hand else "failed")


def _default_probe(model: nn.Module) -> Probe:
    from tracker_viz.capture import context_length, make_probe, vocab_size

    size = vocab_size(model)
    if size is None:
        raise ConfigError("the model does not say how many tokens it knows; give it a probe=: token ids [probe, position]")
    return make_probe(size, context_length(model))


def _schedule(schedule: Schedule | None, every: int | None, total_steps: int | None, captures: int) -> Schedule:
    from tracker_viz.capture import Schedule

    if schedule is not None:
        if every is not None:
            raise ConfigError("give schedule= or every=, not both")
        return schedule
    if every is not None:
        return Schedule.every(every, total_steps)
    return Schedule.open_ended() if total_steps is None else Schedule.for_total(total_steps, captures)


def _destinations(run: Any, tracker_options: TrackerOptions) -> list[Destination | Run]:
    return [_destination(each, tracker_options) for each in (run if isinstance(run, list | tuple) else [run])]


def _destination(run: Any, tracker_options: TrackerOptions) -> Destination | Run:
    if isinstance(run, str) and run in SCHEMES:
        return Destination(run, tracker_options.get(run, {}))
    if isinstance(run, str | RunRef):
        ref = RunRef.parse(run) if isinstance(run, str) else run
        return Destination(ref.scheme, tracker_options.get(ref.scheme, {}), ref=ref)
    if isinstance(run, Destination) or hasattr(run, "put_captures"):
        return run
    return trackers.join(run, **tracker_options.get(type(run).__module__.partition(".")[0], {}))


def _resumed_scorer(outbox: Outbox) -> Scorer:
    """Goes on from the run's first capture, from which change is measured, and from the scores of all; what is gone is left out."""
    for run in [*outbox.runs, outbox.run]:
        found = [capture.path for capture in pull(run).captures]
        if found:
            scores = [name for name in capture_file.read_header(found[-1]).arrays if name.startswith("scores.")]
            return Scorer(capture_file.read(found[0]), earlier=[capture_file.read(path, scores) for path in found])
    return Scorer()


def _drop(capture: Capture) -> None:
    """Sink of the processes that record nothing."""


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-") or "run"


# -- afterwards, anywhere -------------------------------------------------------------------------------------


def load_captures(
    run: RunRef | str, *, names: Sequence[str] | None = None, tracker_options: TrackerOptions | None = None, cache: Path | None = None
) -> Iterator[Capture]:
    """The captures of a run, ordered by step; one at a time is in memory.

    Args:
        names: only these arrays; all of them when None.

    Raises:
        RunNotFoundError: there is no such run.
    """
    opened = _open(run, tracker_options)
    for capture in _pulled(opened, cache, progress=False).captures:
        yield capture_file.read(capture.path, names)


@dataclass(frozen=True, slots=True)
class RenderResult:
    """What was made of a run's captures.

    Attributes:
        path: where the video (or what was asked for instead) lies on this machine.
        url: where it is watched; None when it was not uploaded.
        ui_command: what must be running for ``url`` to open; None where a server shows it already.
        duration_s: how long it plays; 0 for a still picture and a page.
        missing_steps: captured steps that could not be had; the timeline shows them as gaps.
    """

    path: Path
    url: str | None
    ui_command: str | None
    n_captures: int
    duration_s: float
    missing_steps: tuple[int, ...]


def render(run: RunRef | str, **options: Any) -> Path:
    """Draw a run's captures and put the video into the same run; the same as ``tracker-viz render``. Options as of ``render_run``.

    Returns:
        The video's path on this machine.
    """
    return render_run(run, **options).path


def render_run(
    run: RunRef | str,
    *,
    layout: str | Layout = "overview",
    theme: str = "dark",
    video: Mapping[str, Any] | None = None,
    format: str = "video",
    upload: bool = True,
    output: str | Path | None = None,
    cache: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    progress: bool = True,
) -> RenderResult:
    """Pull a run's captures, draw them, assemble the video, put it into the same run. Needs no torch.

    Args:
        layout: name of a layout, or one of one's own.
        theme: ``dark`` or ``light``.
        video: ``size``, ``encoder``, ``pace``, ``seconds_per_capture``, ``interpolate``, ``title_s``, ``hold_s``, ``workers``, ``max_mb``,
            as in ``conf/video/default.yaml``, whose values hold for what is left out.
        format: ``video``; ``poster``: a PNG of three moments; ``webp`` or ``gif``: a small animation; ``html``: a page with a step slider
            and the value under the pointer, that needs no network.
        upload: False leaves what is made on this machine only.
        output: where it lies here; by default among this run's downloads. A directory, or a file with or without a suffix.
        cache: where downloads are kept; see ``trackers.pull.default_cache``.
        progress: show progress bars.

    Raises:
        ConfigError: an option has no meaning; before anything is pulled.
        RunNotFoundError, TrackerError: the run cannot be read or written.
        RenderError: the run has no captures, or not those that the layout shows.
        VideoError: the video cannot be written here.
    """
    from tracker_viz.rendering import Renderer, Series, resolve_layout
    from tracker_viz.video import video_path

    layout = resolve_layout(layout)
    options = VideoOptions(**(video or {}))
    if format not in FORMATS:
        raise ConfigError(unknown_name("format", format, FORMATS))
    opened = _open(run, tracker_options)
    cache = Path(cache) if cache else None
    path = Path(output) if output else cache_directory(opened.ref, cache) / "videos" / layout.name
    path = path / layout.name if path.is_dir() else path
    if format == "video":
        path = video_path(path, options.encoder)
    pulled = _pulled(opened, cache, progress=progress)
    missing = sorted(ref.step for ref in pulled.damaged)
    series = Series(pulled.captures, title=opened.info().name, missing_steps=missing)
    renderer = Renderer(series, layout, size=options.size, theme=theme)
    with _progress("drawing", "frames", shown=progress) as advance:
        path, duration_s = _write(renderer, format, path, options, advance)
    url = None
    if upload and format == "video":
        url = opened.put_video(path, layout=layout.name, last_step=series.steps[-1])
    elif upload:
        url = opened.put_file(path, f"{layout.name}{path.suffix}")
    if upload:
        _put_head_table(opened, pulled)
    return RenderResult(path, url, opened.ui_command if url else None, len(series), duration_s, tuple(missing))


FORMATS = ("video", "poster", "webp", "gif", "html")


def _write(renderer: Renderer, format: str, path: Path, options: VideoOptions, advance: Callable[[int, int], None]) -> tuple[Path, float]:
    """Make the file; returns its path, with the suffix that its format has, and how long it plays."""
    from tracker_viz.rendering import storyboard, write_animation, write_explorer, write_poster
    from tracker_viz.video import write_video

    if format == "poster":
        return write_poster(renderer, path), 0.0
    if format == "html":
        return write_explorer(renderer, path), 0.0
    shots = storyboard(renderer.series.steps, **options.pacing())
    if format in ("webp", "gif"):
        path = path if path.suffix else path.with_suffix(f".{format}")
        return write_animation(renderer, shots, path), sum(shot.duration_s for shot in shots)
    written = write_video(
        len(shots),
        lambda index: renderer.draw(shots[index]),
        path,
        duration_s=[shot.duration_s for shot in shots],
        encoder=options.encoder,
        workers=options.workers,
        progress=advance,
        max_bytes=options.max_mb << 20,
    )
    return written.path, written.duration_s


def _put_head_table(run: Run, pulled: Pulled) -> None:
    """``head_roles.csv``: every head's role, its onset and its scores, beside the pictures that show them."""
    paths = [capture.path for capture in pulled.captures]
    names = [name for name in capture_file.read_header(paths[-1]).arrays if name.startswith("scores.head.")]
    rows = head_table(score_series(capture_file.read(path, names) for path in paths))
    if not rows:
        return
    with tempfile.TemporaryDirectory(prefix="tracker_viz-") as directory:
        table = Path(directory) / "head_roles.csv"
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        run.put_file(table, table.name)


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """The group ``video`` of ``conf/``, where each option is explained."""

    size: Any = "1080p"
    encoder: EncoderName = "auto"
    pace: Pace = "capture"
    seconds_per_capture: float | None = None
    interpolate: int = 0
    title_s: float = 0.0
    hold_s: float = 3.0
    workers: int | None = None
    max_mb: int = 50

    def __post_init__(self) -> None:
        from tracker_viz.rendering import picture_size, storyboard
        from tracker_viz.video import video_path

        # What each of these refuses, it refuses here, before anything is trained or pulled.
        picture_size(self.size)
        storyboard([0, 1], **self.pacing())
        video_path("any", self.encoder)
        if self.max_mb < 1:
            raise ConfigError(f"video.max_mb is the size of the file in MiB, at least 1; got {self.max_mb}")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"video.workers is a number of threads, at least 1, or null for all cores; got {self.workers}")

    def pacing(self) -> dict[str, Any]:
        """What ``rendering.storyboard`` takes."""
        return {name: getattr(self, name) for name in ("pace", "seconds_per_capture", "interpolate", "title_s", "hold_s")}


def render_command(run: Run, *, layout: str | None = None) -> str:
    """The command that makes the video of ``run`` from any directory: it carries what the environment does not."""
    words = [f"run={run.ref}", *(f"layout={layout}" for _ in [0] if layout), *(f"{key}={value}" for key, value in run.environment.items())]
    return " ".join(["tracker-viz", "render", *map(shlex.quote, words)])


def _open(run: RunRef | str, tracker_options: TrackerOptions | None) -> Run:
    ref = RunRef.parse(run) if isinstance(run, str) else run
    return trackers.open_run(ref, **(tracker_options or {}).get(ref.scheme, {}))


def _pulled(run: Run, cache: Path | None, *, progress: bool) -> Pulled:
    with _progress("pulling", "captures", shown=progress, delay_s=0.5) as advance:
        return pull(run, cache, progress=advance)


@contextmanager
def _progress(verb: str, unit: str, *, shown: bool, delay_s: float = 0.0) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is told (done, in all)."""
    from tqdm import tqdm

    with tqdm(desc=verb, unit=f" {unit}", disable=not shown, delay=delay_s, file=sys.stderr, leave=False, dynamic_ncols=True) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance
