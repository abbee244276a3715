"""Write the files of a comparison on this machine: tables, the video of all runs, and charts of the
onsets, the distances and the heads' clusters. Called by ``compare``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracker_viz.comparison import (
    SIGNIFICANT,
    Axis,
    ComparedRun,
    Correlation,
    SettingGroup,
    cluster_heads,
    correlation_table,
    distance_matrix,
    distance_sentence,
    first_few,
    formed_roles,
    group_table,
    settings_of,
    times_text,
    write_table,
)
from tracker_viz.errors import MissingDependencyError
from tracker_viz.metrics import NO_ROLE, ROLES, head_roles
from tracker_viz.pipeline.comparing.compared_runs import drawn_runs
from tracker_viz.pipeline.comparing.conclusions import Conclusions
from tracker_viz.pipeline.comparing.probes import row_label
from tracker_viz.pipeline.options import ComparisonOptions
from tracker_viz.progress import progress_bar

if TYPE_CHECKING:
    from tracker_viz.rendering import OnsetRow

NAME = "compare"
_KEY = "0: the same heads, in any order; 1: unrelated ones; *: more alike than 95 % of shuffles."


@dataclass(frozen=True, slots=True)
class ComparedVideo:
    """The video, its last picture, and notes for the user."""

    path: Path
    poster: Path
    duration_s: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Charts:
    """The pictures of onsets, distances and clusters, the distances in words, and notes for the
    user."""

    paths: tuple[Path, ...]
    finding: str
    notes: tuple[str, ...]


def write_tables(
    rows: Sequence[Mapping[str, Any]],
    groups: Sequence[SettingGroup],
    found: Sequence[Correlation],
    directory: Path,
) -> tuple[Path, ...]:
    """Write the tables of runs, settings and tests."""
    directory.mkdir(parents=True, exist_ok=True)
    tables = [write_table(rows, directory / "runs.csv")]
    # The CSV holds the same, and nothing else here needs pyarrow.
    with contextlib.suppress(MissingDependencyError):
        tables.append(write_table(rows, directory / "runs.parquet"))
    tables.append(write_table(group_table(groups), directory / "settings.csv"))
    if found:
        tables.append(write_table(correlation_table(found), directory / "correlations.csv"))
    return tuple(tables)


def write_compared_video(
    found: Conclusions, directory: Path, options: ComparisonOptions, *, progress: bool
) -> ComparedVideo:
    """Draw the video of all runs. Its notes are those of ``found``, which it shows below the
    caption, and those on the captures that it draws."""
    from tracker_viz.rendering import (
        Attention,
        Layout,
        Renderer,
        Subject,
        storyboard,
        write_last_picture,
    )
    from tracker_viz.video import video_path, write_video

    runs = found.drawn
    drawn, timing, more_notes = drawn_runs(
        runs, found.labels, options, axis=found.axis, progress=progress
    )
    notes = (*found.notes, *more_notes)
    ordered = "in matched order" if options.order == "matched" else "by index"
    shown_row = row_label(options.probe, runs[0].rows)
    subject = Subject(
        tuple(drawn),
        timing,
        title=found.title,
        subtitle=f"attention on {shown_row} tokens · heads {ordered} · {len(runs)} runs",
        # The lists in brackets are for the terminal.
        note=" ".join(re.sub(r" \([^)]*\)", "", note) for note in notes),
        is_matched=options.order == "matched",
    )
    layout = Layout(name=NAME, panels=(Attention(probe=options.probe),))
    renderer = Renderer(subject, layout, size=options.video.size, theme=options.theme)
    # The pace is that of the longest run's steps, whatever the axis counts.
    longest = max(float(run.compared.series.steps[-1]) for run in runs)
    scale = longest if found.axis == "progress" else 1.0
    pacing = options.video.pacing()
    pacing["title_s"] = 0.0  # a comparison has no title card
    shots = storyboard((timing.points * scale).tolist(), story=renderer.plan.story, **pacing)
    with progress_bar("drawing", "frames", shown=progress) as advance:
        written = write_video(
            len(shots),
            renderer.film(shots),
            video_path(directory / NAME, options.video.encoder),
            duration_s=[shot.duration_s for shot in shots],
            encoder=options.video.encoder,
            workers=options.video.workers,
            progress=advance,
            max_bytes=options.video.max_mb << 20,
        )
    poster = write_last_picture(renderer, directory / "poster.png")
    return ComparedVideo(written.path, poster, written.duration_s, notes)


def write_charts(found: Conclusions, directory: Path, options: ComparisonOptions) -> Charts:
    """Draw when the roles were formed in all runs; and of the drawn ones, how far they are from
    each other, and all heads grouped by what they did."""
    from tracker_viz.rendering import write_distance_chart, write_onset_chart

    runs, axis = [run.compared for run in found.drawn], found.axis
    paths = []
    panels = _onset_panels(found.groups, axis)
    if panels:
        paths.append(write_onset_chart(directory / "onsets.png", panels, axis, theme=options.theme))

    distances = distance_matrix(runs, axis=axis)
    finding = distance_sentence(distances, settings_of(runs))
    path = write_distance_chart(
        directory / "distances.png",
        [found.labels[name] for name in distances.names],
        distances.overall,
        distances.shares,
        distances.shares_by_depth,
        distances.percentile < SIGNIFICANT,
        caption=f"{finding} {_KEY}",
        theme=options.theme,
    )
    paths.append(path)

    path, notes = _write_clusters(runs, found.labels, directory, options, axis)
    return Charts((*paths, path), finding, tuple(notes))


def _write_clusters(
    runs: Sequence[ComparedRun],
    labels: Mapping[str, str],
    directory: Path,
    options: ComparisonOptions,
    axis: Axis,
) -> tuple[Path, list[str]]:
    """Draw all heads grouped by what they did; return the file, and notes on heads left out."""
    from tracker_viz.rendering import write_cluster_chart

    clusters = cluster_heads(runs, axis=axis)
    at_end = {run.name: head_roles(run.series)[0][-1] for run in runs}
    roles: list[str | None] = []
    for name, head in zip(clusters.runs, clusters.heads, strict=True):
        role = at_end[name][head]
        roles.append(None if role == NO_ROLE else ROLES[role].name)
    path = write_cluster_chart(
        directory / "heads.png",
        clusters.values,
        clusters.linkage,
        clusters.labels,
        [labels[name] for name in clusters.runs],
        clusters.scores,
        roles=roles,
        theme=options.theme,
    )

    notes = []
    kept = [run for run in runs if run.name not in clusters.left_out]
    if clusters.left_out:
        ended = first_few([labels[name] for name in clusters.left_out])
        notes.append(f"heads.png leaves out runs that ended early: {ended}.")
    score = clusters.scores[0]
    n_heads = sum(int(np.isfinite(run.series.heads[score][-1]).sum()) for run in kept)
    if len(clusters.heads) < n_heads:
        notes.append(
            f"heads.png groups {len(clusters.heads):,} of the {n_heads:,} heads, the most "
            "specialized of each run."
        )
    return path, notes


def _onset_panels(groups: Sequence[SettingGroup], axis: Axis) -> dict[str, list[OnsetRow]]:
    """Return role -> a row for each setting, for the roles that any run formed."""
    from tracker_viz.rendering import OnsetRow, OnsetSpan

    panels: dict[str, list[OnsetRow]] = {}
    for role in formed_roles(groups):
        panels[role] = []
        for group in groups:
            if role not in group.times:
                continue
            times = group.times[role]
            spans = [OnsetSpan(each.after, each.at, each.near_line) for each in group.onsets[role]]
            row = OnsetRow(
                label=group.label,
                spans=tuple(spans),
                median=times.median,
                low=times.median_low,
                high=times.median_high,
                summary=times_text(times, axis),
            )
            panels[role].append(row)
    return panels
