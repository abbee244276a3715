"""``tv.compare``: show which roles the heads of several runs took, and when, as one video,
pictures, tables and sentences, and upload these to the parent run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracker_viz import notebook
from tracker_viz.comparison import (
    Axis,
    Correlation,
    SettingGroup,
    all_runs,
    axis_note,
    check_runs,
    comparability_notes,
    comparable_axis,
    correlations,
    findings_text,
    first_few,
    group_sentences,
    group_table,
    in_order_of_settings,
    positions,
    run_labels,
    run_table,
    setting_groups,
    short_runs_note,
    strongest_sentence,
    write_file,
)
from tracker_viz.errors import ConfigError
from tracker_viz.pipeline.comparing.compared_experts import compare_experts
from tracker_viz.pipeline.comparing.compared_mixers import compare_mixers
from tracker_viz.pipeline.comparing.compared_runs import check_probes, chosen_runs
from tracker_viz.pipeline.comparing.comparison_files import (
    NAME,
    Charts,
    ComparedVideo,
    write_charts,
    write_compared_video,
    write_tables,
)
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
from tracker_viz.pipeline.results.in_step import put_in_step_page
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


@dataclass(frozen=True, slots=True)
class _Conclusions:
    """The conclusions from the numbers of all runs, before anything is drawn.

    Attributes:
        labels: run name -> its label.
    """

    axis: Axis
    labels: Mapping[str, str]
    rows: list[dict[str, Any]]
    groups: list[SettingGroup]
    correlations: list[Correlation]
    sentences: list[str]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of a comparison on this machine, with its findings and notes."""

    video: ComparedVideo
    charts: Charts
    tables: tuple[Path, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Places:
    """The links to the results in a run; all None where they were put into no run."""

    url: str | None = None
    in_step: str | None = None
    ui_command: str | None = None


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
    found = _conclude(scored, options.axis, notes)
    title = parent.info().name if parent else f"{len(scored)} runs compared"
    drawn, notes_on_drawn = chosen_runs(scored, options.shown)
    found.notes.extend(notes_on_drawn)
    files = _make_files(drawn, found, directory, options, title=title, progress=progress)

    places = _Places()
    if target and options.upload:
        if not into:
            # Some trackers make the run that holds results about a sweep: as late as possible.
            target = target.results_run()
        with _ended(target):
            places = _put_results(target, found, files, scored, drawn, title, options.theme)
    return CompareResult(
        video=files.video.path,
        pictures=(files.video.poster, *files.charts.paths),
        tables=files.tables,
        axis=found.axis,
        rows=tuple(found.rows),
        groups=tuple(found.groups),
        correlations=tuple(found.correlations),
        findings=files.findings,
        notes=files.notes,
        shown=tuple(run.run.ref for run in drawn),
        duration_s=files.video.duration_s,
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
                f"{parent.ref} has {len(refs)} runs below it; a comparison needs at least two: is "
                "it the parent run of a sweep?"
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
    _check_probe_row(options.probe, scored[0].rows)
    return scored, notes


def _check_probe_row(probe: str | int, rows: Sequence[str]) -> None:
    """``rows``: labels of the probe's rows, empty where captures do not hold them."""
    if rows and probe not in rows and probe not in range(len(rows)):
        raise ConfigError(
            f"probe is a row of the probe batch, by its label or its index: {', '.join(rows)}; got "
            f"{probe!r}"
        )


def _notes(scored: Sequence[ScoredRun], labels: Mapping[str, str], axis: Axis) -> list[str]:
    """Return the caveats of the comparison."""
    compared = [run.compared for run in scored]
    ends = {run.name: float(positions(run.series, axis)[-1]) for run in compared}
    notes = check_probes(scored, labels)
    notes += [_by_label(note, labels) for note in comparability_notes(compared)]
    short = short_runs_note(labels, ends, axis)
    if short:
        notes.append(short)
    return notes


def _conclude(
    scored: Sequence[ScoredRun], asked_axis: ComparisonAxis, notes: Sequence[str]
) -> _Conclusions:
    compared = [run.compared for run in scored]
    axis = comparable_axis(compared) if asked_axis == "auto" else asked_axis
    labels = run_labels(compared, short=True)
    rows = run_table(compared)
    groups = setting_groups(compared, axis=axis)
    found = correlations(compared, rows, axis=axis)
    together = all_runs(compared, axis=axis)
    sentences = group_sentences(groups, together, axis)
    sentences.append(strongest_sentence(found, len(compared)))
    return _Conclusions(
        axis=axis,
        labels=labels,
        rows=rows,
        groups=groups,
        correlations=found,
        sentences=sentences,
        notes=[*notes, *_notes(scored, labels, axis)],
    )


def _make_files(
    drawn: Sequence[ScoredRun],
    found: _Conclusions,
    directory: Path,
    options: ComparisonOptions,
    *,
    title: str,
    progress: bool,
) -> _Files:
    """Draw the runs, and write the video, the pictures, the tables and the findings."""
    video = write_compared_video(
        drawn,
        found.labels,
        directory,
        options,
        axis=found.axis,
        title=title,
        notes=found.notes,
        progress=progress,
    )
    compared = [run.compared for run in drawn]
    charts = write_charts(compared, found.labels, found.groups, directory, options, axis=found.axis)
    experts = compare_experts(drawn, found.labels, directory, options.cache)
    mixers = compare_mixers(drawn, found.labels, directory, axis=found.axis, theme=options.theme)
    how = axis_note(found.axis, chosen=options.axis == "auto")
    notes = (how, *video.notes, *charts.notes, *experts.notes)
    findings = (*found.sentences, charts.finding, *experts.findings, *mixers.findings)
    tables = write_tables(found.rows, found.groups, found.correlations, directory)
    tables = (*tables, *experts.paths, *mixers.tables)
    charts = replace(charts, paths=(*charts.paths, *mixers.pictures))
    text = findings_text(title, findings, notes)
    findings_file = write_file(text.encode(), directory / "findings.md")
    return _Files(video, charts, (*tables, findings_file), findings, notes)


def _put_results(
    target: Run,
    found: _Conclusions,
    files: _Files,
    scored: Sequence[ScoredRun],
    drawn: Sequence[ScoredRun],
    title: str,
    theme: ThemeName,
) -> _Places:
    """Put everything into ``target``, with a page that plays the runs' own videos in step."""
    for path in (*files.tables, files.video.poster, *files.charts.paths):
        target.put_file(path, f"{NAME}/{path.name}")
    target.put_table(found.rows, NAME)
    if len(found.groups) > 1:
        target.put_table(group_table(found.groups), f"{NAME}_settings")
    last_step = max(int(run.compared.series.steps[-1]) for run in scored)
    url = target.put_video(files.video.path, layout=NAME, last_step=last_step)
    target.link_inputs([run.run.ref for run in scored])
    in_step = put_in_step_page(
        target,
        [run.run for run in drawn],
        run_labels([run.compared for run in scored]),
        title=title,
        theme=theme,
        findings=files.findings,
    )
    return _Places(url, in_step, target.ui_command)


@contextlib.contextmanager
def _ended(run: Run) -> Iterator[None]:
    """End ``run`` if we created it to hold the results. An existing one stays as it is."""
    try:
        yield
    except BaseException:
        run.finish("failed")
        raise
    run.finish("finished")


def _by_label(note: str, labels: Mapping[str, str]) -> str:
    """Replace the references in a note by the labels that readers know the runs by."""
    for name, label in labels.items():
        note = note.replace(name, label)
    return note
