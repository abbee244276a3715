"""``tv.compare``: show which roles the heads of several runs took, and when, as one video,
pictures, tables and sentences, and upload these to the parent run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracker_viz import notebook
from tracker_viz.comparison import (
    Axis,
    Correlation,
    SettingGroup,
    check_runs,
    first_few,
    in_order_of_settings,
)
from tracker_viz.errors import ConfigError
from tracker_viz.notebook import count
from tracker_viz.pipeline.comparing.comparison_files import NAME
from tracker_viz.pipeline.comparing.comparison_results import Places, put_results, write_results
from tracker_viz.pipeline.comparing.conclusions import conclude
from tracker_viz.pipeline.comparing.probes import row_index
from tracker_viz.pipeline.comparing.scored_runs import ScoredRun, score_runs
from tracker_viz.pipeline.load import TrackerOptions, open_run
from tracker_viz.pipeline.options import (
    DEFAULT_THEME,
    MOST_SHOWN,
    ComparisonAxis,
    ComparisonOptions,
    HeadOrder,
    ThemeName,
    VideoOptions,
)
from tracker_viz.pipeline.render import check_outputs
from tracker_viz.pipeline.showing import picture_markup
from tracker_viz.trackers import Run, cache_directory
from tracker_viz.types import RunRef

_MOST_LINES = 20  # of findings, and of notes, in a notebook


@dataclass(frozen=True, slots=True)
class CompareResult:
    """The result of a comparison. Path-like: it is the path of the video.

    Attributes:
        video, pictures, tables: files on this machine; ``pictures``: the video's last picture, the
            onsets, the distances, the heads' clusters; ``tables``: of runs, settings and tests, and
            the findings as text.
        axis: the axis that the runs were aligned on.
        rows: one per run, see ``comparison.run_table``.
        groups: one per setting, combining its seeds.
        correlations: of settings with outcomes, strongest first; empty with too few runs.
        findings: the findings in sentences.
        notes: caveats to read before comparing.
        shown: the runs that the video and the pictures show: all, or some of many.
        duration_s: of the video.
        url: where to watch the video; None if it was not uploaded.
        in_step: the page that plays the videos of all runs in sync, or None.
        ui_command: must be running for ``url`` to open; None if a server shows it already.
    """

    video: Path
    pictures: tuple[Path, ...]
    tables: tuple[Path, ...]
    axis: Axis
    rows: tuple[Mapping[str, Any], ...]
    groups: tuple[SettingGroup, ...]
    correlations: tuple[Correlation, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    shown: tuple[RunRef, ...]
    duration_s: float
    url: str | None
    in_step: str | None
    ui_command: str | None

    def __fspath__(self) -> str:
        return str(self.video)

    def __str__(self) -> str:
        return str(self.video)

    def __repr__(self) -> str:
        return f"CompareResult({str(self.video)!r}, {len(self.rows)} runs)"

    def _repr_html_(self) -> str:
        """Show the video, the findings and the caveats in a notebook: at most a megabyte."""
        in_step = ""
        if self.in_step:
            in_step = notebook.link(self.in_step, "the runs' own films, in step")
        files = ", ".join(path.name for path in (*self.pictures, *self.tables))
        return notebook.box(
            [
                picture_markup(self.video, url=self.url),
                in_step,
                notebook.lines(map(notebook.text, self.findings[:_MOST_LINES])),
                "Before you compare:" if self.notes else "",
                notebook.lines(map(notebook.text, self.notes[:_MOST_LINES])),
                f"beside the video: {notebook.text(files)}",
            ]
        )


def compare(
    runs: Sequence[RunRef | str] = (),
    *,
    sweep: RunRef | str | None = None,
    axis: ComparisonAxis = "auto",
    order: HeadOrder = "index",
    probe: str | int = 0,
    into: RunRef | str | None = None,
    shown: int = MOST_SHOWN,
    max_gb: float = 50.0,
    theme: ThemeName = DEFAULT_THEME,
    video: VideoOptions | Mapping[str, Any] | None = None,
    upload: bool = True,
    output: str | Path | None = None,
    cache: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    progress: bool = True,
) -> CompareResult:
    """Show side by side which roles the heads of several runs took, and when, as ``tracker-viz
    compare`` does.

    The runs may come from one tracker or from several.

    Args:
        runs: two or more, in the order in which they are shown; in matched order the heads of the
            first run define the columns.
        sweep: instead of ``runs``, the parent run of a sweep; its runs are sorted by the settings
            that differ.
        into: the run that gets the results; None: the run where the tracker shows results of a
            sweep (its parent, or a run of its group), else none.
        axis, order, probe, shown, max_gb, theme, upload, output, cache: see ``ComparisonOptions``.
        video: see ``VideoOptions``; a mapping of some of them, or all.
        tracker_options: tracker -> options of its adapter, e.g. ``{"mlflow": {"tracking_uri":
            ...}}``.
        progress: show progress on standard error.

    Returns:
        The result. It is path-like: ``open(tv.compare(runs), "rb")`` opens the video.

    Raises:
        ConfigError: an option has an invalid value, there are fewer than two runs, a run has no
            captures, or the runs were captured on different probes.
        RunNotFoundError, TrackerError: a run cannot be read, or ``into`` cannot be written.
        LayoutError: too many runs to fit into the picture.
    """
    options = ComparisonOptions(
        axis=axis,
        order=order,
        probe=probe,
        shown=shown,
        max_gb=max_gb,
        theme=theme,
        upload=upload,
        output=output,
        cache=cache,
        video=video,
    )
    _check_inputs(runs, sweep)
    parent = open_run(sweep, tracker_options) if sweep else None
    target = open_run(into, tracker_options) if into else parent
    directory = _directory(options, target)

    scored, notes = _read_runs(runs, parent, options, tracker_options, progress=progress)
    title = parent.info().name if parent else f"{len(scored)} runs compared"
    found = conclude(scored, options, title=title, notes=notes)
    files = write_results(found, directory, options, progress=progress)

    places = Places()
    if target and options.upload:
        if not into:
            # Some trackers make the run that holds results about a sweep: as late as possible.
            target = target.results_run()
        places = put_results(target, found, files, options.theme)
    return CompareResult(
        video=files.video,
        pictures=files.pictures,
        tables=files.tables,
        axis=found.axis,
        rows=tuple(found.rows),
        groups=tuple(found.groups),
        correlations=tuple(found.correlations),
        findings=files.findings,
        notes=files.notes,
        shown=tuple(run.run.ref for run in found.drawn),
        duration_s=files.duration_s,
        url=places.url,
        in_step=places.in_step,
        ui_command=places.ui_command,
    )


def _check_inputs(runs: Sequence[Any], sweep: Any) -> None:
    """Refuse wrong arguments before anything is read."""
    if isinstance(runs, str | RunRef):
        raise ConfigError(
            "runs must be a list, such as [mlflow:<id>, "
            f"wandb:<entity>/<project>/<id>]; got {str(runs)!r}"
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


def _directory(options: ComparisonOptions, target: Run | None) -> Path:
    """Return the directory of the files, once it is certain that the video can be written there."""
    from tracker_viz.video import video_path

    directory = Path(NAME)
    if options.output is not None:
        directory = options.output
    elif target is not None:
        directory = cache_directory(target.ref, options.cache) / NAME
    path = video_path(directory / NAME, options.video.encoder)
    check_outputs(["video"], [path], options.video)
    return directory


def _read_runs(
    runs: Sequence[RunRef | str],
    parent: Run | None,
    options: ComparisonOptions,
    tracker_options: TrackerOptions | None,
    *,
    progress: bool,
) -> tuple[list[ScoredRun], list[str]]:
    """Return the runs with their scores, those of a sweep in the order of their settings, and notes
    on those that are left out."""
    refs = [RunRef.parse(run) if isinstance(run, str) else run for run in runs]
    if parent:
        refs = parent.children()
        if len(refs) < 2:
            raise ConfigError(
                f"{parent.ref} has {count(len(refs), 'run')} below it; a comparison needs at "
                "least two: is it the parent run of a sweep?"
            )
    scored, notes = score_runs(
        refs,
        cache=options.cache,
        may_lack=bool(parent),
        tracker_options=tracker_options,
        progress=progress,
    )
    compared = [run.compared for run in scored]
    only_mixing = [run.name for run in compared if run.series.mixers and not run.series.heads]
    if only_mixing:
        raise ConfigError(
            f"{first_few(only_mixing)} has no attention, so there are no heads to compare; "
            "steps=[0,null] ranks what changed in its mixing maps"
        )
    check_runs(compared)
    if parent:
        by_name = {run.compared.name: run for run in scored}
        scored = [by_name[run.name] for run in in_order_of_settings(compared)]
    rows = scored[0].rows
    # Captures may lack the labels.
    if rows:
        row_index(options.probe, rows, len(rows))
    return scored, notes
