"""Render every run of a sweep, and put a page into its parent run that plays the videos in step."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tracker_viz import notebook
from tracker_viz.cores import usable_cores
from tracker_viz.errors import ConfigError, RenderError, TrackerVizError
from tracker_viz.notice import results_printed
from tracker_viz.pipeline.load import TrackerOptions, open_run
from tracker_viz.pipeline.options import DEFAULT_THEME, ThemeName, VideoOptions
from tracker_viz.pipeline.render import RenderResult, render
from tracker_viz.pipeline.results.in_step import put_sweep_page
from tracker_viz.progress import progress_bar
from tracker_viz.trackers import folder_name
from tracker_viz.types import RunRef

_MOST_LINES = 100  # runs in a notebook's list


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The pictures of a sweep's runs, in the order of the runs.

    Attributes:
        rendered: run -> its pictures.
        failed: run -> why it has none, for example because its job failed before its first capture.
        in_step: link of the page in the parent run that plays the videos in step; None where there
            is none, see ``put_sweep_page``.
    """

    rendered: Mapping[RunRef, RenderResult]
    failed: Mapping[RunRef, str]
    in_step: str | None

    def __repr__(self) -> str:
        rendered = notebook.count(len(self.rendered), "run")
        return f"SweepResult({rendered} rendered, {len(self.failed)} failed)"

    def _repr_html_(self) -> str:
        """List in a notebook where the films are, and why a run has none."""
        page = notebook.link(self.in_step, "all films, in step") if self.in_step else ""
        films = [
            f"{notebook.text(ref)}: <code>{notebook.text(film)}</code>"
            for ref, film in self.rendered.items()
        ]
        failed = [
            f"{notebook.text(ref)}: {notebook.text(reason)}" for ref, reason in self.failed.items()
        ]
        return notebook.box(
            [
                notebook.text(repr(self)),
                page,
                notebook.lines(films[:_MOST_LINES]),
                notebook.lines(failed[:_MOST_LINES]),
            ]
        )


def render_sweep(
    sweep: RunRef | str,
    *,
    video: VideoOptions | Mapping[str, Any] | None = None,
    upload: bool = True,
    output: str | Path | None = None,
    theme: ThemeName = DEFAULT_THEME,
    tracker_options: TrackerOptions | None = None,
    progress: bool = True,
    **options: Any,
) -> SweepResult:
    """Render every run of a sweep. A run that cannot be rendered stops no other.

    As many runs are drawn at once as there are cores (``video.workers``), each in a process of its
    own: threads of one process wait for each other while pictures are planned and read back. A
    script that calls this needs the usual ``if __name__ == "__main__":``.

    Args:
        sweep: the parent run.
        output: directory for the pictures on this machine, with a folder for every run; by default
            among the runs' downloads.
        options: everything else that ``render`` takes.

    Raises:
        ConfigError: an option is wrong, or there are no runs below ``sweep``.
        RenderError: a process was killed, for example because memory ran out.
        RunNotFoundError, TrackerError: the sweep cannot be read, or its page cannot be written.
    """
    parent = open_run(sweep, tracker_options)
    refs = parent.children()
    if not refs:
        raise ConfigError(
            f"{parent.ref} has no runs below it; give the parent run of a sweep, or render one run "
            "with run="
        )

    chosen = VideoOptions.of(video)
    cores = chosen.workers or usable_cores()
    n_processes = min(cores, len(refs))
    render_one = partial(
        _render_quietly,
        video=chosen.model_copy(update={"workers": cores // n_processes}),
        upload=upload,
        theme=theme,
        tracker_options=tracker_options,
        progress=False,
        **options,
    )
    outputs = {ref: _directory(output, ref) for ref in refs}
    with progress_bar("rendering", "runs", shown=progress) as advance:
        outcomes = _render_all(render_one, outputs, n_processes, advance)

    rendered: dict[RunRef, RenderResult] = {}
    failed: dict[RunRef, str] = {}
    for ref in refs:
        outcome = outcomes[ref]
        if isinstance(outcome, TrackerVizError):
            failed[ref] = str(outcome)
        else:
            rendered[ref] = outcome

    page = None
    if upload:
        page = put_sweep_page(parent.ref, theme=theme, tracker_options=tracker_options)
    return SweepResult(rendered, failed, page)


def _render_quietly(ref: RunRef, **options: Any) -> RenderResult:
    """Render a run, in a process of its own; the result says where it is."""
    with results_printed():
        return render(ref, **options)


def _render_all(
    render_one: Callable[..., RenderResult],
    outputs: Mapping[RunRef, Path | None],
    n_processes: int,
    advance: Callable[[int, int], None],
) -> dict[RunRef, RenderResult | TrackerVizError]:
    """Render each run to its output, ``n_processes`` at a time, and return its result or error."""
    outcomes: dict[RunRef, RenderResult | TrackerVizError] = {}
    # A fork would copy locks that other threads of this process hold, and wait for them forever.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, spawn, initializer=_end_with_parent) as pool:
        ref_of = {}
        for ref, output in outputs.items():
            ref_of[pool.submit(render_one, ref, output=output)] = ref
        advance(0, len(ref_of))
        try:
            for future in as_completed(ref_of):
                outcomes[ref_of[future]] = _outcome(future)
                advance(len(outcomes), len(ref_of))
        except BrokenProcessPool as error:
            raise RenderError(
                f"a process that drew a run was killed when {len(outcomes)} of {len(ref_of)} were "
                "done. If memory ran out, draw fewer at once (video.workers=1), or smaller "
                "pictures (video.size=720p)"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return outcomes


def _outcome(future: Future[RenderResult]) -> RenderResult | TrackerVizError:
    try:
        return future.result()
    except ConfigError:
        # Every run would fail with it.
        raise
    except TrackerVizError as error:
        return error


def _end_with_parent() -> None:
    """End this drawing process when its parent is killed: it would wait for a run forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="tracker_viz-parent", daemon=True).start()


def _directory(output: str | Path | None, ref: RunRef) -> Path | None:
    """Return the run's own folder below ``output``, created."""
    if output is None:
        return None
    name = ref.path.rstrip("/").rpartition("/")[2]
    plain = re.fullmatch(r"\w[\w.-]*", name)
    directory = Path(output) / (name if plain else folder_name(name))
    directory.mkdir(parents=True, exist_ok=True)
    return directory
