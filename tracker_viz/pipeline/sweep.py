"""All runs of a sweep -> their videos, each in its own run, and the page in the run above them that
plays these in step."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tracker_viz.cores import usable_cores
from tracker_viz.errors import ConfigError, RenderError, TrackerVizError
from tracker_viz.pipeline.in_step import put_sweep_page
from tracker_viz.pipeline.load import TrackerOptions, open_run
from tracker_viz.pipeline.options import ThemeName, VideoOptions
from tracker_viz.pipeline.progress import progress_bar
from tracker_viz.pipeline.render import RenderResult, render
from tracker_viz.trackers.download import folder_name
from tracker_viz.types import RunRef


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What became of a sweep's runs, in their order.

    Attributes:
        rendered: run -> its pictures.
        failed: run -> why it has none, such as a job that failed before its first capture.
        in_step: the page in the sweep's run that plays the videos in step; None where there is
            none, see ``put_sweep_page``.
    """

    rendered: Mapping[RunRef, RenderResult]
    failed: Mapping[RunRef, str]
    in_step: str | None


def render_sweep(
    sweep: RunRef | str,
    *,
    video: VideoOptions | Mapping[str, Any] | None = None,
    upload: bool = True,
    output: str | Path | None = None,
    theme: ThemeName = "dark",
    tracker_options: TrackerOptions | None = None,
    progress: bool = True,
    **options: Any,
) -> SweepResult:
    """Render every run of a sweep. A run that cannot be rendered stops no other.

    As many runs are drawn at once as there are cores (``video.workers``), each on one of them and
    in a process of its own: threads of one process wait for each other where pictures are planned
    and read back. A script that calls this needs the usual ``if __name__ == "__main__":``.

    Args:
        sweep: the parent run.
        output: directory for the pictures here, in which every run has a folder of its own; by
            default among the runs' downloads.
        options: everything else that ``render`` takes.

    Raises:
        ConfigError: an option has no meaning, or there are no runs below ``sweep``.
        RenderError: a process was killed, as for want of memory.
        RunNotFoundError, TrackerError: the sweep cannot be read, or its page cannot be written.
    """
    parent = open_run(sweep, tracker_options)
    refs = parent.children()
    if not refs:
        raise ConfigError(
            f"{parent.ref} has no runs below it: is it the parent run of a sweep? One run alone is "
            "rendered with run="
        )
    chosen = VideoOptions.of(video)
    cores = chosen.workers or usable_cores()
    at_once = min(cores, len(refs))
    each_video = chosen.model_copy(update={"workers": cores // at_once})

    render_one = partial(
        render,
        video=each_video,
        upload=upload,
        theme=theme,
        tracker_options=tracker_options,
        progress=False,
        **options,
    )
    rendered: dict[RunRef, RenderResult] = {}
    failed: dict[RunRef, str] = {}
    processes = ProcessPoolExecutor(
        at_once, multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    with progress_bar("rendering", "runs", shown=progress) as advance, processes as pool:
        advance(0, len(refs))
        ref_of = {pool.submit(render_one, ref, output=_directory(output, ref)): ref for ref in refs}
        try:
            for done, future in enumerate(as_completed(ref_of), start=1):
                try:
                    rendered[ref_of[future]] = future.result()
                except ConfigError:
                    raise  # it would be the same with every run
                except TrackerVizError as error:
                    failed[ref_of[future]] = str(error)
                advance(done, len(refs))
        except BrokenProcessPool as error:
            raise RenderError(
                f"a process that drew a run was killed, when {len(rendered)} of {len(refs)} were "
                "done. Where memory ran out, draw fewer at "
                "once (video.workers=1), or smaller pictures (video.size=720p)"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return SweepResult(
        {ref: rendered[ref] for ref in refs if ref in rendered},
        {ref: failed[ref] for ref in refs if ref in failed},
        put_sweep_page(parent.ref, theme=theme, tracker_options=tracker_options)
        if upload
        else None,
    )


def _end_with_parent() -> None:
    """In a process that draws: it would wait for ever for the next run from a parent that was
    killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="tracker_viz-parent", daemon=True).start()


def _directory(output: str | Path | None, ref: RunRef) -> Path | None:
    """A folder for each run below ``output``."""
    if output is None:
        return None
    name = ref.path.rstrip("/").rpartition("/")[2]
    plain = re.fullmatch(r"\w[\w.-]*", name)
    directory = Path(output) / (name if plain else folder_name(name))
    directory.mkdir(parents=True, exist_ok=True)
    return directory
