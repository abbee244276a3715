"""Write everything that a comparison makes on this machine, and put it into a run. Called by
``compare``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracker_viz.comparison import (
    axis_note,
    findings_text,
    group_table,
    run_labels,
    write_file,
)
from tracker_viz.pipeline.comparing.compared_experts import compare_experts
from tracker_viz.pipeline.comparing.compared_mixers import compare_mixers
from tracker_viz.pipeline.comparing.comparison_files import (
    NAME,
    write_charts,
    write_compared_video,
    write_tables,
)
from tracker_viz.pipeline.comparing.conclusions import Conclusions
from tracker_viz.pipeline.options import ComparisonOptions, ThemeName
from tracker_viz.pipeline.results.in_step import put_in_step_page
from tracker_viz.trackers import Run


@dataclass(frozen=True, slots=True)
class ComparisonFiles:
    """The files of a comparison on this machine, with its findings and notes.

    Attributes:
        pictures: the video's last picture first.
        duration_s: of the video.
    """

    video: Path
    pictures: tuple[Path, ...]
    tables: tuple[Path, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    duration_s: float


@dataclass(frozen=True, slots=True)
class Places:
    """The links to the results in a run; all None where they were put into no run.

    Attributes:
        url: of the video.
        in_step: of the page that plays the runs' own videos in step, or None.
        ui_command: must be running for ``url`` to open; None if a server shows it already.
    """

    url: str | None = None
    in_step: str | None = None
    ui_command: str | None = None


def write_results(
    found: Conclusions, directory: Path, options: ComparisonOptions, *, progress: bool
) -> ComparisonFiles:
    """Draw the runs, and write the video, the pictures, the tables and the findings."""
    drawn, labels, axis = found.drawn, found.labels, found.axis
    video = write_compared_video(found, directory, options, progress=progress)
    charts = write_charts(found, directory, options)
    experts = compare_experts(drawn, labels, directory, options.cache)
    mixers = compare_mixers(drawn, labels, directory, axis=axis, theme=options.theme)
    tables = write_tables(found.rows, found.groups, found.correlations, directory)

    how_aligned = axis_note(axis, chosen=options.axis == "auto")
    notes = (how_aligned, *video.notes, *charts.notes, *experts.notes)
    findings = (*found.sentences, charts.finding, *experts.findings, *mixers.findings)
    text = findings_text(found.title, findings, notes)
    findings_file = write_file(text.encode(), directory / "findings.md")
    return ComparisonFiles(
        video=video.path,
        pictures=(video.poster, *charts.paths, *mixers.pictures),
        tables=(*tables, *experts.paths, *mixers.tables, findings_file),
        findings=findings,
        notes=notes,
        duration_s=video.duration_s,
    )


def put_results(
    target: Run, found: Conclusions, files: ComparisonFiles, theme: ThemeName
) -> Places:
    """Put everything into ``target``, with a page that plays the runs' own videos in step. A run
    that was created for these results is ended."""
    with _ended(target):
        for path in (*files.tables, *files.pictures):
            target.put_file(path, f"{NAME}/{path.name}")
        target.put_table(found.rows, NAME)
        if len(found.groups) > 1:
            target.put_table(group_table(found.groups), f"{NAME}_settings")
        last_step = max(int(run.compared.series.steps[-1]) for run in found.runs)
        url = target.put_video(files.video, layout=NAME, last_step=last_step)
        target.link_inputs([run.run.ref for run in found.runs])
        in_step = put_in_step_page(
            target,
            [run.run for run in found.drawn],
            run_labels([run.compared for run in found.runs]),
            title=found.title,
            theme=theme,
            findings=files.findings,
        )
        return Places(url, in_step, target.ui_command)


@contextlib.contextmanager
def _ended(run: Run) -> Iterator[None]:
    """End ``run`` if we created it to hold the results. An existing one stays as it is."""
    try:
        yield
    except BaseException:
        run.finish("failed")
        raise
    run.finish("finished")
