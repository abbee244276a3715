"""Runs -> one video of all of them, pictures and a table of how they compare -> the run above
them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tracker_viz.comparison import (
    AXES,
    Axis,
    Correlation,
    check_runs,
    comparability_notes,
    correlations,
    in_order_of_settings,
    run_labels,
    run_table,
)
from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.pipeline.compared_runs import HeadOrder, check_probes, chosen_runs
from tracker_viz.pipeline.comparison_files import (
    NAME,
    write_charts,
    write_compared_video,
    write_tables,
)
from tracker_viz.pipeline.in_step import put_in_step_page
from tracker_viz.pipeline.load import TrackerOptions, open_run
from tracker_viz.pipeline.options import VideoOptions
from tracker_viz.pipeline.render import check_outputs
from tracker_viz.pipeline.scored_runs import score_runs
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.download import cache_directory
from tracker_viz.types import RunRef

ORDERS: tuple[HeadOrder, ...] = get_args(HeadOrder)
MOST_SHOWN = 64


@dataclass(frozen=True, slots=True)
class CompareResult:
    """A comparison that was made.

    Attributes:
        video, pictures, tables: files on this machine; ``pictures``: the video's last picture, the
            distances, the heads' clusters.
        rows: one per run, see ``comparison.run_table``.
        correlations: of settings with outcomes, the strongest first; empty for fewer runs than that
            takes.
        notes: what must be known before one compares.
        shown: the runs that the video and the pictures show: all, or some of many.
        url: where the video is watched; None when it was put into no run.
        in_step: the page that plays the runs' own videos in step; None where there is none.
        ui_command: what must be running for ``url`` to open; None where a server shows it already.
    """

    video: Path
    pictures: tuple[Path, ...]
    tables: tuple[Path, ...]
    rows: tuple[Mapping[str, Any], ...]
    correlations: tuple[Correlation, ...]
    notes: tuple[str, ...]
    shown: tuple[RunRef, ...]
    duration_s: float
    url: str | None
    in_step: str | None
    ui_command: str | None


def compare(
    runs: Sequence[RunRef | str] = (),
    *,
    sweep: RunRef | str | None = None,
    axis: Axis = "step",
    order: HeadOrder = "index",
    probe: str | int = 0,
    into: RunRef | str | None = None,
    shown: int = MOST_SHOWN,
    max_gb: float = 50.0,
    theme: str = "dark",
    video: VideoOptions | Mapping[str, Any] | None = None,
    upload: bool = True,
    output: str | Path | None = None,
    cache: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    progress: bool = True,
) -> Path:
    """Show side by side what the heads of several runs became, and when; the same as ``tracker-viz
    compare``.

    The runs may be of one tracker or of several.

    Args:
        runs: two or more, in the order in which they stand; in matched order the first one's heads
            give the columns.
        sweep: in their place the parent run of a sweep; its runs are sorted by the settings in
            which they differ.
        axis: what is shown together: the same ``step``, as many ``tokens`` seen, or the same
            ``progress`` of each run's own training.
        order: heads by their ``index``, or ``matched``: below each other those that behaved alike.
        probe: the probe row whose attention is shown, by its label or its index.
        into: the run that the results are put into; by default the one in which the tracker shows
            what was made of a sweep (its parent, a run of its group), else none.
        shown: 2 to 64: so many runs are drawn at most, of more those spread evenly from the lowest
            loss to the highest. The table and the correlations are of all runs; they need the runs'
            files of scores only, and no capture.
        max_gb: of captures that are pulled at most; the video shows fewer points of time rather
            than exceed it, and says so.
        theme, video, cache, progress: as of ``render``.
        upload: False leaves the results on this machine only.
        output: directory for the results here; by default among the downloads of ``into``, else
            ``compare`` in the working directory.

    Returns:
        The video's path on this machine.

    Raises:
        ConfigError: an option has no meaning, there are fewer than two runs, a run has no captures,
            or the runs were captured on different probes.
        RunNotFoundError, TrackerError: a run cannot be read, or ``into`` cannot be written.
        LayoutError: so many runs do not fit into the picture.
    """
    return compare_runs(
        runs,
        sweep=sweep,
        axis=axis,
        order=order,
        probe=probe,
        into=into,
        shown=shown,
        max_gb=max_gb,
        theme=theme,
        video=video,
        upload=upload,
        output=output,
        cache=cache,
        tracker_options=tracker_options,
        progress=progress,
    ).video


def compare_runs(
    runs: Sequence[RunRef | str] = (),
    *,
    sweep: RunRef | str | None = None,
    axis: Axis = "step",
    order: HeadOrder = "index",
    probe: str | int = 0,
    into: RunRef | str | None = None,
    shown: int = MOST_SHOWN,
    max_gb: float = 50.0,
    theme: str = "dark",
    video: VideoOptions | Mapping[str, Any] | None = None,
    upload: bool = True,
    output: str | Path | None = None,
    cache: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    progress: bool = True,
) -> CompareResult:
    """As ``compare``, which see, with all that came of it."""
    from tracker_viz.video import video_path

    options = _checked(runs, sweep, axis, order, shown, max_gb, theme, video)
    parent = open_run(sweep, tracker_options) if sweep else None
    named = open_run(into, tracker_options) if into else parent
    refs = (
        parent.children()
        if parent
        else [RunRef.parse(run) if isinstance(run, str) else run for run in runs]
    )
    if parent and len(refs) < 2:
        raise ConfigError(
            f"{parent.ref} has {len(refs)} runs below it; a comparison needs at least two: is it "
            "the parent run of a sweep?"
        )
    cache = Path(cache) if cache else None
    directory = (
        Path(output)
        if output
        else cache_directory(named.ref, cache) / NAME
        if named
        else Path(NAME)
    )
    check_outputs(["video"], [video_path(directory / NAME, options.encoder)], options)
    scored, notes = score_runs(
        refs, cache=cache, may_lack=bool(parent), tracker_options=tracker_options, progress=progress
    )
    compared = [run.compared for run in scored]
    check_runs(compared)
    if parent:
        compared = in_order_of_settings(compared)
        by_name = {run.compared.name: run for run in scored}
        scored = [by_name[run.name] for run in compared]
    _check_probe(probe, scored[0].rows)
    labels = run_labels(compared)
    notes += check_probes(scored, labels) + [
        _by_label(note, labels) for note in comparability_notes(compared)
    ]

    rows = run_table(compared)
    found_correlations = correlations(compared, rows)
    tables = write_tables(rows, found_correlations, directory)
    drawn, more_notes = chosen_runs(scored, shown)
    title = parent.info().name if parent else f"{len(scored)} runs compared"
    made, poster, duration_s, notes = write_compared_video(
        drawn,
        labels,
        title,
        notes + more_notes,
        directory,
        options,
        axis=axis,
        order=order,
        probe=probe,
        theme=theme,
        max_gb=max_gb,
        cache=cache,
        progress=progress,
    )
    charts, more_notes = write_charts([run.compared for run in drawn], labels, directory, theme)
    pictures = (poster, *charts)
    url = in_step = None
    if named and upload:
        # Asked for as late as possible: some trackers make the run that holds results about a
        # sweep.
        named = named if into else named.results_run()
        with _ended(named):
            for path in (*tables, *pictures):
                named.put_file(path, f"{NAME}/{path.name}")
            named.put_table(rows, NAME)
            url = named.put_video(
                made, layout=NAME, last_step=max(int(run.series.steps[-1]) for run in compared)
            )
            in_step = put_in_step_page(
                named, [run.run for run in drawn], labels, title=title, theme=theme
            )
            named.link_inputs([run.run.ref for run in scored])
    return CompareResult(
        video=made,
        pictures=pictures,
        tables=tables,
        rows=tuple(rows),
        correlations=tuple(found_correlations),
        notes=(*notes, *more_notes),
        shown=tuple(run.run.ref for run in drawn),
        duration_s=duration_s,
        url=url,
        in_step=in_step,
        ui_command=named.ui_command if named and url else None,
    )


def _checked(
    runs: Sequence[Any],
    sweep: Any,
    axis: str,
    order: str,
    shown: int,
    max_gb: float,
    theme: str,
    video: VideoOptions | Mapping[str, Any] | None,
) -> VideoOptions:
    """Everything that can be refused before anything is pulled."""
    from tracker_viz.rendering import resolve_theme

    if isinstance(runs, str | RunRef):
        raise ConfigError(
            "runs is a list, such as [mlflow:<id>, wandb:<entity>/<project>/<id>]; got "
            f"{str(runs)!r}"
        )
    if bool(runs) == bool(sweep):
        raise ConfigError(
            "give runs=[<run>, <run>, ...] or sweep=<parent run>, one of them; got "
            f"{'both' if runs else 'none'}"
        )
    if runs and len(runs) < 2:
        raise ConfigError(f"a comparison needs at least two runs; got {len(runs)}")
    if len({str(run) for run in runs}) < len(runs):
        raise ConfigError("every run may be given once; got " + ", ".join(map(str, runs)))
    if axis not in AXES:
        raise ConfigError(unknown_name("axis", str(axis), AXES))
    if order not in ORDERS:
        raise ConfigError(unknown_name("order", str(order), ORDERS))
    if not 2 <= shown <= MOST_SHOWN:
        raise ConfigError(f"shown is a number of runs, 2 to {MOST_SHOWN}; got {shown}")
    if not max_gb > 0:
        raise ConfigError(f"max_gb is a number of gigabytes above 0; got {max_gb:g}")
    resolve_theme(theme)
    options = VideoOptions.of(video)
    if options.interpolate or options.title_s:
        raise ConfigError(
            "a comparison shows real captures only, and has no title card: set video.interpolate=0 "
            "and video.title_s=0"
        )
    return options


def _check_probe(probe: str | int, rows: Sequence[str]) -> None:
    """``rows``: the labels of the probe's rows, empty where captures do not say them."""
    if rows and probe not in rows and probe not in range(len(rows)):
        raise ConfigError(
            f"probe is a row of the probe batch, by its label or its index: {', '.join(rows)}; got "
            f"{probe!r}"
        )


@contextlib.contextmanager
def _ended(run: Run) -> Iterator[None]:
    """End ``run`` if it is ours: made to hold the results. One that was there before stays as it
    is."""
    try:
        yield
    except BaseException:
        run.finish("failed")
        raise
    run.finish("finished")


def _by_label(note: str, labels: Mapping[str, str]) -> str:
    """A note names runs by their references; a reader knows them by their labels."""
    for name, label in labels.items():
        note = note.replace(name, label)
    return note
